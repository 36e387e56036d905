//! Objects are written when, and only when, that changes them.

use crate::object;
use gatewright_controller::{APPLIED, Ctx, Ensured, Kind, Metrics};
use gatewright_testkit::Cluster;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

async fn read<K: Kind>(ctx: &Ctx, object: &K) -> K {
    let (namespace, name) = (
        object.meta().namespace.as_deref(),
        object.meta().name.as_deref(),
    );
    let read = ctx.get_opt(namespace, name.expect("has a name")).await;
    read.expect("is read").expect("is there")
}

/// Applied once, an object is as desired, however the apiserver writes it.
async fn settles<K: Kind>(ctx: &Ctx, desired: Value) {
    let desired: K = object(desired);
    assert_eq!(
        ctx.ensure(&desired, None).await.expect("is applied"),
        Ensured::Created
    );
    let written = ctx.writes();
    for _ in 0..2 {
        let present = read(ctx, &desired).await;
        let again = ctx
            .ensure(&desired, Some(&present))
            .await
            .expect("is compared");
        assert_eq!(again, Ensured::Unchanged, "{present:?}");
    }
    assert_eq!(ctx.writes(), written);
}

#[tokio::test]
async fn nothing_is_written_when_nothing_has_changed() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let namespace = cluster.namespace("settled").await;
    let metrics = Metrics::new();
    let ctx = Ctx::new(cluster.client(), "test", None).measured_by(&metrics);
    let meta =
        |name: &str| json!({ "name": name, "namespace": namespace, "labels": { "app": name } });
    settles::<Service>(&ctx, json!({
        "metadata": meta("web"),
        "spec": { "selector": { "app": "web" }, "publishNotReadyAddresses": false,
            "ports": [{ "name": "s3", "port": 3900 }, { "name": "rpc", "port": 3901, "targetPort": "rpc" }] },
    }))
    .await;
    settles::<StatefulSet>(&ctx, json!({
        "metadata": meta("store"),
        "spec": {
            "serviceName": "store", "replicas": 3, "minReadySeconds": 0,
            "selector": { "matchLabels": { "app": "store" } },
            "template": {
                "metadata": { "labels": { "app": "store" } },
                "spec": {
                    "hostNetwork": false,
                    "securityContext": {},
                    "containers": [{
                        "name": "store", "image": "example.dev/store:1",
                        "env": [{ "name": "EMPTY", "value": "" }, { "name": "ONE", "value": "1" }],
                        "resources": { "requests": { "cpu": "0.5", "memory": "1024Mi" }, "limits": { "cpu": "1000m" } },
                        "volumeMounts": [{ "name": "data", "mountPath": "/data", "readOnly": false }],
                    }],
                    "volumes": [{ "name": "tmp", "emptyDir": {} }],
                },
            },
            "volumeClaimTemplates": [{
                "metadata": { "name": "data" },
                "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1024Mi" } } },
            }],
        },
    }))
    .await;
    settles::<Secret>(
        &ctx,
        json!({
            "metadata": meta("token"), "stringData": { "token": "t" }, "data": { "other": "AAE=" },
        }),
    )
    .await;
    settles::<ClusterRole>(&ctx, json!({
        "metadata": { "name": format!("role-{namespace}") },
        "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": [] }],
    }))
    .await;
    let text = metrics.encode();
    let line =
        r#"gatewright_api_writes_total{controller="test",kind="StatefulSet",verb="apply"} 1"#;
    assert!(text.contains(line), "{text}");
}

#[tokio::test]
async fn changes_of_others_and_fields_that_we_drop_are_noticed() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let namespace = cluster.namespace("drift").await;
    let ctx = Ctx::new(cluster.client(), "test", None);
    let map = |data: Value| -> ConfigMap {
        object(json!({ "metadata": { "name": "m", "namespace": namespace }, "data": data }))
    };
    let desired = map(json!({ "a": "1", "b": "1" }));
    ctx.ensure(&desired, None).await.expect("is applied");
    let present = read(&ctx, &desired).await;
    assert_eq!(present.annotations()[APPLIED].len(), 16);

    let api = Api::<ConfigMap>::namespaced(ctx.client().clone(), &namespace);
    let edit = Patch::Merge(json!({ "data": { "a": "2", "theirs": "1" } }));
    let edited = api
        .patch("m", &PatchParams::default(), &edit)
        .await
        .expect("is edited");
    let ensured = ctx.ensure(&desired, Some(&edited)).await;
    assert_eq!(ensured.expect("is applied"), Ensured::Changed);
    let present = read(&ctx, &desired).await;
    let data = present.data.clone().expect("has data");
    assert_eq!(data["a"], "1");
    assert_eq!(data["theirs"], "1", "a field of somebody else stays");

    let less = map(json!({ "a": "1" }));
    let ensured = ctx.ensure(&less, Some(&present)).await;
    assert_eq!(ensured.expect("is applied"), Ensured::Changed);
    let present = read(&ctx, &less).await;
    assert!(!present.data.clone().expect("has data").contains_key("b"));
    let ensured = ctx.ensure(&less, Some(&present)).await;
    assert_eq!(ensured.expect("is compared"), Ensured::Unchanged);
}

#[tokio::test]
async fn an_object_that_is_not_there_is_none() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let ctx = Ctx::new(cluster.client(), "test", None);
    let map: Option<ConfigMap> = ctx
        .get_opt(Some("default"), "nothing")
        .await
        .expect("is asked");
    assert_eq!(map, None);
    let role: Option<ClusterRole> = ctx.get_opt(None, "cluster-admin").await.expect("is asked");
    assert!(role.is_some());
}
