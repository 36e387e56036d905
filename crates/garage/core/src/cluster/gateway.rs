//! What a gateway cluster needs next: identities, then roles, then pods. May not touch the nodes that
//! store.
//!
//! A gateway stores nothing and still has an identity that outlives its pods: a key per *slot*, made
//! by us. The role of each slot is in the layout before a pod may use its key, so a pod that is
//! replaced changes nothing there. When slots go, their roles go first, while their nodes are alive to
//! confirm the new layout: a node that dies with its role leaves a layout that never settles.
//!
//! Pods come a few at a time. Whenever a node learns something about the layout it tells every other, and each
//! of them computes the layout anew: fifty that come at once keep those busy that serve, until these lose each
//! other.

use super::observed::{Facts, Pod, TargetSeen};
use super::{
    Desired, Garage, Observed, Plan, Refusal, Step, Target, Verdict, Wait, WorkloadWanted, carry,
};
use crate::cluster::DEFAULT_ZONE;
use crate::identity::{NodeId, Peer};
use crate::layout::{self, History, Move, Role, Wanted};
use std::collections::{BTreeMap, BTreeSet};

/// How many pods more than are ready the Deployment grows to.
pub(super) const COMING: u32 = 8;

pub(super) fn plan(desired: &Desired, target: &Target, seen: &Observed) -> Plan {
    if desired.absent {
        return absent(desired, target, seen);
    }
    let (factor, peers) = match storage(desired, target, seen) {
        Ok(storage) => storage,
        Err(plan) => return *plan,
    };
    let mut steps = Vec::new();
    if !seen.finalizer {
        steps.push(Step::AddFinalizer);
    }
    if let Some(why) = &seen.bad_secret {
        return Plan::refused(Refusal::BadSecret(why.clone()));
    }
    if !seen.bad_keys.is_empty() {
        return Plan::refused(Refusal::BadKeys(seen.bad_keys.clone()));
    }
    let wanted_slots: BTreeSet<u32> = (0..desired.replicas).collect();
    let missing: BTreeSet<u32> = wanted_slots
        .iter()
        .filter(|slot| !seen.keys.contains_key(slot))
        .copied()
        .collect();
    if !seen.rpc_secret {
        steps.push(Step::MirrorRpcSecret);
    }
    if !seen.admin_token && !desired.own_admin_token {
        steps.push(Step::MintAdminToken);
    }
    if !missing.is_empty() {
        steps.push(Step::MintKeys(missing));
    }
    if !steps.is_empty() {
        return Plan::waiting(steps, Wait::Secrets);
    }
    // From here on everything that a node needs to start is there.
    let mut gateway = Gateway {
        desired,
        seen,
        wanted_slots,
        steps,
    };
    let facts = match &seen.garage {
        Garage::Reached(facts) => facts,
        Garage::Unreachable(why) => {
            // Pods that run go on running, and a pod that is replaced gets its slot back: the layout
            // as it was last seen is in the workload's size.
            let replicas = seen.workload.map(|workload| workload.replicas);
            let known: BTreeSet<u32> = (0..replicas.unwrap_or(0)).collect();
            gateway.assign(&known);
            return Plan {
                workload: replicas.map(|replicas| WorkloadWanted {
                    replicas,
                    factor,
                    peers,
                }),
                steps: gateway.steps,
                verdict: Verdict::Waiting(Wait::StorageUnreachable(why.clone())),
            };
        }
    };
    let factor = match (facts.factor, target) {
        (Some(storage), Target::External(_)) => storage,
        _ => factor,
    };
    let (replicas, wait) = gateway.converge(facts);
    Plan {
        workload: (replicas > 0 || seen.workload.is_some()).then_some(WorkloadWanted {
            replicas,
            factor,
            peers,
        }),
        steps: gateway.steps,
        verdict: wait.map_or(Verdict::Ready, Verdict::Waiting),
    }
}

