//! Real Garage clusters on loopback for tests. It may not use any of our own Garage code: addresses,
//! configuration, keys and requests here are an independent reading of what Garage wants.
//!
//! Each node is a process with a loopback address of its own (`127.x.y.z`) and Garage's standard ports, and
//! an identity that is known before it starts. A cluster of three is healthy in about two seconds.

mod address;
mod node;
mod python;
mod s3;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::await_condition;
use crate::scratch::Scratch;

pub use node::{Admin, Node, Setup};
pub use python::boto3;
pub use s3::{Credentials, sign};

/// How long a cluster may take to form, and a node to start or to stop. A loaded machine is slow; a test
/// that takes this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The capacity of every storage node, in bytes.
pub const CAPACITY: u64 = 1 << 30;

/// Nodes that share one RPC secret. Dropping it kills them and removes their data.
#[derive(Debug)]
pub struct Garage {
    nodes: Vec<Node>,
    // After the nodes: their processes write into it.
    dir: Scratch,
    binary: PathBuf,
    rpc_secret: String,
    admin_token: String,
    factor: usize,
}

impl Garage {
    /// A healthy cluster of `storage` nodes in zone `dc1`, with a replication factor of at most 3 and the
    /// layout version 1. `None` where there is no Garage (see [`crate::part`]).
    pub async fn start(storage: usize) -> Option<Self> {
        Self::start_in(&vec!["dc1"; storage]).await
    }

    /// The same with one storage node per entry, in that zone.
    pub async fn start_in(zones: &[&str]) -> Option<Self> {
        let mut garage = Self::prepare(zones.len().clamp(1, 3))?;
        let mut roles = Vec::new();
        for zone in zones {
            let index = garage.add(Setup::default());
            roles.push(garage.nodes[index].role(zone, Some(CAPACITY)));
        }
        // Written again, now that everybody is known.
        let peers = garage.peers();
        for node in &mut garage.nodes {
            node.set_peers(&peers);
            node.start();
        }
        for node in &garage.nodes {
            node.listens().await;
        }
        let others = json!(&peers[1..]);
        let admin = garage.nodes[0].admin();
        admin.post("ConnectClusterNodes", &others).await;
        garage.apply(Value::Array(roles)).await;
        garage.healthy().await;
        Some(garage)
    }

    /// A cluster without nodes. `None` where there is no Garage.
    pub fn prepare(factor: usize) -> Option<Self> {
        let binary = crate::part("garage")?;
        Some(Self {
            nodes: Vec::new(),
            dir: Scratch::new("garage"),
            binary,
            rpc_secret: hex(&random::<32>()),
            // No dot: Garage takes what has one for a token of its table.
            admin_token: hex(&random::<16>()),
            factor,
        })
    }

    /// Adds a node, with all others as its bootstrap peers, and starts nothing. Returns its index.
    pub fn add(&mut self, setup: Setup) -> usize {
        let index = self.nodes.len();
        let folder = self.dir.path().join(format!("node-{index}"));
        let shared = node::Shared {
            binary: self.binary.clone(),
            rpc_secret: self.rpc_secret.clone(),
            admin_token: self.admin_token.clone(),
            factor: setup.factor.unwrap_or(self.factor),
        };
        let peers = self.peers();
        self.nodes.push(Node::new(folder, shared, setup, &peers));
        index
    }

    /// Adds and starts a node without a role, and waits until all that run see it up. Returns its index.
    pub async fn add_running(&mut self, setup: Setup) -> usize {
        let index = self.add(setup);
        self.nodes[index].start();
        self.joined(index).await;
        index
    }

    /// Adds and starts gateways in zone `dc1`, gives them roles in one layout version, and waits until
    /// each knows its own. Returns their indices.
    pub async fn add_gateways(&mut self, count: usize) -> Vec<usize> {
        let added: Vec<usize> = (0..count).map(|_| self.add(Setup::default())).collect();
        for index in &added {
            self.nodes[*index].start();
        }
        for index in &added {
            self.joined(*index).await;
        }
        let role = |index: &usize| self.nodes[*index].role("dc1", None);
        self.apply(added.iter().map(role).collect()).await;
        for index in &added {
            let node = &self.nodes[*index];
            let what = format!("the gateway {} knows its role", node.id());
            await_condition(&what, PATIENCE, || async { node.healthy().await }).await;
        }
        added
    }

