//! Nodes, health, statistics, repairs, as the Admin API has them. It may not judge them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{GarageVersion, null_as_default};
use crate::identity::NodeId;

/// `GetClusterStatus`: the cluster as the node that was asked sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// The version of the layout that this node knows.
    pub layout_version: u64,
    /// All nodes that it knows, those that are gone included.
    #[serde(default)]
    pub nodes: Vec<NodeStatus>,
}

/// A node as another one sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Who it is.
    pub id: NodeId,
    /// As the node reports it; `None` while it is down.
    #[serde(default)]
    pub garage_version: Option<String>,
    /// `host:port` of its RPC; `None` while it is down.
    #[serde(default)]
    pub addr: Option<String>,
    /// The host name of its machine or pod.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Whether there is a connection to it.
    pub is_up: bool,
    /// Seconds since it was last up; `None` while it is up or if it never was.
    #[serde(default)]
    pub last_seen_secs_ago: Option<u64>,
    /// Its role in the current layout.
    #[serde(default)]
    pub role: Option<NodeRole>,
    /// Whether it still holds data of an older layout that it is no part of any more.
    #[serde(default)]
    pub draining: bool,
    /// Its data disks.
    #[serde(default)]
    pub data_partition: Option<FreeSpace>,
    /// Its metadata disk.
    #[serde(default)]
    pub metadata_partition: Option<FreeSpace>,
    /// Blocks that wait to be resynchronised, from Garage 2.5.
    #[serde(default)]
    pub resync_queue_len: Option<u64>,
}

/// A role without its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRole {
    /// The zone.
    pub zone: String,
    /// Free texts.
    #[serde(default, deserialize_with = "null_as_default")]
    pub tags: Vec<String>,
    /// Bytes; `None` is a gateway.
    #[serde(default)]
    pub capacity: Option<u64>,
}

/// Bytes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreeSpace {
    /// Free.
    pub available: u64,
    /// Altogether.
    pub total: u64,
}

/// `GetClusterHealth`. Only storage nodes count: gateways never lower it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterHealth {
    /// The judgement.
    pub status: HealthStatus,
    /// Nodes that it has heard of.
    #[serde(default)]
    pub known_nodes: u64,
    /// Nodes that it is connected to.
    #[serde(default)]
    pub connected_nodes: u64,
    /// Nodes with a capacity.
    #[serde(default)]
    pub storage_nodes: u64,
    /// Those of them that are up.
    #[serde(default)]
    pub storage_nodes_up: u64,
    /// Partitions of the layout.
    #[serde(default)]
    pub partitions: u64,
    /// Those with enough replicas up for a write.
    #[serde(default)]
    pub partitions_quorum: u64,
    /// Those with all replicas up.
    #[serde(default)]
    pub partitions_all_ok: u64,
}

/// Garage's judgement of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HealthStatus {
    /// All storage nodes are up.
    Healthy,
    /// Some are down; every partition still has its quorum.
    Degraded,
    /// Some partition has no quorum.
    Unavailable,
}

/// One entry of `ConnectClusterNodes`, in the order of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectOutcome {
    /// Whether the called node is connected to that one.
    pub success: bool,
    /// Why not.
    #[serde(default)]
    pub error: Option<String>,
}

/// A call that one node forwards to others: the answers of those that had one, the errors of the rest.
/// HTTP 200 even if all failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MultiResponse<T> {
    /// Answers.
    #[serde(default = "BTreeMap::new")]
    pub success: BTreeMap<NodeId, T>,
    /// Errors.
    #[serde(default)]
    pub error: BTreeMap<NodeId, String>,
}

/// `GetNodeInfo`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// Who it is.
    pub node_id: NodeId,
    /// The host name of its machine or pod, from Garage 2.3.
    #[serde(default)]
    pub hostname: Option<String>,
    /// `v2.5.0` and the like.
    pub garage_version: String,
    /// Features it was built with.
    #[serde(default)]
    pub garage_features: Option<Vec<String>>,
    /// The compiler it was built with.
    #[serde(default)]
    pub rust_version: String,
    /// Its metadata engine, for people.
    #[serde(default)]
    pub db_engine: String,
    /// How S3 clients reach it, from Garage 2.5.
    #[serde(default)]
    pub connection_parameters: Option<ConnectionParameters>,
    /// `host:port` of its RPC, from Garage 2.4.
    #[serde(default)]
    pub addr: Option<String>,
    /// From Garage 2.4.
    #[serde(default)]
    pub is_up: Option<bool>,
    /// From Garage 2.4.
    #[serde(default)]
    pub role: Option<NodeRole>,
    /// From Garage 2.4.
    #[serde(default)]
    pub draining: Option<bool>,
    /// From Garage 2.4.
    #[serde(default)]
    pub data_partition: Option<FreeSpace>,
    /// From Garage 2.4.
    #[serde(default)]
    pub metadata_partition: Option<FreeSpace>,
}

impl NodeInfo {
    /// The version in numbers; `None` if Garage was built without one.
    pub fn version(&self) -> Option<GarageVersion> {
        self.garage_version.parse().ok()
    }
}

/// How S3 clients reach a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionParameters {
    /// The S3 region.
    pub region: String,
    /// `public_endpoint` of `[s3_api]`.
    #[serde(default)]
    pub s3_endpoint: Option<String>,
    /// Whether buckets are in the path rather than in the host.
    #[serde(default)]
    pub s3_use_path_style: Option<bool>,
    /// `public_endpoint` of `[k2v_api]`.
    #[serde(default)]
    pub k2v_endpoint: Option<String>,
}