/// The factor and the peers of the storage cluster, or why there is nothing to begin with.
fn storage(
    desired: &Desired,
    target: &Target,
    seen: &Observed,
) -> Result<(u32, Vec<Peer>), Box<Plan>> {
    let factor = |storage: u32| match desired.factor {
        Some(asked) if asked != storage => Err(Box::new(Plan::refused(Refusal::FactorMismatch {
            asked,
            storage,
        }))),
        Some(_) | None => Ok(storage),
    };
    match target {
        Target::External(external) => {
            let read = seen.garage.facts().and_then(|facts| facts.factor);
            let factor = match (read, desired.factor) {
                (Some(storage), _) => factor(storage)?,
                (None, Some(asked)) => asked,
                (None, None) => match &seen.garage {
                    Garage::Reached(_) => {
                        return Err(Box::new(Plan::refused(Refusal::FactorUnknown)));
                    }
                    Garage::Unreachable(why) => {
                        let wait = Wait::StorageUnreachable(why.clone());
                        return Err(Box::new(Plan::waiting(Vec::new(), wait)));
                    }
                },
            };
            Ok((factor, external.peers.clone()))
        }
        Target::Cluster(key) => match &seen.target {
            TargetSeen::Found(storage) => {
                let factor = factor(storage.factor)?;
                if !storage.secrets || storage.peers.is_empty() {
                    let wait = Wait::StorageStarting(key.clone());
                    return Err(Box::new(Plan::waiting(Vec::new(), wait)));
                }
                Ok((factor, storage.peers.clone()))
            }
            TargetSeen::NotStorage => {
                Err(Box::new(Plan::refused(Refusal::NotStorage(key.clone()))))
            }
            TargetSeen::NotGranted => {
                Err(Box::new(Plan::refused(Refusal::NotGranted(key.clone()))))
            }
            TargetSeen::OutOfReach => {
                Err(Box::new(Plan::refused(Refusal::OutOfReach(key.clone()))))
            }
            TargetSeen::Missing | TargetSeen::None => {
                let wait = Wait::StorageMissing(key.clone());
                Err(Box::new(Plan::waiting(Vec::new(), wait)))
            }
        },
    }
}

/// The end: roles go while their nodes live, then the pods may.
fn absent(desired: &Desired, target: &Target, seen: &Observed) -> Plan {
    if !seen.finalizer {
        return Plan::waiting(Vec::new(), Wait::Deleting);
    }
    let done = || Plan::waiting(vec![Step::RemoveFinalizer], Wait::Deleting);
    // Then the storage cluster goes too, or is gone: nobody is left whose layout could be kept clean.
    let storage_ends = match &seen.target {
        TargetSeen::Missing | TargetSeen::NotStorage => true,
        TargetSeen::None
        | TargetSeen::NotGranted
        | TargetSeen::OutOfReach
        | TargetSeen::Found(_) => false,
    };
    let together = match target {
        Target::Cluster(key) => key.namespace == desired.key.namespace,
        Target::External(_) => false,
    };
    let storage_ends =
        storage_ends || seen.namespace_ends && (together || seen.garage.facts().is_none());
    if storage_ends || (seen.keys.is_empty() && seen.former.is_empty()) {
        return done();
    }
    let Some(facts) = seen.garage.facts() else {
        let why = match &seen.garage {
            Garage::Unreachable(why) => why.clone(),
            Garage::Reached(_) => String::new(),
        };
        return Plan::waiting(Vec::new(), Wait::StorageUnreachable(why));
    };
    let wanted = Wanted {
        tag: layout::owner_tag(&desired.uid),
        roles: BTreeMap::new(),
        redundancy: None,
        own: own(seen),
        kin: seen.kin.clone(),
    };
    // A version that never was has no roles of ours.
    if facts.layout.version == 0 {
        return done();
    }
    match layout::next(&wanted, &facts.layout) {
        Move::Settled => done(),
        // Only our own nodes keep a cluster that is to go; others confirm without it.
        Move::Settling(history) if !keeps(&history, &wanted.own, &facts.layout.up) => done(),
        Move::Settling(history) => {
            // The ReplicaSet's next pods wait for a slot, and get none.
            let hung = hung(facts);
            let hangs = |pod: &&Pod| {
                let node = pod.slot.and_then(|slot| seen.keys.get(&slot));
                !pod.terminating && node.is_some_and(|node| hung.contains(node))
            };
            let end = seen.pods.iter().filter(hangs).map(|pod| Step::HurryPod {
                pod: pod.name.clone(),
            });
            Plan::waiting(end.collect(), Wait::Settling(history))
        }
        movement => match carry(desired, facts.layout.version, movement) {
            Ok(step) => Plan::waiting(vec![step], Wait::Deleting),
            Err(wait) => Plan::waiting(Vec::new(), wait),
        },
    }
}

