//! Gateways of storage that is not beside them: of another namespace, which has to grant it, and of
//! storage that no object stands for. Then namespaces are deleted with all that is in them.

use std::path::Path;

use gatewright_testkit::await_condition;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::rig::{Namespace, World};
use crate::{endpoints, seconds};

/// Two minutes long, and as much load as two cores carry.
pub(crate) async fn gateways_reach_storage_of_other_namespaces_and_elsewhere(world: &World) {
    let manifests = Path::new("tests/garage");
    world.node.apply(&manifests.join("referencegrants.yaml"));
    let (store, web, far) = (
        world.namespace("store"),
        world.namespace("web"),
        world.namespace("far"),
    );
    let storage = json!({
        "replicas": 1, "replication": { "factor": 1 }, "storage": { "data": { "size": "1Gi" } },
    });
    store.create("GarageCluster", "s", &storage);
    for (kind, name, spec) in [
        ("GarageBucket", "photos", json!({})),
        (
            "GarageKey",
            "reader",
            json!({ "bucketPermissions": [{ "bucketRef": "photos", "read": true }] }),
        ),
        (
            "GarageAdminToken",
            "watcher",
            json!({ "scope": ["GetClusterHealth"] }),
        ),
    ] {
        let mut spec = spec;
        spec["clusterRef"] = json!({ "name": "s" });
        store.create(kind, name, &spec);
    }
    store.ready("s", seconds(90)).await;

    let across = json!({
        "gateway": true, "replicas": 1,
        "connectTo": { "clusterRef": { "name": "s", "namespace": store.name } },
    });
    let refused = web.refused("GarageCluster", "edge", &across);
    assert!(refused.contains("ReferenceGrant"), "{refused}");
    grant(&store, &web);
    web.create("GarageCluster", "edge", &across);
    web.ready("edge", seconds(120)).await;
    // One after the other: as storage elsewhere, it is another cluster to us.
    let external = elsewhere(&store, &far).await;
    far.create("GarageCluster", "edge", &external);
    far.ready("edge", seconds(120)).await;
    assert_eq!(store.gateway_roles("s").await, 2);
    let key = store.bucket("s", "letters").await;
    let pods = [web.pods("edge"), far.pods("edge")].concat();
    await_condition("the gateways know the key", seconds(30), || async {
        key.is_known(&endpoints(&pods))
    })
    .await;
    key.round_trip(&endpoints(&pods));

    // What is taken back is no longer followed, and nothing that serves is taken away.
    store.kubectl("delete referencegrant web");
    web.patch("garagecluster/edge", &json!({ "spec": { "replicas": 2 } }));
    await_condition("the gateways say what is missing", seconds(60), || async {
        let cluster = web.get("garagecluster/edge");
        let conditions = cluster["status"]["conditions"].to_string();
        conditions.contains("ReferenceNotGranted")
    })
    .await;
    key.round_trip(&endpoints(&web.pods("edge")));
    assert_eq!(web.pods("edge").len(), 1);
    grant(&store, &web);
    web.ready("edge", seconds(120)).await;
    assert_eq!(web.pods("edge").len(), 2);

    for namespace in [&far, &web, &store] {
        let begun = Instant::now();
        world.node.kubectl(&format!(
            "delete namespace {} --timeout=60s",
            namespace.name
        ));
        eprintln!(
            "MEASURED the namespace {} with all in it gone after {:.1} s",
            namespace.name,
            begun.elapsed().as_secs_f64()
        );
    }
}

/// Lets clusters of `to` use clusters of `from`.
fn grant(from: &Namespace<'_>, to: &Namespace<'_>) {
    from.create_of(
        "gateway.networking.k8s.io/v1",
        "ReferenceGrant",
        "web",
        &json!({ "spec": {
            "from": [{
                "group": "garage.rajsingh.info", "kind": "GarageCluster", "namespace": to.name,
            }],
            "to": [{ "group": "garage.rajsingh.info", "kind": "GarageCluster" }],
        } }),
    );
}

/// The spec of gateways in `there` of the cluster `s` in `store`, as though it were none of ours.
async fn elsewhere(store: &Namespace<'_>, there: &Namespace<'_>) -> Value {
    let status = store
        .admin("s", "GET", "GetClusterStatus", Value::Null)
        .await;
    let node = status["nodes"][0]["id"]
        .as_str()
        .expect("a node")
        .to_owned();
    for (name, entry) in [
        ("s-rpc-secret", "rpc-secret"),
        ("s-admin-token", "admin-token"),
    ] {
        let secret = store.get(&format!("secret/{name}"));
        let data = json!({ "data": { entry: secret["data"][entry] } });
        there.create_of("v1", "Secret", name, &data);
    }
    let pod = store.get("pod/s-0");
    let pod = pod["status"]["podIP"].as_str().expect("an address");
    let admin = store.get("service/s-admin");
    let admin = admin["spec"]["clusterIP"].as_str().expect("a ClusterIP");
    json!({
        "gateway": true, "replicas": 1,
        "connectTo": {
            "rpcSecretRef": { "name": "s-rpc-secret", "key": "rpc-secret" },
            "bootstrapPeers": [format!("{node}@{pod}:3901")],
            "adminApiEndpoint": format!("http://{admin}:3903"),
            "adminTokenSecretRef": { "name": "s-admin-token", "key": "admin-token" },
        },
    })
}
