//! Requests that are larger than an edge allows, or not for a gateway.

use bytes::Bytes;
use futures_util::stream;
use gatewright_testkit::backend::Backend;
use gatewright_testkit::http::{Connection, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};

use crate::client::H2;
use crate::tunnel::{APP, Carrier, Tunnel, error_code};

#[track_caller]
fn assert_refused(response: &Response, status: u16, code: &str) {
    assert_eq!(
        (response.status(), error_code(response)),
        (status, code),
        "{}",
        response.text()
    );
    let body: Value = response.json();
    assert_eq!(body["error"]["code"], code);
}

async fn assert_over(mut connection: Connection) {
    // A reset is as good an end as any: bytes of the request were left unread.
    if let Ok(rest) = connection.read_to_end().await {
        assert_eq!(
            String::from_utf8_lossy(&rest),
            "",
            "nothing follows the refusal"
        );
    }
}

/// Sends a request that may be refused before all of it is sent.
async fn offer(tunnel: &Tunnel, request: &[u8]) -> (Response, Connection) {
    let mut connection = tunnel.connect().await;
    // The edge may have answered and closed before the last byte.
    let _ = connection.send(request).await;
    let response = connection.read_response().await.expect("a refusal");
    (response, connection)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_over_the_limit_are_413() {
    let backend = Backend::start().await;
    let limit = json!({"limits": {"body": 1000}});
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .edge(limit)
        .start()
        .await;
    let sized = |size: usize| {
        let head = format!("POST /sink HTTP/1.1\r\nHost: {APP}\r\nContent-Length: {size}\r\n\r\n");
        [head.into_bytes(), vec![b'x'; size]].concat()
    };
    let chunked = |pieces: &[usize]| {
        let mut request =
            format!("POST /sink HTTP/1.1\r\nHost: {APP}\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in pieces {
            request.push_str(&format!("{piece:x}\r\n{}\r\n", "x".repeat(*piece)));
        }
        request.into_bytes()
    };
    let (response, _) = offer(&tunnel, &sized(1000)).await;
    assert_eq!(response.json::<Value>(), json!({"bytes": 1000}));
    let (response, connection) = offer(&tunnel, &sized(1001)).await;
    assert_refused(&response, 413, "body_too_large");
    assert_over(connection).await;
    assert_eq!(
        backend.counters().requests,
        1,
        "a declared length is refused at once"
    );

    let (response, _) = offer(
        &tunnel,
        &[chunked(&[600, 400]), b"0\r\n\r\n".to_vec()].concat(),
    )
    .await;
    assert_eq!(response.json::<Value>(), json!({"bytes": 1000}));
    let (response, connection) = offer(&tunnel, &chunked(&[600, 401])).await;
    assert_refused(&response, 413, "body_too_large");
    assert_over(connection).await;
    backend
        .await_counters("the end of the cut upload", |seen| seen.in_flight == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streamed_http_2_bodies_over_the_limit_are_413() {
    let backend = Backend::start().await;
    let limit = json!({"limits": {"body": 1000}});
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .edge(limit)
        .start()
        .await;
    let user = H2::connect(tunnel.http()).await;
    let frames =
        stream::iter([600, 401].map(|size| Ok(Frame::data(Bytes::from(vec![b'x'; size])))));
    let request = http::Request::post(format!("http://{APP}/sink"))
        .body(StreamBody::new(frames).boxed_unsync())
        .expect("a request");
    let response = user.send(request).await.expect("a refusal");
    assert_eq!(response.status(), 413);
    assert_eq!(response.headers()["x-gatewright-error"], "body_too_large");
    assert!(
        !response.headers().contains_key("connection"),
        "HTTP/2 knows no such field"
    );
    assert_eq!(
        user.get(APP, "/status/200").await.status(),
        200,
        "the others go on"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_over_the_limit_are_414() {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    let target = |size: usize| format!("/status/200?{}", "q".repeat(size - "/status/200?".len()));
    let ask = async |size: usize| {
        let request = format!("GET {} HTTP/1.1\r\nHost: {APP}\r\n\r\n", target(size));
        offer(&tunnel, request.as_bytes()).await
    };
    assert_eq!(ask(8192).await.0.status(), 200);
    for size in [8193, 60_000, 70_000] {
        let (response, connection) = ask(size).await;
        assert_refused(&response, 414, "uri_too_long");
        assert_over(connection).await;
    }
    assert_eq!(backend.counters().requests, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_fields_over_the_limits_are_431() {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    let ask = async |fields: String| {
        let request = format!("GET /status/200 HTTP/1.1\r\nHost: {APP}\r\n{fields}\r\n");
        offer(&tunnel, request.as_bytes()).await
    };
    let many = |count: usize| {
        (0..count)
            .map(|n| format!("x-{n}: y\r\n"))
            .collect::<String>()
    };
    let large = |size: usize| format!("x-large: {}\r\n", "y".repeat(size));
    // The backend has a limit of 100, too, and gets a few more from the edge.
    assert_eq!(ask(many(90)).await.0.status(), 200);
    assert_eq!(ask(large(60_000)).await.0.status(), 200);
    for (name, fields) in [
        ("one field too many", many(100)),
        ("more fields than the parser takes", many(1000)),
        ("larger than allowed", large(65_536)),
        ("larger than the buffer", large(200_000)),
    ] {
        let (response, connection) = ask(fields).await;
        assert_eq!(
            (response.status(), error_code(&response)),
            (431, "headers_too_large"),
            "{name}"
        );
        assert_refused(&response, 431, "headers_too_large");
        assert_over(connection).await;
    }
    assert_eq!(backend.counters().requests, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_is_405() {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    let request = format!("CONNECT {APP}:443 HTTP/1.1\r\nHost: {APP}:443\r\n\r\n");
    let (response, _) = offer(&tunnel, request.as_bytes()).await;
    assert_refused(&response, 405, "method_not_allowed");
    assert_eq!(backend.counters().connections, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_at_once_than_the_tunnel_takes_are_503() {
    let backend = Backend::start().await;
    // Two connections with two streams each.
    let limit = json!({"limits": {"tunnel_streams": 2}});
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .edge(limit)
        .start()
        .await;
    let mut waiting = Vec::new();
    for taken in 1..=4 {
        let mut connection = tunnel.connect().await;
        let request = format!("GET /slow-headers HTTP/1.1\r\nHost: {APP}\r\n\r\n");
        connection.send(request).await.expect("send");
        backend
            .await_counters("the next slow request", |seen| seen.in_flight == taken)
            .await;
        waiting.push(connection);
    }
    let response = tunnel.get(APP, "/status/200").await;
    assert_refused(&response, 503, "tunnel_full");
    assert_eq!(response.header("retry-after"), Some("1"));
    for _ in 0..4 {
        backend.release();
    }
    for mut connection in waiting {
        assert_eq!(
            connection.read_response().await.expect("a response").text(),
            "released\n"
        );
    }
    tunnel.await_answer(APP, "/status/200", 200, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_over_the_limit_are_closed_and_the_others_go_on() {
    let backend = Backend::start().await;
    // The agent's WebSocket handshakes come before those of users; over TLS none of the places is its.
    let limit = json!({"limits": {"connections": 3}});
    let tunnel = Tunnel::with(Carrier::Tls)
        .app(backend.address())
        .edge(limit)
        .start()
        .await;
    let request = format!("GET /status/200 HTTP/1.1\r\nHost: {APP}\r\n\r\n");
    let mut taken = Vec::new();
    for _ in 0..3 {
        let mut connection = tunnel.connect().await;
        connection.send(&request).await.expect("send");
        assert_eq!(
            connection
                .read_response()
                .await
                .expect("a response")
                .status(),
            200
        );
        taken.push(connection);
    }
    let mut fourth = tunnel.connect().await;
    let _ = fourth.send(&request).await;
    assert!(
        fourth.read_head().await.is_err(),
        "there is no place for a fourth"
    );
    for connection in &mut taken {
        connection.send(&request).await.expect("send");
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
