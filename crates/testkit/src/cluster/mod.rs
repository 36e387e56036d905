//! A real etcd and kube-apiserver for tests. It may not stand in for a node: nothing here runs pods.
//!
//! Authentication by token, authorisation by RBAC; no controller-manager, so no default service accounts,
//! no garbage collection, empty aggregated roles (`admin`, `edit`, `view`), and a deleted namespace stays
//! `Terminating`. A test takes a fresh one each.

mod etcd;
mod pki;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::config::AuthInfo;
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};

use crate::keeper::Keeper;
use crate::ports::free_port;
use crate::scratch::Scratch;
use pki::Pki;

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running apiserver with its store. Dropping it ends both and removes their data; so does the end of
/// the process, whatever ends it.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: server, store, folder.
    apiserver: Mutex<Option<Keeper>>,
    etcd: Mutex<Keeper>,
    dir: Scratch,
    apiserver_binary: PathBuf,
    port: u16,
    ca_der: Vec<u8>,
    admin_token: String,
    namespaces: AtomicU32,
}

impl Cluster {
    /// Boots a cluster of the caller's own, for tests that stop it or compact its store.
    /// `None` where the binaries are missing (see [`crate::part`]).
    pub async fn start() -> Option<Self> {
        let etcd = crate::part("etcd")?;
        let apiserver = crate::part("kube-apiserver")?;
        // A port may be taken between the probe and the bind; then the apiserver ends at once.
        let mut why = String::new();
        for _ in 0..3 {
            let cluster = Self::spawn(&etcd, &apiserver);
            match cluster.ready().await {
                Ok(()) => return Some(cluster),
                Err(reason) => why = reason,
            }
        }
        panic!("the test cluster does not start: {why}");
    }

