//! GarageAdminTokens between a real apiserver and a real Garage.

use crate::rig::{PATIENCE, Rig, condition};
use gatewright_garage::secret::Redacted;
use gatewright_garage_operator::admin::{Client, Settings};
use gatewright_testkit::await_condition;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

fn with(rig: &Rig, token: &str) -> Client {
    let token = Redacted::new(token.to_owned());
    Client::new(&rig.garage.node(0).admin_url(), token, Settings::default()).expect("a client")
}

async fn ours(rig: &Rig) -> Vec<String> {
    let all = rig.admin().list_admin_tokens().await.expect("tokens");
    all.into_iter().filter_map(|token| token.id).collect()
}

#[tokio::test]
async fn a_token_may_do_what_its_scope_says_until_it_ends() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    rig.apply(
        "GarageAdminToken",
        "watch",
        json!({ "scope": ["GetClusterHealth"], "expiration": "2099-01-01T00:00:00Z" }),
    )
    .await;
    let status = rig.ready("GarageAdminToken", "watch").await;
    let entries = rig.entries("watch").await.expect("a Secret");
    assert_eq!(
        entries["admin-endpoint"],
        format!("http://c-admin.{}.svc:3903", rig.namespace)
    );
    let token = entries["admin-token"].clone();
    assert!(token.starts_with(status["tokenId"].as_str().expect("an id")));
    let client = with(&rig, &token);
    client.get_cluster_health().await.expect("in its scope");
    assert!(
        client
            .list_keys()
            .await
            .expect_err("not in its scope")
            .is_unauthorized()
    );
    rig.rests().await;

    rig.apply(
        "GarageAdminToken",
        "watch",
        json!({ "scope": ["GetClusterHealth", "ListKeys"], "neverExpires": true }),
    )
    .await;
    rig.ready("GarageAdminToken", "watch").await;
    client.list_keys().await.expect("in its scope now");
    assert_eq!(
        rig.entries("watch").await.expect("it")["admin-token"],
        token
    );
    assert_eq!(ours(&rig).await.len(), 1);

    // Its time comes.
    rig.apply(
        "GarageAdminToken",
        "watch",
        json!({ "scope": ["ListKeys"], "expiration": "2020-01-01T00:00:00Z" }),
    )
    .await;
    rig.until("GarageAdminToken", "watch", "expired", |status| {
        status["phase"] == "Expired" && condition(status, "Ready") == Some(("False", "Expired"))
    })
    .await;
    assert!(client.list_keys().await.is_err());

    // A Secret that is lost means another token, and the old one is revoked.
    let secrets: Api<Secret> = Api::namespaced(rig.client.clone(), &rig.namespace);
    rig.apply(
        "GarageAdminToken",
        "watch",
        json!({ "scope": ["ListKeys"], "neverExpires": true }),
    )
    .await;
    rig.ready("GarageAdminToken", "watch").await;
    secrets
        .delete("watch", &DeleteParams::default())
        .await
        .expect("gone");
    await_condition("another token", PATIENCE, || async {
        rig.entries("watch")
            .await
            .is_some_and(|entries| entries["admin-token"] != token)
    })
    .await;
    rig.ready("GarageAdminToken", "watch").await;
    assert_eq!(ours(&rig).await.len(), 1);
    assert!(
        client.list_keys().await.is_err(),
        "the lost token still works"
    );

    rig.delete("GarageAdminToken", "watch").await;
    rig.gone("GarageAdminToken", "watch").await;
    assert!(ours(&rig).await.is_empty());
}
