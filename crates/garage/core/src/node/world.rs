//! A small Garage in memory, in which the steps of a plan are carried out: roles never leak, and nobody
//! else's is touched.

use super::*;
use crate::api::GarageNode;
use crate::cluster::{Health, Node};
use crate::layout::Role;

#[derive(Debug, Clone, PartialEq)]
struct World {
    version: u64,
    roles: BTreeMap<NodeId, Role>,
    staged: Vec<Change>,
    /// Nodes that have not confirmed the newest version.
    behind: BTreeSet<NodeId>,
    up: BTreeSet<NodeId>,
    finalizer: bool,
    has_key: bool,
    recorded: Option<NodeId>,
    refuses: Option<String>,
    released: bool,
    /// The pod of our own, and how many there were.
    pod: Option<(Pod, u32)>,
    claims: Vec<Claim>,
    /// What each claim is to have.
    size: u64,
    /// Volumes stay as they are, whatever is asked for.
    frozen: bool,
    others_serve: bool,
    complete: u64,
    set: Workload,
}

fn pod() -> Pod {
    Pod {
        name: "n-node-0".into(),
        slot: Some(0),
        gated: false,
        ip: None,
        running: true,
        ready: true,
        synced: false,
        terminating: false,
        finished: false,
        outdated: false,
        severed: false,
        leaving: false,
        seen_off: false,
    }
}

fn claim() -> Claim {
    Claim {
        name: "data-n-node-0".into(),
        template: "data".into(),
        slot: 0,
        bytes: 1 << 30,
        room: 1 << 30,
    }
}

fn node(n: u8) -> NodeId {
    format!("{n:02x}").repeat(32).parse().expect("64 digits")
}

fn theirs() -> Role {
    Role {
        zone: "z".into(),
        capacity: Some(1 << 30),
        tags: BTreeSet::new(),
    }
}

impl World {
    fn new() -> Self {
        Self {
            version: 1,
            roles: [(node(1), theirs())].into(),
            staged: Vec::new(),
            behind: BTreeSet::new(),
            up: [node(1), node(2)].into(),
            finalizer: false,
            has_key: false,
            recorded: None,
            refuses: None,
            released: false,
            pod: None,
            claims: Vec::new(),
            size: 1 << 30,
            frozen: false,
            others_serve: true,
            complete: 256,
            set: Workload {
                replicas: 1,
                observed: true,
                claims_match: true,
            },
        }
    }

