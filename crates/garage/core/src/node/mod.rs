//! What one GarageNode needs next: [`plan`] is the whole decision, facts in, steps and a verdict out. May
//! not read or write anything.
//!
//! A node gets its role once it is connected, and loses it while it lives: its pod stays until the layout
//! without it has settled, since a node that dies with its role leaves a layout that never does.

mod company;
mod desired;
mod status;
mod upkeep;
#[cfg(test)]
mod world;

pub use company::mates;
pub use desired::{Desired, Kind};
pub use status::report;

use crate::cluster::growth::promise;
use crate::cluster::{Claim, ClusterKey, Facts, Pod, Problem, Workload};
use crate::identity::{NodeId, Peer};
use crate::layout::{self, Change, History, Move, Role};
use crate::tenant::{Asker, Closed, Gate, Home};
use std::collections::{BTreeMap, BTreeSet};

/// All facts about one node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Our finalizer is on the object.
    pub finalizer: bool,
    /// The object's namespace is being deleted.
    pub namespace_ends: bool,
    /// The cluster whose layout it is in is being deleted: roles mean nothing any more.
    pub cluster_ends: bool,
    /// The cluster.
    pub home: Home,
    /// The node's id, or why it is not known.
    pub id: Option<Result<NodeId, String>>,
    /// The id that the object's status names.
    pub recorded: Option<NodeId>,
    /// Where the node can be dialled.
    pub peer: Option<Peer>,
    /// A pod of our own has its key.
    pub has_key: bool,
    /// The key in our Secret is malformed, and why.
    pub bad_key: Option<String>,
    /// What nodes of the cluster store unless they say otherwise.
    pub default_capacity: Option<u64>,
    /// The pod of our own.
    pub pod: Option<Pod>,
    /// The StatefulSet of our own.
    pub set: Option<Workload>,
    /// The claims of that pod.
    pub claims: Vec<Claim>,
    /// Bytes that each of them is to have, by the name of its template.
    pub sizes: BTreeMap<String, u64>,
    /// The pods of all other nodes of the cluster serve.
    pub others_serve: bool,
    /// Another GarageNode that stands for the same node and is older.
    pub rival: Option<ClusterKey>,
    /// Layout changes need no person.
    pub auto_apply: bool,
    /// The layout version that a person has approved.
    pub approved: Option<u64>,
    /// What the Admin API says.
    pub facts: Option<Facts>,
    /// The cluster's replication factor, where an object tells it.
    pub factor: Option<u32>,
    /// Nodes that are or were other owners' of this operator.
    pub kin: BTreeSet<NodeId>,
    /// The roles of other nodes that can join with this one; see [`mates`].
    pub mates: BTreeMap<NodeId, Role>,
    /// `host:port` of its RPC, as the cluster sees it.
    pub address: Option<String>,
    /// Its host name.
    pub hostname: Option<String>,
}

/// One effect on the world outside, apart from the objects of a pod of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Adds our finalizer, before anything exists that it has to clean up.
    AddFinalizer,
    /// Removes it.
    RemoveFinalizer,
    /// Makes the node's key and keeps it, before the node is named anywhere.
    MintKey,
    /// `UpdateClusterLayout`.
    Stage(Vec<Change>),
    /// `RevertClusterLayout`.
    Revert,
    /// `ApplyClusterLayout` of this version.
    Apply(u64),
    /// `ClusterLayoutSkipDeadNodes` of this version.
    SkipDead(u64),
    /// Deletes the pod of our own; its StatefulSet makes a new one.
    DeletePod,
    /// Deletes the StatefulSet and leaves its pod, so that it can be made anew with other claims.
    OrphanWorkload,
    /// Asks for more room on a claim.
    GrowClaim {
        /// The claim's name.
        claim: String,
        /// Bytes.
        bytes: u64,
    },
}

