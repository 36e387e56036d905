//! What the Garage tests on a node drive: the cluster, the operator as a process outside it, Admin APIs
//! of pods, and S3 clients. It may not assert anything about them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use gatewright_testkit::http::Connection;
use gatewright_testkit::keeper::Keeper;
use gatewright_testkit::ports::free_port;
use gatewright_testkit::scratch::Scratch;
use gatewright_testkit::{await_condition, parts};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::node::{GATEWRIGHT, Node, expect, text, xtask};

/// The image that clusters use which name none.
pub(crate) const IMAGE: &str = "dxflrs/garage:v2.5.0";

/// The namespace of the published manifest, and the kubeconfig with its ServiceAccount.
const OPERATOR: &str = "gatewright";
const PUBLISHED: &str = "published.kubeconfig";

/// A node with the operator beside it. The tests of this binary share it; the last one ends it.
pub(crate) struct World {
    pub(crate) node: Node,
    operator: Mutex<Option<Keeper>>,
    health: u16,
    webhook: u16,
    pub(crate) dir: Scratch,
}

static SHARED: Mutex<Weak<World>> = Mutex::new(Weak::new());

impl World {
    /// `None` where a part is missing, as with `gatewright_testkit::part`.
    pub(crate) fn shared() -> Option<Arc<Self>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(world) = shared.upgrade() {
            return Some(world);
        }
        let world = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&world);
        Some(world)
    }

    fn start() -> Option<Self> {
        let garage = gatewright_testkit::part("garage")?;
        let node = Node::up()?;
        let garage = garage.to_str().expect("a path in UTF-8");
        let image = xtask(&["cluster", "image", "--folder", "/", IMAGE, garage]);
        expect(image, "cargo xtask cluster image");
        let dir = Scratch::new("garage-node");
        as_published(&node, dir.path());
        let world = Self {
            node,
            operator: Mutex::new(None),
            health: free_port(),
            webhook: free_port(),
            dir,
        };
        world.start_operator();
        Some(world)
    }

    /// Starts the operator, unless it runs.
    pub(crate) fn start_operator(&self) {
        let mut operator = self.operator.lock().unwrap_or_else(PoisonError::into_inner);
        if operator.is_some() {
            return;
        }
        let arguments = [
            "--log=info,gatewright_garage_operator=debug".to_owned(),
            "operator".to_owned(),
            format!("--kubeconfig={}", self.dir.path().join(PUBLISHED).display()),
            format!("--lease-namespace={OPERATOR}"),
            "--lease-seconds=3".to_owned(),
            format!("--listen-health=127.0.0.1:{}", self.health),
            format!("--listen-webhook={}:{}", self.node.host, self.webhook),
            format!("--webhook-host={}", self.node.host),
        ];
        let log = self.dir.path().join("operator.log");
        *operator = Some(Keeper::spawn(
            Path::new(GATEWRIGHT),
            &arguments,
            self.dir.path(),
            &log,
        ));
    }

    /// `kill -9`.
    pub(crate) fn kill_operator(&self) {
        let operator = self
            .operator
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(operator);
    }

    /// Waits until the operator leads, and the apiserver asks it about objects of ours.
    pub(crate) async fn leads(&self) {
        let url = format!("https://{}:{}/", self.node.host, self.webhook);
        await_condition("the operator leads", Duration::from_secs(60), || async {
            let configured = "get validatingwebhookconfiguration gatewright-garage -o json";
            self.metric("gatewright_leader").await == Some(1.0)
                && text(&self.node.ask(configured)).contains(&url)
        })
        .await;
    }

    /// The sum of a metric over all its labels.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        Some(self.series(name).await?.values().sum())
    }

    /// A metric, by its labels as they are written.
    pub(crate) async fn series(&self, name: &str) -> Option<BTreeMap<String, f64>> {
        let address = ([127, 0, 0, 1], self.health).into();
        let mut connection = Connection::connect(address).await.ok()?;
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        connection.send(request).await.ok()?;
        let page = connection.read_response().await.ok()?;
        let text = page.text();
        let series = text.lines().filter_map(|line| {
            let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
            let whole = labels.is_empty() || labels.starts_with('{');
            Some((labels.to_owned(), value.parse().ok()?)).filter(|_| whole)
        });
        Some(series.collect())
    }

    /// Bytes of memory of the operator (`VmRSS`).
    pub(crate) fn memory(&self) -> Option<u64> {
        let pid = processes("gatewright").into_iter().find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&format!("127.0.0.1:{}", self.health))
        })?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kibibytes * 1024)
    }

    /// A namespace of this test's own.
    pub(crate) fn namespace(&self, prefix: &str) -> Namespace<'_> {
        let name = format!("{prefix}-{:x}", std::process::id());
        self.node.kubectl(&format!("create namespace {name}"));
        Namespace { world: self, name }
    }
}

