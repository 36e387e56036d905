//! Every call that one node passes on to others, against a real Garage.

use gatewright_garage::admin::{GarageVersion, HealthStatus, RepairType, ScrubCommand};
use gatewright_garage_operator::admin::{Error, Node};
use gatewright_testkit::Garage;
use gatewright_testkit::garage::Setup;

use crate::admin::{client, id_of, shared};

#[tokio::test]
async fn a_node_tells_who_and_how_it_is() {
    let Some(garage) = shared().await else { return };
    let client = client(garage, 0);
    let id = id_of(garage.node(0));
    for node in [Node::Asked, Node::Id(id)] {
        let info = client.get_node_info(node).await.expect("its info");
        assert_eq!(info.node_id, id);
        assert!(
            info.version() >= Some(GarageVersion::new(2, 5, 0)),
            "{info:?}"
        );
        assert_eq!(info.is_up, Some(true));
        let region = info.connection_parameters.expect("from Garage 2.5").region;
        assert_eq!(region, "garage");
        let statistics = client.get_node_statistics(node).await.expect("them");
        for table in ["key", "bucket_v2", "bucket_alias", "admin_token", "object"] {
            assert!(statistics.table(table).is_some(), "{table}: {statistics:?}");
        }
    }
    assert!(client.garage_version().await.expect("it").is_some());
    let all = client.get_node_statistics_of_all().await.expect("them");
    assert!(all.success.contains_key(&id) && all.error.is_empty());
    let health = client.get_cluster_health().await.expect("it");
    assert_eq!(
        (health.status, health.partitions_all_ok),
        (HealthStatus::Healthy, 256)
    );

    let nobody = Node::Id("0".repeat(64).parse().expect("an id"));
    let error = client.get_node_info(nobody).await.expect_err("nobody");
    assert_eq!(error.status(), Some(400));
}

#[tokio::test]
async fn a_node_does_what_it_is_told() {
    let Some(garage) = shared().await else { return };
    let client = client(garage, 0);
    let node = Node::Asked;
    for repair in [
        RepairType::Tables,
        RepairType::Blocks,
        RepairType::Scrub(ScrubCommand::Cancel),
    ] {
        // A scrub that does not run cannot be cancelled; that is the node's own answer.
        match client.launch_repair_operation(node, repair).await {
            Ok(()) | Err(Error::Node { .. }) => {}
            Err(error) => panic!("{repair:?}: {error}"),
        }
    }
    client.create_metadata_snapshot(node).await.expect("it");
    client
        .set_worker_variable(node, "resync-worker-count", "2")
        .await
        .expect("it");
    let one = client
        .get_worker_variable(node, Some("resync-worker-count"))
        .await
        .expect("it");
    assert_eq!(
        one.get("resync-worker-count").map(String::as_str),
        Some("2")
    );
    let all = client.get_worker_variable(node, None).await.expect("them");
    assert!(all.len() > 1, "{all:?}");
    assert!(
        client
            .list_block_errors(node)
            .await
            .expect("none")
            .is_empty()
    );
    assert_eq!(
        client.retry_block_resync(node).await.expect("none").count,
        0
    );
}

#[tokio::test]
async fn the_asked_node_dials() {
    let Some(mut garage) = Garage::start(1).await else {
        return;
    };
    let other = garage.add(Setup::default());
    garage.node_mut(other).set_peers(&[]);
    garage.node(other).start();
    garage.node(other).listens().await;
    let client = client(&garage, 0);
    let peer = garage.node(other).peer();
    client
        .connect_cluster_nodes(std::slice::from_ref(&peer))
        .await
        .expect("it is there");
    garage.sees(other, 0, true).await;

    let nobody = format!("{}@127.0.0.1:1", "0".repeat(64));
    let error = client.connect_cluster_nodes(&[peer, nobody.clone()]).await;
    match error.expect_err("one is nobody") {
        Error::NotConnected {
            asked: 2, failed, ..
        } => assert_eq!(failed[0].0, nobody),
        error => panic!("{error}"),
    }
}
