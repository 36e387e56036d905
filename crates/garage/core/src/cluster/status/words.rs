//! The words for what a cluster waits for and why it is refused: reasons of conditions, and sentences. May
//! not decide.

use super::{list, short, slots};
use crate::cluster::{APPROVED, Refusal, Wait};
use crate::tenant::{NOT_WATCHED, out_of_reach};

impl Wait {
    /// The reason of a condition: CamelCase.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Secrets => "MakingSecrets",
            Self::StorageMissing(_) => "StorageMissing",
            Self::StorageStarting(_) => "StorageStarting",
            Self::StorageUnreachable(_) => "StorageUnreachable",
            Self::Layout => "ChangingLayout",
            Self::Settling(_) => "LayoutSettling",
            Self::LayoutBlocked(_) => "LayoutBlocked",
            Self::ForeignStagedChanges(_) => "ForeignStagedChanges",
            Self::Approval(_) => "ApprovalNeeded",
            Self::TooFewHealthy { .. } => "TooFewNodesHealthy",
            Self::Nodes(_) => "NodesMissing",
            Self::Pods { .. } => "PodsNotReady",
            Self::Rollout { .. } => "RollingOut",
            Self::RpcSecret { .. } => "RPCSecretChanged",
            Self::Rebalancing { .. } => "Rebalancing",
            Self::Leaving(_) => "NodesLeaving",
            Self::GatewaysAttached(_) => "GatewaysAttached",
            Self::GatewaysDeparting(_) => "GatewaysDeparting",
            Self::Deleting => "Deleting",
            Self::Growing => "GrowingVolumes",
        }
    }
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Secrets => f.write_str("secrets and node keys are being made"),
            Self::StorageMissing(key) => {
                write!(
                    f,
                    "there is no GarageCluster {key}: create it, or correct spec.connectTo.clusterRef"
                )
            }
            Self::StorageStarting(key) => {
                write!(f, "GarageCluster {key} has no secrets and node keys yet")
            }
            Self::StorageUnreachable(why) => write!(f, "the Admin API does not answer: {why}"),
            Self::Layout => f.write_str("the layout is being changed"),
            Self::Settling(history) => write!(
                f,
                "{} node{} not yet moved over to the newest layout version",
                history.behind.len(),
                if history.behind.len() == 1 {
                    " has"
                } else {
                    "s have"
                }
            ),
            Self::LayoutBlocked(why) => write!(f, "Garage refuses the layout: {why}"),
            Self::ForeignStagedChanges(nodes) => {
                let nodes: Vec<String> = nodes.iter().map(short).collect();
                write!(
                    f,
                    "somebody else has staged layout changes ({}); apply or revert them (`garage layout apply` or `revert`)",
                    if nodes.is_empty() {
                        "parameters".to_owned()
                    } else {
                        nodes.join(", ")
                    }
                )
            }
            Self::Approval(version) => write!(
                f,
                "layout version {version} is staged and waits for approval: annotate the object with {}={version}",
                APPROVED
            ),
            Self::TooFewHealthy { up, least } => write!(
                f,
                "{up} nodes are connected and spec.layoutManagement.minNodesHealthy asks for {least} before the layout changes"
            ),
            Self::Nodes(missing) => write!(f, "no running node in {}", slots(missing)),
            Self::Pods { ready, replicas } => write!(f, "{ready} of {replicas} pods serve"),
            Self::Rollout { outdated } => write!(f, "{outdated} pods are still to be replaced"),
            Self::RpcSecret { pods } => write!(
                f,
                "the RPC secret has changed: nodes with the old and the new one cannot talk, so all {pods} pods that have the old one are replaced at once, and requests fail until they are back"
            ),
            Self::Rebalancing {
                complete,
                partitions,
            } => write!(
                f,
                "{complete} of {partitions} partitions have all their nodes; no further pod is replaced before all have"
            ),
            Self::Leaving(leaving) => write!(f, "{} leave the cluster", slots(leaving)),
            Self::GatewaysAttached(users) => write!(
                f,
                "it is to be deleted but {} use it: delete those first",
                list(users)
            ),
            Self::GatewaysDeparting(users) => write!(
                f,
                "it is being deleted once the roles of {} are out of the layout that its volumes keep",
                list(users)
            ),
            Self::Deleting => f.write_str("it is being deleted"),
            Self::Growing => f.write_str("volumes are being made larger"),
        }
    }
}

impl Refusal {
    /// The reason of a condition: CamelCase.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "Invalid",
            Self::NotStorage(_) => "NotAStorageCluster",
            Self::NotGranted(_) => "ReferenceNotGranted",
            Self::OutOfReach(_) => NOT_WATCHED,
            Self::FactorMismatch { .. } => "ReplicationFactorMismatch",
            Self::FactorUnknown => "ReplicationFactorUnknown",
            Self::BadSecret(_) => "BadSecret",
            Self::BadKeys(_) => "BadNodeKeys",
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(problems) => f.write_str(&list(problems)),
            Self::NotStorage(key) => write!(
                f,
                "GarageCluster {key} is itself a gateway cluster; name the storage cluster"
            ),
            Self::NotGranted(key) => write!(
                f,
                "the namespace {} does not grant it: create a ReferenceGrant there, from GarageCluster in this namespace to GarageCluster {}",
                key.namespace, key.name
            ),
            Self::OutOfReach(key) => f.write_str(&out_of_reach(key)),
            Self::FactorMismatch { asked, storage } => write!(
                f,
                "spec.replication.factor is {asked}, and the storage cluster keeps {storage} copies: remove spec.replication.factor from this object, or set it to {storage}. No pod is started before: storage nodes that meet a node with another factor shut down"
            ),
            Self::FactorUnknown => f.write_str(
                "the storage cluster does not tell its replication factor (Garage before 2.4): set spec.replication.factor to it",
            ),
            Self::BadSecret(why) => f.write_str(why),
            Self::BadKeys(entries) => write!(
                f,
                "the Secret with the node keys has entries that are no keys ({}): restore or remove them; a node without its key is another node",
                entries.join("; ")
            ),
        }
    }
}
