//! Both sides against each other in virtual time, case by case.

use std::collections::BTreeMap;

use super::*;
use crate::id::{ClusterId, RouteId};
use crate::message::{Action, IngressRoutes, IngressRoutesAck, Position, Refused, WireRoute};
use crate::reason::RefusedReason;
use crate::registry::{Change, Grant, Registry, RouteSelector, Verdict};
use crate::route::tests::route;
use crate::route::{PathType, Route};

fn routes(paths: &[&str]) -> BTreeMap<RouteId, Route> {
    paths
        .iter()
        .map(|path| route("h.example", path, PathType::Prefix))
        .map(|route| (route.id, route))
        .collect()
}

fn numbered(count: usize) -> BTreeMap<RouteId, Route> {
    let paths: Vec<String> = (0..count).map(|number| format!("/{number}")).collect();
    routes(&paths.iter().map(String::as_str).collect::<Vec<_>>())
}

/// An edge with a store: session, registry and the stored position.
pub(super) struct Edge {
    pub(super) session: EdgeSession,
    registry: Registry,
    cluster: ClusterId,
    pub(super) stored: Option<Position>,
}

impl Edge {
    pub(super) fn new() -> Self {
        let cluster = ClusterId::parse("c").unwrap();
        let mut registry = Registry::new();
        registry.put_cluster(Grant {
            cluster: cluster.clone(),
            own_host: "c.gw.example".parse().unwrap(),
            patterns: vec![gatewright_names::HostPattern::Exact(
                "h.example".parse().unwrap(),
            )],
        });
        Self {
            session: EdgeSession::new(None),
            registry,
            cluster,
            stored: None,
        }
    }

    fn connect(&mut self) -> Option<Position> {
        self.session = EdgeSession::new(self.stored);
        self.stored
    }

    pub(super) fn receive(&mut self, message: IngressRoutes) -> Vec<IngressRoutesAck> {
        let at = message.position();
        match self.session.on_routes(message) {
            Step::Apply { change, position } => {
                let changes = self.registry.apply(&self.cluster, change).unwrap();
                self.stored = position;
                let verdicts = changes
                    .verdicts
                    .get(&self.cluster)
                    .cloned()
                    .unwrap_or_default();
                IngressRoutesAck::of_verdicts(at, &verdicts)
            }
            Step::Staged(ack) | Step::Resync(ack) => vec![ack],
        }
    }

    pub(super) fn routes(&self) -> BTreeMap<RouteId, Route> {
        let kept = self.registry.routes_of_cluster(&self.cluster);
        kept.map(|(route, _)| (route.id, (**route).clone()))
            .collect()
    }
}

/// Lets both sides talk until the agent has nothing to say; returns the messages.
pub(super) fn settle(agent: &mut AgentSession, edge: &mut Edge, now: u64) -> Vec<IngressRoutes> {
    let mut sent = Vec::new();
    while let Some(message) = agent.poll(now) {
        assert!(message.routes.len() <= MAX_ROUTES_PER_MESSAGE);
        sent.push(message.clone());
        for ack in edge.receive(message) {
            agent.on_ack(now, &ack);
        }
        assert!(sent.len() < 1000, "the sessions do not come to rest");
    }
    sent
}

pub(super) fn connect(agent: &mut AgentSession, edge: &mut Edge, now: u64) {
    let resume = edge.connect();
    agent.connected(now, resume);
}

pub(super) fn actions(messages: &[IngressRoutes]) -> Vec<Action> {
    messages.iter().map(|message| message.action).collect()
}

