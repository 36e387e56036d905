//! What one GarageCluster needs next. [`plan`] is the whole decision: facts in, steps and a verdict out.
//! May not read or write anything.
//!
//! A cluster that is being deleted wants [`Desired::absent`]; there is no second algorithm for its end.
//! Each step is one effect that can be repeated. The facts are read anew after the steps were carried
//! out, so a process that dies between two of them goes on where it stopped.

mod desired;
pub mod facts;
mod gateway;
pub(crate) mod growth;
mod observed;
mod parse;
mod status;
mod storage;
#[cfg(test)]
mod world;

pub use desired::{
    ClusterKey, DEFAULT_FACTOR, DEFAULT_ZONE, Desired, External, Mode, Problem, Target,
};
pub use observed::{
    Claim, Disk, Facts, Garage, Health, Node, Observed, Pod, Storage, TableFill, TargetSeen,
    Workload,
};
pub use parse::{APPROVED, former, told};
pub use status::{Report, report};

use crate::identity::{NodeId, Peer};
use crate::layout::{Change, History, Move, Redundancy};
use std::collections::BTreeSet;

/// One effect on the world outside, apart from the objects that the cluster always has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Adds our finalizer, before anything exists that it has to clean up.
    AddFinalizer,
    /// Removes it: nothing of the cluster is left where Kubernetes does not clean up.
    RemoveFinalizer,
    /// Makes the Secret with the RPC secret, if nobody has made it meanwhile.
    MintRpcSecret,
    /// Copies the RPC secret of the storage cluster, which lives in another namespace.
    MirrorRpcSecret,
    /// Makes the Secret with the admin token, if nobody has made it meanwhile.
    MintAdminToken,
    /// Makes node keys for these slots and keeps them, before any of the nodes is named anywhere.
    MintKeys(BTreeSet<u32>),
    /// Forgets the keys of these slots.
    DropKeys(BTreeSet<u32>),
    /// Has the storage cluster dial these nodes now, instead of within a minute.
    Connect(Vec<Peer>),
    /// `UpdateClusterLayout`.
    Stage(Vec<Change>, Option<Redundancy>),
    /// `RevertClusterLayout`.
    Revert,
    /// `ApplyClusterLayout` of this version.
    Apply(u64),
    /// `ClusterLayoutSkipDeadNodes` of this version.
    SkipDead(u64),
    /// Gives a waiting pod its slot and lets it start.
    AssignSlot {
        /// The pod's name.
        pod: String,
        /// Its slot.
        slot: u32,
    },
    /// Sets the readiness gate of a pod.
    SetSynced {
        /// The pod's name.
        pod: String,
        /// Whether it may take requests.
        synced: bool,
    },
    /// Makes this pod the first to go when the workload shrinks.
    MarkLeaving {
        /// The pod's name.
        pod: String,
    },
    /// Deletes a pod; its workload makes a new one.
    DeletePod {
        /// The pod's name.
        pod: String,
    },
    /// Deletes a pod and gives it little time to end: it hangs, or is too busy to. Before the workload shrinks,
    /// which would give it all its time; the kubelet holds on to what it was told first.
    HurryPod {
        /// The pod's name.
        pod: String,
    },
    /// Sees to it that its peers notice the end of a node. Garage does not read that a peer has
    /// closed their connection: it learns so when it writes and is refused, and a pod whose network is
    /// gone refuses nothing. Its identity could not serve elsewhere for more than a minute.
    SeeOff {
        /// The pod's name.
        pod: String,
        /// Its node.
        node: NodeId,
    },
    /// Deletes the workload and leaves its pods, so that it can be made anew with other claims.
    OrphanWorkload,
    /// Deletes the budget of a cluster that wants none.
    DropBudget,
    /// Deletes the public Service of a slot that is to have none.
    DropPublicService(u32),
    /// Asks for more room on a claim.
    GrowClaim {
        /// The claim's name.
        claim: String,
        /// Bytes.
        bytes: u64,
    },
}

impl Step {
    /// Whether it comes before the workload is changed; all others come after.
    #[must_use]
    pub fn precedes_workload(&self) -> bool {
        matches!(self, Self::HurryPod { .. })
    }
}

/// What the objects of the cluster are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadWanted {
    /// Pods.
    pub replicas: u32,
    /// Replication factor of the whole storage cluster.
    pub factor: u32,
    /// Nodes to dial at start.
    pub peers: Vec<Peer>,
}

