//! Storage pods on a node: nodes placed by hand, volumes that grow, an RPC secret that changes. Minutes
//! long, so it runs when `GATEWRIGHT_SOAK` is set.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use gatewright_testkit::await_condition;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::rig::{Key, Namespace, World};
use crate::{endpoints, is_ready, names, report, seconds, service};

/// A StorageClass of the node's provisioner that may grow. The provisioner itself does not resize;
/// [`resize`] does what a resizer does.
const GROWS: &str = "grows";
const NODES: [&str; 3] = ["a", "b", "c"];
const MIB: u64 = 1024 * 1024;

pub(crate) async fn all(world: &World) {
    let class = json!({
        "provisioner": "kubernetes.io/host-path", "allowVolumeExpansion": true,
        "volumeBindingMode": "WaitForFirstConsumer",
    });
    let namespace = world.namespace("storage");
    namespace.create_of("storage.k8s.io/v1", "StorageClass", GROWS, &class);
    let key = placed_by_hand(&namespace).await;
    nodes_are_replaced_one_at_a_time(&namespace, &key).await;
    a_node_grows_and_its_role_follows(&namespace, &key).await;
    a_cluster_grows_in_one_version(&namespace).await;
    a_changed_rpc_secret_replaces_all_at_once(&namespace).await;
    world
        .node
        .kubectl(&format!("delete storageclass {GROWS} --wait=false"));
    world.node.kubectl(&format!(
        "delete namespace {} --timeout=60s",
        namespace.name
    ));
}

/// Three GarageNodes with pods of the operator's, each in a zone of its own.
async fn placed_by_hand(namespace: &Namespace<'_>) -> Key {
    let cluster = json!({ "layoutPolicy": "Manual", "replication": { "factor": 3 } });
    namespace.create("GarageCluster", "hand", &cluster);
    for name in NODES {
        let volume = |size: &str| json!({ "size": size, "storageClassName": GROWS });
        let node = json!({
            "clusterRef": { "name": "hand" }, "zone": format!("zone-{name}"), "capacity": "100Mi",
            "storage": { "data": volume("100Mi"), "metadata": volume("100Mi") },
        });
        namespace.create("GarageNode", name, &node);
    }
    let begun = Instant::now();
    for name in NODES {
        node_is_ready(namespace, name).await;
    }
    namespace.ready("hand", seconds(60)).await;
    eprintln!(
        "MEASURED three nodes placed by hand serve after {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    let key = namespace.bucket("hand", "letters").await;
    let pods = endpoints(&namespace.pods("hand"));
    await_condition("all nodes know the key", seconds(30), || async {
        key.is_known(&pods)
    })
    .await;
    key.round_trip(&pods);
    key
}

async fn node_is_ready(namespace: &Namespace<'_>, name: &str) {
    let said = Said::default();
    await_condition(&format!("node {name} is ready"), seconds(120), || async {
        let node = namespace.get(&format!("garagenode/{name}"));
        let ready = condition(&node, "Ready");
        said.keep(&ready);
        let current = node["metadata"]["generation"] == node["status"]["observedGeneration"];
        current && ready["reason"] == "AsAsked"
    })
    .await;
}

/// What an object said last; told if the test fails.
#[derive(Default)]
struct Said(Mutex<Value>);

impl Said {
    fn keep(&self, condition: &Value) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = condition.clone();
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "it said: {}",
                self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
            );
        }
    }
}

fn condition(object: &Value, kind: &str) -> Value {
    let all = object["status"]["conditions"].as_array();
    let found = all.and_then(|all| all.iter().find(|one| one["type"] == kind));
    found.cloned().unwrap_or_default()
}