/// Applies the published manifest and sees its pods become ready. Then the operator runs outside, where it
/// can be killed, with exactly the rights that it has inside.
fn as_published(node: &Node, dir: &Path) {
    node.apply(Path::new("../../deploy/operator.yaml"));
    let deployment = "deployment/gatewright-operator";
    node.kubectl(&format!(
        "-n {OPERATOR} rollout status {deployment} --timeout=120s"
    ));
    node.kubectl(&format!("-n {OPERATOR} scale {deployment} --replicas=0"));
    node.kubectl(&format!(
        "-n {OPERATOR} wait pods -l app.kubernetes.io/name=gatewright-operator --for=delete --timeout=60s"
    ));
    let token = node.kubectl(&format!(
        "-n {OPERATOR} create token gatewright-operator --duration=2h"
    ));
    let config = node.kubectl("config view --raw -o json");
    let mut config: Value = serde_json::from_str(&config).expect("a kubeconfig in JSON");
    config["users"][0]["user"] = json!({ "token": token.trim() });
    std::fs::write(dir.join(PUBLISHED), config.to_string()).expect("write the kubeconfig");
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("operator.log"));
            let log = log.unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- operator\n{}",
                lines[lines.len().saturating_sub(400)..].join("\n")
            );
        }
    }
}

/// A namespace and what is in it.
pub(crate) struct Namespace<'a> {
    pub(crate) world: &'a World,
    pub(crate) name: String,
}

