//! What a gateway can do with and without a role, and after it lost its disk: facts that the readiness of
//! gateways rests on.

use gatewright_garage::admin::AdminTokenChange;
use gatewright_garage_operator::admin::Node;
use gatewright_testkit::garage::{Credentials, PATIENCE, Setup, boto3};
use gatewright_testkit::http::Response;
use gatewright_testkit::{Garage, await_condition};

use crate::admin::{bucket_and_key, client, client_with, id_of};

async fn get(garage: &Garage, index: usize, key: &Credentials, path: &str) -> Option<Response> {
    garage.node(index).s3(key, "GET", path, b"").await
}

async fn serves(garage: &Garage, index: usize, key: &Credentials, path: &str) {
    let what = format!("the gateway {index} serves {path}");
    await_condition(&what, PATIENCE, || async {
        get(garage, index, key, path)
            .await
            .is_some_and(|response| response.status() == 200)
    })
    .await;
}

#[tokio::test]
async fn fact_a_gateway_without_a_role_knows_no_key_for_ever() {
    let Some(mut garage) = Garage::start(1).await else {
        return;
    };
    let storage = client(&garage, 0);
    let (_, key) = bucket_and_key(&storage, "data").await;
    let put = garage.node(0).s3(&key, "PUT", "/data/a", b"x").await;
    assert_eq!(put.expect("an answer").status(), 200);
    let roleless = garage.add_running(Setup::default()).await;
    let token = AdminTokenChange::default();
    let token = storage.create_admin_token(&token).await.expect("a token");
    let token = token.secret_token.into_inner();
    // One with a role that comes later and serves: the other had more time than it needed.
    let gateway = garage.add_gateways(1).await[0];
    serves(&garage, gateway, &key, "/data/a").await;
    let with_token = |index: usize| client_with(&garage.node(index).admin_url(), &token);
    await_condition("the gateway knows the new token", PATIENCE, || async {
        with_token(gateway).get_cluster_health().await.is_ok()
    })
    .await;

    let refused = get(&garage, roleless, &key, "/data/a").await;
    let refused = refused.expect("an answer");
    assert_eq!(refused.status(), 403);
    assert!(refused.text().contains("No such key"), "{}", refused.text());
    let error = with_token(roleless).get_cluster_health().await;
    assert!(error.expect_err("no such token").is_unauthorized());
    // The Admin API answers, and by its own token.
    let status = client(&garage, roleless).get_cluster_status().await;
    assert_eq!(status.expect("a status").layout_version, 2);

    // A role is all it lacked.
    let role = garage.node(roleless).role("dc1", None);
    garage.apply([role].into_iter().collect()).await;
    serves(&garage, roleless, &key, "/data/a").await;
}

#[tokio::test]
async fn fact_a_wiped_gateway_with_its_key_serves_again_without_a_layout_change() {
    let Some(mut garage) = Garage::start(1).await else {
        return;
    };
    let storage = client(&garage, 0);
    let (_, key) = bucket_and_key(&storage, "data").await;
    let put = garage.node(0).s3(&key, "PUT", "/data/a", b"x").await;
    assert_eq!(put.expect("an answer").status(), 200);
    let gateway = garage.add_gateways(1).await[0];
    serves(&garage, gateway, &key, "/data/a").await;
    let node = garage.node(gateway);
    let id = id_of(node);

    // With its metadata: from the first answer on.
    node.stop().await;
    node.start();
    node.listens().await;
    let first = get(&garage, gateway, &key, "/data/a").await;
    assert_ne!(first.expect("an answer").status(), 403);

    // Without: refused at first, while it listens already.
    node.stop().await;
    node.wipe();
    node.start();
    node.listens().await;
    let first = get(&garage, gateway, &key, "/data/a").await;
    assert_eq!(first.expect("an answer").status(), 403);
    garage.introduce(gateway).await;
    serves(&garage, gateway, &key, "/data/a").await;
    // What storage sees of it by then is what readiness can rest on.
    let full = storage.get_node_statistics(Node::Asked).await.expect("it");
    let there = storage.get_node_statistics(Node::Id(id)).await.expect("it");
    let items = |statistics: &gatewright_garage::admin::NodeStatistics| {
        statistics.table("key").map(|table| table.items)
    };
    assert_eq!(items(&there), items(&full));
    let layout = storage.get_cluster_layout().await.expect("it");
    assert_eq!(layout.version, 2, "its loss changed the layout");
}

#[tokio::test]
async fn fact_a_gateway_serves_an_ordinary_s3_client_like_storage_does() {
    let Some(mut garage) = Garage::start(1).await else {
        return;
    };
    let (_, key) = bucket_and_key(&client(&garage, 0), "data").await;
    let gateway = garage.add_gateways(1).await[0];
    // Refused or empty, but known.
    await_condition("the gateway knows the key", PATIENCE, || async {
        let answer = get(&garage, gateway, &key, "/data/none").await;
        answer.is_some_and(|answer| answer.status() == 404)
    })
    .await;
    let put = r#"
s3.put_object(Bucket="data", Key="a b/ü.txt", Body=b"x" * 3_000_000)
print([b["Name"] for b in s3.list_buckets()["Buckets"]])
"#;
    let Some(buckets) = boto3(garage.node(gateway), &key, put).await else {
        return;
    };
    assert_eq!(buckets, "['data']\n");
    let got = r#"
for entry in s3.list_objects_v2(Bucket="data")["Contents"]:
    body = s3.get_object(Bucket="data", Key=entry["Key"])["Body"].read()
    print(entry["Key"], entry["Size"], len(body))
s3.delete_object(Bucket="data", Key="a b/ü.txt")
"#;
    let got = boto3(garage.node(0), &key, got).await;
    assert_eq!(got.as_deref(), Some("a b/ü.txt 3000000 3000000\n"));
}
