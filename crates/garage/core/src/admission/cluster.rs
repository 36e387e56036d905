//! GarageClusters among each other. May not look anything up.

use super::{
    Verdict, World, check_exists, check_grant, check_zone, factor, own_factor, place, settled,
    target,
};
use crate::api::{ConsistencyMode, GarageCluster, LayoutPolicy, RetentionPolicy};
use crate::cluster::ClusterKey;

/// Names that the operator gives to Services of a cluster: another cluster of that name would have the same Service.
const SERVICE_SUFFIXES: [&str; 2] = ["-admin", "-headless"];

/// What there is to say about a GarageCluster that is created (`old` is None) or updated.
pub fn cluster(new: &GarageCluster, old: Option<&GarageCluster>, world: &World) -> Verdict {
    let mut verdict = Verdict::default();
    if settled(&new.metadata, &new.spec, old.map(|old| &old.spec)) {
        return verdict;
    }
    let own = place(&new.metadata);
    if old.is_none() {
        check_names(&mut verdict, &own, world);
    }
    match target(new) {
        Some(to) => check_gateway(&mut verdict, new, old, &own, &to, world),
        None if new.spec.gateway => {}
        None => check_storage(&mut verdict, new, &own, world),
    }
    check_attached(&mut verdict, new, &own, world);
    check_consistency(&mut verdict, new);
    check_public_address(&mut verdict, new);
    verdict
}

/// What there is to say about a GarageCluster that is deleted. Never a denial: the finalizer holds it.
pub fn cluster_deletion(cluster: &GarageCluster, world: &World) -> Verdict {
    let mut verdict = Verdict::default();
    let own = place(&cluster.metadata);
    let gateways: Vec<String> = world
        .gateways_of(&own)
        .map(|(key, _)| key.to_string())
        .collect();
    if !gateways.is_empty() {
        verdict.warn(format!(
            "GarageCluster {own} stays until its gateway clusters are deleted: {}",
            gateways.join(", ")
        ));
    }
    let retention = cluster
        .spec
        .storage
        .as_ref()
        .and_then(|storage| storage.pvc_retention_policy);
    match retention.unwrap_or_default().when_deleted {
        RetentionPolicy::Retain => {}
        RetentionPolicy::Delete => verdict.warn(format!(
            "the volumes of GarageCluster {own} and all data in them are deleted with it (storage.pvcRetentionPolicy.whenDeleted is Delete)"
        )),
    }
    verdict
}

/// Two clusters whose objects would have the same names.
fn check_names(verdict: &mut Verdict, own: &ClusterKey, world: &World) {
    for suffix in SERVICE_SUFFIXES {
        let sibling = |name: String| ClusterKey {
            namespace: own.namespace.clone(),
            name,
        };
        let base = own
            .name
            .strip_suffix(suffix)
            .map(|base| sibling(base.to_owned()));
        let longer = sibling(format!("{}{suffix}", own.name));
        for other in base.into_iter().chain([longer]) {
            if world.clusters.contains_key(&other) {
                verdict.deny(format!(
                    "metadata.name {} collides with GarageCluster {}: both would have a Service called {}; choose another name",
                    own.name,
                    other.name,
                    if own.name.len() > other.name.len() { &own.name } else { &other.name },
                ));
            }
        }
    }
    let node = own.name.strip_suffix("-node");
    if let Some(node) = node {
        let key = ClusterKey {
            namespace: own.namespace.clone(),
            name: node.to_owned(),
        };
        if world.nodes.contains_key(&key) {
            verdict.deny(format!(
                "metadata.name {} collides with GarageNode {node}: both would have a StatefulSet of that name; choose another name",
                own.name
            ));
        }
    }
}

