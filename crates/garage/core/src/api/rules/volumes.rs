//! Bounds and CEL rules of the volumes of a GarageCluster: what exists cannot be made otherwise.

use serde_json::json;

use super::{Rules, positive, quantity, same};

/// The metadata volume when `storage.metadata` is absent.
const DEFAULT_METADATA_SIZE: &str = "10Gi";

pub(super) fn volumes(rules: &mut Rules) {
    rules.rule(
        "spec",
        "!has(oldSelf.storage) || has(self.storage)",
        "storage cannot be removed: the volumes hold the data",
    );
    rules.rule(
        "spec.storage",
        "!has(oldSelf.metadata) || has(self.metadata)",
        "storage.metadata cannot be removed: the claims exist",
    );
    rules.rule(
        "spec.storage",
        format!(
            "has(oldSelf.metadata) || !has(self.metadata) || ({}.compareTo(quantity('{DEFAULT_METADATA_SIZE}')) >= 0 && \
             !has(self.metadata.storageClassName) && !has(self.metadata.accessModes) && !has(self.metadata.selector) && \
             !has(self.metadata.volumeClaimTemplateSpec))",
            quantity("self.metadata.size")
        ),
        "storage.metadata can be added later with a size of at least 10Gi only, without storageClassName, accessModes, \
         selector and volumeClaimTemplateSpec: the claims exist, with 10Gi of the default class",
    );
    rules.rule(
        "spec.storage",
        "!has(oldSelf.data) || has(self.data)",
        "storage.data cannot be removed: the claims exist",
    );
    rules.rule(
        "spec.storage.data",
        "!(has(self.size) && has(self.paths))",
        "storage.data.size and storage.data.paths are mutually exclusive",
    );
    rules.rule(
        "spec.storage.data",
        "!(has(self.storageClassName) && has(self.paths))",
        "storage.data.storageClassName is for storage.data.size; with storage.data.paths give it for each volume",
    );
    rules.rule(
        "spec.storage.data",
        "has(self.size) == has(oldSelf.size) && has(self.paths) == has(oldSelf.paths)",
        "storage.data cannot change between size and paths: the claims exist",
    );
    rules.rule(
        "spec.storage.data",
        same("storageClassName", None),
        "storage.data.storageClassName is immutable: the claims exist",
    );
    for (path, name) in [
        ("spec.storage.data.size", "storage.data.size"),
        ("spec.storage.metadata.size", "storage.metadata.size"),
        (
            "spec.storage.data.paths[].volume.size",
            "the size of a data volume",
        ),
    ] {
        rules.rule(
            path,
            format!(
                "{}.compareTo({}) >= 0",
                quantity("self"),
                quantity("oldSelf")
            ),
            &format!("{name} can only grow: Kubernetes cannot shrink volumes"),
        );
        rules.rule(
            path,
            positive("self"),
            &format!("{name} must be more than 0"),
        );
    }
    for volume in ["spec.storage.metadata", "spec.storage.data.paths[].volume"] {
        claims(rules, volume);
    }
    let paths = "spec.storage.data.paths";
    rules.bound(
        paths,
        json!({ "minItems": 1, "maxItems": 32, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["path"] }),
    );
    rules.bound(
        "spec.storage.data.paths[].path",
        json!({ "maxLength": 256 }),
    );
    rules.rule(
        "spec.storage.data",
        "!has(self.paths) || !has(oldSelf.paths) || (size(self.paths) == size(oldSelf.paths) && \
         oldSelf.paths.all(old, self.paths.exists(new, new.path == old.path)))",
        "storage.data.paths cannot be added or removed: the claims of a StatefulSet are immutable",
    );
    rules.rule(
        "spec.storage.data.paths[].path",
        "self.startsWith('/') && !self.contains(':') && !self.contains('/../') && !self.startsWith('/etc/garage') && \
         !self.startsWith('/var/lib/garage/meta')",
        "a data path must be absolute and outside /etc/garage and /var/lib/garage/meta",
    );
    rules.rule(
        "spec.storage.data.paths[]",
        "has(self.volume) || has(self.capacity)",
        "a data path needs volume or capacity: one of them is the size of its volume",
    );
    rules.rule(
        "spec.storage.data.paths[]",
        format!(
            "has(self.volume) || !has(self.capacity) || !has(oldSelf.capacity) || {}.compareTo({}) >= 0",
            quantity("self.capacity"),
            quantity("oldSelf.capacity")
        ),
        "the capacity of a data path without volume can only grow: it is the size of its volume",
    );
    rules.rule(
        "spec.storage.data.paths[]",
        "has(self.volume) == has(oldSelf.volume)",
        "the volume of a data path cannot be added or removed",
    );
    rules.bound(
        "spec.storage.metadataSnapshotsDir",
        json!({ "maxLength": 256, "pattern": "^/" }),
    );
    rules.bound(
        "spec.storage.metadataAutoSnapshotInterval",
        json!({ "maxLength": 64 }),
    );
}

/// Immutable parts of a volume whose claim exists.
fn claims(rules: &mut Rules, volume: &str) {
    for (field, keywords) in [
        ("storageClassName", json!({ "maxLength": 253 })),
        ("accessModes", json!({ "maxItems": 4 })),
        ("selector", json!({})),
        ("volumeClaimTemplateSpec", json!({})),
    ] {
        rules.bound(&format!("{volume}.{field}"), keywords);
        let label = volume.strip_prefix("spec.").unwrap_or(volume);
        rules.rule(
            volume,
            format!("has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"),
            &format!("{label}.{field} is immutable: the claims exist"),
        );
    }
    rules.bound(
        &format!("{volume}.accessModes[]"),
        json!({ "enum": ["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"] }),
    );
}