    /// Waits until all nodes that run see `index` up: a layout that is applied before takes half a minute
    /// to reach it.
    async fn joined(&self, index: usize) {
        self.nodes[index].listens().await;
        for observer in 0..self.nodes.len() {
            if observer != index && self.nodes[observer].is_running() {
                self.sees(observer, index, true).await;
            }
        }
    }

    /// The nodes, in the order in which they were added.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One node.
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// One node, to change its configuration.
    pub fn node_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }

    /// The static admin token of all nodes.
    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }

    /// The RPC secret of all nodes.
    pub fn rpc_secret(&self) -> &str {
        &self.rpc_secret
    }

    /// `<id>@<address>:3901` of all nodes.
    pub fn peers(&self) -> Vec<String> {
        self.nodes.iter().map(Node::peer).collect()
    }

    /// Makes all other running nodes dial node `index`: they wait up to 30 s before they try one again that
    /// was gone, and do not answer its tables' questions meanwhile.
    pub async fn introduce(&self, index: usize) {
        let peer = json!([self.nodes[index].peer()]);
        for (other, node) in self.nodes.iter().enumerate() {
            if other != index && node.is_running() {
                node.admin().post("ConnectClusterNodes", &peer).await;
            }
        }
    }

    /// Stages `roles` on node 0 and applies them; returns the new layout version. Panics with Garage's
    /// words if it refuses.
    pub async fn apply(&self, roles: Value) -> u64 {
        let admin = self.nodes[0].admin();
        let layout = admin
            .post("UpdateClusterLayout", &json!({ "roles": roles }))
            .await;
        let version = layout["version"].as_u64().expect("a layout version") + 1;
        admin
            .post("ApplyClusterLayout", &json!({ "version": version }))
            .await;
        version
    }

    /// Waits until every running node sees all storage nodes up.
    pub async fn healthy(&self) {
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            let what = format!("node {} sees a healthy cluster", node.id());
            await_condition(&what, PATIENCE, || async { node.healthy().await }).await;
        }
    }

    /// Waits until node `observer` sees node `index` up, or down.
    pub async fn sees(&self, observer: usize, index: usize, up: bool) {
        let id = self.nodes[index].id();
        let what = format!("node {observer} sees node {index} ({id}) up: {up}");
        let admin = self.nodes[observer].admin();
        await_condition(&what, PATIENCE, || async {
            let Some(status) = admin.try_get("GetClusterStatus").await else {
                return false;
            };
            let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
            let node = nodes.iter().find(|node| node["id"] == id);
            node.is_some_and(|node| node["isUp"] == up) || (node.is_none() && !up)
        })
        .await;
    }

    /// Waits until no layout version is being drained, as node 0 sees it.
    pub async fn settled(&self) {
        let admin = self.nodes[0].admin();
        await_condition("the layout's history is settled", PATIENCE, || async {
            let history = admin.try_get("GetClusterLayoutHistory").await;
            history.is_some_and(|history| is_settled(&history))
        })
        .await;
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (index, node) in self.nodes.iter().enumerate() {
                let log = node.log();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(10)..].join("\n");
                eprintln!("--- garage node {index} ({})\n{last}", node.id());
            }
        }
    }
}

/// Whether `history`, the answer of `GetClusterLayoutHistory`, has no version that is being drained.
pub fn is_settled(history: &Value) -> bool {
    let versions = history["versions"].as_array().cloned().unwrap_or_default();
    !versions.is_empty()
        && versions
            .iter()
            .all(|version| version["status"] != "Draining")
}

fn random<const N: usize>() -> [u8; N] {
    use std::io::Read as _;
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .unwrap_or_else(|e| panic!("cannot read /dev/urandom: {e}"));
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