/// `GetNodeStatistics`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatistics {
    /// For people.
    pub freeform: String,
    /// One entry per table, from Garage 2.3.
    pub table_stats: Vec<TableStatistics>,
    /// The block store, from Garage 2.3.
    pub block_manager_stats: Option<BlockStatistics>,
}

impl NodeStatistics {
    /// The table `name`: `key`, `bucket_v2`, `bucket_alias`, `admin_token`, `object`, ...
    pub fn table(&self, name: &str) -> Option<&TableStatistics> {
        self.table_stats
            .iter()
            .find(|table| table.table_name == name)
    }
}

/// A table on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TableStatistics {
    /// Its name.
    pub table_name: String,
    /// Entries, deleted ones included until they are collected.
    pub items: u64,
    /// Entries in the tree that tables are compared by.
    pub merkle_items: u64,
    /// Entries that wait to get into it.
    pub merkle_queue_len: u64,
    /// Entries that wait to be sent to other nodes.
    pub insert_queue_len: u64,
    /// Deleted entries that wait to be collected.
    pub gc_queue_len: u64,
}

/// The block store of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlockStatistics {
    /// Blocks with a reference count.
    pub rc_entries: u64,
    /// Blocks that wait to be resynchronised.
    pub resync_queue_len: u64,
    /// Blocks whose resynchronisation failed.
    pub resync_errors: u64,
}

/// What `LaunchRepairOperation` launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RepairType {
    /// Compares all tables with the other nodes'.
    Tables,
    /// Looks for blocks that are missing.
    Blocks,
    /// Looks for object versions that belong to no object.
    Versions,
    /// Looks for uploads that belong to no object.
    MultipartUploads,
    /// Looks for references to blocks that belong to no version.
    BlockRefs,
    /// Counts the references to blocks again.
    BlockRc,
    /// Moves blocks to the disks where they belong.
    Rebalance,
    /// Reads all blocks.
    Scrub(ScrubCommand),
    /// Mends aliases that contradict each other.
    Aliases,
    /// Forgets which blocks wait to be resynchronised.
    ClearResyncQueue,
}

/// What to do with the scrub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ScrubCommand {
    /// Begins.
    Start,
    /// Waits.
    Pause,
    /// Goes on.
    Resume,
    /// Gives up.
    Cancel,
}

/// One entry of `ListBlockErrors`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockError {
    /// Which block, in hex.
    pub block_hash: String,
    /// How many versions need it.
    #[serde(default)]
    pub refcount: u64,
    /// How often it failed.
    #[serde(default)]
    pub error_count: u64,
    /// Seconds.
    #[serde(default)]
    pub last_try_secs_ago: u64,
    /// Seconds.
    #[serde(default)]
    pub next_try_in_secs: u64,
}

/// `RetryBlockResync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlocksRetried {
    /// How many blocks will be tried again at once.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_that_is_down_has_little_to_tell() {
        let wire = json!({
            "layoutVersion": 3,
            "nodes": [
                {"id": "a".repeat(64), "garageVersion": null, "addr": null, "hostname": null,
                 "isUp": false, "lastSeenSecsAgo": 12, "draining": false,
                 "role": {"zone": "dc1", "tags": [], "capacity": null}},
                {"id": "b".repeat(64), "isUp": true, "role": null},
            ],
        });
        let status: ClusterStatus = serde_json::from_value(wire).expect("a status");
        let [a, b] = &status.nodes[..] else {
            panic!("two nodes: {status:?}");
        };
        assert_eq!((a.addr.as_deref(), a.last_seen_secs_ago), (None, Some(12)));
        assert_eq!(a.role.as_ref().and_then(|role| role.capacity), None);
        assert_eq!((b.is_up, b.role.as_ref(), b.draining), (true, None, false));
    }

    #[test]
    fn repairs_travel_as_names_and_the_scrub_with_its_command() {
        for (repair, wire) in [
            (RepairType::Tables, json!("tables")),
            (RepairType::MultipartUploads, json!("multipartUploads")),
            (
                RepairType::Scrub(ScrubCommand::Start),
                json!({"scrub": "start"}),
            ),
        ] {
            assert_eq!(serde_json::to_value(repair).expect("it"), wire);
        }
    }

    #[test]
    fn answers_of_many_nodes_are_kept_by_node() {
        let wire = json!({
            "success": {"a".repeat(64): {"freeform": "", "tableStats": [{"tableName": "key", "items": 4}]}},
            "error": {"b".repeat(64): "Timeout"},
        });
        let answers: MultiResponse<NodeStatistics> = serde_json::from_value(wire).expect("it");
        let statistics = answers.success.values().next().expect("one answer");
        assert_eq!(statistics.table("key").map(|table| table.items), Some(4));
        assert_eq!(statistics.table("object"), None);
        assert_eq!(answers.error.values().next().expect("one"), "Timeout");
    }

    #[test]
    fn a_health_without_its_details_is_read() {
        let health: ClusterHealth =
            serde_json::from_value(json!({"status": "degraded"})).expect("a health");
        assert_eq!(health.status, HealthStatus::Degraded);
        assert_eq!(health.storage_nodes, 0);
    }
}
