//! Fields, targets and bodies on their way through: what passes byte for byte, what ends at the edge,
//! and what the edge says by itself.

use gatewright_testkit::backend::scripted::Scripted;
use gatewright_testkit::backend::{Backend, Echo};
use http_body_util::BodyExt as _;
use serde_json::json;

use crate::client::{H2, empty};
use crate::tunnel::{APP, Carrier, Tunnel, error_code};

on_both_carriers! {
    authorization_and_cookies_arrive,
    flaw_22_targets_pass_byte_for_byte,
    flaw_23_a_body_keeps_its_framing,
    flaw_24_hop_by_hop_fields_end_at_the_edge,
    flaw_24_hop_by_hop_fields_of_backends_end_at_the_agent,
    flaw_25_forged_forwarding_fields_are_replaced,
    host_is_preserved_byte_for_byte,
}

async fn echoed(tunnel: &Tunnel, fields: &str) -> Echo {
    let request = format!("GET /echo HTTP/1.1\r\nHost: {APP}\r\n{fields}\r\n");
    let response = tunnel.exchange(request).await;
    assert_eq!(response.status(), 200, "{}", response.text());
    response.json()
}

fn names(echo: &Echo) -> Vec<&str> {
    let mut names: Vec<&str> = echo.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names
}

async fn flaw_24_hop_by_hop_fields_end_at_the_edge(carrier: Carrier) {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let echo = echoed(
        &tunnel,
        "Connection: keep-alive, X-Hop, Upgrade, HTTP2-Settings, Cookie\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABk\r\nCookie: a=b\r\nX-Kept: yes\r\n",
    )
    .await;
    assert_eq!(
        names(&echo),
        [
            "cookie",
            "host",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-kept",
            "x-request-id"
        ]
    );
    assert_eq!(
        echo.header("cookie"),
        ["a=b"],
        "a nomination does not take a cookie away"
    );
}

