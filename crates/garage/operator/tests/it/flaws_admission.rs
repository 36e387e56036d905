//! Flaws of what may be stored: the apiserver with the CRD's rules, and before it the webhook that this
//! process serves. The numbers are those of the research note's table.

use crate::rig::PATIENCE;
use gatewright_controller::crds::install;
use gatewright_controller::webhook::{Certificates, Endpoint, Server, Settings, keep};
use gatewright_controller::{Ctx, Metrics, Namespaces, now};
use gatewright_garage::api::{self, GarageCluster};
use gatewright_garage_operator::webhook;
use gatewright_testkit::{Cluster, await_condition};
use http_body_util::BodyExt as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::client::Body;
use kube::core::Request;
use kube::{Client, Resource as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A namespace of a real apiserver that asks our webhook.
struct Door {
    client: Client,
    namespace: String,
    cancel: CancellationToken,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// What the apiserver answers: the refusal, if it is one, and what it warns of.
#[derive(Debug)]
struct Answer {
    refusal: Option<String>,
    warnings: String,
}

impl Answer {
    fn accepted(&self) {
        assert_eq!(self.refusal, None);
    }

    fn refused(&self, why: &str) {
        let refusal = self.refusal.as_deref();
        assert!(
            refusal.is_some_and(|text| text.contains(why)),
            "{why}: {self:?}"
        );
    }
}

impl Door {
    /// `None` where the apiserver is missing.
    async fn open() -> Option<Self> {
        let cluster = Cluster::shared().await?;
        let client = cluster.client();
        install(&client, &api::crds(), 1).await.expect("the CRDs");
        let namespace = cluster.namespace("door").await;
        let cancel = CancellationToken::new();
        let settings = Settings {
            namespace: namespace.clone(),
            name: "webhook".to_owned(),
            names: vec!["127.0.0.1".to_owned()],
            clock: now,
        };
        let tasks = TaskTracker::new();
        let certificates = Certificates::start(client.clone(), settings, cancel.clone(), &tasks);
        let certificates = certificates.await.expect("certificates");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let endpoint = Endpoint::Address {
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().expect("an address").port(),
        };
        let namespaces = Namespaces::new([namespace.clone()]);
        let mut configuration = webhook::configuration(endpoint, &namespaces);
        configuration.name = format!("{}-{namespace}", configuration.name);
        let ctx = Ctx::new(client.clone(), "garage", None);
        tokio::spawn(keep(
            ctx,
            configuration,
            certificates.bundles(),
            cancel.clone(),
        ));
        let server = webhook::handlers(Server::new(&Metrics::new()), &client, &namespaces);
        let stop = cancel.clone();
        tokio::spawn(async move { server.serve(listener, &certificates, stop).await });
        let door = Self {
            client,
            namespace,
            cancel,
        };
        // What no rule of the CRD refuses.
        let itself = json!({ "gateway": true, "connectTo": { "clusterRef": { "name": "x" } } });
        await_condition("the webhook is asked", PATIENCE, || async {
            door.tries("x", &itself).await.refusal.is_some()
        })
        .await;
        Some(door)
    }

    /// Would a user's object be stored?
    async fn tries(&self, name: &str, spec: &Value) -> Answer {
        self.apply(name, spec, true).await
    }

    /// Stores an object.
    async fn stores(&self, name: &str, spec: &Value) {
        self.apply(name, spec, false).await.accepted();
    }

    async fn apply(&self, name: &str, spec: &Value, dry_run: bool) -> Answer {
        let object = json!({
            "apiVersion": api::API_VERSION, "kind": "GarageCluster", "metadata": { "name": name }, "spec": spec,
        });
        let params = PatchParams {
            dry_run,
            ..PatchParams::apply("user").force().validation_strict()
        };
        let request = self.objects().patch(name, &params, &Patch::Apply(&object));
        self.send(request.expect("a request")).await
    }

    /// May a user delete it? It stays.
    async fn tries_to_delete(&self, name: &str) -> Answer {
        let params = DeleteParams {
            dry_run: true,
            ..DeleteParams::default()
        };
        let request = self.objects().delete(name, &params);
        self.send(request.expect("a request")).await
    }

    fn objects(&self) -> Request {
        Request::new(GarageCluster::url_path(&(), Some(self.namespace.as_str())))
    }

    async fn send(&self, request: http::Request<Vec<u8>>) -> Answer {
        let answer = self.client.send(request.map(Body::from)).await;
        let answer = answer.expect("an answer");
        let warnings: Vec<_> = answer
            .headers()
            .get_all(http::header::WARNING)
            .iter()
            .map(|one| String::from_utf8_lossy(one.as_bytes()).into_owned())
            .collect();
        let status = answer.status();
        let body = answer.into_body().collect().await.expect("a body");
        let body: Value = serde_json::from_slice(&body.to_bytes()).expect("JSON");
        let message = body["message"].as_str().unwrap_or_default().to_owned();
        Answer {
            refusal: (!status.is_success()).then_some(message),
            warnings: warnings.join("\n"),
        }
    }
}

fn gateway_of(storage: &str) -> Value {
    json!({ "gateway": true, "connectTo": { "clusterRef": { "name": storage } } })
}

fn with(mut spec: Value, field: &str, value: Value) -> Value {
    spec[field] = value;
    spec
}

fn storage(factor: u32) -> Value {
    json!({
        "replicas": 3, "replication": { "factor": factor },
        "storage": { "data": { "size": "1Gi" } },
    })
}

#[tokio::test]
async fn flaw_4_another_factor_than_storages_is_refused_at_the_door() {
    let Some(door) = Door::open().await else {
        return;
    };
    let factor = |factor: u32| with(gateway_of("s"), "replication", json!({ "factor": factor }));
    door.stores("s", &storage(2)).await;
    for wrong in [1, 3, 5] {
        let why = "storage nodes that meet a node with another factor shut down";
        door.tries("g", &factor(wrong)).await.refused(why);
    }
    door.tries("g", &factor(2)).await.accepted();
    // Inherited; then it cannot become another one, and neither can storage's.
    door.stores("g", &gateway_of("s")).await;
    let why = "replication.factor is 3, but storage cluster";
    door.tries("g", &factor(3)).await.refused(why);
    let why = "replication.factor is immutable";
    door.tries("s", &storage(3)).await.refused(why);
}

#[tokio::test]
async fn flaw_5_a_zone_that_garage_will_refuse_is_warned_of() {
    let Some(door) = Door::open().await else {
        return;
    };
    door.stores("s", &with(storage(3), "zone", json!("a")))
        .await;
    let zone = |zone: &str| with(gateway_of("s"), "zone", json!(zone));
    let answer = door.tries("g", &zone("edge")).await;
    answer.accepted();
    assert!(
        answer.warnings.contains("Garage will refuse every layout"),
        "{answer:?}"
    );
    for good in [zone("a"), gateway_of("s")] {
        let answer = door.tries("g", &good).await;
        answer.accepted();
        assert_eq!(answer.warnings, "");
    }
}

#[tokio::test]
async fn flaw_10_a_gateway_names_all_of_one_storage_cluster_and_for_good() {
    let Some(door) = Door::open().await else {
        return;
    };
    let secret = json!({ "name": "shared", "key": "k" });
    let peer = format!("{}@storage.example.com:3901", "ab".repeat(32));
    let external = json!({
        "rpcSecretRef": secret, "bootstrapPeers": [peer],
        "adminApiEndpoint": "http://storage.example.com:3903", "adminTokenSecretRef": secret,
    });
    let to = |connect: Value| json!({ "gateway": true, "connectTo": connect });
    door.tries("g", &to(external.clone())).await.accepted();
    // The RPC secret alone joins nothing; nor does anything else alone.
    for (connect, missing) in [
        (
            json!({ "rpcSecretRef": secret }),
            "bootstrapPeers is missing",
        ),
        (
            json!({ "rpcSecretRef": secret }),
            "adminApiEndpoint is missing",
        ),
        (
            json!({ "rpcSecretRef": secret }),
            "adminTokenSecretRef is missing",
        ),
        (
            json!({ "bootstrapPeers": [peer] }),
            "rpcSecretRef is missing",
        ),
        (
            json!({}),
            "must specify clusterRef, rpcSecretRef, or bootstrapPeers",
        ),
    ] {
        door.tries("g", &to(connect)).await.refused(missing);
    }
    let both = with(external.clone(), "clusterRef", json!({ "name": "s" }));
    let why = "connectTo.clusterRef excludes rpcSecretRef";
    door.tries("g", &to(both)).await.refused(why);
    let why = "connectTo is required when gateway is true";
    door.tries("g", &json!({ "gateway": true }))
        .await
        .refused(why);

    door.stores("s", &storage(3)).await;
    door.stores("g", &gateway_of("s")).await;
    // Whom it names.
    let why = format!("names GarageCluster {}/h itself", door.namespace);
    door.tries("h", &gateway_of("h")).await.refused(&why);
    let why = format!("name its storage cluster {}/s", door.namespace);
    door.tries("h", &gateway_of("g")).await.refused(&why);
    // The first of a circle may be stored: the other may yet become storage.
    door.stores("one", &gateway_of("other")).await;
    let why = "they form a circle without any storage";
    door.tries("other", &gateway_of("one")).await.refused(why);
    // What it has.
    let disk = json!({ "metadata": { "size": "1Gi" } });
    let why = "storage cannot be specified for gateway clusters";
    door.tries("h", &with(gateway_of("s"), "storage", disk))
        .await
        .refused(why);
    // And that for good.
    let why = "the target of connectTo is immutable";
    door.tries("g", &gateway_of("other")).await.refused(why);
    door.tries("g", &to(external)).await.refused(why);
    let why = "gateway is immutable";
    door.tries("g", &storage(3)).await.refused(why);
    door.tries("s", &gateway_of("g")).await.refused(why);
}

#[tokio::test]
async fn flaw_11_whoever_deletes_storage_under_gateways_is_warned() {
    let Some(door) = Door::open().await else {
        return;
    };
    door.stores("s", &storage(3)).await;
    let answer = door.tries_to_delete("s").await;
    answer.accepted();
    assert_eq!(answer.warnings, "");
    door.stores("g", &gateway_of("s")).await;
    let answer = door.tries_to_delete("s").await;
    answer.accepted();
    let named = format!(
        "stays until its gateway clusters are deleted: {}/g",
        door.namespace
    );
    assert!(answer.warnings.contains(&named), "{answer:?}");
}
