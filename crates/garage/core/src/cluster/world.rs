//! A small model of Kubernetes and Garage for the tests of the planner: it carries steps out, starts
//! pods and lets layouts settle, with the rules that were measured on the real ones. It may be
//! interrupted after any step.

use super::*;
use crate::layout::{self, Role, owner_tag};
use std::collections::{BTreeMap, BTreeSet};

mod gateways;
mod stores;

use stores::public;

pub(super) fn node(n: u32) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    NodeId(bytes)
}

pub(super) fn storage(replicas: u32) -> Desired {
    Desired {
        key: ClusterKey {
            namespace: "ns".into(),
            name: "garage-storage".into(),
        },
        uid: "uid-s".into(),
        absent: false,
        mode: Mode::Storage,
        replicas,
        zone: None,
        capacity: Some(100 << 30),
        shares: [("data".to_owned(), 100 << 30)].into(),
        reserve_percent: 0,
        tags: BTreeSet::new(),
        factor: None,
        redundancy: None,
        manual_layout: false,
        auto_apply: true,
        approved: None,
        least_healthy: 0,
        claims: [("data".to_owned(), 100 << 30)].into(),
        data_outlives: true,
        budget: true,
        public_services: false,
        own_rpc_secret: false,
        own_admin_token: false,
        rpc_port: 3901,
    }
}

pub(super) fn gateway(replicas: u32) -> Desired {
    let storage = storage(3);
    Desired {
        key: ClusterKey {
            namespace: "ns".into(),
            name: "garage-gateway".into(),
        },
        uid: "uid-g".into(),
        mode: Mode::Gateway(Target::Cluster(storage.key.clone())),
        capacity: None,
        shares: BTreeMap::new(),
        claims: BTreeMap::new(),
        replicas,
        ..storage
    }
}

/// Where a process may die.
pub(super) type Crash<'a> = &'a mut dyn FnMut(&Step) -> bool;

pub(super) struct World {
    pub(super) seen: Observed,
    /// Layout versions that were applied.
    pub(super) applied: u32,
    pods_made: u32,
    /// First id of new keys.
    next_key: u32,
    /// Nodes that must confirm before old versions end.
    relied_on: BTreeSet<NodeId>,
    /// Nodes that live and confirm nothing.
    pub(super) hung: BTreeSet<NodeId>,
    /// Volumes stay as they are, whatever is asked for.
    frozen: bool,
    pub(super) finished: bool,
}

impl World {
    /// A storage cluster of three nodes with a layout, and nothing of a gateway yet.
    pub(super) fn with_storage() -> Self {
        let mut facts = Facts::default();
        for n in 900..903 {
            let role = Role {
                zone: "default".into(),
                capacity: Some(1 << 30),
                tags: [owner_tag("uid-s")].into(),
            };
            facts.layout.roles.insert(node(n), role);
            facts.layout.up.insert(node(n));
            facts.nodes.insert(
                node(n),
                Node {
                    up: true,
                    ..Node::default()
                },
            );
        }
        facts.layout.version = 1;
        facts.answered = Some(node(900));
        let full = TableFill {
            keys: 2,
            buckets: 3,
            aliases: 3,
        };
        facts.tables.insert(node(900), full);
        let peers = (900..903)
            .map(|n| Peer {
                id: node(n),
                host: format!("garage-storage-{}.garage-storage-headless.ns.svc", n - 900),
                port: 3901,
            })
            .collect();
        let target = TargetSeen::Found(Storage {
            factor: 3,
            peers,
            secrets: true,
            ..Storage::default()
        });
        let mut world = Self::empty();
        world.seen.target = target;
        world.seen.rpc_secret = true;
        world.seen.garage = Garage::Reached(Box::new(facts));
        world
    }

    pub(super) fn empty() -> Self {
        Self {
            seen: Observed::default(),
            applied: 0,
            pods_made: 0,
            next_key: 0,
            relied_on: BTreeSet::new(),
            hung: BTreeSet::new(),
            frozen: false,
            finished: false,
        }
    }

    pub(super) fn facts(&mut self) -> &mut Facts {
        match &mut self.seen.garage {
            Garage::Reached(facts) => facts,
            Garage::Unreachable(why) => panic!("Garage is unreachable: {why}"),
        }
    }

