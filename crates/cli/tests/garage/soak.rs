//! What takes minutes: every gateway pod replaced, images and settings rolled out under load, gateways
//! added and removed, rest, deletion. It runs when `GATEWRIGHT_SOAK` is set.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gatewright_testkit::await_condition;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::node::{expect, xtask};
use crate::rig::{Namespace, World};
use crate::{
    GATEWAY, STORAGE, Specified, endpoints, is_ready, names, report, seconds, served_by, service,
};

/// The same Garage under another name.
const OTHER_IMAGE: &str = "gatewright.local/garage:v2.5.0";

/// For a storage cluster with five gateways that serve.
pub(crate) async fn all(world: &World, specified: &Specified<'_>) {
    let Specified { namespace, key, .. } = specified;
    let load = key.load(&service(namespace, GATEWAY));
    for pod in names(&namespace.pods(GATEWAY)) {
        let begun = Instant::now();
        namespace.kubectl(&format!("delete pod {pod} --wait=false"));
        served_by(namespace, GATEWAY, 5, &[pod], seconds(90)).await;
        let took = begun.elapsed().as_secs_f64();
        eprintln!("MEASURED a new pod serves {took:.1} s after one was deleted");
    }
    key.round_trip(&endpoints(&namespace.pods(GATEWAY)));
    specified.has_the_same_layout().await;
    report("deletion of each gateway pod", load);

    let garage = gatewright_testkit::part("garage").expect("it was here before");
    let garage = garage.to_str().expect("a path in UTF-8");
    let image = xtask(&["cluster", "image", "--folder", "/", OTHER_IMAGE, garage]);
    expect(image, "cargo xtask cluster image");
    for (what, spec) in [
        (
            "resources",
            json!({ "resources": { "requests": { "cpu": "10m" } } }),
        ),
        (
            "env",
            json!({ "env": [{ "name": "GREETING", "value": "hello" }] }),
        ),
        ("image", json!({ "image": OTHER_IMAGE })),
    ] {
        let load = key.load(&service(namespace, GATEWAY));
        let before = names(&namespace.pods(GATEWAY));
        let begun = Instant::now();
        namespace.patch(
            &format!("garagecluster/{GATEWAY}"),
            &json!({ "spec": spec }),
        );
        served_by(namespace, GATEWAY, 5, &before, seconds(210)).await;
        eprintln!(
            "MEASURED {what} rolled out in {:.1} s",
            begun.elapsed().as_secs_f64()
        );
        specified.has_the_same_layout().await;
        report(&format!("a change of {what}"), load);
    }

    scaling_survives_a_killed_operator(world, namespace).await;
    fifty_gateways_come_and_go(namespace).await;
    at_rest_nothing_is_written(world, namespace).await;
    storage_is_held_and_gateways_go(namespace).await;
}

/// One layout version up and one down, whenever the operator dies.
async fn scaling_survives_a_killed_operator(world: &World, namespace: &Namespace<'_>) {
    for replicas in [8, 2] {
        let before = version(namespace).await;
        let begun = Instant::now();
        scale(namespace, replicas);
        await_condition("the layout is staged or changed", seconds(60), || async {
            let layout = namespace.layout(STORAGE).await;
            layout["version"] != json!(before) || layout["stagedRoleChanges"] != json!([])
        })
        .await;
        world.kill_operator();
        world.start_operator();
        scaled(namespace, replicas, before + 1, seconds(30)).await;
        let took = begun.elapsed().as_secs_f64();
        eprintln!("MEASURED scaled to {replicas} in {took:.1} s, the operator killed on the way");
    }
}

/// Many gateways come and go, each time with one layout version.
async fn fifty_gateways_come_and_go(namespace: &Namespace<'_>) {
    // Each of them computes every layout. Where few cores are shared, storage comes first.
    let first = json!({ "resources": { "requests": { "cpu": "500m" } } });
    namespace.patch(
        &format!("garagecluster/{STORAGE}"),
        &json!({ "spec": first }),
    );
    await_condition("storage has its share", seconds(300), || async {
        let pods = namespace.pods(STORAGE);
        let has = |pod: &Value| {
            pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "500m" && is_ready(pod)
        };
        pods.len() == 3 && pods.iter().all(has)
    })
    .await;
    namespace.ready(STORAGE, seconds(120)).await;
    // Fifty that have come on two cores need longer to tell each other than the few that are left.
    for (replicas, limit) in [(50, seconds(180)), (2, seconds(30))] {
        namespace.ready(GATEWAY, seconds(300)).await;
        let before = version(namespace).await;
        let begun = Instant::now();
        scale(namespace, replicas);
        let took = scaled(namespace, replicas, before + 1, limit).await;
        let (served, settled) = (begun.elapsed() - took, took.as_secs_f64());
        eprintln!(
            "MEASURED scaled to {replicas} in {:.1} s, settled {settled:.1} s later",
            served.as_secs_f64()
        );
    }
}

async fn version(namespace: &Namespace<'_>) -> u64 {
    let layout = namespace.layout(STORAGE).await;
    layout["version"].as_u64().expect("a number")
}

fn scale(namespace: &Namespace<'_>, replicas: usize) {
    namespace.kubectl(&format!(
        "scale garagecluster {GATEWAY} --replicas={replicas}"
    ));
}

/// Waits until this many pods serve and nothing relies on an older layout, of which `then` is the only
/// newer one; how long the layout took after the pods, at most `settled`.
async fn scaled(
    namespace: &Namespace<'_>,
    replicas: usize,
    then: u64,
    settled: Duration,
) -> Duration {
    // kubectl watches. Fifty Garages on two cores are busy enough without being asked ten times a second.
    namespace.kubectl(&format!(
        "wait garagecluster/{GATEWAY} --for=jsonpath={{.status.readyReplicas}}={replicas} --timeout=20m"
    ));
    served_by(namespace, GATEWAY, replicas, &[], seconds(60)).await;
    let begun = Instant::now();
    await_condition("the layout has settled", settled, || async {
        namespace.is_settled(STORAGE).await
    })
    .await;
    let took = begun.elapsed();
    assert_eq!(namespace.gateway_roles(STORAGE).await, replicas);
    assert_eq!(version(namespace).await, then, "one version for each step");
    took
}

async fn at_rest_nothing_is_written(world: &World, namespace: &Namespace<'_>) {
    namespace.ready(STORAGE, seconds(60)).await;
    namespace.ready(GATEWAY, seconds(60)).await;
    await_condition("the layout has settled", seconds(60), || async {
        namespace.is_settled(STORAGE).await
    })
    .await;
    // Garage keeps what was overwritten for ten minutes, and the status tells how much of it is left.
    await_condition(
        "what the load has left is worked off",
        seconds(900),
        || async {
            let storage = namespace.get(&format!("garagecluster/{STORAGE}"));
            storage["status"]["resyncQueueLength"] == 0
        },
    )
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
    // What the load has left in the bucket is told once more.
    let since = Mutex::new(writes().await);
    await_condition("two rounds without a write", seconds(300), || async {
        let now = writes().await;
        let mut since = since.lock().unwrap_or_else(PoisonError::into_inner);
        if now.0 > since.0 {
            *since = now;
        }
        now.1 >= since.1 + 4.0
    })
    .await;
    // Whole rounds go by: the clusters are looked at again and there is nothing to write.
    let by_kind = || async { world.series("gatewright_api_writes_total").await };
    let before = by_kind().await;
    let rounds = writes().await.1;
    await_condition("two more rounds", seconds(150), || async {
        writes().await.1 >= rounds + 4.0
    })
    .await;
    assert_eq!(by_kind().await, before, "something is written at rest");
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
