//! From the fields of a GarageCluster to the settings of its Garage. Refuses what Garage would refuse, or would
//! silently ignore.

use std::net::SocketAddr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::check;
use super::{Admin, Data, DataFolder, METADATA_DIR, PublicAddress, S3, Settings, Web};
use crate::admin::GarageVersion;
use crate::api::{
    BlocksSpec, ConsistencyMode, DatabaseEngine, GarageCluster, NetworkSpec, PublicEndpoint,
    PublicEndpointType, StorageSpec,
};
use crate::cluster::{DEFAULT_FACTOR, Problem};
use crate::config::DATA_DIR;
use crate::identity::{Peer, split_address};
use crate::objects::volumes;
use crate::quantity;

/// What a cluster takes over because its own fields may not, or do not, say it. A gateway answers users for the
/// storage cluster, so what users notice has to be the same on both.
#[derive(Debug, Clone, PartialEq)]
pub struct Inherited {
    /// The storage cluster's replication factor. A node with another factor stops all others.
    pub factor: u32,
    /// Its consistency mode, for a gateway that has no `replication`.
    pub consistency_mode: ConsistencyMode,
    /// Its S3 region, for a gateway that has no `s3Api`.
    pub region: String,
    /// Its block settings, for a gateway that has no `blocks`: the node that takes an upload cuts it.
    pub blocks: Option<BlocksSpec>,
    /// Its answer to `xn--` bucket names, for a gateway that has no `security`.
    pub allow_punycode: bool,
    /// The image of a cluster that names none: the storage cluster's, else the operator's default.
    pub image: String,
}

impl Inherited {
    /// What gateways take over from `storage`; for a storage cluster itself, what it takes over from the operator.
    pub fn of(storage: &GarageCluster, default_image: &str) -> Inherited {
        let spec = &storage.spec;
        let replication = spec.replication.clone().unwrap_or_default();
        Inherited {
            factor: replication
                .factor
                .and_then(|factor| u32::try_from(factor).ok())
                .unwrap_or(DEFAULT_FACTOR),
            consistency_mode: replication.consistency_mode,
            region: spec.s3_api.clone().unwrap_or_default().region,
            blocks: spec.blocks.clone(),
            allow_punycode: spec
                .security
                .as_ref()
                .is_some_and(|security| security.allow_punycode),
            image: spec
                .image
                .clone()
                .unwrap_or_else(|| default_image.to_owned()),
        }
    }

    /// What gateways of a storage cluster elsewhere take over; its factor was asked of it.
    pub fn external(factor: u32, default_image: &str) -> Inherited {
        Inherited {
            factor,
            consistency_mode: ConsistencyMode::default(),
            region: crate::api::S3ApiSpec::default().region,
            blocks: None,
            allow_punycode: false,
            image: default_image.to_owned(),
        }
    }
}

/// The version in an image's tag; None for a digest, `latest` and the like.
pub fn image_version(image: &str) -> Option<GarageVersion> {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let last = name.rsplit('/').next()?;
    last.split_once(':')?.1.parse().ok()
}