    /// Plans and carries out until there is nothing more to do; the last verdict.
    pub(super) fn converge(&mut self, desired: &Desired) -> Verdict {
        self.converge_with(desired, &mut |_| false)
    }

    pub(super) fn converge_with(&mut self, desired: &Desired, crash: Crash<'_>) -> Verdict {
        for _ in 0..200 {
            let before = self.seen.clone();
            self.observe();
            let plan = plan(desired, &self.seen);
            self.check(desired, &plan);
            let (first, steps): (Vec<&Step>, Vec<&Step>) =
                plan.steps.iter().partition(|step| step.precedes_workload());
            if self.carry_out_all(desired, &first, crash) {
                if let Some(workload) = &plan.workload {
                    self.ensure(desired, workload.replicas);
                }
                self.carry_out_all(desired, &steps, crash);
            }
            self.tick(desired);
            if self.finished || (plan.steps.is_empty() && before == self.seen) {
                return plan.verdict;
            }
        }
        panic!("no fixpoint: {:?}", plan(desired, &self.seen));
    }

    /// A preview is asked for whenever something is staged.
    fn observe(&mut self) {
        if let Garage::Reached(facts) = &mut self.seen.garage {
            let staged = !facts.layout.staged.is_empty();
            facts.layout.preview = staged.then_some(Ok(layout::Preview::default()));
        }
    }

    /// What must hold of every plan, whatever the state.
    fn check(&self, desired: &Desired, plan: &Plan) {
        for pod in self.seen.pods.iter().filter(|pod| pod.terminating) {
            let id = pod.slot.and_then(|slot| self.seen.keys.get(&slot));
            let step = id.map(|node| Step::SeeOff {
                pod: pod.name.clone(),
                node: *node,
            });
            let unseen = pod.running && !pod.seen_off && self.seen.garage.facts().is_some();
            assert_eq!(
                unseen && step.is_some(),
                step.is_some_and(|step| plan.steps.contains(&step)),
                "who ends is seen off, once: {}",
                pod.name
            );
        }
        let there = self.seen.workload.map_or(0, |workload| workload.replicas);
        if let (Some(workload), Mode::Gateway(_)) = (&plan.workload, &desired.mode) {
            let coming = self.seen.ready() + gateway::COMING;
            assert!(workload.replicas <= there.max(coming), "too many at once");
        }
        let mut slots = BTreeSet::new();
        for step in &plan.steps {
            match step {
                Step::AssignSlot { slot, .. } => {
                    assert!(slots.insert(*slot), "slot {slot} is given twice");
                    let holders = self
                        .seen
                        .pods
                        .iter()
                        .filter(|pod| pod.holds(*slot) && !pod.gated);
                    assert_eq!(holders.count(), 0, "two live pods with slot {slot}");
                }
                Step::Stage(changes, _) => {
                    for change in changes {
                        let role = self
                            .seen
                            .garage
                            .facts()
                            .and_then(|f| f.layout.roles.get(&change.node()));
                        let tag = owner_tag(&desired.uid);
                        let own = self.seen.keys.values().any(|key| *key == change.node());
                        assert!(
                            own || role.is_some_and(|role| role.tags.contains(&tag)),
                            "a foreign role"
                        );
                        self.check_promise(change);
                    }
                }
                Step::SetSynced { pod, synced: true } => {
                    let facts = self.seen.garage.facts().expect("it is Garage that tells");
                    let pod = self.seen.pods.iter().find(|seen| seen.name == *pod);
                    let slot = pod.and_then(|pod| pod.slot).expect("a slot");
                    let own = facts.tables[&self.seen.keys[&slot]];
                    assert!(own.covers(&facts.tables[&node(900)]), "it would answer 403");
                }
                Step::DropKeys(slots) => {
                    for slot in slots {
                        let id = self.seen.keys[slot];
                        let facts = self.seen.garage.facts().expect("keys go by the layout");
                        assert!(
                            !facts.layout.roles.contains_key(&id),
                            "a key goes before its role"
                        );
                        assert!(
                            !self.relied_on.contains(&id),
                            "a key goes while it is needed to skip its node"
                        );
                        assert!(
                            !self.seen.pods.iter().any(|pod| pod.holds(*slot)),
                            "a key in use goes"
                        );
                    }
                }
                _ => {}
            }
        }
    }

