//! Bounds and CEL rules of GarageKey.

use serde_json::json;

use super::Rules;
use crate::api::names::{PREFIX, RESERVED_LABEL_PREFIXES};

pub(in crate::api) fn key() -> Rules {
    let mut rules = Rules::default();
    rules.fixed_cluster_ref("GarageKey");
    rules.bound("spec.name", json!({ "minLength": 1, "maxLength": 255 }));
    rules.expiry();
    bucket_permissions(&mut rules);
    import(&mut rules);
    rotation(&mut rules);
    secret(&mut rules);
    rules
}

fn bucket_permissions(rules: &mut Rules) {
    let list = "spec.bucketPermissions";
    let entry = "spec.bucketPermissions[]";
    rules.bound(list, json!({ "maxItems": 100 }));
    rules.bound(
        "spec.bucketPermissions[].bucketRef",
        json!({ "minLength": 1, "maxLength": 253 }),
    );
    rules.bound(
        "spec.bucketPermissions[].bucketId",
        json!({ "maxLength": 64, "pattern": "^[0-9a-f]{64}$" }),
    );
    rules.bound(
        "spec.bucketPermissions[].globalAlias",
        json!({ "minLength": 1, "maxLength": 63 }),
    );
    rules.rule(
        entry,
        "[has(self.bucketRef), has(self.bucketId), has(self.globalAlias)].exists_one(given, given)",
        "a bucket permission needs exactly one of bucketRef, bucketId and globalAlias",
    );
    rules.rule(
        entry,
        "(has(self.read) && self.read) || (has(self.write) && self.write) || (has(self.owner) && self.owner)",
        "a bucket permission needs at least one of read, write and owner",
    );
    for field in ["bucketRef", "bucketId", "globalAlias"] {
        rules.rule(
            list,
            format!(
                "self.all(one, !has(one.{field}) || self.exists_one(other, has(other.{field}) && other.{field} == one.{field}))"
            ),
            &format!("bucketPermissions names the same {field} twice"),
        );
    }
}

fn import(rules: &mut Rules) {
    rules.bound("spec.importKey.accessKeyId", json!({ "maxLength": 128 }));
    rules.bound(
        "spec.importKey.secretAccessKey",
        json!({ "maxLength": 256 }),
    );
    rules.bound("spec.importKey.secretRef.name", json!({ "maxLength": 253 }));
    rules.bound(
        "spec.importKey.secretRef.namespace",
        json!({ "maxLength": 63 }),
    );
    rules.rule(
        "spec.importKey",
        "has(self.secretRef) ? !has(self.accessKeyId) && !has(self.secretAccessKey) : has(self.accessKeyId) && has(self.secretAccessKey)",
        "importKey needs either secretRef, or accessKeyId and secretAccessKey",
    );
    rules.rule(
        "spec.importKey.secretRef",
        "has(self.name) && size(self.name) > 0",
        "importKey.secretRef needs the name of a Secret",
    );
    rules.rule(
        "spec.importKey.accessKeyId",
        "self.matches('^[A-Za-z0-9_.-]{8,}$')",
        "importKey.accessKeyId must have at least 8 letters, digits, '-', '_' or '.'",
    );
    rules.rule(
        "spec.importKey.secretAccessKey",
        "size(self) >= 16",
        "importKey.secretAccessKey must have at least 16 characters",
    );
    rules.rule(
        "spec",
        "has(self.importKey) == has(oldSelf.importKey) && (!has(self.importKey) || self.importKey == oldSelf.importKey)",
        "importKey is immutable: create another GarageKey for other key material",
    );
}

fn rotation(rules: &mut Rules) {
    rules.rule(
        "spec",
        "!(has(self.rotation) && has(self.importKey))",
        "rotation and importKey are mutually exclusive: imported key material is replaced by whoever made it",
    );
    for field in ["interval", "overlap"] {
        rules.bound(
            &format!("spec.rotation.{field}"),
            json!({ "maxLength": 32 }),
        );
        rules.rule(
            &format!("spec.rotation.{field}"),
            "self.matches('^([0-9]{1,6}h)?([0-9]{1,8}m)?([0-9]{1,9}s)?$') && size(self) > 0",
            &format!("rotation.{field} must be a duration of hours, minutes and seconds, for example 720h or 1h30m"),
        );
    }
    rules.rule(
        "spec.rotation.interval",
        "!self.matches('^([0-9]{1,6}h)?([0-9]{1,8}m)?([0-9]{1,9}s)?$') || size(self) == 0 || duration(self) >= duration('1m')",
        "rotation.interval must be at least 1m",
    );
    rules.rule(
        "spec.rotation",
        "!has(self.overlap) || !self.overlap.matches('^[0-9hms]+$') || !self.interval.matches('^[0-9hms]+$') || duration(self.overlap) < duration(self.interval)",
        "rotation.overlap must be shorter than rotation.interval: at most two keys are valid at a time",
    );
}

fn secret(rules: &mut Rules) {
    let template = "spec.secretTemplate";
    rules.bound(
        "spec.secretTemplate.name",
        json!({ "minLength": 1, "maxLength": 253 }),
    );
    rules.bound("spec.secretTemplate.namespace", json!({ "maxLength": 63 }));
    rules.bound(
        "spec.secretTemplate.type",
        json!({ "minLength": 1, "maxLength": 253 }),
    );
    rules.user_labels("spec.secretTemplate.labels", &RESERVED_LABEL_PREFIXES);
    rules.user_labels("spec.secretTemplate.annotations", &[PREFIX]);
    let keys = [
        "accessKeyIdKey",
        "secretAccessKeyKey",
        "endpointKey",
        "regionKey",
        "bucketKey",
    ];
    for key in keys {
        rules.secret_key(&format!("spec.secretTemplate.{key}"));
    }
    rules.bound(
        "spec.secretTemplate.additionalData",
        json!({ "maxProperties": 64 }),
    );
    let all = keys.map(|key| format!("self.{key}")).join(", ");
    rules.rule(
        template,
        format!("[{all}].all(key, [{all}].exists_one(other, other == key))"),
        "accessKeyIdKey, secretAccessKeyKey, endpointKey, regionKey and bucketKey of secretTemplate must all differ",
    );
    rules.rule(
        template,
        format!("!has(self.additionalData) || ![{all}].exists(key, key in self.additionalData)"),
        "secretTemplate.additionalData may not have the keys that the operator writes",
    );
    rules.rule(
        "spec.secretTemplate.additionalData",
        "self.all(key, key.matches('^[-._a-zA-Z0-9]{1,253}$'))",
        "secretTemplate.additionalData must have keys of letters, digits, '-', '_' and '.'",
    );
}
