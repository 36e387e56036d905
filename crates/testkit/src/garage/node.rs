//! One Garage process: its folder, identity, configuration, start and end. It may not know the others.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Credentials, PATIENCE, address, hex, random, s3};
use crate::await_condition;
use crate::http::{Connection, Response};
use crate::keeper::Keeper;

const S3: u16 = 3900;
const RPC: u16 = 3901;
const WEB: u16 = 3902;
const ADMIN: u16 = 3903;

/// What may differ between nodes.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Another replication factor than the cluster's.
    pub factor: Option<usize>,
    /// The 32-byte seed of its key; else a random one.
    pub seed: Option<[u8; 32]>,
    /// Leaves the key to Garage: [`Node::id`] is then not what the node calls itself.
    pub own_key: bool,
    /// Keys to leave out of the configuration, for instance `data_dir`.
    pub without: Vec<&'static str>,
    /// Lines at the top of the configuration.
    pub more: String,
    /// Lines at its end, in the section `[admin]`. Not subject to `without`.
    pub end: String,
}

/// What the nodes of a cluster have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) binary: PathBuf,
    pub(super) rpc_secret: String,
    pub(super) admin_token: String,
    pub(super) factor: usize,
}

/// One node, running or not.
#[derive(Debug)]
pub struct Node {
    process: Mutex<Option<Keeper>>,
    folder: PathBuf,
    shared: Shared,
    setup: Setup,
    key: [u8; 64],
    address: Ipv4Addr,
}