    fn ensure(&mut self, desired: &Desired, replicas: u32) {
        self.seen.budget |= desired.budget;
        if desired.public_services {
            self.seen.public_services.extend(0..replicas);
        }
        self.seen.workload = Some(Workload {
            replicas,
            observed: true,
            claims_match: true,
        });
        let gated = desired.mode != Mode::Storage;
        let live = |pods: &[Pod]| pods.iter().filter(|pod| !pod.terminating).count();
        for (template, bytes) in &desired.claims {
            let present = |slot: &u32| {
                let mut claims = self.seen.claims.iter();
                claims.any(|claim| claim.slot == *slot && claim.template == *template)
            };
            let missing: Vec<u32> = (0..replicas).filter(|slot| !present(slot)).collect();
            self.seen
                .claims
                .extend(missing.into_iter().map(|slot| Claim {
                    name: format!("{template}-{}-{slot}", desired.key.name),
                    template: template.clone(),
                    slot,
                    bytes: *bytes,
                    room: 0,
                }));
        }
        while live(&self.seen.pods) < replicas as usize {
            let ordinal = (0..).find(|n| !self.seen.pods.iter().any(|pod| pod.slot == Some(*n)));
            self.pods_made += 1;
            self.seen.pods.push(Pod {
                name: format!("pod-{}", self.pods_made),
                slot: if gated { None } else { ordinal },
                gated,
                ip: None,
                running: false,
                ready: false,
                synced: false,
                terminating: false,
                finished: false,
                outdated: false,
                severed: false,
                leaving: false,
                seen_off: false,
            });
        }
        while live(&self.seen.pods) > replicas as usize {
            // A ReplicaSet ends waiting pods first, then those that are not ready, then the cheapest;
            // a StatefulSet the last one.
            let worst = self.seen.pods.iter_mut().filter(|pod| !pod.terminating);
            let worst = match gated {
                true => worst.min_by_key(|pod| (!pod.gated, pod.ready, !pod.leaving)),
                false => worst.max_by_key(|pod| pod.slot),
            };
            worst.expect("more pods than wanted").terminating = true;
        }
    }

    /// `false` if the process was killed on the way.
    fn carry_out_all(&mut self, desired: &Desired, steps: &[&Step], crash: Crash<'_>) -> bool {
        steps.iter().all(|step| {
            let goes_on = !crash(step);
            if goes_on {
                self.carry_out(desired, step);
            }
            goes_on
        })
    }

    pub(super) fn carry_out(&mut self, desired: &Desired, step: &Step) {
        let pod = |pods: &mut Vec<Pod>, name: &str| {
            pods.iter()
                .position(|pod| pod.name == name)
                .expect("a pod that was seen")
        };
        match step {
            Step::AddFinalizer => self.seen.finalizer = true,
            Step::RemoveFinalizer => self.finished = true,
            Step::MintRpcSecret | Step::MirrorRpcSecret => self.seen.rpc_secret = true,
            Step::MintAdminToken => self.seen.admin_token = true,
            Step::MintKeys(slots) => {
                for slot in slots {
                    self.next_key += 1;
                    let id = node(self.next_key);
                    assert!(
                        self.seen.keys.insert(*slot, id).is_none(),
                        "a key was replaced"
                    );
                }
            }
            Step::DropKeys(slots) => self.seen.keys.retain(|slot, _| !slots.contains(slot)),
            Step::Connect(peers) => {
                for peer in peers {
                    self.up(peer.id);
                }
            }
            Step::Stage(changes, redundancy) => {
                let layout = &mut self.facts().layout;
                for change in changes {
                    layout
                        .staged
                        .retain(|staged| staged.node() != change.node());
                    layout.staged.push(change.clone());
                }
                layout.staged_redundancy = *redundancy;
            }
            Step::Revert => self.facts().layout.staged.clear(),
            Step::Apply(version) => {
                // Of a cluster that goes, all gateways go at once.
                if !desired.absent {
                    self.check_service();
                }
                self.apply(*version);
            }
            Step::SkipDead(_) => self.relied_on.clear(),
            Step::AssignSlot { pod: name, slot } => {
                let index = pod(&mut self.seen.pods, name);
                self.seen.pods[index].slot = Some(*slot);
                self.seen.pods[index].gated = false;
            }
            Step::SetSynced { pod: name, synced } => {
                let index = pod(&mut self.seen.pods, name);
                self.seen.pods[index].synced = *synced;
            }
            Step::MarkLeaving { pod: name } => {
                let index = pod(&mut self.seen.pods, name);
                self.seen.pods[index].leaving = true;
            }
            Step::DeletePod { pod: name } => self.end_pod(name),
            Step::HurryPod { pod: name } => {
                let index = pod(&mut self.seen.pods, name);
                assert!(!self.seen.pods[index].terminating, "it has its time");
                self.end_pod(name);
            }
            Step::SeeOff { pod: name, .. } => {
                let index = pod(&mut self.seen.pods, name);
                self.seen.pods[index].seen_off = true;
            }
            Step::OrphanWorkload => self.seen.workload = None,
            Step::DropBudget => {
                assert!(
                    self.seen.budget && !desired.budget,
                    "it is wanted, or not there"
                );
                self.seen.budget = false;
            }
            Step::DropPublicService(slot) => {
                let pod = self.seen.pods.iter().find(|pod| pod.holds(*slot));
                let reached = desired.public_services && pod.is_some_and(|pod| !pod.terminating);
                assert!(!reached, "a node is cut off from those elsewhere");
                assert!(self.seen.public_services.remove(slot), "it is not there");
            }
            Step::GrowClaim { claim, bytes } => {
                let claim = self.seen.claims.iter_mut().find(|seen| seen.name == *claim);
                claim.expect("a claim that was seen").bytes = *bytes;
            }
        }
    }

