//! Garage clusters on a real node: the specified documents unmodified, real Garage in real pods, the
//! operator outside. It may not reach into the operator.

#[path = "../node/rig.rs"]
#[allow(dead_code, reason = "shared with the test of the tunnel")]
mod node;
mod reach;
mod rig;
mod soak;
mod storage;

use std::path::Path;
use std::time::Duration;

use gatewright_testkit::await_condition;
use rig::{Key, Namespace, World, kill_garage, specified};
use serde_json::{Value, json};
use tokio::time::Instant;

const STORAGE: &str = "garage-storage";
const GATEWAY: &str = "garage-gateway";

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn names(pods: &[Value]) -> Vec<String> {
    let name = |pod: &Value| pod["metadata"]["name"].as_str().expect("a name").to_owned();
    pods.iter().map(name).collect()
}

fn endpoints(pods: &[Value]) -> Vec<String> {
    let endpoint = |pod: &Value| {
        let ip = pod["status"]["podIP"].as_str().expect("an address");
        format!("http://{ip}:3900")
    };
    pods.iter().map(endpoint).collect()
}

fn service(namespace: &Namespace<'_>, name: &str) -> String {
    let service = namespace.get(&format!("service/{name}"));
    let ip = service["spec"]["clusterIP"].as_str().expect("a ClusterIP");
    format!("http://{ip}:3900")
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    conditions
        .iter()
        .any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Waits until the cluster has this many serving pods and none of `gone`.
async fn served_by(
    namespace: &Namespace<'_>,
    cluster: &str,
    count: usize,
    gone: &[String],
    limit: Duration,
) {
    await_condition("all pods serve", limit, || async {
        let pods = namespace.pods(cluster);
        pods.len() == count
            && pods.iter().all(is_ready)
            && !names(&pods).iter().any(|name| gone.contains(name))
    })
    .await;
}

/// One at a time: together they are more load than two cores carry.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The specified documents, applied and serving.
struct Specified<'a> {
    namespace: Namespace<'a>,
    key: Key,
    /// Of the layout.
    version: Value,
}

impl<'a> Specified<'a> {
    async fn start(world: &'a World, namespace: &str) -> Self {
        world.leads().await;
        let namespace = world.namespace(namespace);
        let begun = Instant::now();
        namespace.apply(&specified("garage-gateway.yaml"));
        await_condition("all gateways have their role", seconds(90), || async {
            let gateway = namespace.get(&format!("garagecluster/{GATEWAY}"));
            let slots = gateway["status"]["gateways"].as_array().cloned();
            let slots = slots.unwrap_or_default();
            slots.len() == 5 && slots.iter().all(|slot| slot["inLayout"] == true)
        })
        .await;
        eprintln!(
            "MEASURED layout complete after {:.1} s",
            begun.elapsed().as_secs_f64()
        );
        namespace.ready(STORAGE, seconds(90)).await;
        namespace.ready(GATEWAY, seconds(90)).await;
        assert_eq!(namespace.gateway_roles(STORAGE).await, 5);
        eprintln!(
            "MEASURED gateways serve after {:.1} s",
            begun.elapsed().as_secs_f64()
        );
        // The published example is for clusters of these names.
        let examples = Path::new("../../examples/garage");
        namespace.apply(&examples.join("bucket-and-key.yaml"));
        let key = namespace.key("photos").await;
        await_condition("each gateway knows the key", seconds(30), || async {
            namespace.pods(GATEWAY).iter().all(is_ready)
        })
        .await;
        let version = namespace.layout(STORAGE).await["version"].clone();
        Self {
            namespace,
            key,
            version,
        }
    }

    async fn has_the_same_layout(&self) {
        let layout = self.namespace.layout(STORAGE).await;
        assert_eq!(layout["version"], self.version, "the layout has changed");
        assert_eq!(layout["stagedRoleChanges"], json!([]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_specified_documents_give_s3_through_diskless_gateways() {
    let _turn = TURN.lock().await;
    let Some(world) = World::shared() else { return };
    let specified = Specified::start(&world, "specified").await;
    let Specified { namespace, key, .. } = &specified;

    // A Deployment of the cluster's name, no StatefulSet, no claim.
    assert!(namespace.get(&format!("statefulset/{GATEWAY}")).is_null());
    let deployment = namespace.get(&format!("deployment/{GATEWAY}"));
    let volumes = deployment["spec"]["template"]["spec"]["volumes"]
        .as_array()
        .expect("volumes");
    assert!(
        volumes
            .iter()
            .all(|volume| volume["persistentVolumeClaim"].is_null())
    );
    key.round_trip(&endpoints(&namespace.pods(GATEWAY)));

    let load = key.load(&service(namespace, GATEWAY));
    for pod in names(&namespace.pods(GATEWAY)) {
        let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
        let before = restarts(&namespace.get(&format!("pod/{pod}")));
        kill_garage(&pod);
        await_condition("the container is back", seconds(60), || async {
            let now = namespace.get(&format!("pod/{pod}"));
            restarts(&now) > before && is_ready(&now)
        })
        .await;
    }
    specified.has_the_same_layout().await;
    report("kill -9 of each gateway", load);
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_are_replaced_scaled_and_rest() {
    if !soaks() {
        return;
    }
    let _turn = TURN.lock().await;
    let Some(world) = World::shared() else { return };
    let specified = Specified::start(&world, "soak").await;
    soak::all(&world, &specified).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_reach_storage_of_other_namespaces_and_elsewhere() {
    if !soaks() {
        return;
    }
    let _turn = TURN.lock().await;
    let Some(world) = World::shared() else { return };
    world.leads().await;
    reach::gateways_reach_storage_of_other_namespaces_and_elsewhere(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_is_replaced_and_grows_without_a_loss() {
    if !soaks() {
        return;
    }
    let _turn = TURN.lock().await;
    let Some(world) = World::shared() else { return };
    world.leads().await;
    storage::all(&world).await;
}

/// Whether what takes minutes and the whole machine is to run: for whoever changes how pods are replaced.
fn soaks() -> bool {
    let soaks = std::env::var_os("GATEWRIGHT_SOAK").is_some();
    if !soaks {
        gatewright_testkit::leave_out("it takes minutes; GATEWRIGHT_SOAK=1 runs it");
    }
    soaks
}

/// No operation of a client that retries three times may fail.
fn report(what: &str, load: Option<rig::Load>) {
    let Some(load) = load else { return };
    let outcome = load.end();
    eprintln!(
        "MEASURED {what}: {} of {} S3 operations failed",
        outcome.failed, outcome.operations
    );
    assert!(outcome.operations > 20, "{outcome:?}");
    assert_eq!(outcome.failed, 0, "{what}: {:?}", outcome.errors);
}