/// Never two of them out of service, the layout as it was, and nothing that a user notices.
async fn nodes_are_replaced_one_at_a_time(namespace: &Namespace<'_>, key: &Key) {
    let layout = namespace.layout("hand").await;
    let before = names(&namespace.pods("hand"));
    let uid = |pod: &Value| pod["metadata"]["uid"].as_str().expect("a UID").to_owned();
    let former: Vec<String> = namespace.pods("hand").iter().map(uid).collect();
    let load = key.load(&service(namespace, "hand"));
    let begun = Instant::now();
    let spec = json!({ "env": [{ "name": "GREETING", "value": "hello" }] });
    namespace.patch("garagecluster/hand", &json!({ "spec": spec }));
    let most_away = AtomicUsize::new(0);
    await_condition("all pods are new and serve", seconds(240), || async {
        let pods = namespace.pods("hand");
        let away = NODES.len() - pods.iter().filter(|pod| is_ready(pod)).count();
        most_away.fetch_max(away, Ordering::Relaxed);
        away == 0 && !pods.iter().map(uid).any(|uid| former.contains(&uid))
    })
    .await;
    eprintln!(
        "MEASURED three nodes placed by hand replaced in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    assert_eq!(
        most_away.into_inner(),
        1,
        "of {before:?} away at the same time"
    );
    for name in NODES {
        node_is_ready(namespace, name).await;
    }
    report("a change of nodes placed by hand", load);
    let now = namespace.layout("hand").await;
    assert_eq!(now["version"], layout["version"], "the layout has changed");
}

/// The claim is asked for more; the role is larger only when the volume is.
async fn a_node_grows_and_its_role_follows(namespace: &Namespace<'_>, key: &Key) {
    let version = version(namespace, "hand").await;
    let larger = json!({ "capacity": "150Mi", "storage": { "data": { "size": "150Mi" } } });
    namespace.patch("garagenode/a", &json!({ "spec": larger }));
    let claim = claim_that_asks_for(namespace, "a-node", "150Mi").await;
    await_condition("the node waits for its volume", seconds(60), || async {
        let node = namespace.get("garagenode/a");
        condition(&node, "Reconciled")["reason"] == "GrowingVolumes"
            || condition(&node, "Ready")["reason"] == "GrowingVolumes"
    })
    .await;
    assert_eq!(capacities(namespace, "hand").await, [100 * MIB; 3]);
    resize(namespace, &claim, "150Mi");
    let grown = [100 * MIB, 100 * MIB, 150 * MIB];
    await_condition("the role has grown", seconds(90), || async {
        capacities(namespace, "hand").await == grown
    })
    .await;
    node_is_ready(namespace, "a").await;
    let layout = namespace.layout("hand").await;
    assert_eq!(layout["version"], json!(version + 1));
    key.round_trip(&endpoints(&namespace.pods("hand")));
}

/// Both volumes first, then both roles in one version.
async fn a_cluster_grows_in_one_version(namespace: &Namespace<'_>) {
    let volume = |size: &str| json!({ "size": size, "storageClassName": GROWS });
    let secret = json!({ "stringData": { "secret": "1f".repeat(32) } });
    namespace.create_of("v1", "Secret", "rpc", &secret);
    let storage = json!({
        "replicas": 2, "replication": { "factor": 2 },
        "storage": { "data": volume("100Mi"), "metadata": volume("100Mi") },
        "network": { "rpcSecretRef": { "name": "rpc", "key": "secret" } },
    });
    namespace.create("GarageCluster", "auto", &storage);
    namespace.ready("auto", seconds(120)).await;
    let before = (
        version(namespace, "auto").await,
        capacities(namespace, "auto").await,
    );
    let larger = json!({ "storage": { "data": { "size": "150Mi" } } });
    namespace.patch("garagecluster/auto", &json!({ "spec": larger }));
    let first = claim_that_asks_for(namespace, "auto-0", "150Mi").await;
    let second = claim_that_asks_for(namespace, "auto-1", "150Mi").await;
    resize(namespace, &first, "150Mi");
    assert_eq!(capacities(namespace, "auto").await, before.1);
    resize(namespace, &second, "150Mi");
    await_condition("both roles have grown", seconds(90), || async {
        let now = capacities(namespace, "auto").await;
        now.iter().zip(&before.1).all(|(now, before)| now > before)
    })
    .await;
    namespace.ready("auto", seconds(60)).await;
    assert_eq!(version(namespace, "auto").await, before.0 + 1);
}

