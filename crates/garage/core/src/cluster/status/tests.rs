//! What a cluster says of itself, for states of the model.

use super::*;
use crate::cluster::world::{World, gateway, node, storage};
use crate::cluster::{ClusterKey, Disk, Node, plan};
use crate::layout::{Change, Preview, Role};

fn object(desired: &Desired) -> api::GarageCluster {
    let mut object = api::GarageCluster::new(&desired.key.name, api::GarageClusterSpec::default());
    object.metadata.namespace = Some(desired.key.namespace.clone());
    object
}

fn told(desired: &Desired, seen: &Observed, failure: Option<&str>) -> Value {
    let plan = plan(desired, seen);
    report(&object(desired), desired, seen, &plan, failure).status
}

fn is(status: &Value, type_: &str) -> (String, String) {
    let all = status["conditions"].as_array().expect("conditions");
    let found = all.iter().find(|condition| condition["type"] == type_);
    let found = found.unwrap_or_else(|| panic!("no {type_} in {status}"));
    let text = |field: &str| found[field].as_str().expect("a text").to_owned();
    (text("status"), text("reason"))
}

#[test]
fn a_running_gateway_cluster_says_so_for_each_slot() {
    let mut world = World::with_storage();
    let desired = gateway(2);
    world.converge(&desired);
    let status = told(&desired, &world.seen, None);
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["readyReplicas"], 2);
    assert_eq!(status["gateways"][1]["nodeId"], node(2).to_string());
    assert_eq!(status["gateways"][1]["inLayout"], true);
    assert_eq!(status["gateways"][1]["synced"], true);
    for (type_, expected) in [
        ("Ready", "True"),
        ("StorageConnected", "True"),
        ("LayoutJoined", "True"),
        ("Degraded", "False"),
        ("LayoutBlocked", "False"),
        ("QuorumAtRisk", "False"),
        ("Reconciled", "True"),
    ] {
        assert_eq!(is(&status, type_).0, expected, "{type_}");
    }
}

#[test]
fn a_failure_is_told_and_what_runs_still_counts() {
    let mut world = World::with_storage();
    let desired = gateway(1);
    world.converge(&desired);
    let status = told(&desired, &world.seen, Some("cannot apply the Service"));
    assert_eq!(is(&status, "Ready").0, "True");
    assert_eq!(is(&status, "Reconciled"), ("False".into(), "Failed".into()));
}

#[test]
fn a_blocked_layout_speaks_in_garages_words() {
    let mut world = World::with_storage();
    let desired = gateway(1);
    let why = "The number of zones with non-gateway nodes (1) is smaller";
    for _ in 0..4 {
        let plan = plan(&desired, &world.seen);
        if plan.verdict == Verdict::Waiting(Wait::LayoutBlocked(why.into())) {
            let report = report(&object(&desired), &desired, &world.seen, &plan, None);
            assert_eq!(is(&report.status, "LayoutBlocked").0, "True");
            assert!(report.warning.is_some_and(|(_, text)| text.contains(why)));
            return;
        }
        for step in &plan.steps {
            world.carry_out(&desired, step);
        }
        let facts = world.facts();
        facts.layout.preview = (!facts.layout.staged.is_empty()).then(|| Err(why.to_owned()));
    }
    panic!("never blocked");
}

#[test]
fn quorum_is_counted_over_all_roles() {
    // Fact 5: three storage nodes and three lost gateways cannot create a key, and look healthy.
    let mut world = World::with_storage();
    let desired = gateway(3);
    world.converge(&desired);
    for (lost, expected) in [(0, "False"), (1, "False"), (2, "True"), (3, "True")] {
        let facts = world.facts();
        for n in 1..=lost {
            facts.nodes.insert(node(n), Node::default());
        }
        let status = told(&desired, &world.seen, None);
        assert_eq!(is(&status, "QuorumAtRisk").0, expected, "{lost} lost");
    }
    assert_eq!(
        is(&told(&desired, &world.seen, None), "QuorumAtRisk").1,
        "QuorumLost"
    );
}

#[test]
fn a_storage_cluster_names_its_users() {
    let mut world = World::empty();
    let desired = storage(3);
    world.converge(&desired);
    world.seen.attached = vec![ClusterKey {
        namespace: "web".into(),
        name: "gw".into(),
    }];
    let status = told(&desired, &world.seen, None);
    assert_eq!(is(&status, "GatewaysAttached").0, "True");
    assert_eq!(
        status["endpoints"]["s3"],
        "http://garage-storage.ns.svc:3900"
    );
    assert_eq!(status["nodes"][0]["capacity"], "100Gi");
}

/// Two gateways are staged and wait for approval; one of the storage nodes is to go, another one to move.
fn staged() -> (Desired, World) {
    let mut world = World::with_storage();
    let desired = Desired {
        auto_apply: false,
        ..gateway(2)
    };
    world.converge(&desired);
    let facts = world.facts();
    let moved = Role {
        zone: "other".into(),
        capacity: Some(1 << 30),
        tags: BTreeSet::new(),
    };
    facts.layout.staged.push(Change::Remove(node(901)));
    facts.layout.staged.push(Change::Set(node(902), moved));
    facts.layout.preview = Some(Ok(Preview {
        moved: Some((192, 768)),
    }));
    for n in 900..903 {
        let disk = Disk {
            free: 0,
            total: 600 << 20,
        };
        facts.nodes.entry(node(n)).or_default().data = Some(disk);
    }
    (desired, world)
}

