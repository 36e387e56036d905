//! The crate as agent and edge use it together: routes in, JSON between, the routing table out.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;

use gatewright_names::{HostPattern, Hostname, WildcardMode};
use gatewright_routes::message::{AgentMessage, EdgeMessage, IngressRoutesAck};
use gatewright_routes::registry::{Changes, Grant, Registry, Verdict};
use gatewright_routes::session::{AgentSession, EdgeSession, Step};
use gatewright_routes::{
    BackendProtocol, Change, ClusterId, NoMatch, PathType, RefusedReason, Route, RouteId,
    RouteTable,
};

fn route(host: &str, path: &str) -> (RouteId, Route) {
    let source = "Ingress/shop/app".to_owned();
    let id = RouteId::of(&source, host, path, PathType::Prefix);
    let route = Route {
        id,
        host: Some(HostPattern::parse(host, WildcardMode::OneLabel).unwrap()),
        path: path.to_owned(),
        path_type: PathType::Prefix,
        service: "app".to_owned(),
        namespace: "shop".to_owned(),
        port: 8080,
        tls: false,
        annotations: BTreeMap::new(),
        protocol: BackendProtocol::Http,
        created: 1_700_000_000,
        source,
    };
    (id, route)
}

/// A small edge: what it would store, and the table that it would publish.
struct Edge {
    registry: Registry,
    table: RouteTable<(ClusterId, Arc<Route>)>,
    store: BTreeMap<(ClusterId, RouteId), String>,
}

impl Edge {
    fn new(grants: &[(&str, &str)]) -> Self {
        let mut edge = Self {
            registry: Registry::new(),
            table: RouteTable::new(),
            store: BTreeMap::new(),
        };
        for (cluster, pattern) in grants {
            edge.registry.put_cluster(Grant {
                cluster: ClusterId::parse(cluster).unwrap(),
                own_host: Hostname::parse(&format!("{cluster}-7x2k.gw.example")).unwrap(),
                patterns: vec![HostPattern::parse(pattern, WildcardMode::ManyLabels).unwrap()],
            });
        }
        edge
    }

    fn apply(&mut self, cluster: &ClusterId, change: Change) -> Changes {
        let changes = self.registry.apply(cluster, change).unwrap();
        for (id, route) in &changes.routes {
            let key = (cluster.clone(), *id);
            match route {
                Some(route) => self
                    .store
                    .insert(key, serde_json::to_string(&**route).unwrap()),
                None => self.store.remove(&key),
            };
        }
        for host in &changes.hosts {
            let owner = self.registry.owner(host).cloned();
            let routes = self.registry.routes_of_host(host).into_iter();
            let entry =
                |route: Arc<Route>| owner.clone().map(|owner| (route.clone(), (owner, route)));
            self.table
                .set_host(host, routes.filter_map(entry).collect());
        }
        changes
    }

    /// A text from an agent's control connection; the texts to answer with, and what other agents are told.
    fn receive(
        &mut self,
        session: &mut EdgeSession,
        cluster: &ClusterId,
        text: &str,
    ) -> (Vec<String>, BTreeMap<ClusterId, Vec<IngressRoutesAck>>) {
        let (request_id, message) = AgentMessage::decode(text).unwrap();
        let AgentMessage::IngressRoutes(message) = message else {
            panic!("{message:?}")
        };
        let at = message.position();
        let mut others = BTreeMap::new();
        let acks = match session.on_routes(message) {
            Step::Apply { change, .. } => {
                let mut changes = self.apply(cluster, change);
                let own = changes.verdicts.remove(cluster).unwrap_or_default();
                for (other, verdicts) in changes.verdicts {
                    others.insert(other, IngressRoutesAck::of_verdicts(None, &verdicts));
                }
                IngressRoutesAck::of_verdicts(at, &own)
            }
            Step::Staged(ack) | Step::Resync(ack) => vec![ack],
        };
        let encode =
            |ack| EdgeMessage::IngressRoutesAck(ack).encode(&request_id, "2026-01-02T03:04:05Z");
        (acks.into_iter().map(encode).collect(), others)
    }

    fn served(&self, host: &str, path: &str) -> Result<&str, NoMatch> {
        self.table
            .lookup(host, path)
            .map(|(cluster, _)| cluster.as_str())
    }
}

