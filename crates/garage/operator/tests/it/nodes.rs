//! GarageNodes between a real apiserver and a real Garage.

use crate::rig::{PATIENCE, Rig, condition};
use gatewright_testkit::await_condition;
use gatewright_testkit::garage::Setup;
use serde_json::json;

#[tokio::test]
async fn an_external_node_is_connected_gets_its_role_and_loses_it() {
    let Some(mut rig) = Rig::start(1).await else {
        return;
    };
    let index = rig.garage.add(Setup::default());
    let node = rig.garage.node(index);
    node.start();
    node.listens().await;
    let spec = json!({
        "zone": "dc1", "gateway": true, "tags": ["edge"], "nodeId": node.id(),
        "external": { "address": node.address().to_string() },
    });
    rig.apply("GarageNode", "n", spec).await;
    let status = rig.ready("GarageNode", "n").await;
    assert_eq!(
        (&status["inLayout"], &status["connected"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(status["nodeId"], rig.garage.node(index).id());
    let layout = rig.admin().get_cluster_layout().await.expect("a layout");
    let role = layout
        .roles
        .iter()
        .find(|role| role.id.to_string() == rig.garage.node(index).id());
    let role = role.expect("a role");
    assert_eq!((role.zone.as_str(), role.capacity), ("dc1", None));
    assert!(role.tags.contains(&"edge".to_owned()));
    rig.rests().await;
    rig.delete("GarageNode", "n").await;
    rig.gone("GarageNode", "n").await;
    let layout = rig.admin().get_cluster_layout().await.expect("a layout");
    assert_eq!(layout.roles.len(), 1);
    let history = rig
        .admin()
        .get_cluster_layout_history()
        .await
        .expect("a history");
    let draining = history.versions.iter().filter(|version| {
        version.status == gatewright_garage::admin::LayoutVersionStatus::Draining
    });
    assert_eq!(draining.count(), 0, "others still rely on the old layout");
}

#[tokio::test]
async fn a_role_of_somebody_else_is_left_alone_and_a_dead_node_does_not_hold_its_object() {
    let Some(mut rig) = Rig::start(1).await else {
        return;
    };
    let index = rig.garage.add(Setup::default());
    let node = rig.garage.node(index);
    node.start();
    node.listens().await;
    let spec = json!({
        "zone": "dc1", "gateway": true, "nodeId": node.id(),
        "external": { "address": node.address().to_string() },
    });
    rig.apply("GarageNode", "first", spec.clone()).await;
    rig.ready("GarageNode", "first").await;
    rig.apply("GarageNode", "second", spec).await;
    rig.until("GarageNode", "second", "refused", |status| {
        condition(status, "Ready").is_some_and(|(ready, why)| {
            ready == "False" && (why == "RoleTaken" || why == "Conflict")
        })
    })
    .await;
    rig.delete("GarageNode", "second").await;
    rig.gone("GarageNode", "second").await;
    rig.garage.node(index).kill();
    await_condition("it is down", PATIENCE, || async {
        let status = rig.admin().get_cluster_status().await.expect("a status");
        status.nodes.iter().any(|node| !node.is_up)
    })
    .await;
    rig.delete("GarageNode", "first").await;
    rig.gone("GarageNode", "first").await;
    let layout = rig.admin().get_cluster_layout().await.expect("a layout");
    assert_eq!(layout.roles.len(), 1);
}