    fn observe(&self) -> Observed {
        let status = |id: &NodeId| {
            (
                *id,
                Node {
                    up: true,
                    ..Node::default()
                },
            )
        };
        let preview = match &self.refuses {
            Some(why) => Err(why.clone()),
            None => Ok(layout::Preview::default()),
        };
        let draining = match self.behind.is_empty() {
            true => BTreeSet::new(),
            false => [self.version - 1].into(),
        };
        Observed {
            finalizer: self.finalizer,
            home: Home::Reached,
            id: Some(Ok(node(2))),
            recorded: self.recorded,
            has_key: self.has_key,
            auto_apply: true,
            peer: Some(Peer {
                id: node(2),
                host: "h".into(),
                port: 1,
            }),
            facts: Some(Facts {
                layout: layout::Seen {
                    version: self.version,
                    roles: self.roles.clone(),
                    staged: self.staged.clone(),
                    preview: (!self.staged.is_empty()).then_some(preview),
                    history: Some(History {
                        draining,
                        behind: self.behind.clone(),
                        confirmed: false,
                        overdue: false,
                    }),
                    up: self.up.clone(),
                    ..layout::Seen::default()
                },
                nodes: self.up.iter().map(status).collect(),
                health: Some(Health {
                    storage_nodes: 2,
                    storage_nodes_up: 2,
                    partitions: 256,
                    partitions_all_ok: self.complete,
                    ..Health::default()
                }),
                ..Facts::default()
            }),
            pod: self.pod.as_ref().map(|(pod, _)| pod.clone()),
            set: self.pod.as_ref().map(|_| self.set),
            claims: self.claims.clone(),
            sizes: [("data".to_owned(), self.size)].into(),
            others_serve: self.others_serve,
            default_capacity: Some(self.size),
            ..Observed::default()
        }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::AddFinalizer => self.finalizer = true,
            Step::RemoveFinalizer => {
                assert!(self.behind.is_empty(), "it goes while others rely on it");
                self.finalizer = false;
                self.released = true;
            }
            Step::MintKey => self.has_key = true,
            Step::Stage(changes) => self.staged.extend(changes.clone()),
            Step::Revert => self.staged.clear(),
            Step::Apply(version) => {
                assert_eq!(*version, self.version + 1);
                self.version = *version;
                self.behind = self.roles.keys().copied().collect();
                for change in std::mem::take(&mut self.staged) {
                    if let (Change::Set(_, role), Some(claim)) = (&change, self.claims.first()) {
                        assert!(role.capacity <= Some(claim.room), "more than there is");
                    }
                    match change {
                        Change::Set(id, role) => self.roles.insert(id, role),
                        Change::Remove(id) => self.roles.remove(&id),
                    };
                }
                // Living nodes confirm at once.
                self.behind.retain(|id| !self.up.contains(id));
            }
            Step::SkipDead(_) => self.behind.retain(|id| self.up.contains(id)),
            Step::DeletePod => {
                let (old, made) = self.pod.take().expect("a pod that was seen");
                assert!(old.outdated, "a pod that is as it should be is deleted");
                let alone = self.others_serve && self.complete == 256;
                assert!(alone || old.severed || !old.ready, "two nodes are away");
                self.pod = Some((pod(), made + 1));
            }
            Step::OrphanWorkload => self.set.claims_match = true,
            Step::GrowClaim { claim, bytes } => {
                let claim = self.claims.iter_mut().find(|seen| seen.name == *claim);
                claim.expect("a claim that was seen").bytes = *bytes;
            }
        }
    }

    fn run(&mut self, object: &GarageNode, mut steps: usize) -> (usize, Plan) {
        let desired = Desired::parse(object).expect("is fine");
        let mut made = 0;
        for _ in 0..20 {
            let seen = self.observe();
            let plan = plan(&desired, &seen);
            for step in &plan.steps {
                if steps == 0 {
                    return (made, plan);
                }
                steps -= 1;
                made += 1;
                self.apply(step);
            }
            for claim in self.claims.iter_mut().filter(|_| !self.frozen) {
                claim.room = claim.bytes;
            }
            let status = report(object, &desired, &seen, &plan, None).status;
            self.recorded = status["nodeId"].as_str().and_then(|id| id.parse().ok());
            if self.released || plan.steps.is_empty() {
                return (made, plan);
            }
        }
        panic!("no end of it: {self:#?}");
    }
}

fn object(spec: &str) -> GarageNode {
    let text = format!(
        "apiVersion: garage.rajsingh.info/v1alpha1\nkind: GarageNode\nmetadata: {{ name: n, namespace: ns, uid: u }}\nspec: {{ clusterRef: {{ name: c }}, zone: z, {spec} }}"
    );
    serde_saphyr::from_str(&text).expect("a GarageNode")
}

fn ending(mut object: GarageNode) -> GarageNode {
    let time = crate::tenant::time("2026-01-01T00:00:00Z").expect("a time");
    object.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time));
    object
}

fn external() -> String {
    format!(
        "capacity: 1Gi, tags: [x], nodeId: '{}', external: {{ address: h }}",
        node(2)
    )
}

#[test]
fn a_node_gets_its_role_and_loses_it_wherever_a_process_dies() {
    for spec in [
        external(),
        "gateway: true".into(),
        "capacity: 1Gi, podSelector: { name: p }".into(),
    ] {
        let (object, gone) = (object(&spec), ending(object(&spec)));
        let mut whole = World::new();
        let (steps, plan) = whole.run(&object, usize::MAX);
        assert_eq!(plan.verdict, Verdict::Ready, "{spec}");
        assert_eq!((whole.version, whole.run(&object, usize::MAX).0), (2, 0));
        let role = &whole.roles[&node(2)];
        assert_eq!(role.owner(), Some("u"));
        assert_eq!(role.capacity, spec.contains("capacity").then_some(1 << 30));
        for cut in 0..=steps {
            let mut world = World::new();
            world.run(&object, cut);
            let begun = world.clone();
            world.run(&object, usize::MAX);
            assert_eq!(world, whole, "{spec}: died after {cut} steps");
            for cut in 0..4 {
                let mut world = begun.clone();
                world.run(&gone, cut);
                world.run(&gone, usize::MAX);
                assert_eq!(world.roles, World::new().roles, "{spec}");
                assert!(world.staged.is_empty() && !world.finalizer);
            }
        }
    }
}

#[test]
fn a_node_that_died_with_its_role_is_skipped_and_others_are_waited_for() {
    let object = object(&external());
    let mut world = World::new();
    world.run(&object, usize::MAX);
    world.up.remove(&node(2));
    let mut other = world.clone();
    let (_, plan) = world.run(&ending(object.clone()), usize::MAX);
    assert!(world.released, "{plan:?}");
    assert_eq!(world.roles, World::new().roles);
    other.up.remove(&node(1));
    let (_, plan) = other.run(&ending(object), usize::MAX);
    assert!(
        matches!(plan.verdict, Verdict::Waiting(Wait::Settling(_))),
        "{plan:?}"
    );
}