/// The settings of a cluster's Garage, or everything that is wrong with its fields.
///
/// `peers` are the nodes that the operator knows; those of the spec come after them, without repetition.
pub fn from_cluster(
    cluster: &GarageCluster,
    inherited: &Inherited,
    peers: &[Peer],
) -> Result<Settings, Vec<Problem>> {
    let mut problems = Problems(Vec::new());
    let spec = &cluster.spec;
    let image = spec.image.as_deref().unwrap_or(&inherited.image);
    let version = image_version(image);
    let network = spec.network.clone().unwrap_or_default();
    let storage = spec.storage.clone().unwrap_or_default();
    let database = spec.database.clone().unwrap_or_default();
    let security = spec.security.clone();
    let own_blocks = spec.blocks.clone();
    let blocks = own_blocks
        .or_else(|| spec.gateway.then(|| inherited.blocks.clone())?)
        .unwrap_or_default();

    let replication_factor = factor(spec, inherited, &mut problems);
    let consistency_mode = match &spec.replication {
        Some(replication) => replication.consistency_mode,
        None if spec.gateway => inherited.consistency_mode,
        None => ConsistencyMode::default(),
    };
    let data = data(cluster, &mut problems);

    // Garage ignores keys that it does not know.
    if database.engine == DatabaseEngine::Fjall {
        problems.since(version, image, "spec.database.engine", (2, 1));
    }
    if blocks.max_concurrent_reads.is_some() {
        problems.since(version, image, "spec.blocks.maxConcurrentReads", (2, 1));
    }
    if blocks.max_concurrent_writes_per_request.is_some() {
        problems.since(
            version,
            image,
            "spec.blocks.maxConcurrentWritesPerRequest",
            (2, 2),
        );
    }
    for (field, size, engine) in [
        (
            "spec.database.lmdbMapSize",
            &database.lmdb_map_size,
            DatabaseEngine::Lmdb,
        ),
        (
            "spec.database.fjallBlockCacheSize",
            &database.fjall_block_cache_size,
            DatabaseEngine::Fjall,
        ),
    ] {
        if size.is_some() && database.engine != engine {
            problems.add(
                field,
                format!("has no effect with the engine {}", database.engine),
            );
        }
    }
    for (field, refused) in [
        (
            "spec.s3Api.enabled",
            spec.s3_api.as_ref().is_some_and(|api| !api.enabled),
        ),
        (
            "spec.admin.enabled",
            spec.admin.as_ref().is_some_and(|api| !api.enabled),
        ),
    ] {
        if refused {
            problems.add(
                field,
                "cannot be false: Garage needs it to start and the operator to manage it",
            );
        }
    }
    if security
        .as_ref()
        .and_then(|security| security.tls.as_ref())
        .is_some_and(|tls| tls.enabled)
    {
        let message =
            "Garage has no TLS of its own; end TLS in front of it, at an Ingress or a Gateway";
        problems.add("spec.security.tls.enabled", message);
    }

    let s3_api = spec
        .s3_api
        .clone()
        .unwrap_or_else(|| crate::api::S3ApiSpec {
            region: if spec.gateway {
                inherited.region.clone()
            } else {
                crate::api::S3ApiSpec::default().region
            },
            ..crate::api::S3ApiSpec::default()
        });
    if s3_api.region.trim().is_empty() {
        problems.add(
            "spec.s3Api.region",
            "cannot be empty: clients sign their requests for a region",
        );
    }
    let s3 = S3 {
        bind: problems.listen(
            "spec.s3Api",
            s3_api.bind_address.as_deref(),
            s3_api.bind_port,
        ),
        region: s3_api.region,
        root_domain: s3_api
            .root_domain
            .and_then(|d| problems.keep("spec.s3Api.rootDomain", check::root_domain(&d))),
    };
    let admin_api = spec.admin.clone().unwrap_or_default();
    let admin = Admin {
        bind: problems.listen(
            "spec.admin",
            admin_api.bind_address.as_deref(),
            admin_api.bind_port,
        ),
        metrics_require_token: admin_api.metrics_require_token,
        trace_sink: admin_api.trace_sink,
    };
    for (field, address) in [
        ("spec.s3Api.bindAddress", s3.bind),
        ("spec.admin.bindAddress", admin.bind),
    ] {
        if address.ip().is_loopback() {
            problems.add(
                field,
                format!(
                    "{} can only be reached from inside the pod; leave the field out",
                    address.ip()
                ),
            );
        }
    }
    let web = spec
        .web_api
        .as_ref()
        .filter(|web| web.enabled != Some(false))
        .map(|web| {
            let namespace = cluster.metadata.namespace.as_deref().unwrap_or_default();
            let name = cluster.metadata.name.as_deref().unwrap_or_default();
            let domain = web
                .root_domain
                .clone()
                .unwrap_or_else(|| format!(".{name}.{namespace}.svc"));
            Web {
                bind: problems.listen("spec.webApi", web.bind_address.as_deref(), web.bind_port),
                root_domain: problems
                    .keep("spec.webApi.rootDomain", check::root_domain(&domain))
                    .unwrap_or_default(),
                add_host_to_metrics: web.add_host_to_metrics,
            }
        });
    let k2v = spec
        .k2v_api
        .as_ref()
        .filter(|k2v| k2v.enabled != Some(false));
    let k2v =
        k2v.map(|k2v| problems.listen("spec.k2vApi", k2v.bind_address.as_deref(), k2v.bind_port));
    let rpc_bind = problems.listen("spec.network.rpc", None, network.rpc_bind_port);
    distinct_ports(rpc_bind, &s3, web.as_ref(), k2v, &admin, &mut problems);

    let settings = Settings {
        metadata_dir: METADATA_DIR.to_owned(),
        metadata_snapshots_dir: snapshots_dir(&storage, &data, &mut problems),
        data,
        db_engine: database.engine,
        metadata_fsync: storage.metadata_fsync,
        data_fsync: storage.data_fsync,
        metadata_auto_snapshot_interval: storage.metadata_auto_snapshot_interval.filter(
            |interval| {
                problems
                    .keep(
                        "spec.storage.metadataAutoSnapshotInterval",
                        check::snapshot_interval(interval),
                    )
                    .is_some()
            },
        ),
        lmdb_map_size: problems.size("spec.database.lmdbMapSize", database.lmdb_map_size),
        fjall_block_cache_size: problems.size(
            "spec.database.fjallBlockCacheSize",
            database.fjall_block_cache_size,
        ),
        replication_factor,
        consistency_mode,
        block_size: problems.size("spec.blocks.size", blocks.size),
        block_ram_buffer_max: problems.size("spec.blocks.ramBufferMax", blocks.ram_buffer_max),
        block_max_concurrent_reads: problems.count(
            "spec.blocks.maxConcurrentReads",
            blocks.max_concurrent_reads,
        ),
        block_max_concurrent_writes_per_request: problems.count(
            "spec.blocks.maxConcurrentWritesPerRequest",
            blocks.max_concurrent_writes_per_request,
        ),
        compression: blocks.compression_level.and_then(|level| {
            problems.keep("spec.blocks.compressionLevel", check::compression(&level))
        }),
        disable_scrub: blocks.disable_scrub,
        use_local_tz: blocks.use_local_tz,
        allow_world_readable_secrets: security
            .as_ref()
            .is_some_and(|s| s.allow_world_readable_secrets),
        allow_punycode: match &security {
            Some(security) => security.allow_punycode,
            None => spec.gateway && inherited.allow_punycode,
        },
        rpc_bind,
        rpc_bind_outgoing: network.rpc_bind_outgoing,
        public_address: public_address(cluster, &network, &mut problems),
        rpc_public_addr_subnet: network.rpc_public_addr_subnet.filter(|subnet| {
            problems
                .keep("spec.network.rpcPublicAddrSubnet", check::network(subnet))
                .is_some()
        }),
        rpc_ping_timeout_ms: problems
            .milliseconds("spec.network.rpcPingTimeoutMs", network.rpc_ping_timeout_ms),
        rpc_timeout_ms: problems.milliseconds("spec.network.rpcTimeoutMs", network.rpc_timeout_ms),
        bootstrap_peers: all_peers(cluster, peers, &mut problems),
        s3,
        web,
        k2v,
        admin,
    };
    if problems.0.is_empty() {
        Ok(settings)
    } else {
        Err(problems.0)
    }
}

