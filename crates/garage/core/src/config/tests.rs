//! Whole files as goldens (`tests/goldens/config/NAME.yaml` in, `NAME.toml` out; `UPDATE=1` rewrites), and a table of
//! what each field does.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::api::GarageCluster;
use crate::cluster::Problem;

const IMAGE: &str = "dxflrs/garage:v2.5.0";

pub(crate) fn cluster(spec: Value) -> GarageCluster {
    let mut base = json!({"replicas": 3, "storage": {"data": {"size": "100Gi"}}});
    merge(&mut base, spec);
    serde_json::from_value(json!({
        "apiVersion": "garage.rajsingh.info/v1alpha1",
        "kind": "GarageCluster",
        "metadata": {"name": "c", "namespace": "ns", "uid": "8d2b"},
        "spec": base,
    }))
    .expect("a GarageCluster")
}

pub(crate) fn gateway(spec: Value) -> GarageCluster {
    let mut base =
        json!({"gateway": true, "connectTo": {"clusterRef": {"name": "s"}}, "storage": null});
    merge(&mut base, spec);
    cluster(base)
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn own(cluster: &GarageCluster) -> Inherited {
    Inherited::of(cluster, IMAGE)
}

fn refused(cluster: &GarageCluster, inherited: &Inherited) -> Vec<Problem> {
    from_cluster(cluster, inherited, &[]).expect_err("must be refused")
}

#[test]
fn files() {
    let folder = Path::new("tests/goldens/config");
    for name in ["storage", "gateway", "external", "everything"] {
        let manifest =
            fs::read_to_string(folder.join(format!("{name}.yaml"))).expect("the manifest");
        let cluster: GarageCluster = serde_saphyr::from_str(&manifest).expect("a GarageCluster");
        let inherited = if cluster.spec.gateway {
            Inherited::external(3, IMAGE)
        } else {
            own(&cluster)
        };
        let text = render(&from_cluster(&cluster, &inherited, &[]).expect("settings"));
        let path = folder.join(format!("{name}.toml"));
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &text).expect("the golden can be written");
        }
        let golden = fs::read_to_string(&path).expect("the golden; UPDATE=1 writes it");
        assert_eq!(
            text, golden,
            "{name}.toml differs; run with UPDATE=1 and look at the difference"
        );
        assert!(text.contains("data_dir"), "{text}");
    }
}

