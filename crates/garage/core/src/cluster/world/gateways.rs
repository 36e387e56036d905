//! What gateway clusters do in the model.

use super::*;

#[test]
fn a_gateway_cluster_joins_in_one_version_and_then_rests() {
    let mut world = World::with_storage();
    let desired = gateway(5);
    assert_eq!(world.converge(&desired), Verdict::Ready);
    assert_eq!(world.applied, 1);
    let facts = world.facts().clone();
    let gateways: Vec<_> = facts
        .layout
        .roles
        .values()
        .filter(|role| role.capacity.is_none())
        .collect();
    assert_eq!(gateways.len(), 5);
    // Flaw 5 of the originals: a zone of its own blocks every later change.
    assert!(gateways.iter().all(|role| role.zone == "default"));
    assert!(gateways.iter().all(|role| role.owner() == Some("uid-g")));
}

#[test]
fn roles_come_before_pods() {
    let mut world = World::with_storage();
    let desired = gateway(2);
    let mut seen_pods = false;
    let mut crash = |step: &Step| {
        if let Step::AssignSlot { .. } = step {
            seen_pods = true;
        }
        false
    };
    world.converge_with(&desired, &mut crash);
    assert!(seen_pods);
    let mut world = World::with_storage();
    // Stopped before the layout is applied, no pod exists.
    let mut stopped = false;
    for _ in 0..6 {
        world.observe();
        let plan = plan(&desired, &world.seen);
        stopped |= plan.steps.iter().any(|step| matches!(step, Step::Apply(_)));
        if stopped {
            assert_eq!(plan.workload, None);
            break;
        }
        for step in &plan.steps {
            world.carry_out(&desired, step);
        }
    }
    assert!(stopped);
}

#[test]
fn a_replaced_pod_changes_nothing_in_the_layout() {
    let mut world = World::with_storage();
    let desired = gateway(3);
    world.converge(&desired);
    for round in 0..6 {
        let name = world.seen.pods[round % 3].name.clone();
        world.end_pod(&name);
        assert_eq!(world.converge(&desired), Verdict::Ready);
    }
    assert_eq!(world.applied, 1);
    assert_eq!(world.seen.pods.len(), 3);
}

#[test]
fn pods_that_are_not_ready_any_more_keep_their_place() {
    let mut world = World::with_storage();
    let desired = gateway(20);
    world.converge(&desired);
    for pod in &mut world.seen.pods {
        pod.ready = false;
    }
    let workload = plan(&desired, &world.seen).workload;
    assert_eq!(workload.expect("a workload").replicas, 20);
}

#[test]
fn scaling_is_one_version_each_way_and_settles() {
    let mut world = World::with_storage();
    world.converge(&gateway(2));
    assert_eq!(world.converge(&gateway(50)), Verdict::Ready);
    assert_eq!(world.applied, 2);
    assert_eq!(world.converge(&gateway(2)), Verdict::Ready);
    assert_eq!(world.applied, 3);
    assert_eq!(world.seen.keys.len(), 2);
    assert_eq!(world.seen.pods.len(), 2);
    let history = world.facts().layout.history.clone().expect("a history");
    assert!(history.draining.is_empty(), "{history:?}");
}

#[test]
fn gateways_serve_until_their_leaving_is_approved() {
    let mut world = World::with_storage();
    world.converge(&gateway(4));
    let asked = Desired {
        auto_apply: false,
        ..gateway(2)
    };
    let verdict = world.converge(&asked);
    assert_eq!(verdict, Verdict::Waiting(Wait::Approval(3)));
    for pod in &world.seen.pods {
        assert!(pod.synced && pod.ready && !pod.leaving, "{pod:?}");
    }
    let approved = Desired {
        approved: Some(3),
        ..asked
    };
    assert_eq!(world.converge(&approved), Verdict::Ready);
    assert_eq!((world.seen.pods.len(), world.seen.keys.len()), (2, 2));
}

#[test]
fn an_unready_gateway_never_takes_requests() {
    let mut world = World::with_storage();
    let desired = gateway(1);
    // `World::check` looks at the tables at each such step.
    let mut synced = 0;
    world.converge_with(&desired, &mut |step| {
        synced += u32::from(matches!(step, Step::SetSynced { synced: true, .. }));
        false
    });
    assert_eq!(synced, 1);
}

