//! The fixture: one edge, its agents and their manifests, in this process and on free ports. It may
//! not assert anything about requests.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use gatewright_agent::{Agent, AgentConfig};
use gatewright_edge::{Clusters, Edge, EdgeConfig, NewCluster};
use gatewright_names::{HostPattern, WildcardMode};
use gatewright_testkit::ports::free_port;
use gatewright_testkit::scratch::Scratch;
use gatewright_testkit::{await_condition, http};
use serde_json::{Value, json};

use crate::manifests;

/// Bound of every wait for something that takes milliseconds on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// The host of the application that [`Builder::app`] makes.
pub(crate) const APP: &str = "app.example.test";
/// The edge's own domain.
pub(crate) const DOMAIN: &str = "gateway.test";

/// What carries the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// A WebSocket on the users' port.
    WebSocket,
    /// TLS with ALPN on a port of its own.
    Tls,
}

/// Makes each `async fn name(carrier: Carrier)` two tests: `name::websocket` and `name::tls`.
macro_rules! on_both_carriers {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn websocket() {
                super::$name(crate::tunnel::Carrier::WebSocket).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn tls() {
                super::$name(crate::tunnel::Carrier::Tls).await;
            }
        }
    )*};
}

/// What a [`Tunnel`] is to be like.
pub(crate) struct Builder {
    edge: Value,
    agent: Value,
    agents: usize,
    files: Vec<(String, String)>,
}

impl Builder {
    /// Publishes a backend as [`APP`], all paths.
    pub(crate) fn app(self, backend: SocketAddr) -> Self {
        self.apps(&[(APP, "/", backend)])
    }

    /// Publishes backends: host, path prefix, address.
    pub(crate) fn apps(mut self, apps: &[(&str, &str, SocketAddr)]) -> Self {
        self.files.push(("apps.yaml".to_owned(), apps_file(apps)));
        self
    }

    /// Adds a manifest file.
    pub(crate) fn file(mut self, name: &str, text: String) -> Self {
        self.files.push((name.to_owned(), text));
        self
    }

    /// Merges settings into the edge's configuration.
    pub(crate) fn edge(mut self, settings: Value) -> Self {
        merge(&mut self.edge, settings);
        self
    }

    /// Merges settings into the agents' configuration.
    pub(crate) fn agent(mut self, settings: Value) -> Self {
        merge(&mut self.agent, settings);
        self
    }

    /// How many agents there are at first.
    pub(crate) fn agents(mut self, count: usize) -> Self {
        self.agents = count;
        self
    }

    /// Starts everything, and returns when every agent is connected and the edge has answered for
    /// all of its routes.
    pub(crate) async fn start(self) -> Tunnel {
        let Self {
            edge,
            agent,
            agents,
            files,
        } = self;
        let folder = Scratch::new("e2e");
        let manifests = folder.path().join("manifests");
        std::fs::create_dir(&manifests).expect("make the manifests' folder");
        for (name, text) in &files {
            put(&manifests, name, text);
        }
        write_certificate(folder.path());
        let mut tunnel = Tunnel {
            edge_config: edge_config(folder.path(), edge),
            agent_config: json!({}),
            edge: None,
            agents: Vec::new(),
            http: SocketAddr::from(([127, 0, 0, 1], 0)),
            folder,
        };
        tunnel.start_edge().await;
        let token = tunnel.create_cluster("main", &["*.example.test"]).await;
        put(tunnel.folder.path(), "token", &token);
        tunnel.agent_config = tunnel.agent_settings(&manifests, "token", agent);
        for _ in 0..agents {
            tunnel.start_agent().await;
        }
        tunnel
    }
}

fn apps_file(apps: &[(&str, &str, SocketAddr)]) -> String {
    let mut objects = Vec::new();
    for (number, (host, path, address)) in apps.iter().enumerate() {
        let name = format!("app-{number}");
        objects.push(manifests::ingress(&name, &[(host, path, &name)]));
        objects.extend(manifests::service(&name, &[*address]));
    }
    manifests::file(objects)
}

/// A port of our own, which no outgoing connection takes while an edge restarts.
fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

