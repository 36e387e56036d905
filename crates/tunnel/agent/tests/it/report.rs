//! Statuses and Events on real Ingresses.

use crate::support::{apply, apply_manifests, ingress, service};
use gatewright_agent::report::{self, Edges, Report};
use gatewright_controller::Ctx;
use gatewright_routes::message::Refused;
use gatewright_routes::{RefusedReason, RouteId};
use gatewright_testkit::{Cluster, await_condition};
use gatewright_translate::{Key, Objects, Options, Translation, translate};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const PATIENCE: Duration = Duration::from_secs(30);
const OWN: &str = "k3j2.gateway.example";
/// The name by which agents write.
const MANAGER: &str = "gatewright/agent";

/// A namespace with a reporter.
struct Fixture {
    client: Client,
    namespace: String,
    ctx: Ctx,
    reports: watch::Sender<Arc<Report>>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Fixture {
    async fn start(cluster: &Cluster, prefix: &str) -> Self {
        let namespace = cluster.namespace(prefix).await;
        Self::replica(cluster, cluster.client(), &namespace, &namespace, "a")
    }

    /// A reporter that writes with `client`; the test itself looks on as the administrator.
    fn replica(
        cluster: &Cluster,
        client: Client,
        namespace: &str,
        lease_namespace: &str,
        identity: &str,
    ) -> Self {
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let duration = Duration::from_secs(3);
        let ctx = report::context(
            client,
            lease_namespace,
            identity,
            duration,
            cancel.clone(),
            &tasks,
        );
        let (reports, receiver) = watch::channel(Arc::default());
        tasks.spawn(report::run(ctx.clone(), receiver, cancel.clone()));
        Self {
            client: cluster.client(),
            namespace: namespace.to_owned(),
            ctx,
            reports,
            cancel,
            tasks,
        }
    }

    async fn objects(&self) -> Objects {
        let everything = ListParams::default();
        let ingresses = Api::<Ingress>::namespaced(self.client.clone(), &self.namespace);
        let services = Api::<Service>::namespaced(self.client.clone(), &self.namespace);
        let mut objects = Objects::default();
        for one in ingresses.list(&everything).await.expect("are listed") {
            objects
                .ingresses
                .insert(Key::of(&one.metadata), Arc::new(one));
        }
        for one in services.list(&everything).await.expect("are listed") {
            objects
                .services
                .insert(Key::of(&one.metadata), Arc::new(one));
        }
        objects
    }

    /// Reports the objects as they are now.
    async fn report(&self, edges: impl Fn(&Translation) -> Edges) {
        let objects = self.objects().await;
        let translation = translate(&objects, &Options::default());
        let report = Report::new(&objects, &translation, &edges(&translation));
        self.reports.send_replace(Arc::new(report));
    }

    async fn ingress(&self, name: &str) -> Ingress {
        let api = Api::<Ingress>::namespaced(self.client.clone(), &self.namespace);
        api.get(name).await.expect("is there")
    }

    async fn names(&self, ingress: &str) -> Vec<String> {
        let status = self.ingress(ingress).await.status;
        let balancer = status.and_then(|status| status.load_balancer);
        let entries = balancer
            .and_then(|balancer| balancer.ingress)
            .unwrap_or_default();
        entries
            .into_iter()
            .filter_map(|entry| entry.hostname.or(entry.ip))
            .collect()
    }

    async fn publishes(&self, ingress: &str, names: &[&str]) {
        let what = format!("the status of {ingress} is {names:?}");
        await_condition(&what, PATIENCE, || async {
            self.names(ingress).await == names
        })
        .await;
    }

    /// All Events of agents. The apiserver has some of its own: where its repair of Service addresses
    /// sees a Service before its address, `ClusterIPNotAllocated`.
    async fn told(&self) -> Vec<Event> {
        let api = Api::<Event>::namespaced(self.client.clone(), &self.namespace);
        let events = api.list(&ListParams::default()).await.expect("are listed");
        let by_agent = |event: &Event| event.reporting_controller.as_deref() == Some(MANAGER);
        events.into_iter().filter(by_agent).collect()
    }

    /// Their reasons, each with its count, sorted.
    async fn events(&self) -> Vec<(String, i32)> {
        let mut reasons: Vec<_> = self
            .told()
            .await
            .into_iter()
            .map(|event| {
                let count = event.series.map_or(1, |series| series.count);
                (event.reason.unwrap_or_default(), count)
            })
            .collect();
        reasons.sort();
        reasons
    }

    async fn tells(&self, expected: &[&str]) {
        let expected: Vec<_> = expected
            .iter()
            .map(|reason| ((*reason).to_owned(), 1))
            .collect();
        let what = format!("the Events of agents are {expected:?}");
        await_condition(&what, PATIENCE, || async {
            self.events().await == expected
        })
        .await;
    }
}

fn accepting(_: &Translation) -> Edges {
    Edges {
        publish: vec![OWN.into()],
        settled: true,
        ..Edges::default()
    }
}

fn refusing(translation: &Translation) -> Edges {
    let refuse = |id: &RouteId| {
        (
            *id,
            Refused::new(*id, "a.example", "/", RefusedReason::HostNotGranted),
        )
    };
    let refused: BTreeMap<_, _> = translation.routes.keys().map(refuse).collect();
    Edges {
        refused,
        ..accepting(translation)
    }
}

#[tokio::test]
async fn a_status_is_written_once_and_nothing_else_of_the_object_changes() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let fixture = Fixture::start(cluster, "once").await;
    apply::<Service>(&fixture.client, service(&fixture.namespace, "web")).await;
    let object = ingress(&fixture.namespace, "web", &["a.example"]);
    let before = apply::<Ingress>(&fixture.client, object).await;
    fixture.report(accepting).await;
    fixture.publishes("web", &[OWN]).await;
    let written = fixture.ingress("web").await;
    assert_eq!(written.spec, before.spec);
    assert_eq!(written.metadata.annotations, before.metadata.annotations);
    assert_eq!(fixture.ctx.writes(), 1);