#[test]
fn each_field_says_one_thing() {
    for (spec, line) in [
        (json!({}), "data_dir = \"/var/lib/garage/data\""),
        (json!({}), "metadata_dir = \"/var/lib/garage/meta\""),
        (json!({}), "replication_factor = 3"),
        (json!({}), "bootstrap_peers = []"),
        (
            json!({"replication": {"factor": 2}}),
            "replication_factor = 2",
        ),
        (
            json!({"replication": {"consistencyMode": "dangerous"}}),
            "consistency_mode = \"dangerous\"",
        ),
        (
            json!({"database": {"engine": "sqlite"}}),
            "db_engine = \"sqlite\"",
        ),
        (
            json!({"database": {"lmdbMapSize": "1Gi"}}),
            "lmdb_map_size = 1073741824",
        ),
        (
            json!({"database": {"engine": "fjall", "fjallBlockCacheSize": "1G"}}),
            "fjall_block_cache_size = 1000000000",
        ),
        (
            json!({"storage": {"metadataFsync": true}}),
            "metadata_fsync = true",
        ),
        (json!({"storage": {"dataFsync": true}}), "data_fsync = true"),
        (
            json!({"storage": {"metadataSnapshotsDir": "/var/lib/garage/data/s"}}),
            "metadata_snapshots_dir = \"/var/lib/garage/data/s\"",
        ),
        (
            json!({"storage": {"metadataAutoSnapshotInterval": "6h"}}),
            "metadata_auto_snapshot_interval = \"6h\"",
        ),
        (
            json!({"storage": {"data": {"size": null, "paths": [{"path": "/a", "capacity": "1Ki"}]}}}),
            "[[data_dir]]\npath = \"/a\"\ncapacity = \"1024\"",
        ),
        (json!({"blocks": {"size": "1Mi"}}), "block_size = 1048576"),
        (
            json!({"blocks": {"ramBufferMax": "1Mi"}}),
            "block_ram_buffer_max = 1048576",
        ),
        (
            json!({"blocks": {"maxConcurrentReads": 3}}),
            "block_max_concurrent_reads = 3",
        ),
        (
            json!({"blocks": {"maxConcurrentWritesPerRequest": 4}}),
            "block_max_concurrent_writes_per_request = 4",
        ),
        (
            json!({"blocks": {"compressionLevel": "none"}}),
            "compression_level = \"none\"",
        ),
        (
            json!({"blocks": {"compressionLevel": "-3"}}),
            "compression_level = -3",
        ),
        (
            json!({"blocks": {"disableScrub": true}}),
            "disable_scrub = true",
        ),
        (
            json!({"blocks": {"useLocalTZ": true}}),
            "use_local_tz = true",
        ),
        (
            json!({"security": {"allowPunycode": true}}),
            "allow_punycode = true",
        ),
        (
            json!({"security": {"allowWorldReadableSecrets": true}}),
            "allow_world_readable_secrets = true",
        ),
        (
            json!({"network": {"rpcBindPort": 1}}),
            "rpc_bind_addr = \"[::]:1\"",
        ),
        (
            json!({"network": {"rpcBindOutgoing": true}}),
            "rpc_bind_outgoing = true",
        ),
        (
            json!({"network": {"rpcPublicAddr": "a.b:1"}}),
            "rpc_public_addr = \"a.b:1\"",
        ),
        (
            json!({"network": {"rpcPublicAddrSubnet": "10.0.0.0/8"}}),
            "rpc_public_addr_subnet = \"10.0.0.0/8\"",
        ),
        (
            json!({"network": {"rpcPingTimeoutMs": 1}}),
            "rpc_ping_timeout_msec = 1",
        ),
        (
            json!({"network": {"rpcTimeoutMs": 2}}),
            "rpc_timeout_msec = 2",
        ),
        (
            json!({"s3Api": {"bindPort": 1}}),
            "[s3_api]\napi_bind_addr = \"[::]:1\"\ns3_region = \"garage\"",
        ),
        (
            json!({"s3Api": {"bindAddress": "0.0.0.0"}}),
            "[s3_api]\napi_bind_addr = \"0.0.0.0:3900\"",
        ),
        (json!({"s3Api": {"region": "eu"}}), "s3_region = \"eu\""),
        (
            json!({"s3Api": {"rootDomain": ".s3.a"}}),
            "s3_region = \"garage\"\nroot_domain = \".s3.a\"",
        ),
        (
            json!({"webApi": {}}),
            "[s3_web]\nbind_addr = \"[::]:3902\"\nroot_domain = \".c.ns.svc\"",
        ),
        (
            json!({"webApi": {"rootDomain": ".a"}}),
            "root_domain = \".a\"",
        ),
        (
            json!({"webApi": {"bindPort": 1, "bindAddress": "0.0.0.0"}}),
            "bind_addr = \"0.0.0.0:1\"",
        ),
        (
            json!({"webApi": {"addHostToMetrics": true}}),
            "add_host_to_metrics = true",
        ),
        (
            json!({"k2vApi": {}}),
            "[k2v_api]\napi_bind_addr = \"[::]:3904\"",
        ),
        (
            json!({"k2vApi": {"bindPort": 1, "bindAddress": "0.0.0.0"}}),
            "[k2v_api]\napi_bind_addr = \"0.0.0.0:1\"",
        ),
        (
            json!({"admin": {"bindPort": 1, "bindAddress": "0.0.0.0"}}),
            "[admin]\napi_bind_addr = \"0.0.0.0:1\"",
        ),
        (
            json!({"admin": {"metricsRequireToken": true}}),
            "metrics_require_token = true",
        ),
        (
            json!({"admin": {"traceSink": "http://o"}}),
            "trace_sink = \"http://o\"",
        ),
    ] {
        let cluster = cluster(spec.clone());
        let text = render(&from_cluster(&cluster, &own(&cluster), &[]).expect("settings"));
        assert!(
            text.contains(&format!("{line}\n")),
            "{spec}: {line} is not in\n{text}"
        );
    }
    for spec in [
        json!({"webApi": {"enabled": false}}),
        json!({"k2vApi": {"enabled": false}}),
    ] {
        let cluster = cluster(spec);
        let text = render(&from_cluster(&cluster, &own(&cluster), &[]).expect("settings"));
        assert!(
            !text.contains("[s3_web]") && !text.contains("[k2v_api]"),
            "{text}"
        );
    }
}