#[test]
fn a_session_begins_with_a_snapshot_and_goes_on_with_deltas() {
    let (mut agent, mut edge) = (AgentSession::new(5), Edge::new());
    agent.set_routes(routes(&["/a", "/b"]));
    assert_eq!(agent.poll(0), None, "not connected");
    connect(&mut agent, &mut edge, 0);
    let sent = settle(&mut agent, &mut edge, 0);
    assert_eq!(actions(&sent), [Action::Snapshot]);
    assert!(agent.accepted_all());
    assert_eq!(
        agent.position(),
        Position {
            generation: 5,
            sequence: 1
        }
    );

    let mut changed = routes(&["/b", "/c"]);
    changed.values_mut().for_each(|route| route.port = 81);
    agent.set_routes(changed.clone());
    assert!(!agent.in_sync());
    let sent = settle(&mut agent, &mut edge, 0);
    assert_eq!(
        actions(&sent),
        [Action::Update, Action::Delete],
        "new routes first, so that nothing is missing between"
    );
    assert_eq!((sent[0].routes.len(), sent[1].routes.len()), (2, 1));
    assert_eq!(edge.routes(), changed);

    agent.set_routes(changed);
    assert_eq!(agent.poll(0), None, "no change, no message");
    assert!(agent.in_sync());
    assert_eq!(agent.next_timeout(), None);
}

#[test]
fn an_empty_set_is_told_too() {
    // Flaw 14: with no Ingress left nothing was sent, and the old routes stayed.
    let (mut agent, mut edge) = (AgentSession::new(5), Edge::new());
    agent.set_routes(routes(&["/a"]));
    connect(&mut agent, &mut edge, 0);
    settle(&mut agent, &mut edge, 0);
    let mut restarted = AgentSession::new(6);
    connect(&mut restarted, &mut edge, 0);
    assert_eq!(
        actions(&settle(&mut restarted, &mut edge, 0)),
        [Action::Snapshot]
    );
    assert_eq!(edge.routes(), BTreeMap::new());
}

#[test]
fn flaw_14_an_update_that_drops_all_routes_drops_them_at_the_edge() {
    let (mut agent, mut edge) = (AgentSession::new(5), Edge::new());
    agent.set_routes(routes(&["/a", "/b"]));
    connect(&mut agent, &mut edge, 0);
    settle(&mut agent, &mut edge, 0);
    agent.set_routes(BTreeMap::new());
    assert_eq!(actions(&settle(&mut agent, &mut edge, 0)), [Action::Delete]);
    assert_eq!(edge.routes(), BTreeMap::new());
}

#[test]
fn a_large_snapshot_comes_in_parts_and_is_applied_as_a_whole() {
    let (mut agent, mut edge) = (AgentSession::new(5), Edge::new());
    agent.set_routes(routes(&["/old"]));
    connect(&mut agent, &mut edge, 0);
    settle(&mut agent, &mut edge, 0);
    let mut agent = AgentSession::new(6);
    agent.set_routes(numbered(1200));
    connect(&mut agent, &mut edge, 0);
    let mut sizes = Vec::new();
    while let Some(message) = agent.poll(0) {
        sizes.push((message.action, message.routes.len(), message.more));
        if message.more {
            let acks = edge.receive(message);
            assert_eq!(
                edge.routes(),
                routes(&["/old"]),
                "nothing is applied before the last part"
            );
            assert_eq!(
                edge.stored,
                Some(Position {
                    generation: 5,
                    sequence: 1
                })
            );
            assert!(!agent.in_sync());
            agent.on_ack(0, &acks[0]);
        } else {
            edge.receive(message)
                .iter()
                .for_each(|ack| agent.on_ack(0, ack));
        }
    }
    assert_eq!(
        sizes,
        [
            (Action::Snapshot, 500, true),
            (Action::Add, 500, true),
            (Action::Add, 200, false)
        ]
    );
    assert_eq!(edge.routes(), numbered(1200));
    assert!(agent.accepted_all());
}

