//! How nodes reach each other and how clients reach them. Data only.

use k8s_openapi::api::core::v1::SecretKeySelector;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::common::{StringMap, is_false, words};

/// RPC between nodes, and the Service of the S3 API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSpec {
    /// Port of the RPC between nodes.
    #[serde(default = "rpc_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub rpc_bind_port: i32,
    /// Outgoing connections come from the bound address too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub rpc_bind_outgoing: bool,
    /// `host:port` under which other nodes reach this one; the pod's address when absent. Storage: `$(POD_NAME)` and
    /// `$(POD_INDEX)` are replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_public_addr: Option<String>,
    /// Subnet (CIDR) from which the public address is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_public_addr_subnet: Option<String>,
    /// RPC secret, 64 hex digits; generated when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_secret_ref: Option<SecretKeySelector>,
    /// Milliseconds until a ping counts as lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_ping_timeout_ms: Option<i64>,
    /// Milliseconds until an RPC call counts as lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_timeout_ms: Option<i64>,
    /// Further peers, outside this cluster: `<node id, 64 hex digits>@<host>:<port>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bootstrap_peers: Vec<String>,
    /// Service of the S3 API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceSpec>,
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self {
            rpc_bind_port: rpc_port(),
            rpc_bind_outgoing: false,
            rpc_public_addr: None,
            rpc_public_addr_subnet: None,
            rpc_secret_ref: None,
            rpc_ping_timeout_ms: None,
            rpc_timeout_ms: None,
            bootstrap_peers: Vec::new(),
            service: None,
        }
    }
}

fn rpc_port() -> i32 {
    3901
}

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// Type of the Service.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,
    /// Annotations added to the Service.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub annotations: StringMap,
    /// `Cluster` or `Local`; for NodePort and LoadBalancer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<String>,
    /// Address asked of the load balancer.
    #[serde(rename = "loadBalancerIP", skip_serializing_if = "Option::is_none")]
    pub load_balancer_ip: Option<String>,
    /// Client networks (CIDR) that the load balancer lets in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_source_ranges: Vec<String>,
}

words! {
    /// Type of a Service.
    pub enum ServiceType {
        /// Inside the Kubernetes cluster only.
        #[default]
        ClusterIp = "ClusterIP",
        /// On a port of each node.
        NodePort = "NodePort",
        /// Behind a load balancer.
        LoadBalancer = "LoadBalancer",
    }
}

/// Refused: Garage's own discovery; the operator knows all peers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiscoverySpec {
    /// Through Garage's own CRD, which needs rights in the Kubernetes API for each pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesDiscovery>,
    /// Through Consul.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consul: Option<ConsulDiscovery>,
}

/// Discovery through Garage's own CRD.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubernetesDiscovery {
    /// Refused when true.
    #[serde(default, skip_serializing_if = "is_false")]
    pub enabled: bool,
    /// Namespace of Garage's discovery objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Value of the service label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// Garage does not create its CRD.
    #[serde(default, rename = "skipCRD", skip_serializing_if = "is_false")]
    pub skip_crd: bool,
}

/// Discovery through Consul.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsulDiscovery {
    /// Refused when true.
    #[serde(default, skip_serializing_if = "is_false")]
    pub enabled: bool,
    /// Consul API.
    #[serde(default)]
    pub api: ConsulApi,
    /// Address of Consul.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_addr: Option<String>,
    /// Name of the service in Consul.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// Certificate authority, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_cert: Option<String>,
    /// Certificate authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_cert_secret_ref: Option<SecretKeySelector>,
    /// Client certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert_secret_ref: Option<SecretKeySelector>,
    /// Client key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_secret_ref: Option<SecretKeySelector>,
    /// Consul token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretKeySelector>,
    /// Do not verify Consul's certificate.
    #[serde(default, skip_serializing_if = "is_false")]
    pub tls_skip_verify: bool,
    /// Tags of the service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Metadata of the service.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub meta: StringMap,
    /// Datacenters to search.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub datacenters: Vec<String>,
}

words! {
    /// Consul API.
    pub enum ConsulApi {
        /// Catalog.
        #[default]
        Catalog = "catalog",
        /// Agent.
        Agent = "agent",
    }
}

/// How nodes outside this Kubernetes cluster reach the RPC port of each node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublicEndpoint {
    /// Kind of endpoint.
    #[serde(rename = "type")]
    pub type_: PublicEndpointType,
    /// Details of `LoadBalancer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerEndpoint>,
    /// Details of `NodePort`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_port: Option<NodePortEndpoint>,
    /// Details of `ExternalIP`.
    #[serde(rename = "externalIP", skip_serializing_if = "Option::is_none")]
    pub external_ip: Option<ExternalIpEndpoint>,
}

words! {
    /// Kind of public endpoint.
    pub enum PublicEndpointType {
        /// A load balancer.
        LoadBalancer = "LoadBalancer",
        /// A port of each Kubernetes node.
        NodePort = "NodePort",
        /// Addresses that exist already.
        ExternalIp = "ExternalIP",
        /// No Service; pods are routable.
        #[default]
        Headless = "Headless",
    }
}

/// Public endpoint behind load balancers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerEndpoint {
    /// Annotations added to the Services.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub annotations: StringMap,
    /// One load balancer for each node.
    #[serde(default, skip_serializing_if = "is_false")]
    pub per_node: bool,
}

/// Public endpoint on ports of Kubernetes nodes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePortEndpoint {
    /// Port of the first node; the next ones follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 30000, max = 32767))]
    pub base_port: Option<i32>,
    /// Addresses of Kubernetes nodes.
    pub external_addresses: Vec<String>,
}

/// Public endpoint at addresses that exist already.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalIpEndpoint {
    /// Template of the address of a node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address_template: Option<String>,
    /// Addresses by pod name.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub addresses: StringMap,
}

/// Refused: a storage cluster elsewhere whose nodes would be federated into this layout.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemoteCluster {
    /// Name of the remote cluster.
    pub name: String,
    /// Zone of its nodes.
    pub zone: String,
    /// Its Admin API.
    pub connection: RemoteConnection,
    /// Capacity of nodes that announce none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_capacity: Option<Quantity>,
}

/// Admin API of a remote cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemoteConnection {
    /// `http://host:port` or `https://host:port`.
    pub admin_api_endpoint: String,
    /// Its admin token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_token_secret_ref: Option<SecretKeySelector>,
}