    /// A role says no more than its node's volumes have.
    fn check_promise(&self, change: &Change) {
        let Change::Set(id, role) = change else {
            return;
        };
        let slot = self.seen.keys.iter().find(|(_, key)| *key == id);
        let claims =
            slot.map(|(slot, _)| self.seen.claims.iter().filter(|claim| claim.slot == *slot));
        let room = claims.map_or(0, |claims| claims.map(|claim| claim.room).sum());
        assert!(
            role.capacity.unwrap_or(0) <= room,
            "{change:?} with {room} bytes"
        );
    }

    fn check_service(&mut self) {
        for change in self.facts().layout.staged.clone() {
            if let Change::Remove(id) = change {
                let slot = self.seen.keys.iter().find(|(_, key)| **key == id);
                let pod =
                    slot.and_then(|(slot, _)| self.seen.pods.iter().find(|pod| pod.holds(*slot)));
                let serves = pod.is_some_and(|pod| pod.synced);
                assert!(!serves, "a gateway serves and has no role");
            }
        }
    }

    fn apply(&mut self, version: u64) {
        let layout = &mut self.facts().layout;
        assert_eq!(version, layout.version + 1, "a stale version");
        let mut involved: BTreeSet<NodeId> = layout.roles.keys().copied().collect();
        for change in std::mem::take(&mut layout.staged) {
            match change {
                Change::Set(node, role) => drop(layout.roles.insert(node, role)),
                Change::Remove(node) => drop(layout.roles.remove(&node)),
            }
        }
        layout.redundancy = layout.staged_redundancy.take().or(layout.redundancy);
        layout.version = version;
        involved.extend(layout.roles.keys());
        self.relied_on.extend(involved);
        self.applied += 1;
    }

    fn up(&mut self, id: NodeId) {
        let facts = self.facts();
        facts.nodes.insert(
            id,
            Node {
                up: true,
                ..Node::default()
            },
        );
        facts.layout.up.insert(id);
        // A fresh gateway knows no key and no bucket.
        facts.tables.entry(id).or_default();
    }

    pub(super) fn end_pod(&mut self, name: &str) {
        let pod = self.seen.pods.iter_mut().find(|pod| pod.name == name);
        pod.expect("a pod that was seen").terminating = true;
    }

