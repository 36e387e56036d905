//! Flaws of how clusters end, what they say meanwhile, and what wakes the operator. The numbers are those of
//! the research note's table.

use crate::pods::{connected, joined, slots};
use crate::rig::{PATIENCE, Rig, condition, message};
use gatewright_garage::admin::LayoutHistory;
use gatewright_garage::identity::NodeId;
use gatewright_testkit::await_condition;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use std::time::Duration;

async fn history(rig: &Rig) -> LayoutHistory {
    let history = rig.admin().get_cluster_layout_history().await;
    history.expect("a history")
}

/// The roles of storage alone are left, and no node goes on relying on a layout with others.
async fn clean(rig: &Rig, storage: usize) {
    let layout = rig.admin().get_cluster_layout().await.expect("a layout");
    assert_eq!(layout.roles.len(), storage, "{:?}", layout.roles);
    assert_eq!(layout.staged_role_changes, []);
    await_condition("the layout settles", PATIENCE, || async {
        history(rig).await.is_settled()
    })
    .await;
}

/// The slots of `c` that have a key.
async fn keys(rig: &Rig) -> Vec<String> {
    let secret = rig.object("Secret", "c-node-keys").await;
    let data = secret["data"].as_object().expect("entries");
    let private = data.keys().filter(|entry| !entry.ends_with(".pub"));
    private.cloned().collect()
}

/// A gateway cluster of the storage cluster `m`, whose processes have the rig's token.
fn of_storage() -> Value {
    json!({
        "gateway": true, "replicas": 1, "connectTo": { "clusterRef": { "name": "m" } },
        "admin": { "adminTokenSecretRef": { "name": "admin", "key": "token" } },
    })
}

#[tokio::test]
async fn flaw_11_storage_stays_while_gateways_use_it() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    rig.delete("GarageCluster", "c").await;
    rig.storage("m").await;
    rig.run_clusters();
    rig.apply("GarageCluster", "g", of_storage()).await;
    rig.until("GarageCluster", "g", "its role", |status| joined(status, 1))
        .await;
    // Gateways can join before anybody has looked at the storage cluster itself.
    rig.until_object("GarageCluster", "m", "it can be held", |m| {
        m["metadata"]["finalizers"] != Value::Null
    })
    .await;
    rig.delete("GarageCluster", "m").await;
    let held = rig
        .until("GarageCluster", "m", "it is held", |status| {
            condition(status, "Ready") == Some(("False", "GatewaysAttached"))
        })
        .await;
    assert_eq!(
        condition(&held, "GatewaysAttached"),
        Some(("True", "InUse"))
    );
    let user = format!("{}/g", rig.namespace);
    assert!(message(&held, "Ready").contains(&user), "{held:#}");
    await_condition("an Event says so", PATIENCE, || async {
        let events = rig.events("m").await;
        let told = |(reason, text): &(String, String)| {
            reason == "GatewaysAttached" && text.contains(&user)
        };
        events.iter().any(told)
    })
    .await;
    rig.rests().await;
    let gateways = rig.object("GarageCluster", "g").await;
    assert!(joined(&gateways["status"], 1), "{gateways:#}");

    rig.delete("GarageCluster", "g").await;
    rig.gone("GarageCluster", "g").await;
    rig.gone("GarageCluster", "m").await;
    // A layout that outlives its cluster has no roles that nobody would remove any more.
    let layout = rig.admin().get_cluster_layout().await.expect("a layout");
    assert_eq!(layout.roles.len(), 1, "{:?}", layout.roles);
}

#[tokio::test]
async fn flaw_11_gateways_are_released_when_their_storage_is_gone() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    rig.delete("GarageCluster", "c").await;
    rig.storage("m").await;
    rig.run_clusters();
    rig.apply("GarageCluster", "g", of_storage()).await;
    rig.until("GarageCluster", "g", "its role", |status| joined(status, 1))
        .await;
    // Somebody does not wait.
    rig.delete("GarageCluster", "m").await;
    let forced = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    let clusters = rig.api("GarageCluster");
    let forced = clusters.patch("m", &PatchParams::default(), &forced).await;
    forced.expect("no finalizer");
    rig.until("GarageCluster", "g", "it misses it", |status| {
        condition(status, "StorageConnected") == Some(("False", "StorageMissing"))
    })
    .await;
    rig.delete("GarageCluster", "g").await;
    rig.gone("GarageCluster", "g").await;
}

