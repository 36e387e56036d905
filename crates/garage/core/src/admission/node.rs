//! GarageNodes among clusters and each other. May not look anything up.

use super::{
    Verdict, World, check_exists, check_grant, check_zone, place, resolve, settled, target,
};
use crate::api::GarageNode;
use crate::cluster::ClusterKey;

/// What there is to say about a GarageNode that is created (`old` is None) or updated.
pub fn node(new: &GarageNode, old: Option<&GarageNode>, world: &World) -> Verdict {
    let mut verdict = Verdict::default();
    if settled(&new.metadata, &new.spec, old.map(|old| &old.spec)) {
        return verdict;
    }
    let own = place(&new.metadata);
    let to = resolve(&new.spec.cluster_ref, &own.namespace);
    if old.is_none() {
        check_grant(
            &mut verdict,
            world,
            "GarageNode",
            &own.namespace,
            "clusterRef",
            &to,
        );
        let workload = ClusterKey {
            namespace: own.namespace.clone(),
            name: format!("{}-node", own.name),
        };
        if world.clusters.contains_key(&workload) {
            verdict.deny(format!(
                "metadata.name {} collides with GarageCluster {}: both would have a StatefulSet of that name; choose another name",
                own.name, workload.name
            ));
        }
    }
    check_exists(&mut verdict, world, "clusterRef", &to);
    if let Some(storage) = world.clusters.get(&to).and_then(|cluster| target(cluster)) {
        verdict.deny(format!(
            "clusterRef names GarageCluster {to}, which is a gateway cluster: name {storage}, whose layout the node joins"
        ));
    }
    check_identity(&mut verdict, new, &own, world);
    if new.spec.gateway {
        check_zone(&mut verdict, world, &new.spec.zone, &to);
    }
    verdict
}

/// Two objects that would fight for one role.
fn check_identity(verdict: &mut Verdict, new: &GarageNode, own: &ClusterKey, world: &World) {
    let id = |node: &GarageNode| node.spec.node_id.as_ref().map(|id| id.to_ascii_lowercase());
    let pod = |key: &ClusterKey, node: &GarageNode| {
        node.spec
            .pod_selector
            .as_ref()
            .map(|pod| (key.namespace.clone(), pod.name.clone()))
    };
    for (key, other) in world.nodes.iter().filter(|(key, _)| *key != own) {
        if id(new).is_some() && id(new) == id(other) {
            verdict.deny(format!(
                "nodeId is that of GarageNode {key} already: a node has one role"
            ));
        }
        if pod(own, new).is_some() && pod(own, new) == pod(key, other) {
            verdict.deny(format!(
                "podSelector names the pod of GarageNode {key}: a node has one role"
            ));
        }
    }
}
