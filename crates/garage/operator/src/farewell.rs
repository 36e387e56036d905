//! The end of a node, so that its peers notice it. May not decide when a node ends.
//!
//! Garage 2.5 does not read that a peer has closed their connection; it finds out when it writes and the
//! peer's machine refuses. The network of a pod that is gone refuses nothing, and then it takes five
//! lost pings of 15 s each. All that time the storage nodes push no tables to the node's next pod. So
//! the old one is kept for the moment that they need: Garage ends at once without open connections and
//! after ten seconds with one.

use crate::admin::{Client, Error, Node};
use crate::operator::{Operator, lock};
use crate::storage;
use futures_util::future::join_all;
use gatewright_garage::identity::NodeId;
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// How long a node may take to accept a connection, and a peer to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two questions to a peer.
const PAUSE: Duration = Duration::from_millis(250);
/// Longer than any grace period: then the pod is gone, whatever its peers know.
const LONGEST: Duration = Duration::from_secs(90);
/// How long it is remembered that a pod was seen off.
const MEMORY: Duration = Duration::from_secs(600);

/// The pods that are seen off, by their UIDs.
#[derive(Debug, Default)]
pub(crate) struct Farewells(Mutex<BTreeMap<String, Instant>>);

impl Farewells {
    /// Whether somebody does it already.
    pub(crate) fn has(&self, pod: &Pod) -> bool {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        lock(&self.0).contains_key(uid)
    }

    fn begin(&self, pod: &Pod) {
        let now = Instant::now();
        let mut known = lock(&self.0);
        known.retain(|_, since| now - *since < MEMORY);
        known.insert(pod.metadata.uid.clone().unwrap_or_default(), now);
    }
}

impl Operator {
    /// Holds the node of an ending pod until its peers have noticed; in the background, because
    /// the pod waits for nobody.
    pub(crate) fn see_off(&self, pod: &Pod, port: i32, node: NodeId, mut peers: Vec<Client>) {
        self.farewells.begin(pod);
        let (Some(ip), Ok(port)) = (storage::address(pod), u16::try_from(port)) else {
            return;
        };
        let own = storage::base(ip, port.into());
        peers.retain(|peer| peer.at() != own);
        tokio::spawn(hold(SocketAddr::new(ip, port), node, peers));
    }
}

async fn hold(at: SocketAddr, node: NodeId, peers: Vec<Client>) {
    let connected = timeout(PATIENCE, TcpStream::connect(at)).await;
    // It has ended already.
    let Ok(Ok(mut connection)) = connected else {
        return;
    };
    let noticed = join_all(peers.iter().map(|peer| notices(peer, node)));
    let mut nothing = [0];
    tokio::select! {
        _ = noticed => tracing::debug!(%node, "its peers know that the node has ended"),
        _ = connection.read(&mut nothing) => tracing::debug!(%node, "the node did not wait for its peers"),
        () = sleep(LONGEST) => {}
    }
}

/// Until `peer` says that it is not connected to `node`. The question itself makes it write.
async fn notices(peer: &Client, node: NodeId) {
    let peer = peer.with_timeout(PATIENCE);
    loop {
        match peer.get_node_info(Node::Id(node)).await {
            // It still runs, or the answer is lost and the refusal on its way.
            Ok(_) | Err(Error::Timeout { .. }) => sleep(PAUSE).await,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(%node, error, "a peer has noticed");
                return;
            }
        }
    }
}
