//! What a GarageCluster asks for, parsed once. May not look at the world.

use crate::identity::Peer;
use crate::layout::Redundancy;
use std::collections::BTreeSet;

/// Copies of each object unless the cluster says otherwise (the CRD's published default).
pub const DEFAULT_FACTOR: u32 = 3;
/// The zone of a storage cluster that names none.
pub const DEFAULT_ZONE: &str = "default";

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Something in an object that cannot be done: where, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Problem {
    /// A path such as `spec.connectTo.bootstrapPeers[0]`.
    pub field: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// What the nodes of the cluster do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// They store.
    Storage,
    /// They give access to what others store.
    Gateway(Target),
}

/// Whose gateways they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Those of a GarageCluster here.
    Cluster(ClusterKey),
    /// Those of a storage cluster elsewhere.
    External(External),
}

/// A storage cluster that no object here stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// Nodes to dial.
    pub peers: Vec<Peer>,
    /// Base URL of its Admin API.
    pub admin: String,
}

/// What one cluster asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Where the object is.
    pub key: ClusterKey,
    /// Its UID, which marks its roles.
    pub uid: String,
    /// The object is being deleted.
    pub absent: bool,
    /// Storage or gateways.
    pub mode: Mode,
    /// Nodes.
    pub replicas: u32,
    /// The zone it names.
    pub zone: Option<String>,
    /// Bytes that each node stores; `None` for gateways.
    pub capacity: Option<u64>,
    /// Which claims that is made of, by the name of the template, and how many bytes of each.
    pub shares: std::collections::BTreeMap<String, u64>,
    /// How much of these bytes is kept back.
    pub reserve_percent: u32,
    /// Tags of all its roles besides our own.
    pub tags: BTreeSet<String>,
    /// The factor it names.
    pub factor: Option<u32>,
    /// In how many zones each piece has to lie, if it says so.
    pub redundancy: Option<Redundancy>,
    /// Roles are GarageNodes' to give, not ours.
    pub manual_layout: bool,
    /// Whether layout changes are applied without a person.
    pub auto_apply: bool,
    /// The version that a person has approved.
    pub approved: Option<u64>,
    /// Nodes that have to be connected before a layout is changed.
    pub least_healthy: u32,
    /// Bytes of each claim, by the name of its template; empty for gateways.
    pub claims: std::collections::BTreeMap<String, u64>,
    /// Its data, and with it the layout, outlives the object.
    pub data_outlives: bool,
    /// A PodDisruptionBudget guards its pods.
    pub budget: bool,
    /// Each node has a public Service.
    pub public_services: bool,
    /// The user names the Secret with the RPC secret.
    pub own_rpc_secret: bool,
    /// The user names the Secret with the admin token.
    pub own_admin_token: bool,
    /// The port of RPC between nodes.
    pub rpc_port: u16,
}

impl Desired {
    /// Whether this version may be applied now.
    pub(super) fn may_apply(&self, version: u64) -> bool {
        self.auto_apply || self.absent || self.approved == Some(version)
    }

    /// The factor of a storage cluster.
    #[must_use]
    pub fn storage_factor(&self) -> u32 {
        self.factor.unwrap_or(DEFAULT_FACTOR)
    }

    /// The tags of the role of a slot.
    #[must_use]
    pub fn role_tags(&self, slot: u32) -> BTreeSet<String> {
        let ClusterKey { namespace, name } = &self.key;
        let tier = match self.mode {
            Mode::Storage => "storage",
            Mode::Gateway(_) => "gateway",
        };
        let ours = [
            format!("cluster:{name}/{namespace}"),
            format!("tier:{tier}"),
            crate::layout::owner_tag(&self.uid),
            format!("{name}-{slot}"),
        ];
        self.tags.iter().cloned().chain(ours).collect()
    }
}
