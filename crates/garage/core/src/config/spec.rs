//! From the fields of a GarageCluster to the settings of its Garage. Refuses what Garage would refuse, or would
//! silently ignore.

use std::net::SocketAddr;

use super::check;
use super::collect::Problems;
use super::endpoint::public_address;
use super::{Admin, Data, DataFolder, METADATA_DIR, S3, Settings, Web};
use crate::admin::GarageVersion;
use crate::api::{
    BlocksSpec, ConsistencyMode, DatabaseEngine, GarageCluster, GarageClusterSpec, S3ApiSpec,
    StorageSpec,
};
use crate::cluster::{DEFAULT_FACTOR, Problem};
use crate::config::DATA_DIR;
use crate::identity::Peer;
use crate::objects::volumes;

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
            region: S3ApiSpec::default().region,
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
    let discovery = spec.discovery.clone().unwrap_or_default();
    if discovery
        .kubernetes
        .is_some_and(|kubernetes| kubernetes.enabled)
        || discovery.consul.is_some_and(|consul| consul.enabled)
    {
        let message = "is not supported: the operator tells each node its peers; name those elsewhere in spec.network.bootstrapPeers";
        problems.add("spec.discovery", message);
    }
    if !spec.remote_clusters.is_empty() {
        let message = "is not supported: add nodes elsewhere as GarageNodes with external";
        problems.add("spec.remoteClusters", message);
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

    let s3_api = spec.s3_api.clone().unwrap_or_else(|| S3ApiSpec {
        region: if spec.gateway {
            inherited.region.clone()
        } else {
            S3ApiSpec::default().region
        },
        ..S3ApiSpec::default()
    });
    if s3_api.region.trim().is_empty() {
        problems.add(
            "spec.s3Api.region",
            "cannot be empty: clients sign their requests for a region",
        );
    }
    let s3 = S3 {
        bind: problems.listen(
            "spec.s3Api.bind",
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
            "spec.admin.bind",
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
                bind: problems.listen(
                    "spec.webApi.bind",
                    web.bind_address.as_deref(),
                    web.bind_port,
                ),
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
    let k2v = k2v.map(|k2v| {
        problems.listen(
            "spec.k2vApi.bind",
            k2v.bind_address.as_deref(),
            k2v.bind_port,
        )
    });
    let rpc_bind = problems.listen("spec.network.rpcBind", None, network.rpc_bind_port);
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

fn factor(spec: &GarageClusterSpec, inherited: &Inherited, problems: &mut Problems) -> u32 {
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