#[test]
fn what_waits_for_approval_is_previewed_until_nothing_is_staged() {
    let (desired, mut world) = staged();
    let preview = told(&desired, &world.seen, None)["layoutPreview"].clone();
    let expected = json!({
        "nodesAdded": [node(1).to_string(), node(2).to_string()],
        "nodesModified": [node(902).to_string()],
        "nodesRemoved": [node(901).to_string()],
        "partitionTransfers": 192,
        "dataTransferEstimate": "450Mi",
        "zonesAffected": ["default", "other"],
    });
    assert_eq!(preview, expected);
    world.facts().layout.preview = Some(Err("too few zones".into()));
    let status = told(&desired, &world.seen, None);
    assert_eq!(status.get("layoutPreview"), None, "it cannot be applied");
    world.facts().layout.staged.clear();
    let status = told(&desired, &world.seen, None);
    assert_eq!(status.get("layoutPreview"), None, "nothing is staged");
}

#[test]
fn a_preview_is_not_written_anew_when_only_the_data_grows() {
    let (desired, mut world) = staged();
    let mut object = object(&desired);
    let plan = plan(&desired, &world.seen);
    let first = report(&object, &desired, &world.seen, &plan, None).status;
    object.status = serde_json::from_value(json!({ "layoutPreview": first["layoutPreview"] })).ok();
    assert!(object.status.is_some());
    for n in 900..903 {
        let disk = Disk {
            free: 0,
            total: 900 << 20,
        };
        world.facts().nodes.entry(node(n)).or_default().data = Some(disk);
    }
    let second = report(&object, &desired, &world.seen, &plan, None).status;
    assert_eq!(first["layoutPreview"], second["layoutPreview"]);
    // Another change has another estimate.
    world.facts().layout.staged.pop();
    let third = report(&object, &desired, &world.seen, &plan, None).status;
    assert_eq!(third["layoutPreview"]["dataTransferEstimate"], "675Mi");
}

#[test]
fn a_node_that_lost_its_key_has_no_slot() {
    let mut world = World::with_storage();
    let desired = gateway(2);
    world.converge(&desired);
    world.seen.former = [node(2)].into();
    world.seen.keys.remove(&1);
    let status = told(&desired, &world.seen, None);
    assert_eq!(status["gateways"][0]["slot"], 0);
    let lost = &status["gateways"][1];
    assert_eq!(lost["nodeId"], node(2).to_string());
    assert_eq!(lost.get("slot"), None, "{lost}");
}

#[test]
fn another_factor_is_refused_with_what_to_do() {
    let world = World::with_storage();
    let desired = Desired {
        factor: Some(2),
        ..gateway(1)
    };
    let plan = plan(&desired, &world.seen);
    let report = report(&object(&desired), &desired, &world.seen, &plan, None);
    let (reason, text) = report.warning.expect("a warning");
    assert_eq!(reason, "ReplicationFactorMismatch");
    let todo = "remove spec.replication.factor from this object, or set it to 3";
    assert!(text.contains(todo), "{text}");
}

#[test]
fn figures_of_use_are_told_anew_only_when_they_have_moved_far() {
    let mut world = World::empty();
    let desired = storage(2);
    world.converge(&desired);
    let mut object = object(&desired);
    let mut tell = |used: u64, resync: u64| {
        let keys: Vec<NodeId> = world.seen.keys.values().copied().collect();
        for id in keys {
            let node = world.facts().nodes.entry(id).or_default();
            node.data = Some(Disk {
                free: (100 - used) << 30,
                total: 100 << 30,
            });
            node.resync = Some(resync);
        }
        let plan = plan(&desired, &world.seen);
        let status = report(&object, &desired, &world.seen, &plan, None).status;
        let figures = json!({
            "storageStats": status["storageStats"],
            "resyncQueueLength": status["resyncQueueLength"],
        });
        object.status = serde_json::from_value(figures).ok();
        assert!(object.status.is_some());
        assert_eq!(status["drainingNodes"], 0);
        let stats = &status["storageStats"];
        assert_eq!(stats["totalCapacity"], "200Gi");
        assert_eq!(stats["totalPartitions"], stats["healthyPartitions"]);
        let text = |field: &str| stats[field].as_str().expect("a size").to_owned();
        (
            text("usedCapacity"),
            text("availableCapacity"),
            status["resyncQueueLength"].as_i64(),
        )
    };
    // Used and resync of each of two nodes.
    for ((used, resync), expected) in [
        ((20, 0), ("40Gi", "160Gi", 0)),
        ((24, 40), ("40Gi", "160Gi", 0)),
        ((26, 500), ("52Gi", "148Gi", 1000)),
        ((22, 900), ("52Gi", "148Gi", 1000)),
        ((20, 1100), ("40Gi", "160Gi", 2200)),
        ((21, 30), ("40Gi", "160Gi", 0)),
    ] {
        let (used_text, free, queue) = tell(used, resync);
        let got = (used_text.as_str(), free.as_str(), queue.unwrap_or(-1));
        assert_eq!(got, expected, "{used} {resync}");
    }
}
