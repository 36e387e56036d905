//! Tables of what the webhook says.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

mod users;

fn object<T: DeserializeOwned>(kind: &str, place: &str, spec: &str) -> T {
    let (namespace, name) = place.split_once('/').expect("namespace/name");
    let spec = spec.replace("HEX", &"ab".repeat(32));
    let spec: Value = serde_saphyr::from_str(&spec).expect("YAML");
    serde_json::from_value(json!({
        "apiVersion": crate::api::API_VERSION,
        "kind": kind,
        "metadata": { "namespace": namespace, "name": name },
        "spec": spec,
    }))
    .unwrap_or_else(|error| panic!("{kind} {place}: {error}"))
}

/// A world of lines `Kind namespace/name {spec}`, or `grant namespace Kind from-namespace [name]`.
fn world(lines: &[&str]) -> World {
    let mut world = World {
        buckets: Some(BTreeMap::new()),
        keys: Some(BTreeMap::new()),
        ..World::default()
    };
    for line in lines {
        let (kind, rest) = line.split_once(' ').expect("kind");
        let (place, spec) = rest.split_once(' ').expect("place");
        let at = |place: &str| {
            let (namespace, name) = place.split_once('/').expect("namespace/name");
            ClusterKey {
                namespace: namespace.into(),
                name: name.into(),
            }
        };
        match kind {
            "GarageCluster" => {
                _ = world
                    .clusters
                    .insert(at(place), Arc::new(object(kind, place, spec)))
            }
            "GarageNode" => {
                _ = world
                    .nodes
                    .insert(at(place), Arc::new(object(kind, place, spec)))
            }
            "GarageBucket" => {
                _ = world
                    .buckets
                    .get_or_insert_default()
                    .insert(at(place), Arc::new(object(kind, place, spec)));
            }
            "GarageKey" => {
                _ = world
                    .keys
                    .get_or_insert_default()
                    .insert(at(place), Arc::new(object(kind, place, spec)))
            }
            "GarageAdminToken" => {
                _ = world
                    .tokens
                    .insert(at(place), Arc::new(object(kind, place, spec)))
            }
            "grant" => {
                let words: Vec<&str> = spec.split(' ').collect();
                let group = crate::api::GROUP.to_owned();
                world.grants.push(Grant {
                    namespace: place.into(),
                    from: vec![GrantFrom {
                        group: group.clone(),
                        kind: words[0].into(),
                        namespace: words[1].into(),
                    }],
                    to: vec![GrantTo {
                        group,
                        kind: "GarageCluster".into(),
                        name: words.get(2).map(|name| (*name).into()),
                    }],
                });
            }
            other => panic!("{other}?"),
        }
    }
    world
}

/// `""` allows silently, `!text` denies with text, `text` warns with it.
fn check(case: &str, verdict: &Verdict, expected: &str) {
    match expected.strip_prefix('!') {
        Some(text) => {
            let deny = verdict
                .deny
                .as_ref()
                .unwrap_or_else(|| panic!("{case} is allowed: {verdict:?}"));
            assert!(deny.contains(text), "{case}: {deny}");
        }
        None => {
            assert_eq!(verdict.deny, None, "{case}");
            match expected {
                "" => assert!(
                    verdict.warnings.is_empty(),
                    "{case}: {:?}",
                    verdict.warnings
                ),
                text => assert!(
                    verdict.warnings.iter().any(|w| w.contains(text)),
                    "{case}: {:?}",
                    verdict.warnings
                ),
            }
        }
    }
}

const STORAGE: &str = "GarageCluster s/main { storage: { data: { size: 1Gi } } }";
const GATEWAY: &str = "{ gateway: true, connectTo: { clusterRef: { name: main } } }";