/// Whether one of these gateways has something left to do. One that is dead cannot pass on what it has
/// read, and stores nothing.
fn keeps(history: &History, own: &BTreeSet<NodeId>, up: &BTreeSet<NodeId>) -> bool {
    let mut waited_for = history.behind.intersection(own);
    waited_for.any(|node| !history.confirmed || up.contains(node))
}

/// Nodes that have not confirmed a version which every storage node has confirmed, for longer than they
/// need: they hang, or are so many that they keep each other busy. One of them that leaves stores nothing
/// and is ended, for a node that has ended can be skipped.
fn hung(facts: &Facts) -> BTreeSet<NodeId> {
    let history = facts.layout.history.as_ref();
    let Some(history) = history.filter(|history| history.overdue && !history.confirmed) else {
        return BTreeSet::new();
    };
    let stores = |node: &NodeId| {
        let role = facts.layout.roles.get(node);
        role.is_some_and(|role| role.capacity.is_some())
    };
    match history.behind.iter().any(stores) {
        true => BTreeSet::new(),
        false => history.behind.clone(),
    }
}

/// Every node that is or was one of ours.
fn own(seen: &Observed) -> BTreeSet<NodeId> {
    seen.keys.values().chain(&seen.former).copied().collect()
}

struct Gateway<'a> {
    desired: &'a Desired,
    seen: &'a Observed,
    wanted_slots: BTreeSet<u32>,
    steps: Vec<Step>,
}