#[test]
fn a_message_is_bounded_in_bytes_as_well() {
    let mut agent = AgentSession::new(1);
    let mut large = numbered(100);
    large.values_mut().for_each(|route| {
        route
            .annotations
            .insert("k".into(), "v".repeat(crate::MAX_ANNOTATIONS - 1));
    });
    agent.set_routes(large);
    agent.connected(0, None);
    let message = agent.poll(0).unwrap();
    let text = crate::message::AgentMessage::IngressRoutes(message.clone()).encode("", "");
    assert!(text.len() < 1024 * 1024 + 1024, "{} bytes", text.len());
    assert!(message.more && message.routes.len() > 50);
}

#[test]
fn a_change_during_a_snapshot_follows_it() {
    let (mut agent, mut edge) = (AgentSession::new(5), Edge::new());
    agent.set_routes(numbered(600));
    connect(&mut agent, &mut edge, 0);
    let first = agent.poll(0).unwrap();
    let mut changed = numbered(600);
    changed.pop_first();
    changed.extend(routes(&["/new"]));
    agent.set_routes(changed.clone());
    edge.receive(first)
        .iter()
        .for_each(|ack| agent.on_ack(0, ack));
    let sent = settle(&mut agent, &mut edge, 0);
    assert_eq!(
        actions(&sent),
        [Action::Add, Action::Update, Action::Delete]
    );
    assert_eq!(edge.routes(), changed);
}

#[test]
fn a_gap_leads_to_a_snapshot_and_the_old_table_stays() {
    let (mut agent, mut edge) = (AgentSession::new(5), Edge::new());
    agent.set_routes(routes(&["/a"]));
    connect(&mut agent, &mut edge, 0);
    settle(&mut agent, &mut edge, 0);
    let before = edge.routes();
    let delta = |sequence| IngressRoutes {
        action: Action::Delete,
        cluster_uuid: None,
        routes: vec![WireRoute {
            id: before.keys().next().copied(),
            ..WireRoute::default()
        }],
        generation: Some(5),
        sequence: Some(sequence),
        more: false,
    };
    let acks = edge.receive(delta(3));
    assert!(acks[0].resync);
    assert_eq!(edge.routes(), before);
    assert!(
        edge.receive(IngressRoutes {
            generation: Some(6),
            ..delta(2)
        })[0]
            .resync,
        "another generation"
    );
    assert_eq!(edge.routes(), before);
    // A duplicate of what was applied is acknowledged again and does nothing.
    assert_eq!(
        edge.receive(delta(1)),
        [IngressRoutesAck::at(Some(Position {
            generation: 5,
            sequence: 1
        }))]
    );
    assert_eq!(edge.routes(), before);

    agent.set_routes(routes(&["/b"]));
    let lost = agent.poll(0).unwrap();
    edge.session = EdgeSession::new(None);
    edge.receive(lost)
        .iter()
        .for_each(|ack| agent.on_ack(0, ack));
    assert_eq!(
        actions(&settle(&mut agent, &mut edge, 0)),
        [Action::Snapshot]
    );
    assert_eq!(edge.routes(), routes(&["/b"]));
}

#[test]
fn an_answer_that_does_not_come_leads_to_a_snapshot_after_ten_seconds() {
    let (mut agent, mut edge) = (AgentSession::new(5), Edge::new());
    agent.set_routes(routes(&["/a"]));
    connect(&mut agent, &mut edge, 1_000);
    settle(&mut agent, &mut edge, 1_000);
    agent.set_routes(routes(&["/a", "/b"]));
    let late = agent.poll(2_000).unwrap();
    assert_eq!(late.action, Action::Update);
    assert_eq!(agent.next_timeout(), Some(2_000 + ACK_TIMEOUT));
    assert_eq!(agent.poll(11_999), None);
    let again = agent.poll(12_000).unwrap();
    assert_eq!((again.action, again.sequence), (Action::Snapshot, Some(3)));
    // The answer to the message that was given up changes nothing.
    for ack in edge.receive(late) {
        agent.on_ack(12_001, &ack);
    }
    assert!(!agent.in_sync());
    edge.receive(again)
        .iter()
        .for_each(|ack| agent.on_ack(12_002, ack));
    assert!(agent.in_sync());
    assert_eq!(edge.routes(), routes(&["/a", "/b"]));
}