/// Why a node is not ready yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// The cluster cannot be asked.
    Cluster(Closed),
    /// Its key is being made.
    Key,
    /// Its id is not known, and why.
    Id(String),
    /// The cluster is not connected to it.
    Connection,
    /// A layout needs more storing nodes than are connected.
    Company {
        /// Those that there are, with this one.
        there: usize,
        /// The replication factor.
        factor: u32,
    },
    /// A layout change is on its way.
    Layout,
    /// Nodes are moving to the newest layout.
    Settling(History),
    /// Garage refuses the layout, in its own words.
    LayoutBlocked(String),
    /// Somebody else has staged changes about these nodes.
    ForeignStagedChanges(BTreeSet<NodeId>),
    /// The change waits for a person.
    Approval(u64),
    /// Its pod is replaced, or its turn has not come.
    Rollout,
    /// The RPC secret has changed, and the pod has the former one.
    RpcSecret,
    /// Pieces are being copied; its pod is not replaced before that is done.
    Rebalancing {
        /// Partitions that are complete.
        complete: u64,
        /// All.
        partitions: u64,
    },
    /// Its claims are made larger.
    Growing,
    /// It goes.
    Deleting,
}

/// Why a node will not be ready until somebody changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The object cannot be done.
    Invalid(Vec<Problem>),
    /// The key in our Secret is malformed: another one would be another node.
    BadKey(String),
    /// Another object stands for the same node.
    Taken(ClusterKey),
    /// The node's role is another owner's.
    RoleTaken {
        /// The node.
        node: NodeId,
        /// The owner's UID.
        owner: String,
    },
    /// The pod has another id than the object says.
    OtherId {
        /// The object's.
        asked: NodeId,
        /// The pod's.
        found: NodeId,
    },
}

/// How the node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As asked.
    Ready,
    /// On its way.
    Waiting(Wait),
    /// Not before somebody acts.
    Refused(Refusal),
}

/// What comes next, and how the node is until then.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// How the node is.
    pub verdict: Verdict,
    /// A pod of our own has to be there.
    pub workload: bool,
    /// The node that the cluster should dial now, instead of within a minute.
    pub connect: Option<Peer>,
}

impl Plan {
    fn waiting(steps: Vec<Step>, wait: Wait) -> Self {
        Self {
            steps,
            verdict: Verdict::Waiting(wait),
            workload: false,
            connect: None,
        }
    }

    fn refused(refusal: Refusal) -> Self {
        let verdict = Verdict::Refused(refusal);
        Self {
            steps: Vec::new(),
            verdict,
            workload: false,
            connect: None,
        }
    }
}

/// Decides what one node needs next.
#[must_use]
pub fn plan(desired: &Desired, seen: &Observed) -> Plan {
    if desired.absent && !seen.finalizer {
        return Plan::waiting(Vec::new(), Wait::Deleting);
    }
    let release = || Plan::waiting(vec![Step::RemoveFinalizer], Wait::Deleting);
    if desired.absent && (seen.cluster_ends || seen.rival.is_some()) {
        return release();
    }
    // A pod of our own starts before anybody can be asked: in a new cluster it is the first to answer.
    let own = desired.kind == Kind::Own && !desired.absent;
    let found = match &seen.home {
        Home::Missing | Home::NotGranted | Home::OutOfReach => false,
        Home::Unreachable { .. } | Home::Reached => true,
    };
    if own && found {
        if !seen.finalizer {
            return Plan::waiting(vec![Step::AddFinalizer], Wait::Key);
        }
        if let Some(why) = &seen.bad_key {
            return Plan::refused(Refusal::BadKey(why.clone()));
        }
        if !seen.has_key {
            return Plan::waiting(vec![Step::MintKey], Wait::Key);
        }
    }
    let gate = seen.home.gate(Asker {
        kind: "GarageNode",
        namespace: &desired.key.namespace,
        cluster: &desired.cluster,
        absent: desired.absent,
        namespace_ends: seen.namespace_ends,
    });
    let mut plan = match (gate, &seen.facts) {
        (Gate::Open, Some(facts)) => converge(desired, seen, facts),
        (Gate::Open, None) => Plan::waiting(Vec::new(), Wait::Layout),
        (Gate::Release, _) => release(),
        (Gate::Closed(closed), _) => Plan::waiting(Vec::new(), Wait::Cluster(closed)),
    };
    plan.workload = own && found;
    if plan.workload {
        upkeep::add(&mut plan, seen);
    }
    plan
}