#[test]
fn no_role_before_the_connection_and_none_of_somebody_else() {
    let mut world = World::new();
    world.up.remove(&node(2));
    let (_, plan) = world.run(&object(&external()), usize::MAX);
    assert_eq!(plan.verdict, Verdict::Waiting(Wait::Connection));
    assert_eq!(plan.connect.map(|peer| peer.id), Some(node(2)));
    let mut world = World::new();
    let role = Role {
        tags: [layout::owner_tag("v")].into(),
        ..theirs()
    };
    world.roles.insert(node(2), role);
    let (_, plan) = world.run(&object(&external()), usize::MAX);
    assert!(
        matches!(plan.verdict, Verdict::Refused(Refusal::RoleTaken { .. })),
        "{plan:?}"
    );
    let mut world = World::new();
    world.staged = vec![Change::Remove(node(1))];
    let (_, plan) = world.run(&object(&external()), usize::MAX);
    assert!(
        matches!(
            plan.verdict,
            Verdict::Waiting(Wait::ForeignStagedChanges(_))
        ),
        "{plan:?}"
    );
    assert_eq!(world.staged.len(), 1);
}

#[test]
fn the_first_nodes_join_together_and_none_before_there_are_enough() {
    let object = object("capacity: 1Gi, tags: []");
    let desired = Desired::parse(&object).expect("is fine");
    let mate = |n: u8| {
        let role = Role {
            tags: [layout::owner_tag("mate")].into(),
            ..theirs()
        };
        (node(n), role)
    };
    let mut world = World::new();
    world.run(&object, 2);
    (world.version, world.staged) = (0, Vec::new());
    world.roles.clear();
    let seen = |world: &World, mates: &[u8]| Observed {
        factor: Some(3),
        mates: mates.iter().map(|n| mate(*n)).collect(),
        ..world.observe()
    };
    let alone = plan(&desired, &seen(&world, &[3]));
    let wait = Wait::Company {
        there: 2,
        factor: 3,
    };
    assert_eq!(
        (alone.steps, alone.verdict),
        (Vec::new(), Verdict::Waiting(wait))
    );
    for _ in 0..2 {
        let plan = plan(&desired, &seen(&world, &[3, 4]));
        assert_eq!(plan.steps.len(), 1, "{plan:?}");
        world.apply(&plan.steps[0]);
    }
    assert_eq!((world.version, world.roles.len()), (1, 3));
    assert_eq!(world.roles[&node(3)], mate(3).1);
    // A node that has its role leaves it to others to join.
    let settled = plan(&desired, &seen(&world, &[5]));
    assert_eq!(
        (settled.steps, settled.verdict),
        (Vec::new(), Verdict::Ready)
    );
    // Where nobody tells the factor, Garage does.
    world.roles.clear();
    let asked = Observed {
        factor: None,
        ..seen(&world, &[])
    };
    assert!(matches!(plan(&desired, &asked).steps[..], [Step::Stage(_)]));
}

#[test]
fn garages_own_words_are_told_and_a_cluster_that_ends_holds_nothing() {
    let mut world = World::new();
    world.refuses = Some("too few zones".into());
    let (_, plan) = world.run(&object(&external()), usize::MAX);
    assert_eq!(
        plan.verdict,
        Verdict::Waiting(Wait::LayoutBlocked("too few zones".into()))
    );
    let gone = Desired::parse(&ending(object(&external()))).expect("is fine");
    let seen = Observed {
        cluster_ends: true,
        ..world.observe()
    };
    assert_eq!(super::plan(&gone, &seen).steps, [Step::RemoveFinalizer]);
}

#[test]
fn each_problem_names_its_field() {
    for (spec, field) in [
        (
            "external: { address: h }, capacity: 1Gi".to_owned(),
            "spec.external",
        ),
        ("podSelector: { name: p }".into(), "spec.capacity"),
        ("gateway: true, capacity: 1Gi".into(), "spec.capacity"),
        ("capacity: 1Gx".into(), "spec.capacity"),
        ("capacity: '100'".into(), "spec.capacity"),
    ] {
        let problems = Desired::parse(&object(&spec)).expect_err(&spec);
        assert_eq!(problems[0].field, field, "{spec}");
        // One that goes has a role to take away all the same.
        Desired::parse(&ending(object(&spec))).expect("enough is known to clean up");
    }
}

