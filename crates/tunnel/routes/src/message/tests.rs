//! The specified messages word for word, the written form of ours, and what is tolerated.

use std::error::Error as _;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::id::RouteId;
use crate::reason::RefusedReason;
use crate::registry::Verdict;
use crate::route::{PathType, Route};

/// The messages of the specification, as they stand there.
const SPECIFIED: [&str; 3] = [
    r#"{"type": "ingress_routes", "payload": {"action": "add", "cluster_uuid": "abc-123", "routes": [
    {"host": "example.com", "path": "/api", "path_type": "Prefix", "service": "api-service", "namespace": "default", "port": 8080, "tls": true,
     "annotations": {"nginx.ingress.kubernetes.io/rewrite-target": "/"}}]}}"#,
    r#"{"type": "ingress_routes", "payload": {"action": "add", "cluster_uuid": "abc-123", "routes": [
    {"host": "example.com", "path": "/api", "service": "api-service", "namespace": "default", "port": 8080, "tls": true}]}}"#,
    r#"{"type": "heartbeat", "payload": {"metadata": {"is_private": true, "gateway_routes": 5}}}"#,
];

fn agent(text: &str) -> AgentMessage {
    AgentMessage::decode(text).unwrap().1
}

fn routes_of(text: &str) -> IngressRoutes {
    match agent(text) {
        AgentMessage::IngressRoutes(message) => message,
        other @ (AgentMessage::Register(_)
        | AgentMessage::Heartbeat(_)
        | AgentMessage::Unknown(_)) => {
            panic!("{other:?}")
        }
    }
}

#[test]
fn the_specified_messages_are_understood_word_for_word() {
    for (text, annotations) in [(SPECIFIED[0], 1), (SPECIFIED[1], 0)] {
        let message = routes_of(text);
        assert_eq!(message.action, Action::Add);
        assert_eq!(message.cluster_uuid.as_deref(), Some("abc-123"));
        assert_eq!((message.position(), message.more), (None, false));
        let [wire] = message.routes.try_into().unwrap();
        let route = Route::try_from(wire).unwrap();
        assert_eq!(route.host_text(), "example.com");
        assert_eq!(
            (route.path.as_str(), route.path_type),
            ("/api", PathType::Prefix)
        );
        assert_eq!(
            (route.service.as_str(), route.namespace.as_str(), route.port),
            ("api-service", "default", 8080)
        );
        assert!(route.tls);
        assert_eq!(route.annotations.len(), annotations);
        assert_eq!(
            route.id,
            RouteId::of("", "example.com", "/api", PathType::Prefix)
        );
    }
    let AgentMessage::Heartbeat(heartbeat) = agent(SPECIFIED[2]) else {
        panic!("not a heartbeat")
    };
    assert_eq!(heartbeat.metadata.is_private, Some(true));
    assert_eq!(heartbeat.metadata.gateway_routes, Some(5));
}

#[test]
fn the_written_form_of_agents_messages() {
    let time = "2026-01-02T03:04:05Z";
    let register = AgentMessage::Register(Register {
        agent_id: "agent-1".into(),
        connection: 0,
        connections: 2,
        agent_version: "0.1.0".into(),
        k8s_version: Some("v1.33.1".into()),
        labels: [("region".to_owned(), "eu".to_owned())].into(),
        resume: Some(Position {
            generation: 7,
            sequence: 9,
        }),
        drain: false,
    });
    assert_eq!(
        register.encode("r1", time),
        r#"{"type":"register","request_id":"r1","payload":{"agent_id":"agent-1","connection":0,"connections":2,"agent_version":"0.1.0","k8s_version":"v1.33.1","labels":{"region":"eu"},"resume":{"generation":7,"sequence":9}},"timestamp":"2026-01-02T03:04:05Z"}"#
    );
    let heartbeat = AgentMessage::Heartbeat(Heartbeat {
        metadata: HeartbeatMetadata {
            is_private: Some(true),
            gateway_routes: Some(5),
            rest: [("k8s_nodes".to_owned(), json!(3))].into(),
            ..HeartbeatMetadata::default()
        },
        ..Heartbeat::default()
    });
    assert_eq!(
        heartbeat.encode("", time),
        r#"{"type":"heartbeat","request_id":"","payload":{"metadata":{"is_private":true,"gateway_routes":5,"k8s_nodes":3}},"timestamp":"2026-01-02T03:04:05Z"}"#
    );
    let routes = AgentMessage::IngressRoutes(IngressRoutes {
        action: Action::Snapshot,
        cluster_uuid: None,
        routes: vec![(&crate::route::tests::route("example.com", "/api", PathType::Prefix)).into()],
        generation: Some(7),
        sequence: Some(1),
        more: true,
    });
    assert_eq!(
        routes.encode("r2", time),
        r#"{"type":"ingress_routes","request_id":"r2","payload":{"action":"snapshot","routes":[{"id":"3eeb1a2b93a55c28","host":"example.com","path":"/api","path_type":"Prefix","service":"app","namespace":"default","port":8080,"tls":false,"protocol":"http","created":1700000000,"source":"Ingress/default/app"}],"generation":7,"sequence":1,"more":true},"timestamp":"2026-01-02T03:04:05Z"}"#
    );
    for message in [register, heartbeat, routes] {
        assert_eq!(
            AgentMessage::decode(&message.encode("id", time)).unwrap(),
            ("id".to_owned(), message)
        );
    }
}