impl Gateway<'_> {
    /// Adds the steps; returns how many pods there should be now, and what is waited for.
    fn converge(&mut self, facts: &Facts) -> (u32, Option<Wait>) {
        let zone = match &self.desired.zone {
            Some(zone) => zone.clone(),
            None => storage_zone(facts),
        };
        let role = |slot: u32| Role {
            zone: zone.clone(),
            capacity: None,
            tags: self.desired.role_tags(slot),
        };
        let roles: BTreeMap<NodeId, Role> = self
            .wanted_slots
            .iter()
            .filter_map(|slot| Some((*self.seen.keys.get(slot)?, role(*slot))))
            .collect();
        let wanted = Wanted {
            tag: layout::owner_tag(&self.desired.uid),
            roles,
            redundancy: None,
            own: own(self.seen),
            kin: self.seen.kin.clone(),
        };
        let leaving: BTreeSet<u32> = self
            .seen
            .keys
            .keys()
            .filter(|slot| !self.wanted_slots.contains(slot))
            .copied()
            .collect();
        let movement = layout::next(&wanted, &facts.layout);
        let (movement, released) = self.change(facts, movement, &leaving);
        let joined: BTreeSet<u32> = self
            .wanted_slots
            .iter()
            .filter(|slot| self.in_layout(facts, **slot))
            .copied()
            .collect();
        self.assign(&joined);
        self.connect(facts);
        self.sync(facts, &joined);
        let marked = self.mark(&released);
        let staying = self.alive(&leaving.difference(&marked).copied().collect());
        let replicas = self.paced(u32::try_from(joined.len()).unwrap_or(u32::MAX) + staying);
        self.end(&marked, replicas);
        self.forget(&released);
        let wait = self.wait(facts, &joined, &leaving, movement, replicas);
        (replicas, wait)
    }

    /// As many of `replicas` as are there, or may come now. Pods that are not ready any more keep their place.
    fn paced(&self, replicas: u32) -> u32 {
        let there = self.seen.workload.map_or(0, |workload| workload.replicas);
        replicas.min(there.max(self.seen.ready().saturating_add(COMING)))
    }

    /// One step towards the layout that is wanted. What is waited for, and which of the slots that leave need
    /// their pods no more.
    fn change(
        &mut self,
        facts: &Facts,
        movement: Move,
        leaving: &BTreeSet<u32>,
    ) -> (Option<Wait>, BTreeSet<u32>) {
        let version = facts.layout.version;
        if version == 0 {
            // The storage nodes come first: a layout of gateways alone stores nothing.
            return (Some(Wait::Layout), BTreeSet::new());
        }
        let (up, least) = (facts.connected(), self.desired.least_healthy);
        if matches!(movement, Move::Stage(..) | Move::Apply(_)) && up < least {
            return (Some(Wait::TooFewHealthy { up, least }), BTreeSet::new());
        }
        // Users' requests leave a node before its role does, and not before that is certain: a change
        // may wait for a person for days, or be refused.
        let certain = match &movement {
            Move::Apply(next) => self.desired.may_apply(*next),
            Move::Settled | Move::Settling(_) | Move::SkipDead(_) => true,
            Move::Stage(..)
            | Move::Revert
            | Move::Preview
            | Move::Blocked(_)
            | Move::Foreign(_)
            | Move::Yield => false,
        };
        let prepared = certain && self.prepare_leaving(leaving);
        if certain && !prepared {
            return (None, BTreeSet::new());
        }
        // Until a version has settled, keys and buckets are read from a quorum of the former one, so those that
        // answer are kept.
        match movement {
            Move::Settled => return (None, leaving.clone()),
            Move::Settling(_) | Move::SkipDead(_) => self.hurry(facts, leaving),
            Move::Stage(..)
            | Move::Revert
            | Move::Preview
            | Move::Apply(_)
            | Move::Blocked(_)
            | Move::Foreign(_)
            | Move::Yield => {}
        }
        match carry(self.desired, version, movement) {
            Ok(step) => {
                self.steps.push(step);
                (Some(Wait::Layout), BTreeSet::new())
            }
            Err(wait) => (Some(wait), BTreeSet::new()),
        }
    }

    /// Ends the nodes that leave and hang.
    fn hurry(&mut self, facts: &Facts, leaving: &BTreeSet<u32>) {
        let hung = hung(facts);
        for slot in leaving {
            let node = self.seen.keys.get(slot);
            let pod = self.seen.pods.iter().find(|pod| pod.holds(*slot));
            if let Some(pod) = pod.filter(|pod| !pod.terminating)
                && node.is_some_and(|node| hung.contains(node))
            {
                self.steps.push(Step::HurryPod {
                    pod: pod.name.clone(),
                });
            }
        }
    }

    /// Marks the pods of these slots as those that go first; which of them are.
    fn mark(&mut self, released: &BTreeSet<u32>) -> BTreeSet<u32> {
        let mut marked = released.clone();
        for slot in released {
            if let Some(pod) = self
                .seen
                .pods
                .iter()
                .find(|pod| pod.holds(*slot) && !pod.leaving)
            {
                self.steps.push(Step::MarkLeaving {
                    pod: pod.name.clone(),
                });
                marked.remove(slot);
            }
        }
        marked
    }

    fn in_layout(&self, facts: &Facts, slot: u32) -> bool {
        let node = self.seen.keys.get(&slot);
        node.is_some_and(|node| facts.layout.roles.contains_key(node))
    }

    fn pod_of(&self, slot: u32) -> Option<&Pod> {
        self.seen.pods.iter().find(|pod| pod.holds(slot))
    }

    /// How many of these slots have a pod that is not about to end.
    fn alive(&self, slots: &BTreeSet<u32>) -> u32 {
        let ends = |pod: &Pod| {
            let name = &pod.name;
            let hurries = |step: &Step| matches!(step, Step::HurryPod { pod } if pod == name);
            pod.terminating || self.steps.iter().any(hurries)
        };
        let alive = slots
            .iter()
            .filter(|slot| self.pod_of(**slot).is_some_and(|pod| !ends(pod)));
        u32::try_from(alive.count()).unwrap_or(u32::MAX)
    }

    /// Takes the pods of slots that go out of service; `true` when they all are.
    fn prepare_leaving(&mut self, leaving: &BTreeSet<u32>) -> bool {
        let mut prepared = true;
        for pod in leaving
            .iter()
            .filter_map(|slot| self.seen.pods.iter().find(|pod| pod.holds(*slot)))
        {
            if pod.synced {
                self.steps.push(Step::SetSynced {
                    pod: pod.name.clone(),
                    synced: false,
                });
                prepared = false;
            }
        }
        prepared
    }

    /// Gives waiting pods the slots that nobody holds.
    fn assign(&mut self, slots: &BTreeSet<u32>) {
        let mut free = slots.iter().filter(|slot| {
            let held = self.seen.pods.iter().any(|pod| pod.holds(**slot));
            !held && self.seen.keys.contains_key(slot)
        });
        let waiting = self
            .seen
            .pods
            .iter()
            .filter(|pod| pod.gated && pod.slot.is_none() && !pod.terminating && !pod.finished);
        for (pod, slot) in waiting.zip(&mut free) {
            self.steps.push(Step::AssignSlot {
                pod: pod.name.clone(),
                slot: *slot,
            });
        }
        // The slot was written, the gate not yet lifted: a process ended in between.
        let half = self
            .seen
            .pods
            .iter()
            .filter(|pod| pod.gated && !pod.terminating);
        for (pod, slot) in half.filter_map(|pod| Some((pod, pod.slot?))) {
            self.steps.push(Step::AssignSlot {
                pod: pod.name.clone(),
                slot,
            });
        }
    }

    /// A node that starts dials its peers once and then waits; the other side need not.
    fn connect(&mut self, facts: &Facts) {
        let apart = self
            .seen
            .pods
            .iter()
            .filter(|pod| pod.running && !pod.terminating);
        let peers: Vec<Peer> = apart
            .filter_map(|pod| {
                let id = *self.seen.keys.get(&pod.slot?)?;
                let up = facts.nodes.get(&id).is_some_and(|node| node.up);
                let (host, port) = (pod.ip?.to_string(), self.desired.rpc_port);
                (!up).then_some(Peer { id, host, port })
            })
            .collect();
        if !peers.is_empty() {
            self.steps.push(Step::Connect(peers));
        }
    }

    /// Lets a node serve once it knows every key and bucket that the storage nodes know.
    fn sync(&mut self, facts: &Facts, joined: &BTreeSet<u32>) {
        let full = facts.answered.and_then(|node| facts.tables.get(&node));
        for slot in joined {
            let Some(node) = self.seen.keys.get(slot) else {
                continue;
            };
            let Some(pod) = self.pod_of(*slot) else {
                continue;
            };
            let up = facts.nodes.get(node).is_some_and(|node| node.up);
            // It can do nothing for its users, and while it serves the Deployment waits for its turn. One
            // that is connected has the secret that storage has, whatever the object says.
            if pod.severed && pod.synced && !pod.terminating && !up {
                let pod = pod.name.clone();
                self.steps.push(Step::SetSynced { pod, synced: false });
                continue;
            }
            if pod.synced || pod.terminating || !pod.running || !up {
                continue;
            }
            let (Some(full), Some(own)) = (full, facts.tables.get(node)) else {
                continue;
            };
            // Garage fills them by itself, every ten seconds; asking it to repair them is no faster.
            if own.covers(full) {
                self.steps.push(Step::SetSynced {
                    pod: pod.name.clone(),
                    synced: true,
                });
            }
        }
    }

    /// Pods of these slots go with the Deployment's replicas.
    fn end(&mut self, slots: &BTreeSet<u32>, replicas: u32) {
        let shrunk = self
            .seen
            .workload
            .is_some_and(|workload| workload.observed && workload.replicas == replicas);
        if !shrunk {
            return;
        }
        for pod in slots
            .iter()
            .filter_map(|slot| self.seen.pods.iter().find(|pod| pod.holds(*slot)))
        {
            // The ReplicaSet chose another pod to go; that one's slot waits for this pod's place.
            if !pod.terminating {
                self.steps.push(Step::DeletePod {
                    pod: pod.name.clone(),
                });
            }
        }
    }

    /// Nobody relies on these slots: their keys go with their pods.
    fn forget(&mut self, slots: &BTreeSet<u32>) {
        let done: BTreeSet<u32> = slots
            .iter()
            .filter(|slot| self.pod_of(**slot).is_none())
            .copied()
            .collect();
        if !done.is_empty() {
            self.steps.push(Step::DropKeys(done));
        }
    }

    fn wait(
        &self,
        facts: &Facts,
        joined: &BTreeSet<u32>,
        leaving: &BTreeSet<u32>,
        movement: Option<Wait>,
        replicas: u32,
    ) -> Option<Wait> {
        // Nodes that move to a new layout serve meanwhile; the others come first.
        let (layout, settling) = match movement {
            Some(Wait::Settling(history)) => (None, Some(Wait::Settling(history))),
            other => (other, None),
        };
        if layout.is_some() {
            return layout;
        }
        if !leaving.is_empty() {
            return Some(Wait::Leaving(leaving.clone()));
        }
        let ready = self.seen.ready();
        let rolled = self
            .seen
            .pods
            .iter()
            .filter(|pod| pod.outdated && !pod.finished)
            .count();
        let outdated = u32::try_from(rolled).unwrap_or(u32::MAX);
        if outdated > 0 {
            return Some(Wait::Rollout { outdated });
        }
        let unobserved = self
            .seen
            .workload
            .is_none_or(|w| !w.observed || w.replicas != replicas);
        if unobserved || ready != self.desired.replicas {
            return Some(Wait::Pods {
                ready,
                replicas: self.desired.replicas,
            });
        }
        let down: BTreeSet<u32> = joined
            .iter()
            .filter(|slot| {
                let node = self.seen.keys.get(slot);
                !node
                    .and_then(|node| facts.nodes.get(node))
                    .is_some_and(|node| node.up)
            })
            .copied()
            .collect();
        if !down.is_empty() {
            return Some(Wait::Nodes(down));
        }
        settling
    }
}

/// The zone in which most storage nodes are: there a gateway never asks for a further zone. Garage
/// spreads copies over all zones it knows, and refuses a layout with more of them than storage fills.
fn storage_zone(facts: &Facts) -> String {
    let mut nodes: BTreeMap<&str, usize> = BTreeMap::new();
    for role in facts
        .layout
        .roles
        .values()
        .filter(|role| role.capacity.is_some())
    {
        *nodes.entry(&role.zone).or_default() += 1;
    }
    // The first of the largest, in alphabetical order.
    let most = nodes.iter().rev().max_by_key(|(_, count)| **count);
    most.map_or_else(|| DEFAULT_ZONE.to_owned(), |(zone, _)| (*zone).to_owned())
}