fn edge_config(folder: &Path, settings: Value) -> Value {
    let mut config = json!({
        "listen": {"http": address(), "admin": address(), "tunnel": address()},
        "domain": DOMAIN,
        "store": {"path": folder.join("edge")},
        "tls": {"cert": folder.join("edge.crt"), "key": folder.join("edge.key")},
        "access_log": "off",
        "workers": 2,
        "timeouts": {"drain": 2},
    });
    merge(&mut config, settings);
    config
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Puts a file in place at once, so that nobody reads half of it.
pub(crate) fn put(folder: &Path, name: &str, text: &str) {
    let part = folder.join(format!(".{name}.part"));
    std::fs::write(&part, text).expect("write a file");
    std::fs::rename(&part, folder.join(name)).expect("put a file in place");
}

fn write_certificate(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    put(folder, "edge.crt", &made.cert.pem());
    put(folder, "edge.key", &made.signing_key.serialize_pem());
}

/// A running edge with its agents. Dropping it ends them.
pub(crate) struct Tunnel {
    edge: Option<Edge>,
    edge_config: Value,
    agents: Vec<Option<Agent>>,
    agent_config: Value,
    http: SocketAddr,
    folder: Scratch,
}

impl Tunnel {
    pub(crate) fn with(carrier: Carrier) -> Builder {
        Builder {
            edge: json!({}),
            // The fixture's own key; taken out before the agent reads it.
            agent: json!({"carrier": format!("{carrier:?}")}),
            agents: 1,
            files: Vec::new(),
        }
    }

    /// A configuration for an agent: the fixture's defaults and `settings`.
    pub(crate) fn agent_settings(&self, manifests: &Path, token: &str, settings: Value) -> Value {
        let mut config = json!({
            "token_file": self.folder.path().join(token),
            "ca_file": self.folder.path().join("edge.crt"),
            "source": {"directory": manifests},
            "timeouts": {"drain": 2},
        });
        merge(&mut config, settings);
        let carrier = config
            .as_object_mut()
            .and_then(|config| config.remove("carrier"));
        let edge = match (carrier, self.edge().tunnel_address()) {
            (Some(carrier), Some(address)) if carrier == "Tls" => format!("tls://{address}"),
            _ => format!("ws://{}", self.http),
        };
        if config.get("edges").is_none() {
            config["edges"] = json!([edge]);
        }
        config
    }

    /// The configuration that agents are started with.
    pub(crate) fn agent_config(&self) -> &Value {
        &self.agent_config
    }

    pub(crate) fn edge(&self) -> &Edge {
        self.edge.as_ref().expect("the edge runs")
    }

    pub(crate) fn clusters(&self) -> &Clusters {
        self.edge().clusters()
    }

    /// Where users connect; stays the same over restarts.
    pub(crate) fn http(&self) -> SocketAddr {
        self.http
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.folder.path().join("manifests")
    }

    pub(crate) fn agent(&self, number: usize) -> &Agent {
        self.agents[number].as_ref().expect("the agent runs")
    }

    /// Starts the edge, again on the same ports with the same store.
    pub(crate) async fn start_edge(&mut self) {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            let provider = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider();
            provider
                .install_default()
                .expect("the first provider of this process");
        });
        let config: EdgeConfig =
            serde_json::from_value(self.edge_config.clone()).expect("a configuration for the edge");
        let edge = Edge::start(config).await;
        let edge = edge.unwrap_or_else(|error| panic!("the edge does not start: {error}"));
        self.http = edge.http_address();
        self.edge = Some(edge);
    }

    /// Drains the edge, and returns when its store and ports are free again.
    pub(crate) async fn stop_edge(&mut self) {
        let edge = self.edge.take().expect("the edge runs");
        edge.drain().await;
    }

    /// Takes the edge out of the fixture, for a test that drains it itself.
    pub(crate) fn take_edge(&mut self) -> Edge {
        self.edge.take().expect("the edge runs")
    }

    /// Makes a cluster; returns its token.
    pub(crate) async fn create_cluster(&self, name: &str, hosts: &[&str]) -> String {
        let pattern = |text: &&str| {
            HostPattern::parse(text, WildcardMode::ManyLabels).expect("a pattern to grant")
        };
        let hosts = hosts.iter().map(pattern).collect();
        let new = NewCluster {
            name: name.to_owned(),
            tenant: None,
            hosts,
        };
        let (_, token) = self.clusters().create(new).await.expect("make a cluster");
        token.reveal().to_owned()
    }

    /// The name under which the fixture's cluster lies.
    pub(crate) fn own_host(&self) -> String {
        self.clusters()
            .view("main")
            .expect("the fixture's cluster")
            .record
            .own_host
            .to_string()
    }

    /// Starts one more agent; returns its number when it is connected and in sync.
    pub(crate) async fn start_agent(&mut self) -> usize {
        let agent = launch(&self.agent_config).await;
        await_sync(&agent).await;
        self.agents.push(Some(agent));
        self.agents.len() - 1
    }

    /// Drains an agent.
    pub(crate) async fn stop_agent(&mut self, number: usize) {
        self.agents[number]
            .take()
            .expect("the agent runs")
            .drain()
            .await;
    }

    /// Writes a manifest file.
    pub(crate) fn put(&self, name: &str, text: &str) {
        put(&self.manifests(), name, text);
    }

    /// Writes the file that [`Builder::apps`] writes.
    pub(crate) fn put_apps(&self, apps: &[(&str, &str, SocketAddr)]) {
        self.put("apps.yaml", &apps_file(apps));
    }

    /// Removes a manifest file.
    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.manifests().join(name)).expect("remove a manifest");
    }

    /// `GET` on a connection of its own.
    pub(crate) async fn get(&self, host: &str, target: &str) -> http::Response {
        http::get(self.http, host, target).await
    }

    /// Sends these bytes on a connection of their own and reads one response.
    pub(crate) async fn exchange(&self, request: impl AsRef<[u8]>) -> http::Response {
        http::exchange(self.http, request).await
    }

    pub(crate) async fn connect(&self) -> http::Connection {
        http::Connection::connect(self.http)
            .await
            .expect("connect to the edge")
    }

    /// Waits until a request is answered with this status and error code (empty: none).
    pub(crate) async fn await_answer(&self, host: &str, target: &str, status: u16, code: &str) {
        let what = format!("{host}{target} is answered with {status} {code}");
        await_condition(&what, SOON, || async {
            let response = self.get(host, target).await;
            response.status() == status && error_code(&response) == code
        })
        .await;
    }
}

