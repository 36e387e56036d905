//! GarageBuckets between a real apiserver and a real Garage.

use crate::rig::{PATIENCE, Rig, condition};
use gatewright_garage::admin::{CreateBucket, KeyChange};
use gatewright_garage_operator::admin::BucketSelector;
use gatewright_testkit::await_condition;
use gatewright_testkit::garage::boto3;
use serde_json::json;

#[tokio::test]
async fn a_bucket_and_its_key_find_each_other_in_any_order() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    let spec = json!({
        "globalAlias": "pics",
        "localAliases": [{ "keyRef": "app", "alias": "mine" }],
        "keyPermissions": [{ "keyRef": "app", "read": true, "write": true }, { "keyRef": "nobody", "read": true }],
        "quotas": { "maxSize": "1Gi", "maxObjects": 7 },
        "website": { "enabled": true },
        "lifecycle": { "rules": [{
            "id": "a", "filter": { "prefix": "tmp/", "objectSizeGreaterThan": 1 },
            "expiration": { "date": "2030-01-31T00:00:00Z" },
        }] },
        "cors": [{ "allowedOrigins": ["*"], "allowedMethods": ["GET"] }],
    });
    rig.apply("GarageBucket", "photos", spec).await;
    let status = rig.ready("GarageBucket", "photos").await;
    assert_eq!(
        condition(&status, "Degraded"),
        Some(("True", "KeysMissing")),
        "{status:#}"
    );
    rig.apply("GarageKey", "app", json!({})).await;
    rig.ready("GarageKey", "app").await;
    let status = rig
        .until(
            "GarageBucket",
            "photos",
            "the key has its rights",
            |status| {
                status["keys"][0]["permissions"]["write"] == true
                    && status["localAliases"][0]["alias"] == "mine"
            },
        )
        .await;
    assert_eq!(status["globalAlias"], "pics");
    assert_eq!(status["quotaUsage"]["sizeLimit"], 1 << 30);
    assert_eq!(
        status["websiteUrl"],
        serde_json::Value::Null,
        "the cluster has no web endpoint"
    );
    let id = status["bucketId"].as_str().expect("an id");
    let bucket = rig
        .admin()
        .get_bucket_info(BucketSelector::Id(id))
        .await
        .expect("it");
    assert_eq!(bucket.global_aliases, ["pics"], "the reservation is gone");
    assert!(
        bucket.website_access && bucket.cors_rules.is_some() && bucket.lifecycle_rules.is_some()
    );

    // The key's Secret is all that a client needs.
    let key = rig.credentials("app").await;
    let script = r#"
s3.put_object(Bucket="pics", Key="a", Body=b"hello")
print(s3.get_object(Bucket="mine", Key="a")["Body"].read().decode())
"#;
    if let Some(said) = boto3(rig.garage.node(0), &key, script).await {
        assert_eq!(said, "hello\n");
    }
    rig.rests().await;

    // Names and rights follow the object.
    let spec =
        json!({ "globalAlias": "renamed", "keyPermissions": [{ "keyRef": "app", "read": true }] });
    rig.apply("GarageBucket", "photos", spec).await;
    rig.until("GarageBucket", "photos", "renamed", |status| {
        status["globalAlias"] == "renamed"
            && condition(status, "Ready") == Some(("True", "AsAsked"))
    })
    .await;
    let bucket = rig
        .admin()
        .get_bucket_info(BucketSelector::Id(id))
        .await
        .expect("it");
    assert_eq!(bucket.global_aliases, ["renamed"]);
    assert!(!bucket.website_access && bucket.quotas.max_size.is_none());
    assert_eq!(rig.s3(&key, "GET", "/renamed/a").await, 200);
    assert_eq!(rig.s3(&key, "PUT", "/renamed/b").await, 403);
}

