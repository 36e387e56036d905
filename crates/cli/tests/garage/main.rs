//! Garage clusters on a real node: the specified documents unmodified, real Garage in real pods, the
//! operator outside. It may not reach into the operator.

#[path = "../node/rig.rs"]
#[allow(dead_code, reason = "shared with the test of the tunnel")]
mod node;
mod rig;

use std::time::Duration;

use gatewright_testkit::await_condition;
use rig::{Namespace, World, kill_garage, specified};
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

/// Waits until the cluster has this many serving pods and none of `gone`, of which each may take its
/// turn.
async fn served_by(namespace: &Namespace<'_>, cluster: &str, count: usize, gone: &[String]) {
    let limit = seconds(60 + 30 * gone.len() as u64);
    await_condition("all pods serve", limit, || async {
        let pods = namespace.pods(cluster);
        pods.len() == count
            && pods.iter().all(is_ready)
            && !names(&pods).iter().any(|name| gone.contains(name))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_specified_documents_give_s3_through_diskless_gateways() {
    let Some(world) = World::shared() else { return };
    world.leads().await;
    let namespace = world.namespace("specified");

    let begun = Instant::now();
    namespace.apply(&specified("garage-gateway.yaml"));
    namespace.ready(STORAGE, seconds(90)).await;
    await_condition("all gateways have their role", seconds(60), || async {
        namespace.gateway_roles(STORAGE).await == 5
    })
    .await;
    eprintln!(
        "MEASURED layout complete after {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    namespace.ready(GATEWAY, seconds(90)).await;
    eprintln!(
        "MEASURED gateways serve after {:.1} s",
        begun.elapsed().as_secs_f64()
    );

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

    let key = namespace.bucket(STORAGE, "photos").await;
    await_condition("each gateway knows the key", seconds(30), || async {
        namespace.pods(GATEWAY).iter().all(is_ready)
    })
    .await;
    key.round_trip(&endpoints(&namespace.pods(GATEWAY)));

    let version = namespace.layout(STORAGE).await["version"].clone();
    let unchanged = || async {
        let layout = namespace.layout(STORAGE).await;
        assert_eq!(layout["version"], version, "the layout has changed");
        assert_eq!(layout["stagedRoleChanges"], json!([]));
    };

    let load = key.load(&service(&namespace, GATEWAY));
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
    unchanged().await;
    report("kill -9 of each gateway", load);

    // Minutes long: for whoever changes how pods are replaced.
    if std::env::var_os("GATEWRIGHT_SOAK").is_none() {
        return;
    }
    let load = key.load(&service(&namespace, GATEWAY));
    for pod in names(&namespace.pods(GATEWAY)) {
        let begun = Instant::now();
        namespace.kubectl(&format!("delete pod {pod} --wait=false"));
        served_by(&namespace, GATEWAY, 5, &[pod]).await;
        let took = begun.elapsed().as_secs_f64();
        eprintln!("MEASURED a new pod serves {took:.1} s after one was deleted");
    }
    key.round_trip(&endpoints(&namespace.pods(GATEWAY)));
    unchanged().await;
    report("deletion of each gateway pod", load);

    for (what, patch) in [
        (
            "resources",
            json!({ "spec": { "resources": { "requests": { "cpu": "10m" } } } }),
        ),
        (
            "env",
            json!({ "spec": { "env": [{ "name": "GREETING", "value": "hello" }] } }),
        ),
    ] {
        let load = key.load(&service(&namespace, GATEWAY));
        let before = names(&namespace.pods(GATEWAY));
        let begun = Instant::now();
        namespace.patch(&format!("garagecluster/{GATEWAY}"), &patch);
        served_by(&namespace, GATEWAY, 5, &before).await;
        eprintln!(
            "MEASURED {what} rolled out in {:.1} s",
            begun.elapsed().as_secs_f64()
        );
        unchanged().await;
        report(&format!("a change of {what}"), load);
    }

    scaling_survives_a_killed_operator(&world, &namespace).await;
    at_rest_nothing_is_written(&world, &namespace).await;
    storage_is_held_and_gateways_go(&namespace).await;
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

/// One layout version up and one down, whenever the operator dies.
async fn scaling_survives_a_killed_operator(world: &World, namespace: &Namespace<'_>) {
    let version = || async {
        namespace.layout(STORAGE).await["version"]
            .as_u64()
            .expect("a number")
    };
    let before = version().await;
    for (replicas, version_then) in [(8, before + 1), (2, before + 2)] {
        let begun = Instant::now();
        namespace.kubectl(&format!(
            "scale garagecluster {GATEWAY} --replicas={replicas}"
        ));
        await_condition("the layout is staged or changed", seconds(60), || async {
            let layout = namespace.layout(STORAGE).await;
            layout["version"] != json!(version_then - 1) || layout["stagedRoleChanges"] != json!([])
        })
        .await;
        world.kill_operator();
        world.start_operator();
        served_by(namespace, GATEWAY, replicas, &[]).await;
        await_condition("the layout has settled", seconds(30), || async {
            namespace.is_settled(STORAGE).await
        })
        .await;
        assert_eq!(namespace.gateway_roles(STORAGE).await, replicas);
        assert_eq!(version().await, version_then, "one version for each step");
        let took = begun.elapsed().as_secs_f64();
        eprintln!("MEASURED scaled to {replicas} in {took:.1} s, the operator killed on the way");
    }
}

async fn at_rest_nothing_is_written(world: &World, namespace: &Namespace<'_>) {
    namespace.ready(STORAGE, seconds(60)).await;
    namespace.ready(GATEWAY, seconds(60)).await;
    await_condition("the layout has settled", seconds(60), || async {
        namespace.is_settled(STORAGE).await
    })
    .await;
    let writes = || async {
        let all = world
            .metric("gatewright_api_writes_total")
            .await
            .unwrap_or_default();
        let rounds = world
            .metric("gatewright_reconcile_total")
            .await
            .unwrap_or_default();
        (all, rounds)
    };
    // Whole rounds go by: the clusters are looked at again and there is nothing to write.
    let (before, rounds) = writes().await;
    await_condition("two more rounds", seconds(150), || async {
        writes().await.1 >= rounds + 4.0
    })
    .await;
    assert_eq!(writes().await.0, before, "something is written at rest");
    let memory = world.memory().unwrap_or_default() / 1024 / 1024;
    eprintln!("MEASURED operator at rest: 0 writes, {memory} MiB");
}

async fn storage_is_held_and_gateways_go(namespace: &Namespace<'_>) {
    namespace.kubectl(&format!("delete garagecluster {STORAGE} --wait=false"));
    await_condition(
        "the storage cluster says why it stays",
        seconds(30),
        || async {
            let storage = namespace.get(&format!("garagecluster/{STORAGE}"));
            storage.to_string().contains("delete those first")
        },
    )
    .await;
    assert_eq!(namespace.pods(STORAGE).len(), 3);
    let begun = Instant::now();
    namespace.kubectl(&format!("delete garagecluster {GATEWAY} --timeout=60s"));
    eprintln!(
        "MEASURED gateway cluster gone after {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    await_condition(
        "the storage cluster goes with its last user",
        seconds(60),
        || async { namespace.get(&format!("garagecluster/{STORAGE}")).is_null() },
    )
    .await;
}