#[test]
fn the_written_form_of_edges_messages() {
    let time = "2026-01-02T03:04:05Z";
    let success = EdgeMessage::RegisterSuccess(RegisterSuccess {
        cluster_id: "abc-123".into(),
        cluster_uuid: "4c1d2b1e-0000-4000-8000-000000000000".into(),
        name: "demo".into(),
        own_host: "demo-k3.gateway.example".into(),
        edge_id: "edge-1".into(),
        resume: None,
        max_streams: 1024,
    });
    assert_eq!(
        success.encode("r1", time),
        r#"{"type":"register_success","request_id":"r1","payload":{"cluster_id":"abc-123","cluster_uuid":"4c1d2b1e-0000-4000-8000-000000000000","name":"demo","own_host":"demo-k3.gateway.example","edge_id":"edge-1","max_streams":1024},"timestamp":"2026-01-02T03:04:05Z"}"#
    );
    let heartbeat = EdgeMessage::HeartbeatAck(HeartbeatAck {
        lease_seconds: Some(300),
    });
    assert_eq!(
        heartbeat.encode("h", time),
        r#"{"type":"heartbeat_ack","request_id":"h","payload":{"lease_seconds":300},"timestamp":"2026-01-02T03:04:05Z"}"#
    );
    let ack = EdgeMessage::IngressRoutesAck(IngressRoutesAck {
        accepted: 3,
        refused: vec![Refused::new(
            RouteId(10),
            "example.com",
            "/",
            RefusedReason::TooManyRoutes,
        )],
        ..IngressRoutesAck::at(Some(Position {
            generation: 7,
            sequence: 2,
        }))
    });
    assert_eq!(
        ack.encode("r2", time),
        r#"{"type":"ingress_routes_ack","request_id":"r2","payload":{"generation":7,"sequence":2,"accepted":3,"refused":[{"id":"000000000000000a","host":"example.com","path":"/","reason":"too_many_routes","message":"this cluster has as many routes as it may have; remove routes, or ask the edge's administrator for a higher limit"}]},"timestamp":"2026-01-02T03:04:05Z"}"#
    );
    let error = EdgeMessage::Error(ErrorReply {
        error: "not registered".into(),
        code: "not_registered".into(),
    });
    assert_eq!(
        error.encode("r3", time),
        r#"{"type":"error","request_id":"r3","payload":{"error":"not registered","code":"not_registered"},"timestamp":"2026-01-02T03:04:05Z"}"#
    );
    for message in [success, heartbeat, ack, error] {
        assert_eq!(
            EdgeMessage::decode(&message.encode("id", time)).unwrap(),
            ("id".to_owned(), message)
        );
    }
}

