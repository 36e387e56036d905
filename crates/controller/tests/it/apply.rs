//! Server-side apply, status and events.

use crate::object;
use gatewright_controller::{Ctx, Error, Notice, Severity};
use gatewright_testkit::Cluster;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

async fn create_ingress(client: &Client, namespace: &str) -> Ingress {
    let ingress = object(json!({
        "metadata": { "name": "web", "namespace": namespace },
        "spec": { "defaultBackend": { "service": { "name": "web", "port": { "number": 80 } } } },
    }));
    let api = Api::<Ingress>::namespaced(client.clone(), namespace);
    api.create(&PostParams::default(), &ingress)
        .await
        .expect("is created")
}

fn status(hostname: &str) -> Value {
    json!({ "loadBalancer": { "ingress": [{ "hostname": hostname }] } })
}

#[tokio::test]
async fn a_status_is_written_once_and_removed_when_it_is_left_out() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let namespace = cluster.namespace("status").await;
    let ctx = Ctx::new(cluster.client(), "test", None);
    let created = create_ingress(ctx.client(), &namespace).await;

    let written = ctx
        .apply_status(&created, &status("a.example"))
        .await
        .expect("is written");
    let written = written.expect("is a change");
    let marks = written.managed_fields().iter();
    let mark = marks
        .filter_map(|mark| mark.manager.as_deref())
        .collect::<Vec<_>>();
    assert!(mark.contains(&"gatewright/test"), "{mark:?}");
    let again = ctx
        .apply_status(&written, &status("a.example"))
        .await
        .expect("nothing fails");
    assert_eq!((again, ctx.writes()), (None, 1));

    let removed = ctx
        .apply_status(&written, &json!({ "loadBalancer": {} }))
        .await;
    let removed = removed.expect("is written").expect("is a change");
    let balancer = removed.status.and_then(|status| status.load_balancer);
    assert!(balancer.and_then(|balancer| balancer.ingress).is_none());
    assert_eq!(removed.spec, created.spec);
}

#[tokio::test]
async fn a_status_never_reaches_an_object_made_anew_under_the_name() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let namespace = cluster.namespace("anew").await;
    let ctx = Ctx::new(cluster.client(), "test", None);
    let old = create_ingress(ctx.client(), &namespace).await;
    let api = Api::<Ingress>::namespaced(ctx.client().clone(), &namespace);
    api.delete("web", &DeleteParams::default())
        .await
        .expect("is deleted");

    let error = ctx
        .apply_status(&old, &status("a.example"))
        .await
        .expect_err("is gone");
    assert!(error.is_gone(), "{error:?}");
    create_ingress(ctx.client(), &namespace).await;
    let error = ctx
        .apply_status(&old, &status("a.example"))
        .await
        .expect_err("is another");
    assert!(matches!(error, Error::Api { .. }), "{error:?}");
    let new = api.get("web").await.expect("is there");
    assert!(
        new.status
            .and_then(|status| status.load_balancer)
            .and_then(|lb| lb.ingress)
            .is_none()
    );
}

#[tokio::test]
async fn an_applied_object_belongs_to_the_controllers_field_manager() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let namespace = cluster.namespace("apply").await;
    let ctx = Ctx::new(cluster.client(), "test", None);
    let map = |data: Value| -> ConfigMap {
        object(json!({ "metadata": { "name": "m", "namespace": namespace }, "data": data }))
    };
    ctx.apply(&map(json!({ "a": "1", "b": "1" })))
        .await
        .expect("is applied");
    let applied = ctx
        .apply(&map(json!({ "a": "2" })))
        .await
        .expect("is applied");
    let data = applied.data.expect("has data");
    assert_eq!(
        data.into_iter().collect::<Vec<_>>(),
        [("a".to_owned(), "2".to_owned())]
    );
}

#[tokio::test]
async fn an_event_is_about_the_object_and_repeats_are_counted_on_it() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let namespace = cluster.namespace("event").await;
    let ctx = Ctx::new(cluster.client(), "test", Some("pod-1".into()));
    let ingress = create_ingress(ctx.client(), &namespace).await;
    let notice = Notice {
        severity: Severity::Warning,
        reason: "HostNotGranted".into(),
        action: "Route".into(),
        note: "ask the administrator".into(),
    };
    for _ in 0..2 {
        ctx.publish(&ingress, &notice).await.expect("is published");
    }
    let api = Api::<Event>::namespaced(ctx.client().clone(), &namespace);
    let events = api
        .list(&ListParams::default())
        .await
        .expect("are listed")
        .items;
    assert_eq!(events.len(), 1, "{events:?}");
    let event = &events[0];
    assert_eq!(event.reason.as_deref(), Some("HostNotGranted"));
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert_eq!(
        event.reporting_controller.as_deref(),
        Some("gatewright/test")
    );
    assert_eq!(event.series.as_ref().map(|series| series.count), Some(2));
    let regarding = event.regarding.as_ref().expect("is about something");
    assert_eq!(regarding.uid, ingress.metadata.uid);
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let namespace = cluster.namespace("forbidden").await;
    let ingress = create_ingress(&cluster.client(), &namespace).await;
    let ctx = Ctx::new(cluster.client_as("nobody", &[]), "test", None);
    let error = ctx
        .apply_status(&ingress, &status("a.example"))
        .await
        .expect_err("is forbidden");
    let text = error.to_string();
    assert!(matches!(error, Error::Forbidden { .. }), "{error:?}");
    assert!(
        text.contains(&format!("apply the status of Ingress {namespace}/web")),
        "{text}"
    );
    assert!(text.contains("the manifests in deploy/"), "{text}");
}
