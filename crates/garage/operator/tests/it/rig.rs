//! A namespace of a real apiserver with our CRDs, a real Garage, and our controllers between them. The
//! GarageCluster there is a gateway cluster of storage elsewhere, so that no pod has to run. It may not
//! assert anything.

use gatewright_controller::crds::install;
use gatewright_controller::{Ctx, Namespaces};
use gatewright_garage::api;
use gatewright_garage::secret::Redacted;
use gatewright_garage_operator::admin::{Client as Admin, Settings};
use gatewright_garage_operator::{
    Clock, Operator, Options, Watches, bucket, cluster, key, node, token,
};
use gatewright_testkit::garage::Credentials;
use gatewright_testkit::{Cluster, Garage, await_condition};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
};
use kube::{Api, Client};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// All of it. Dropping it stops the controllers.
pub(crate) struct Rig {
    pub(crate) garage: Garage,
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) ctx: Ctx,
    pub(crate) clock: Clock,
    /// One for all controllers: it keeps them from changing a layout at the same time.
    operator: Arc<Operator>,
    options: Options,
    cancel: CancellationToken,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Rig {
    /// `None` where Garage or the apiserver is missing.
    pub(crate) async fn start(storage: usize) -> Option<Self> {
        Self::with(storage, |_| {}).await
    }

    /// The same with other options.
    pub(crate) async fn with(storage: usize, change: impl FnOnce(&mut Options)) -> Option<Self> {
        let cluster = Cluster::shared().await?;
        let garage = Garage::start(storage).await?;
        let client = cluster.client();
        install(&client, &api::crds(), 1).await.expect("the CRDs");
        let namespace = cluster.namespace("wing").await;
        let ctx = Ctx::new(client.clone(), "garage", None);
        let mut options = Options {
            namespaces: Namespaces::new([namespace.clone()]),
            ..Options::default()
        };
        change(&mut options);
        let operator = Arc::new(Operator::new(ctx.clone(), options.clone()));
        let rig = Self {
            garage,
            client,
            namespace,
            ctx,
            clock: Clock::default(),
            operator,
            options,
            cancel: CancellationToken::new(),
        };
        rig.share_secrets().await;
        rig.apply("GarageCluster", "c", rig.gateways(1)).await;
        rig.run();
        Some(rig)
    }

    /// The Secrets that clusters here name: those of the real Garage.
    async fn share_secrets(&self) {
        let (token, secret) = (self.garage.admin_token(), self.garage.rpc_secret());
        self.secret("admin", json!({ "token": token })).await;
        self.secret("rpc", json!({ "secret": secret })).await;
    }

    /// A gateway cluster of the real Garage.
    pub(crate) fn gateways(&self, replicas: u32) -> Value {
        let connect = json!({
            "adminApiEndpoint": self.garage.node(0).admin_url(),
            "adminTokenSecretRef": { "name": "admin", "key": "token" },
            "rpcSecretRef": { "name": "rpc", "key": "secret" },
            "bootstrapPeers": self.garage.peers(),
        });
        json!({ "gateway": true, "replicas": replicas, "connectTo": connect })
    }

    /// Goes on in another namespace with another operator, which shares nothing with the first but the
    /// Garage: as in another Kubernetes cluster.
    pub(crate) async fn go_elsewhere(&mut self) {
        let cluster = Cluster::shared().await.expect("it was here before");
        self.namespace = cluster.namespace("wing").await;
        self.options.namespaces = Namespaces::new([self.namespace.clone()]);
        self.operator = Arc::new(Operator::new(self.ctx.clone(), self.options.clone()));
        self.share_secrets().await;
    }

    /// Ends the operator.
    pub(crate) fn stop(&self) {
        self.cancel.cancel();
    }

    /// Starts another, which knows nothing of what the one before remembered.
    pub(crate) fn start_again(&mut self) {
        self.operator = Arc::new(Operator::new(self.ctx.clone(), self.options.clone()));
        self.cancel = CancellationToken::new();
        self.run();
        self.run_clusters();
    }

    /// Starts the controller of clusters, too. No pod ever runs here: there is no kubelet.
    pub(crate) fn run_clusters(&self) {
        let (operator, cancel) = (&self.operator, &self.cancel);
        let (watches, fed) = Watches::new(operator, cancel.clone());
        tokio::spawn(cluster::run(operator.clone(), &watches, cancel.clone()));
        tokio::spawn(fed);
    }

    /// Annotates an object as a user does.
    pub(crate) async fn annotate(&self, kind: &str, name: &str, key: &str, value: &str) {
        let patch = json!({ "metadata": { "annotations": { key: value } } });
        let params = PatchParams::default();
        let patched = self
            .api(kind)
            .patch(name, &params, &Patch::Merge(&patch))
            .await;
        patched.unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
    }

    /// Starts the controllers of users of clusters, in this namespace.
    pub(crate) fn run(&self) {
        let operator = || self.operator.clone();
        let (clock, cancel) = (|| self.clock.clone(), || self.cancel.clone());
        let (watches, fed) = Watches::new(&self.operator, cancel());
        tokio::spawn(bucket::run(operator(), &watches, cancel()));
        tokio::spawn(key::run(operator(), &watches, clock(), cancel()));
        tokio::spawn(token::run(operator(), &watches, clock(), cancel()));
        tokio::spawn(node::run(operator(), &watches, cancel()));
        tokio::spawn(fed);
    }

    /// Objects of a kind of ours, or of what we make of them.
    pub(crate) fn api(&self, kind: &str) -> Api<DynamicObject> {
        let (group, version) = match kind {
            "Deployment" | "StatefulSet" => ("apps", "v1"),
            "ConfigMap" | "Pod" | "Secret" | "Service" => ("", "v1"),
            _ => (api::GROUP, api::VERSION),
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// Applies an object as a user does; `spec.clusterRef` is filled in.
    pub(crate) async fn apply(&self, kind: &str, name: &str, spec: Value) -> DynamicObject {
        let applied = self.try_apply(kind, name, spec).await;
        applied.unwrap_or_else(|error| panic!("{kind} {name}: {error}"))
    }

    /// The same, where it may be refused.
    pub(crate) async fn try_apply(
        &self,
        kind: &str,
        name: &str,
        mut spec: Value,
    ) -> kube::Result<DynamicObject> {
        if kind != "GarageCluster" && spec.get("clusterRef").is_none() {
            spec["clusterRef"] = json!({ "name": "c" });
        }
        let object = json!({
            "apiVersion": api::API_VERSION, "kind": kind, "metadata": { "name": name }, "spec": spec,
        });
        let params = PatchParams::apply("user").force().validation_strict();
        self.api(kind)
            .patch(name, &params, &Patch::Apply(&object))
            .await
    }

    pub(crate) async fn delete(&self, kind: &str, name: &str) {
        let deleted = self.api(kind).delete(name, &DeleteParams::default()).await;
        deleted.unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
    }

    pub(crate) async fn status(&self, kind: &str, name: &str) -> Option<Value> {
        let object = self.api(kind).get_opt(name).await.ok().flatten()?;
        Some(object.data.get("status").cloned().unwrap_or_default())
    }

    /// An object; null if there is none.
    pub(crate) async fn object(&self, kind: &str, name: &str) -> Value {
        let object = self.api(kind).get_opt(name).await.expect("an answer");
        object.map_or(Value::Null, |object| json!(object))
    }

    /// Waits until the status is as `check` wants it; panics with the last one.
    pub(crate) async fn until(
        &self,
        kind: &str,
        name: &str,
        what: &str,
        check: impl Fn(&Value) -> bool,
    ) -> Value {
        let look = || async { self.status(kind, name).await };
        seen(kind, name, what, look, check).await
    }

    /// The same for the whole object.
    pub(crate) async fn until_object(
        &self,
        kind: &str,
        name: &str,
        what: &str,
        check: impl Fn(&Value) -> bool,
    ) -> Value {
        let look = || async {
            let object = self.object(kind, name).await;
            Some(object).filter(|object| !object.is_null())
        };
        seen(kind, name, what, look, check).await
    }

    /// Waits until the object is ready in its present generation.
    pub(crate) async fn ready(&self, kind: &str, name: &str) -> Value {
        let object = self.api(kind).get(name).await.expect("is there");
        let generation = object.metadata.generation;
        self.until(kind, name, "ready", |status| {
            status["observedGeneration"].as_i64() >= generation
                && condition(status, "Ready") == Some(("True", "AsAsked"))
        })
        .await
    }

    pub(crate) async fn gone(&self, kind: &str, name: &str) {
        let what = format!("{kind} {name} is gone");
        await_condition(&what, PATIENCE, || async {
            self.status(kind, name).await.is_none()
        })
        .await;
    }

    /// Reasons and texts of the Events about objects of this name.
    pub(crate) async fn events(&self, name: &str) -> Vec<(String, String)> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let all = events.list(&ListParams::default()).await.expect("Events");
        let about = |event: &Event| {
            let regarding = event.regarding.as_ref();
            regarding.is_some_and(|regarding| regarding.name.as_deref() == Some(name))
        };
        let text = |event: Event| {
            (
                event.reason.unwrap_or_default(),
                event.note.unwrap_or_default(),
            )
        };
        all.items.into_iter().filter(about).map(text).collect()
    }

    pub(crate) async fn secret(&self, name: &str, data: Value) {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": data,
        });
        let params = PatchParams::apply("user").force();
        secrets
            .patch(name, &params, &Patch::Apply(&secret))
            .await
            .expect("a Secret");
    }

    /// The entries of a Secret; `None` if there is none.
    pub(crate) async fn entries(&self, name: &str) -> Option<BTreeMap<String, String>> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = secrets.get_opt(name).await.expect("an answer")?;
        let text = |(key, bytes): (String, k8s_openapi::ByteString)| {
            (key, String::from_utf8(bytes.0).expect("text"))
        };
        Some(
            secret
                .data
                .unwrap_or_default()
                .into_iter()
                .map(text)
                .collect(),
        )
    }

    /// The S3 credentials of a Secret of a key with the default template.
    pub(crate) async fn credentials(&self, name: &str) -> Credentials {
        let mut entries = self.entries(name).await.expect("a Secret");
        Credentials {
            id: entries.remove("access-key-id").expect("an id"),
            secret: entries.remove("secret-access-key").expect("a secret"),
        }
    }

    /// The HTTP status of one S3 request to the storage node.
    pub(crate) async fn s3(&self, key: &Credentials, method: &str, path: &str) -> u16 {
        let answer = self.garage.node(0).s3(key, method, path, b"x").await;
        answer.expect("an answer").status()
    }

    pub(crate) fn admin(&self) -> Admin {
        let token = Redacted::new(self.garage.admin_token().to_owned());
        Admin::new(&self.garage.node(0).admin_url(), token, Settings::default()).expect("a client")
    }

    /// Waits until nothing is written any more, and then that nothing is: what rests costs nothing.
    pub(crate) async fn rests(&self) {
        let mut quiet = 0;
        let mut before = self.ctx.writes();
        let wait = async {
            let mut look = tokio::time::interval(Duration::from_millis(100));
            while quiet < 20 {
                look.tick().await;
                let now = self.ctx.writes();
                quiet = if now == before { quiet + 1 } else { 0 };
                before = now;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("it goes on writing: {before} writes");
        }
    }
}