fn factor(
    spec: &crate::api::GarageClusterSpec,
    inherited: &Inherited,
    problems: &mut Problems,
) -> u32 {
    let field = "spec.replication.factor";
    let own = spec
        .replication
        .as_ref()
        .and_then(|replication| replication.factor);
    let own = match own.map(u32::try_from) {
        None => None,
        Some(Ok(factor @ 1..=7)) => Some(factor),
        Some(Ok(_) | Err(_)) => {
            problems.add(field, "must be from 1 to 7");
            None
        }
    };
    if !spec.gateway {
        return own.unwrap_or(DEFAULT_FACTOR);
    }
    let Inherited { factor, .. } = inherited;
    if own.is_some_and(|own| own != *factor) {
        let message = format!(
            "the storage cluster's factor is {factor}, and nodes with another one stop all others; leave the field out"
        );
        problems.add(field, message);
    }
    *factor
}

fn data(cluster: &GarageCluster, problems: &mut Problems) -> Data {
    let one = || Data::One(DATA_DIR.to_owned());
    if cluster.spec.gateway {
        if cluster.spec.storage.is_some() {
            problems.add(
                "spec.storage",
                "storage cannot be specified for gateway clusters",
            );
        }
        return one();
    }
    match volumes::claims(&cluster.spec) {
        Err(found) => {
            problems.0.extend(found);
            one()
        }
        Ok(claims) => {
            let several = cluster
                .spec
                .storage
                .iter()
                .filter_map(|s| s.data.as_ref())
                .any(|data| !data.paths.is_empty());
            if !several {
                return one();
            }
            let folder = |claim: &volumes::Claim| DataFolder {
                path: claim.path.clone(),
                capacity: claim.capacity,
            };
            Data::Many(claims.iter().skip(1).map(folder).collect())
        }
    }
}

