//! GarageClusters between a real apiserver and a real Garage, as far as no pod has to run.

use crate::rig::{Rig, condition};
use serde_json::json;

#[tokio::test]
async fn staged_changes_are_previewed_until_they_are_approved() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    rig.run_clusters();
    rig.until("GarageCluster", "c", "its role", |status| {
        status["gateways"][0]["inLayout"] == true
    })
    .await;
    let mut spec = rig.gateways(2);
    spec["layoutManagement"] = json!({ "autoApply": false });
    rig.apply("GarageCluster", "g", spec).await;
    let status = rig
        .until("GarageCluster", "g", "approval is asked for", |status| {
            condition(status, "Ready") == Some(("False", "ApprovalNeeded"))
        })
        .await;
    let mut nodes: Vec<_> = status["gateways"]
        .as_array()
        .expect("slots")
        .iter()
        .map(|slot| slot["nodeId"].clone())
        .collect();
    nodes.sort_by_key(ToString::to_string);
    let preview = json!({
        "nodesAdded": nodes, "partitionTransfers": 0, "dataTransferEstimate": "0",
        "zonesAffected": ["dc1"],
    });
    assert_eq!(status["layoutPreview"], preview);
    rig.rests().await;
    let version = status["stagedLayoutVersion"].to_string();
    let approved = gatewright_garage::cluster::APPROVED;
    rig.annotate("GarageCluster", "g", approved, &version).await;
    let status = rig
        .until("GarageCluster", "g", "its roles", |status| {
            status["gateways"][1]["inLayout"] == true
        })
        .await;
    assert_eq!(status.get("layoutPreview"), None, "nothing is staged");
}
