//! The Kubernetes source against a real apiserver.

use crate::support::{
    ApiserverPath, apply, apply_manifests, ingress, kubeconfig_with_token, service,
};
use gatewright_agent::source::{self, KubernetesSource, Source, SourceConfig, SourceError};
use gatewright_testkit::{Cluster, await_condition};
use gatewright_translate::{Key, Objects, Options, translate};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const PATIENCE: Duration = Duration::from_secs(60);

/// A source and its tasks.
struct Fixture {
    source: Source,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Fixture {
    async fn start(kubeconfig: PathBuf, namespaces: &[&str]) -> Self {
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let config = config(kubeconfig, namespaces);
        let started = source::start(&config, cancel.clone(), &tasks);
        let source = timeout(PATIENCE, started)
            .await
            .expect("is ready in time")
            .expect("starts");
        Self {
            source,
            cancel,
            tasks,
        }
    }

    fn objects(&self) -> Arc<Objects> {
        self.source.objects.borrow().clone()
    }

    /// The hosts that the newest objects give routes for.
    fn hosts(&self) -> Vec<String> {
        let translation = translate(&self.objects(), &Options::default());
        let routes = translation.routes.values();
        let mut hosts: Vec<_> = routes
            .filter_map(|route| route.host.as_ref().map(ToString::to_string))
            .collect();
        hosts.sort();
        hosts
    }

    async fn serves(&self, hosts: &[&str]) {
        let what = format!("the hosts are {hosts:?}");
        await_condition(&what, PATIENCE, || async { self.hosts() == hosts }).await;
    }
}

fn config(kubeconfig: PathBuf, namespaces: &[&str]) -> SourceConfig {
    SourceConfig::Kubernetes(KubernetesSource {
        kubeconfig: Some(kubeconfig),
        context: None,
        namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
    })
}

async fn start_error(config: &SourceConfig) -> SourceError {
    let tasks = TaskTracker::new();
    let started = source::start(config, CancellationToken::new(), &tasks);
    let error = timeout(PATIENCE, started)
        .await
        .expect("in time")
        .err()
        .expect("does not start");
    // What it started is over, too.
    tasks.close();
    timeout(PATIENCE, tasks.wait())
        .await
        .expect("the tasks end");
    error
}

/// The apiserver takes in new roles a moment after it has confirmed them.
async fn rights_arrive(services: Api<Service>) {
    await_condition("the rights arrive", PATIENCE, || async {
        services.list(&ListParams::default()).await.is_ok()
    })
    .await;
}

async fn delete_ingress(client: &Client, namespace: &str, name: &str) {
    let api = Api::<Ingress>::namespaced(client.clone(), namespace);
    api.delete(name, &DeleteParams::default())
        .await
        .expect("is deleted");
}

#[tokio::test]
async fn flaw_14_an_update_that_drops_a_host_drops_its_route() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let (namespace, client) = (cluster.namespace("update").await, cluster.client());
    apply::<Service>(&client, service(&namespace, "web")).await;
    let fixture = Fixture::start(cluster.kubeconfig(), &[&namespace]).await;
    assert!(fixture.hosts().is_empty());
    apply::<Ingress>(
        &client,
        ingress(&namespace, "web", &["a.example", "b.example"]),
    )
    .await;
    fixture.serves(&["a.example", "b.example"]).await;
    apply::<Ingress>(&client, ingress(&namespace, "web", &["b.example"])).await;
    fixture.serves(&["b.example"]).await;
    delete_ingress(&client, &namespace, "web").await;
    fixture.serves(&[]).await;
}

#[tokio::test]
async fn flaw_19_a_late_service_brings_the_route_and_its_end_takes_it() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let (namespace, client) = (cluster.namespace("late").await, cluster.client());
    apply::<Ingress>(&client, ingress(&namespace, "web", &["a.example"])).await;
    let fixture = Fixture::start(cluster.kubeconfig(), &[&namespace]).await;
    let refusals = translate(&fixture.objects(), &Options::default()).refusals;
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    apply::<Service>(&client, service(&namespace, "web")).await;
    fixture.serves(&["a.example"]).await;
    let services = Api::<Service>::namespaced(client, &namespace);
    services
        .delete("web", &DeleteParams::default())
        .await
        .expect("is deleted");
    fixture.serves(&[]).await;
}

#[tokio::test]
async fn endpoints_are_followed() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let (namespace, client) = (cluster.namespace("slices").await, cluster.client());
    let fixture = Fixture::start(cluster.kubeconfig(), &[&namespace]).await;
    let slice = |address: &str| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": "web-1", "namespace": namespace,
                "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4", "ports": [{ "port": 8080 }],
            "endpoints": [{ "addresses": [address] }],
        })
    };
    for address in ["10.0.0.1", "10.0.0.2"] {
        apply::<EndpointSlice>(&client, slice(address)).await;
        await_condition("the endpoint is there", PATIENCE, || async {
            let objects = fixture.objects();
            let slice = objects.slices.get(&Key::new(&namespace, "web-1"));
            slice.is_some_and(|slice| slice.endpoints.iter().any(|one| one.addresses == [address]))
        })
        .await;
    }
}