/// Says all that the agent has to say, as text; returns what others are told.
fn exchange(
    agent: &mut AgentSession,
    edge: &mut Edge,
    session: &mut EdgeSession,
    cluster: &ClusterId,
) -> BTreeMap<ClusterId, Vec<IngressRoutesAck>> {
    let mut told = BTreeMap::new();
    while let Some(message) = agent.poll(0) {
        let text = AgentMessage::IngressRoutes(message).encode("r", "2026-01-02T03:04:05Z");
        let (answers, others) = edge.receive(session, cluster, &text);
        told.extend(others);
        for answer in answers {
            match EdgeMessage::decode(&answer).unwrap() {
                (id, EdgeMessage::IngressRoutesAck(ack)) if id == "r" => agent.on_ack(0, &ack),
                other => panic!("{other:?}"),
            }
        }
    }
    told
}

#[test]
fn two_clusters_that_want_one_host_from_register_to_failover() {
    let mut edge = Edge::new(&[("one", "*.shop.example"), ("two", "*.shop.example")]);
    let (one, two) = (
        ClusterId::parse("one").unwrap(),
        ClusterId::parse("two").unwrap(),
    );
    let (mut agent_one, mut session_one) = (AgentSession::new(11), EdgeSession::new(None));
    let (mut agent_two, mut session_two) = (AgentSession::new(22), EdgeSession::new(None));
    agent_one.connected(0, None);
    agent_two.connected(0, None);

    agent_one.set_routes([route("www.shop.example", "/"), route("else.example", "/")].into());
    exchange(&mut agent_one, &mut edge, &mut session_one, &one);
    assert_eq!(edge.served("www.shop.example", "/cart"), Ok("one"));
    assert_eq!(edge.served("else.example", "/"), Err(NoMatch::UnknownHost));
    let refused = &agent_one.refusals()[&route("else.example", "/").0];
    assert_eq!(refused.reason, RefusedReason::HostNotGranted);
    assert!(
        refused.message.contains("ask the edge's administrator"),
        "{}",
        refused.message
    );

    agent_two.set_routes(
        [
            route("www.shop.example", "/"),
            route("api.shop.example", "/"),
        ]
        .into(),
    );
    exchange(&mut agent_two, &mut edge, &mut session_two, &two);
    assert_eq!(edge.served("www.shop.example", "/"), Ok("one"));
    assert_eq!(edge.served("api.shop.example", "/"), Ok("two"));
    assert_eq!(agent_two.refusals().len(), 1);

    // The first cluster gives the host up: the second is told without asking.
    agent_one.set_routes(BTreeMap::new());
    let mut told = exchange(&mut agent_one, &mut edge, &mut session_one, &one);
    for ack in told.remove(&two).unwrap() {
        agent_two.on_ack(0, &ack);
    }
    assert!(agent_two.accepted_all() && agent_one.accepted_all());
    assert_eq!(edge.served("www.shop.example", "/"), Ok("two"));
}

#[test]
fn an_edge_that_restarts_serves_what_it_had_stored() {
    let mut edge = Edge::new(&[("one", "*.shop.example")]);
    let one = ClusterId::parse("one").unwrap();
    let (mut agent, mut session) = (AgentSession::new(1), EdgeSession::new(None));
    agent.connected(0, None);
    agent.set_routes(
        [
            route("a.shop.example", "/"),
            route("*.shop.example", "/b"),
            route("no.example", "/"),
        ]
        .into(),
    );
    exchange(&mut agent, &mut edge, &mut session, &one);

    let mut restarted = Edge::new(&[("one", "*.shop.example")]);
    let stored = edge
        .store
        .values()
        .map(|json| serde_json::from_str(json).unwrap())
        .collect();
    restarted.apply(&one, Change::Replace(stored));
    assert_eq!(restarted.store, edge.store);
    for (host, path) in [
        ("a.shop.example", "/"),
        ("x.shop.example", "/b/c"),
        ("no.example", "/"),
        ("x.shop.example", "/"),
    ] {
        assert_eq!(
            restarted.served(host, path),
            edge.served(host, path),
            "{host}{path}"
        );
    }
    let verdicts: Vec<Verdict> = restarted
        .registry
        .routes_of_cluster(&one)
        .map(|(_, verdict)| *verdict)
        .collect();
    assert_eq!(
        verdicts
            .iter()
            .filter(|verdict| **verdict == Verdict::Accepted)
            .count(),
        2
    );
}
