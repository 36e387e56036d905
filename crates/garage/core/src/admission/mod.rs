//! What is checked of an object together with others, before it is stored: pure functions for the webhook. What the
//! apiserver can check of one object alone is a CEL rule of the CRD (`api::rules`). May not look anything up.
//!
//! The order in which a user applies objects must not matter: what is missing is a warning, and only what can never
//! become right is a denial. An update that leaves the spec alone (status, finalizers) is never denied.
//!
//! # What is refused of the published fields, and where
//! By CEL, with a sentence each: `discovery.*.enabled`, `remoteClusters`, `security.tls.enabled`, `logging.syslog`,
//! `logging.journald`, `s3Api.enabled: false`, `admin.enabled: false`, `clusterRef.kubeConfigSecretRef`,
//! `external.remoteClusterRef`, `optional: true` of references to Secrets, and fields that have no meaning for
//! gateways. Here: `secretTemplate.namespace` and `importKey.secretRef.namespace` other than the object's own.

mod cluster;
mod grants;
mod node;
mod users;

pub use cluster::{cluster, cluster_deletion};
pub use grants::{Grant, GrantFrom, GrantTo};
pub use node::node;
pub use users::{admin_token, bucket, key};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::{
    ClusterRef, GarageAdminToken, GarageBucket, GarageCluster, GarageKey, GarageNode, LayoutPolicy,
    ReplicationSpec, ZoneRedundancy,
};
use crate::cluster::{ClusterKey, DEFAULT_FACTOR, DEFAULT_ZONE};

/// What the webhook answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why the object is not stored; a whole sentence.
    pub deny: Option<String>,
    /// What the user should know though it is stored; at most 256 characters reach some clients.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// Denies, unless something was denied before: the first reason is the one that is told.
    fn deny(&mut self, why: String) {
        self.deny.get_or_insert(why);
    }

    fn warn(&mut self, what: String) {
        self.warnings.push(what);
    }
}

/// The other objects, by namespace and name. Kinds that the caller does not know stay empty; then nothing is said
/// about them.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// All GarageClusters.
    pub clusters: BTreeMap<ClusterKey, Arc<GarageCluster>>,
    /// All GarageNodes.
    pub nodes: BTreeMap<ClusterKey, Arc<GarageNode>>,
    /// All GarageBuckets; None when they are not known.
    pub buckets: Option<BTreeMap<ClusterKey, Arc<GarageBucket>>>,
    /// All GarageKeys; None when they are not known.
    pub keys: Option<BTreeMap<ClusterKey, Arc<GarageKey>>>,
    /// All GarageAdminTokens.
    pub tokens: BTreeMap<ClusterKey, Arc<GarageAdminToken>>,
    /// All ReferenceGrants.
    pub grants: Vec<Grant>,
}

impl World {
    /// The cluster that stores what `key` serves: itself, or the target of its `connectTo.clusterRef`.
    /// A gateway of storage elsewhere, or of a missing cluster, leads no further.
    fn home(&self, key: &ClusterKey) -> ClusterKey {
        let mut seen = BTreeSet::new();
        let mut key = key.clone();
        while seen.insert(key.clone()) {
            let next = self.clusters.get(&key).and_then(|cluster| target(cluster));
            let Some(next) = next else {
                break;
            };
            key = next;
        }
        key
    }

    /// The gateway clusters that `connectTo` this one.
    fn gateways_of(
        &self,
        storage: &ClusterKey,
    ) -> impl Iterator<Item = (&ClusterKey, &GarageCluster)> {
        self.clusters
            .iter()
            .filter(move |(_, cluster)| target(cluster).is_some_and(|target| target == *storage))
            .map(|(key, cluster)| (key, cluster.as_ref()))
    }
}

/// Where an object is.
fn place(meta: &ObjectMeta) -> ClusterKey {
    ClusterKey {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    }
}

/// Where a reference of an object in `namespace` leads.
fn resolve(reference: &ClusterRef, namespace: &str) -> ClusterKey {
    ClusterKey {
        namespace: reference
            .namespace
            .clone()
            .filter(|n| !n.is_empty())
            .unwrap_or_else(|| namespace.to_owned()),
        name: reference.name.clone(),
    }
}

/// The target of a gateway cluster, if it is a GarageCluster here.
fn target(cluster: &GarageCluster) -> Option<ClusterKey> {
    let reference = cluster
        .spec
        .connect_to
        .as_ref()
        .filter(|_| cluster.spec.gateway)?
        .cluster_ref
        .as_ref()?;
    Some(resolve(
        reference,
        cluster.metadata.namespace.as_deref().unwrap_or_default(),
    ))
}

