//! GarageNode: one node of a layout that is not a replica of a GarageCluster, or is placed by hand. Data only.

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{ClusterRef, StringMap, is_false};

/// What a node of the layout should be.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "garage.rajsingh.info",
    version = "v1alpha1",
    kind = "GarageNode",
    plural = "garagenodes",
    shortname = "gn",
    namespaced,
    doc = "A node of a Garage layout: an external one, a pod that exists already, or a pod placed by hand.",
    status = "GarageNodeStatus",
    derive = "PartialEq",
    printcolumn(
        name = "Cluster",
        type_ = "string",
        json_path = ".spec.clusterRef.name"
    ),
    printcolumn(name = "Zone", type_ = "string", json_path = ".spec.zone"),
    printcolumn(name = "Capacity", type_ = "string", json_path = ".spec.capacity"),
    printcolumn(name = "Gateway", type_ = "boolean", json_path = ".spec.gateway"),
    printcolumn(name = "Connected", type_ = "boolean", json_path = ".status.connected"),
    printcolumn(name = "InLayout", type_ = "boolean", json_path = ".status.inLayout"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    crates(
        kube_core = "::kube_core",
        k8s_openapi = "::k8s_openapi",
        schemars = "::schemars",
        serde = "::serde",
        serde_json = "::serde_json"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct GarageNodeSpec {
    /// The cluster whose layout the node belongs to. Cannot be changed.
    pub cluster_ref: ClusterRef,
    /// Zone of the node.
    pub zone: String,
    /// Capacity of the node; absent for gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Quantity>,
    /// True: a role without capacity.
    #[serde(default, skip_serializing_if = "is_false")]
    pub gateway: bool,
    /// Tags of the role.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Garage node id, 64 hex digits; found out when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// A node outside this Kubernetes cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalNode>,
    /// A pod that exists already and runs Garage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<PodSelector>,
    /// Volumes of a pod that the operator creates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<NodeStorage>,
    /// Garage image; the cluster's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Resources; the cluster's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Node labels that the pod requires; the cluster's when empty.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub node_selector: StringMap,
    /// Affinity; the cluster's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints that the pod tolerates; the cluster's when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Labels added to the pod.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub pod_labels: StringMap,
    /// Annotations added to the pod.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub pod_annotations: StringMap,
    /// Priority class; the cluster's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
}

/// A node outside this Kubernetes cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalNode {
    /// Host name or IP address of its RPC port.
    pub address: String,
    /// Its RPC port.
    #[serde(default = "rpc_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Refused: federation of storage clusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_cluster_ref: Option<ClusterRef>,
}

fn rpc_port() -> i32 {
    3901
}

/// A pod by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodSelector {
    /// Name of the pod, in the namespace of the GarageNode.
    pub name: String,
}

/// Volumes of a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStorage {
    /// Metadata volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<NodeVolume>,
    /// Data volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<NodeVolume>,
}

/// A volume of a node: a claim that exists, or a new one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeVolume {
    /// Name of a PersistentVolumeClaim that exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub existing_claim: Option<String>,
    /// Size of a new claim; it may only grow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,
    /// Storage class of a new claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
}

/// Observed state of a GarageNode.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GarageNodeStatus {
    /// Generation of the spec that this status speaks about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pending, Creating, Running, Deleting or Failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Conditions, one of a type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Garage node id, 64 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// Address under which Garage knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Host name that Garage reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Version of Garage it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Features of its build.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub garage_features: Vec<String>,
    /// Metadata engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub db_engine: Option<String>,
    /// It has a role in the current layout version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_layout: Option<bool>,
    /// Other nodes see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected: Option<bool>,
    /// When it was seen last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
    /// Layout version that holds its role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout_version: Option<i64>,
    /// Tags of its role.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Partitions it stores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// Data it stores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_data: Option<String>,
    /// Data volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_partition: Option<DiskUsage>,
    /// Metadata volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata_partition: Option<DiskUsage>,
    /// Blocks with errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_errors: Option<i32>,
    /// A repair runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair_in_progress: Option<bool>,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair_progress: Option<String>,
    /// What is repaired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair_type: Option<String>,
}

/// Use of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskUsage {
    /// Free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<String>,
    /// Size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<String>,
    /// Per cent used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_percent: Option<i32>,
}