fn snapshots_dir(storage: &StorageSpec, data: &Data, problems: &mut Problems) -> Option<String> {
    let folder = storage.metadata_snapshots_dir.clone()?;
    let mut volumes = vec![METADATA_DIR];
    match data {
        Data::One(path) => volumes.push(path),
        Data::Many(folders) => volumes.extend(folders.iter().map(|folder| folder.path.as_str())),
    }
    let inside = |volume: &&str| {
        folder
            .strip_prefix(*volume)
            .is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
    };
    if volumes.iter().any(inside) && !folder.split('/').any(|part| part == "..") {
        return Some(folder);
    }
    let message = format!(
        "\"{folder}\" is not inside one of the volumes ({})",
        volumes.join(", ")
    );
    problems.add("spec.storage.metadataSnapshotsDir", message);
    None
}

fn distinct_ports(
    rpc: SocketAddr,
    s3: &S3,
    web: Option<&Web>,
    k2v: Option<SocketAddr>,
    admin: &Admin,
    problems: &mut Problems,
) {
    let listeners = [
        ("spec.network.rpcBindPort", Some(rpc)),
        ("spec.s3Api.bindPort", Some(s3.bind)),
        ("spec.webApi.bindPort", web.map(|web| web.bind)),
        ("spec.admin.bindPort", Some(admin.bind)),
        ("spec.k2vApi.bindPort", k2v),
    ];
    for (index, (field, address)) in listeners.iter().enumerate() {
        let Some(address) = address else { continue };
        let earlier = listeners[..index]
            .iter()
            .find(|(_, other)| other.is_some_and(|o| o.port() == address.port()));
        if let Some((other, _)) = earlier {
            problems.add(
                field,
                format!("port {} is that of {other} already", address.port()),
            );
        }
    }
}

fn public_address(
    cluster: &GarageCluster,
    network: &NetworkSpec,
    problems: &mut Problems,
) -> Option<PublicAddress> {
    let field = "spec.network.rpcPublicAddr";
    if let Some(address) = &network.rpc_public_addr {
        let per_pod = address.contains("$(POD_NAME)") || address.contains("$(POD_INDEX)");
        if per_pod && cluster.spec.gateway {
            problems.add(
                field,
                "gateway pods have no fixed names; write one address or leave the field out",
            );
            return None;
        }
        let sample = address
            .replace("$(POD_NAME)", "pod-0")
            .replace("$(POD_INDEX)", "0");
        if let Err(why) = split_address(&sample) {
            problems.add(field, format!("\"{address}\": {why}; write host:port"));
            return None;
        }
        let address = address.clone();
        return Some(if per_pod {
            PublicAddress::PerPod(address)
        } else {
            PublicAddress::Same(address)
        });
    }
    let PublicEndpoint {
        type_,
        node_port,
        external_ip,
        ..
    } = cluster.spec.public_endpoint.as_ref()?;
    if cluster.spec.gateway {
        let message = "a gateway dials the storage nodes and is not dialled; only storage clusters have public endpoints";
        problems.add("spec.publicEndpoint", message);
        return None;
    }
    let replicas = u16::try_from(cluster.spec.replicas).unwrap_or(u16::MAX);
    match type_ {
        // Where the load balancer is, nobody knows yet; pods announce their own address, as without an endpoint.
        PublicEndpointType::Headless | PublicEndpointType::LoadBalancer => None,
        PublicEndpointType::NodePort => {
            let node_port = node_port.clone().unwrap_or_default();
            let base = node_port
                .base_port
                .and_then(|port| u16::try_from(port).ok())
                .filter(|base| (30_000..=32_767).contains(base));
            let Some(base) = base else {
                let message = "is needed, from 30000 to 32767: the nodes announce this port and those after it";
                problems.add("spec.publicEndpoint.nodePort.basePort", message);
                return None;
            };
            if base.saturating_add(replicas) > 32_768 {
                let message = format!(
                    "{replicas} nodes need the ports from {base} on, and the last one is 32767"
                );
                problems.add("spec.publicEndpoint.nodePort.basePort", message);
            }
            if node_port.external_addresses.is_empty() {
                let message = "is needed: the address of at least one Kubernetes node";
                problems.add("spec.publicEndpoint.nodePort.externalAddresses", message);
                return None;
            }
            Some(PublicAddress::NodePorts {
                hosts: node_port.external_addresses,
                base,
            })
        }
        PublicEndpointType::ExternalIp => {
            let endpoint = external_ip.clone().unwrap_or_default();
            if endpoint.addresses.is_empty() && endpoint.address_template.is_none() {
                problems.add(
                    "spec.publicEndpoint.externalIP",
                    "needs addresses or addressTemplate",
                );
                return None;
            }
            Some(PublicAddress::Named {
                hosts: endpoint.addresses,
                // `{ordinal}` is how earlier versions of this API wrote it.
                template: endpoint
                    .address_template
                    .map(|template| template.replace("{ordinal}", "$(POD_INDEX)")),
                port: u16::try_from(network.rpc_bind_port).unwrap_or_default(),
            })
        }
    }
}

