//! Conditions: times move with the status only, and those of others stay.

use crate::object;
use gatewright_controller::conditions::{ConditionStatus, Wanted};
use gatewright_controller::{Ctx, Kind};
use gatewright_testkit::Cluster;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};

async fn create<K>(client: Client, value: Value) -> K
where
    K: Kind + kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    let created: K = object(value);
    let namespace = created.meta().namespace.clone().expect("has a namespace");
    let api = Api::<K>::namespaced(client, &namespace);
    api.create(&PostParams::default(), &created)
        .await
        .expect("is created")
}

fn wanted(type_: &str, status: bool, message: &str) -> Wanted {
    Wanted {
        type_: type_.to_owned(),
        status: ConditionStatus::from(status),
        reason: "Because".to_owned(),
        message: message.to_owned(),
    }
}

fn conditions(service: &Service) -> Vec<Condition> {
    let status = service.status.clone().unwrap_or_default();
    status.conditions.unwrap_or_default()
}

fn names(service: &Service) -> Vec<String> {
    let mut names: Vec<_> = conditions(service)
        .into_iter()
        .map(|one| one.type_)
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn conditions_keep_their_times_and_those_of_others() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let namespace = cluster.namespace("conditions").await;
    let ours = Ctx::new(cluster.client(), "ours", None);
    let theirs = Ctx::new(cluster.client(), "theirs", None);
    let service: Service = create(
        cluster.client(),
        json!({
            "metadata": { "name": "web", "namespace": namespace },
            "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] },
        }),
    )
    .await;
    let other = json!({ "conditions": [wanted("Theirs", true, "x")] });
    let service = theirs
        .write_status(&service, &other)
        .await
        .expect("is written");
    let service = service.expect("is a change");

    let first = json!({
        "conditions": [wanted("Ready", false, "starting"), wanted("Healthy", true, "")],
        "loadBalancer": { "ingress": [{ "hostname": "web.example" }] },
    });
    let written = ours
        .write_status(&service, &first)
        .await
        .expect("is written");
    let mut written = written.expect("is a change");
    assert_eq!(names(&written), ["Healthy", "Ready", "Theirs"]);
    let again = ours
        .write_status(&written, &first)
        .await
        .expect("is compared");
    assert_eq!((again, ours.writes()), (None, 1));

    // As if it had been so for a year.
    let since = "2025-01-01T00:00:00Z".parse().expect("is a time");
    for condition in written
        .status
        .iter_mut()
        .flat_map(|status| status.conditions.iter_mut().flatten())
    {
        condition.last_transition_time.0 = since;
    }
    for (status, message, moves) in [(false, "still starting", false), (true, "up", true)] {
        let next = json!({
            "conditions": [wanted("Ready", status, message), wanted("Healthy", true, "")],
            "loadBalancer": { "ingress": [{ "hostname": "web.example" }] },
        });
        let next = ours
            .write_status(&written, &next)
            .await
            .expect("is written");
        let next = next.expect("is a change");
        for condition in conditions(&next).iter().filter(|one| one.type_ != "Theirs") {
            let moved = condition.last_transition_time.0 != since;
            assert_eq!(moved, moves && condition.type_ == "Ready", "{condition:?}");
            assert_eq!(condition.observed_generation, next.metadata.generation);
        }
        assert_eq!(names(&next), ["Healthy", "Ready", "Theirs"]);
    }

    // What is left out is removed, though nothing else changes.
    let present: Option<Service> = ours
        .get_opt(Some(&namespace), "web")
        .await
        .expect("is read");
    let present = present.expect("is there");
    let less = json!({ "conditions": [wanted("Ready", true, "up")] });
    let less_written = ours
        .write_status(&present, &less)
        .await
        .expect("is written");
    let less_written = less_written.expect("is a change");
    assert_eq!(names(&less_written), ["Ready", "Theirs"]);
    let balancer = less_written
        .status
        .clone()
        .and_then(|status| status.load_balancer);
    assert!(balancer.is_none_or(|balancer| balancer.ingress.is_none()));
    let again = ours
        .write_status(&less_written, &less)
        .await
        .expect("is compared");
    assert_eq!(again, None);
}

#[tokio::test]
async fn a_condition_of_a_pod_is_set_beside_the_kubelets() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let namespace = cluster.namespace("gate").await;
    let ctx = Ctx::new(cluster.client(), "test", None);
    let pod: Pod = create(
        cluster.client(),
        json!({
            "metadata": { "name": "p", "namespace": namespace },
            "spec": {
                "containers": [{ "name": "c", "image": "example.dev/c" }],
                "readinessGates": [{ "conditionType": "example.dev/synced" }],
            },
        }),
    )
    .await;
    let kubelet = Ctx::new(cluster.client(), "kubelet", None);
    let running = json!({ "phase": "Running", "conditions": [wanted("Ready", false, "")] });
    let pod = kubelet
        .patch_status(&pod, &running)
        .await
        .expect("is patched");
    let pod = pod.expect("is a change");

    let gate = json!({ "conditions": [wanted("example.dev/synced", true, "all tables")] });
    let patched = ctx.patch_status(&pod, &gate).await.expect("is patched");
    let patched = patched.expect("is a change");
    let status = patched.status.clone().expect("has a status");
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let conditions = status.conditions.expect("has conditions");
    for (type_, holds) in [("Ready", "False"), ("example.dev/synced", "True")] {
        let found = conditions.iter().find(|one| one.type_ == type_);
        assert_eq!(found.map(|one| one.status.as_str()), Some(holds), "{type_}");
        assert!(
            found.is_some_and(|one| one.last_transition_time.is_some()),
            "{type_}"
        );
    }
    assert_eq!(
        ctx.patch_status(&patched, &gate)
            .await
            .expect("is compared"),
        None
    );
}
