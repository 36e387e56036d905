//! The specified manifests, as they stand.

use gatewright_garage::api::{GarageCluster, GarageNode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Door;

const GATEWAY: &str = include_str!("../../manifests/garage-gateway.yaml");
const EXTERNAL: &str = include_str!("../../manifests/garage-external.yaml");
const NODE: &str = include_str!("../../manifests/garage-node.yaml");

fn documents<T: DeserializeOwned>(text: &str) -> Vec<T> {
    serde_saphyr::from_multiple(text).expect("YAML documents")
}

#[tokio::test]
async fn apply_as_they_stand() {
    // The manifest abbreviates the 64 hex digits of a node id.
    let external = EXTERNAL.replace("abc123...", &"abc12345".repeat(8));
    let Some(clusters) = Door::new("GarageCluster").await else {
        return;
    };
    let nodes = Door::new("GarageNode").await.expect("the same apiserver");
    for (door, text) in [
        (&clusters, GATEWAY),
        (&clusters, external.as_str()),
        (&nodes, NODE),
    ] {
        for document in documents::<Value>(text) {
            let name = document["metadata"]["name"].as_str().expect("a name");
            let answer = door.apply(name, &document["spec"], false).await;
            assert!(answer.is_ok(), "{name}: {answer:?}");
        }
    }
}

#[test]
fn read_as_meant() {
    let clusters: Vec<GarageCluster> = documents(GATEWAY);
    let [storage, gateway] = clusters.as_slice() else {
        panic!("two clusters: {clusters:?}");
    };
    assert_eq!((storage.spec.gateway, storage.spec.replicas), (false, 3));
    assert_eq!((gateway.spec.gateway, gateway.spec.replicas), (true, 5));
    assert!(
        gateway.spec.replication.is_none(),
        "nothing is made up for gateways"
    );
    let target = gateway
        .spec
        .connect_to
        .as_ref()
        .and_then(|to| to.cluster_ref.as_ref());
    assert_eq!(
        target.map(|target| target.name.as_str()),
        Some("garage-storage")
    );
    let [node] = documents::<GarageNode>(NODE).try_into().expect("one node");
    assert_eq!(
        node.spec.pod_selector.expect("a pod").name,
        "garage-gateway-xxx"
    );
}
