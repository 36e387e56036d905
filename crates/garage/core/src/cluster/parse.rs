//! From a GarageCluster to what it asks for. What the apiserver has checked is checked again: an object
//! may be older than the rules. May not look at other objects.

use super::{ClusterKey, Desired, External, Mode, Problem, Target};
use crate::api::{self, ConnectTo, GarageCluster, GarageClusterSpec, LayoutPolicy, ZoneRedundancy};
use crate::identity::Peer;
use crate::layout::Redundancy;
use crate::objects::{self, volumes};
use std::collections::{BTreeMap, BTreeSet};

/// Annotation by which a person approves a staged layout version, where `layoutManagement.autoApply` is
/// false.
pub const APPROVED: &str = "garage.rajsingh.info/apply-layout-version";

impl Desired {
    /// Reads the object.
    ///
    /// # Errors
    /// Everything in it that cannot be done, each with its field.
    pub fn parse(cluster: &GarageCluster) -> Result<Self, Vec<Problem>> {
        let meta = &cluster.metadata;
        let spec = &cluster.spec;
        let key = ClusterKey {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        };
        let mut problems = Problems::default();
        let mode = mode(spec, &key, &mut problems);
        let volumes = match mode {
            Mode::Storage if !spec.gateway => volumes(spec, &mut problems),
            Mode::Storage | Mode::Gateway(_) => Volumes::default(),
        };
        let replicas = u32::try_from(spec.replicas).unwrap_or_else(|_| {
            problems.add("spec.replicas", "must not be negative");
            0
        });
        let factor = spec
            .replication
            .as_ref()
            .and_then(|replication| replication.factor);
        let factor = factor.and_then(|factor| match u32::try_from(factor) {
            Ok(factor @ 1..=7) => Some(factor),
            Ok(_) | Err(_) => {
                problems.add("spec.replication.factor", "must be from 1 to 7");
                None
            }
        });
        let redundancy = spec.replication.as_ref().and_then(|r| r.zone_redundancy);
        let annotations = meta.annotations.as_ref();
        let approved = annotations
            .and_then(|all| all.get(APPROVED))
            .and_then(|text| {
                let version = text.parse().ok();
                if version.is_none() {
                    let field = format!("metadata.annotations[{APPROVED}]");
                    problems.add(&field, "must be the number of the staged layout version");
                }
                version
            });
        let management = spec.layout_management.clone().unwrap_or_default();
        let network = spec.network.clone().unwrap_or_default();
        let rpc_port = u16::try_from(network.rpc_bind_port).unwrap_or_else(|_| {
            problems.add("spec.network.rpcBindPort", "must be a port from 1 to 65535");
            0
        });
        let redundancy = match mode {
            Mode::Storage => redundancy.map(|redundancy| match redundancy {
                ZoneRedundancy::Maximum => Redundancy::Maximum,
                ZoneRedundancy::AtLeast(zones) => Redundancy::AtLeast(zones.into()),
            }),
            // The parameters of a layout are its storage cluster's.
            Mode::Gateway(_) => None,
        };
        let desired = Self {
            uid: meta.uid.clone().unwrap_or_default(),
            absent: meta.deletion_timestamp.is_some(),
            mode,
            replicas,
            zone: spec.zone.clone().filter(|zone| !zone.is_empty()),
            capacity: volumes.capacity,
            shares: volumes.shares,
            reserve_percent: volumes.reserve_percent,
            tags: spec
                .default_node_tags
                .iter()
                .cloned()
                .collect::<BTreeSet<_>>(),
            factor,
            redundancy,
            manual_layout: spec.layout_policy == LayoutPolicy::Manual,
            auto_apply: management.auto_apply.unwrap_or(true),
            approved,
            least_healthy: management
                .min_nodes_healthy
                .and_then(|least| u32::try_from(least).ok())
                .unwrap_or(0),
            claims: volumes.claims,
            // GarageNodes are objects of their own, and may be outside of Kubernetes.
            data_outlives: spec.layout_policy == LayoutPolicy::Manual
                || objects::secrets::volumes_outlive(spec),
            budget: spec
                .pod_disruption_budget
                .clone()
                .unwrap_or_default()
                .enabled,
            public_services: objects::has_public_services(spec.public_endpoint.as_ref()),
            own_rpc_secret: network.rpc_secret_ref.is_some(),
            own_admin_token: spec
                .admin
                .as_ref()
                .is_some_and(|admin| admin.admin_token_secret_ref.is_some()),
            rpc_port,
            key,
        };
        // What goes is cleaned up by what is left of it, however wrong its fields are.
        if desired.absent {
            Ok(desired)
        } else {
            problems.none(desired)
        }
    }
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, field: &str, message: &str) {
        self.0.push(Problem {
            field: field.to_owned(),
            message: message.to_owned(),
        });
    }

    fn none<T>(self, value: T) -> Result<T, Vec<Problem>> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(self.0)
        }
    }
}