/// Storage and gateways have the new secret, their data and the layout are as they were.
async fn a_changed_rpc_secret_replaces_all_at_once(namespace: &Namespace<'_>) {
    let gateways = json!({
        "gateway": true, "replicas": 1, "connectTo": { "clusterRef": { "name": "auto" } },
    });
    namespace.create("GarageCluster", "door", &gateways);
    namespace.ready("door", seconds(120)).await;
    let key = namespace.bucket("auto", "notes").await;
    let all = || [namespace.pods("auto"), namespace.pods("door")].concat();
    let pods = endpoints(&all());
    await_condition("all know the key", seconds(30), || async {
        key.is_known(&pods)
    })
    .await;
    key.round_trip(&pods);
    let version = version(namespace, "auto").await;
    let former = names(&namespace.pods("door"));

    let begun = Instant::now();
    let secret = json!({ "stringData": { "secret": "2e".repeat(32) } });
    namespace.patch("secret/rpc", &secret);
    await_condition("it is said", seconds(60), || async {
        let events = namespace.get("events");
        events.to_string().contains("RPCSecretChanged")
    })
    .await;
    await_condition("the gateway is a new one", seconds(240), || async {
        let pods = namespace.pods("door");
        pods.len() == 1 && is_ready(&pods[0]) && !former.contains(&names(&pods)[0])
    })
    .await;
    namespace.ready("auto", seconds(120)).await;
    namespace.ready("door", seconds(120)).await;
    eprintln!(
        "MEASURED storage and gateways have a new RPC secret after {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    let pods = endpoints(&all());
    await_condition("all know the key again", seconds(60), || async {
        key.is_known(&pods)
    })
    .await;
    key.round_trip(&pods);
    let layout = namespace.layout("auto").await;
    assert_eq!(layout["version"], json!(version), "the layout has changed");
}

async fn version(namespace: &Namespace<'_>, cluster: &str) -> u64 {
    let layout = namespace.layout(cluster).await;
    layout["version"].as_u64().expect("a number")
}

/// Of the nodes that store, in bytes, the smallest first.
async fn capacities(namespace: &Namespace<'_>, cluster: &str) -> Vec<u64> {
    let layout = namespace.layout(cluster).await;
    let roles = layout["roles"].as_array().cloned().unwrap_or_default();
    let mut capacities: Vec<u64> = roles
        .iter()
        .filter_map(|role| role["capacity"].as_u64())
        .collect();
    capacities.sort_unstable();
    capacities
}

/// Waits until a data volume's claim of `pod` asks for `size`; its name.
async fn claim_that_asks_for(namespace: &Namespace<'_>, pod: &str, size: &str) -> String {
    let found = || {
        let claims = namespace.get("persistentvolumeclaims");
        let claims = claims["items"].as_array().cloned().unwrap_or_default();
        claims.into_iter().find_map(|claim| {
            let name = claim["metadata"]["name"].as_str()?;
            let asks = claim["spec"]["resources"]["requests"]["storage"] == size;
            (asks && name.starts_with("data-") && name.contains(pod)).then(|| name.to_owned())
        })
    };
    let what = format!("a claim of {pod} asks for {size}");
    await_condition(&what, seconds(60), || async { found().is_some() }).await;
    found().expect("it was there")
}

/// What the external resizer does once it has made a volume larger: first the volume says so, then its
/// claim (`kubernetes.io/docs/concepts/storage/persistent-volumes`, "Expanding Persistent Volumes Claims").
fn resize(namespace: &Namespace<'_>, claim: &str, size: &str) {
    let object = namespace.get(&format!("persistentvolumeclaim/{claim}"));
    let volume = object["spec"]["volumeName"].as_str().expect("it is bound");
    let capacity = json!({ "capacity": { "storage": size } });
    namespace.patch(
        &format!("persistentvolume/{volume}"),
        &json!({ "spec": capacity }),
    );
    namespace.patch(
        &format!("persistentvolumeclaim/{claim} --subresource=status"),
        &json!({ "status": capacity }),
    );
}
