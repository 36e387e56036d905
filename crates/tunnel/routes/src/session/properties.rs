//! Both sides against each other in virtual time, with any loss, duplicates and reconnects.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::tests::{Edge, actions, connect, settle};
use super::*;
use crate::id::RouteId;
use crate::message::{Action, IngressRoutes, IngressRoutesAck};
use crate::route::tests::route;
use crate::route::{PathType, Route};

/// Something that happens to a session.
#[derive(Debug, Clone)]
enum Event {
    SetRoutes(Vec<(u8, u16)>),
    /// The next message arrives, so many times.
    Deliver(usize),
    LoseMessage,
    DeliverAck(usize),
    LoseAck,
    Reconnect,
    RestartAgent,
    EdgeForgets,
    ApplyFails,
    Wait(u64),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => prop::collection::vec((0..12u8, 1..3u16), 0..10).prop_map(Event::SetRoutes),
        6 => (1..3usize).prop_map(Event::Deliver),
        1 => Just(Event::LoseMessage),
        6 => (1..3usize).prop_map(Event::DeliverAck),
        1 => Just(Event::LoseAck),
        1 => Just(Event::Reconnect),
        1 => Just(Event::RestartAgent),
        1 => Just(Event::EdgeForgets),
        1 => Just(Event::ApplyFails),
        1 => (1..20_000u64).prop_map(Event::Wait),
    ]
}

fn set_of(paths: &[(u8, u16)]) -> BTreeMap<RouteId, Route> {
    let with_port = |&(path, port): &(u8, u16)| {
        let route = Route {
            port,
            ..route("h.example", &format!("/{path}"), PathType::Prefix)
        };
        (route.id, route)
    };
    paths.iter().map(with_port).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn whatever_happens_the_edge_ends_with_the_agents_routes(events in prop::collection::vec(any_event(), 0..60)) {
        let (mut agent, mut edge) = (AgentSession::new(1), Edge::new());
        let mut desired = BTreeMap::new();
        let (mut now, mut generation) = (0, 1);
        let mut to_edge: VecDeque<IngressRoutes> = VecDeque::new();
        let mut to_agent: VecDeque<IngressRoutesAck> = VecDeque::new();
        connect(&mut agent, &mut edge, now);
        for event in events {
            match event {
                Event::SetRoutes(paths) => {
                    desired = set_of(&paths);
                    agent.set_routes(desired.clone());
                }
                Event::Deliver(times) => {
                    if let Some(message) = to_edge.pop_front() {
                        for _ in 0..times {
                            to_agent.extend(edge.receive(message.clone()));
                        }
                    }
                }
                Event::LoseMessage => drop(to_edge.pop_front()),
                Event::DeliverAck(times) => {
                    if let Some(ack) = to_agent.pop_front() {
                        (0..times).for_each(|_| agent.on_ack(now, &ack));
                    }
                }
                Event::LoseAck => drop(to_agent.pop_front()),
                Event::Reconnect | Event::RestartAgent | Event::EdgeForgets => {
                    to_edge.clear();
                    to_agent.clear();
                    agent.disconnected();
                    if let Event::RestartAgent = event {
                        generation += 1;
                        agent = AgentSession::new(generation);
                        agent.set_routes(desired.clone());
                    }
                    if let Event::EdgeForgets = event {
                        edge = Edge::new();
                    }
                    connect(&mut agent, &mut edge, now);
                }
                Event::ApplyFails => {
                    if let Some(message) = to_edge.pop_front() {
                        let at = message.position();
                        match edge.session.on_routes(message) {
                            Step::Apply { .. } => to_agent.push_back(edge.session.apply_failed()),
                            Step::Staged(ack) | Step::Resync(ack) => to_agent.push_back(ack),
                        }
                        prop_assert_eq!(to_agent.back().and_then(IngressRoutesAck::position), at);
                    }
                }
                Event::Wait(time) => now += time,
            }
            to_edge.extend(agent.poll(now));
            // Whoever says that all is well is right.
            if agent.in_sync() {
                prop_assert_eq!(&edge.routes(), &desired);
            }
        }
        // From here on nothing is lost any more.
        for _ in 0..100 {
            while let Some(message) = to_edge.pop_front() {
                to_agent.extend(edge.receive(message));
            }
            while let Some(ack) = to_agent.pop_front() {
                agent.on_ack(now, &ack);
            }
            to_edge.extend(agent.poll(now));
            if to_edge.is_empty() {
                match agent.next_timeout() {
                    Some(timeout) => now = now.max(timeout),
                    None => break,
                }
            }
        }
        prop_assert!(agent.accepted_all());
        prop_assert_eq!(edge.routes(), desired);
        prop_assert_eq!(edge.stored, Some(agent.position()));
        prop_assert_eq!(agent.poll(now), None, "at rest");
    }

    #[test]
    fn delta_application_equals_snapshot(
        before in prop::collection::vec((0..40u8, 1..4u16), 0..30),
        after in prop::collection::vec((0..40u8, 1..4u16), 0..30),
    ) {
        let (mut agent, mut edge) = (AgentSession::new(1), Edge::new());
        agent.set_routes(set_of(&before));
        connect(&mut agent, &mut edge, 0);
        settle(&mut agent, &mut edge, 0);
        agent.set_routes(set_of(&after));
        let deltas = settle(&mut agent, &mut edge, 0);
        prop_assert!(!actions(&deltas).contains(&Action::Snapshot));

        let (mut fresh, mut other) = (AgentSession::new(2), Edge::new());
        fresh.set_routes(set_of(&after));
        connect(&mut fresh, &mut other, 0);
        settle(&mut fresh, &mut other, 0);
        prop_assert_eq!(edge.routes(), other.routes());
        prop_assert_eq!(edge.routes(), set_of(&after));
    }
}
