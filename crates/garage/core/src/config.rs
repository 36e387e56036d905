//! `garage.toml` as a value and as text. What a cluster's fields mean is [`from_cluster`]; nothing is read or written.
//!
//! The RPC secret and the admin token are never part of it: they reach Garage by environment.

mod check;
mod collect;
mod endpoint;
mod spec;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

pub use spec::{Inherited, from_cluster, image_version};

use crate::api::{ConsistencyMode, DatabaseEngine};
use crate::identity::Peer;

/// Where the metadata is, in every pod.
pub const METADATA_DIR: &str = "/var/lib/garage/meta";
/// Where the data is, unless a storage cluster names its folders.
pub const DATA_DIR: &str = "/var/lib/garage/data";

/// Everything that the operator says to Garage in its file. `None` is Garage's own default.
///
/// <https://garagehq.deuxfleurs.fr/documentation/reference-manual/configuration/>
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Folder of the metadata database and of the node key.
    pub metadata_dir: String,
    /// Folder or folders of the data. Gateways need one too: Garage does not start without.
    pub data: Data,
    /// Metadata engine.
    pub db_engine: DatabaseEngine,
    /// Sync metadata at each write.
    pub metadata_fsync: bool,
    /// Sync data at each write.
    pub data_fsync: bool,
    /// Folder of metadata snapshots.
    pub metadata_snapshots_dir: Option<String>,
    /// Time between metadata snapshots, as systemd writes it; at least ten minutes.
    pub metadata_auto_snapshot_interval: Option<String>,
    /// Bytes.
    pub lmdb_map_size: Option<u64>,
    /// Bytes.
    pub fjall_block_cache_size: Option<u64>,
    /// Copies of each object. All nodes of a layout must say the same, or they stop.
    pub replication_factor: u32,
    /// What reads and writes wait for.
    pub consistency_mode: ConsistencyMode,
    /// Bytes.
    pub block_size: Option<u64>,
    /// Bytes.
    pub block_ram_buffer_max: Option<u64>,
    /// Since Garage 2.1.
    pub block_max_concurrent_reads: Option<u32>,
    /// Since Garage 2.2.
    pub block_max_concurrent_writes_per_request: Option<u32>,
    /// Compression of blocks.
    pub compression: Option<Compression>,
    /// No periodic check of all blocks.
    pub disable_scrub: bool,
    /// Local time instead of UTC.
    pub use_local_tz: bool,
    /// Secret files may be readable for others.
    pub allow_world_readable_secrets: bool,
    /// Bucket names may start with `xn--`.
    pub allow_punycode: bool,
    /// Where RPC listens.
    pub rpc_bind: SocketAddr,
    /// Outgoing connections come from that address.
    pub rpc_bind_outgoing: bool,
    /// What nodes tell others about where they are; the pod's address when absent.
    pub public_address: Option<PublicAddress>,
    /// CIDR that the announced address is taken from.
    pub rpc_public_addr_subnet: Option<String>,
    /// Milliseconds.
    pub rpc_ping_timeout_ms: Option<u64>,
    /// Milliseconds.
    pub rpc_timeout_ms: Option<u64>,
    /// Nodes to dial first. Hints: they are not part of [`config_hash`].
    pub bootstrap_peers: Vec<Peer>,
    /// S3 API.
    pub s3: S3,
    /// Websites.
    pub web: Option<Web>,
    /// Where K2V listens.
    pub k2v: Option<SocketAddr>,
    /// Admin API.
    pub admin: Admin,
}

/// Where the data is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// One folder.
    One(String),
    /// Several, each with its share.
    Many(Vec<DataFolder>),
}

/// One of several data folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFolder {
    /// Absolute path.
    pub path: String,
    /// Bytes that Garage may put there; `None`: it only reads.
    pub capacity: Option<u64>,
}

/// zstd or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Blocks are stored as they are.
    Off,
    /// A zstd level.
    Level(i32),
}

/// The RPC address that a node announces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum PublicAddress {
    /// The same `host:port` for all.
    Same(String),
    /// `host:port` with `$(POD_NAME)` in it.
    PerPod(String),
    /// Addresses by pod name, and a template for the others (`$(POD_NAME)`, `$(POD_INDEX)`), without port.
    Named {
        /// Host by pod name.
        hosts: BTreeMap<String, String>,
        /// Host of pods that have none.
        template: Option<String>,
        /// RPC port.
        port: u16,
    },
    /// The hosts in turn; each slot has the next port.
    NodePorts {
        /// Addresses of Kubernetes nodes; never empty.
        hosts: Vec<String>,
        /// Port of slot 0.
        base: u16,
    },
}

