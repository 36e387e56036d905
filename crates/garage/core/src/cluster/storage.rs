//! What a storage cluster needs next: identities, pods, then roles; and one node at a time when pods
//! have to be replaced. May not give a gateway a role.

use super::growth::promise;
use super::observed::{Claim, Facts, Pod};
use super::{Desired, Garage, Observed, Plan, Refusal, Step, Verdict, Wait, WorkloadWanted, carry};
use crate::cluster::DEFAULT_ZONE;
use crate::identity::{NodeId, Peer};
use crate::layout::{self, Move, Role, Wanted};
use crate::objects::volumes;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn plan(desired: &Desired, seen: &Observed) -> Plan {
    if desired.absent {
        return absent(desired, seen);
    }
    if let Some(why) = &seen.bad_secret {
        return Plan::refused(Refusal::BadSecret(why.clone()));
    }
    if !seen.bad_keys.is_empty() {
        return Plan::refused(Refusal::BadKeys(seen.bad_keys.clone()));
    }
    // With the manual layout every node is a GarageNode's.
    let own = if desired.manual_layout {
        0
    } else {
        desired.replicas
    };
    let slots: BTreeSet<u32> = (0..own).collect();
    let missing: BTreeSet<u32> = slots
        .iter()
        .filter(|slot| !seen.keys.contains_key(slot))
        .copied()
        .collect();
    let mut steps = Vec::new();
    if !seen.finalizer {
        steps.push(Step::AddFinalizer);
    }
    if !seen.rpc_secret && !desired.own_rpc_secret {
        steps.push(Step::MintRpcSecret);
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
    let mut storage = Storing {
        desired,
        seen,
        slots,
        steps,
    };
    let (replicas, wait) = match &seen.garage {
        Garage::Reached(facts) => storage.converge(facts),
        Garage::Unreachable(_) => storage.without_garage(),
    };
    Plan {
        workload: Some(WorkloadWanted {
            replicas,
            factor: desired.storage_factor(),
            peers: storage.peers(),
        }),
        steps: storage.steps,
        verdict: wait.map_or(Verdict::Ready, Verdict::Waiting),
    }
}

/// The end: held while gateways use the cluster, or have roles in a layout that outlives it. Kubernetes
/// removes what is inside it; data outlives it by the claims' policy.
fn absent(desired: &Desired, seen: &Observed) -> Plan {
    if !seen.finalizer {
        return Plan::waiting(Vec::new(), Wait::Deleting);
    }
    let cleaned = desired.data_outlives && seen.garage.facts().is_some();
    let held = match () {
        () if seen.namespace_ends => None,
        () if !seen.attached.is_empty() => Some(Wait::GatewaysAttached(seen.attached.clone())),
        () if cleaned && !seen.departing.is_empty() => {
            Some(Wait::GatewaysDeparting(seen.departing.clone()))
        }
        () => None,
    };
    match held {
        Some(wait) => Plan::waiting(Vec::new(), wait),
        None => Plan::waiting(vec![Step::RemoveFinalizer], Wait::Deleting),
    }
}

struct Storing<'a> {
    desired: &'a Desired,
    seen: &'a Observed,
    slots: BTreeSet<u32>,
    steps: Vec<Step>,
}

