//! GarageKeys between a real apiserver and a real Garage.

use crate::rig::{PATIENCE, Rig, condition};
use gatewright_garage::admin::CreateBucket;
use gatewright_testkit::await_condition;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

async fn unmanaged(rig: &Rig, name: &str) -> String {
    let create = CreateBucket {
        global_alias: Some(name.to_owned()),
        local_alias: None,
    };
    rig.admin()
        .create_bucket(&create)
        .await
        .expect("a bucket")
        .id
}

#[tokio::test]
async fn a_key_has_its_secret_and_exactly_its_rights() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    unmanaged(&rig, "one").await;
    unmanaged(&rig, "two").await;
    let template = json!({
        "name": "s3", "type": "example.com/s3", "accessKeyIdKey": "ID", "secretAccessKeyKey": "SECRET",
        "labels": { "a": "b" }, "additionalData": { "extra": "x" },
    });
    let spec = json!({
        "secretTemplate": template,
        "bucketPermissions": [{ "globalAlias": "one", "read": true, "write": true }],
    });
    rig.apply("GarageKey", "app", spec).await;
    let status = rig.ready("GarageKey", "app").await;
    assert_eq!(status["buckets"][0]["globalAlias"], "one");
    let entries = rig.entries("s3").await.expect("a Secret");
    let names: Vec<&str> = entries.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["ID", "SECRET", "bucket", "endpoint", "extra", "region"]
    );
    assert_eq!(entries["bucket"], "one");
    assert_eq!(entries["region"], "garage");
    assert_eq!(
        entries["endpoint"],
        format!("http://c.{}.svc:3900", rig.namespace)
    );
    assert_eq!(status["accessKeyId"], entries["ID"]);
    let key = gatewright_testkit::garage::Credentials {
        id: entries["ID"].clone(),
        secret: entries["SECRET"].clone(),
    };
    assert_eq!(rig.s3(&key, "PUT", "/one/a").await, 200);
    assert_eq!(rig.s3(&key, "PUT", "/two/a").await, 403);
    rig.rests().await;

    // A Secret that is deleted comes back with the same key; a new name takes the old Secret away.
    let secrets: Api<Secret> = Api::namespaced(rig.client.clone(), &rig.namespace);
    secrets
        .delete("s3", &DeleteParams::default())
        .await
        .expect("gone");
    await_condition("the Secret is back", PATIENCE, || async {
        rig.entries("s3").await.is_some()
    })
    .await;
    assert_eq!(rig.entries("s3").await.expect("one")["SECRET"], key.secret);
    rig.apply(
        "GarageKey",
        "app",
        json!({ "bucketPermissions": [{ "globalAlias": "two", "read": true, "write": true }] }),
    )
    .await;
    rig.ready("GarageKey", "app").await;
    assert_eq!(rig.entries("s3").await, None);
    assert_eq!(rig.credentials("app").await, key);
    assert_eq!(rig.s3(&key, "PUT", "/one/a").await, 403);
    assert_eq!(rig.s3(&key, "PUT", "/two/a").await, 200);

    // What is not there is told, and the rest works.
    let spec = json!({ "bucketPermissions": [{ "bucketRef": "nowhere", "read": true }, { "globalAlias": "one", "read": true }] });
    rig.apply("GarageKey", "app", spec).await;
    let status = rig.ready("GarageKey", "app").await;
    assert_eq!(
        condition(&status, "Degraded"),
        Some(("True", "BucketsMissing"))
    );
    assert_eq!(rig.s3(&key, "GET", "/one/a").await, 200);

    rig.delete("GarageKey", "app").await;
    rig.gone("GarageKey", "app").await;
    assert!(rig.admin().list_keys().await.expect("keys").is_empty());
    assert_eq!(rig.s3(&key, "GET", "/one/a").await, 403);
}