/// Looks until what is seen is as `check` wants it; panics with the last that was.
async fn seen<F: Future<Output = Option<Value>>>(
    kind: &str,
    name: &str,
    what: &str,
    look: impl Fn() -> F,
    check: impl Fn(&Value) -> bool,
) -> Value {
    let last = std::sync::Mutex::new(Value::Null);
    let wait = async {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        loop {
            if let Some(seen) = look().await {
                let met = check(&seen);
                *last.lock().expect("whole") = seen.clone();
                if met {
                    return seen;
                }
            }
            tick.tick().await;
        }
    };
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(seen) => seen,
        Err(_) => panic!(
            "{kind} {name} in vain: {what}; {:#}",
            last.lock().expect("whole")
        ),
    }
}

/// Status and reason of a condition.
pub(crate) fn condition<'a>(status: &'a Value, type_: &str) -> Option<(&'a str, &'a str)> {
    let all = status["conditions"].as_array()?;
    let found = all.iter().find(|one| one["type"] == type_)?;
    Some((found["status"].as_str()?, found["reason"].as_str()?))
}

/// The text of a condition.
pub(crate) fn message<'a>(status: &'a Value, type_: &str) -> &'a str {
    let all = status["conditions"].as_array();
    let found = all.and_then(|all| all.iter().find(|one| one["type"] == type_));
    found
        .and_then(|one| one["message"].as_str())
        .unwrap_or_default()
}