#[test]
fn lost_keys_are_repaired_in_one_version_and_the_dead_are_skipped() {
    let mut world = World::with_storage();
    let desired = gateway(2);
    world.converge(&desired);
    // Somebody deleted the Secret with the keys, and the pods with it.
    world.seen.former = world.seen.keys.values().copied().collect();
    let lost: Vec<NodeId> = world.seen.former.iter().copied().collect();
    for id in lost {
        let facts = world.facts();
        facts.nodes.insert(id, Node::default());
        facts.layout.up.remove(&id);
    }
    world.seen.keys.clear();
    world.seen.pods.clear();
    let mut skipped = false;
    let verdict = world.converge_with(&desired, &mut |step| {
        skipped |= matches!(step, Step::SkipDead(_));
        false
    });
    assert_eq!(verdict, Verdict::Ready);
    assert_eq!(world.applied, 2);
    assert!(skipped);
    let roles = world.facts().layout.roles.len();
    assert_eq!(roles, 3 + 2);
}

#[test]
fn a_deleted_gateway_cluster_leaves_no_role() {
    let mut world = World::with_storage();
    world.converge(&gateway(4));
    let absent = Desired {
        absent: true,
        ..gateway(4)
    };
    world.converge(&absent);
    assert!(world.finished);
    assert_eq!(world.applied, 2);
    assert!(
        world
            .facts()
            .layout
            .roles
            .values()
            .all(|role| role.capacity.is_some())
    );
}

#[test]
fn nodes_are_seen_off_when_their_namespace_has_lost_their_keys() {
    let mut world = World::with_storage();
    world.converge(&gateway(2));
    world.seen.told = world.seen.keys.clone();
    world.seen.former = world.seen.keys.values().copied().collect();
    world.seen.keys.clear();
    for pod in &mut world.seen.pods {
        (pod.terminating, pod.running) = (true, true);
    }
    let absent = Desired {
        absent: true,
        ..gateway(2)
    };
    let steps = plan(&absent, &world.seen).steps;
    let seen_off: BTreeSet<NodeId> = steps
        .iter()
        .filter_map(|step| match step {
            Step::SeeOff { node, .. } => Some(*node),
            _ => None,
        })
        .collect();
    assert_eq!(seen_off, world.seen.former);
}

#[test]
fn dead_gateways_keep_nothing_once_the_layout_without_them_is_confirmed() {
    let mut world = World::with_storage();
    world.converge(&gateway(2));
    let absent = Desired {
        absent: true,
        ..gateway(2)
    };
    let own: BTreeSet<NodeId> = world.seen.keys.values().copied().collect();
    let facts = world.facts();
    facts.layout.roles.retain(|_, role| role.capacity.is_some());
    for (up, confirmed, done) in [
        (false, true, true),
        (true, true, false),
        (false, false, false),
    ] {
        let facts = world.facts();
        facts.layout.history = Some(layout::History {
            draining: [facts.layout.version - 1].into(),
            behind: own.clone(),
            confirmed,
            overdue: false,
        });
        for node in &own {
            match up {
                true => drop(facts.layout.up.insert(*node)),
                false => drop(facts.layout.up.remove(node)),
            }
        }
        let steps = plan(&absent, &world.seen).steps;
        assert_eq!(
            steps.contains(&Step::RemoveFinalizer),
            done,
            "up {up}, confirmed {confirmed}: {steps:?}"
        );
    }
}

#[test]
fn gateways_that_leave_and_hang_are_not_waited_for_without_end() {
    let mut world = World::with_storage();
    world.converge(&gateway(4));
    let leaving: BTreeSet<NodeId> = (2..4).map(|slot| world.seen.keys[&slot]).collect();
    world.hung = leaving.clone();
    let (mut ended, mut skipped) = (0, 0);
    let verdict = world.converge_with(&gateway(2), &mut |step| {
        skipped += usize::from(matches!(step, Step::SkipDead(_)));
        ended += usize::from(matches!(step, Step::DropKeys(_)));
        false
    });
    assert_eq!(verdict, Verdict::Ready);
    assert_eq!((world.applied, skipped), (2, 1));
    assert!(ended > 0);
    assert_eq!(world.seen.pods.len(), 2);
    assert_eq!(world.seen.keys.len(), 2);
}

#[test]
fn gateways_that_hang_do_not_hold_their_object() {
    let mut world = World::with_storage();
    world.converge(&gateway(4));
    world.hung = world.seen.keys.values().copied().collect();
    let absent = Desired {
        absent: true,
        ..gateway(4)
    };
    let mut skipped = 0;
    world.converge_with(&absent, &mut |step| {
        skipped += usize::from(matches!(step, Step::SkipDead(_)));
        false
    });
    assert!(world.finished);
    assert_eq!((world.applied, skipped), (2, 1));
    assert!(world.relied_on.is_empty());
}