    // Nothing changed: nothing is written. The Event about another Ingress shows that the report
    // was carried out.
    apply::<Ingress>(&fixture.client, late(&fixture.namespace)).await;
    fixture.report(accepting).await;
    fixture.tells(&["ServiceNotFound"]).await;
    assert_eq!(fixture.ctx.writes(), 2);
    assert_eq!(
        fixture.ingress("web").await.metadata.resource_version,
        written.metadata.resource_version
    );
}

/// An Ingress to a Service that is not there.
fn late(namespace: &str) -> serde_json::Value {
    let mut late = ingress(namespace, "late", &["late.example"]);
    late["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] = "late".into();
    late
}

#[tokio::test]
async fn a_refused_rule_is_an_event_once_and_its_end_another() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let fixture = Fixture::start(cluster, "refused").await;
    apply::<Service>(&fixture.client, service(&fixture.namespace, "web")).await;
    apply::<Ingress>(
        &fixture.client,
        ingress(&fixture.namespace, "web", &["a.example"]),
    )
    .await;
    fixture.report(refusing).await;
    fixture.tells(&["HostNotGranted"]).await;
    fixture.report(refusing).await;
    fixture.report(accepting).await;
    fixture.tells(&["HostNotGranted", "Served"]).await;
    fixture.publishes("web", &[OWN]).await;
    for event in fixture.told().await {
        let about = event.regarding.expect("is about something");
        assert_eq!(about.kind.as_deref(), Some("Ingress"));
        assert_eq!(about.uid, fixture.ingress("web").await.metadata.uid);
    }
}

#[tokio::test]
async fn a_status_is_withdrawn_when_nothing_is_served_any_more() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let fixture = Fixture::start(cluster, "withdraw").await;
    apply::<Service>(&fixture.client, service(&fixture.namespace, "web")).await;
    apply::<Ingress>(
        &fixture.client,
        ingress(&fixture.namespace, "web", &["a.example"]),
    )
    .await;
    fixture.report(accepting).await;
    fixture.publishes("web", &[OWN]).await;
    // The cluster got another name: the old one is known to be ours by its field manager.
    let renamed = |translation: &Translation| Edges {
        publish: vec!["new.gateway.example".into()],
        ..accepting(translation)
    };
    fixture.report(renamed).await;
    fixture.publishes("web", &["new.gateway.example"]).await;
    fixture.report(refusing).await;
    fixture.publishes("web", &[]).await;
}