fn converge(desired: &Desired, seen: &Observed, facts: &Facts) -> Plan {
    if !desired.absent && !seen.finalizer {
        return Plan::waiting(vec![Step::AddFinalizer], Wait::Layout);
    }
    if let Some(rival) = &seen.rival {
        return Plan::refused(Refusal::Taken(rival.clone()));
    }
    let mut wanted = layout::Wanted {
        tag: layout::owner_tag(&desired.uid),
        roles: BTreeMap::new(),
        redundancy: None,
        own: seen.recorded.into_iter().collect(),
        kin: seen.kin.clone(),
    };
    if !desired.absent {
        let id = match &seen.id {
            Some(Ok(id)) => *id,
            Some(Err(why)) => return Plan::waiting(Vec::new(), Wait::Id(why.clone())),
            None => return Plan::waiting(Vec::new(), Wait::Id("it was not asked".into())),
        };
        if let Some(asked) = desired.node_id.filter(|asked| *asked != id) {
            return Plan::refused(Refusal::OtherId { asked, found: id });
        }
        let present = facts.layout.roles.get(&id);
        if let Some(owner) = present
            .and_then(|role| role.owner())
            .filter(|owner| *owner != desired.uid)
        {
            return Plan::refused(Refusal::RoleTaken {
                node: id,
                owner: owner.to_owned(),
            });
        }
        let up = facts.nodes.get(&id).is_some_and(|node| node.up);
        if !up {
            let mut plan = Plan::waiting(Vec::new(), Wait::Connection);
            plan.connect.clone_from(&seen.peer);
            return plan;
        }
        wanted.own.insert(id);
        let role = desired.role(seen.default_capacity);
        let capacity = role.capacity.map(|wanted| {
            let present = present.and_then(|role| role.capacity);
            promise(
                wanted,
                present,
                upkeep::is_growing(seen),
                upkeep::room(seen, wanted),
            )
        });
        if present.is_none() && capacity.is_some() {
            wanted.roles.clone_from(&seen.mates);
            let roles = facts.layout.roles.values();
            let storing = roles.filter(|role| role.capacity.is_some()).count();
            let there = storing + 1 + wanted.roles.len();
            if let Some(factor) = seen.factor.filter(|factor| there < *factor as usize) {
                return Plan::waiting(Vec::new(), Wait::Company { there, factor });
            }
        }
        wanted.roles.insert(id, Role { capacity, ..role });
    } else if let Some(Ok(id)) = &seen.id {
        wanted.own.insert(*id);
    }
    let (steps, wait) = match layout::next(&wanted, &facts.layout) {
        Move::Settled => (Vec::new(), None),
        Move::Settling(history) => (Vec::new(), Some(Wait::Settling(history))),
        Move::Stage(changes, _) => (vec![Step::Stage(changes)], Some(Wait::Layout)),
        Move::Revert => (vec![Step::Revert], Some(Wait::Layout)),
        Move::Apply(version)
            if seen.auto_apply || desired.absent || seen.approved == Some(version) =>
        {
            (vec![Step::Apply(version)], Some(Wait::Layout))
        }
        Move::Apply(version) => (Vec::new(), Some(Wait::Approval(version))),
        Move::SkipDead(version) => (vec![Step::SkipDead(version)], Some(Wait::Layout)),
        // The facts come with a preview whenever something is staged.
        Move::Preview | Move::Yield => (Vec::new(), Some(Wait::Layout)),
        Move::Blocked(why) => (Vec::new(), Some(Wait::LayoutBlocked(why))),
        Move::Foreign(nodes) => (Vec::new(), Some(Wait::ForeignStagedChanges(nodes))),
    };
    match (wait, desired.absent) {
        (Some(wait), _) => Plan::waiting(steps, wait),
        (None, true) => Plan::waiting(vec![Step::RemoveFinalizer], Wait::Deleting),
        (None, false) => Plan {
            steps,
            verdict: Verdict::Ready,
            workload: false,
            connect: None,
        },
    }
}