#[test]
fn gateways_that_leave_are_given_the_time_to_confirm() {
    let mut world = World::with_storage();
    world.converge(&gateway(4));
    let (staying, leaving) = (world.seen.keys[&0], world.seen.keys[&3]);
    for pod in &mut world.seen.pods {
        pod.synced &= pod.slot != Some(3);
    }
    let facts = world.facts();
    facts.layout.version += 1;
    facts.layout.roles.remove(&leaving);
    let version = facts.layout.version;
    // Who is waited for, whether for long, whether only for data, and whether the pod goes.
    for (behind, overdue, confirmed, goes) in [
        (vec![leaving], false, false, false),
        (vec![leaving], true, false, true),
        (vec![leaving, staying], true, false, true),
        // It has confirmed, and answers those that have not.
        (vec![staying], true, false, false),
        (vec![leaving, node(900)], true, false, false),
        (vec![leaving], true, true, false),
    ] {
        world.facts().layout.history = Some(layout::History {
            draining: [version - 1].into(),
            behind: behind.iter().copied().collect(),
            confirmed,
            overdue,
        });
        let plan = plan(&gateway(3), &world.seen);
        let replicas = plan.workload.map(|workload| workload.replicas);
        let case = format!("{behind:?} {overdue} {confirmed}");
        assert_eq!(replicas, Some(if goes { 3 } else { 4 }), "{case}");
        let hurries = |step: &Step| matches!(step, Step::HurryPod { .. });
        assert_eq!(plan.steps.iter().any(hurries), goes, "{case}");
        let keys = |step: &Step| matches!(step, Step::DropKeys(_));
        assert!(!plan.steps.iter().any(keys), "{case}");
    }
}

#[test]
fn a_gateway_cluster_goes_at_once_when_nobody_is_left_to_tell() {
    let absent = Desired {
        absent: true,
        ..gateway(4)
    };
    for (namespace_ends, target) in [(true, None), (false, Some(TargetSeen::Missing))] {
        let mut world = World::with_storage();
        world.converge(&gateway(4));
        world.seen.namespace_ends = namespace_ends;
        if let Some(target) = target {
            world.seen.target = target;
        }
        world.seen.garage = Garage::Unreachable("gone".into());
        assert_eq!(plan(&absent, &world.seen).steps, [Step::RemoveFinalizer]);
    }
}

#[test]
fn gateways_with_a_former_secret_serve_while_they_are_connected() {
    let mut world = World::with_storage();
    let desired = gateway(2);
    world.converge(&desired);
    for pod in &mut world.seen.pods {
        (pod.outdated, pod.severed) = (true, true);
    }
    let id = world.seen.keys[&1];
    assert_eq!(plan(&desired, &world.seen).steps, []);
    world.facts().nodes.insert(id, Node::default());
    let pod = world.seen.pods.iter().find(|pod| pod.holds(1));
    let out = Step::SetSynced {
        pod: pod.expect("a pod").name.clone(),
        synced: false,
    };
    let steps = plan(&desired, &world.seen).steps;
    assert!(steps.contains(&out), "{steps:?}");
}

#[test]
fn what_a_gateway_cluster_may_not_begin_with() {
    let mut other = gateway(2);
    other.factor = Some(2);
    let key = storage(3).key;
    let world = |target| {
        let mut world = World::with_storage();
        world.seen.target = target;
        world.seen
    };
    let found = World::with_storage().seen.target;
    for (desired, seen, verdict) in [
        (
            // Flaw 4: a factor that differs stops the storage nodes.
            other,
            world(found),
            Verdict::Refused(Refusal::FactorMismatch {
                asked: 2,
                storage: 3,
            }),
        ),
        (
            gateway(2),
            world(TargetSeen::Missing),
            Verdict::Waiting(Wait::StorageMissing(key.clone())),
        ),
        (
            gateway(2),
            world(TargetSeen::NotStorage),
            Verdict::Refused(Refusal::NotStorage(key.clone())),
        ),
        (
            gateway(2),
            world(TargetSeen::NotGranted),
            Verdict::Refused(Refusal::NotGranted(key.clone())),
        ),
        (
            gateway(2),
            world(TargetSeen::OutOfReach),
            Verdict::Refused(Refusal::OutOfReach(key)),
        ),
    ] {
        let plan = plan(&desired, &seen);
        assert_eq!(
            (plan.workload, plan.steps, plan.verdict),
            (None, vec![], verdict)
        );
    }
}