#[tokio::test]
async fn flaw_12_roles_go_while_their_nodes_live_and_only_then_the_object() {
    let Some(mut rig) = Rig::start(1).await else {
        return;
    };
    rig.apply("GarageCluster", "c", rig.running_gateways(2))
        .await;
    rig.run_clusters();
    let nodes = [rig.gateway("c", "c-a").await, rig.gateway("c", "c-b").await];
    rig.until("GarageCluster", "c", "both are there", |status| {
        connected(status, 2)
    })
    .await;
    rig.delete("GarageCluster", "c").await;
    rig.gone("GarageCluster", "c").await;
    // By now they have confirmed the layout without them: their pods may go.
    let now = history(&rig).await;
    let trackers = now.update_trackers.unwrap_or_default();
    for node in nodes {
        let id: NodeId = rig.garage.node(node).id().parse().expect("an id");
        let confirmed = trackers
            .get(&id)
            .is_none_or(|seen| seen.ack == now.current_version);
        assert!(confirmed, "{id}: {trackers:?}");
    }
    clean(&rig, 1).await;
    // What belongs to it goes with it, not before.
    for (kind, name) in [
        ("Deployment", "c"),
        ("Secret", "c-node-keys"),
        ("Pod", "c-a"),
        ("Pod", "c-b"),
    ] {
        assert!(!rig.object(kind, name).await.is_null(), "{kind} {name}");
    }
    assert_eq!(rig.object("Deployment", "c").await["spec"]["replicas"], 2);
    let events = rig.events("c").await;
    let skipped = events
        .iter()
        .any(|(reason, _)| reason == "DeadNodesSkipped");
    assert!(!skipped, "they were alive: {events:?}");
}

#[tokio::test]
async fn flaw_12_dead_gateways_do_not_hold_their_object() {
    let Some(rig) = Rig::start(2).await else {
        return;
    };
    rig.run_clusters();
    // Its node never runs, and will never confirm a layout.
    rig.until("GarageCluster", "c", "its role", |status| joined(status, 1))
        .await;
    rig.delete("GarageCluster", "c").await;
    rig.gone("GarageCluster", "c").await;
    clean(&rig, 2).await;
    let events = rig.events("c").await;
    let skipped = events
        .iter()
        .any(|(reason, _)| reason == "DeadNodesSkipped");
    assert!(skipped, "{events:?}");
}

#[tokio::test]
async fn flaw_12_a_gateway_that_leaves_and_hangs_does_not_hold_the_layout() {
    let Some(mut rig) = Rig::start(2).await else {
        return;
    };
    rig.apply("GarageCluster", "c", rig.running_gateways(2))
        .await;
    rig.run_clusters();
    let mut pods = Vec::new();
    for pod in ["c-a", "c-b"] {
        let node = rig.gateway("c", pod).await;
        pods.push((rig.slot(pod).await, pod, node));
    }
    pods.sort_unstable();
    let (_, pod, node) = pods[1];
    rig.until("GarageCluster", "c", "both are there", |status| {
        connected(status, 2)
    })
    .await;
    rig.garage.node(node).freeze();
    rig.apply("GarageCluster", "c", rig.running_gateways(1))
        .await;
    // It is connected, has no role, and never says that it knows.
    rig.gone("Pod", pod).await;
    rig.until_object("Deployment", "c", "it has one pod", |deployment| {
        deployment["spec"]["replicas"] == 1
    })
    .await;
    let layout = rig.admin().get_cluster_layout().await.expect("a layout");
    assert_eq!((layout.version, layout.roles.len()), (3, 3));
    assert!(!history(&rig).await.is_settled());
    assert_eq!(keys(&rig).await, ["slot-0", "slot-1"], "whose node hangs");

    rig.garage.node(node).kill();
    await_condition("the layout settles", PATIENCE, || async {
        history(&rig).await.is_settled()
    })
    .await;
    await_condition("its key is gone", PATIENCE, || async {
        keys(&rig).await == ["slot-0"]
    })
    .await;
    let layout = rig.admin().get_cluster_layout().await.expect("a layout");
    assert_eq!((layout.version, layout.roles.len()), (3, 3));
}

#[tokio::test]
async fn flaw_12_clusters_with_dead_gateways_do_not_wait_for_each_other() {
    let Some(rig) = Rig::start(2).await else {
        return;
    };
    rig.apply("GarageCluster", "d", rig.gateways(2)).await;
    rig.run_clusters();
    rig.until("GarageCluster", "c", "its role", |status| joined(status, 1))
        .await;
    rig.until("GarageCluster", "d", "its roles", |status| {
        joined(status, 2)
    })
    .await;
    rig.delete("GarageCluster", "c").await;
    rig.delete("GarageCluster", "d").await;
    rig.gone("GarageCluster", "c").await;
    rig.gone("GarageCluster", "d").await;
    clean(&rig, 2).await;
}

