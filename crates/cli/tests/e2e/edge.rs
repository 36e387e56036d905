//! What an edge endures: users who are slow, many, silent or rude, strangers at the agents' door; and how
//! it stops.

use std::time::Duration;

use gatewright_routes::message::{AgentMessage, EdgeMessage, Register};
use gatewright_testkit::await_condition;
use gatewright_testkit::backend::Backend;
use gatewright_testkit::http::{Connection, Response};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::tunnel::{APP, Carrier, DOMAIN, SOON, Tunnel, error_code};

on_both_carriers! {
    a_drain_ends_what_is_under_way_and_takes_nothing_new,
    a_reader_that_takes_nothing_is_evicted,
}

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn small(host: &str) -> String {
    format!("GET /status/200 HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

async fn assert_serves(tunnel: &Tunnel) {
    for _ in 0..20 {
        assert_eq!(tunnel.get(APP, "/status/200").await.status(), 200);
    }
}

/// Waits until the edge has closed a connection; returns what it said before.
async fn farewell(mut connection: Connection) -> String {
    match tokio::time::timeout(SOON, connection.read_to_end()).await {
        Ok(bytes) => String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned(),
        Err(_) => panic!("the edge keeps a connection that it should have closed"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_come_too_slowly_end_and_the_others_go_on() {
    let backend = Backend::start().await;
    let short = json!({"timeouts": {"header": 1}});
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .edge(short)
        .start()
        .await;
    let mut slow = JoinSet::new();
    for number in 0..50 {
        let mut connection = tunnel.connect().await;
        slow.spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(50));
            if number % 2 == 0 {
                // The second head is the slow one.
                connection.send(small(APP)).await.expect("send");
                connection.read_response().await.expect("a response");
            }
            let value = "y".repeat(10_000);
            let head = format!("GET / HTTP/1.1\r\nHost: {APP}\r\nX-Slow: {value}");
            for byte in head.into_bytes() {
                pace.tick().await;
                if connection.send([byte]).await.is_err() {
                    break;
                }
            }
            farewell(connection).await
        });
    }
    assert_serves(&tunnel).await;
    let ended = tokio::time::timeout(SOON * 2, slow.join_all())
        .await
        .expect("an end of all of them");
    assert!(ended.iter().all(|text| !text.contains("200")), "{ended:?}");
    assert_serves(&tunnel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_header_fields_is_431_and_the_others_go_on() {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    let mut flood = JoinSet::new();
    for number in 0..50 {
        let mut connection = tunnel.connect().await;
        flood.spawn(async move {
            let _ = connection
                .send(format!("GET / HTTP/1.1\r\nHost: {APP}\r\n"))
                .await;
            let fields = format!("X-{number}: {}\r\n", "y".repeat(1000)).repeat(16);
            // Until the edge has had enough.
            while connection.send(&fields).await.is_ok() {}
            connection
                .read_response()
                .await
                .ok()
                .map(|response: Response| response.status())
        });
    }
    assert_serves(&tunnel).await;
    let answers = tokio::time::timeout(SOON, flood.join_all())
        .await
        .expect("an end of all of them");
    // A reset may overtake the answer; no other answer may come.
    assert!(
        answers.iter().flatten().all(|status| *status == 431),
        "{answers:?}"
    );
    assert_eq!(
        backend.counters().connections,
        backend.counters().open_connections
    );
    assert_serves(&tunnel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_idle_connections_stop_nobody() {
    const IDLE: usize = 2000;
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    let mut idle = Vec::with_capacity(IDLE);
    for number in 0..IDLE {
        let mut connection = tunnel.connect().await;
        if number % 2 == 0 {
            connection.send(small(APP)).await.expect("send");
            assert_eq!(
                connection
                    .read_response()
                    .await
                    .expect("a response")
                    .status(),
                200
            );
        }
        idle.push(connection);
    }
    assert_serves(&tunnel).await;
    for connection in idle.iter_mut().step_by(100) {
        connection.send(small(APP)).await.expect("send");
        assert_eq!(
            connection
                .read_response()
                .await
                .expect("a response")
                .status(),
            200
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_closed_in_time() {
    let backend = Backend::start().await;
    let short = json!({"timeouts": {"keep_alive": 1}});
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .edge(short)
        .start()
        .await;
    let silent = tunnel.connect().await;
    let mut used = tunnel.connect().await;
    used.send(small(APP)).await.expect("send");
    assert_eq!(
        used.read_response().await.expect("a response").status(),
        200
    );
    assert_eq!(farewell(used).await, "");
    assert_eq!(farewell(silent).await, "");
    // A request under way is not idle, however long it takes.
    let mut waiting = tunnel.connect().await;
    waiting
        .send(format!("GET /slow-headers HTTP/1.1\r\nHost: {APP}\r\n\r\n"))
        .await
        .expect("send");
    let closing = tunnel.connect().await;
    assert_eq!(farewell(closing).await, "");
    backend.release();
    assert_eq!(
        waiting.read_response().await.expect("a response").text(),
        "released\n"
    );
}

async fn a_reader_that_takes_nothing_is_evicted(carrier: Carrier) {
    let backend = Backend::start().await;
    let short = json!({"timeouts": {"write_idle": 1}});
    let tunnel = Tunnel::with(carrier)
        .app(backend.address())
        .edge(short)
        .start()
        .await;
    let mut reader = tunnel.connect().await;
    reader
        .send(format!(
            "GET /bytes/10000000000 HTTP/1.1\r\nHost: {APP}\r\n\r\n"
        ))
        .await
        .expect("send");
    reader.read_head().await.expect("a head");
    backend
        .await_counters("the eviction", |seen| {
            seen.requests == 1 && seen.in_flight == 0
        })
        .await;
    assert_eq!(backend.counters().aborted, 1);
    assert_serves(&tunnel).await;
}

/// What the edge answers to an upgrade request with these fields.
async fn knock(tunnel: &Tunnel, host: &str, fields: &str) -> Response {
    let request = format!("GET /ws HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
    tunnel.exchange(request).await
}

fn upgrade_fields(token: &str, protocol: &str) -> String {
    format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\
         Sec-WebSocket-Protocol: {protocol}\r\nAuthorization: Bearer {token}\r\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_door_opens_for_agents_only() {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    let token = tunnel.create_cluster("visitor", &[]).await;
    let wrong = format!("{}0", &token[..token.len() - 1]);
    let h2r = "gatewright.h2r.v1";
    for host in [DOMAIN, "127.0.0.1", "localhost:8080", "[::1]:80"] {
        let response = knock(&tunnel, host, "").await;
        assert_eq!(
            (response.status(), response.header("www-authenticate")),
            (401, Some("Bearer")),
            "{host}"
        );
        for bad in ["x", &wrong, "gwt_aaaaaaaaaaaa_00"] {
            let fields = upgrade_fields(bad, h2r);
            if bad != token {
                assert_eq!(
                    knock(&tunnel, host, &fields).await.status(),
                    401,
                    "{host} {bad}"
                );
            }
        }
        let response = knock(&tunnel, host, &upgrade_fields(&token, "chat, soap")).await;
        assert_eq!(response.status(), 400, "{host}");
        assert!(response.text().contains(h2r), "{}", response.text());
        let response = knock(&tunnel, host, &format!("Authorization: Bearer {token}\r\n")).await;
        assert_eq!(
            (response.status(), response.header("upgrade")),
            (426, Some("websocket")),
            "{host}"
        );
        let response = knock(
            &tunnel,
            host,
            &upgrade_fields(&token, &format!("other, {h2r}")),
        )
        .await;
        assert_eq!(
            (response.status(), response.header("sec-websocket-protocol")),
            (101, Some(h2r)),
            "{host}"
        );
    }
    assert_eq!(backend.counters().requests, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_users_host_the_agents_path_is_the_users() {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    let token = tunnel.create_cluster("visitor", &[]).await;
    let response = knock(&tunnel, APP, "").await;
    assert_eq!(
        (response.status(), response.text().as_str()),
        (404, "no such path\n")
    );
    let response = knock(&tunnel, APP, &upgrade_fields(&token, "gatewright.h2r.v1")).await;
    assert_eq!(
        (response.status(), response.header("sec-websocket-protocol")),
        (101, None)
    );
    assert_eq!(backend.counters().requests, 2);
}

/// A WebSocket message of a client, with a mask of zeros.
fn message(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match u8::try_from(payload.len()) {
        Ok(length @ ..=125) => frame.push(0x80 | length),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(
                u16::try_from(payload.len())
                    .expect("a short message")
                    .to_be_bytes(),
            );
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// A connection that an agent's token has opened.
async fn enter(tunnel: &Tunnel, token: &str) -> Connection {
    let mut connection = tunnel.connect().await;
    let fields = upgrade_fields(token, "gatewright.h2r.v1");
    connection
        .send(format!(
            "GET /ws HTTP/1.1\r\nHost: {DOMAIN}\r\n{fields}\r\n"
        ))
        .await
        .expect("send");
    assert_eq!(connection.read_head().await.expect("a head").status, 101);
    connection
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn junk_from_an_agent_ends_its_connection_and_nothing_else() {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    let token = tunnel.create_cluster("visitor", &[]).await;
    let register = AgentMessage::Register(Register {
        agent_id: "x".to_owned(),
        ..Register::default()
    })
    .encode("1", "2026-11-21T00:00:00Z");
    let heartbeat = r#"{"type":"heartbeat","request_id":"h","payload":{}}"#;
    for (name, junk) in [
        ("no frame", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("an unmasked frame", vec![0x81, 0x02, b'h', b'i']),
        ("binary that is no HTTP/2", message(2, &[b'x'; 1000])),
        ("text that is no JSON", message(1, b"hello")),
        ("text that is no UTF-8", message(1, &[0xff, 0xfe])),
        (
            "a heartbeat before the registration",
            message(1, heartbeat.as_bytes()),
        ),
        (
            "a frame that promises more than may come",
            [vec![0x82, 0xff], vec![0x7f; 8], vec![0; 64]].concat(),
        ),
        (
            "a frame of a GiB",
            [
                vec![0x82, 0xff],
                (1_u64 << 30).to_be_bytes().to_vec(),
                vec![0; 64],
            ]
            .concat(),
        ),
        (
            "malformed messages without an end",
            [message(1, register.as_bytes()), message(1, b"{").repeat(40)].concat(),
        ),
    ] {
        let mut connection = enter(&tunnel, &token).await;
        let _ = connection.send(&junk).await;
        let ended = tokio::time::timeout(SOON, connection.read_to_end()).await;
        assert!(ended.is_ok(), "{name} does not end the connection");
        assert_eq!(
            tunnel.get(APP, "/status/200").await.status(),
            200,
            "after {name}"
        );
    }
    let visitor = tunnel
        .clusters()
        .view("visitor")
        .expect("the cluster")
        .cluster;
    await_condition("no connection that is left behind", SOON, || async {
        visitor.connections.describe().is_empty()
    })
    .await;
    assert_serves(&tunnel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_control_message_is_answered_and_survived() {
    let tunnel = Tunnel::with(Carrier::WebSocket).agents(0).start().await;
    let token = tunnel.create_cluster("visitor", &[]).await;
    let mut connection = enter(&tunnel, &token).await;
    let register = AgentMessage::Register(Register {
        agent_id: "x".to_owned(),
        ..Register::default()
    });
    connection
        .send(message(1, register.encode("1", "now").as_bytes()))
        .await
        .expect("send");
    let (id, answer) = next_text(&mut connection).await;
    assert!(
        id == "1" && matches!(answer, EdgeMessage::RegisterSuccess(_)),
        "{answer:?}"
    );
    let strange = r#"{"type":"from_the_future","request_id":"2","payload":{}}"#;
    connection
        .send(message(1, strange.as_bytes()))
        .await
        .expect("send");
    connection
        .send(message(
            1,
            br#"{"type":"ingress_routes","request_id":"3","payload":[]}"#,
        ))
        .await
        .expect("send");
    let (id, answer) = next_text(&mut connection).await;
    assert!(
        id == "3" && matches!(answer, EdgeMessage::Error(_)),
        "{answer:?}"
    );
    let heartbeat = r#"{"type":"heartbeat","request_id":"4","payload":{}}"#;
    connection
        .send(message(1, heartbeat.as_bytes()))
        .await
        .expect("send");
    let (id, answer) = next_text(&mut connection).await;
    assert!(
        id == "4" && matches!(answer, EdgeMessage::HeartbeatAck(_)),
        "{answer:?}"
    );
}

/// The next text message of the edge; HTTP/2 bytes are skipped.
async fn next_text(connection: &mut Connection) -> (String, EdgeMessage) {
    loop {
        let head = connection.read_exactly(2).await.expect("a frame");
        let length = match head[1] {
            126 => {
                let length = connection.read_exactly(2).await.expect("a length");
                usize::from(u16::from_be_bytes([length[0], length[1]]))
            }
            short => usize::from(short),
        };
        let payload = connection.read_exactly(length).await.expect("a payload");
        if head[0] & 0x0f == 1 {
            let text = String::from_utf8(payload).expect("text");
            return EdgeMessage::decode(&text).expect("a message");
        }
    }
}

async fn a_drain_ends_what_is_under_way_and_takes_nothing_new(carrier: Carrier) {
    let backend = Backend::start().await;
    let long = json!({"timeouts": {"drain": 60}});
    let mut tunnel = Tunnel::with(carrier)
        .app(backend.address())
        .edge(long)
        .start()
        .await;
    let address = tunnel.http();
    let mut idle = tunnel.connect().await;
    idle.send(small(APP)).await.expect("send");
    assert_eq!(
        idle.read_response().await.expect("a response").status(),
        200
    );
    let mut waiting = tunnel.connect().await;
    waiting
        .send(format!("GET /slow-headers HTTP/1.1\r\nHost: {APP}\r\n\r\n"))
        .await
        .expect("send");
    let mut streaming = tunnel.connect().await;
    streaming
        .send(format!("GET /sse HTTP/1.1\r\nHost: {APP}\r\n\r\n"))
        .await
        .expect("send");
    streaming.read_head().await.expect("a head");
    streaming
        .read_chunk()
        .await
        .expect("an event")
        .expect("not the end");
    backend
        .await_counters("both requests", |seen| seen.in_flight == 2)
        .await;

    let draining = tokio::spawn(tunnel.take_edge().drain());
    await_condition("a port that takes nobody", SOON, || async {
        TcpStream::connect(address).await.is_err()
    })
    .await;
    assert_eq!(farewell(idle).await, "");
    assert!(!draining.is_finished(), "two requests are under way");
    // One permit for each, whoever takes it first.
    backend.release();
    backend.release();
    let response = waiting.read_response().await.expect("a response");
    assert_eq!(
        (response.status(), response.text().as_str()),
        (200, "released\n")
    );
    streaming
        .read_chunk()
        .await
        .expect("an event")
        .expect("not the end");
    assert!(!draining.is_finished(), "one request is under way");
    drop(streaming);
    tokio::time::timeout(SOON, draining)
        .await
        .expect("the end of the drain")
        .expect("no panic");
    assert_eq!(error_code(&response), "");
}
