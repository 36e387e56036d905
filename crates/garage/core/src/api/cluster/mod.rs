//! GarageCluster: a storage cluster, or with `gateway: true` a set of diskless gateways of one. Data only.

mod apis;
mod network;
mod replication;
mod status;
mod storage;

pub use apis::{
    AdminSpec, BlocksSpec, ConnectTo, DatabaseEngine, DatabaseSpec, K2vApiSpec, LoggingSpec,
    S3ApiSpec, SecuritySpec, TlsSpec, WebApiSpec, WorkersSpec,
};
pub use network::{
    ConsulApi, ConsulDiscovery, DiscoverySpec, ExternalIpEndpoint, KubernetesDiscovery,
    LoadBalancerEndpoint, NetworkSpec, NodePortEndpoint, PublicEndpoint, PublicEndpointType,
    RemoteCluster, RemoteConnection, ServiceSpec, ServiceType,
};
pub use replication::{
    ConsistencyMode, LayoutManagement, LayoutPolicy, ReplicationSpec, ZoneRedundancy,
    ZoneRedundancyError,
};
pub use status::{
    BlockErrorDetail, BlockErrorDetails, BuildInfo, ClusterHealth, ClusterNode, Endpoints,
    GarageClusterStatus, GatewayStatus, LayoutHistory, LayoutPreview, LayoutVersionStatus,
    LifecycleStatus, RemoteClusterStatus, RepairStatus, ScrubNodeStatus, ScrubStatus, StorageStats,
    WorkerError, WorkersStatus,
};
pub use storage::{
    DataPath, DataStorage, PvcRetentionPolicy, RetentionPolicy, StorageSpec, VolumeSpec,
};

use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, LocalObjectReference, PodSecurityContext, ResourceRequirements,
    SecurityContext, Toleration, TopologySpreadConstraint,
};
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{StringMap, is_false};

/// What a Garage cluster should be.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "garage.rajsingh.info",
    version = "v1alpha1",
    kind = "GarageCluster",
    plural = "garageclusters",
    shortname = "gc",
    namespaced,
    doc = "A Garage cluster that stores data, or with `gateway: true` diskless S3 gateways of one.",
    status = "GarageClusterStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Gateway", type_ = "boolean", json_path = ".spec.gateway"),
    printcolumn(name = "Zone", type_ = "string", json_path = ".spec.zone"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
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
pub struct GarageClusterSpec {
    /// True: diskless gateways of the storage cluster that `connectTo` names. Cannot be changed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub gateway: bool,
    /// The storage cluster of a gateway cluster; either `clusterRef` or the other four fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_to: Option<ConnectTo>,
    /// Number of Garage nodes (storage) or gateway pods (gateway).
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1))]
    pub replicas: i32,
    /// Zone of the nodes in Garage's layout. Storage: `default` when absent; gateway: a zone of the storage cluster
    /// when absent, which is nearly always right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Replication. A gateway cluster inherits it and may leave it out; a different factor is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication: Option<ReplicationSpec>,
    /// Volumes of a storage cluster. Forbidden for gateways, which have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,
    /// Per cent of a data volume that is not announced to Garage as capacity.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50))]
    pub capacity_reserve_percent: Option<i32>,
    /// Tags added to the role of every node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub default_node_tags: Vec<String>,
    /// Auto: one node per replica, managed here. Manual: nodes are GarageNode objects.
    #[serde(default = "default_layout_policy")]
    pub layout_policy: LayoutPolicy,
    /// When layout changes are applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout_management: Option<LayoutManagement>,

    /// Garage image; the operator's default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Pull policy of the image: Always, IfNotPresent or Never.
    #[serde(default = "default_pull_policy")]
    pub image_pull_policy: String,
    /// Secrets for pulling the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Environment variables added to the Garage container. Those that the operator sets are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Resources of the Garage container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels added to pods. `app.kubernetes.io/*` and `garage.rajsingh.info/*` are refused.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub pod_labels: StringMap,
    /// Annotations added to pods. `garage.rajsingh.info/*` is refused.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub pod_annotations: StringMap,
    /// Node labels that pods require.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub node_selector: StringMap,
    /// Affinity of pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints that pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// How pods spread over failure domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Priority class of pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// ServiceAccount of pods; its token is not mounted, because Garage does not need it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Replaces the pod security context, which is unprivileged (uid 65532) when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    /// Replaces the container security context, which drops everything when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_security_context: Option<SecurityContext>,
    /// Annotations added to the S3 Service.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub service_annotations: StringMap,
    /// PodDisruptionBudget; by default one pod at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_disruption_budget: Option<PodDisruptionBudgetSpec>,

    /// RPC port, secret and peers, and the type of the S3 Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkSpec>,
    /// S3 API; on when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3_api: Option<S3ApiSpec>,
    /// K2V API; off when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k2v_api: Option<K2vApiSpec>,
    /// Static website endpoint; off when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web_api: Option<WebApiSpec>,
    /// Admin API and metrics; on when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<AdminSpec>,
    /// Metadata engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseSpec>,
    /// Block size, compression and limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<BlocksSpec>,
    /// Log output of Garage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logging: Option<LoggingSpec>,
    /// Switches that weaken or extend Garage's own checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security: Option<SecuritySpec>,
    /// Background workers of Garage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkersSpec>,
    /// Refused: discovery through Consul or Garage's own CRD. Peers are known to the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discovery: Option<DiscoverySpec>,
    /// How nodes of other clusters reach the RPC port of these nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_endpoint: Option<PublicEndpoint>,
    /// Refused: federation of storage clusters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remote_clusters: Vec<RemoteCluster>,
}

fn default_replicas() -> i32 {
    3
}

fn default_layout_policy() -> LayoutPolicy {
    LayoutPolicy::Auto
}

fn default_pull_policy() -> String {
    "IfNotPresent".to_owned()
}

impl Default for GarageClusterSpec {
    /// What an empty `spec` means after the apiserver filled in the defaults.
    fn default() -> Self {
        Self {
            gateway: false,
            connect_to: None,
            replicas: default_replicas(),
            zone: None,
            replication: None,
            storage: None,
            capacity_reserve_percent: None,
            default_node_tags: Vec::new(),
            layout_policy: default_layout_policy(),
            layout_management: None,
            image: None,
            image_pull_policy: default_pull_policy(),
            image_pull_secrets: Vec::new(),
            env: Vec::new(),
            resources: None,
            pod_labels: StringMap::new(),
            pod_annotations: StringMap::new(),
            node_selector: StringMap::new(),
            affinity: None,
            tolerations: Vec::new(),
            topology_spread_constraints: Vec::new(),
            priority_class_name: None,
            service_account_name: None,
            security_context: None,
            container_security_context: None,
            service_annotations: StringMap::new(),
            pod_disruption_budget: None,
            network: None,
            s3_api: None,
            k2v_api: None,
            web_api: None,
            admin: None,
            database: None,
            blocks: None,
            logging: None,
            security: None,
            workers: None,
            discovery: None,
            public_endpoint: None,
            remote_clusters: Vec::new(),
        }
    }
}

/// PodDisruptionBudget of the cluster's pods.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodDisruptionBudgetSpec {
    /// False: no PodDisruptionBudget.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// A number or a percentage, as text. Excludes `maxUnavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_available: Option<String>,
    /// A number or a percentage, as text; `1` when both are absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<String>,
}

impl Default for PodDisruptionBudgetSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            min_available: None,
            max_unavailable: None,
        }
    }
}

fn yes() -> bool {
    true
}