#[test]
fn secrets_are_not_in_the_file() {
    let selector = json!({"name": "s", "key": "k"});
    let cluster = cluster(json!({
        "network": {"rpcSecretRef": selector},
        "admin": {"adminTokenSecretRef": selector, "metricsTokenSecretRef": selector},
    }));
    let text = render(&from_cluster(&cluster, &own(&cluster), &[]).expect("settings"));
    for word in ["secret", "admin_token", "metrics_token"] {
        assert!(!text.contains(word), "{text}");
    }
}

#[test]
fn what_garage_would_refuse_or_ignore() {
    for (spec, field, words) in [
        (
            json!({"discovery": {"kubernetes": {"enabled": true}}}),
            "spec.discovery",
            "not supported",
        ),
        (
            json!({"discovery": {"consul": {"enabled": true}}}),
            "spec.discovery",
            "not supported",
        ),
        (
            json!({"remoteClusters": [{"name": "a", "zone": "z", "connection": {"adminApiEndpoint": "http://a"}}]}),
            "spec.remoteClusters",
            "not supported",
        ),
        (
            json!({"replication": {"factor": 8}}),
            "spec.replication.factor",
            "from 1 to 7",
        ),
        (
            json!({"s3Api": {"enabled": false}}),
            "spec.s3Api.enabled",
            "cannot be false",
        ),
        (
            json!({"admin": {"enabled": false}}),
            "spec.admin.enabled",
            "cannot be false",
        ),
        (
            json!({"security": {"tls": {"enabled": true}}}),
            "spec.security.tls.enabled",
            "no TLS",
        ),
        (
            json!({"s3Api": {"region": " "}}),
            "spec.s3Api.region",
            "cannot be empty",
        ),
        (
            json!({"s3Api": {"bindAddress": "/run/s"}}),
            "spec.s3Api.bindAddress",
            "Unix socket",
        ),
        (
            json!({"s3Api": {"bindAddress": "127.0.0.1"}}),
            "spec.s3Api.bindAddress",
            "inside the pod",
        ),
        (
            json!({"admin": {"bindAddress": "[::1]:1"}}),
            "spec.admin.bindAddress",
            "inside the pod",
        ),
        (
            json!({"s3Api": {"bindPort": 0}}),
            "spec.s3Api.bindPort",
            "port 0",
        ),
        (
            json!({"s3Api": {"bindPort": 3903}}),
            "spec.admin.bindPort",
            "port 3903 is that of spec.s3Api.bindPort",
        ),
        (
            json!({"network": {"rpcBindPort": 70000}}),
            "spec.network.rpcBindPort",
            "port 70000",
        ),
        (
            json!({"s3Api": {"rootDomain": "*.a"}}),
            "spec.s3Api.rootDomain",
            "not a domain",
        ),
        (
            json!({"webApi": {"rootDomain": ""}}),
            "spec.webApi.rootDomain",
            "not a domain",
        ),
        (
            json!({"blocks": {"size": "1GB"}}),
            "spec.blocks.size",
            "not a unit",
        ),
        (
            json!({"blocks": {"size": "0"}}),
            "spec.blocks.size",
            "from 1 to 8Ei",
        ),
        (
            json!({"blocks": {"ramBufferMax": "10Ei"}}),
            "spec.blocks.ramBufferMax",
            "from 1 to 8Ei",
        ),
        (
            json!({"blocks": {"compressionLevel": "high"}}),
            "spec.blocks.compressionLevel",
            "not a compression level",
        ),
        (
            json!({"blocks": {"maxConcurrentReads": 0}}),
            "spec.blocks.maxConcurrentReads",
            "1 or more",
        ),
        (
            json!({"image": "a/garage:v2.0.0", "blocks": {"maxConcurrentReads": 1}}),
            "spec.blocks.maxConcurrentReads",
            "needs Garage 2.1",
        ),
        (
            json!({"image": "a/garage:v2.1.0", "blocks": {"maxConcurrentWritesPerRequest": 1}}),
            "spec.blocks.maxConcurrentWritesPerRequest",
            "needs Garage 2.2",
        ),
        (
            json!({"image": "a/garage:v2.0.0", "database": {"engine": "fjall"}}),
            "spec.database.engine",
            "needs Garage 2.1",
        ),
        (
            json!({"database": {"engine": "sqlite", "lmdbMapSize": "1Gi"}}),
            "spec.database.lmdbMapSize",
            "no effect",
        ),
        (
            json!({"storage": {"metadataAutoSnapshotInterval": "1min"}}),
            "spec.storage.metadataAutoSnapshotInterval",
            "too short",
        ),
        (
            json!({"storage": {"metadataSnapshotsDir": "/tmp"}}),
            "spec.storage.metadataSnapshotsDir",
            "not inside",
        ),
        (
            json!({"network": {"bootstrapPeers": ["abc@h:1"]}}),
            "spec.network.bootstrapPeers[0]",
            "is not a peer",
        ),
        (
            json!({"network": {"rpcPublicAddr": "host"}}),
            "spec.network.rpcPublicAddr",
            "the port is missing",
        ),
        (
            json!({"network": {"rpcPublicAddrSubnet": "10.0.0.0"}}),
            "spec.network.rpcPublicAddrSubnet",
            "not a network",
        ),
        (
            json!({"network": {"rpcTimeoutMs": 0}}),
            "spec.network.rpcTimeoutMs",
            "1 or more",
        ),
        (
            json!({"publicEndpoint": {"type": "NodePort"}}),
            "spec.publicEndpoint.nodePort.basePort",
            "is needed",
        ),
        (
            json!({"publicEndpoint": {"type": "NodePort", "nodePort": {"basePort": 32766, "externalAddresses": ["a"]}}}),
            "spec.publicEndpoint.nodePort.basePort",
            "the last one is 32767",
        ),
        (
            json!({"publicEndpoint": {"type": "ExternalIP"}}),
            "spec.publicEndpoint.externalIP",
            "needs addresses",
        ),
    ] {
        let cluster = cluster(spec.clone());
        let problems = refused(&cluster, &own(&cluster));
        let found = problems
            .iter()
            .any(|p| p.field == field && p.message.contains(words));
        assert!(found, "{spec}: {problems:?}");
    }
    let several = cluster(
        json!({"blocks": {"size": "x", "compressionLevel": "x"}, "s3Api": {"enabled": false}}),
    );
    assert_eq!(refused(&several, &own(&several)).len(), 3);
}

