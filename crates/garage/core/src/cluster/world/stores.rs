//! What storage clusters do in the model.

use super::*;

#[test]
fn a_storage_cluster_forms_scales_and_drains() {
    let mut world = World::empty();
    assert_eq!(world.converge(&storage(3)), Verdict::Ready);
    assert_eq!(world.applied, 1);
    assert_eq!(world.converge(&storage(5)), Verdict::Ready);
    assert_eq!(world.applied, 2);
    assert_eq!(world.converge(&storage(3)), Verdict::Ready);
    assert_eq!(world.applied, 3);
    assert_eq!(world.seen.keys.len(), 3);
}

#[test]
fn a_role_grows_once_the_volumes_have_and_once_for_all_nodes() {
    let larger = |replicas| Desired {
        capacity: Some(180 << 30),
        shares: [("data".to_owned(), 200 << 30)].into(),
        claims: [("data".to_owned(), 200 << 30)].into(),
        reserve_percent: 10,
        ..storage(replicas)
    };
    let mut world = World::empty();
    world.converge(&storage(3));
    world.frozen = true;
    // Volumes of which one grows, and which then all do.
    assert_eq!(world.converge(&larger(3)), Verdict::Waiting(Wait::Growing));
    world.seen.claims[0].room = 200 << 30;
    assert_eq!(world.converge(&larger(3)), Verdict::Waiting(Wait::Growing));
    assert_eq!(world.applied, 1, "nothing is promised");
    // A node that joins meanwhile promises what its volume, kept from before, has.
    let kept = Claim {
        name: "data-garage-storage-3".into(),
        template: "data".into(),
        slot: 3,
        bytes: 200 << 30,
        room: 50 << 30,
    };
    world.seen.claims.push(kept);
    assert_eq!(world.converge(&larger(4)), Verdict::Waiting(Wait::Growing));
    let id = world.seen.keys[&3];
    assert_eq!(world.facts().layout.roles[&id].capacity, Some(45 << 30));
    world.frozen = false;
    assert_eq!(world.converge(&larger(4)), Verdict::Ready);
    assert_eq!(world.applied, 3);
    let roles: Vec<_> = world.facts().layout.roles.values().cloned().collect();
    assert!(roles.iter().all(|role| role.capacity == Some(180 << 30)));
}

/// With a public Service for each node.
pub(super) fn public(replicas: u32) -> Desired {
    Desired {
        public_services: true,
        ..storage(replicas)
    }
}

#[test]
fn what_is_turned_off_is_taken_away() {
    let mut world = World::empty();
    world.converge(&public(5));
    assert_eq!(world.seen.public_services, (0..5).collect());
    assert_eq!(world.converge(&public(3)), Verdict::Ready);
    assert_eq!(world.seen.public_services, (0..3).collect());
    let plain = Desired {
        budget: false,
        ..storage(3)
    };
    assert_eq!(world.converge(&plain), Verdict::Ready);
    assert_eq!(world.seen.public_services, BTreeSet::new());
    assert!(!world.seen.budget);
    assert_eq!(plan(&plain, &world.seen).steps, [], "it rests");
    let mut world = World::with_storage();
    world.converge(&gateway(2));
    assert!(world.seen.budget);
    let plain = Desired {
        budget: false,
        ..gateway(2)
    };
    assert_eq!(world.converge(&plain), Verdict::Ready);
    assert!(!world.seen.budget);
}

#[test]
fn a_storage_node_keeps_its_pod_until_its_data_is_elsewhere() {
    let mut world = World::empty();
    world.converge(&storage(4));
    // One node that keeps data is cut off: nothing settles.
    let id = world.seen.keys[&0];
    world.facts().layout.up.remove(&id);
    world.facts().nodes.insert(id, Node::default());
    world.relied_on.insert(id);
    let plan = plan(&storage(3), &world.seen);
    assert_eq!(plan.workload.map(|workload| workload.replicas), Some(4));
}