/// Copies of each object in a storage cluster.
fn factor(cluster: &GarageCluster) -> u32 {
    own_factor(cluster).unwrap_or(DEFAULT_FACTOR)
}

/// The factor that the object itself names.
fn own_factor(cluster: &GarageCluster) -> Option<u32> {
    let replication: &ReplicationSpec = cluster.spec.replication.as_ref()?;
    replication
        .factor
        .and_then(|factor| u32::try_from(factor).ok())
}

/// What `namespace` has to grant before `reference` may lead there; denies with the grant that is missing.
fn check_grant(
    verdict: &mut Verdict,
    world: &World,
    kind: &str,
    namespace: &str,
    field: &str,
    to: &ClusterKey,
) {
    if to.namespace != namespace
        && !world
            .grants
            .iter()
            .any(|grant| grant.allows(kind, namespace, to))
    {
        verdict.deny(format!(
            "{field} names a GarageCluster of another namespace, {}",
            grants::missing(kind, namespace, to)
        ));
    }
}

/// Warns that a cluster is not there (yet).
fn check_exists(verdict: &mut Verdict, world: &World, field: &str, to: &ClusterKey) {
    if !world.clusters.contains_key(to) {
        verdict.warn(format!(
            "{field}: GarageCluster {to} does not exist (yet); nothing happens until it does"
        ));
    }
}

/// Warns of a zone in which a node without capacity makes Garage refuse every layout.
fn check_zone(verdict: &mut Verdict, world: &World, zone: &str, storage: &ClusterKey) {
    let Some(cluster) = world
        .clusters
        .get(storage)
        .filter(|cluster| !cluster.spec.gateway)
    else {
        return;
    };
    let redundancy = cluster
        .spec
        .replication
        .as_ref()
        .and_then(|r| r.zone_redundancy)
        .unwrap_or_default();
    match redundancy {
        ZoneRedundancy::Maximum => {}
        // The number of zones asked for does not grow with the gateways' zones.
        ZoneRedundancy::AtLeast(_) => return,
    }
    let zones = storage_zones(world, storage, cluster);
    // Garage counts the gateway's zone among those that copies could be in, up to the factor.
    let wanted = (zones.len() + 1).min(factor(cluster) as usize);
    if !zones.contains(zone) && zones.len() < wanted {
        let known = zones
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ");
        verdict.warn(format!(
            "zone {zone:?} is none of GarageCluster {storage} ({known}), whose zone redundancy is Maximum: Garage will \
             refuse every layout: \"The number of zones with non-gateway nodes ({}) is smaller than the redundancy \
             parameter ({wanted})\"; use one of its zones",
            zones.len(),
        ));
    }
}

/// The zones in which nodes with capacity are or will be.
fn storage_zones(world: &World, key: &ClusterKey, cluster: &GarageCluster) -> BTreeSet<String> {
    let mut zones = BTreeSet::new();
    match cluster.spec.layout_policy {
        LayoutPolicy::Auto => {
            zones.insert(
                cluster
                    .spec
                    .zone
                    .clone()
                    .unwrap_or_else(|| DEFAULT_ZONE.to_owned()),
            );
        }
        LayoutPolicy::Manual => {}
    }
    for (place, node) in &world.nodes {
        if !node.spec.gateway && resolve(&node.spec.cluster_ref, &place.namespace) == *key {
            zones.insert(node.spec.zone.clone());
        }
    }
    let nodes = cluster
        .status
        .as_ref()
        .map(|status| status.nodes.as_slice())
        .unwrap_or_default();
    for node in nodes.iter().filter(|node| node.gateway != Some(true)) {
        zones.extend(node.zone.clone());
    }
    zones
}

/// Denies a namespace of a Secret other than the object's own.
fn check_own_namespace(verdict: &mut Verdict, field: &str, given: Option<&str>, own: &str) {
    if given.is_some_and(|given| !given.is_empty() && given != own) {
        verdict.deny(format!(
            "{field} must be {own:?} or absent: the operator reads and writes Secrets of an object's own namespace only, \
             or an object could use its rights elsewhere"
        ));
    }
}

/// Whether there is nothing to check: the spec did not change, or the object is on its way out.
fn settled<S: PartialEq>(meta: &ObjectMeta, new: &S, old: Option<&S>) -> bool {
    meta.deletion_timestamp.is_some() || old == Some(new)
}

#[cfg(test)]
mod tests;