#[test]
fn unknown_types_and_fields_are_tolerated() {
    let (id, message) = AgentMessage::decode(
        r#"{"type":"worker_join","request_id":"9","payload":[1,{"a":null}],"new":1}"#,
    )
    .unwrap();
    assert_eq!(
        (id.as_str(), message),
        ("9", AgentMessage::Unknown("worker_join".into()))
    );
    assert_eq!(
        agent(r#"{"type":"heartbeat"}"#),
        AgentMessage::Heartbeat(Heartbeat::default())
    );
    assert_eq!(
        agent(r#"{"type":"heartbeat","payload":null,"request_id":null}"#),
        AgentMessage::Heartbeat(Heartbeat::default())
    );
    let message = routes_of(
        r#"{"type":"ingress_routes","payload":{"action":"delete","tenant":"x","routes":null}}"#,
    );
    assert_eq!(
        (message.action, message.routes),
        (Action::Delete, Vec::new())
    );
    let (_, message) =
        EdgeMessage::decode(r#"{"type":"gateway_hello","payload":{"use_yamux":true}}"#).unwrap();
    assert_eq!(message, EdgeMessage::Unknown("gateway_hello".into()));
    // A register of an agent that knows other fields, or our fields in other types.
    let text = r#"{"type":"register","payload":{"agent_id":7,"labels":{"a":1,"b":null},"features":{"x":true},"resume":"no","drain":"yes"}}"#;
    let AgentMessage::Register(register) = agent(text) else {
        panic!("not a register")
    };
    assert_eq!(register.agent_id, "7");
    assert_eq!(register.labels, [("a".to_owned(), "1".to_owned())].into());
    assert_eq!((register.resume, register.drain), (None, false));
}

/// A reader that rounds makes another number of it each time it is written and read.
#[test]
fn numbers_nobody_here_knows_are_passed_on_exactly() {
    for number in [
        "10000000000000000000000000000000000000000000000000000010000000000000000",
        "9.999999999999999e+69",
        "0.1",
        "-0.0",
        "5e-324",
    ] {
        let text =
            format!(r#"{{"type":"heartbeat","payload":{{"metadata":{{"free":{number}}}}}}}"#);
        let read = agent(&text);
        let AgentMessage::Heartbeat(heartbeat) = &read else {
            panic!("not a heartbeat")
        };
        let exact: f64 = number.parse().unwrap();
        assert_eq!(heartbeat.metadata.rest["free"], json!(exact), "{number}");
        assert_eq!(agent(&read.encode("", "")), read, "{number}");
    }
}

#[test]
fn a_wrong_field_spoils_its_own_route_only() {
    let message = routes_of(
        r#"{"type":"ingress_routes","payload":{"action":"add","routes":[
            {"host":"a.example","service":"a","port":"http"},
            {"host":"b.example","service":"b","port":99999999999999999999},
            {"host":["c"],"service":"c","port":80},
            {"host":"d.example","service":{"name":"d"},"port":80},
            {"host":"e.example","path":5,"service":"e","port":80},
            {"host":"f.example","path_type":0,"service":"f","port":80},
            {"id":"nonsense","host":"g.example","service":"g","port":80,"tls":"yes","annotations":[1]}
        ]}}"#,
    );
    let verdicts: Vec<_> = message
        .routes
        .into_iter()
        .map(|wire| Route::try_from(wire).map(|route| route.service))
        .collect();
    assert_eq!(
        verdicts,
        [
            Err(RefusedReason::InvalidPort),
            Err(RefusedReason::InvalidPort),
            Err(RefusedReason::InvalidHost),
            Err(RefusedReason::InvalidService),
            Err(RefusedReason::InvalidPath),
            Err(RefusedReason::InvalidPathType),
            Ok("g".to_owned()),
        ]
    );
}

#[test]
fn what_cannot_be_read_is_an_error_that_says_what_to_do() {
    for text in [
        "",
        "null",
        "[]",
        "{",
        "{}",
        r#"{"type":7}"#,
        r#"{"type":null}"#,
        r#"{"payload":{}}"#,
        "\u{0}",
    ] {
        let error = AgentMessage::decode(text).unwrap_err();
        assert_eq!(
            (error.code(), error.request_id()),
            ("not_a_message", ""),
            "{text:?}"
        );
        assert_eq!(
            error.to_string(),
            "the control message is not a JSON object with a text field \"type\""
        );
        assert!(error.source().is_some());
    }
    for payload in [
        r#"{}"#,
        r#"{"action":"upsert"}"#,
        r#"{"action":"add","routes":[7]}"#,
        r#"{"action":"add","sequence":-1}"#,
        "7",
    ] {
        let text = format!(r#"{{"type":"ingress_routes","request_id":"r7","payload":{payload}}}"#);
        let error = AgentMessage::decode(&text).unwrap_err();
        assert_eq!(
            (error.code(), error.request_id()),
            ("bad_payload", "r7"),
            "{text}"
        );
    }
    let error = AgentMessage::decode(&" ".repeat(MAX_MESSAGE + 1)).unwrap_err();
    assert_eq!(error.code(), "message_too_large");
    assert!(error.to_string().contains("4194305 bytes"), "{error}");
}

#[test]
fn a_short_text_cannot_take_much_memory() {
    let text = |count| {
        let routes = vec!["{}"; count].join(",");
        format!(r#"{{"type":"ingress_routes","payload":{{"action":"add","routes":[{routes}]}}}}"#)
    };
    assert_eq!(
        routes_of(&text(MAX_ROUTES_IN_MESSAGE)).routes.len(),
        MAX_ROUTES_IN_MESSAGE
    );
    let error = AgentMessage::decode(&text(MAX_ROUTES_IN_MESSAGE + 1)).unwrap_err();
    let source = error.source().unwrap().to_string();
    assert!(
        source.contains("a list of at most 10000 routes"),
        "{source}"
    );
    let deep = format!(
        r#"{{"type":"heartbeat","payload":{}{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert_eq!(
        AgentMessage::decode(&deep).unwrap_err().code(),
        "bad_payload"
    );
}

#[test]
fn verdicts_become_acks_of_bounded_size() {
    let at = Position {
        generation: 1,
        sequence: 2,
    };
    let verdict = |id| {
        if id % 2 == 0 {
            Verdict::Accepted
        } else {
            Verdict::Refused(RefusedReason::HostNotGranted)
        }
    };
    let verdicts: Vec<_> = (0..5000).map(|id| (RouteId(id), verdict(id))).collect();
    let acks = IngressRoutesAck::of_verdicts(Some(at), &verdicts);
    assert_eq!(
        acks.iter().map(|ack| ack.refused.len()).collect::<Vec<_>>(),
        [1000, 1000, 500]
    );
    assert_eq!(
        (acks[0].position(), acks[0].accepted, acks[0].restored.len()),
        (Some(at), 2500, 0)
    );
    assert_eq!(acks[1].position(), None);
    let unasked = IngressRoutesAck::of_verdicts(None, &verdicts[..3]);
    assert_eq!(unasked.len(), 1);
    assert_eq!(
        (unasked[0].position(), unasked[0].restored.as_slice()),
        (None, [RouteId(0), RouteId(2)].as_slice())
    );
    assert_eq!(
        unasked[0].refused[0].message,
        RefusedReason::HostNotGranted.message()
    );
    assert_eq!(
        IngressRoutesAck::of_verdicts(Some(at), &[]),
        [IngressRoutesAck::at(Some(at))]
    );
    for ack in acks {
        assert!(EdgeMessage::IngressRoutesAck(ack).encode("", "").len() < MAX_MESSAGE / 4);
    }
}

#[test]
fn the_envelope_is_what_both_sides_write() {
    let text = AgentMessage::Unknown("ping".into()).encode("r", "t");
    let envelope: Envelope = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (envelope.r#type.as_str(), envelope.request_id.as_str()),
        ("ping", "r")
    );
    assert_eq!(
        (envelope.payload, envelope.timestamp.as_deref()),
        (serde_json::Value::Null, Some("t"))
    );
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|value| json!(value)),
        any::<i64>().prop_map(|value| json!(value)),
        any::<f64>().prop_map(|value| json!(value)),
        "\\PC{0,8}".prop_map(|value| json!(value)),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|value| json!(value)),
            prop::collection::btree_map("[a-z_]{1,8}", inner, 0..4).prop_map(|value| json!(value)),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_in_a_field_of_a_route_is_read_and_judged(
        fields in prop::collection::btree_map(
            prop::sample::select(vec!["id", "host", "wildcard", "path", "path_type", "service", "namespace", "port",
                "tls", "annotations", "protocol", "created", "source"]),
            any_json(),
            0..13,
        ),
    ) {
        let text = json!({"type": "ingress_routes", "payload": {"action": "add", "routes": [fields]}}).to_string();
        let mut message = routes_of(&text);
        if let Ok(route) = Route::try_from(message.routes.remove(0)) {
            let wire = WireRoute::from(&route);
            prop_assert_eq!(Route::try_from(wire), Ok(route));
        }
    }

    #[test]
    fn any_text_is_a_message_or_an_error(text in "\\PC{0,200}") {
        let _ = EdgeMessage::decode(&text);
        if let Ok((id, message)) = AgentMessage::decode(&text) {
            prop_assert_eq!(AgentMessage::decode(&message.encode(&id, "")).unwrap(), (id, message));
        }
    }
}