#[tokio::test]
async fn an_unchanged_object_is_shared_and_a_rollout_makes_few_sets() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let (namespace, client) = (cluster.namespace("share").await, cluster.client());
    apply::<Service>(&client, service(&namespace, "web")).await;
    let mut fixture = Fixture::start(cluster.kubeconfig(), &[&namespace]).await;
    let before = fixture.source.objects.borrow_and_update().clone();
    let writes = (0..40).map(|number| service(&namespace, &format!("s{number}")));
    let writes: Vec<_> = writes
        .map(|service| apply::<Service>(&client, service))
        .collect();
    let writing = futures_util::future::join_all(writes);
    let reading = async {
        let mut sets = 0;
        while fixture.source.objects.borrow_and_update().services.len() < 41 {
            fixture.source.objects.changed().await.expect("runs");
            sets += 1;
        }
        sets
    };
    let (_, sets) = tokio::join!(writing, timeout(PATIENCE, reading));
    let sets = sets.expect("all are seen");
    assert!(sets < 40, "{sets} sets for 40 changes");
    let key = Key::new(&namespace, "web");
    assert!(Arc::ptr_eq(
        &before.services[&key],
        &fixture.objects().services[&key]
    ));
    assert!(
        before.services[&key]
            .metadata
            .managed_fields
            .iter()
            .flatten()
            .next()
            .is_none()
    );
}

#[tokio::test]
async fn other_namespaces_are_not_seen_unless_all_are() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let client = cluster.client();
    let mut names = Vec::new();
    for _ in 0..3 {
        let namespace = cluster.namespace("scope").await;
        apply::<Service>(&client, service(&namespace, "web")).await;
        names.push(namespace);
    }
    let seen = |fixture: &Fixture| -> Vec<bool> {
        let objects = fixture.objects();
        names
            .iter()
            .map(|name| objects.services.contains_key(&Key::new(name, "web")))
            .collect()
    };
    let two = Fixture::start(cluster.kubeconfig(), &[&names[0], &names[1]]).await;
    assert_eq!(seen(&two), [true, true, false]);
    let all = Fixture::start(cluster.kubeconfig(), &[]).await;
    assert_eq!(seen(&all), [true, true, true]);
    assert!(
        all.source
            .kubernetes_version
            .as_ref()
            .is_some_and(|version| version.starts_with('v'))
    );
}

#[tokio::test]
async fn flaw_16_what_was_deleted_while_disconnected_is_gone_also_after_410() {
    // Its own, for its history is dropped.
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    let (namespace, client) = (cluster.namespace("gone").await, cluster.client());
    apply::<Service>(&client, service(&namespace, "web")).await;
    for host in ["a", "b"] {
        let hosts = [&*format!("{host}.example")];
        apply::<Ingress>(&client, ingress(&namespace, host, &hosts)).await;
    }
    let path = ApiserverPath::new(&cluster).await;
    let fixture = Fixture::start(path.kubeconfig().to_owned(), &[&namespace]).await;
    fixture.serves(&["a.example", "b.example"]).await;

    path.cut();
    delete_ingress(&client, &namespace, "a").await;
    path.mend();
    fixture.serves(&["b.example"]).await;

    path.cut();
    delete_ingress(&client, &namespace, "b").await;
    apply::<Ingress>(&client, ingress(&namespace, "c", &["c.example"])).await;
    // The watch cannot be resumed: its version is too old.
    cluster.expire_watches().await;
    path.mend();
    fixture.serves(&["c.example"]).await;
    // And it goes on from there.
    apply::<Ingress>(&cluster.client(), ingress(&namespace, "d", &["d.example"])).await;
    fixture.serves(&["c.example", "d.example"]).await;
}

#[tokio::test]
async fn an_apiserver_that_restarts_is_told_and_followed() {
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    let namespace = cluster.namespace("restart").await;
    apply::<Service>(&cluster.client(), service(&namespace, "web")).await;
    apply::<Ingress>(&cluster.client(), ingress(&namespace, "a", &["a.example"])).await;
    let fixture = Fixture::start(cluster.kubeconfig(), &[&namespace]).await;
    fixture.serves(&["a.example"]).await;
    cluster.stop_apiserver().await;
    await_condition("the loss is told", PATIENCE, || async {
        !fixture.source.problems.borrow().is_empty()
    })
    .await;
    // Traffic does not depend on the apiserver.
    assert_eq!(fixture.hosts(), ["a.example"]);
    cluster.start_apiserver().await;
    apply::<Ingress>(&cluster.client(), ingress(&namespace, "b", &["b.example"])).await;
    fixture.serves(&["a.example", "b.example"]).await;
}

