//! What Garage serves and how: S3, K2V, web, admin, metadata engine, blocks, logging, workers. Data only.

use k8s_openapi::api::core::v1::SecretKeySelector;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::common::{ClusterRef, is_false, words};

/// Where the data of a gateway cluster is: `clusterRef`, or for a storage cluster elsewhere all the other fields.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectTo {
    /// A storage GarageCluster of this Kubernetes cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_ref: Option<ClusterRef>,
    /// RPC secret of the storage cluster: 64 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_secret_ref: Option<SecretKeySelector>,
    /// Nodes of the storage cluster: `<node id, 64 hex digits>@<host>:<port>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bootstrap_peers: Vec<String>,
    /// Admin API of the storage cluster: `http://host:port` or `https://host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_api_endpoint: Option<String>,
    /// Admin token of the storage cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_token_secret_ref: Option<SecretKeySelector>,
}

/// S3 API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3ApiSpec {
    /// False is refused: Garage cannot start without its S3 API.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Port of the S3 API.
    #[serde(default = "s3_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub bind_port: i32,
    /// Address or `address:port` to listen on; `[::]` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_address: Option<String>,
    /// Region name that clients must sign for.
    #[serde(default = "region")]
    pub region: String,
    /// Domain of virtual-hosted buckets: `<bucket>.<rootDomain>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_domain: Option<String>,
}

impl Default for S3ApiSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            bind_port: s3_port(),
            bind_address: None,
            region: region(),
            root_domain: None,
        }
    }
}

/// K2V API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct K2vApiSpec {
    /// False: off. True when absent, since the section is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Port of the K2V API.
    #[serde(default = "k2v_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub bind_port: i32,
    /// Address or `address:port` to listen on; `[::]` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_address: Option<String>,
}

impl Default for K2vApiSpec {
    fn default() -> Self {
        Self {
            enabled: None,
            bind_port: k2v_port(),
            bind_address: None,
        }
    }
}

/// Static website endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebApiSpec {
    /// False: off. True when absent, since the section is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Port of the website endpoint.
    #[serde(default = "web_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub bind_port: i32,
    /// Address or `address:port` to listen on; `[::]` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_address: Option<String>,
    /// Domain of websites: `<bucket>.<rootDomain>`; `.<name>.<namespace>.svc` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_domain: Option<String>,
    /// Add the host name to the metrics.
    #[serde(default, skip_serializing_if = "is_false")]
    pub add_host_to_metrics: bool,
}

impl Default for WebApiSpec {
    fn default() -> Self {
        Self {
            enabled: None,
            bind_port: web_port(),
            bind_address: None,
            root_domain: None,
            add_host_to_metrics: false,
        }
    }
}

/// Admin API and metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdminSpec {
    /// False is refused: the operator manages the layout through the Admin API.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Port of the Admin API and of `/metrics`.
    #[serde(default = "admin_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub bind_port: i32,
    /// Address or `address:port` to listen on; `[::]` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_address: Option<String>,
    /// Admin token; generated when absent. A token with a dot never authenticates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_token_secret_ref: Option<SecretKeySelector>,
    /// Token of `/metrics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_token_secret_ref: Option<SecretKeySelector>,
    /// `/metrics` answers nobody without a token.
    #[serde(default, skip_serializing_if = "is_false")]
    pub metrics_require_token: bool,
    /// OTLP endpoint for traces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_sink: Option<String>,
}

impl Default for AdminSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            bind_port: admin_port(),
            bind_address: None,
            admin_token_secret_ref: None,
            metrics_token_secret_ref: None,
            metrics_require_token: false,
            trace_sink: None,
        }
    }
}

/// Metadata engine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseSpec {
    /// Engine; cannot be changed, because Garage would start with an empty database.
    #[serde(default)]
    pub engine: DatabaseEngine,
    /// Size of LMDB's map.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lmdb_map_size: Option<Quantity>,
    /// Size of Fjall's block cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fjall_block_cache_size: Option<Quantity>,
}

words! {
    /// Garage's `db_engine`.
    pub enum DatabaseEngine {
        /// LMDB.
        #[default]
        Lmdb = "lmdb",
        /// SQLite.
        Sqlite = "sqlite",
        /// Fjall (Garage 2.1 and later).
        Fjall = "fjall",
    }
}

/// Blocks of data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlocksSpec {
    /// Size of a block; Garage's 1 MiB when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,
    /// Memory for blocks in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram_buffer_max: Option<Quantity>,
    /// A zstd level (`1` to `22`, negative levels too) or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression_level: Option<String>,
    /// Blocks read at a time (Garage 2.1 and later).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_concurrent_reads: Option<i32>,
    /// Blocks of one request written at a time (Garage 2.2 and later).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_concurrent_writes_per_request: Option<i32>,
    /// No periodic check of all blocks.
    #[serde(default, skip_serializing_if = "is_false")]
    pub disable_scrub: bool,
    /// Local time instead of UTC for lifecycle rules.
    #[serde(default, rename = "useLocalTZ", skip_serializing_if = "is_false")]
    pub use_local_tz: bool,
}

/// Log output.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoggingSpec {
    /// Value of `RUST_LOG`, for example `garage=debug`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// Refused: there is no syslog in the container.
    #[serde(default, skip_serializing_if = "is_false")]
    pub syslog: bool,
    /// Refused: there is no journald in the container.
    #[serde(default, skip_serializing_if = "is_false")]
    pub journald: bool,
}

/// Switches of Garage's own checks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecuritySpec {
    /// Garage accepts secret files that others can read. Not needed here: secrets come by environment.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_world_readable_secrets: bool,
    /// Bucket names may start with `xn--`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_punycode: bool,
    /// Refused: Garage does not speak TLS on its S3, web and admin ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
}

/// TLS, which Garage does not have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsSpec {
    /// Refused when true.
    #[serde(default, skip_serializing_if = "is_false")]
    pub enabled: bool,
    /// Certificate authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeySelector>,
    /// Certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_secret_ref: Option<SecretKeySelector>,
    /// Private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_secret_ref: Option<SecretKeySelector>,
}

/// Background workers; set through the Admin API on each node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkersSpec {
    /// Pauses of the scrub worker: 0 is full speed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub scrub_tranquility: Option<i32>,
    /// Pauses of the resync workers: 0 is full speed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub resync_tranquility: Option<i32>,
    /// Number of resync workers; Garage has at most 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub resync_worker_count: Option<i32>,
}

fn yes() -> bool {
    true
}

fn s3_port() -> i32 {
    3900
}

fn web_port() -> i32 {
    3902
}

fn admin_port() -> i32 {
    3903
}

fn k2v_port() -> i32 {
    3904
}

fn region() -> String {
    "garage".to_owned()
}
