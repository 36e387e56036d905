//! Bounds and CEL rules of GarageCluster.

use serde_json::json;

use super::serving::serving;
use super::volumes::volumes;
use super::{Rules, or, same};
use crate::api::names::{PREFIX, RESERVED_ENV, RESERVED_LABEL_PREFIXES};

pub(in crate::api) fn cluster() -> Rules {
    let mut rules = Rules::default();
    names(&mut rules);
    shape(&mut rules);
    connect_to(&mut rules);
    immutable(&mut rules);
    volumes(&mut rules);
    pods(&mut rules);
    serving(&mut rules);
    unsupported(&mut rules);
    rules
}

/// CEL: whether the object is, or was, a gateway cluster.
pub(super) fn gateway(of: &str) -> String {
    format!("(has({of}.gateway) && {of}.gateway)")
}

fn names(rules: &mut Rules) {
    rules.rule(
        "",
        "size(self.metadata.name) <= 40",
        "metadata.name must be at most 40 characters: the names of pods, Services and their labels are made of it",
    );
    rules.rule(
        "",
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must start with a letter and have lower case letters, digits and '-' only: Services are named after it",
    );
    rules.bound("spec.zone", json!({ "minLength": 1, "maxLength": 128 }));
    rules.tags("spec.defaultNodeTags");
}

/// What belongs to storage clusters and what to gateway clusters.
fn shape(rules: &mut Rules) {
    let gateway = gateway("self");
    rules.rule(
        "spec",
        format!("!{gateway} || has(self.connectTo)"),
        "connectTo is required when gateway is true",
    );
    rules.rule(
        "spec",
        format!("{gateway} || !has(self.connectTo)"),
        "connectTo can only be specified when gateway is true",
    );
    rules.rule(
        "spec",
        format!("!{gateway} || !has(self.storage)"),
        "storage cannot be specified for gateway clusters",
    );
    rules.rule(
        "spec",
        format!("!{gateway} || !has(self.capacityReservePercent)"),
        "capacityReservePercent cannot be specified for gateway clusters: a gateway has no capacity",
    );
    rules.rule(
        "spec",
        format!("!{gateway} || self.layoutPolicy == 'Auto'"),
        "layoutPolicy Manual cannot be specified for gateway clusters: their roles come and go with their slots; use \
         GarageNode objects with gateway: true instead",
    );
    rules.rule(
        "spec",
        format!("!{gateway} || !has(self.replication) || !has(self.replication.zoneRedundancy)"),
        "replication.zoneRedundancy cannot be specified for gateway clusters: it is a property of the storage cluster",
    );
    rules.rule(
        "spec",
        format!("!{gateway} || !has(self.network) || !(has(self.network.rpcSecretRef) || has(self.network.bootstrapPeers))"),
        "network.rpcSecretRef and network.bootstrapPeers cannot be specified for gateway clusters: use connectTo",
    );
    rules.rule(
        "spec",
        format!(
            "{gateway} || self.layoutPolicy == 'Manual' || (has(self.storage) && has(self.storage.data) && \
             (has(self.storage.data.size) || (has(self.storage.data.paths) && size(self.storage.data.paths) > 0)))"
        ),
        "storage.data.size or storage.data.paths is required for a storage cluster: it is the capacity of each node",
    );
    rules.rule(
        "spec",
        "!has(self.layoutManagement) || !has(self.layoutManagement.minNodesHealthy) || \
         self.layoutManagement.minNodesHealthy <= self.replicas",
        "layoutManagement.minNodesHealthy cannot exceed replicas: layout changes would never be applied",
    );
    rules.bound(
        "spec.layoutManagement.minNodesHealthy",
        json!({ "minimum": 0 }),
    );
    rules.rule(
        "spec.replication",
        "!has(self.zoneRedundancy) || self.zoneRedundancy == 'Maximum' || \
         int(self.zoneRedundancy.substring(8, 9)) <= (has(self.factor) ? self.factor : 3)",
        "replication.zoneRedundancy cannot ask for more zones than there are copies (replication.factor, 3 when absent)",
    );
    rules.bound(
        "spec.replication.zoneRedundancy",
        json!({ "maxLength": 10 }),
    );
}

fn connect_to(rules: &mut Rules) {
    const EXTERNAL: [&str; 4] = [
        "rpcSecretRef",
        "bootstrapPeers",
        "adminApiEndpoint",
        "adminTokenSecretRef",
    ];
    let has = EXTERNAL.map(|field| format!("has(self.{field})"));
    rules.rule(
        "spec.connectTo",
        "has(self.clusterRef) || has(self.rpcSecretRef) || has(self.bootstrapPeers)",
        "must specify clusterRef, rpcSecretRef, or bootstrapPeers",
    );
    rules.rule(
        "spec.connectTo",
        format!("!has(self.clusterRef) || !({})", has.join(" || ")),
        "connectTo.clusterRef excludes rpcSecretRef, bootstrapPeers, adminApiEndpoint and adminTokenSecretRef: they are \
         taken from the GarageCluster that it names",
    );
    for (field, has) in EXTERNAL.iter().zip(&has) {
        rules.rule(
            "spec.connectTo",
            format!("has(self.clusterRef) || {has}"),
            &format!(
                "connectTo without clusterRef needs rpcSecretRef, bootstrapPeers, adminApiEndpoint and \
                 adminTokenSecretRef; {field} is missing"
            ),
        );
    }
    rules.cluster_ref("spec.connectTo.clusterRef");
    for peers in [
        "spec.connectTo.bootstrapPeers",
        "spec.network.bootstrapPeers",
    ] {
        rules.bound(peers, json!({ "maxItems": 100 }));
        rules.bound(&format!("{peers}[]"), json!({ "maxLength": 512 }));
        rules.rule(
            &format!("{peers}[]"),
            "self.matches('^[0-9a-fA-F]{64}@[^@ ]+:[0-9]{1,5}$')",
            "a bootstrap peer must be <node id, 64 hex digits>@<host>:<port>; `garage node id` prints it",
        );
    }
    rules.bound("spec.connectTo.bootstrapPeers", json!({ "minItems": 1 }));
    rules.bound(
        "spec.connectTo.adminApiEndpoint",
        json!({ "maxLength": 512 }),
    );
    rules.rule(
        "spec.connectTo.adminApiEndpoint",
        "self.matches('^https?://[^/?#@ ]+/?$')",
        "connectTo.adminApiEndpoint must be http://host:port or https://host:port, without a path",
    );
}

