//! Create once, patch, delete, finalizers: each hits what it was decided for, and nothing else.

use crate::object;
use gatewright_controller::{Created, Ctx, Deleted};
use gatewright_testkit::Cluster;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use kube::api::PropagationPolicy;
use serde_json::json;

const OURS: &str = "ours.example.dev/finalizer";
const THEIRS: &str = "theirs.example.dev/finalizer";

async fn rig(prefix: &str) -> Option<(Ctx, ConfigMap)> {
    let cluster = Cluster::shared().await?;
    let namespace = cluster.namespace(prefix).await;
    let map = object(json!({ "metadata": { "name": "m", "namespace": namespace } }));
    Some((Ctx::new(cluster.client(), "test", None), map))
}

async fn created(ctx: &Ctx, map: &ConfigMap) -> ConfigMap {
    match ctx.create(map).await.expect("is created") {
        Created::New(map) => map,
        Created::Exists => panic!("is there already"),
    }
}

async fn read(ctx: &Ctx, map: &ConfigMap) -> Option<ConfigMap> {
    let namespace = map.namespace();
    ctx.get_opt(namespace.as_deref(), "m")
        .await
        .expect("is asked")
}

#[tokio::test]
async fn what_exists_is_not_created_again() {
    let Some((ctx, map)) = rig("once").await else {
        return;
    };
    let first = created(&ctx, &map).await;
    let mut other = map.clone();
    other.data = Some([("a".to_owned(), "1".to_owned())].into());
    assert_eq!(ctx.create(&other).await.expect("is told"), Created::Exists);
    assert_eq!(read(&ctx, &map).await, Some(first));
}

#[tokio::test]
async fn a_patch_is_for_the_version_that_was_seen() {
    let Some((ctx, map)) = rig("patch").await else {
        return;
    };
    let old = created(&ctx, &map).await;
    let new = ctx
        .patch_merge(&old, &json!({ "data": { "a": "1" } }))
        .await
        .expect("is patched");
    let error = ctx
        .patch_merge(&old, &json!({ "data": { "a": "2" } }))
        .await;
    let error = error.expect_err("has changed");
    assert!(error.is_conflict(), "{error:?}");
    assert_eq!(error.category(), "conflict");
    let newer = ctx
        .patch_merge(&new, &json!({ "data": { "a": null, "b": "2" } }))
        .await;
    let data = newer.expect("is patched").data.expect("has data");
    assert_eq!(data, [("b".to_owned(), "2".to_owned())].into());
}

#[tokio::test]
async fn another_object_of_the_same_name_is_not_deleted() {
    let Some((ctx, map)) = rig("delete").await else {
        return;
    };
    let old = created(&ctx, &map).await;
    let deleted = ctx.delete(&old, PropagationPolicy::Background).await;
    assert_eq!(deleted.expect("is deleted"), Deleted::Accepted);
    let deleted = ctx.delete(&old, PropagationPolicy::Background).await;
    assert_eq!(deleted.expect("is told"), Deleted::Gone);
    let new = created(&ctx, &map).await;
    let deleted = ctx.delete(&old, PropagationPolicy::Background).await;
    assert_eq!(deleted.expect("is told"), Deleted::Gone);
    assert_eq!(read(&ctx, &map).await, Some(new));
}

#[tokio::test]
async fn a_pod_that_ends_can_be_given_less_time_and_no_more() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let ctx = Ctx::new(cluster.client(), "test", None);
    let namespace = cluster.namespace("hurry").await;
    // On a node that does not exist, where nobody confirms its end.
    let pod = json!({
        "metadata": { "name": "p", "namespace": namespace },
        "spec": {
            "nodeName": "nowhere", "automountServiceAccountToken": false,
            "containers": [{ "name": "c", "image": "i" }],
        },
    });
    let pod: Pod = serde_json::from_value(pod).expect("a Pod");
    let Created::New(pod) = ctx.create(&pod).await.expect("is created") else {
        panic!("is there already");
    };
    let left = || async {
        let pod: Option<Pod> = ctx.get_opt(Some(&namespace), "p").await.expect("an answer");
        pod.and_then(|pod| pod.metadata.deletion_grace_period_seconds)
    };
    assert_eq!(left().await, None);
    let deleted = ctx.delete(&pod, PropagationPolicy::Background).await;
    assert_eq!(deleted.expect("is deleted"), Deleted::Accepted);
    assert_eq!(left().await, Some(30));
    for seconds in [5, 20] {
        let deleted = ctx.delete_within(&pod, seconds).await;
        assert_eq!(deleted.expect("is deleted"), Deleted::Accepted);
        assert_eq!(left().await, Some(5));
    }
}

#[tokio::test]
async fn finalizers_of_others_survive_ours() {
    let Some((ctx, map)) = rig("finalizer").await else {
        return;
    };
    let bare = created(&ctx, &map).await;
    let theirs = ctx
        .add_finalizer(&bare, THEIRS)
        .await
        .expect("is added")
        .expect("is new");
    // Decided on an object that had none, and on one that has one.
    let ours = ctx
        .add_finalizer(&bare, OURS)
        .await
        .expect("is added")
        .expect("is new");
    assert_eq!(ours.finalizers(), [THEIRS, OURS]);
    let written = ctx.writes();
    assert_eq!(
        ctx.add_finalizer(&ours, OURS).await.expect("is compared"),
        None
    );
    // Known only after looking again, for this copy does not have it.
    assert_eq!(
        ctx.add_finalizer(&theirs, OURS).await.expect("is compared"),
        None
    );
    assert_eq!(ctx.writes(), written + 1);

    ctx.delete(&ours, PropagationPolicy::Background)
        .await
        .expect("is deleted");
    let third = "third.example.dev/finalizer";
    assert!(
        ctx.add_finalizer(&ours, third).await.is_err(),
        "it is being deleted"
    );
    let left = ctx.remove_finalizer(&ours, OURS).await.expect("is removed");
    assert_eq!(left.expect("was there").finalizers(), [THEIRS]);
    assert_eq!(
        ctx.remove_finalizer(&ours, OURS)
            .await
            .expect("is compared"),
        None
    );
    ctx.remove_finalizer(&ours, THEIRS)
        .await
        .expect("is removed");
    assert_eq!(read(&ctx, &map).await, None);
    assert_eq!(
        ctx.remove_finalizer(&ours, THEIRS).await.expect("is gone"),
        None
    );
}
