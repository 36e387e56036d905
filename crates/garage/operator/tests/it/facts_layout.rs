//! How Garage's layout behaves: facts that the operator's planner rests on.

use gatewright_garage::admin::{
    CreateBucket, HealthStatus, KeyChange, LayoutChange, LayoutHistory, SkipDeadNodes,
    StagedRoleChange,
};
use gatewright_garage_operator::admin::{Client, Error};
use gatewright_testkit::garage::PATIENCE;
use gatewright_testkit::{Garage, await_condition};

use crate::admin::{bucket_and_key, client, id_of};

fn remove(garage: &Garage, index: usize) -> StagedRoleChange {
    StagedRoleChange::Remove {
        id: id_of(garage.node(index)),
    }
}

fn gateway(garage: &Garage, index: usize, zone: &str) -> StagedRoleChange {
    StagedRoleChange::Set {
        id: id_of(garage.node(index)),
        zone: zone.into(),
        capacity: None,
        tags: Vec::new(),
    }
}

/// Stages and applies; the new version.
async fn apply(client: &Client, roles: Vec<StagedRoleChange>) -> u64 {
    let change = LayoutChange {
        roles,
        parameters: None,
    };
    let staged = client.update_cluster_layout(&change).await.expect("staged");
    let version = staged.version + 1;
    let applied = client.apply_cluster_layout(version).await.expect("applied");
    applied.layout.version
}

async fn history(client: &Client) -> LayoutHistory {
    client
        .get_cluster_layout_history()
        .await
        .expect("a history")
}

#[tokio::test]
async fn fact_a_killed_gateway_wedges_the_history_and_one_removed_alive_does_not() {
    let Some(mut garage) = Garage::start(1).await else {
        return;
    };
    let gateways = garage.add_gateways(2).await;
    let client = client(&garage, 0);
    garage.settled().await;

    let dead = id_of(garage.node(gateways[0]));
    garage.node(gateways[0]).kill();
    let version = apply(&client, vec![remove(&garage, gateways[0])]).await;
    // All who live have acknowledged it, and none counts as synchronised while one has not.
    await_condition(
        "all but the dead node have acknowledged",
        PATIENCE,
        || async {
            let trackers = history(&client).await.update_trackers.unwrap_or_default();
            let done = |id, ack| id == dead || ack == version;
            trackers.len() > 1 && trackers.iter().all(|(id, tracker)| done(*id, tracker.ack))
        },
    )
    .await;
    let wedged = history(&client).await;
    assert!(!wedged.is_settled(), "{wedged:?}");
    assert_eq!(wedged.min_ack, version - 1);
    let trackers = wedged.update_trackers.expect("trackers");
    assert!(
        trackers.values().all(|tracker| tracker.sync < version),
        "{trackers:?}"
    );

    let skip = SkipDeadNodes {
        version,
        allow_missing_data: false,
    };
    let skipped = client.cluster_layout_skip_dead_nodes(skip).await;
    assert_eq!(skipped.expect("skipped").ack_updated, [dead]);
    garage.settled().await;

    let version = apply(&client, vec![remove(&garage, gateways[1])]).await;
    garage.settled().await;
    assert_eq!(history(&client).await.current_version, version);
    let nothing = client.cluster_layout_skip_dead_nodes(skip).await;
    assert_eq!(
        nothing.expect_err("only one version is live").status(),
        Some(400)
    );
}

#[tokio::test]
async fn fact_lost_gateways_stop_admin_writes_while_health_says_healthy() {
    let Some(mut garage) = Garage::start(1).await else {
        return;
    };
    let gateways = garage.add_gateways(2).await;
    let client = client(&garage, 0);
    garage.settled().await;
    let (_, key) = bucket_and_key(&client, "kept").await;
    for index in &gateways {
        garage.node(*index).kill();
        garage.sees(0, *index, false).await;
    }
    // Their successors, with other ids as pods with an emptyDir alone would have, change nothing.
    garage.add_running(Default::default()).await;
    let error = client.create_key(&KeyChange::default()).await;
    let error = error.expect_err("one of three roles is no quorum");
    assert!(error.is_quorum_lost(), "{error}");
    let bucket = CreateBucket {
        global_alias: Some("lost".into()),
        local_alias: None,
    };
    let error = client.create_bucket(&bucket).await.expect_err("the same");
    assert!(error.is_quorum_lost(), "{error}");

    let put = garage
        .node(0)
        .s3(&key, "PUT", "/kept/a", b"still here")
        .await;
    assert_eq!(put.expect("an answer").status(), 200);
    let get = garage.node(0).s3(&key, "GET", "/kept/a", b"").await;
    assert_eq!(get.expect("an answer").text(), "still here");
    let health = client.get_cluster_health().await.expect("it");
    assert_eq!(health.status, HealthStatus::Healthy);

    let lost = gateways.iter().map(|index| remove(&garage, *index));
    apply(&client, lost.collect()).await;
    await_condition(
        "the roles' removal brings the quorum back",
        PATIENCE,
        || async {
            match client.create_key(&KeyChange::default()).await {
                Ok(_) => true,
                Err(error) if error.is_transient() => false,
                Err(error) => panic!("{error}"),
            }
        },
    )
    .await;
}

#[tokio::test]
async fn fact_a_gateway_in_a_zone_of_its_own_breaks_every_apply() {
    let Some(mut garage) = Garage::start(3).await else {
        return;
    };
    let index = garage.add(Default::default());
    let client = client(&garage, 0);
    let change = LayoutChange {
        roles: vec![gateway(&garage, index, "edge")],
        parameters: None,
    };
    client.update_cluster_layout(&change).await.expect("staged");
    let words = "number of zones with non-gateway nodes (1) is smaller than the redundancy";
    let preview = client.preview_cluster_layout_changes().await;
    let preview = preview.expect_err("one storage zone of two");
    assert!(matches!(&preview, Error::Layout { .. }), "{preview}");
    assert!(preview.to_string().contains(words), "{preview}");
    let error = client.apply_cluster_layout(2).await.expect_err("the same");
    assert_eq!(error.status(), Some(500));
    assert!(error.to_string().contains(words), "{error}");
    assert!(!error.is_stale_layout_version() && !error.is_transient());

    client.revert_cluster_layout().await.expect("reverted");
    assert_eq!(
        apply(&client, vec![gateway(&garage, index, "dc1")]).await,
        2
    );
}

#[tokio::test]
async fn fact_a_stale_version_is_a_500_and_an_empty_apply_makes_a_version() {
    let Some(garage) = Garage::start(1).await else {
        return;
    };
    let client = client(&garage, 0);
    for version in [0, 1, 3] {
        let error = client.apply_cluster_layout(version).await;
        let error = error.expect_err("not the next one");
        assert!(error.is_stale_layout_version(), "{error}");
        assert_eq!(
            (error.status(), error.code()),
            (Some(500), Some("InternalError"))
        );
    }
    let applied = client
        .apply_cluster_layout(2)
        .await
        .expect("nothing staged");
    assert_eq!(applied.layout.version, 2);
}