#[test]
fn clusters() {
    let two_zones = "GarageNode s/n { clusterRef: { name: main }, zone: dc2, capacity: 1Gi }";
    let gateway = "GarageCluster s/gw { gateway: true, connectTo: { clusterRef: { name: main } } }";
    let far = "{ gateway: true, connectTo: { clusterRef: { name: main, namespace: s } } }";
    for (others, place, spec, expected) in [
        (&[STORAGE][..], "s/gw", GATEWAY, ""),
        (
            &[],
            "s/gw",
            GATEWAY,
            "GarageCluster s/main does not exist (yet)",
        ),
        // Itself, another gateway, a circle.
        (&[], "s/main", GATEWAY, "!names GarageCluster s/main itself"),
        (
            &[STORAGE, gateway],
            "s/g2",
            "{ gateway: true, connectTo: { clusterRef: { name: gw } } }",
            "!which is a gateway cluster itself: name its storage cluster s/main",
        ),
        (
            &["GarageCluster s/gw { gateway: true, connectTo: { clusterRef: { name: g2 } } }"],
            "s/g2",
            "{ gateway: true, connectTo: { clusterRef: { name: gw } } }",
            "!they form a circle without any storage",
        ),
        (
            &["GarageCluster s/far { gateway: true, connectTo: { adminApiEndpoint: 'http://a' } }"],
            "s/g2",
            "{ gateway: true, connectTo: { clusterRef: { name: far } } }",
            "!connect this cluster to the storage cluster as that one is",
        ),
        (
            &[gateway],
            "s/main",
            "{ gateway: true, connectTo: { adminApiEndpoint: 'http://a' } }",
            "gateway cluster s/gw names this one",
        ),
        // Replication factor.
        (
            &[STORAGE],
            "s/gw",
            "{ gateway: true, replication: { factor: 3 }, connectTo: { clusterRef: { name: main } } }",
            "",
        ),
        (
            &[STORAGE],
            "s/gw",
            "{ gateway: true, replication: { factor: 5 }, connectTo: { clusterRef: { name: main } } }",
            "!replication.factor is 5, but storage cluster s/main keeps 3 copies",
        ),
        (
            &[
                "GarageCluster s/gw { gateway: true, replication: { factor: 2 }, connectTo: { clusterRef: { name: main } } }",
            ],
            "s/main",
            "{}",
            "gateway cluster s/gw has replication.factor 2, and this cluster has 3",
        ),
        (
            &[],
            "s/main",
            "{ replicas: 1 }",
            "replicas is 1, below replication.factor 3",
        ),
        (
            &[],
            "s/main",
            "{ replicas: 1, replication: { factor: 1 } }",
            "",
        ),
        (&[], "s/main", "{ replicas: 1, layoutPolicy: Manual }", ""),
        // Other namespaces.
        (
            &[STORAGE],
            "a/gw",
            far,
            "!create a ReferenceGrant (gateway.networking.k8s.io) in namespace \"s\" with from [{group: garage.rajsingh.info, kind: GarageCluster, namespace: a}] and to [{group: garage.rajsingh.info, kind: GarageCluster, name: main}]",
        ),
        (&[STORAGE, "grant s GarageCluster a"], "a/gw", far, ""),
        (&[STORAGE, "grant s GarageCluster a main"], "a/gw", far, ""),
        (
            &[STORAGE, "grant s GarageCluster a other"],
            "a/gw",
            far,
            "!create a ReferenceGrant",
        ),
        (
            &[STORAGE, "grant s GarageBucket a"],
            "a/gw",
            far,
            "!create a ReferenceGrant",
        ),
        (&[STORAGE], "s/gw", far, ""),
        // Zones.
        (
            &[STORAGE],
            "s/gw",
            "{ gateway: true, zone: default, connectTo: { clusterRef: { name: main } } }",
            "",
        ),
        (
            &[STORAGE],
            "s/gw",
            "{ gateway: true, zone: edge, connectTo: { clusterRef: { name: main } } }",
            "\"The number of zones with non-gateway nodes (1) is smaller than the redundancy parameter (2)\"",
        ),
        (
            &[STORAGE, two_zones],
            "s/gw",
            "{ gateway: true, zone: dc2, connectTo: { clusterRef: { name: main } } }",
            "",
        ),
        (
            &[STORAGE, two_zones],
            "s/gw",
            "{ gateway: true, zone: edge, connectTo: { clusterRef: { name: main } } }",
            "nodes (2) is smaller than the redundancy parameter (3)",
        ),
        (
            &["GarageCluster s/main { replication: { factor: 1 } }"],
            "s/gw",
            "{ gateway: true, zone: edge, connectTo: { clusterRef: { name: main } } }",
            "",
        ),
        (
            &["GarageCluster s/main { replication: { zoneRedundancy: AtLeast(1) } }"],
            "s/gw",
            "{ gateway: true, zone: edge, connectTo: { clusterRef: { name: main } } }",
            "",
        ),
        // Names.
        (
            &[STORAGE],
            "s/main-admin",
            "{}",
            "!both would have a Service called main-admin",
        ),
        (
            &["GarageCluster s/main-headless {}"],
            "s/main",
            "{}",
            "!both would have a Service called main-headless",
        ),
        (
            &["GarageNode s/a { clusterRef: { name: main }, zone: z }"],
            "s/a-node",
            "{}",
            "!both would have a StatefulSet",
        ),
        (&[STORAGE], "t/main-admin", "{}", ""),
        // Risks.
        (
            &[],
            "s/main",
            "{ replication: { consistencyMode: dangerous } }",
            "may be lost",
        ),
        (
            &[],
            "s/main",
            "{ replication: { consistencyMode: degraded } }",
            "may miss writes",
        ),
        (
            &[],
            "s/main",
            "{ network: { rpcPublicAddr: 'a:3901' } }",
            "all 3 nodes announce the one address a:3901",
        ),
        (
            &[],
            "s/main",
            "{ network: { rpcPublicAddr: '$(POD_NAME).a:3901' } }",
            "",
        ),
    ] {
        let new: GarageCluster = object("GarageCluster", place, spec);
        let verdict = cluster(&new, None, &world(others));
        check(
            &format!("{place} {spec} beside {others:?}"),
            &verdict,
            expected,
        );
    }
}