impl Namespace<'_> {
    /// kubectl in this namespace.
    pub(crate) fn kubectl(&self, arguments: &str) -> String {
        self.world
            .node
            .kubectl(&format!("-n {} {arguments}", self.name))
    }

    /// Applies manifests as they are.
    pub(crate) fn apply(&self, manifests: &Path) {
        self.kubectl(&format!("apply -f {}", manifests.display()));
    }

    /// Makes an object of ours.
    pub(crate) fn create(&self, kind: &str, name: &str, spec: &Value) {
        let version = "garage.rajsingh.info/v1alpha1";
        self.create_of(version, kind, name, &json!({ "spec": spec }));
    }

    /// Makes an object of `api_version`; `content` is all of it but for its kind and name.
    pub(crate) fn create_of(&self, api_version: &str, kind: &str, name: &str, content: &Value) {
        let file = self.manifest(api_version, kind, name, content);
        self.kubectl(&format!("create -f {}", file.display()));
    }

    /// Tries to make an object of ours that must be refused; the reason.
    pub(crate) fn refused(&self, kind: &str, name: &str, spec: &Value) -> String {
        let version = "garage.rajsingh.info/v1alpha1";
        let file = self.manifest(version, kind, name, &json!({ "spec": spec }));
        let arguments = format!("-n {} create -f {}", self.name, file.display());
        let output = self.world.node.ask(&arguments);
        assert!(!output.status.success(), "{kind} {name} was not refused");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn manifest(&self, api_version: &str, kind: &str, name: &str, content: &Value) -> PathBuf {
        let mut object = content.clone();
        object["apiVersion"] = json!(api_version);
        object["kind"] = json!(kind);
        object["metadata"] = json!({ "name": name });
        let file = format!("{}-{kind}-{name}.json", self.name);
        let file = self.world.dir.path().join(file);
        std::fs::write(&file, object.to_string()).expect("write a manifest");
        file
    }

    /// An object, or null.
    pub(crate) fn get(&self, what: &str) -> Value {
        let arguments = format!("-n {} get {what} -o json --ignore-not-found", self.name);
        let answer = self.world.node.kubectl(&arguments);
        serde_json::from_str(&answer).unwrap_or(Value::Null)
    }

    /// Merges a patch into an object.
    pub(crate) fn patch(&self, what: &str, patch: &Value) {
        let file = self.world.dir.path().join(format!("{}.patch", self.name));
        std::fs::write(&file, patch.to_string()).expect("write a patch");
        self.kubectl(&format!(
            "patch {what} --type=merge --patch-file={}",
            file.display()
        ));
    }

    /// The pods of a cluster that are not on their way out.
    pub(crate) fn pods(&self, cluster: &str) -> Vec<Value> {
        let list = self.get(&format!("pods -l app.kubernetes.io/instance={cluster}"));
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        let live = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null();
        pods.into_iter().filter(live).collect()
    }

    /// Waits until `cluster` says that it is as asked, for the newest generation; how long it took.
    pub(crate) async fn ready(&self, cluster: &str, within: Duration) -> Duration {
        let begun = Instant::now();
        await_condition(&format!("{cluster} is ready"), within, || async {
            let object = self.get(&format!("garagecluster/{cluster}"));
            let current =
                object["metadata"]["generation"] == object["status"]["observedGeneration"];
            current && object["status"]["phase"] == "Running"
        })
        .await;
        begun.elapsed()
    }

    /// The Admin API of the first storage pod by name.
    pub(crate) async fn admin(
        &self,
        cluster: &str,
        method: &str,
        call: &str,
        body: Value,
    ) -> Value {
        let secret = self.get(&format!("secret/{cluster}-admin-token"));
        let token = secret["data"]["admin-token"]
            .as_str()
            .expect("an admin token");
        let token = String::from_utf8(base64(token)).expect("text");
        let pods = self.get(&format!(
            "pods -l app.kubernetes.io/instance={cluster},app.kubernetes.io/component=storage"
        ));
        let ip = &pods["items"][0]["status"]["podIP"];
        let ip = ip.as_str().expect("an address");
        let address = format!("{ip}:3903").parse().expect("an address");
        let mut connection = Connection::connect(address)
            .await
            .expect("the Admin API listens");
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let request = format!(
            "{method} /v2/{call} HTTP/1.1\r\nHost: {ip}\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        connection.send(request).await.expect("send a request");
        let answer = connection.read_response().await.expect("an answer");
        assert!(
            answer.status() < 300,
            "{call}: {} {}",
            answer.status(),
            answer.text()
        );
        serde_json::from_str(&answer.text()).unwrap_or(Value::Null)
    }

    /// The current layout.
    pub(crate) async fn layout(&self, storage: &str) -> Value {
        self.admin(storage, "GET", "GetClusterLayout", Value::Null)
            .await
    }

    /// The roles without capacity.
    pub(crate) async fn gateway_roles(&self, storage: &str) -> usize {
        let layout = self.layout(storage).await;
        let roles = layout["roles"].as_array().cloned().unwrap_or_default();
        roles
            .iter()
            .filter(|role| role["capacity"].is_null())
            .count()
    }

    /// No node relies on an older layout.
    pub(crate) async fn is_settled(&self, storage: &str) -> bool {
        let history = self
            .admin(storage, "GET", "GetClusterLayoutHistory", Value::Null)
            .await;
        let versions = history["versions"].as_array().cloned().unwrap_or_default();
        versions
            .iter()
            .all(|version| version["status"] != "Draining")
    }

    /// The key of a GarageKey that has one bucket, from the Secret that applications take it from.
    pub(crate) async fn key(&self, name: &str) -> Key {
        await_condition("the key is ready", Duration::from_secs(60), || async {
            self.get(&format!("garagekey/{name}"))["status"]["phase"] == "Ready"
        })
        .await;
        let secret = self.get(&format!("secret/{name}"));
        let entry = |entry: &str| {
            let text = secret["data"][entry].as_str().expect("an entry");
            String::from_utf8(base64(text)).expect("text")
        };
        Key {
            id: entry("access-key-id"),
            secret: entry("secret-access-key"),
            bucket: entry("bucket"),
        }
    }

    /// A key with a bucket of its own.
    pub(crate) async fn bucket(&self, storage: &str, bucket: &str) -> Key {
        let key = self
            .admin(storage, "POST", "CreateKey", json!({ "name": bucket }))
            .await;
        let created = json!({ "globalAlias": bucket });
        let created = self.admin(storage, "POST", "CreateBucket", created).await;
        let grant = json!({
            "bucketId": created["id"], "accessKeyId": key["accessKeyId"],
            "permissions": { "read": true, "write": true, "owner": true },
        });
        self.admin(storage, "POST", "AllowBucketKey", grant).await;
        let text = |field: &str| key[field].as_str().expect("a text").to_owned();
        Key {
            id: text("accessKeyId"),
            secret: text("secretAccessKey"),
            bucket: bucket.to_owned(),
        }
    }
}

/// An access key and its bucket.
#[derive(Clone)]
pub(crate) struct Key {
    id: String,
    secret: String,
    bucket: String,
}

impl Key {
    fn python(&self, endpoint: &str) -> Option<Command> {
        let folder = parts::folder("boto3");
        if !folder.join("boto3/__init__.py").is_file() {
            parts::skip("boto3 is not on this machine; `cargo xtask tools` gets it");
            return None;
        }
        let mut python = Command::new("python3");
        python
            .arg("-s")
            .env("PYTHONPATH", folder)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("ENDPOINT", endpoint)
            .env("BUCKET", &self.bucket)
            .env("AWS_ACCESS_KEY_ID", &self.id)
            .env("AWS_SECRET_ACCESS_KEY", &self.secret)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("NO_PROXY", "*");
        Some(python)
    }

    /// Whether the bucket can be listed at each endpoint.
    pub(crate) fn is_known(&self, endpoints: &[String]) -> bool {
        let Some(mut python) = self.python("") else {
            return true;
        };
        let script = r#"
import os, sys, boto3
from botocore.config import Config
for endpoint in sys.argv[1:]:
    boto3.client("s3", endpoint_url=endpoint, region_name="garage",
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0})
    ).list_objects_v2(Bucket=os.environ["BUCKET"])
"#;
        let output = python.arg("-c").arg(script).args(endpoints).output();
        output.expect("start python3").status.success()
    }

    /// Writes and reads an object with boto3 at each endpoint; panics with its error.
    pub(crate) fn round_trip(&self, endpoints: &[String]) {
        let Some(mut python) = self.python("") else {
            return;
        };
        let script = r#"
import os, sys, boto3
from botocore.config import Config
for n, endpoint in enumerate(sys.argv[1:]):
    s3 = boto3.client("s3", endpoint_url=endpoint, region_name="garage",
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}))
    body = os.urandom(200000)
    s3.put_object(Bucket=os.environ["BUCKET"], Key=f"object-{n}", Body=body)
    for other in sys.argv[1:]:
        s3 = boto3.client("s3", endpoint_url=other, region_name="garage",
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}))
        assert s3.get_object(Bucket=os.environ["BUCKET"], Key=f"object-{n}")["Body"].read() == body
