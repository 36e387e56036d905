//! What the tests of the operator as a process drive: an apiserver, manifests as users apply them, the
//! process with a ServiceAccount's token. It may not assert anything about the operator.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gatewright_testkit::Cluster;
use gatewright_testkit::http::{Connection, Response};
use gatewright_testkit::keeper::Keeper;
use gatewright_testkit::ports::free_port;
use gatewright_testkit::scratch::Scratch;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

const GATEWRIGHT: &str = env!("CARGO_BIN_EXE_gatewright");
/// The operator for one namespace, as it is published.
pub(crate) const NAMESPACED: &str = include_str!("../../../../deploy/operator-namespaced.yaml");
/// The operator for the whole cluster.
pub(crate) const CLUSTER_WIDE: &str = include_str!("../../../../deploy/operator.yaml");
/// The namespace, the account and the address in [`NAMESPACED`].
pub(crate) const NAMESPACE: &str = "team-a";
pub(crate) const ACCOUNT: &str = "gatewright-operator";
const LISTEN_HEALTH: &str = "--listen-health=";

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The documents of a manifest.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).expect("YAML documents")
}

/// The document of this kind and name.
pub(crate) fn document(text: &str, kind: &str, name: &str) -> Value {
    let mut all = documents(text).into_iter();
    let found = all.find(|one| one["kind"] == kind && one["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("the manifest has no {kind} {name}"))
}

/// The CRDs that `gatewright crds` prints.
pub(crate) fn crds() -> String {
    let output = Command::new(GATEWRIGHT).arg("crds").output();
    let output = output.expect("start gatewright crds");
    assert!(output.status.success(), "gatewright crds: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// `kubectl apply --server-side -f`, for kinds whose plural is regular.
pub(crate) async fn apply(client: &Client, manifests: Vec<Value>) {
    for manifest in manifests {
        let object: DynamicObject = serde_json::from_value(manifest).expect("an object");
        let types = object.types.as_ref().expect("has apiVersion and kind");
        let kind = GroupVersionKind::try_from(types).expect("has a version");
        let api = api(client, object.namespace().as_deref(), &kind);
        let name = object.name_any();
        let parameters = PatchParams::apply("kubectl").force().validation_strict();
        let applied = api.patch(&name, &parameters, &Patch::Apply(&object)).await;
        applied.unwrap_or_else(|error| panic!("{} {name} is not applied: {error}", kind.kind));
    }
}

fn api(client: &Client, namespace: Option<&str>, kind: &GroupVersionKind) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(kind);
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Objects of ours of one kind in a namespace.
pub(crate) fn garage(client: &Client, namespace: &str, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("garage.rajsingh.info", "v1alpha1", kind);
    api(client, Some(namespace), &kind)
}

/// An object of ours as a user writes it.
pub(crate) fn object(namespace: &str, kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "garage.rajsingh.info/v1alpha1", "kind": kind,
        "metadata": { "name": name, "namespace": namespace }, "spec": spec,
    })
}

/// Status and reason of a condition.
pub(crate) fn condition(object: &DynamicObject, type_: &str) -> Option<(String, String)> {
    let all = object.data["status"]["conditions"].as_array()?;
    let found = all.iter().find(|one| one["type"] == type_)?;
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("reason")))
}

/// How many requests the apiserver has refused to whoever sent them, so far.
pub(crate) async fn refusals(client: &Client) -> u64 {
    let request = http::Request::get("/metrics").body(Vec::new());
    let request = request.expect("a request");
    let page = client.request_text(request).await.expect("metrics");
    let attempts = page
        .lines()
        .filter_map(|line| line.strip_prefix("authorization_attempts_total{"));
    let counts: Vec<(bool, f64)> = attempts
        .filter_map(|line| {
            let (labels, count) = line.rsplit_once(' ')?;
            Some((labels.contains("\"allowed\""), count.parse().ok()?))
        })
        .collect();
    // Without this, a metric of another name would pass for a request that was never refused.
    assert!(
        counts.iter().any(|(allowed, _)| *allowed),
        "the apiserver counts its decisions"
    );
    let refused = counts.iter().filter(|(allowed, _)| !allowed);
    refused.map(|(_, count)| *count as u64).sum()
}

/// The operator as a process. It dies with the test.
pub(crate) struct Operator {
    process: Keeper,
    health: SocketAddr,
    log: PathBuf,
    _dir: Scratch,
}

impl Operator {
    /// Starts it with the arguments of the published Deployment, but for the address that is probed, and
    /// with nothing but a token of the published ServiceAccount. `change` adds and removes arguments.
    pub(crate) async fn start(cluster: &Cluster, change: impl FnOnce(&mut Vec<String>)) -> Self {
        let dir = Scratch::new("operator");
        let token = cluster.service_account_token(NAMESPACE, ACCOUNT).await;
        let config = std::fs::read_to_string(cluster.kubeconfig()).expect("a kubeconfig");
        let mut config: Value = serde_json::from_str(&config).expect("a kubeconfig in JSON");
        config["users"][0]["user"] = json!({ "token": token });
        let kubeconfig = dir.path().join("kubeconfig");
        std::fs::write(&kubeconfig, config.to_string()).expect("write the kubeconfig");

        let health = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let deployment = document(NAMESPACED, "Deployment", ACCOUNT);
        let published = &deployment["spec"]["template"]["spec"]["containers"][0]["args"];
        let published = published.as_array().expect("arguments");
        let texts = published.iter().map(|one| one.as_str().expect("a text"));
        let mut arguments: Vec<String> = texts
            .filter(|text| !text.starts_with(LISTEN_HEALTH))
            .map(str::to_owned)
            .collect();
        arguments.push(format!("{LISTEN_HEALTH}{health}"));
        arguments.push(format!("--kubeconfig={}", kubeconfig.display()));
        change(&mut arguments);
        let log = dir.path().join("log");
        Self {
            process: Keeper::spawn(Path::new(GATEWRIGHT), &arguments, dir.path(), &log),
            health,
            log,
            _dir: dir,
        }
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        // A drop during a panic reads it, too, and must not panic again.
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What one of its probes answers; `None` while nobody listens.
    pub(crate) async fn probe(&self, path: &str) -> Option<Response> {
        let mut connection = Connection::connect(self.health).await.ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        connection.send(request).await.ok()?;
        connection.read_response().await.ok()
    }

    /// Whether its readiness probe passes.
    pub(crate) async fn is_ready(&self) -> bool {
        let answer = self.probe("/readyz").await;
        answer.is_some_and(|answer| answer.status() == 200)
    }

    /// Tells it to end.
    pub(crate) fn terminate(&mut self) {
        self.process.signal("TERM");
    }

    /// How it ended; `None` while it runs.
    pub(crate) fn exited(&mut self) -> Option<i32> {
        self.process.exited()?.code()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- operator\n{}", self.log());
        }
    }
}