    /// What happens by itself: pods start and end, nodes confirm the newest layout.
    fn tick(&mut self, desired: &Desired) {
        for claim in &mut self.seen.claims {
            if !self.frozen || claim.room == 0 {
                claim.room = claim.bytes;
            }
        }
        let mut ended = Vec::new();
        let mut running = Vec::new();
        for pod in &mut self.seen.pods {
            let id = pod.slot.and_then(|slot| self.seen.keys.get(&slot)).copied();
            if pod.terminating {
                ended.extend(id.filter(|_| pod.running));
            } else if !pod.gated && pod.slot.is_some() {
                pod.ip = Some([10, 0, 0, 1].into());
                pod.running = true;
                pod.ready = pod.synced || desired.mode == Mode::Storage;
                running.extend(id);
            }
        }
        self.seen.pods.retain(|pod| !pod.terminating);
        if let Garage::Unreachable(_) = self.seen.garage {
            // A storage cluster answers as soon as one of its nodes runs.
            if desired.mode == Mode::Storage && !running.is_empty() {
                let facts = Facts {
                    answered: Some(running[0]),
                    ..Facts::default()
                };
                self.seen.garage = Garage::Reached(Box::new(facts));
                self.up(running[0]);
            }
            return;
        }
        for id in ended {
            let facts = self.facts();
            facts.nodes.insert(id, Node::default());
            facts.layout.up.remove(&id);
            facts.tables.remove(&id);
        }
        for id in running {
            // What was there a moment ago has fetched its tables meanwhile.
            let full = self.facts().tables.get(&node(900)).copied();
            if let (Some(full), Some(own)) = (full, self.facts().tables.get_mut(&id)) {
                *own = full;
            }
            if self.facts().nodes.get(&id).is_some_and(|node| !node.up) {
                self.up(id);
            }
        }
        let up = self.facts().layout.up.clone();
        let hung = &self.hung;
        self.relied_on
            .retain(|node| !up.contains(node) || hung.contains(node));
        let behind = self.relied_on.clone();
        let layout = &mut self.facts().layout;
        let draining = if behind.is_empty() {
            BTreeSet::new()
        } else {
            [layout.version - 1].into()
        };
        layout.history = Some(layout::History {
            draining,
            behind,
            confirmed: false,
            overdue: true,
        });
        let layout = &self.facts().layout;
        let complete = layout
            .roles
            .keys()
            .filter(|id| layout.up.contains(id))
            .count() as u64;
        let all = layout.roles.len() as u64;
        self.facts().health = Some(Health {
            storage_nodes: all,
            storage_nodes_up: complete,
            partitions: 256,
            partitions_all_ok: if complete == all { 256 } else { 128 },
            ..Health::default()
        });
    }
}

/// Kills the process at every step of every plan in turn, and converges all the same.
#[test]
fn a_crash_at_every_step_leaves_nothing_behind() {
    type Start = fn() -> World;
    let scaled: Start = || {
        let mut world = World::with_storage();
        world.converge(&gateway(6));
        world
    };
    let fresh: Start = World::with_storage;
    let nothing: Start = World::empty;
    let exposed: Start = || {
        let mut world = World::empty();
        world.converge(&public(5));
        world
    };
    let plain = Desired {
        budget: false,
        ..storage(4)
    };
    let absent = Desired {
        absent: true,
        ..gateway(6)
    };
    for (start, desired) in [
        (fresh, gateway(3)),
        (scaled, gateway(2)),
        (scaled, gateway(9)),
        (scaled, absent),
        (nothing, storage(3)),
        (exposed, public(3)),
        (exposed, plain),
    ] {
        let mut steps = 0;
        start().converge_with(&desired, &mut |_| {
            steps += 1;
            false
        });
        assert!(steps > 0);
        for kill in 0..steps {
            let mut world = start();
            let mut count = 0;
            let verdict = world.converge_with(&desired, &mut |_| {
                count += 1;
                count == kill + 1
            });
            if desired.absent {
                assert!(world.finished, "killed at {kill}");
                assert!(
                    world
                        .facts()
                        .layout
                        .roles
                        .values()
                        .all(|role| role.capacity.is_some())
                );
                continue;
            }
            assert_eq!(verdict, Verdict::Ready, "killed at {kill}");
            assert_eq!(world.seen.keys.len(), desired.replicas as usize);
            assert_eq!(world.seen.pods.len(), desired.replicas as usize);
            let own = world.facts().layout.roles.values();
            let own = own
                .filter(|role| role.owner() == Some(&desired.uid))
                .count();
            assert_eq!(own, desired.replicas as usize);
            assert_eq!(world.seen.budget, desired.budget);
            let public = if desired.public_services {
                desired.replicas
            } else {
                0
            };
            assert_eq!(world.seen.public_services, (0..public).collect());
        }
    }
}