#[tokio::test]
async fn an_apiserver_that_is_down_at_the_start_is_waited_for() {
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    let namespace = cluster.namespace("down").await;
    apply::<Service>(&cluster.client(), service(&namespace, "web")).await;
    cluster.stop_apiserver().await;
    let namespaces = [&*namespace];
    let starting = Fixture::start(cluster.kubeconfig(), &namespaces);
    let (fixture, ()) = tokio::join!(starting, cluster.start_apiserver());
    assert!(
        fixture
            .objects()
            .services
            .contains_key(&Key::new(&namespace, "web"))
    );
}

#[tokio::test]
async fn a_missing_permission_is_an_error_that_names_it() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let namespace = cluster.namespace("rights").await;
    let token = cluster.service_account_token(&namespace, "nobody").await;
    let (_folder, kubeconfig) = kubeconfig_with_token(cluster, &token);
    let error = start_error(&config(kubeconfig, &[])).await;
    let text = error.to_string();
    assert!(matches!(error, SourceError::Forbidden { .. }), "{error:?}");
    assert!(text.contains("may not list and watch"), "{text}");
    assert!(text.contains("deploy/agent.yaml"), "{text}");
}

#[tokio::test]
async fn the_rights_of_the_published_manifest_are_enough() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    apply_manifests(
        &cluster.client(),
        include_str!("../../../../../deploy/agent.yaml"),
    )
    .await;
    let namespace = cluster.namespace("deployed").await;
    let token = cluster
        .service_account_token("gatewright", "gatewright-agent")
        .await;
    let (_folder, kubeconfig) = kubeconfig_with_token(cluster, &token);
    let agent = cluster
        .service_account_client("gatewright", "gatewright-agent")
        .await;
    rights_arrive(Api::all(agent)).await;
    let fixture = Fixture::start(kubeconfig, &[]).await;
    apply::<Service>(&cluster.client(), service(&namespace, "late")).await;
    await_condition("the Service is seen", PATIENCE, || async {
        fixture
            .objects()
            .services
            .contains_key(&Key::new(&namespace, "late"))
    })
    .await;
    assert!(fixture.source.problems.borrow().is_empty());
}

#[tokio::test]
async fn one_namespace_needs_rights_in_that_namespace_only() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let namespace = cluster.namespace("tenant").await;
    let token = cluster.service_account_token(&namespace, "agent").await;
    let role = format!(
        r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{ name: agent, namespace: {namespace} }}
rules:
  - apiGroups: ["", networking.k8s.io, discovery.k8s.io]
    resources: [services, ingresses, endpointslices]
    verbs: [get, list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{ name: agent, namespace: {namespace} }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: Role, name: agent }}
subjects: [{{ kind: ServiceAccount, name: agent, namespace: {namespace} }}]
"#
    );
    apply_manifests(&cluster.client(), &role).await;
    apply::<Service>(&cluster.client(), service(&namespace, "web")).await;
    let (_folder, kubeconfig) = kubeconfig_with_token(cluster, &token);
    let agent = cluster.service_account_client(&namespace, "agent").await;
    rights_arrive(Api::namespaced(agent, &namespace)).await;
    let fixture = Fixture::start(kubeconfig, &[&namespace]).await;
    assert!(
        fixture
            .objects()
            .services
            .contains_key(&Key::new(&namespace, "web"))
    );
    // Classes are of the whole cluster; that they cannot be read is told.
    await_condition("the missing right is told", PATIENCE, || async {
        let problems = fixture.source.problems.borrow();
        problems.len() == 1
            && problems[0]
                .place
                .starts_with("ingressclasses.networking.k8s.io")
    })
    .await;
}

#[tokio::test]
async fn a_token_that_is_not_accepted_is_an_error_and_not_repeated() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let (_folder, kubeconfig) = kubeconfig_with_token(cluster, "s3cr3t-token");
    let error = start_error(&config(kubeconfig, &[])).await;
    assert!(matches!(error, SourceError::Unauthorized(_)), "{error:?}");
    assert!(
        !format!("{error} {error:?}").contains("s3cr3t"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_missing_kubeconfig_is_an_error() {
    let error = start_error(&config(PathBuf::from("/nonexistent/kubeconfig"), &[])).await;
    assert!(matches!(error, SourceError::Client(_)), "{error:?}");
}

#[tokio::test]
async fn the_tasks_end_with_the_token() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let namespace = cluster.namespace("stop").await;
    let fixture = Fixture::start(cluster.kubeconfig(), &[&namespace]).await;
    fixture.cancel.cancel();
    fixture.tasks.close();
    timeout(PATIENCE, fixture.tasks.wait())
        .await
        .expect("the tasks end");
}