fn mode(spec: &GarageClusterSpec, key: &ClusterKey, problems: &mut Problems) -> Mode {
    match (&spec.connect_to, spec.gateway) {
        (None, false) => Mode::Storage,
        (Some(_), false) => {
            problems.add(
                "spec.connectTo",
                "connectTo can only be specified when gateway is true",
            );
            Mode::Storage
        }
        (None, true) => {
            problems.add(
                "spec.connectTo",
                "connectTo is required when gateway is true",
            );
            Mode::Storage
        }
        (Some(connect), true) => Mode::Gateway(target(connect, key, problems)),
    }
}

fn target(connect: &ConnectTo, key: &ClusterKey, problems: &mut Problems) -> Target {
    if let Some(reference) = &connect.cluster_ref {
        return Target::Cluster(ClusterKey {
            namespace: reference
                .namespace
                .clone()
                .unwrap_or_else(|| key.namespace.clone()),
            name: reference.name.clone(),
        });
    }
    let mut peers = Vec::new();
    for (index, text) in connect.bootstrap_peers.iter().enumerate() {
        match text.parse::<Peer>() {
            Ok(peer) => peers.push(peer),
            Err(why) => {
                problems.add(
                    &format!("spec.connectTo.bootstrapPeers[{index}]"),
                    &why.to_string(),
                );
            }
        }
    }
    let missing = [
        ("rpcSecretRef", connect.rpc_secret_ref.is_none()),
        ("bootstrapPeers", connect.bootstrap_peers.is_empty()),
        ("adminApiEndpoint", connect.admin_api_endpoint.is_none()),
        (
            "adminTokenSecretRef",
            connect.admin_token_secret_ref.is_none(),
        ),
    ];
    for (field, _) in missing.iter().filter(|(_, missing)| *missing) {
        problems.add(
            &format!("spec.connectTo.{field}"),
            "is required for a storage cluster that is not a GarageCluster here",
        );
    }
    Target::External(External {
        peers,
        // With and without the slash it is one layout, and one lock.
        admin: connect
            .admin_api_endpoint
            .as_deref()
            .unwrap_or_default()
            .trim_end_matches('/')
            .to_owned(),
    })
}

/// What each node stores, and where: by the name of the claim's template.
#[derive(Default)]
struct Volumes {
    capacity: Option<u64>,
    claims: BTreeMap<String, u64>,
    shares: BTreeMap<String, u64>,
    reserve_percent: u32,
}

fn volumes(spec: &GarageClusterSpec, problems: &mut Problems) -> Volumes {
    let claims = match volumes::claims(spec) {
        Ok(claims) => claims,
        Err(found) => {
            problems.0.extend(found);
            return Volumes::default();
        }
    };
    let reserve = spec.capacity_reserve_percent.unwrap_or(0).clamp(0, 50);
    let reserve_percent = u32::try_from(reserve).unwrap_or(0);
    let shares = volumes::shares(&claims);
    let capacity = volumes::offered(shares.values().copied(), reserve_percent);
    // Garage's smallest (`UpdateClusterLayout`).
    if capacity < 1024 && spec.layout_policy == LayoutPolicy::Auto {
        problems.add("spec.storage.data.size", "must be 1024 bytes or more");
    }
    Volumes {
        capacity: Some(capacity),
        claims: volumes::sizes(&claims),
        shares,
        reserve_percent,
    }
}