impl PublicAddress {
    /// The address of one pod, if it has one of its own.
    pub fn of(&self, pod: &str, slot: u32) -> Option<String> {
        let fill = |template: &str| {
            template
                .replace("$(POD_NAME)", pod)
                .replace("$(POD_INDEX)", &slot.to_string())
        };
        match self {
            PublicAddress::Same(address) => Some(address.clone()),
            PublicAddress::PerPod(template) => Some(fill(template)),
            PublicAddress::Named {
                hosts,
                template,
                port,
            } => {
                let host = hosts
                    .get(pod)
                    .cloned()
                    .or_else(|| template.as_deref().map(fill))?;
                Some(with_port(&host, *port))
            }
            PublicAddress::NodePorts { hosts, base } => {
                let host = hosts.get(slot as usize % hosts.len().max(1))?;
                Some(with_port(
                    host,
                    base.checked_add(u16::try_from(slot).ok()?)?,
                ))
            }
        }
    }

    /// Whether each pod needs a file of its own.
    pub fn per_pod(&self) -> bool {
        !matches!(self, PublicAddress::Same(_))
    }
}

fn with_port(host: &str, port: u16) -> String {
    if host.parse::<std::net::Ipv6Addr>().is_ok() {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// `[s3_api]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3 {
    /// Where it listens.
    pub bind: SocketAddr,
    /// Region that clients sign for.
    pub region: String,
    /// Domain of virtual-hosted buckets.
    pub root_domain: Option<String>,
}

/// `[s3_web]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Web {
    /// Where it listens.
    pub bind: SocketAddr,
    /// Domain of websites. Garage before 2.5 does not start without one, so there always is one.
    pub root_domain: String,
    /// Host names in metrics.
    pub add_host_to_metrics: bool,
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub bind: SocketAddr,
    /// `/metrics` needs a token.
    pub metrics_require_token: bool,
    /// OTLP endpoint.
    pub trace_sink: Option<String>,
}

/// The text of `garage.toml`, the same for all pods; an address that differs from pod to pod is left out.
pub fn render(settings: &Settings) -> String {
    let address = match &settings.public_address {
        Some(PublicAddress::Same(address)) => Some(address.clone()),
        Some(
            PublicAddress::PerPod(_)
            | PublicAddress::Named { .. }
            | PublicAddress::NodePorts { .. },
        )
        | None => None,
    };
    File::new(settings, address).render()
}

/// The text of `garage.toml` for one pod.
pub fn render_for(settings: &Settings, pod: &str, slot: u32) -> String {
    let address = settings
        .public_address
        .as_ref()
        .and_then(|address| address.of(pod, slot));
    File::new(settings, address).render()
}

/// 64 hex digits that change when a running Garage would have to be restarted to notice. Bootstrap peers are not
/// in it: they only help a node that has lost everybody, and scaling storage must not roll pods.
pub fn config_hash(settings: &Settings) -> String {
    let mut file = File::new(settings, None);
    file.bootstrap_peers.clear();
    let mut hash = Sha256::new();
    hash.update(file.render());
    if let Some(address) = &settings.public_address {
        hash.update(serde_json::to_string(address).expect("strings and numbers are JSON"));
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The file in the order in which it is written: numbers and texts before tables.
#[derive(Serialize)]
struct File<'a> {
    metadata_dir: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_dir: Option<&'a str>,
    db_engine: &'a str,
    #[serde(skip_serializing_if = "is_false")]
    metadata_fsync: bool,
    #[serde(skip_serializing_if = "is_false")]
    data_fsync: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata_snapshots_dir: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata_auto_snapshot_interval: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lmdb_map_size: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fjall_block_cache_size: Option<i64>,
    replication_factor: u32,
    consistency_mode: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_size: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_ram_buffer_max: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_max_concurrent_reads: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_max_concurrent_writes_per_request: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compression_level: Option<Level>,
    #[serde(skip_serializing_if = "is_false")]
    disable_scrub: bool,
    #[serde(skip_serializing_if = "is_false")]
    use_local_tz: bool,
    #[serde(skip_serializing_if = "is_false")]
    allow_world_readable_secrets: bool,
    #[serde(skip_serializing_if = "is_false")]
    allow_punycode: bool,
    rpc_bind_addr: SocketAddr,
    #[serde(skip_serializing_if = "is_false")]
    rpc_bind_outgoing: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rpc_public_addr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rpc_public_addr_subnet: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rpc_ping_timeout_msec: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rpc_timeout_msec: Option<i64>,
    bootstrap_peers: Vec<String>,
    #[serde(rename = "data_dir", skip_serializing_if = "Vec::is_empty")]
    data_dirs: Vec<DataTable<'a>>,
    s3_api: S3Table<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    s3_web: Option<WebTable<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    k2v_api: Option<K2vTable>,
    admin: AdminTable<'a>,
}

#[derive(Serialize)]
struct DataTable<'a> {
    path: &'a str,
    /// Garage reads a text here, not a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    read_only: bool,
}