/// The value of `X-Gatewright-Error`; empty when there is none.
pub(crate) fn error_code(response: &http::Response) -> &str {
    response.header("x-gatewright-error").unwrap_or_default()
}

/// Starts an agent that may or may not reach its edge.
pub(crate) async fn launch(config: &Value) -> Agent {
    let config: AgentConfig =
        serde_json::from_value(config.clone()).expect("a configuration for the agent");
    let agent = Agent::start(config).await;
    agent.unwrap_or_else(|error| panic!("the agent does not start: {error}"))
}

/// Waits until an agent has all its connections and answers for all its routes.
pub(crate) async fn await_sync(agent: &Agent) {
    let mut status = agent.status();
    let in_sync = status.wait_for(|status| {
        !status.in_sync.is_empty()
            && status.in_sync.values().all(|in_sync| *in_sync)
            && status.connections.values().all(|count| *count == 2)
    });
    let waited = tokio::time::timeout(SOON, in_sync).await;
    if waited.is_err() {
        panic!(
            "the agent is not in sync after {SOON:?}: {:?}",
            *agent.status().borrow()
        );
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let agents: Vec<Agent> = self.agents.iter_mut().filter_map(Option::take).collect();
        let edge = self.edge.take();
        // A thread of its own: a runtime cannot be entered from within another.
        let ending = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime
                .expect("a runtime to end the fixture")
                .block_on(async {
                    for agent in agents {
                        agent.drain().await;
                    }
                    if let Some(edge) = edge {
                        edge.drain().await;
                    }
                });
        });
        let _ = ending.join();
    }
}