async fn flaw_24_hop_by_hop_fields_of_backends_end_at_the_agent(carrier: Carrier) {
    let backend = Scripted::answering(
        "HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: close\r\nX-Gatewright-Error: forged\r\nX-Gatewright-Route: 1\r\n\
         Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nX-Forwarded-For: kept\r\nServer: old/1.0\r\n\
         Content-Length: 2\r\n\r\nok",
    )
    .await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let response = tunnel.get(APP, "/").await;
    assert_eq!(response.text(), "ok");
    let mut fields: Vec<(String, String)> = response.head.headers.clone();
    fields
        .iter_mut()
        .for_each(|(name, _)| *name = name.to_ascii_lowercase());
    // The user asked for `Connection: close`, which the edge confirms by itself.
    fields.retain(|(name, value)| !(name == "connection" && value == "close"));
    fields.sort();
    let expected = [
        ("content-length", "2"),
        ("server", "old/1.0"),
        ("set-cookie", "a=1; Path=/"),
        ("set-cookie", "b=2"),
        ("x-forwarded-for", "kept"),
    ];
    assert_eq!(
        fields,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

async fn authorization_and_cookies_arrive(carrier: Carrier) {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let echo = echoed(
        &tunnel,
        "Authorization: Bearer abc.def\r\nCookie: a=1; b=2\r\nX-Auth-Token: t\r\n",
    )
    .await;
    assert_eq!(echo.header("authorization"), ["Bearer abc.def"]);
    assert_eq!(echo.header("cookie"), ["a=1; b=2"]);
    assert_eq!(echo.header("x-auth-token"), ["t"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookie_crumbs_of_http_2_are_one_field_for_an_http_1_backend() {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    let user = H2::connect(tunnel.http()).await;
    let request = http::Request::get(format!("http://{APP}/echo"))
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(empty())
        .expect("a request");
    let body = user
        .send(request)
        .await
        .expect("a response")
        .into_body()
        .collect()
        .await;
    let body = body.expect("a body").to_bytes();
    let echo: Echo = serde_json::from_slice(&body).expect("an echo");
    assert_eq!(
        echo.header("cookie"),
        ["a=1; b=2"],
        "RFC 9113 section 8.2.3"
    );
}

async fn flaw_25_forged_forwarding_fields_are_replaced(carrier: Carrier) {
    let backend = Backend::start().await;
    let other = Backend::start().await;
    let apps = [
        (APP, "/", backend.address()),
        ("other.example.test", "/", other.address()),
    ];
    let tunnel = Tunnel::with(carrier).apps(&apps).start().await;
    let main = &tunnel.clusters().all()[0].id.clone();
    let routes = tunnel.clusters().routes_of(main);
    let foreign = routes
        .iter()
        .find(|(route, _)| route.source.ends_with("app-1"));
    let foreign = foreign.expect("the other application's route").0.id;
    let echo = echoed(
        &tunnel,
        &format!(
            "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\nX-Forwarded-Host: other.example.test\r\n\
             X-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\nX-Real-IP: 10.0.0.1\r\n\
             Forwarded: for=10.0.0.1\r\nX-Gatewright-Route: {foreign}\r\nX-Gatewright-Anything: x\r\n"
        ),
    )
    .await;
    assert_eq!(echo.header("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(echo.header("x-forwarded-host"), [APP]);
    assert_eq!(echo.header("x-forwarded-proto"), ["http"]);
    assert_eq!(
        names(&echo),
        [
            "host",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-request-id"
        ]
    );
    assert_eq!(other.counters().requests, 0, "users cannot name a route");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_is_believed_and_appended_to() {
    let backend = Backend::start().await;
    let trust = json!({"trusted_proxies": ["127.0.0.0/8"]});
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .edge(trust)
        .start()
        .await;
    let echo = echoed(
        &tunnel,
        "X-Forwarded-For: 192.0.2.1, 192.0.2.2\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: www.example.test\r\n\
         X-Gatewright-Route: 0000000000000001\r\n",
    )
    .await;
    assert_eq!(
        echo.header("x-forwarded-for"),
        ["192.0.2.1, 192.0.2.2, 127.0.0.1"]
    );
    assert_eq!(echo.header("x-forwarded-host"), ["www.example.test"]);
    assert_eq!(echo.header("x-forwarded-proto"), ["https"]);
    assert_eq!(echo.header("x-gatewright-route"), [""; 0]);
    let echo = echoed(&tunnel, "").await;
    assert_eq!(echo.header("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(echo.header("x-forwarded-proto"), ["http"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flaw_21_the_scheme_of_a_user_never_reaches_a_backend() {
    let backend = Backend::start().await;
    let trust = json!({"trusted_proxies": ["127.0.0.0/8"]});
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .edge(trust)
        .start()
        .await;
    let echo = echoed(&tunnel, "X-Forwarded-Proto: https\r\n").await;
    assert_eq!(
        (echo.version.as_str(), echo.authority.as_deref()),
        ("HTTP/1.1", None)
    );
    let request = format!("GET https://{APP}/echo HTTP/1.1\r\nHost: {APP}\r\n\r\n");
    let echo: Echo = tunnel.exchange(request).await.json();
    assert_eq!(echo.target, "/echo");
    let user = H2::connect(tunnel.http()).await;
    let request = http::Request::get(format!("https://{APP}/status/200")).body(empty());
    let response = user
        .send(request.expect("a request"))
        .await
        .expect("a response");
    assert_eq!(response.status(), 200);
    assert_eq!(
        backend.counters().requests,
        3,
        "all of them reached the plain port"
    );
}

async fn host_is_preserved_byte_for_byte(carrier: Carrier) {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    for host in [
        "App.Example.TEST",
        "app.example.test:8080",
        "app.example.test.",
    ] {
        let echo: Echo = tunnel.get(host, "/echo").await.json();
        assert_eq!(
            (echo.header("host"), echo.header("x-forwarded-host")),
            (vec![host], vec![host])
        );
    }
    let user = H2::connect(tunnel.http()).await;
    let body = user
        .get("App.Example.TEST:8080", "/echo")
        .await
        .into_body()
        .collect()
        .await;
    let echo: Echo = serde_json::from_slice(&body.expect("a body").to_bytes()).expect("an echo");
    assert_eq!(echo.header("host"), ["App.Example.TEST:8080"]);
}

async fn flaw_22_targets_pass_byte_for_byte(carrier: Carrier) {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    for target in [
        "/echo?a",
        "/echo?",
        "/echo?b=2&a=1&b=1",
        "/echo?x=1;y=2",
        "/echo?sig=a%2Fb%2bc+d%20e&X-Amz=%7E",
        "/echo/%7Euser/%E2%82%AC/a+b",
        "/echo/a%2Fb",
        "/echo?url=http://x/../y",
        "/echo/x..y/...",
        "/echo?q=%zz&r=%",
        "/echo/'()*,;=:@!$&",
    ] {
        let response = tunnel.get(APP, target).await;
        assert_eq!(response.status(), 200, "{target}: {}", response.text());
        assert_eq!(response.json::<Echo>().target, target);
    }
}

async fn flaw_23_a_body_keeps_its_framing(carrier: Carrier) {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let backend = Scripted::answering(answer).await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let h = format!("Host: {APP}\r\n");
    for request in [
        format!("POST / HTTP/1.1\r\n{h}Content-Length: 5\r\n\r\nhello"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Content-Length: 0\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{h}\r\n"),
    ] {
        let response = tunnel.exchange(request).await;
        assert_eq!((response.status(), error_code(&response)), (200, ""));
    }
    let framing: Vec<(bool, Option<String>)> = backend
        .heads()
        .iter()
        .map(|head| {
            let head = head.to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"));
            let chunked = head
                .lines()
                .any(|line| line.starts_with("transfer-encoding:"));
            (chunked, length.map(|length| length.trim().to_owned()))
        })
        .collect();
    let length = |text: &str| Some(text.to_owned());
    assert_eq!(
        framing,
        [
            (false, length("5")),
            (true, None),
            (false, length("0")),
            (false, None)
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn methods_and_values_pass_as_they_are() {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    for method in ["GET", "PATCH", "DELETE", "OPTIONS", "PURGE", "PROPFIND"] {
        let request = format!("{method} /echo HTTP/1.1\r\nHost: {APP}\r\n\r\n");
        assert_eq!(tunnel.exchange(request).await.json::<Echo>().method, method);
    }
    let echo = echoed(
        &tunnel,
        "X-Twice: 1\r\nX-Twice: 2\r\nX-Empty:\r\nX-Quoted: \"a, b\"; c\r\n",
    )
    .await;
    assert_eq!(echo.header("x-twice"), ["1", "2"]);
    assert_eq!(echo.header("x-empty"), [""]);
    assert_eq!(echo.header("x-quoted"), ["\"a, b\"; c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_an_id_of_its_own_or_its_users() {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let echo = echoed(&tunnel, "").await;
        let id = echo.header("x-request-id").concat();
        assert!(
            id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{id}"
        );
        ids.push(id);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    assert_eq!(
        echoed(&tunnel, "X-Request-Id: mine\r\n")
            .await
            .header("x-request-id"),
        ["mine"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_1_0_client_gets_a_body_without_chunks() {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    let response = tunnel
        .exchange(format!("GET /chunked/1000 HTTP/1.0\r\nHost: {APP}\r\n\r\n"))
        .await;
    assert_eq!((response.status(), response.body.len()), (200, 1000));
    assert_eq!(response.header("transfer-encoding"), None);
}
