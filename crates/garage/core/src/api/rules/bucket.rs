//! Bounds and CEL rules of GarageBucket.

use serde_json::json;

use super::{Rules, quantity};

pub(in crate::api) fn bucket() -> Rules {
    let mut rules = Rules::default();
    rules.fixed_cluster_ref("GarageBucket");
    aliases(&mut rules);
    rules.rule(
        "spec.quotas.maxSize",
        format!("{}.compareTo(quantity('0')) >= 0", quantity("self")),
        "quotas.maxSize cannot be negative",
    );
    rules.rule(
        "spec.quotas.maxObjects",
        "self >= 0",
        "quotas.maxObjects cannot be negative",
    );
    rules.bound(
        "spec.website.indexDocument",
        json!({ "minLength": 1, "maxLength": 1024 }),
    );
    rules.bound(
        "spec.website.errorDocument",
        json!({ "minLength": 1, "maxLength": 1024 }),
    );
    key_permissions(&mut rules);
    lifecycle(&mut rules);
    cors(&mut rules);
    rules
}

/// CEL: the conditions that Garage itself puts on the name of a bucket, with a sentence for each.
fn alias_conditions(alias: &str) -> [(String, &'static str); 3] {
    [
        (
            format!("size({alias}) <= 63 && {alias}.matches('^[a-z0-9][a-z0-9.-]+[a-z0-9]$')"),
            "must have 3 to 63 characters: lower case letters, digits, '.' and '-', with a letter or digit at both ends",
        ),
        (format!("!isIP({alias})"), "cannot be an IP address"),
        (
            format!("!{alias}.endsWith('-s3alias')"),
            "cannot end with -s3alias, which S3 reserves",
        ),
    ]
}

fn aliases(rules: &mut Rules) {
    for (condition, sentence) in alias_conditions("self.metadata.name") {
        rules.rule(
            "",
            format!("has(self.spec.globalAlias) || ({condition})"),
            &format!("metadata.name is the name of the bucket, because globalAlias is absent, and {sentence}"),
        );
    }
    rules.bound("spec.globalAlias", json!({ "maxLength": 63 }));
    rules.bound("spec.localAliases", json!({ "maxItems": 100 }));
    rules.bound("spec.localAliases[].alias", json!({ "maxLength": 63 }));
    rules.bound(
        "spec.localAliases[].keyRef",
        json!({ "minLength": 1, "maxLength": 253 }),
    );
    for (condition, sentence) in alias_conditions("self") {
        rules.rule(
            "spec.globalAlias",
            condition.clone(),
            &format!("globalAlias {sentence}"),
        );
        rules.rule(
            "spec.localAliases[].alias",
            condition,
            &format!("a local alias {sentence}"),
        );
    }
    rules.rule(
        "spec.localAliases",
        "self.all(one, self.exists_one(other, other.keyRef == one.keyRef && other.alias == one.alias))",
        "localAliases names the same alias of the same key twice",
    );
}

fn key_permissions(rules: &mut Rules) {
    rules.bound("spec.keyPermissions", json!({ "maxItems": 100 }));
    rules.bound(
        "spec.keyPermissions[].keyRef",
        json!({ "minLength": 1, "maxLength": 253 }),
    );
    rules.rule(
        "spec.keyPermissions[]",
        "(has(self.read) && self.read) || (has(self.write) && self.write) || (has(self.owner) && self.owner)",
        "a key permission needs at least one of read, write and owner",
    );
    rules.rule(
        "spec.keyPermissions",
        "self.all(one, self.exists_one(other, other.keyRef == one.keyRef))",
        "keyPermissions names the same key twice",
    );
}

fn lifecycle(rules: &mut Rules) {
    let list = "spec.lifecycle.rules";
    rules.bound(list, json!({ "maxItems": 100 }));
    rules.bound(
        "spec.lifecycle.rules[].id",
        json!({ "minLength": 1, "maxLength": 255 }),
    );
    rules.bound(
        "spec.lifecycle.rules[].filter.prefix",
        json!({ "maxLength": 1024 }),
    );
    rules.bound(
        "spec.lifecycle.rules[].expiration.date",
        json!({ "maxLength": 32 }),
    );
    rules.rule(
        list,
        "self.all(one, self.exists_one(other, other.id == one.id))",
        "lifecycle.rules has two rules with the same id",
    );
    rules.rule(
        "spec.lifecycle.rules[]",
        "has(self.expiration) || has(self.abortIncompleteMultipartUpload)",
        "a lifecycle rule needs an action: expiration or abortIncompleteMultipartUpload",
    );
    rules.rule(
        "spec.lifecycle.rules[].expiration",
        "has(self.days) != has(self.date)",
        "the expiration of a lifecycle rule needs either days or date",
    );
    rules.rule(
        "spec.lifecycle.rules[].expiration.date",
        "self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}(T00:00:00([.]0+)?Z)?$')",
        "the date of a lifecycle rule must be a day, or midnight in UTC: 2027-01-31 or 2027-01-31T00:00:00Z",
    );
    rules.rule(
        "spec.lifecycle.rules[].filter",
        "!(has(self.objectSizeGreaterThan) && has(self.objectSizeLessThan)) || self.objectSizeGreaterThan < self.objectSizeLessThan",
        "objectSizeGreaterThan must be below objectSizeLessThan: no object would match",
    );
}

fn cors(rules: &mut Rules) {
    rules.bound("spec.cors", json!({ "maxItems": 100 }));
    rules.bound(
        "spec.cors[].id",
        json!({ "minLength": 1, "maxLength": 255 }),
    );
    for list in [
        "allowedOrigins",
        "allowedMethods",
        "allowedHeaders",
        "exposeHeaders",
    ] {
        rules.bound(&format!("spec.cors[].{list}"), json!({ "maxItems": 100 }));
        rules.bound(
            &format!("spec.cors[].{list}[]"),
            json!({ "minLength": 1, "maxLength": 255 }),
        );
    }
    rules.bound("spec.cors[].allowedOrigins", json!({ "minItems": 1 }));
    rules.bound(
        "spec.cors[].allowedMethods",
        json!({ "minItems": 1, "maxItems": 5 }),
    );
    rules.bound(
        "spec.cors[].allowedMethods[]",
        json!({ "enum": ["GET", "PUT", "POST", "DELETE", "HEAD"] }),
    );
}