impl Node {
    pub(super) fn new(folder: PathBuf, shared: Shared, setup: Setup, peers: &[String]) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(&setup.seed.unwrap_or_else(random));
        let mut node = Self {
            process: Mutex::new(None),
            folder,
            shared,
            setup,
            key: key.to_keypair_bytes(),
            address: address::free(&[S3, RPC, WEB, ADMIN]),
        };
        node.place_key();
        node.set_peers(peers);
        node
    }

    /// 64 hex digits: the public half of its key.
    pub fn id(&self) -> String {
        hex(&self.key[32..])
    }

    /// Its key file: seed, then public key.
    pub fn key(&self) -> &[u8; 64] {
        &self.key
    }

    /// The loopback address of all its ports.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// `<id>@<address>:3901`.
    pub fn peer(&self) -> String {
        format!("{}@{}:{RPC}", self.id(), self.address)
    }

    /// `http://<address>:3903`.
    pub fn admin_url(&self) -> String {
        format!("http://{}:{ADMIN}", self.address)
    }

    /// `http://<address>:3900`.
    pub fn s3_url(&self) -> String {
        format!("http://{}:{S3}", self.address)
    }

    /// Its website port.
    pub fn web_address(&self) -> SocketAddr {
        (self.address, WEB).into()
    }

    /// The Admin API by raw requests.
    pub fn admin(&self) -> Admin {
        Admin {
            address: (self.address, ADMIN).into(),
            token: self.shared.admin_token.clone(),
        }
    }

    /// Its entry for `UpdateClusterLayout`; without a capacity it is a gateway.
    pub fn role(&self, zone: &str, capacity: Option<u64>) -> Value {
        json!({ "id": self.id(), "zone": zone, "capacity": capacity, "tags": [] })
    }

    /// Its metadata folder.
    pub fn metadata(&self) -> PathBuf {
        self.folder.join("meta")
    }

    /// All that it has said since it was added.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Writes the configuration, with these bootstrap peers. Takes effect at the next start.
    pub fn set_peers(&mut self, peers: &[String]) {
        let text = self.config(peers);
        let path = self.config_path();
        std::fs::write(&path, text)
            .unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
    }

    fn config_path(&self) -> PathBuf {
        self.folder.join("garage.toml")
    }

    fn config(&self, peers: &[String]) -> String {
        let (address, folder) = (self.address, self.folder.display());
        let peers: Vec<&String> = peers.iter().filter(|peer| **peer != self.peer()).collect();
        let Shared {
            rpc_secret,
            admin_token,
            factor,
            ..
        } = &self.shared;
        let text = format!(
            "{more}\n\
             metadata_dir = \"{folder}/meta\"\n\
             data_dir = \"{folder}/data\"\n\
             db_engine = \"lmdb\"\n\
             lmdb_map_size = 268435456\n\
             replication_factor = {factor}\n\
             metadata_fsync = false\n\
             data_fsync = false\n\
             disable_scrub = true\n\
             compression_level = \"none\"\n\
             rpc_bind_addr = \"{address}:{RPC}\"\n\
             rpc_public_addr = \"{address}:{RPC}\"\n\
             rpc_secret = \"{rpc_secret}\"\n\
             bootstrap_peers = {peers:?}\n\
             [s3_api]\n\
             s3_region = \"garage\"\n\
             api_bind_addr = \"{address}:{S3}\"\n\
             root_domain = \".s3.garage.test\"\n\
             [s3_web]\n\
             bind_addr = \"{address}:{WEB}\"\n\
             root_domain = \".web.garage.test\"\n\
             [admin]\n\
             api_bind_addr = \"{address}:{ADMIN}\"\n\
             admin_token = \"{admin_token}\"\n",
            more = self.setup.more,
        );
        let kept = text.lines().filter(|line| {
            let key = line.split(" =").next().unwrap_or_default();
            !self.setup.without.contains(&key)
        });
        let kept: String = kept.map(|line| format!("{line}\n")).collect();
        kept + &self.setup.end
    }

    fn place_key(&self) {
        let folder = self.metadata();
        std::fs::create_dir_all(&folder)
            .unwrap_or_else(|e| panic!("cannot make {}: {e}", folder.display()));
        if self.setup.own_key {
            return;
        }
        let path = folder.join("node_key");
        std::fs::write(&path, self.key).unwrap_or_else(|e| panic!("cannot write node_key: {e}"));
        // As a Secret is mounted: nobody may write it.
        set_mode(&path, 0o444);
    }

    /// Starts the process. It may end at once: see [`Node::exited`].
    pub fn start(&self) {
        let config = self.config_path().display().to_string();
        let arguments = ["-c", &config, "server"].map(String::from);
        let log = self.folder.join("log");
        let keeper = Keeper::spawn(&self.shared.binary, &arguments, &self.folder, &log);
        *self.process() = Some(keeper);
    }

    /// Waits until its Admin API answers; panics with its last words if it ends instead.
    pub async fn listens(&self) {
        let admin = self.admin();
        let what = format!("the Garage at {} listens", self.admin_url());
        await_condition(&what, PATIENCE, || async {
            if let Some(status) = self.exited() {
                panic!("Garage ended ({status}): {}", self.log());
            }
            admin.try_get("GetClusterHealth").await.is_some()
        })
        .await;
    }

    /// Waits until its Admin API accepts connections, whatever it then says.
    pub async fn listens_at_all(&self) {
        let admin = self.admin();
        let what = format!("the Garage at {} accepts connections", self.admin_url());
        await_condition(&what, PATIENCE, || async {
            admin.send("GET", "GetClusterHealth", None).await.is_some()
        })
        .await;
    }

    /// Sends SIGTERM and waits for the end; returns how long that took.
    pub async fn stop(&self) -> Duration {
        let begin = Instant::now();
        if let Some(process) = &mut *self.process() {
            process.signal("TERM");
        }
        self.ends().await;
        *self.process() = None;
        begin.elapsed()
    }

    /// Waits for an end that something else causes.
    pub async fn ends(&self) {
        let what = format!("the Garage at {} ends", self.admin_url());
        await_condition(&what, PATIENCE, || async { !self.is_running() }).await;
    }

    /// Kills it at once, as a machine does that loses its power.
    pub fn kill(&self) {
        *self.process() = None;
    }

    /// Stops it where it is, as a machine does that has no time for it: connections stay, nothing answers.
    pub fn freeze(&self) {
        if let Some(process) = &mut *self.process() {
            process.signal("STOP");
        }
    }

    /// Removes all that it has stored, and places its key again. It must not be running.
    pub fn wipe(&self) {
        assert!(!self.is_running(), "a running node is not wiped");
        for folder in ["meta", "data"] {
            let path = self.folder.join(folder);
            match std::fs::remove_dir_all(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => panic!("cannot remove {}: {e}", path.display()),
            }
        }
        self.place_key();
    }

    /// Whether the process is there.
    pub fn is_running(&self) -> bool {
        self.process()
            .as_mut()
            .is_some_and(|process| process.exited().is_none())
    }

    /// How the process ended by itself; `None` while it runs and when it was never started.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.process().as_mut().and_then(Keeper::exited)
    }

    /// Whether it sees all storage nodes up, in a layout that it knows.
    pub async fn healthy(&self) -> bool {
        let health = self.admin().try_get("GetClusterHealth").await;
        health.is_some_and(|health| health["status"] == "healthy" && health["storageNodes"] != 0)
    }

    /// One signed S3 request: `path` is `/bucket` or `/bucket/key`. `None` if nobody answers.
    pub async fn s3(
        &self,
        credentials: &Credentials,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Option<Response> {
        let address = (self.address, S3).into();
        s3::request(address, credentials, method, path, body).await
    }

    fn process(&self) -> MutexGuard<'_, Option<Keeper>> {
        self.process
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .unwrap_or_else(|e| panic!("cannot set the mode of {}: {e}", path.display()));
}

/// A node's Admin API by raw requests.
#[derive(Clone, Debug)]
pub struct Admin {
    address: SocketAddr,
    token: String,
}

impl Admin {
    /// `GET /v2/<call>`; panics unless it answers 200.
    pub async fn get(&self, call: &str) -> Value {
        self.answer("GET", call, None).await
    }

    /// `POST /v2/<call>`; panics unless it answers 200.
    pub async fn post(&self, call: &str, body: &Value) -> Value {
        self.answer("POST", call, Some(body)).await
    }

    /// `GET /v2/<call>`; `None` unless it answers 200.
    pub async fn try_get(&self, call: &str) -> Option<Value> {
        let response = self.send("GET", call, None).await?;
        (response.status() == 200).then(|| response.json())
    }

    async fn answer(&self, method: &str, call: &str, body: Option<&Value>) -> Value {
        let response = self.send(method, call, body).await;
        let response =
            response.unwrap_or_else(|| panic!("nobody answers {call} at {}", self.address));
        assert_eq!(response.status(), 200, "{call}: {}", response.text());
        response.json()
    }

    /// Any answer; `None` if nobody gives one.
    pub async fn send(&self, method: &str, call: &str, body: Option<&Value>) -> Option<Response> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} /v2/{call} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.address,
            self.token,
            body.len()
        );
        let mut connection = Connection::connect(self.address).await.ok()?;
        connection.send(request).await.ok()?;
        connection.read_response().await.ok()
    }
}
