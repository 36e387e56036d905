//! The layout and its history, as the Admin API has them. It may not compute one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::null_as_default;
use crate::identity::NodeId;

/// `GetClusterLayout`, `UpdateClusterLayout`, `RevertClusterLayout`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterLayout {
    /// The current version; the next one to apply is this plus one.
    pub version: u64,
    /// The roles of the current version.
    #[serde(default)]
    pub roles: Vec<LayoutRole>,
    /// The parameters of the current version.
    #[serde(default)]
    pub parameters: LayoutParameters,
    /// Bytes per partition.
    #[serde(default)]
    pub partition_size: u64,
    /// What the next Apply would change, at most one entry per node.
    #[serde(default)]
    pub staged_role_changes: Vec<StagedRoleChange>,
    /// The parameters that the next Apply would set; `None` keeps them.
    #[serde(default)]
    pub staged_parameters: Option<LayoutParameters>,
}

/// A node's role in the current layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayoutRole {
    /// Whose role it is.
    pub id: NodeId,
    /// Its zone.
    pub zone: String,
    /// Free texts; the operator marks its own roles with them.
    #[serde(default, deserialize_with = "null_as_default")]
    pub tags: Vec<String>,
    /// Bytes; `None` is a gateway.
    #[serde(default)]
    pub capacity: Option<u64>,
    /// How many of the 256 partitions it stores.
    #[serde(default)]
    pub stored_partitions: Option<u64>,
    /// Bytes of `capacity` that the layout can use.
    #[serde(default)]
    pub usable_capacity: Option<u64>,
}

/// What the layout asks of partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayoutParameters {
    /// Over how many zones a partition's replicas are spread.
    #[serde(default)]
    pub zone_redundancy: ZoneRedundancy,
}

/// `"maximum"` or `{"atLeast": n}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ZoneRedundancy {
    /// As many zones as there are, up to the replication factor. Zones of gateways count.
    #[default]
    Maximum,
    /// At least so many.
    AtLeast(u32),
}

/// One entry of `stagedRoleChanges`, and of `roles` in `UpdateClusterLayout`:
/// `{id,remove:true}` or `{id,zone,capacity,tags}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WireChange", into = "WireChange")]
pub enum StagedRoleChange {
    /// The node gets this role, in place of the one it may have.
    Set {
        /// Whose role it is.
        id: NodeId,
        /// Its zone.
        zone: String,
        /// Bytes, at least 1024; `None` is a gateway.
        capacity: Option<u64>,
        /// Free texts.
        tags: Vec<String>,
    },
    /// The node loses its role.
    Remove {
        /// Whose role it was.
        id: NodeId,
    },
}

impl StagedRoleChange {
    /// Whose role changes.
    pub fn id(&self) -> NodeId {
        match self {
            Self::Set { id, .. } | Self::Remove { id } => *id,
        }
    }
}

/// Both forms of a change at once.
#[derive(Serialize, Deserialize)]
struct WireChange {
    id: NodeId,
    #[serde(flatten)]
    role: WireRole,
}

// The order decides: a removal has no zone, a role no `remove`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WireRole {
    Remove {
        remove: bool,
    },
    Set {
        zone: String,
        #[serde(default)]
        capacity: Option<u64>,
        #[serde(default)]
        tags: Vec<String>,
    },
}

impl TryFrom<WireChange> for StagedRoleChange {
    type Error = String;

    fn try_from(WireChange { id, role }: WireChange) -> Result<Self, String> {
        match role {
            WireRole::Remove { remove: true } => Ok(Self::Remove { id }),
            WireRole::Remove { remove: false } => {
                Err(format!("the staged change of node {id} says remove: false"))
            }
            WireRole::Set {
                zone,
                capacity,
                tags,
            } => Ok(Self::Set {
                id,
                zone,
                capacity,
                tags,
            }),
        }
    }
}