#[test]
fn an_edge_that_always_asks_for_a_snapshot_is_asked_ever_more_slowly() {
    let mut agent = AgentSession::new(5);
    agent.set_routes(routes(&["/a"]));
    agent.connected(0, None);
    let mut now = 0;
    let mut sent = Vec::new();
    while sent.len() < 9 {
        let message = agent.poll(now).unwrap_or_else(|| {
            now = agent.next_timeout().unwrap();
            agent.poll(now).unwrap()
        });
        sent.push(now);
        agent.on_ack(now, &IngressRoutesAck::resync(message.position()));
    }
    let pauses: Vec<u64> = sent.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(
        pauses,
        [0, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
    );
}

#[test]
fn a_reconnect_continues_with_what_changed_if_both_are_at_the_same_position() {
    let (mut agent, mut edge) = (AgentSession::new(5), Edge::new());
    agent.set_routes(routes(&["/a"]));
    connect(&mut agent, &mut edge, 0);
    settle(&mut agent, &mut edge, 0);
    agent.disconnected();
    agent.set_routes(routes(&["/a", "/b"]));
    assert_eq!(
        (agent.poll(0), agent.in_sync(), agent.next_timeout()),
        (None, false, None)
    );
    connect(&mut agent, &mut edge, 0);
    let sent = settle(&mut agent, &mut edge, 0);
    assert_eq!(
        (actions(&sent), sent[0].routes.len()),
        (vec![Action::Update], 1)
    );
    assert_eq!(edge.routes(), routes(&["/a", "/b"]));
    // An edge that has lost its store, or has another agent's routes, gets everything.
    for stored in [
        None,
        Some(Position {
            generation: 4,
            sequence: 2,
        }),
        Some(Position {
            generation: 5,
            sequence: 1,
        }),
    ] {
        agent.disconnected();
        edge.stored = stored;
        connect(&mut agent, &mut edge, 0);
        assert_eq!(
            actions(&settle(&mut agent, &mut edge, 0)),
            [Action::Snapshot],
            "{stored:?}"
        );
    }
}

#[test]
fn an_answer_lost_with_its_connection_is_found_in_the_position() {
    let (mut agent, mut edge) = (AgentSession::new(5), Edge::new());
    agent.set_routes(routes(&["/a"]));
    connect(&mut agent, &mut edge, 0);
    settle(&mut agent, &mut edge, 0);
    agent.set_routes(routes(&["/a", "/b"]));
    let message = agent.poll(0).unwrap();
    let _lost = edge.receive(message);
    agent.disconnected();
    connect(&mut agent, &mut edge, 0);
    assert_eq!(settle(&mut agent, &mut edge, 0), []);
    assert!(agent.in_sync());
    assert_eq!(edge.routes(), routes(&["/a", "/b"]));
}

#[test]
fn refusals_are_kept_until_the_edge_or_the_routes_say_otherwise() {
    let mut agent = AgentSession::new(5);
    let all = routes(&["/a", "/b", "/c"]);
    let ids: Vec<RouteId> = all.keys().copied().collect();
    agent.set_routes(all.clone());
    agent.connected(0, None);
    let at = agent.poll(0).unwrap().position();
    let refused = |id| Refused::new(id, "", "", RefusedReason::HostOwnedByOther);
    agent.on_ack(
        0,
        &IngressRoutesAck {
            refused: vec![refused(ids[0]), refused(RouteId(1))],
            ..IngressRoutesAck::at(at)
        },
    );
    assert_eq!(
        agent.refusals().keys().copied().collect::<Vec<_>>(),
        [ids[0]],
        "only of routes that there are"
    );
    assert!(agent.in_sync() && !agent.accepted_all());

    // News without being asked: another is refused, the first is served.
    let verdicts = [
        (ids[0], Verdict::Accepted),
        (ids[1], Verdict::Refused(RefusedReason::HostNotGranted)),
    ];
    IngressRoutesAck::of_verdicts(None, &verdicts)
        .iter()
        .for_each(|ack| agent.on_ack(0, ack));
    assert_eq!(
        agent.refusals().keys().copied().collect::<Vec<_>>(),
        [ids[1]]
    );
    assert_eq!(
        agent.refusals()[&ids[1]].reason,
        RefusedReason::HostNotGranted
    );

    // After a reconnect the edge says all there is to say.
    agent.disconnected();
    agent.connected(0, at);
    assert_eq!(agent.refusals().len(), 1, "known until told otherwise");
    IngressRoutesAck::all_refusals(2, vec![refused(ids[2])])
        .iter()
        .for_each(|ack| agent.on_ack(0, ack));
    assert_eq!(
        agent.refusals().keys().copied().collect::<Vec<_>>(),
        [ids[2]]
    );
    agent.set_routes(routes(&["/a"]));
    assert!(
        agent.refusals().len() <= 1
            && agent
                .refusals()
                .keys()
                .all(|id| routes(&["/a"]).contains_key(id))
    );

    // A route that is sent again and not refused again is served.
    let mut agent = AgentSession::new(6);
    agent.set_routes(all.clone());
    agent.connected(0, None);
    let at = agent.poll(0).unwrap().position();
    agent.on_ack(
        0,
        &IngressRoutesAck {
            refused: vec![refused(ids[0])],
            ..IngressRoutesAck::at(at)
        },
    );
    let mut changed = all;
    changed.values_mut().for_each(|route| route.port = 81);
    agent.set_routes(changed);
    let at = agent.poll(0).unwrap().position();
    agent.on_ack(0, &IngressRoutesAck::at(at));
    assert!(agent.accepted_all());
}

#[test]
fn refusals_of_the_parts_of_a_snapshot_count_once_it_is_complete() {
    let mut edge = EdgeSession::with_limit(None, 700);
    let mut agent = AgentSession::new(5);
    agent.set_routes(numbered(1200));
    agent.connected(0, None);
    let Step::Staged(first) = edge.on_routes(agent.poll(0).unwrap()) else {
        panic!("not staged")
    };
    assert_eq!(first.refused, []);
    agent.on_ack(0, &first);
    let Step::Staged(second) = edge.on_routes(agent.poll(0).unwrap()) else {
        panic!("not staged")
    };
    assert_eq!(
        second.refused.len(),
        300,
        "a snapshot takes no more memory than the limit allows"
    );
    agent.on_ack(0, &second);
    assert!(agent.refusals().is_empty());
    let Step::Apply {
        change: Change::Replace(kept),
        position,
    } = edge.on_routes(agent.poll(0).unwrap())
    else {
        panic!("not applied")
    };
    assert_eq!(kept.len(), 700 + 200);
    agent.on_ack(0, &IngressRoutesAck::at(position));
    assert_eq!(agent.refusals().len(), 300);
    assert!(
        agent
            .refusals()
            .values()
            .all(|refusal| refusal.reason == RefusedReason::TooManyRoutes)
    );
}

#[test]
fn a_sender_that_does_not_count_is_applied_as_it_stands() {
    let mut edge = EdgeSession::new(Some(Position {
        generation: 5,
        sequence: 1,
    }));
    let message = |action| IngressRoutes {
        action,
        cluster_uuid: Some("abc-123".into()),
        routes: vec![WireRoute {
            host: Some("H.example.".into()),
            path: Some("/a".into()),
            ..WireRoute::default()
        }],
        generation: None,
        sequence: None,
        more: false,
    };
    let Step::Apply { change, position } = edge.on_routes(message(Action::Add)) else {
        panic!("not applied")
    };
    assert_eq!(
        (change, position),
        (Change::Upsert(message(Action::Add).routes), None)
    );
    let Step::Apply { change, .. } = edge.on_routes(message(Action::Delete)) else {
        panic!("not applied")
    };
    let selector = RouteSelector::Like {
        host: "h.example".into(),
        path: "/a".into(),
        path_type: None,
        service: None,
        namespace: None,
    };
    assert_eq!(change, Change::Delete(vec![selector]));
    // Nobody knows what a delta would continue now.
    let counted = IngressRoutes {
        generation: Some(5),
        sequence: Some(2),
        ..message(Action::Add)
    };
    assert!(matches!(edge.on_routes(counted), Step::Resync(ack) if ack.resync));
}

#[test]
fn a_change_that_could_not_be_applied_is_asked_for_again() {
    let (mut agent, mut edge) = (AgentSession::new(5), Edge::new());
    agent.set_routes(routes(&["/a"]));
    connect(&mut agent, &mut edge, 0);
    let message = agent.poll(0).unwrap();
    assert!(matches!(
        edge.session.on_routes(message.clone()),
        Step::Apply { .. }
    ));
    let ack = edge.session.apply_failed();
    assert_eq!((ack.resync, ack.position()), (true, message.position()));
    agent.on_ack(0, &ack);
    assert!(!agent.in_sync());
    assert_eq!(
        actions(&settle(&mut agent, &mut edge, 0)),
        [Action::Snapshot]
    );
    assert_eq!(edge.routes(), routes(&["/a"]));
}

#[test]
fn a_part_out_of_place_ends_the_snapshot() {
    let part = |action, sequence, more| IngressRoutes {
        action,
        cluster_uuid: None,
        routes: Vec::new(),
        generation: Some(5),
        sequence: Some(sequence),
        more,
    };
    for wrong in [part(Action::Add, 3, false), part(Action::Delete, 2, false)] {
        let mut edge = EdgeSession::new(None);
        assert!(matches!(
            edge.on_routes(part(Action::Snapshot, 1, true)),
            Step::Staged(_)
        ));
        assert!(matches!(edge.on_routes(wrong), Step::Resync(_)));
        assert!(
            matches!(edge.on_routes(part(Action::Add, 2, false)), Step::Resync(_)),
            "nothing is left of it"
        );
        assert_eq!(edge.position(), None);
        assert!(matches!(
            edge.on_routes(part(Action::Snapshot, 4, false)),
            Step::Apply { .. }
        ));
    }
}

#[test]
fn a_snapshot_is_only_an_old_one_on_the_connection_that_brought_it() {
    let snapshot = |sequence| IngressRoutes {
        action: Action::Snapshot,
        cluster_uuid: None,
        routes: Vec::new(),
        generation: Some(5),
        sequence: Some(sequence),
        more: false,
    };
    // An agent that counts anew in the same generation: its set is what it says, not what was stored.
    let mut edge = EdgeSession::new(Some(Position {
        generation: 5,
        sequence: 3,
    }));
    assert!(matches!(edge.on_routes(snapshot(1)), Step::Apply { .. }));
    assert!(matches!(edge.on_routes(snapshot(1)), Step::Staged(ack) if !ack.resync));
}

#[test]
fn what_was_lost_with_its_connection_is_made_up_for_by_a_snapshot_at_once() {
    let (mut agent, mut edge) = (AgentSession::new(5), Edge::new());
    agent.set_routes(routes(&["/a"]));
    connect(&mut agent, &mut edge, 0);
    settle(&mut agent, &mut edge, 0);
    agent.set_routes(routes(&["/b"]));
    for mut now in [0, ACK_TIMEOUT] {
        let _lost = agent.poll(now).unwrap();
        now += 1;
        agent.disconnected();
        connect(&mut agent, &mut edge, now);
    }
    // The edge is where it was; a delta with the next number would be a gap to it.
    assert_eq!(
        actions(&settle(&mut agent, &mut edge, ACK_TIMEOUT + 1)),
        [Action::Snapshot]
    );
    assert_eq!(edge.routes(), routes(&["/b"]));
}