fn all_peers(cluster: &GarageCluster, known: &[Peer], problems: &mut Problems) -> Vec<Peer> {
    let spec = &cluster.spec;
    let named = [
        (
            "spec.network.bootstrapPeers",
            spec.network
                .as_ref()
                .map(|network| &network.bootstrap_peers),
        ),
        (
            "spec.connectTo.bootstrapPeers",
            spec.connect_to
                .as_ref()
                .map(|target| &target.bootstrap_peers),
        ),
    ];
    let mut peers = known.to_vec();
    for (field, texts) in named {
        for (index, text) in texts.into_iter().flatten().enumerate() {
            match text.parse::<Peer>() {
                Ok(peer) => peers.push(peer),
                Err(error) => problems.add(&format!("{field}[{index}]"), error.to_string()),
            }
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    peers.retain(|peer| seen.insert(peer.clone()));
    peers
}

struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(Problem {
            field: field.to_owned(),
            message: message.into(),
        });
    }

    fn keep<T>(&mut self, field: &str, checked: Result<T, String>) -> Option<T> {
        checked.map_err(|message| self.add(field, message)).ok()
    }

    /// The address of a listener; a stand-in after a refusal, which makes the whole result a refusal.
    fn listen(&mut self, field: &str, address: Option<&str>, port: i32) -> SocketAddr {
        let stand_in = SocketAddr::from(([0, 0, 0, 0], 0));
        let name = if address.is_some() {
            format!("{field}.bindAddress")
        } else if field == "spec.network.rpc" {
            "spec.network.rpcBindPort".to_owned()
        } else {
            format!("{field}.bindPort")
        };
        self.keep(&name, check::listen(address, port))
            .unwrap_or(stand_in)
    }

    fn size(&mut self, field: &str, quantity: Option<Quantity>) -> Option<u64> {
        let bytes = self.keep(
            field,
            quantity::bytes(&quantity?).map_err(|error| error.to_string()),
        )?;
        if bytes == 0 || i64::try_from(bytes).is_err() {
            self.add(field, "must be from 1 to 8Ei");
        }
        Some(bytes)
    }

    fn count(&mut self, field: &str, number: Option<i32>) -> Option<u32> {
        let number = u32::try_from(number?).ok().filter(|number| *number > 0);
        self.keep(field, number.ok_or_else(|| "must be 1 or more".to_owned()))
    }

    fn milliseconds(&mut self, field: &str, number: Option<i64>) -> Option<u64> {
        let number = u64::try_from(number?).ok().filter(|number| *number > 0);
        self.keep(
            field,
            number.ok_or_else(|| "must be 1 or more milliseconds".to_owned()),
        )
    }

    fn since(
        &mut self,
        version: Option<GarageVersion>,
        image: &str,
        field: &str,
        (major, minor): (u32, u32),
    ) {
        if version.is_some_and(|version| version < GarageVersion::new(major, minor, 0)) {
            self.add(
                field,
                format!(
                    "needs Garage {major}.{minor}, and the image is {image}, which would ignore it"
                ),
            );
        }
    }
}
