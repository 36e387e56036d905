//! What the operator says about a GarageCluster. Data only; absent fields are not known (yet).

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::common::StringMap;

/// Observed state of a GarageCluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GarageClusterStatus {
    /// Generation of the spec that this status speaks about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pending, Creating, Running, Degraded, Updating, Deleting or Failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Conditions, one of a type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Pods that exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Pods that are ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Label selector of the pods, as text, for autoscalers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Gateway cluster: one entry for each slot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<GatewayStatus>,
    /// Identity of the Garage cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// What Garage says of its build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_info: Option<BuildInfo>,
    /// What Garage says of its health.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<ClusterHealth>,
    /// Where the cluster is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
    /// Nodes of the layout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<ClusterNode>,
    /// Number of nodes of the layout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_nodes: Option<i32>,
    /// Nodes that still hold a role in an older layout version only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draining_nodes: Option<i32>,
    /// Current layout version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout_version: Option<i64>,
    /// Version that the staged changes would become.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staged_layout_version: Option<i64>,
    /// Number of staged role changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staged_roles: Option<i32>,
    /// Live layout versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout_history: Option<LayoutHistory>,
    /// What applying the staged changes would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout_preview: Option<LayoutPreview>,
    /// Capacity and partitions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_stats: Option<StorageStats>,
    /// Federated clusters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remote_clusters: Vec<RemoteClusterStatus>,
    /// Blocks with errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_errors: Option<i32>,
    /// The worst blocks with errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_error_details: Option<BlockErrorDetails>,
    /// Blocks that wait to be resynchronised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resync_queue_length: Option<i64>,
    /// Scrub worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrub_status: Option<ScrubStatus>,
    /// Repairs that run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub active_repairs: Vec<RepairStatus>,
    /// Lifecycle worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifecycle_status: Option<LifecycleStatus>,
    /// Background workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkersStatus>,
    /// Number of background workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_count: Option<i32>,
    /// Number of background workers in error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers_failed: Option<i32>,
}

/// One slot of a gateway cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Pod that holds the slot; absent while there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Number of the slot, from 0; absent for a node that lost its key and still has a role or is relied on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<i32>,
    /// Garage node id of the slot, 64 hex digits; the same for every pod that holds the slot.
    pub node_id: String,
    /// The node has its role in the current layout version.
    pub in_layout: bool,
    /// The storage cluster sees the node.
    pub connected: bool,
    /// The node's keys and buckets are as many as storage's.
    pub synced: bool,
}

/// Build of Garage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildInfo {
    /// Version of Garage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Version of Rust it was built with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rust_version: Option<String>,
    /// Features it was built with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
}

/// `GetClusterHealth`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterHealth {
    /// healthy, degraded or unavailable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// True when the status is healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
    /// True unless the status is unavailable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<bool>,
    /// Nodes ever seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known_nodes: Option<i32>,
    /// Nodes connected now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected_nodes: Option<i32>,
    /// Nodes with capacity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_nodes: Option<i32>,
    /// Nodes with capacity that are connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_nodes_ok: Option<i32>,
    /// Partitions of the layout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// Partitions with a write quorum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions_quorum: Option<i32>,
    /// Partitions with all nodes connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions_all_ok: Option<i32>,
}

/// Where the cluster is reached inside the Kubernetes cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// S3 API, `http://host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3: Option<String>,
    /// K2V API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k2v: Option<String>,
    /// Websites.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web: Option<String>,
    /// Admin API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// Metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// RPC, `host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc: Option<String>,
}

/// A node of the layout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNode {
    /// Garage node id, 64 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// Pod of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// Zone of its role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Capacity of its role; absent for gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<String>,
    /// True for gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<bool>,
    /// Whether other nodes see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected: Option<bool>,
    /// Version of Garage it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Free space of the data volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_disk_available: Option<String>,
    /// Size of the data volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_disk_total: Option<String>,
    /// Free space of the metadata volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata_disk_available: Option<String>,
    /// Size of the metadata volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata_disk_total: Option<String>,
}

/// Live layout versions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LayoutHistory {
    /// Current version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_version: Option<i64>,
    /// Oldest version that some node may still use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_ack: Option<i64>,
    /// Versions, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<LayoutVersionStatus>,
}

/// One layout version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LayoutVersionStatus {
    /// Number of the version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// Current, Draining or Historical.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Roles with capacity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_nodes: Option<i32>,
    /// Roles without capacity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_nodes: Option<i32>,
}

/// What applying the staged changes would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LayoutPreview {
    /// Nodes that would get a role.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes_added: Vec<String>,
    /// Nodes whose role would change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes_modified: Vec<String>,
    /// Nodes that would lose their role.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes_removed: Vec<String>,
    /// Partitions that would move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_transfers: Option<i32>,
    /// Estimate of the bytes that would move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_transfer_estimate: Option<String>,
    /// Zones of the nodes concerned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones_affected: Vec<String>,
}

/// Lifecycle worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LifecycleStatus {
    /// Last complete run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_completed: Option<Time>,
}

/// Capacity and partitions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageStats {
    /// Sum of the capacities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_capacity: Option<Quantity>,
    /// Used part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_capacity: Option<Quantity>,
    /// Free part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_capacity: Option<Quantity>,
    /// Partitions of the layout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_partitions: Option<i32>,
    /// Partitions with all nodes connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy_partitions: Option<i32>,
}

/// A federated cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemoteClusterStatus {
    /// Name of the remote cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Zone of its nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Whether its Admin API answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected: Option<bool>,
    /// Its nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<i32>,
    /// Its connected nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy_nodes: Option<i32>,
    /// Last answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
}

/// Blocks with errors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockErrorDetails {
    /// Number of blocks with errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<i32>,
    /// Last error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error_at: Option<Time>,
    /// The blocks with most errors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top_errors: Vec<BlockErrorDetail>,
}

/// One block with errors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockErrorDetail {
    /// Hash of the block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_hash: Option<String>,
    /// Failed attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_count: Option<i32>,
    /// Time of the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<Time>,
    /// Text of the last error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Time of the next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_retry: Option<Time>,
}

/// Scrub worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScrubStatus {
    /// A scrub runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<bool>,
    /// The scrub is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// Pauses of the worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tranquility_level: Option<i32>,
    /// Corrupted blocks found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupted_blocks: Option<i32>,
    /// Last complete run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_completed: Option<Time>,
    /// Next run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_run: Option<Time>,
    /// By node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_statuses: Vec<ScrubNodeStatus>,
}

/// Scrub worker of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScrubNodeStatus {
    /// Garage node id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// A scrub runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<bool>,
    /// Per cent done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<i32>,
    /// Items checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items_checked: Option<i64>,
    /// Errors found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors_found: Option<i32>,
}

/// A repair that runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepairStatus {
    /// Garage node id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// What is repaired.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// When it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
}

/// Background workers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkersStatus {
    /// All.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<i32>,
    /// At work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy: Option<i32>,
    /// Waiting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<i32>,
    /// In error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errored: Option<i32>,
    /// Their errors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<WorkerError>,
    /// Worker variables as Garage reports them.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub variables: StringMap,
}

/// A background worker in error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerError {
    /// Number of the worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<i64>,
    /// Name of the worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Errors in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_errors: Option<i32>,
    /// Text of the last error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Seconds since the last error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error_secs_ago: Option<i64>,
}