#[tokio::test]
async fn a_bucket_with_data_is_not_deleted_and_says_so() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    rig.apply(
        "GarageBucket",
        "full",
        json!({ "keyPermissions": [{ "keyRef": "app", "read": true, "write": true }] }),
    )
    .await;
    rig.apply("GarageKey", "app", json!({})).await;
    rig.until("GarageBucket", "full", "rights", |status| {
        status["keys"][0]["permissions"]["write"] == true
    })
    .await;
    let key = rig.credentials("app").await;
    assert_eq!(rig.s3(&key, "PUT", "/full/a").await, 200);
    rig.delete("GarageBucket", "full").await;
    let status = rig
        .until(
            "GarageBucket",
            "full",
            "its deletion is blocked",
            |status| condition(status, "DeletionBlocked") == Some(("True", "NotEmpty")),
        )
        .await;
    assert_eq!(status["phase"], "Deleting");
    assert_eq!(rig.s3(&key, "GET", "/full/a").await, 200);
    assert_eq!(rig.s3(&key, "DELETE", "/full/a").await, 204);
    rig.gone("GarageBucket", "full").await;
    let left = rig.admin().list_buckets().await.expect("buckets");
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_bucket_that_exists_is_taken_over_by_the_first_object_alone() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    let create = CreateBucket {
        global_alias: Some("old".into()),
        local_alias: None,
    };
    let made = rig.admin().create_bucket(&create).await.expect("a bucket");
    rig.apply("GarageBucket", "first", json!({ "globalAlias": "old" }))
        .await;
    rig.until("GarageBucket", "first", "a refusal", |status| {
        condition(status, "Ready") == Some(("False", "BucketExists"))
    })
    .await;
    let adopt = gatewright_garage::api::ANNOTATION_ADOPT;
    rig.annotate("GarageBucket", "first", adopt, "true").await;
    let status = rig.ready("GarageBucket", "first").await;
    assert_eq!(status["bucketId"], made.id);
    rig.apply("GarageBucket", "second", json!({ "globalAlias": "old" }))
        .await;
    let status = rig
        .until("GarageBucket", "second", "a conflict", |status| {
            condition(status, "Ready") == Some(("False", "Conflict"))
        })
        .await;
    let message = status["conditions"][0]["message"]
        .as_str()
        .expect("a message");
    assert!(
        message.contains(&format!("{}/first", rig.namespace)),
        "{message}"
    );
    rig.delete("GarageBucket", "second").await;
    rig.gone("GarageBucket", "second").await;
    rig.delete("GarageBucket", "first").await;
    rig.gone("GarageBucket", "first").await;
    let kept = rig
        .admin()
        .get_bucket_info(BucketSelector::Id(&made.id))
        .await;
    assert_eq!(kept.expect("it was to be kept").global_aliases, ["old"]);
}

#[tokio::test]
async fn rights_of_keys_that_nobody_stands_for_stay_and_a_lost_bucket_comes_back() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    rig.apply("GarageBucket", "data", json!({})).await;
    let status = rig.ready("GarageBucket", "data").await;
    let id = status["bucketId"].as_str().expect("an id").to_owned();
    let admin = rig.admin();
    let manual = admin
        .create_key(&KeyChange::default())
        .await
        .expect("a key");
    let rights = gatewright_garage::admin::BucketPermissions {
        read: true,
        ..Default::default()
    };
    admin
        .allow_bucket_key(&id, &manual.access_key_id, rights)
        .await
        .expect("a grant");
    rig.apply(
        "GarageBucket",
        "data",
        json!({ "quotas": { "maxObjects": 1 } }),
    )
    .await;
    rig.ready("GarageBucket", "data").await;
    let bucket = admin
        .get_bucket_info(BucketSelector::Id(&id))
        .await
        .expect("it");
    assert_eq!(bucket.keys[0].permissions, rights);
    admin.delete_bucket(&id).await.expect("gone");
    rig.apply(
        "GarageBucket",
        "data",
        json!({ "quotas": { "maxObjects": 2 } }),
    )
    .await;
    await_condition("another one was made", PATIENCE, || async {
        let found = admin
            .get_bucket_info(BucketSelector::GlobalAlias("data"))
            .await;
        found.is_ok_and(|found| found.id != id && found.quotas.max_objects == Some(2))
    })
    .await;
}

#[tokio::test]
async fn a_bucket_is_released_when_its_cluster_is_gone() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    rig.apply("GarageBucket", "left", json!({})).await;
    rig.ready("GarageBucket", "left").await;
    rig.delete("GarageCluster", "c").await;
    rig.gone("GarageCluster", "c").await;
    rig.delete("GarageBucket", "left").await;
    rig.gone("GarageBucket", "left").await;
}
