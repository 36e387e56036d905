//! Requests that two parties could read in two ways. They are refused and their connection is closed;
//! nothing of them reaches a backend.

use gatewright_testkit::backend::scripted::Scripted;
use gatewright_testkit::backend::{Backend, Echo};
use gatewright_testkit::http::Response;
use serde_json::Value;

use crate::client::{H2, Recorder, empty};
use crate::tunnel::{APP, Carrier, Tunnel, error_code};

async fn tunnel_to(backend: &Backend) -> Tunnel {
    Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await
}

/// Everything that the edge answers until it closes.
async fn ask(tunnel: &Tunnel, request: &[u8]) -> (Option<Response>, Vec<u8>) {
    let mut connection = tunnel.connect().await;
    let _ = connection.send(request).await;
    let first = connection.read_response().await.ok();
    let rest = connection.read_to_end().await.unwrap_or_default();
    (first, rest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_and_ambiguous_heads_are_400_and_the_end() {
    let backend = Backend::start().await;
    let tunnel = tunnel_to(&backend).await;
    let h = format!("Host: {APP}\r\n");
    let cases: Vec<(&str, String)> = vec![
        (
            "length and encoding",
            format!(
                "POST /sink HTTP/1.1\r\n{h}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
        ),
        (
            "encoding and length",
            format!(
                "POST /sink HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"
            ),
        ),
        (
            "encoding in HTTP/1.0",
            format!("POST /sink HTTP/1.0\r\n{h}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "two lengths",
            format!(
                "POST /sink HTTP/1.1\r\n{h}Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"
            ),
        ),
        (
            "a list of lengths",
            format!("POST /sink HTTP/1.1\r\n{h}Content-Length: 5, 6\r\n\r\nabcdef"),
        ),
        (
            "a signed length",
            format!("POST /sink HTTP/1.1\r\n{h}Content-Length: +5\r\n\r\nabcde"),
        ),
        (
            "a negative length",
            format!("POST /sink HTTP/1.1\r\n{h}Content-Length: -1\r\n\r\n"),
        ),
        (
            "a length with a tail",
            format!("POST /sink HTTP/1.1\r\n{h}Content-Length: 5x\r\n\r\nabcde"),
        ),
        (
            "an unknown encoding",
            format!("POST /sink HTTP/1.1\r\n{h}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "chunked not last",
            format!(
                "POST /sink HTTP/1.1\r\n{h}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"
            ),
        ),
        ("no host", "GET /echo HTTP/1.1\r\n\r\n".to_owned()),
        (
            "an empty host",
            "GET /echo HTTP/1.1\r\nHost:\r\n\r\n".to_owned(),
        ),
        (
            "two hosts",
            format!("GET /echo HTTP/1.1\r\n{h}Host: other.example.test\r\n\r\n"),
        ),
        (
            "the same host twice",
            format!("GET /echo HTTP/1.1\r\n{h}{h}\r\n"),
        ),
        ("no target", format!("GET\r\n{h}\r\n")),
        ("four words", format!("GET /echo x HTTP/1.1\r\n{h}\r\n")),
        (
            "an unknown version",
            format!("GET /echo HTTP/9.9\r\n{h}\r\n"),
        ),
        ("no version", format!("GET /echo\r\n{h}\r\n")),
        (
            "a method with a space before it",
            format!(" GET /echo HTTP/1.1\r\n{h}\r\n"),
        ),
        (
            "a field without a colon",
            format!("GET /echo HTTP/1.1\r\n{h}nonsense\r\n\r\n"),
        ),
        (
            "a space before the colon",
            format!("GET /echo HTTP/1.1\r\n{h}X-A : b\r\n\r\n"),
        ),
        (
            "a folded field",
            format!("GET /echo HTTP/1.1\r\n{h}X-A: b\r\n c\r\n\r\n"),
        ),
        (
            "a NUL in a value",
            format!("GET /echo HTTP/1.1\r\n{h}X-A: b\0c\r\n\r\n"),
        ),
        (
            "a bare CR in a value",
            format!("GET /echo HTTP/1.1\r\n{h}X-A: b\rX-B: c\r\n\r\n"),
        ),
        (
            "a NUL in the target",
            format!("GET /ec\0ho HTTP/1.1\r\n{h}\r\n"),
        ),
        (
            "TLS on a plain port",
            "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}\r\n\r\n".to_owned(),
        ),
    ];
    let mut wrong = Vec::new();
    for (name, request) in &cases {
        let (response, rest) = ask(&tunnel, request.as_bytes()).await;
        let Some(response) = response else {
            wrong.push(format!("{name}: no response"));
            continue;
        };
        let body = serde_json::from_slice::<Value>(&response.body).unwrap_or_default();
        let code = body["error"]["code"].as_str().unwrap_or_default();
        if (response.status(), error_code(&response), code) != (400, "bad_request", "bad_request") {
            wrong.push(format!(
                "{name}: {} {:?}",
                response.status(),
                response.text()
            ));
        }
        if !rest.is_empty() {
            wrong.push(format!(
                "{name}: followed by {:?}",
                String::from_utf8_lossy(&rest)
            ));
        }
    }
    assert_eq!(wrong, [""; 0]);
    let seen = backend.counters();
    assert_eq!(
        (seen.requests, seen.connections),
        (0, 0),
        "nothing of these reached the backend"
    );
    assert_eq!(tunnel.get(APP, "/status/200").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_framing_is_refused_in_a_pipelined_request_too() {
    let backend = Backend::start().await;
    let tunnel = tunnel_to(&backend).await;
    let h = format!("Host: {APP}\r\n");
    let requests = format!(
        "GET /status/200 HTTP/1.1\r\n{h}\r\n\
         POST /sink HTTP/1.1\r\n{h}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
         GET /status/202 HTTP/1.1\r\n{h}\r\n"
    );
    let mut connection = tunnel.connect().await;
    connection.send(requests).await.expect("send");
    assert_eq!(
        connection
            .read_response()
            .await
            .expect("the first")
            .status(),
        200
    );
    let second = connection.read_response().await.expect("the second");
    assert_eq!((second.status(), error_code(&second)), (400, "bad_request"));
    assert_eq!(connection.read_to_end().await.unwrap_or_default(), b"");
    assert_eq!(backend.counters().requests, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::start().await;
    let tunnel = tunnel_to(&backend).await;
    let h = format!("Host: {APP}\r\n");
    let requests = format!(
        "GET /slow-headers HTTP/1.1\r\n{h}\r\n\
         POST /sink HTTP/1.1\r\n{h}Content-Length: 5\r\n\r\nabcde\
         POST /body HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n\
         GET /status/404 HTTP/1.1\r\n{h}\r\n"
    );
    let mut connection = tunnel.connect().await;
    connection.send(requests).await.expect("send");
    backend
        .await_counters("the slow request", |seen| seen.in_flight == 1)
        .await;
    backend.release();
    let mut texts = Vec::new();
    for _ in 0..4 {
        texts.push(connection.read_response().await.expect("a response").text());
    }
    assert_eq!(
        texts,
        ["released\n", "{\"bytes\":5}", "xyz", "status 404\n"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_not_wanted_never_becomes_a_request() {
    let backend = Backend::start().await;
    let tunnel = tunnel_to(&backend).await;
    let hidden = format!("GET /status/201 HTTP/1.1\r\nHost: {APP}\r\n\r\n");
    let request = format!(
        "POST / HTTP/1.1\r\nHost: nobody.example.test\r\nContent-Length: {}\r\n\r\n{hidden}",
        hidden.len()
    );
    let mut connection = tunnel.connect().await;
    connection.send(request).await.expect("send");
    let response = connection.read_response().await.expect("a response");
    assert_eq!(
        (response.status(), error_code(&response)),
        (404, "unknown_host")
    );
    // The connection may end or go on; what it may not do is answer the hidden request.
    let after = format!("GET /status/202 HTTP/1.1\r\nHost: {APP}\r\nConnection: close\r\n\r\n");
    let _ = connection.send(after).await;
    let rest = connection.read_to_end().await.unwrap_or_default();
    let rest = String::from_utf8_lossy(&rest);
    assert!(!rest.contains("status 201"), "{rest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_chunks_never_make_a_whole_body() {
    let backend = Recorder::start().await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    for chunks in [
        "FFFFFFFFFFFFFFFFF\r\nabc",
        "-1\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcX\r\n0\r\n\r\n",
        "zz\r\n",
        "3 3\r\nabc\r\n0\r\n\r\n",
    ] {
        let head =
            format!("POST /sink HTTP/1.1\r\nHost: {APP}\r\nTransfer-Encoding: chunked\r\n\r\n");
        let (response, rest) = ask(&tunnel, format!("{head}{chunks}").as_bytes()).await;
        if let Some(response) = response {
            assert_eq!(
                (response.status(), error_code(&response)),
                (400, "bad_request"),
                "{chunks:?}"
            );
        }
        assert_eq!(rest, b"", "{chunks:?}");
    }
    // What was begun at the backend ends with the tunnel at the latest.
    drop(tunnel);
    for body in backend.bodies().await {
        assert!(
            !body.ends_with(b"0\r\n\r\n"),
            "a broken body looked complete: {body:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_of_protocols_that_nobody_asked_for_is_502() {
    let backend = Scripted::answering(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhidden",
    )
    .await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    for _ in 0..2 {
        let response = tunnel.get(APP, "/").await;
        assert_eq!(
            (response.status(), error_code(&response)),
            (502, "backend_protocol")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absolute_target_beats_host() {
    let backend = Backend::start().await;
    let tunnel = tunnel_to(&backend).await;
    let request = format!("GET http://{APP}/echo?x HTTP/1.1\r\nHost: other.example.test\r\n\r\n");
    let echo: Echo = tunnel.exchange(request).await.json();
    assert_eq!(
        (echo.target.as_str(), echo.header("host")),
        ("/echo?x", vec![APP])
    );
    // No other destination can be named this way.
    let request = format!(
        "GET http://{}/echo HTTP/1.1\r\nHost: {APP}\r\n\r\n",
        backend.address()
    );
    let response = tunnel.exchange(request).await;
    assert_eq!(
        (response.status(), error_code(&response)),
        (404, "unknown_host")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_in_http_2_are_400() {
    let backend = Backend::start().await;
    let tunnel = tunnel_to(&backend).await;
    let user = H2::connect(tunnel.http()).await;
    for (host, status) in [("other.example.test", 400), (APP, 200)] {
        let request = http::Request::get(format!("http://{APP}/echo"))
            .header("host", host)
            .body(empty())
            .expect("a request");
        assert_eq!(
            user.send(request).await.expect("a response").status(),
            status,
            "{host}"
        );
    }
    assert_eq!(backend.counters().requests, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_that_lead_to_two_routes_are_400() {
    let public = Backend::start().await;
    let admin = Backend::start().await;
    let apps = [
        (APP, "/", public.address()),
        (APP, "/admin", admin.address()),
    ];
    let tunnel = Tunnel::with(Carrier::WebSocket).apps(&apps).start().await;
    for path in [
        "/public/../admin/x",
        "/public/%2e%2e/admin/x",
        "/public/..%2fadmin/x",
        "/public/..;/admin/x",
        "/admin%2fx",
        "/public%5c..%5cadmin",
        "/admin/..",
        "/ec%00ho",
    ] {
        let response = tunnel.get(APP, path).await;
        assert_eq!(
            (response.status(), error_code(&response)),
            (400, "ambiguous_path"),
            "{path}"
        );
    }
    assert_eq!(
        (public.counters().requests, admin.counters().requests),
        (0, 0)
    );
    // Where every reading leads to the same route, the path passes as it is.
    for path in [
        "/echo/../x%2Fy",
        "/echo/./.",
        "/echo//x",
        "/echo/%61%2e",
        "/echo/a;b=c",
    ] {
        let echo: Echo = tunnel.get(APP, path).await.json();
        assert_eq!(echo.target, path);
    }
    let escaped = tunnel.get(APP, "/%61dmin/status").await;
    assert_eq!(escaped.text(), "no such path\n");
    assert_eq!(
        admin.counters().requests,
        1,
        "an escaped letter is that letter"
    );
}