impl Storing<'_> {
    /// Every node that has a key, by an address that outlives its pod; hints for starting nodes.
    fn peers(&self) -> Vec<Peer> {
        let key = &self.desired.key;
        let peer = |(slot, node): (&u32, &NodeId)| {
            let host = format!("{0}-{slot}.{0}-headless.{1}.svc", key.name, key.namespace);
            Peer {
                id: *node,
                host,
                port: self.desired.rpc_port,
            }
        };
        self.seen.keys.iter().map(peer).collect()
    }

    /// How many pods are the cluster's own.
    fn own(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    fn pod_of(&self, slot: u32) -> Option<&Pod> {
        self.seen.pods.iter().find(|pod| pod.holds(slot))
    }

    /// Pods that are to be there: all that are asked for, and those that hold data until it is
    /// elsewhere.
    fn without_garage(&mut self) -> (u32, Option<Wait>) {
        let present = self.seen.workload.map_or(0, |workload| workload.replicas);
        let severed = self.replace(None).filter(is_about_secret);
        let unready: BTreeSet<u32> = self
            .slots
            .iter()
            .filter(|slot| !self.pod_of(**slot).is_some_and(|pod| pod.ready))
            .copied()
            .collect();
        let wait = match &self.seen.garage {
            Garage::Unreachable(why) if unready.is_empty() => Wait::StorageUnreachable(why.clone()),
            Garage::Unreachable(_) | Garage::Reached(_) => Wait::Nodes(unready),
        };
        (self.own().max(present), Some(severed.unwrap_or(wait)))
    }

    fn converge(&mut self, facts: &Facts) -> (u32, Option<Wait>) {
        let is_up = |node: &NodeId| facts.nodes.get(node).is_some_and(|node| node.up);
        self.connect(facts);
        let leaving: BTreeSet<u32> = self
            .seen
            .keys
            .keys()
            .filter(|slot| !self.slots.contains(slot))
            .copied()
            .collect();
        let down: BTreeSet<u32> = self
            .slots
            .iter()
            .filter(|slot| !self.seen.keys.get(slot).is_some_and(is_up))
            .copied()
            .collect();
        let (layout, settled) = self.layout(facts, &down);
        let keep = match leaving.last() {
            Some(last) if !settled => self.own().max(last + 1),
            _ => self.own(),
        };
        // Never fewer than there are, until the layout says that nothing lies there.
        let present = self.seen.workload.map_or(0, |workload| workload.replicas);
        let replicas = if settled { keep } else { keep.max(present) };
        if settled {
            let ended = |slot: &&u32| self.pod_of(**slot).is_none();
            let gone: BTreeSet<u32> = leaving.iter().filter(ended).copied().collect();
            if !gone.is_empty() {
                self.steps.push(Step::DropKeys(gone));
            }
        }
        let growing = self.grow();
        let rollout = self.replace(Some(facts));
        // What is first in this list is what a person would ask about first.
        let (blocked, settling) = match layout {
            Some(Wait::Settling(history)) => (None, Some(Wait::Settling(history))),
            other => (other, None),
        };
        let moving = (!leaving.is_empty()).then_some(Wait::Leaving(leaving));
        let down = (!down.is_empty()).then_some(Wait::Nodes(down));
        let waits = match blocked {
            Some(Wait::Layout) => [down, Some(Wait::Layout)],
            other => [other, down],
        };
        let first = waits.into_iter().flatten().next();
        let pods = self.pods(replicas);
        // All else follows from a changed secret.
        let (severed, rollout) = match rollout {
            Some(wait) if is_about_secret(&wait) => (Some(wait), None),
            other => (None, other),
        };
        let wait = severed
            .or(first)
            .or(rollout)
            .or(moving)
            .or(growing)
            .or(pods)
            .or(settling);
        (replicas, wait)
    }

    fn connect(&mut self, facts: &Facts) {
        let running = self
            .seen
            .pods
            .iter()
            .filter(|pod| pod.running && !pod.terminating);
        let peers: Vec<Peer> = running
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

    /// What the layout waits for, and whether it is as wanted with nothing left elsewhere.
    fn layout(&mut self, facts: &Facts, down: &BTreeSet<u32>) -> (Option<Wait>, bool) {
        if self.desired.manual_layout {
            return (None, true);
        }
        let tag = layout::owner_tag(&self.desired.uid);
        let zone = self.desired.zone.as_deref().unwrap_or(DEFAULT_ZONE);
        let current = &facts.layout.roles;
        let role = |slot: u32, node: &NodeId| Role {
            zone: zone.to_owned(),
            capacity: self.capacity(slot, current.get(node)),
            tags: self.desired.role_tags(slot),
        };
        // A node joins once it runs, all new ones in one version: data is not promised to a node that
        // is not there, and each version moves data.
        let joining = self.slots.iter().any(|slot| {
            let node = self.seen.keys.get(slot);
            down.contains(slot) && !node.is_some_and(|node| current.contains_key(node))
        });
        if joining {
            return (Some(Wait::Layout), false);
        }
        let roles: BTreeMap<NodeId, Role> = self
            .slots
            .iter()
            .filter_map(|slot| Some((slot, *self.seen.keys.get(slot)?)))
            .map(|(slot, node)| (node, role(*slot, &node)))
            .collect();
        let wanted = Wanted {
            tag,
            roles,
            redundancy: self.desired.redundancy,
            own: self.seen.keys.values().copied().collect(),
            kin: self.seen.kin.clone(),
        };
        let movement = layout::next(&wanted, &facts.layout);
        match &movement {
            Move::Settled => return (None, true),
            Move::Stage(..) | Move::Apply(_) => {
                let (up, least) = (facts.connected(), self.desired.least_healthy);
                if up < least {
                    return (Some(Wait::TooFewHealthy { up, least }), false);
                }
            }
            Move::Settling(_)
            | Move::Revert
            | Move::SkipDead(_)
            | Move::Preview
            | Move::Blocked(_)
            | Move::Foreign(_)
            | Move::Yield => {}
        }
        match carry(self.desired, facts.layout.version, movement) {
            Ok(step) => {
                self.steps.push(step);
                (Some(Wait::Layout), false)
            }
            Err(wait) => (Some(wait), false),
        }
    }

    /// Replaces outdated pods, one at a time and only while every piece has all its copies.
    fn replace(&mut self, facts: Option<&Facts>) -> Option<Wait> {
        let outdated: Vec<&Pod> = self
            .seen
            .pods
            .iter()
            .filter(|pod| pod.outdated && !pod.finished)
            .collect();
        let count = u32::try_from(outdated.len()).unwrap_or(u32::MAX);
        if count == 0 {
            return None;
        }
        let observed = self.seen.workload.is_some_and(|workload| workload.observed);
        // One at a time would end with the first: it could not join the others, and they would wait for it
        // for ever. Nor can the old secret be kept: each container that restarts comes back with the new
        // one. So the cluster is away for as long as its pods take to start, once.
        let severed: Vec<&Pod> = outdated.iter().copied().filter(|pod| pod.severed).collect();
        if !severed.is_empty() && observed {
            let ending = severed.iter().filter(|pod| !pod.terminating);
            let steps = ending.map(|pod| Step::DeletePod {
                pod: pod.name.clone(),
            });
            self.steps.extend(steps);
            let pods = u32::try_from(severed.len()).unwrap_or(u32::MAX);
            return Some(Wait::RpcSecret { pods });
        }
        // A pod that does not serve costs nothing to replace, and may be the reason for the change.
        if let Some(broken) = outdated.iter().find(|pod| !pod.ready && !pod.terminating)
            && observed
        {
            self.steps.push(Step::DeletePod {
                pod: broken.name.clone(),
            });
            return Some(Wait::Rollout { outdated: count });
        }
        let slots_ready = self.slots.iter().all(|slot| {
            self.pod_of(*slot)
                .is_some_and(|pod| pod.ready && !pod.terminating)
        });
        let Some(health) = facts.and_then(|facts| facts.health.as_ref()) else {
            return Some(Wait::Rollout { outdated: count });
        };
        if health.partitions_all_ok < health.partitions {
            return Some(Wait::Rebalancing {
                complete: health.partitions_all_ok,
                partitions: health.partitions,
            });
        }
        if slots_ready && observed && health.storage_nodes_up == health.storage_nodes {
            // The last one first, as a StatefulSet does it.
            let next = outdated.iter().max_by_key(|pod| pod.slot);
            if let Some(next) = next {
                self.steps.push(Step::DeletePod {
                    pod: next.name.clone(),
                });
            }
        }
        Some(Wait::Rollout { outdated: count })
    }

    /// The claims of nodes that stay, each with the size that it is to have.
    fn claims(&self) -> impl Iterator<Item = (&Claim, &u64)> {
        let own = self.seen.claims.iter();
        own.filter(|claim| self.slots.contains(&claim.slot))
            .filter_map(|claim| Some((claim, self.desired.claims.get(&claim.template)?)))
    }

    /// What the node of a slot may promise now.
    fn capacity(&self, slot: u32, role: Option<&Role>) -> Option<u64> {
        let wanted = self.desired.capacity?;
        let growing = self.claims().any(|(claim, bytes)| {
            self.desired.shares.contains_key(&claim.template) && claim.grows_to(*bytes)
        });
        let room = |(template, share): (&String, &u64)| {
            let is = |claim: &&Claim| claim.slot == slot && claim.template == *template;
            // Without a volume its node does not run, and no role is due.
            let claim = self.seen.claims.iter().find(is);
            let room = claim.map(|claim| claim.room).filter(|room| *room > 0);
            room.map_or(*share, |room| room.min(*share))
        };
        let rooms = self.desired.shares.iter().map(room);
        let room = volumes::offered(rooms, self.desired.reserve_percent);
        let present = role.and_then(|role| role.capacity);
        Some(promise(wanted, present, growing, room))
    }

    /// Claims are never made smaller: the admission rules see to that.
    fn grow(&mut self) -> Option<Wait> {
        let mut growing = false;
        let mut steps = Vec::new();
        for (claim, bytes) in self.claims() {
            growing |= claim.grows_to(*bytes);
            if claim.bytes < *bytes {
                growing = true;
                steps.push(Step::GrowClaim {
                    claim: claim.name.clone(),
                    bytes: *bytes,
                });
            }
        }
        self.steps.extend(steps);
        if self
            .seen
            .workload
            .is_some_and(|workload| !workload.claims_match)
        {
            growing = true;
            self.steps.push(Step::OrphanWorkload);
        }
        growing.then_some(Wait::Growing)
    }

    fn pods(&self, replicas: u32) -> Option<Wait> {
        if self.desired.manual_layout {
            return None;
        }
        let unobserved = self
            .seen
            .workload
            .is_none_or(|workload| !workload.observed || workload.replicas != replicas);
        let ready = self.seen.ready();
        (unobserved || ready != replicas).then_some(Wait::Pods { ready, replicas })
    }
}

fn is_about_secret(wait: &Wait) -> bool {
    matches!(wait, Wait::RpcSecret { .. })
}