#[derive(Serialize)]
struct S3Table<'a> {
    api_bind_addr: SocketAddr,
    s3_region: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    root_domain: Option<&'a str>,
}

#[derive(Serialize)]
struct WebTable<'a> {
    bind_addr: SocketAddr,
    root_domain: &'a str,
    #[serde(skip_serializing_if = "is_false")]
    add_host_to_metrics: bool,
}

#[derive(Serialize)]
struct K2vTable {
    api_bind_addr: SocketAddr,
}

#[derive(Serialize)]
struct AdminTable<'a> {
    api_bind_addr: SocketAddr,
    #[serde(skip_serializing_if = "is_false")]
    metrics_require_token: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_sink: Option<&'a str>,
}

/// Garage takes a number or the word `none`.
#[derive(Serialize)]
#[serde(untagged)]
enum Level {
    None(&'static str),
    Zstd(i32),
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
fn is_false(value: &bool) -> bool {
    !value
}

impl File<'_> {
    fn new(settings: &Settings, rpc_public_addr: Option<String>) -> File<'_> {
        // TOML numbers are signed; `from_cluster` refuses what is larger.
        let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let (data_dir, data_dirs) = match &settings.data {
            Data::One(path) => (Some(path.as_str()), Vec::new()),
            Data::Many(folders) => (None, folders.iter().map(DataTable::new).collect()),
        };
        File {
            metadata_dir: &settings.metadata_dir,
            data_dir,
            db_engine: settings.db_engine.as_str(),
            metadata_fsync: settings.metadata_fsync,
            data_fsync: settings.data_fsync,
            metadata_snapshots_dir: settings.metadata_snapshots_dir.as_deref(),
            metadata_auto_snapshot_interval: settings.metadata_auto_snapshot_interval.as_deref(),
            lmdb_map_size: settings.lmdb_map_size.map(number),
            fjall_block_cache_size: settings.fjall_block_cache_size.map(number),
            replication_factor: settings.replication_factor,
            consistency_mode: settings.consistency_mode.as_str(),
            block_size: settings.block_size.map(number),
            block_ram_buffer_max: settings.block_ram_buffer_max.map(number),
            block_max_concurrent_reads: settings.block_max_concurrent_reads,
            block_max_concurrent_writes_per_request: settings
                .block_max_concurrent_writes_per_request,
            compression_level: settings.compression.map(|compression| match compression {
                Compression::Off => Level::None("none"),
                Compression::Level(level) => Level::Zstd(level),
            }),
            disable_scrub: settings.disable_scrub,
            use_local_tz: settings.use_local_tz,
            allow_world_readable_secrets: settings.allow_world_readable_secrets,
            allow_punycode: settings.allow_punycode,
            rpc_bind_addr: settings.rpc_bind,
            rpc_bind_outgoing: settings.rpc_bind_outgoing,
            rpc_public_addr,
            rpc_public_addr_subnet: settings.rpc_public_addr_subnet.as_deref(),
            rpc_ping_timeout_msec: settings.rpc_ping_timeout_ms.map(number),
            rpc_timeout_msec: settings.rpc_timeout_ms.map(number),
            bootstrap_peers: settings
                .bootstrap_peers
                .iter()
                .map(Peer::to_string)
                .collect(),
            data_dirs,
            s3_api: S3Table {
                api_bind_addr: settings.s3.bind,
                s3_region: &settings.s3.region,
                root_domain: settings.s3.root_domain.as_deref(),
            },
            s3_web: settings.web.as_ref().map(|web| WebTable {
                bind_addr: web.bind,
                root_domain: &web.root_domain,
                add_host_to_metrics: web.add_host_to_metrics,
            }),
            k2v_api: settings.k2v.map(|api_bind_addr| K2vTable { api_bind_addr }),
            admin: AdminTable {
                api_bind_addr: settings.admin.bind,
                metrics_require_token: settings.admin.metrics_require_token,
                trace_sink: settings.admin.trace_sink.as_deref(),
            },
        }
    }

    fn render(&self) -> String {
        toml::to_string(self).expect("texts, numbers and tables of them are TOML")
    }
}

impl DataTable<'_> {
    fn new(folder: &DataFolder) -> DataTable<'_> {
        DataTable {
            path: &folder.path,
            capacity: folder.capacity.map(|bytes| bytes.to_string()),
            read_only: folder.capacity.is_none(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
