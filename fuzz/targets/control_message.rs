//! Any text as a control message of either side, through the sessions and the registry. May not assume that a peer is
//! one of ours: whatever was read must survive being written, and nothing may be served that is not granted.
#![no_main]

use gatewright_names::{HostPattern, Hostname, WildcardMode};
use gatewright_routes::message::{
    AgentMessage, EdgeMessage, IngressRoutes, MAX_MESSAGE, WireRoute,
};
use gatewright_routes::registry::{Grant, Registry, Verdict};
use gatewright_routes::session::{AgentSession, EdgeSession, Step};
use gatewright_routes::{Change, ClusterId};
use libfuzzer_sys::fuzz_target;

// One message per line, as on one connection.
fuzz_target!(|text: &str| {
    let mut registry = Registry::with_limit(4);
    let cluster = ClusterId::parse("c").expect("a valid id");
    let granted =
        HostPattern::parse("*.example.com", WildcardMode::ManyLabels).expect("a valid pattern");
    let own_host = Hostname::parse("c.gw.example").expect("a valid name");
    registry.put_cluster(Grant {
        cluster: cluster.clone(),
        own_host: own_host.clone(),
        patterns: vec![granted.clone()],
    });
    let mut edge = EdgeSession::with_limit(None, 4);
    let mut agent = AgentSession::new(1);
    agent.connected(0, None);
    for line in text.lines() {
        read_as_edge(line, &mut agent);
        let message = match AgentMessage::decode(line) {
            Ok((id, message)) => {
                let written = message.encode(&id, "");
                // Escapes may make a text longer than may be read.
                if written.len() <= MAX_MESSAGE {
                    let again =
                        AgentMessage::decode(&written).expect("what was written can be read");
                    assert_eq!(again, (id, message.clone()));
                }
                message
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                continue;
            }
        };
        if let AgentMessage::IngressRoutes(message) = message {
            apply(&mut edge, &mut registry, &cluster, message);
        }
        for (route, verdict) in registry.routes_of_cluster(&cluster) {
            if *verdict == Verdict::Accepted {
                let pattern = route
                    .host
                    .clone()
                    .unwrap_or(HostPattern::Exact(own_host.clone()));
                let own = *pattern.name() == own_host || pattern.name().is_under(&own_host);
                assert!(own || granted.covers(&pattern), "{route:?} is served");
            }
        }
        assert!(registry.routes_of_cluster(&cluster).count() <= 4);
    }
});

fn read_as_edge(line: &str, agent: &mut AgentSession) {
    if let Ok((id, message)) = EdgeMessage::decode(line) {
        let written = message.encode(&id, "");
        if written.len() <= MAX_MESSAGE {
            assert_eq!(
                EdgeMessage::decode(&written).expect("what was written can be read"),
                (id, message.clone())
            );
        }
        if let EdgeMessage::IngressRoutesAck(ack) = message {
            agent.on_ack(0, &ack);
            let _ = agent.poll(0);
        }
    }
}

fn apply(
    edge: &mut EdgeSession,
    registry: &mut Registry,
    cluster: &ClusterId,
    message: IngressRoutes,
) {
    match edge.on_routes(message) {
        Step::Apply { change, position } => {
            let changes = registry
                .apply(cluster, change)
                .expect("the cluster is known");
            assert_eq!(edge.position(), position);
            let kept: Vec<WireRoute> = registry
                .routes_of_cluster(cluster)
                .map(|(route, _)| WireRoute::from(&**route))
                .collect();
            for host in &changes.hosts {
                let served = registry.routes_of_host(host);
                assert!(
                    served
                        .iter()
                        .all(|route| kept.contains(&WireRoute::from(&**route)))
                );
            }
            // What is kept, said again, changes nothing.
            let again = registry
                .apply(cluster, Change::Replace(kept))
                .expect("the cluster is known");
            assert!(
                again.hosts.is_empty() && again.routes.is_empty(),
                "{again:?}"
            );
        }
        Step::Staged(_) => {}
        Step::Resync(ack) => assert!(ack.resync),
    }
}