#[test]
fn gateways_inherit() {
    let storage = cluster(json!({
        "replication": {"factor": 5, "consistencyMode": "degraded"},
        "s3Api": {"region": "eu"},
        "blocks": {"size": "2Mi"},
        "security": {"allowPunycode": true},
        "image": "dxflrs/garage:v2.4.0",
    }));
    let inherited = Inherited::of(&storage, IMAGE);
    assert_eq!(inherited.image, "dxflrs/garage:v2.4.0");
    let plain = from_cluster(&gateway(json!({})), &inherited, &[]).expect("settings");
    assert_eq!(
        (plain.replication_factor, plain.s3.region.as_str()),
        (5, "eu")
    );
    assert_eq!(
        (plain.consistency_mode, plain.block_size),
        (ConsistencyMode::Degraded, Some(2 << 20))
    );
    assert!(plain.allow_punycode);
    assert_eq!(plain.data, Data::One(DATA_DIR.to_owned()));

    let own = json!({"replication": {"factor": 5}, "s3Api": {"region": "us"}, "blocks": {}, "security": {}});
    let own = from_cluster(&gateway(own), &inherited, &[]).expect("settings");
    assert_eq!((own.s3.region.as_str(), own.block_size), ("us", None));
    assert_eq!(own.consistency_mode, ConsistencyMode::Consistent);
    assert!(!own.allow_punycode);

    for (spec, field, words) in [
        (
            json!({"replication": {"factor": 3}}),
            "spec.replication.factor",
            "the storage cluster's factor is 5",
        ),
        (
            json!({"storage": {"data": {"size": "1Gi"}}}),
            "spec.storage",
            "storage cannot be specified for gateway clusters",
        ),
        (
            json!({"publicEndpoint": {"type": "Headless"}}),
            "spec.publicEndpoint",
            "is not dialled",
        ),
        (
            json!({"network": {"rpcPublicAddr": "$(POD_NAME).a:1"}}),
            "spec.network.rpcPublicAddr",
            "no fixed names",
        ),
    ] {
        let problems = refused(&gateway(spec), &inherited);
        assert!(
            problems
                .iter()
                .any(|p| p.field == field && p.message.contains(words)),
            "{problems:?}"
        );
    }
}