impl From<StagedRoleChange> for WireChange {
    fn from(change: StagedRoleChange) -> Self {
        match change {
            StagedRoleChange::Remove { id } => Self {
                id,
                role: WireRole::Remove { remove: true },
            },
            StagedRoleChange::Set {
                id,
                zone,
                capacity,
                tags,
            } => Self {
                id,
                role: WireRole::Set {
                    zone,
                    capacity,
                    tags,
                },
            },
        }
    }
}

/// The body of `UpdateClusterLayout`. It is merged into what is staged, per node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutChange {
    /// Roles to set and to remove.
    pub roles: Vec<StagedRoleChange>,
    /// Parameters to set; `None` keeps what is staged or current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<LayoutParameters>,
}

/// The body of `ApplyClusterLayout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyLayout {
    /// The current version plus one; anything else is HTTP 500 "Invalid new layout version".
    pub version: u64,
}

/// `ApplyClusterLayout`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayoutApplied {
    /// Garage's account of what moves, for people.
    #[serde(default)]
    pub message: Vec<String>,
    /// The same in numbers, from Garage 2.4.
    #[serde(default)]
    pub statistics: Option<LayoutStatistics>,
    /// The new layout.
    pub layout: ClusterLayout,
}

/// `PreviewClusterLayoutChanges`, when the staged changes can be applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayoutPreview {
    /// Garage's account of what would move, for people.
    #[serde(default)]
    pub message: Vec<String>,
    /// The same in numbers, from Garage 2.4.
    #[serde(default)]
    pub statistics: Option<LayoutStatistics>,
    /// The layout that Apply would make.
    pub new_layout: ClusterLayout,
}

/// A layout in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LayoutStatistics {
    /// The cluster's replication factor; no other call tells it.
    pub replication_factor: u32,
    /// The zone redundancy that is reached.
    pub effective_zone_redundancy: u32,
    /// Bytes per partition.
    pub partition_size: u64,
    /// Bytes per partition before; `None` for the first layout.
    pub previous_partition_size: Option<u64>,
    /// Whether partitions are so small that the capacities are probably mistaken.
    pub low_partition_size: bool,
    /// Bytes of the nodes' capacity that partitions use.
    pub usable_capacity: u64,
    /// Bytes of all nodes.
    pub total_capacity: u64,
    /// Bytes that can be stored, replicas not counted.
    pub effective_capacity: u64,
    /// Whether much of the capacity stays unused.
    pub low_usable_capacity: bool,
    /// How many replicas of partitions move; `None` for the first layout.
    pub total_moved_partitions: Option<u64>,
    /// Zone by zone.
    pub zones: Vec<ZoneStatistics>,
}

/// One zone's share of a layout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ZoneStatistics {
    /// The zone.
    pub name: String,
    /// Replicas of partitions in it.
    pub total_replicated_partitions: u64,
    /// Partitions with at least one replica in it.
    pub unique_partitions: u64,
    /// Bytes of its nodes.
    pub total_capacity: u64,
    /// Bytes of its nodes that partitions use.
    pub usable_capacity: u64,
}

/// `GetClusterLayoutHistory`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayoutHistory {
    /// The newest version.
    pub current_version: u64,
    /// The oldest version that some node may still use.
    #[serde(default)]
    pub min_ack: u64,
    /// Live and historical versions.
    #[serde(default)]
    pub versions: Vec<LayoutVersion>,
    /// How far each node is; `None` once the history is settled.
    #[serde(default)]
    pub update_trackers: Option<BTreeMap<NodeId, UpdateTracker>>,
}

impl LayoutHistory {
    /// Whether no older version is being drained.
    pub fn is_settled(&self) -> bool {
        !self
            .versions
            .iter()
            .any(|version| version.status == LayoutVersionStatus::Draining)
    }
}

/// One version in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayoutVersion {
    /// Its number.
    pub version: u64,
    /// What it is used for.
    pub status: LayoutVersionStatus,
    /// Roles with a capacity.
    #[serde(default)]
    pub storage_nodes: u64,
    /// Roles without.
    #[serde(default)]
    pub gateway_nodes: u64,
}

/// What a layout version is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayoutVersionStatus {
    /// The newest one.
    Current,
    /// Still read from, until all nodes have moved on.
    Draining,
    /// Kept for the record.
    Historical,
}