fn check_gateway(
    verdict: &mut Verdict,
    new: &GarageCluster,
    old: Option<&GarageCluster>,
    own: &ClusterKey,
    to: &ClusterKey,
    world: &World,
) {
    let field = "connectTo.clusterRef";
    if to == own {
        verdict.deny(format!(
            "{field} names GarageCluster {to} itself; it must name a storage cluster"
        ));
        return;
    }
    // The target is immutable: what was granted once is the controller's to watch.
    if old.and_then(target).as_ref() != Some(to) {
        check_grant(verdict, world, "GarageCluster", &own.namespace, field, to);
    }
    check_exists(verdict, world, field, to);
    let Some(storage) = world.clusters.get(to) else {
        return;
    };
    if storage.spec.gateway {
        let home = world.home(to);
        let better = if home == *to {
            "connect this cluster to the storage cluster as that one is".to_owned()
        } else if home == *own
            || world
                .clusters
                .get(&home)
                .is_some_and(|cluster| cluster.spec.gateway)
        {
            "they form a circle without any storage".to_owned()
        } else {
            format!("name its storage cluster {home}")
        };
        verdict.deny(format!(
            "{field} names GarageCluster {to}, which is a gateway cluster itself: {better}"
        ));
        return;
    }
    if let Some(own_factor) = own_factor(new) {
        let theirs = factor(storage);
        if own_factor != theirs {
            verdict.deny(format!(
                "replication.factor is {own_factor}, but storage cluster {to} keeps {theirs} copies: remove replication.factor \
                 to inherit it, or set it to {theirs}; storage nodes that meet a node with another factor shut down"
            ));
        }
    }
    if let Some(zone) = &new.spec.zone {
        check_zone(verdict, world, zone, to);
    }
}

fn check_storage(verdict: &mut Verdict, new: &GarageCluster, own: &ClusterKey, world: &World) {
    let copies = factor(new);
    let replicas = u32::try_from(new.spec.replicas).unwrap_or_default();
    match new.spec.layout_policy {
        LayoutPolicy::Auto if replicas < copies => verdict.warn(format!(
            "replicas is {replicas}, below replication.factor {copies}: Garage takes no data before it has {copies} nodes \
             with capacity"
        )),
        LayoutPolicy::Auto | LayoutPolicy::Manual => {}
    }
    for (key, gateway) in world.gateways_of(own) {
        if let Some(theirs) = own_factor(gateway).filter(|theirs| *theirs != copies) {
            verdict.warn(format!(
                "gateway cluster {key} has replication.factor {theirs}, and this cluster has {copies}: it is not started \
                 until they are equal"
            ));
        }
    }
}

/// Others applied earlier that this object, as it is now, makes wrong.
fn check_attached(verdict: &mut Verdict, new: &GarageCluster, own: &ClusterKey, world: &World) {
    if new.spec.gateway {
        for (key, _) in world.gateways_of(own).filter(|(key, _)| *key != own) {
            verdict.warn(format!("gateway cluster {key} names this one in connectTo.clusterRef, but it is a gateway cluster too"));
        }
    }
}

fn check_consistency(verdict: &mut Verdict, new: &GarageCluster) {
    let mode = new
        .spec
        .replication
        .as_ref()
        .map(|replication| replication.consistency_mode)
        .unwrap_or_default();
    match mode {
        ConsistencyMode::Consistent => {}
        ConsistencyMode::Degraded => {
            verdict.warn("replication.consistencyMode degraded: reads may miss writes that were acknowledged".to_owned());
        }
        ConsistencyMode::Dangerous => verdict.warn(
            "replication.consistencyMode dangerous: writes are acknowledged with one copy and may be lost, and reads may miss them"
                .to_owned(),
        ),
    }
}

fn check_public_address(verdict: &mut Verdict, new: &GarageCluster) {
    let address = new
        .spec
        .network
        .as_ref()
        .and_then(|network| network.rpc_public_addr.as_deref());
    if let Some(address) = address
        && new.spec.replicas > 1
        && !address.contains("$(POD_NAME)")
        && !address.contains("$(POD_INDEX)")
    {
        verdict.warn(format!(
            "all {} nodes announce the one address {address} (network.rpcPublicAddr): nodes elsewhere reach whichever answers",
            new.spec.replicas
        ));
    }
}