/// Why a cluster is not ready yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// Secrets and keys are being made.
    Secrets,
    /// The storage cluster that a gateway cluster names is not there.
    StorageMissing(ClusterKey),
    /// It has no secrets or keys yet.
    StorageStarting(ClusterKey),
    /// Nobody answers at its Admin API, and why.
    StorageUnreachable(String),
    /// The layout is not what it should be; a change is on its way.
    Layout,
    /// Nodes are moving to the newest layout.
    Settling(History),
    /// Garage refuses the layout, in its own words.
    LayoutBlocked(String),
    /// Somebody else has staged changes about these nodes.
    ForeignStagedChanges(BTreeSet<NodeId>),
    /// The change waits for a person.
    Approval(u64),
    /// Fewer nodes are connected than a layout change asks for.
    TooFewHealthy {
        /// Connected.
        up: u32,
        /// Asked for.
        least: u32,
    },
    /// These slots have no running node.
    Nodes(BTreeSet<u32>),
    /// Pods run but do not serve yet.
    Pods {
        /// Serving.
        ready: u32,
        /// Asked for.
        replicas: u32,
    },
    /// Pods are being replaced, one at a time.
    Rollout {
        /// Still of the former kind.
        outdated: u32,
    },
    /// The RPC secret has changed; all these pods are replaced at once.
    RpcSecret {
        /// With the former secret.
        pods: u32,
    },
    /// Pieces are being copied; no further node is stopped until that is done.
    Rebalancing {
        /// Partitions that are complete.
        complete: u64,
        /// All.
        partitions: u64,
    },
    /// Nodes leave: their roles go before they do.
    Leaving(BTreeSet<u32>),
    /// The cluster is to go, but these gateway clusters use it.
    GatewaysAttached(Vec<ClusterKey>),
    /// The cluster is to go, and so are these gateway clusters, whose roles go first.
    GatewaysDeparting(Vec<ClusterKey>),
    /// The cluster goes.
    Deleting,
    /// Claims are made larger.
    Growing,
}

/// Why a cluster will not be ready until somebody changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The object contradicts itself.
    Invalid(Vec<Problem>),
    /// A gateway cluster names something that is not a storage cluster.
    NotStorage(ClusterKey),
    /// The storage cluster's namespace does not grant its use.
    NotGranted(ClusterKey),
    /// This operator does not look into the storage cluster's namespace.
    OutOfReach(ClusterKey),
    /// The factor asked for is not the storage cluster's. Starting a node with another factor would
    /// stop the storage nodes.
    FactorMismatch {
        /// Asked for.
        asked: u32,
        /// The storage cluster's.
        storage: u32,
    },
    /// The factor of a storage cluster elsewhere cannot be read and is not given.
    FactorUnknown,
    /// A Secret that is named is missing or malformed.
    BadSecret(String),
    /// A node key in our Secret is malformed: going on would change a node's identity.
    BadKeys(Vec<String>),
}

/// How the cluster is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As asked.
    Ready,
    /// On its way.
    Waiting(Wait),
    /// Not before somebody acts.
    Refused(Refusal),
}

/// What comes next, and how the cluster is until then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The objects that have to exist; `None`: leave them as they are.
    pub workload: Option<WorkloadWanted>,
    /// In this order.
    pub steps: Vec<Step>,
    /// How the cluster is.
    pub verdict: Verdict,
}

impl Plan {
    fn waiting(steps: Vec<Step>, wait: Wait) -> Self {
        Self {
            workload: None,
            steps,
            verdict: Verdict::Waiting(wait),
        }
    }

    fn refused(refusal: Refusal) -> Self {
        Self {
            workload: None,
            steps: Vec::new(),
            verdict: Verdict::Refused(refusal),
        }
    }
}

/// Decides what one cluster needs next.
#[must_use]
pub fn plan(desired: &Desired, seen: &Observed) -> Plan {
    let mut plan = match &desired.mode {
        Mode::Storage => storage::plan(desired, seen),
        Mode::Gateway(target) => gateway::plan(desired, target, seen),
    };
    plan.steps.splice(..0, farewells(seen));
    if let Some(workload) = &plan.workload {
        plan.steps.extend(surplus(desired, seen, workload.replicas));
    }
    plan
}

/// What was asked for once and is not any more. A node that still leaves is reached until it is gone.
fn surplus(desired: &Desired, seen: &Observed, replicas: u32) -> Vec<Step> {
    let kept = if desired.public_services { replicas } else { 0 };
    let services = seen.public_services.range(kept..);
    let budget = seen.budget && !desired.budget;
    let services = services.map(|slot| Step::DropPublicService(*slot));
    services.chain(budget.then_some(Step::DropBudget)).collect()
}

/// Nodes that end: before anything else, because they do not wait.
fn farewells(seen: &Observed) -> Vec<Step> {
    let reached = seen.garage.facts().is_some();
    let ending = seen
        .pods
        .iter()
        .filter(|pod| reached && pod.terminating && pod.running && !pod.seen_off);
    let step = |pod: &Pod| {
        Some(Step::SeeOff {
            pod: pod.name.clone(),
            node: *seen.keys.get(&pod.slot?).or(seen.told.get(&pod.slot?))?,
        })
    };
    ending.filter_map(step).collect()
}

/// The step of a layout move, or what is waited for.
fn carry(desired: &Desired, version: u64, movement: Move) -> Result<Step, Wait> {
    match movement {
        Move::Stage(changes, redundancy) => Ok(Step::Stage(changes, redundancy)),
        Move::Revert => Ok(Step::Revert),
        Move::Apply(next) if desired.may_apply(next) => Ok(Step::Apply(next)),
        Move::Apply(next) => Err(Wait::Approval(next)),
        Move::SkipDead(current) => Ok(Step::SkipDead(current)),
        Move::Blocked(why) => Err(Wait::LayoutBlocked(why)),
        Move::Foreign(nodes) => Err(Wait::ForeignStagedChanges(nodes)),
        Move::Settling(history) => Err(Wait::Settling(history)),
        // The facts come with a preview whenever something is staged.
        Move::Preview | Move::Yield => Err(Wait::Layout),
        Move::Settled => {
            debug_assert!(
                version > 0 || desired.absent,
                "settled before the first layout"
            );
            Err(Wait::Layout)
        }
    }
}