#[test]
fn a_storage_cluster_is_held_while_gateways_use_it() {
    let mut world = World::empty();
    world.converge(&storage(3));
    let absent = Desired {
        absent: true,
        ..storage(3)
    };
    let user = gateway(1).key;
    world.seen.attached = vec![user.clone()];
    let held = plan(&absent, &world.seen);
    assert_eq!(held.steps, []);
    assert_eq!(
        held.verdict,
        Verdict::Waiting(Wait::GatewaysAttached(vec![user]))
    );
    world.seen.namespace_ends = true;
    assert_eq!(plan(&absent, &world.seen).steps, [Step::RemoveFinalizer]);
}

#[test]
fn a_storage_cluster_outlives_the_roles_of_gateways_that_go_with_it() {
    let mut world = World::empty();
    world.converge(&storage(3));
    let absent = Desired {
        absent: true,
        ..storage(3)
    };
    world.seen.departing = vec![gateway(1).key];
    let held = plan(&absent, &world.seen);
    assert_eq!(held.steps, []);
    let departing = Wait::GatewaysDeparting(world.seen.departing.clone());
    assert_eq!(held.verdict, Verdict::Waiting(departing));

    // No layout outlives it, or none can be changed any more.
    let with_its_data = Desired {
        data_outlives: false,
        ..absent.clone()
    };
    assert_eq!(
        plan(&with_its_data, &world.seen).steps,
        [Step::RemoveFinalizer]
    );
    world.seen.garage = Garage::Unreachable("all pods are gone".into());
    assert_eq!(plan(&absent, &world.seen).steps, [Step::RemoveFinalizer]);
}

#[test]
fn storage_pods_are_replaced_one_at_a_time_and_only_with_all_copies() {
    let mut world = World::empty();
    let desired = storage(3);
    world.converge(&desired);
    for pod in &mut world.seen.pods {
        pod.outdated = true;
    }
    let mut replaced = 0;
    for _ in 0..60 {
        let plan = plan(&desired, &world.seen);
        let deletions: Vec<_> = plan
            .steps
            .iter()
            .filter(|step| matches!(step, Step::DeletePod { .. }))
            .collect();
        assert!(deletions.len() <= 1, "{deletions:?}");
        if !deletions.is_empty() {
            assert!(
                world.seen.pods.iter().all(|pod| pod.ready),
                "one is away already"
            );
            replaced += 1;
        }
        if let Some(workload) = &plan.workload {
            world.ensure(&desired, workload.replicas);
        }
        for step in &plan.steps {
            world.carry_out(&desired, step);
        }
        world.tick(&desired);
    }
    assert_eq!(replaced, 3);
    assert_eq!(world.applied, 1, "a rollout is no layout change");
    assert_eq!(world.converge(&desired), Verdict::Ready);
}

#[test]
fn a_changed_rpc_secret_replaces_all_storage_pods_at_once() {
    let desired = storage(3);
    let start = || {
        let mut world = World::empty();
        world.converge(&desired);
        for pod in &mut world.seen.pods {
            (pod.outdated, pod.severed) = (true, true);
        }
        // One has restarted by itself: the others do not know it any more.
        let id = world.seen.keys[&1];
        world.facts().nodes.insert(id, Node::default());
        world
    };
    let first = plan(&desired, &start().seen);
    assert_eq!(first.verdict, Verdict::Waiting(Wait::RpcSecret { pods: 3 }));
    let deletions = |plan: &Plan| {
        let steps = plan.steps.iter();
        steps
            .filter(|step| matches!(step, Step::DeletePod { .. }))
            .count()
    };
    assert_eq!(deletions(&first), 3);
    let mut silent = start();
    silent.seen.garage = Garage::Unreachable("no answer".into());
    let silent = plan(&desired, &silent.seen);
    assert_eq!((deletions(&silent), silent.verdict), (3, first.verdict));
    for kill in 0..4 {
        let mut world = start();
        let mut steps = 0;
        let verdict = world.converge_with(&desired, &mut |_| {
            steps += 1;
            steps == kill
        });
        assert_eq!(verdict, Verdict::Ready, "killed at {kill}");
        assert!(world.seen.pods.iter().all(|pod| !pod.severed));
        assert_eq!(world.applied, 1, "no layout change");
    }
}