#[tokio::test]
async fn a_key_is_replaced_in_time_and_the_old_one_works_through_the_overlap() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    let spec = json!({ "keyPermissions": [{ "keyRef": "app", "read": true, "write": true }] });
    rig.apply("GarageBucket", "data", spec).await;
    let spec = json!({ "rotation": { "interval": "10h", "overlap": "1h" } });
    rig.apply("GarageKey", "app", spec).await;
    rig.ready("GarageKey", "app").await;
    rig.until("GarageBucket", "data", "rights", |status| {
        status["keys"][0]["permissions"]["write"] == true
    })
    .await;
    let old = rig.credentials("app").await;
    assert_eq!(rig.s3(&old, "PUT", "/data/a").await, 200);
    rig.clock.advance(36_001);
    poke(&rig).await;
    await_condition("another key is in the Secret", PATIENCE, || async {
        rig.credentials("app").await != old
    })
    .await;
    // From the moment that it can be read it works, and so does the old one.
    let new = rig.credentials("app").await;
    assert_eq!(rig.s3(&new, "PUT", "/data/b").await, 200);
    assert_eq!(rig.s3(&old, "GET", "/data/b").await, 200);
    let status = rig.ready("GarageKey", "app").await;
    assert_eq!(status["rotation"]["previousAccessKeyId"], old.id);
    rig.clock.advance(3_601);
    poke(&rig).await;
    await_condition("the old key has ended", PATIENCE, || async {
        rig.s3(&old, "GET", "/data/b").await == 403
    })
    .await;
    assert_eq!(rig.s3(&new, "GET", "/data/b").await, 200);
    assert_eq!(rig.admin().list_keys().await.expect("keys").len(), 1);
}

/// Something changes, so that the object is looked at before its time.
async fn poke(rig: &Rig) {
    let spec = rig.api("GarageKey").get("app").await.expect("it").data["spec"].clone();
    let mut spec = spec;
    let name = if spec["name"] == "a" { "b" } else { "a" };
    spec["name"] = json!(name);
    rig.apply("GarageKey", "app", spec).await;
}

#[tokio::test]
async fn a_key_that_was_deleted_in_garage_is_replaced() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    rig.apply("GarageKey", "app", json!({})).await;
    rig.ready("GarageKey", "app").await;
    let old = rig.credentials("app").await;
    rig.admin().delete_key(&old.id).await.expect("gone");
    rig.apply("GarageKey", "app", json!({ "name": "again" }))
        .await;
    await_condition("another key", PATIENCE, || async {
        rig.credentials("app").await.id != old.id
    })
    .await;
    rig.ready("GarageKey", "app").await;
    let keys = rig.admin().list_keys().await.expect("keys");
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0].id, rig.credentials("app").await.id);
}

#[tokio::test]
async fn keys_are_imported_and_foreign_secrets_stay() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    unmanaged(&rig, "data").await;
    let spec = json!({
        "importKey": { "secretRef": { "name": "mine" } },
        "secretTemplate": { "name": "theirs" },
        "bucketPermissions": [{ "globalAlias": "data", "read": true, "write": true }],
    });
    rig.secret("theirs", json!({ "precious": "x" })).await;
    rig.apply("GarageKey", "app", spec.clone()).await;
    rig.until("GarageKey", "app", "the Secret is taken", |status| {
        condition(status, "Ready") == Some(("False", "SecretTaken"))
    })
    .await;
    assert_eq!(rig.entries("theirs").await.expect("it").len(), 1);
    let mut spec = spec;
    spec["secretTemplate"]["name"] = json!("app");
    rig.apply("GarageKey", "app", spec).await;
    rig.until("GarageKey", "app", "it waits for the material", |status| {
        condition(status, "Ready") == Some(("False", "KeyMaterialMissing"))
    })
    .await;
    let secret = "0123456789abcdef0123456789abcdef";
    rig.secret(
        "mine",
        json!({ "access-key-id": "GKimported0001", "secret-access-key": secret }),
    )
    .await;
    rig.ready("GarageKey", "app").await;
    let key = rig.credentials("app").await;
    assert_eq!(
        (key.id.as_str(), key.secret.as_str()),
        ("GKimported0001", secret)
    );
    assert_eq!(rig.s3(&key, "PUT", "/data/a").await, 200);
    rig.delete("GarageKey", "app").await;
    rig.gone("GarageKey", "app").await;
    assert!(rig.admin().list_keys().await.expect("keys").is_empty());
}

#[tokio::test]
async fn a_key_with_a_wrong_field_is_neither_forgotten_nor_left_behind() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    rig.apply("GarageKey", "app", json!({})).await;
    let before = rig.ready("GarageKey", "app").await;
    // What only the webhook sees; here there is none.
    let elsewhere = json!({ "secretTemplate": { "namespace": "kube-system" } });
    rig.apply("GarageKey", "app", elsewhere).await;
    let refused = rig
        .until("GarageKey", "app", "refused", |status| {
            condition(status, "Ready") == Some(("False", "Invalid"))
        })
        .await;
    assert_eq!(refused["accessKeyId"], before["accessKeyId"]);
    assert_eq!(refused["phase"], "Failed");
    rig.delete("GarageKey", "app").await;
    rig.gone("GarageKey", "app").await;
    assert_eq!(rig.admin().list_keys().await.expect("keys"), []);
}