"#;
        let output = python.arg("-c").arg(script).args(endpoints).output();
        expect(output.expect("start python3"), "an S3 round trip");
    }

    /// Starts the load; it runs until it is ended.
    pub(crate) fn load(&self, endpoint: &str) -> Option<Load> {
        let mut child = self
            .python(endpoint)?
            .arg("tests/garage/load.py")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start python3");
        let stdin = child.stdin.take();
        Some(Load { child, stdin })
    }
}

/// A running load.
pub(crate) struct Load {
    child: Child,
    stdin: Option<ChildStdin>,
}

/// What a load came to.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Outcome {
    pub(crate) operations: u64,
    pub(crate) failed: u64,
    pub(crate) errors: Vec<String>,
}

impl Load {
    /// Ends the load; what it came to.
    pub(crate) fn end(mut self) -> Outcome {
        drop(self.stdin.take());
        let output = self.child.wait_with_output().expect("wait for the load");
        let printed = text(&output);
        let last = printed.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|e| panic!("the load printed {printed:?}: {e}"))
    }
}

/// The processes with this program name.
pub(crate) fn processes(program: &str) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").expect("/proc");
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim() == program
    })
    .collect()
}

/// `kill -9` of the garage process in a pod of ours.
pub(crate) fn kill_garage(pod: &str) {
    let wanted = format!("HOSTNAME={pod}");
    let pid = processes("garage").into_iter().find(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|one| one == wanted.as_bytes())
    });
    let pid = pid.unwrap_or_else(|| panic!("no garage process in pod {pod}"));
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(killed.expect("start kill").success());
}

fn base64(text: &str) -> Vec<u8> {
    let mut bits = 0_u32;
    let mut count = 0;
    let mut bytes = Vec::new();
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

/// A manifest of the specification, unmodified.
pub(crate) fn specified(file: &str) -> PathBuf {
    Path::new("../garage/core/tests/manifests").join(file)
}