fn immutable(rules: &mut Rules) {
    let (new, old) = (gateway("self"), gateway("oldSelf"));
    rules.rule(
        "spec",
        format!("{new} == {old}"),
        "gateway is immutable: create another GarageCluster",
    );
    rules.rule(
        "spec",
        format!(
            "!{new} || !{old} || ({} && {})",
            same("connectTo.clusterRef.name", None),
            same("connectTo.clusterRef.__namespace__", None)
        ),
        "the target of connectTo is immutable: create another GarageCluster for another storage cluster",
    );
    let factor = |of: &str, default: &str| or(of, "replication.factor", default);
    // What a storage cluster does not say is 3; what a gateway cluster does not say is what storage says.
    rules.rule(
        "spec",
        format!(
            "{new} ? {set} == 0 || {was} == 0 || {set} == {was} : {now} == {before}",
            set = factor("self", "0"),
            was = factor("oldSelf", "0"),
            now = factor("self", "3"),
            before = factor("oldSelf", "3"),
        ),
        "replication.factor is immutable (3 when absent): Garage cannot change the factor of a cluster that has data",
    );
    rules.rule(
        "spec",
        format!("{new} || {}", same("database.engine", Some("'lmdb'"))),
        "database.engine is immutable (lmdb when absent): Garage would start with an empty database",
    );
    rules.rule(
        "spec",
        "self.layoutPolicy == oldSelf.layoutPolicy || self.layoutPolicy == 'Manual'",
        "layoutPolicy cannot change from Manual to Auto",
    );
}

fn pods(rules: &mut Rules) {
    rules.user_labels("spec.podLabels", &RESERVED_LABEL_PREFIXES);
    rules.user_labels("spec.podAnnotations", &[PREFIX]);
    rules.user_labels("spec.serviceAnnotations", &[PREFIX]);
    rules.bound(
        "spec.imagePullPolicy",
        json!({ "enum": ["Always", "IfNotPresent", "Never"] }),
    );
    rules.bound("spec.image", json!({ "minLength": 1, "maxLength": 512 }));
    rules.bound(
        "spec.env",
        json!({ "maxItems": 100, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"] }),
    );
    rules.bound("spec.env[].name", json!({ "maxLength": 253 }));
    let reserved = RESERVED_ENV.map(|name| format!("'{name}'")).join(", ");
    rules.rule_saying(
        "spec.env[]",
        format!("!(self.name in [{reserved}])"),
        "env may not set a variable of the operator",
        "'env may not set ' + self.name + ': the operator sets what it stands for'",
    );
    let budget = "spec.podDisruptionBudget";
    for field in ["minAvailable", "maxUnavailable"] {
        rules.bound(
            &format!("{budget}.{field}"),
            json!({ "maxLength": 8, "pattern": "^[0-9]+%?$" }),
        );
    }
    rules.rule(
        budget,
        "!(has(self.minAvailable) && has(self.maxUnavailable))",
        "podDisruptionBudget.minAvailable and podDisruptionBudget.maxUnavailable are mutually exclusive",
    );
}

/// Fields of the contract that ask for something we do not do. Each says why and what to do.
fn unsupported(rules: &mut Rules) {
    rules.rule(
        "spec.discovery",
        "!(has(self.kubernetes) && has(self.kubernetes.enabled) && self.kubernetes.enabled) && \
         !(has(self.consul) && has(self.consul.enabled) && self.consul.enabled)",
        "discovery is not supported: the operator tells each node its peers; for peers elsewhere use \
         network.bootstrapPeers",
    );
    rules.bound("spec.remoteClusters", json!({ "maxItems": 32 }));
    rules.rule(
        "spec.remoteClusters",
        "size(self) == 0",
        "remoteClusters is not supported: storage clusters are not federated; add nodes elsewhere as GarageNode objects \
         with external, or connect a gateway cluster",
    );
    rules.rule(
        "spec.security",
        "!has(self.tls) || !(has(self.tls.enabled) && self.tls.enabled)",
        "security.tls is not supported: Garage serves S3, web and admin without TLS; put a Gateway or an Ingress with TLS \
         before the Service",
    );
    rules.rule(
        "spec.logging",
        "!(has(self.syslog) && self.syslog) && !(has(self.journald) && self.journald)",
        "logging.syslog and logging.journald are not supported: a container has neither; logs go to standard error",
    );
    rules.rule(
        "spec.s3Api",
        "self.enabled",
        "s3Api.enabled cannot be false: Garage does not start without its S3 API",
    );
    rules.rule(
        "spec.admin",
        "self.enabled",
        "admin.enabled cannot be false: the operator manages the layout through the Admin API",
    );
}