/// How far a node is with layout versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateTracker {
    /// The newest version it writes to.
    pub ack: u64,
    /// The newest version whose data it has.
    pub sync: u64,
    /// The newest version that it knows all others to have the data of.
    pub sync_ack: u64,
}

/// The body of `ClusterLayoutSkipDeadNodes`. HTTP 400 when only one version is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SkipDeadNodes {
    /// Up to which version nodes that are down count as having acknowledged.
    pub version: u64,
    /// Whether they also count as having synchronised: data that only they had is given up.
    pub allow_missing_data: bool,
}

/// `ClusterLayoutSkipDeadNodes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SkippedDeadNodes {
    /// Nodes that now count as having acknowledged.
    pub ack_updated: Vec<NodeId>,
    /// Nodes that now count as having synchronised.
    pub sync_updated: Vec<NodeId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn id(digit: char) -> NodeId {
        digit.to_string().repeat(64).parse().expect("a node id")
    }

    #[test]
    fn changes_of_roles_travel_in_both_forms() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        for (change, wire) in [
            (
                StagedRoleChange::Remove { id: id('a') },
                json!({"id": a, "remove": true}),
            ),
            (
                StagedRoleChange::Set {
                    id: id('b'),
                    zone: "dc1".into(),
                    capacity: None,
                    tags: vec!["x".into()],
                },
                json!({"id": b, "zone": "dc1", "capacity": null, "tags": ["x"]}),
            ),
            (
                StagedRoleChange::Set {
                    id: id('b'),
                    zone: "dc1".into(),
                    capacity: Some(1024),
                    tags: vec![],
                },
                json!({"id": b, "zone": "dc1", "capacity": 1024, "tags": []}),
            ),
        ] {
            assert_eq!(serde_json::to_value(&change).expect("it"), wire);
            let back: StagedRoleChange = serde_json::from_value(wire).expect("it");
            assert_eq!(back, change);
        }
        let neither = serde_json::from_value::<StagedRoleChange>(json!({"id": a, "remove": false}));
        assert!(neither.is_err());
    }

    #[test]
    fn a_layout_is_read_with_what_it_lacks_and_what_is_new() {
        let wire = json!({
            "version": 7, "somethingNew": {"x": 1},
            "roles": [{"id": "a".repeat(64), "zone": "dc1", "tags": null}],
            "parameters": {"zoneRedundancy": {"atLeast": 2}},
            "stagedRoleChanges": [{"id": "b".repeat(64), "remove": true}],
        });
        let layout: ClusterLayout = serde_json::from_value(wire).expect("a layout");
        assert_eq!(layout.roles[0].tags, Vec::<String>::new());
        assert_eq!(layout.roles[0].capacity, None);
        assert_eq!(
            layout.parameters.zone_redundancy,
            ZoneRedundancy::AtLeast(2)
        );
        assert_eq!(layout.staged_role_changes[0].id(), id('b'));
        assert_eq!(layout.staged_parameters, None);
        let maximum = serde_json::to_value(LayoutParameters::default()).expect("it");
        assert_eq!(maximum, json!({"zoneRedundancy": "maximum"}));
    }

    #[test]
    fn a_history_is_settled_when_nothing_drains() {
        let history = |status: &str, trackers: serde_json::Value| {
            serde_json::from_value::<LayoutHistory>(json!({
                "currentVersion": 2, "minAck": 1,
                "versions": [
                    {"version": 2, "status": "Current", "storageNodes": 3, "gatewayNodes": 1},
                    {"version": 1, "status": status, "storageNodes": 3, "gatewayNodes": 0},
                ],
                "updateTrackers": trackers,
            }))
            .expect("a history")
        };
        assert!(history("Historical", json!(null)).is_settled());
        let tracker = json!({"c".repeat(64): {"ack": 1, "sync": 1, "syncAck": 0}});
        let draining = history("Draining", tracker);
        assert!(!draining.is_settled());
        assert_eq!(draining.update_trackers.expect("trackers")[&id('c')].ack, 1);
    }
}