#[tokio::test]
async fn flaw_29_another_controllers_status_is_never_touched() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let fixture = Fixture::start(cluster, "theirs").await;
    apply::<Service>(&fixture.client, service(&fixture.namespace, "web")).await;
    apply::<Ingress>(
        &fixture.client,
        ingress(&fixture.namespace, "web", &["a.example"]),
    )
    .await;
    let api = Api::<Ingress>::namespaced(fixture.client.clone(), &fixture.namespace);
    let theirs = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.7" }] } } });
    let parameters = PatchParams {
        field_manager: Some("nginx".into()),
        ..PatchParams::default()
    };
    api.patch_status("web", &parameters, &Patch::Merge(theirs))
        .await
        .expect("is written");
    let before = fixture.ingress("web").await;
    apply::<Ingress>(&fixture.client, late(&fixture.namespace)).await;
    fixture.report(accepting).await;
    fixture.tells(&["ServiceNotFound"]).await;
    fixture.report(refusing).await;
    fixture.tells(&["HostNotGranted", "ServiceNotFound"]).await;
    assert_eq!(
        fixture.ingress("web").await.metadata.resource_version,
        before.metadata.resource_version
    );
}

#[tokio::test]
async fn of_two_agents_one_writes_and_the_other_takes_over() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let a = Fixture::start(cluster, "two").await;
    apply::<Service>(&a.client, service(&a.namespace, "web")).await;
    apply::<Ingress>(&a.client, ingress(&a.namespace, "web", &["a.example"])).await;
    a.report(accepting).await;
    a.publishes("web", &[OWN]).await;
    let b = Fixture::replica(cluster, cluster.client(), &a.namespace, &a.namespace, "b");
    b.report(refusing).await;
    a.report(accepting).await;
    assert_eq!(b.ctx.writes(), 0);
    a.cancel.cancel();
    a.tasks.close();
    a.tasks.wait().await;
    b.tells(&["HostNotGranted"]).await;
    assert_eq!(a.ctx.writes(), 1);
}

#[tokio::test]
async fn the_rights_of_the_published_manifest_are_enough_and_no_more() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    apply_manifests(
        &cluster.client(),
        include_str!("../../../../../deploy/agent.yaml"),
    )
    .await;
    let agent = cluster
        .service_account_client("gatewright", "gatewright-agent")
        .await;
    let namespace = cluster.namespace("deployed").await;
    let admin = cluster.client();
    apply::<Service>(&admin, service(&namespace, "web")).await;
    apply::<Ingress>(&admin, ingress(&namespace, "web", &["a.example"])).await;
    apply::<Ingress>(&admin, late(&namespace)).await;

    let fixture = Fixture::replica(cluster, agent.clone(), &namespace, "gatewright", "a");
    fixture.report(accepting).await;
    fixture.publishes("web", &[OWN]).await;
    fixture.tells(&["ServiceNotFound"]).await;

    let forbidden = |what: &str, error: kube::Error| match error {
        kube::Error::Api(status) => assert!(status.is_forbidden(), "{what}: {status:?}"),
        error => panic!("{what}: {error}"),
    };
    let ingresses = Api::<Ingress>::namespaced(agent.clone(), &namespace);
    let patch = Patch::Merge(json!({ "spec": { "ingressClassName": "stolen" } }));
    let patched = ingresses
        .patch("web", &PatchParams::default(), &patch)
        .await;
    forbidden("patch an Ingress", patched.expect_err("is forbidden"));
    let deleted = ingresses.delete("web", &DeleteParams::default()).await;
    forbidden("delete an Ingress", deleted.expect_err("is forbidden"));
    let secrets = Api::<Secret>::all(agent.clone())
        .list(&ListParams::default())
        .await;
    forbidden("list Secrets", secrets.expect_err("is forbidden"));
    let maps = Api::<ConfigMap>::all(agent.clone())
        .list(&ListParams::default())
        .await;
    forbidden("list ConfigMaps", maps.expect_err("is forbidden"));
    let leases = Api::<Lease>::namespaced(agent, &namespace)
        .get("gatewright-agent")
        .await;
    forbidden("read a Lease elsewhere", leases.expect_err("is forbidden"));
}