#[test]
fn peers_come_once_and_are_no_reason_to_restart() {
    let peer = |n: u8| Peer {
        id: crate::identity::NodeKey::from_seed([n; 32]).id(),
        host: format!("h{n}"),
        port: 3901,
    };
    let text = peer(1).to_string();
    let cluster = cluster(json!({"network": {"bootstrapPeers": [text, peer(3).to_string()]}}));
    let settings =
        |peers: &[Peer]| from_cluster(&cluster, &own(&cluster), peers).expect("settings");
    assert_eq!(
        settings(&[peer(2), peer(1)]).bootstrap_peers,
        [peer(2), peer(1), peer(3)]
    );
    assert_eq!(
        config_hash(&settings(&[])),
        config_hash(&settings(&[peer(2)]))
    );
    assert_eq!(config_hash(&settings(&[])).len(), 64);

    let mut other = settings(&[]);
    other.rpc_timeout_ms = Some(1);
    assert_ne!(config_hash(&settings(&[])), config_hash(&other));
    let mut other = settings(&[]);
    other.public_address = Some(PublicAddress::PerPod("$(POD_NAME).a:1".to_owned()));
    assert_ne!(config_hash(&settings(&[])), config_hash(&other));
}

#[test]
fn each_pod_announces_its_address() {
    for (spec, expected) in [
        (
            json!({"network": {"rpcPublicAddr": "$(POD_NAME).x.org:3901"}}),
            [
                Some("c-0.x.org:3901"),
                Some("c-1.x.org:3901"),
                Some("c-2.x.org:3901"),
            ],
        ),
        (
            json!({"network": {"rpcPublicAddr": "a:1"}}),
            [Some("a:1"); 3],
        ),
        (
            json!({"publicEndpoint": {"type": "NodePort", "nodePort": {"basePort": 30000, "externalAddresses": ["10.0.0.1", "fd00::1"]}}}),
            [
                Some("10.0.0.1:30000"),
                Some("[fd00::1]:30001"),
                Some("10.0.0.1:30002"),
            ],
        ),
        (
            json!({"publicEndpoint": {"type": "ExternalIP", "externalIP": {"addressTemplate": "g{ordinal}.x", "addresses": {"c-1": "10.0.0.9"}}}}),
            [Some("g0.x:3901"), Some("10.0.0.9:3901"), Some("g2.x:3901")],
        ),
        (
            json!({"publicEndpoint": {"type": "ExternalIP", "externalIP": {"addresses": {"c-1": "a"}}}}),
            [None, Some("a:3901"), None],
        ),
        (json!({"publicEndpoint": {"type": "Headless"}}), [None; 3]),
        (
            json!({"publicEndpoint": {"type": "LoadBalancer"}}),
            [None; 3],
        ),
    ] {
        let cluster = cluster(spec.clone());
        let settings = from_cluster(&cluster, &own(&cluster), &[]).expect("settings");
        for (slot, expected) in expected.into_iter().enumerate() {
            let text = render_for(&settings, &format!("c-{slot}"), slot as u32);
            let line = expected.map(|address| format!("rpc_public_addr = \"{address}\"\n"));
            match line {
                Some(line) => assert!(text.contains(&line), "{spec}: {line} is not in\n{text}"),
                None => assert!(!text.contains("rpc_public_addr"), "{spec}: {text}"),
            }
        }
    }
}

#[test]
fn versions_are_read_from_images() {
    for (image, version) in [
        ("dxflrs/garage:v2.5.0", Some("2.5.0")),
        ("registry:5000/garage:2.1", Some("2.1.0")),
        ("dxflrs/garage:v2.3.0@sha256:00", Some("2.3.0")),
        ("registry:5000/garage", None),
        ("dxflrs/garage:latest", None),
        ("dxflrs/garage@sha256:1.2", None),
        ("", None),
    ] {
        assert_eq!(
            image_version(image).map(|v| v.to_string()).as_deref(),
            version,
            "{image}"
        );
    }
}
