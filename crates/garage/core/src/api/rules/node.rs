//! Bounds and CEL rules of GarageNode.

use serde_json::json;

use super::{Rules, quantity, same};
use crate::api::names::{PREFIX, RESERVED_LABEL_PREFIXES};

pub(in crate::api) fn node() -> Rules {
    let mut rules = Rules::default();
    rules.rule(
        "",
        "size(self.metadata.name) <= 47",
        "metadata.name must be at most 47 characters: the names of its workload, its pod and their labels are made of it",
    );
    rules.fixed_cluster_ref("GarageNode");
    rules.bound("spec.zone", json!({ "minLength": 1, "maxLength": 128 }));
    rules.tags("spec.tags");
    capacity(&mut rules);
    kind_of_node(&mut rules);
    volumes(&mut rules);
    rules.user_labels("spec.podLabels", &RESERVED_LABEL_PREFIXES);
    rules.user_labels("spec.podAnnotations", &[PREFIX]);
    rules
}

fn capacity(rules: &mut Rules) {
    let gateway = "(has(self.gateway) && self.gateway)";
    rules.rule(
        "spec",
        format!("!{gateway} || !has(self.capacity)"),
        "capacity cannot be specified when gateway is true",
    );
    rules.rule(
        "spec",
        format!(
            "{gateway} || has(self.capacity) || !(has(self.external) || has(self.podSelector))"
        ),
        "capacity is required for a node with external or podSelector unless gateway is true",
    );
    rules.rule(
        "spec.capacity",
        format!("{}.compareTo(quantity('1Ki')) >= 0", quantity("self")),
        "capacity must be at least 1Ki: Garage refuses less",
    );
}

/// External, selected by name, or created by the operator.
fn kind_of_node(rules: &mut Rules) {
    rules.bound(
        "spec.nodeId",
        json!({ "maxLength": 64, "pattern": "^[a-fA-F0-9]{64}$" }),
    );
    rules.rule(
        "spec.nodeId",
        "self == oldSelf",
        "nodeId is immutable: create another GarageNode for another node",
    );
    rules.bound(
        "spec.podSelector.name",
        json!({ "minLength": 1, "maxLength": 253 }),
    );
    rules.bound(
        "spec.external.address",
        json!({ "minLength": 1, "maxLength": 253 }),
    );
    rules.rule(
        "spec",
        "!(has(self.external) && has(self.podSelector))",
        "external and podSelector are mutually exclusive",
    );
    rules.rule(
        "spec",
        "!has(self.external) || has(self.nodeId)",
        "nodeId is required when external is specified: Garage connects to a node by its id; `garage node id` prints it",
    );
    rules.rule(
        "spec",
        "!(has(self.external) || has(self.podSelector)) || !(has(self.storage) || has(self.image) || \
         has(self.resources) || has(self.nodeSelector) || has(self.affinity) || has(self.tolerations) || \
         has(self.podLabels) || has(self.podAnnotations) || has(self.priorityClassName))",
        "storage, image, resources, nodeSelector, affinity, tolerations, podLabels, podAnnotations and \
         priorityClassName are for pods that the operator creates; this node exists already",
    );
    rules.rule(
        "spec",
        "has(self.external) == has(oldSelf.external) && has(self.podSelector) == has(oldSelf.podSelector)",
        "external and podSelector cannot be added or removed: create another GarageNode",
    );
    rules.rule(
        "spec.external",
        "!has(self.remoteClusterRef)",
        "external.remoteClusterRef is not supported: storage clusters are not federated; give address and nodeId",
    );
}

fn volumes(rules: &mut Rules) {
    rules.rule(
        "spec",
        "!has(self.storage) || !(has(self.gateway) && self.gateway)",
        "storage cannot be specified when gateway is true: a gateway keeps nothing",
    );
    for volume in ["metadata", "data"] {
        let path = format!("spec.storage.{volume}");
        for field in ["existingClaim", "storageClassName"] {
            rules.bound(&format!("{path}.{field}"), json!({ "maxLength": 253 }));
            rules.rule(
                &path,
                same(field, None),
                &format!("storage.{volume}.{field} is immutable: the claim exists"),
            );
        }
        rules.rule(
            &path,
            "!(has(self.existingClaim) && has(self.size))",
            &format!(
                "storage.{volume}.existingClaim and storage.{volume}.size are mutually exclusive"
            ),
        );
        rules.rule(
            &path,
            "!(has(self.existingClaim) && has(self.storageClassName))",
            &format!("storage.{volume}.storageClassName is for new claims; the existing claim has its class"),
        );
        rules.rule(
            &format!("{path}.size"),
            format!(
                "{}.compareTo({}) >= 0",
                quantity("self"),
                quantity("oldSelf")
            ),
            &format!("storage.{volume}.size can only grow: Kubernetes cannot shrink volumes"),
        );
    }
}
