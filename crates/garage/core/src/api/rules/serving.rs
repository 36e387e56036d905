//! Bounds and CEL rules of what a GarageCluster serves, and where.

use serde_json::json;

use super::cluster::gateway;
use super::{Rules, or, positive};
use crate::api::names::PREFIX;

pub(super) fn serving(rules: &mut Rules) {
    // An API that is off takes no port; bindAddress may carry another one, which the planner checks.
    let api = |name: &str, default: &str, off: &str| {
        let on = format!("has(self.{name}) && (!has(self.{name}.enabled) || self.{name}.enabled)");
        format!(
            "({on} ? {} : {off})",
            or("self", &format!("{name}.bindPort"), default)
        )
    };
    let ports = [
        or("self", "network.rpcBindPort", "3901"),
        or("self", "s3Api.bindPort", "3900"),
        or("self", "admin.bindPort", "3903"),
        api("k2vApi", "3904", "-1"),
        api("webApi", "3902", "-2"),
    ]
    .join(", ");
    let addresses = ["s3Api", "k2vApi", "webApi", "admin"]
        .map(|name| format!("(has(self.{name}) && has(self.{name}.bindAddress))"))
        .join(" || ");
    rules.rule(
        "spec",
        format!("{addresses} || [{ports}].all(port, [{ports}].exists_one(other, other == port))"),
        "the ports of RPC, S3, K2V, web and admin (3901, 3900, 3904, 3902, 3903 when absent) must all differ",
    );
    for api in ["s3Api", "k2vApi", "webApi", "admin"] {
        let path = format!("spec.{api}.bindAddress");
        rules.bound(&path, json!({ "maxLength": 64 }));
        rules.rule(
            &path,
            r"isIP(self) || self.matches('^[0-9.]+:[0-9]{1,5}$') || self.matches('^[\\[][0-9a-fA-F:.]+[\\]](:[0-9]{1,5})?$')",
            &format!(
                "{api}.bindAddress must be an IP address, or one with a port (IPv6 in brackets); a Unix socket cannot be \
                 reached from outside the pod"
            ),
        );
    }
    for path in [
        "spec.s3Api.region",
        "spec.s3Api.rootDomain",
        "spec.webApi.rootDomain",
    ] {
        rules.bound(path, json!({ "minLength": 1, "maxLength": 253 }));
    }
    for path in ["spec.network.rpcPingTimeoutMs", "spec.network.rpcTimeoutMs"] {
        rules.bound(path, json!({ "minimum": 1 }));
    }
    rules.bound("spec.network.rpcPublicAddr", json!({ "maxLength": 512 }));
    rules.rule(
        "spec.network.rpcPublicAddr",
        "self.matches('^[^ ]+:[0-9]{1,5}$')",
        "network.rpcPublicAddr must be host:port",
    );
    rules.bound(
        "spec.network.rpcPublicAddrSubnet",
        json!({ "maxLength": 64 }),
    );
    rules.rule(
        "spec.network.rpcPublicAddrSubnet",
        "isCIDR(self)",
        "network.rpcPublicAddrSubnet must be a network as 10.0.0.0/8",
    );
    public_endpoint(rules);
    let service = "spec.network.service";
    rules.user_labels("spec.network.service.annotations", &[PREFIX]);
    rules.bound(
        "spec.network.service.externalTrafficPolicy",
        json!({ "enum": ["Cluster", "Local"] }),
    );
    rules.bound(
        "spec.network.service.loadBalancerSourceRanges",
        json!({ "maxItems": 100 }),
    );
    rules.bound(
        "spec.network.service.loadBalancerSourceRanges[]",
        json!({ "maxLength": 64 }),
    );
    rules.rule(
        "spec.network.service.loadBalancerSourceRanges[]",
        "isCIDR(self)",
        "network.service.loadBalancerSourceRanges must be networks as 10.0.0.0/8",
    );
    rules.rule(
        service,
        "!has(self.externalTrafficPolicy) || self.type != 'ClusterIP'",
        "network.service.externalTrafficPolicy is for Services of type NodePort and LoadBalancer",
    );
    rules.rule(
        service,
        "!(has(self.loadBalancerIP) || has(self.loadBalancerSourceRanges)) || self.type == 'LoadBalancer'",
        "network.service.loadBalancerIP and loadBalancerSourceRanges are for Services of type LoadBalancer",
    );
    rules.bound(
        "spec.blocks.compressionLevel",
        json!({ "maxLength": 7, "pattern": "^([Nn]one|-?[0-9]{1,6})$" }),
    );
    for size in [
        "spec.blocks.size",
        "spec.blocks.ramBufferMax",
        "spec.database.lmdbMapSize",
        "spec.database.fjallBlockCacheSize",
    ] {
        let name = size.strip_prefix("spec.").unwrap_or(size);
        rules.rule(
            size,
            positive("self"),
            &format!("{name} must be more than 0"),
        );
    }
    rules.rule(
        "spec.database",
        "(!has(self.lmdbMapSize) || self.engine == 'lmdb') && (!has(self.fjallBlockCacheSize) || self.engine == 'fjall')",
        "database.lmdbMapSize is for engine lmdb, database.fjallBlockCacheSize for engine fjall",
    );
    rules.bound("spec.logging.level", json!({ "maxLength": 512 }));
    rules.rule(
        "spec.workers",
        "!has(self.resyncWorkerCount) || self.resyncWorkerCount <= 8",
        "workers.resyncWorkerCount cannot exceed 8: Garage has no more resync workers",
    );
}

fn public_endpoint(rules: &mut Rules) {
    rules.rule(
        "spec",
        format!("!{} || !has(self.publicEndpoint)", gateway("self")),
        "publicEndpoint cannot be specified for gateway clusters: a gateway dials the storage nodes and is not dialled",
    );
    rules.rule(
        "spec",
        format!(
            "!has(self.publicEndpoint) || self.publicEndpoint.type != 'LoadBalancer' || self.replicas == 1 || {}",
            or("self", "publicEndpoint.loadBalancer.perNode", "false")
        ),
        "publicEndpoint.loadBalancer.perNode must be true with more than one replica: a peer is dialled by its identity, so \
         each node needs an address",
    );
    let endpoint = "spec.publicEndpoint";
    rules.rule(
        endpoint,
        "self.type != 'NodePort' || (has(self.nodePort) && has(self.nodePort.basePort) && size(self.nodePort.externalAddresses) > 0)",
        "publicEndpoint of type NodePort needs nodePort.basePort and at least one of nodePort.externalAddresses",
    );
    rules.rule(
        endpoint,
        "self.type != 'ExternalIP' || (has(self.externalIP) && (has(self.externalIP.addresses) || has(self.externalIP.addressTemplate)))",
        "publicEndpoint of type ExternalIP needs externalIP.addresses or externalIP.addressTemplate",
    );
    rules.bound(
        "spec.publicEndpoint.nodePort.externalAddresses",
        json!({ "maxItems": 100 }),
    );
    rules.bound(
        "spec.publicEndpoint.nodePort.externalAddresses[]",
        json!({ "minLength": 1, "maxLength": 253 }),
    );
    rules.bound(
        "spec.publicEndpoint.externalIP.addressTemplate",
        json!({ "minLength": 1, "maxLength": 253 }),
    );
    rules.bound(
        "spec.publicEndpoint.externalIP.addresses",
        json!({ "maxProperties": 100 }),
    );
    rules.user_labels("spec.publicEndpoint.loadBalancer.annotations", &[PREFIX]);
}