#[tokio::test]
async fn flaw_13_what_goes_wrong_is_said_in_the_words_of_what_refused() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    rig.secret("admin", json!({ "token": "wrong" })).await;
    rig.run_clusters();
    let status = rig
        .until("GarageCluster", "c", "it is not let in", |status| {
            condition(status, "StorageConnected") == Some(("False", "Unreachable"))
        })
        .await;
    let text = message(&status, "StorageConnected");
    assert!(text.contains("403"), "{text}");
    let reason = |type_| condition(&status, type_);
    assert_eq!(reason("Ready"), Some(("False", "StorageUnreachable")));
    assert_eq!(reason("LayoutJoined"), Some(("Unknown", "NotAsked")));
    assert_eq!(reason("Degraded"), Some(("Unknown", "NotAsked")));
    rig.secret("admin", json!({ "token": rig.garage.admin_token() }))
        .await;
    let status = rig
        .until("GarageCluster", "c", "it goes on", |status| {
            joined(status, 1)
        })
        .await;
    let reason = |type_| condition(&status, type_);
    assert_eq!(reason("StorageConnected"), Some(("True", "Answers")));
    assert_eq!(reason("LayoutJoined"), Some(("True", "Joined")));
    assert_eq!(reason("Ready"), Some(("False", "PodsNotReady")));
}

#[tokio::test]
async fn flaw_13_the_status_is_that_of_each_gateway_and_not_of_pods_alone() {
    let Some(mut rig) = Rig::start(1).await else {
        return;
    };
    rig.apply("GarageCluster", "c", rig.running_gateways(1))
        .await;
    rig.run_clusters();
    let index = rig.gateway("c", "c-a").await;
    let id = rig.garage.node(index).id();
    let gateway = |synced: bool, up: bool| {
        json!([{
            "pod": "c-a", "slot": 0, "nodeId": id, "inLayout": true, "connected": up, "synced": synced,
        }])
    };
    let complete = gateway(true, true);
    rig.until("GarageCluster", "c", "it has all tables", |status| {
        status["gateways"] == complete
    })
    .await;
    rig.serves("c-a").await;
    let status = rig
        .until("GarageCluster", "c", "it serves", |status| {
            status["readyReplicas"] == 1
        })
        .await;
    assert_eq!(condition(&status, "Degraded"), Some(("False", "AllUp")));
    // Kubernetes goes on calling the pod ready.
    rig.garage.node(index).kill();
    let lost = gateway(true, false);
    let status = rig
        .until("GarageCluster", "c", "its node is missed", |status| {
            status["gateways"] == lost
        })
        .await;
    assert_eq!(condition(&status, "Degraded"), Some(("True", "NodesDown")));
    assert_eq!(
        condition(&status, "QuorumAtRisk"),
        Some(("True", "QuorumLost"))
    );
}

#[tokio::test]
async fn flaw_14_storage_secrets_and_pods_wake_a_cluster_at_rest() {
    // So that nothing is noticed by looking.
    let never = |options: &mut gatewright_garage_operator::Options| {
        options.poll = Duration::from_secs(86_400);
    };
    let Some(mut rig) = Rig::with(1, never).await else {
        return;
    };
    rig.delete("GarageCluster", "c").await;
    rig.storage("m").await;
    rig.run_clusters();
    rig.apply("GarageCluster", "g", of_storage()).await;
    rig.gateway("g", "g-a").await;
    rig.serves("g-a").await;
    let at_rest = || async {
        rig.observed("Deployment", "g").await;
        rig.ready("GarageCluster", "g").await;
        rig.rests().await;
    };
    at_rest().await;
    // The storage cluster: its gateways run what it runs.
    let image = "example.com/garage:v2.5.0";
    let newer = Patch::Merge(json!({ "spec": { "image": image } }));
    let clusters = rig.api("GarageCluster");
    let changed = clusters.patch("m", &PatchParams::default(), &newer).await;
    changed.expect("another image");
    rig.until_object("Deployment", "g", "the image", |deployment| {
        deployment["spec"]["template"]["spec"]["containers"][0]["image"] == image
    })
    .await;
    at_rest().await;
    let secret = rig.entries("g-rpc-secret").await;
    rig.delete("Secret", "g-rpc-secret").await;
    await_condition("the Secret is back", PATIENCE, || async {
        rig.entries("g-rpc-secret").await == secret
    })
    .await;
    at_rest().await;
    rig.delete("Pod", "g-a").await;
    rig.until("GarageCluster", "g", "its pod is missed", |status| {
        slots(status).iter().all(|slot| slot.get("pod").is_none())
    })
    .await;
}