    /// The cluster that all tests of this binary share; a test keeps to a [`Cluster::namespace`] of its own.
    pub async fn shared() -> Option<&'static Self> {
        static SHARED: OnceCell<Option<Cluster>> = OnceCell::const_new();
        // Asked before the cell, so that each test that skips is named.
        crate::part("etcd")?;
        crate::part("kube-apiserver")?;
        SHARED.get_or_init(Self::start).await.as_ref()
    }

    fn spawn(etcd: &Path, apiserver: &Path) -> Self {
        let dir = Scratch::new("cluster");
        let pki = Pki::new();
        let admin_token = random_hex();
        let port = free_port();
        let tokens = format!("{admin_token},admin,admin,system:masters\n");
        let files = [
            ("ca.crt", &pki.ca_cert),
            ("apiserver.crt", &pki.server_cert),
            ("apiserver.key", &pki.server_key),
            ("accounts.key", &pki.account_key),
            ("accounts.pub", &pki.account_public_key),
            ("tokens.csv", &tokens),
            (
                "kubeconfig",
                &kubeconfig(port, &dir.path().join("ca.crt"), &admin_token).to_string(),
            ),
        ];
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content)
                .unwrap_or_else(|e| panic!("cannot write the cluster's {name}: {e}"));
        }
        Self {
            apiserver: Mutex::new(Some(spawn_apiserver(apiserver, dir.path(), port))),
            etcd: Mutex::new(etcd::spawn(etcd, dir.path())),
            dir,
            apiserver_binary: apiserver.to_owned(),
            port,
            ca_der: pki.ca_der,
            admin_token,
            namespaces: AtomicU32::new(0),
        }
    }

    /// `https://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// A kubeconfig file for the administrator. It lives as long as the cluster.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// The administrator's client configuration.
    pub fn config(&self) -> kube::Config {
        self.config_with(json!({ "token": self.admin_token }))
    }

    /// A client for the administrator. Each call makes a new one, bound to the caller's runtime.
    pub fn client(&self) -> kube::Client {
        connect(self.config())
    }

    /// A client that acts as `user` in `groups`, with the rights that RBAC gives to those.
    pub fn client_as(&self, user: &str, groups: &[&str]) -> kube::Client {
        connect(self.config_with(json!({
            "token": self.admin_token,
            "as": user,
            "as-groups": groups,
        })))
    }

    /// A client that holds a real token of a service account, which is created if it does not exist.
    pub async fn service_account_client(&self, namespace: &str, name: &str) -> kube::Client {
        let token = self.service_account_token(namespace, name).await;
        connect(self.config_with(json!({ "token": token })))
    }

    /// A token of a service account, valid for an hour; the account is created if it does not exist.
    pub async fn service_account_token(&self, namespace: &str, name: &str) -> String {
        let api: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let mut account = ServiceAccount::default();
        account.metadata.name = Some(name.to_owned());
        match api.create(&PostParams::default(), &account).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(e) => panic!("cannot create the service account {namespace}/{name}: {e}"),
        }
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(3600),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let answer = api
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .unwrap_or_else(|e| panic!("no token for the service account {namespace}/{name}: {e}"));
        answer
            .status
            .unwrap_or_else(|| panic!("the token answer for {namespace}/{name} has no status"))
            .token
    }

    /// Creates a namespace that no other test has; its name begins with `prefix`.
    pub async fn namespace(&self, prefix: &str) -> String {
        let name = format!(
            "{prefix}-{}",
            self.namespaces.fetch_add(1, Ordering::Relaxed)
        );
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.clone());
        Api::all(self.client())
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap_or_else(|e| panic!("cannot create the namespace {name}: {e}"));
        name
    }

    /// Kills the apiserver: every watch breaks, new connections are refused.
    pub async fn stop_apiserver(&self) {
        *self.apiserver.lock().await = None;
    }

    /// Starts the apiserver again, on the same port with the same data, and waits until it is ready.
    pub async fn start_apiserver(&self) {
        {
            let mut running = self.apiserver.lock().await;
            if running.is_none() {
                *running = Some(spawn_apiserver(
                    &self.apiserver_binary,
                    self.dir.path(),
                    self.port,
                ));
            }
        }
        if let Err(why) = self.ready().await {
            panic!("the apiserver does not come back: {why}");
        }
    }

    /// [`Cluster::stop_apiserver`], then [`Cluster::start_apiserver`].
    pub async fn restart_apiserver(&self) {
        self.stop_apiserver().await;
        self.start_apiserver().await;
    }

    /// Sends the apiserver a signal (`STOP` freezes it with its connections open, `CONT` thaws it).
    pub async fn signal_apiserver(&self, name: &str) {
        if let Some(keeper) = &mut *self.apiserver.lock().await {
            keeper.signal(name);
        }
    }

    /// Drops all history from etcd. Lists at an old version then answer 410 Gone; watches are served from
    /// the apiserver's own cache for a while, so for those see [`Cluster::expire_watches`].
    pub async fn compact_etcd(&self) {
        etcd::compact(self.dir.path()).await;
    }

    /// Makes every resource version seen so far too old to watch from: the next watch answers 410 Gone.
    pub async fn expire_watches(&self) {
        self.stop_apiserver().await;
        self.compact_etcd().await;
        self.start_apiserver().await;
    }

    fn config_with(&self, auth: Value) -> kube::Config {
        let url = self.url();
        let mut config = kube::Config::new(url.parse().unwrap_or_else(|e| panic!("{url}: {e}")));
        config.root_cert = Some(vec![self.ca_der.clone()]);
        config.auth_info = serde_json::from_value::<AuthInfo>(auth)
            .unwrap_or_else(|e| panic!("the credentials do not fit kube's AuthInfo: {e}"));
        config
    }

    /// Waits for `/readyz` and the namespace `default`; `Err` says why a process ended or what is missing.
    async fn ready(&self) -> Result<(), String> {
        let client = self.client();
        let ready = async {
            loop {
                for (name, exited) in [
                    ("etcd", self.etcd.lock().await.exited()),
                    ("kube-apiserver", self.apiserver_exited().await),
                ] {
                    if let Some(status) = exited {
                        return Err(format!("{name} ended ({status}):\n{}", self.log_tail(name)));
                    }
                }
                let request = ::http::Request::get("/readyz").body(Vec::new());
                let request = request.unwrap_or_else(|e| panic!("GET /readyz: {e}"));
                if client.request_text(request).await.is_ok_and(|t| t == "ok")
                    && Api::<Namespace>::all(client.clone())
                        .get("default")
                        .await
                        .is_ok()
                {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(START_TIMEOUT, ready).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!(
                "not ready after {START_TIMEOUT:?}:\n{}",
                self.log_tail("kube-apiserver")
            )),
        }
    }

    async fn apiserver_exited(&self) -> Option<std::process::ExitStatus> {
        self.apiserver
            .lock()
            .await
            .as_mut()
            .and_then(Keeper::exited)
    }

    fn log_tail(&self, name: &str) -> String {
        let path = self.dir.path().join(format!("{name}.log"));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

fn spawn_apiserver(program: &Path, dir: &Path, port: u16) -> Keeper {
    let arguments = [
        format!("--etcd-servers={}", etcd::CLIENT_URL),
        "--bind-address=127.0.0.1".into(),
        format!("--secure-port={port}"),
        "--advertise-address=127.0.0.1".into(),
        // Nobody writes the endpoints of `default/kubernetes`: there is no network to reach them by.
        "--endpoint-reconciler-type=none".into(),
        "--service-cluster-ip-range=10.96.0.0/16".into(),
        "--tls-cert-file=apiserver.crt".into(),
        "--tls-private-key-file=apiserver.key".into(),
        "--client-ca-file=ca.crt".into(),
        "--token-auth-file=tokens.csv".into(),
        "--authorization-mode=RBAC".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        "--service-account-key-file=accounts.pub".into(),
        "--service-account-signing-key-file=accounts.key".into(),
        // Without a controller-manager no namespace gets a default account, and pods would be refused.
        "--disable-admission-plugins=ServiceAccount".into(),
        "--allow-privileged=true".into(),
        "--enable-priority-and-fairness=false".into(),
        // `expire_watches` decides when history goes, nothing else.
        "--etcd-compaction-interval=0".into(),
        "--shutdown-delay-duration=0s".into(),
        "--profiling=false".into(),
    ];
    Keeper::spawn(program, &arguments, dir, &dir.join("kube-apiserver.log"))
}

fn connect(config: kube::Config) -> kube::Client {
    // rustls asks for one provider per process; whoever comes first has installed the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    kube::Client::try_from(config).unwrap_or_else(|e| panic!("cannot make a client: {e}"))
}

/// JSON is YAML, so this is a kubeconfig.
fn kubeconfig(port: u16, ca: &Path, token: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "testkit",
            "cluster": {
                "server": format!("https://127.0.0.1:{port}"),
                "certificate-authority": ca,
            },
        }],
        "users": [{ "name": "admin", "user": { "token": token } }],
        "contexts": [{ "name": "testkit", "context": { "cluster": "testkit", "user": "admin" } }],
        "current-context": "testkit",
    })
}

fn random_hex() -> String {
    use std::io::Read as _;
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .unwrap_or_else(|e| panic!("cannot read /dev/urandom: {e}"));
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