/// A node that stores in a pod of our own, and is as asked.
fn storing() -> (GarageNode, World) {
    let object = object("tags: []");
    let mut world = World::new();
    world.pod = Some((pod(), 1));
    world.claims = vec![claim()];
    let (_, plan) = world.run(&object, usize::MAX);
    assert_eq!(plan.verdict, Verdict::Ready);
    (object, world)
}

#[test]
fn an_outdated_pod_is_replaced_in_its_turn_wherever_a_process_dies() {
    let (object, start) = storing();
    let outdated = |world: &mut World| {
        if let Some((pod, _)) = &mut world.pod {
            pod.outdated = true;
        }
    };
    for cut in 0..3 {
        let mut world = start.clone();
        outdated(&mut world);
        world.run(&object, cut);
        let (_, plan) = world.run(&object, usize::MAX);
        assert_eq!(plan.verdict, Verdict::Ready, "died after {cut} steps");
        let made = world.pod.as_ref().map(|(_, made)| *made);
        assert_eq!((made, world.version), (Some(2), start.version));
    }
    let rebalancing = Wait::Rebalancing {
        complete: 128,
        partitions: 256,
    };
    for (others_serve, complete, wait) in [(false, 256, Wait::Rollout), (true, 128, rebalancing)] {
        let mut world = start.clone();
        outdated(&mut world);
        (world.others_serve, world.complete) = (others_serve, complete);
        let (steps, plan) = world.run(&object, usize::MAX);
        assert_eq!((steps, plan.verdict), (0, Verdict::Waiting(wait)));
        // A pod that does not serve is not what keeps the cluster together.
        if let Some((pod, _)) = &mut world.pod {
            pod.ready = false;
        }
        world.run(&object, usize::MAX);
        assert_eq!(world.pod.map(|(_, made)| made), Some(2));
    }
}

#[test]
fn a_pod_with_a_former_rpc_secret_waits_for_nobody() {
    let (object, mut world) = storing();
    (world.others_serve, world.complete) = (false, 0);
    world.up.clear();
    let severed = Pod {
        outdated: true,
        severed: true,
        ..pod()
    };
    world.pod = Some((severed, 1));
    let desired = Desired::parse(&object).expect("is fine");
    let plan = plan(&desired, &world.observe());
    assert_eq!(plan.verdict, Verdict::Waiting(Wait::RpcSecret));
    assert_eq!(plan.steps, [Step::DeletePod]);
}

#[test]
fn claims_grow_and_the_role_after_them() {
    let (object, start) = storing();
    for cut in 0..5 {
        let mut world = start.clone();
        (world.size, world.frozen) = (2 << 30, true);
        world.set.claims_match = false;
        world.run(&object, cut);
        let (_, plan) = world.run(&object, usize::MAX);
        assert_eq!(plan.verdict, Verdict::Waiting(Wait::Growing));
        assert_eq!(world.roles[&node(2)].capacity, Some(1 << 30));
        assert!(world.set.claims_match, "new claims would be as small");
        world.frozen = false;
        world.claims[0].room = 2 << 30;
        let (_, plan) = world.run(&object, usize::MAX);
        assert_eq!(plan.verdict, Verdict::Ready, "died after {cut} steps");
        assert_eq!(world.roles[&node(2)].capacity, Some(2 << 30));
        assert_eq!(world.version, start.version + 1);
    }
}

#[test]
fn nodes_are_dialled_where_they_are() {
    let id = node(2).to_string();
    let status = |address: Option<&str>| {
        Some(crate::api::GarageNodeStatus {
            node_id: Some(id.clone()),
            address: address.map(str::to_owned),
            ..Default::default()
        })
    };
    for (spec, status, expected) in [
        (external(), None, Some("h:3901")),
        (
            "tags: []".into(),
            status(None),
            Some("n-node-0.c-headless.ns.svc:3901"),
        ),
        ("tags: []".into(), None, None),
        ("gateway: true".into(), status(None), None),
        (
            "capacity: 1Gi, podSelector: { name: p }".into(),
            status(Some("10.0.0.7:3901")),
            Some("10.0.0.7:3901"),
        ),
        (
            "capacity: 1Gi, podSelector: { name: p }".into(),
            status(None),
            None,
        ),
    ] {
        let mut object = object(&spec);
        object.status = status;
        let desired = Desired::parse(&object).expect("is fine");
        let peer = desired.peer(&object, 3901).map(|peer| peer.to_string());
        let expected = expected.map(|place| format!("{id}@{place}"));
        assert_eq!(peer, expected, "{spec}");
    }
}