/// The ids that the object's status names: nodes that were ours, whatever became of their keys.
#[must_use]
pub fn former(cluster: &GarageCluster) -> BTreeSet<crate::identity::NodeId> {
    let slots = slots(cluster).iter();
    slots.filter_map(|slot| slot.node_id.parse().ok()).collect()
}

/// The nodes of slots as the object's status told them last. Where a namespace is deleted, the Secret with
/// their keys goes before their pods.
#[must_use]
pub fn told(cluster: &GarageCluster) -> BTreeMap<u32, crate::identity::NodeId> {
    slots(cluster)
        .iter()
        .filter_map(|slot| Some((u32::try_from(slot.slot?).ok()?, slot.node_id.parse().ok()?)))
        .collect()
}

fn slots(cluster: &GarageCluster) -> &[api::GatewayStatus] {
    let status = cluster.status.as_ref();
    status
        .map(|status| status.gateways.as_slice())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(spec: &str) -> GarageCluster {
        let text = format!(
            "apiVersion: garage.rajsingh.info/v1alpha1\nkind: GarageCluster\nmetadata: {{ name: g, namespace: ns, uid: u }}\nspec: {spec}"
        );
        serde_saphyr::from_str(&text).expect("a GarageCluster")
    }

    #[test]
    fn the_specified_documents_are_complete() {
        let storage = Desired::parse(&cluster(
            "{ replicas: 3, storage: { data: { size: 100Gi } } }",
        ));
        let storage = storage.expect("is fine");
        assert_eq!(storage.mode, Mode::Storage);
        assert_eq!(storage.capacity, Some(100 << 30));
        assert_eq!(storage.storage_factor(), 3);
        assert_eq!(storage.claims["metadata"], 10 << 30);
        let gateway =
            "{ replicas: 5, gateway: true, connectTo: { clusterRef: { name: garage-storage } } }";
        let gateway = Desired::parse(&cluster(gateway)).expect("is fine");
        let target = ClusterKey {
            namespace: "ns".into(),
            name: "garage-storage".into(),
        };
        assert_eq!(gateway.mode, Mode::Gateway(Target::Cluster(target)));
        assert_eq!((gateway.capacity, gateway.factor), (None, None));
    }

    #[test]
    fn each_problem_names_its_field() {
        for (spec, fields) in [
            ("{ gateway: true }", &["spec.connectTo"][..]),
            (
                "{ connectTo: { clusterRef: { name: s } }, storage: { data: { size: 1Gi } } }",
                &["spec.connectTo"],
            ),
            ("{ replicas: 3 }", &["spec.storage.data.size"]),
            (
                "{ storage: { data: { size: 1Gx } } }",
                &["spec.storage.data.size"],
            ),
            (
                "{ storage: { data: { size: 100 } } }",
                &["spec.storage.data.size"],
            ),
            (
                "{ storage: { data: { paths: [{ path: /a }] } } }",
                &["spec.storage.data.paths[0].volume"],
            ),
            (
                "{ gateway: true, connectTo: { bootstrapPeers: [nobody] } }",
                &[
                    "spec.connectTo.bootstrapPeers[0]",
                    "spec.connectTo.rpcSecretRef",
                    "spec.connectTo.adminApiEndpoint",
                    "spec.connectTo.adminTokenSecretRef",
                ],
            ),
        ] {
            let problems = Desired::parse(&cluster(spec)).expect_err(spec);
            let found: Vec<&str> = problems
                .iter()
                .map(|problem| problem.field.as_str())
                .collect();
            assert_eq!(found, fields, "{spec}");
        }
    }

    #[test]
    fn the_reserve_is_taken_off_each_nodes_capacity() {
        let spec = "{ capacityReservePercent: 10, storage: { data: { paths: [
            { path: /a, capacity: 1000Ki }, { path: /b, readOnly: true, capacity: 1Ki }, { path: /c, volume: { size: 1000Ki } }] } } }";
        let desired = Desired::parse(&cluster(spec)).expect("is fine");
        assert_eq!(desired.capacity, Some(2000 * 1024 * 9 / 10));
        assert_eq!(desired.claims.get("data-c"), Some(&(1000 * 1024)));
    }
}
