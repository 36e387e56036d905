//! What was seen of a cluster: facts, not opinions. May not decide.

use super::ClusterKey;
use crate::identity::{NodeId, Peer};
use crate::layout;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// All facts about one cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Our finalizer is on the object.
    pub finalizer: bool,
    /// The object's namespace is being deleted.
    pub namespace_ends: bool,
    /// Identity of each slot, from the Secret with the keys.
    pub keys: BTreeMap<u32, NodeId>,
    /// Entries of that Secret that are no keys, and why.
    pub bad_keys: Vec<String>,
    /// The Secret with the RPC secret is there and well-formed; for a mirrored one: and a true copy.
    pub rpc_secret: bool,
    /// The Secret with the admin token is there and well-formed.
    pub admin_token: bool,
    /// A Secret that the user names is missing or malformed.
    pub bad_secret: Option<String>,
    /// Nodes of ours that were in the layout at some time, by the object's status.
    pub former: BTreeSet<NodeId>,
    /// Nodes that are or were other owners' of this operator, in the same layout.
    pub kin: BTreeSet<NodeId>,
    /// Identity of each slot, as the object's status told it last.
    pub told: BTreeMap<u32, NodeId>,
    /// The pods of the workload.
    pub pods: Vec<Pod>,
    /// The StatefulSet or Deployment.
    pub workload: Option<Workload>,
    /// The claims of the pods.
    pub claims: Vec<Claim>,
    /// There is a PodDisruptionBudget of ours.
    pub budget: bool,
    /// Slots that have a public Service of ours.
    pub public_services: BTreeSet<u32>,
    /// The storage cluster that a gateway cluster names.
    pub target: TargetSeen,
    /// What the storage cluster's Admin API says.
    pub garage: Garage,
    /// Gateway clusters that use this storage cluster and are not being deleted.
    pub attached: Vec<ClusterKey>,
    /// Gateway clusters that use it, are being deleted, and have not yet given their roles back.
    pub departing: Vec<ClusterKey>,
}

impl Observed {
    /// How many pods take requests and are to stay.
    pub(super) fn ready(&self) -> u32 {
        let ready = self.pods.iter().filter(|pod| pod.ready && !pod.terminating);
        u32::try_from(ready.count()).unwrap_or(u32::MAX)
    }
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its slot: the ordinal in a StatefulSet, else the annotation that we wrote.
    pub slot: Option<u32>,
    /// It waits for its slot.
    pub gated: bool,
    /// Its address, once it has one.
    pub ip: Option<IpAddr>,
    /// Its containers run.
    pub running: bool,
    /// It takes requests.
    pub ready: bool,
    /// Our readiness gate is true.
    pub synced: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// All its containers have ended for good.
    pub finished: bool,
    /// It was made from a former template.
    pub outdated: bool,
    /// It started with another RPC secret than nodes have that start now.
    pub severed: bool,
    /// It is marked to be the first to go.
    pub leaving: bool,
    /// Somebody sees to it that its peers notice when it ends.
    pub seen_off: bool,
}

impl Pod {
    /// Whether its slot's key may be in use.
    #[must_use]
    pub fn holds(&self, slot: u32) -> bool {
        self.slot == Some(slot) && !self.finished
    }
}

/// The StatefulSet or Deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Pods it is to have.
    pub replicas: u32,
    /// Its controller has seen its newest specification.
    pub observed: bool,
    /// Its claim templates are those that are wanted.
    pub claims_match: bool,
}

/// A PersistentVolumeClaim of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// The claim template it comes from.
    pub template: String,
    /// The slot of its pod.
    pub slot: u32,
    /// Bytes asked for.
    pub bytes: u64,
    /// Bytes that there are; 0 before there is a volume.
    pub room: u64,
}

impl Claim {
    /// Its volume is smaller than `bytes`, so far.
    pub(crate) fn grows_to(&self, bytes: u64) -> bool {
        self.room > 0 && self.room < bytes
    }
}

/// The storage cluster that a gateway cluster names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TargetSeen {
    /// None is named.
    #[default]
    None,
    /// There is no such object.
    Missing,
    /// It is in another namespace, which does not grant its use.
    NotGranted,
    /// It is in a namespace where this operator does not look.
    OutOfReach,
    /// It is no storage cluster.
    NotStorage,
    /// It is there.
    Found(Storage),
}

/// A storage cluster as its gateways see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Storage {
    /// Its replication factor.
    pub factor: u32,
    /// Its nodes. Empty before they have keys.
    pub peers: Vec<Peer>,
    /// It has its secrets.
    pub secrets: bool,
    /// Its object is in another namespace.
    pub elsewhere: bool,
    /// It is being deleted.
    pub deleting: bool,
}

/// What the Admin API says.
#[derive(Debug, Clone, PartialEq)]
pub enum Garage {
    /// It was not asked, or does not answer; why.
    Unreachable(String),
    /// It answers.
    Reached(Box<Facts>),
}

impl Default for Garage {
    fn default() -> Self {
        Self::Unreachable("it was not asked".into())
    }
}

impl Garage {
    /// The facts, if there are any.
    #[must_use]
    pub fn facts(&self) -> Option<&Facts> {
        match self {
            Self::Reached(facts) => Some(facts),
            Self::Unreachable(_) => None,
        }
    }
}

/// What the Admin API of the storage cluster says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The layout.
    pub layout: layout::Seen,
    /// Every node it knows.
    pub nodes: BTreeMap<NodeId, Node>,
    /// `GetClusterHealth`.
    pub health: Option<Health>,
    /// How full the tables of a full storage node are, and of gateways that are not synced.
    pub tables: BTreeMap<NodeId, TableFill>,
    /// The node that answered.
    pub answered: Option<NodeId>,
    /// The replication factor, where it can be read (Garage 2.4 and later).
    pub factor: Option<u32>,
}

impl Facts {
    /// How many nodes are connected.
    pub(super) fn connected(&self) -> u32 {
        let up = self.nodes.values().filter(|node| node.up);
        u32::try_from(up.count()).unwrap_or(u32::MAX)
    }
}

/// A node as the storage cluster sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Connected.
    pub up: bool,
    /// `v2.5.0`.
    pub version: Option<String>,
    /// The volumes with its data.
    pub data: Option<Disk>,
    /// It holds data of an older layout that it is no part of any more.
    pub draining: bool,
    /// Blocks that wait to be resynchronised (Garage 2.5 and later).
    pub resync: Option<u64>,
}

/// The room on a node's volumes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that are free.
    pub free: u64,
    /// Bytes of all.
    pub total: u64,
}

/// `GetClusterHealth`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// `healthy`, `degraded` or `unavailable`.
    pub status: String,
    /// Nodes ever seen.
    pub known_nodes: u64,
    /// Connected ones.
    pub connected_nodes: u64,
    /// Nodes that store.
    pub storage_nodes: u64,
    /// Connected ones of them.
    pub storage_nodes_up: u64,
    /// Partitions.
    pub partitions: u64,
    /// Partitions that can be written.
    pub partitions_quorum: u64,
    /// Partitions with all copies.
    pub partitions_all_ok: u64,
}

/// Items in the tables without which a gateway answers 403: keys, buckets, aliases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableFill {
    /// Table `key`.
    pub keys: u64,
    /// Table `bucket_v2`.
    pub buckets: u64,
    /// Table `bucket_alias`.
    pub aliases: u64,
}

impl TableFill {
    /// Whether nothing of `other` is missing.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.keys >= other.keys && self.buckets >= other.buckets && self.aliases >= other.aliases
    }
}