#[test]
fn an_update_that_leaves_the_spec_alone_is_never_denied() {
    let new: GarageCluster = object(
        "GarageCluster",
        "a/gw",
        "{ gateway: true, connectTo: { clusterRef: { name: main, namespace: s } } }",
    );
    let world = world(&[STORAGE]);
    assert!(cluster(&new, None, &world).deny.is_some());
    assert_eq!(cluster(&new, Some(&new), &world), Verdict::default());
    // A revoked grant does not stop scaling either.
    let mut scaled = new.clone();
    scaled.spec.replicas = 7;
    assert_eq!(cluster(&scaled, Some(&new), &world).deny, None);
    let mut leaving = new.clone();
    leaving.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
    assert_eq!(cluster(&leaving, None, &world), Verdict::default());
}

#[test]
fn deletions() {
    for (others, spec, expected) in [
        (&[][..], "{}", ""),
        (
            &["GarageCluster s/gw { gateway: true, connectTo: { clusterRef: { name: main } } }"],
            "{}",
            "GarageCluster s/main stays until its gateway clusters are deleted: s/gw",
        ),
        (
            &["GarageCluster t/gw { gateway: true, connectTo: { clusterRef: { name: main } } }"],
            "{}",
            "",
        ),
        (
            &[],
            "{ storage: { pvcRetentionPolicy: { whenDeleted: Delete } } }",
            "all data in them are deleted with it",
        ),
    ] {
        let verdict = cluster_deletion(&object("GarageCluster", "s/main", spec), &world(others));
        check(&format!("{spec} beside {others:?}"), &verdict, expected);
    }
}

#[test]
fn nodes() {
    let node_of = "{ clusterRef: { name: main }, zone: default, capacity: 1Gi }";
    for (others, spec, expected) in [
        (&[STORAGE][..], node_of, ""),
        (&[], node_of, "GarageCluster s/main does not exist (yet)"),
        (
            &[STORAGE],
            "{ clusterRef: { name: main }, zone: edge, gateway: true, podSelector: { name: p } }",
            "zone \"edge\" is none of GarageCluster s/main (default)",
        ),
        (
            &["GarageCluster s/main { gateway: true, connectTo: { clusterRef: { name: x } } }"],
            node_of,
            "!name s/x, whose layout the node joins",
        ),
        (
            &["GarageCluster t/main {}"],
            "{ clusterRef: { name: main, namespace: t }, zone: z }",
            "!kind: GarageNode, namespace: s",
        ),
        (
            &[STORAGE, "GarageCluster s/n-node {}"],
            node_of,
            "!both would have a StatefulSet",
        ),
        (
            &[
                STORAGE,
                "GarageNode t/m { clusterRef: { name: main }, zone: z, nodeId: HEX }",
            ],
            "{ clusterRef: { name: main }, zone: default, nodeId: HEX, external: { address: a } }",
            "!nodeId is that of GarageNode t/m",
        ),
        (
            &[
                STORAGE,
                "GarageNode s/m { clusterRef: { name: main }, zone: z, podSelector: { name: p } }",
            ],
            "{ clusterRef: { name: main }, zone: default, podSelector: { name: p } }",
            "!podSelector names the pod of GarageNode s/m",
        ),
    ] {
        let verdict = node(&object("GarageNode", "s/n", spec), None, &world(others));
        check(&format!("{spec} beside {others:?}"), &verdict, expected);
    }
}
