//! What users get when a request does not reach a backend: status, `X-Gatewright-Error`, and a body
//! in the form that they accept.

use gatewright_testkit::backend::Backend;
use gatewright_testkit::backend::scripted::Scripted;
use gatewright_testkit::http::Response;
use gatewright_testkit::ports::free_port;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};

use crate::manifests;
use crate::tunnel::{APP, Carrier, SOON, Tunnel, error_code};

on_both_carriers! {
    a_backend_that_refuses_is_502,
    a_backend_that_speaks_something_else_is_502,
    a_first_byte_that_is_late_is_504,
    a_first_byte_that_is_late_for_the_agent_is_504,
    a_route_without_a_tunnel_is_503_with_retry_after,
    a_route_without_a_tunnel_is_503_after_an_edge_restart,
    a_service_without_ready_endpoints_is_503,
}

#[track_caller]
fn assert_error(response: &Response, status: u16, code: &str) {
    assert_eq!(
        (response.status(), error_code(response)),
        (status, code),
        "{}",
        response.text()
    );
    let body: Value = response.json();
    assert_eq!(body["error"]["code"], code);
    assert!(
        body["error"]["message"]
            .as_str()
            .is_some_and(|text| text.ends_with('.')),
        "{body}"
    );
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let retry = response.header("retry-after").is_some();
    assert_eq!(
        retry,
        status == 503,
        "Retry-After belongs to 503 and only there"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_hosts_and_paths_are_404() {
    let backend = Backend::start().await;
    let apps = [(APP, "/api", backend.address())];
    let tunnel = Tunnel::with(Carrier::WebSocket).apps(&apps).start().await;
    assert_error(
        &tunnel.get("other.example.test", "/api").await,
        404,
        "unknown_host",
    );
    assert_error(
        &tunnel.get("sub.app.example.test", "/api").await,
        404,
        "unknown_host",
    );
    assert_error(&tunnel.get("127.0.0.1", "/api").await, 404, "unknown_host");
    assert_error(&tunnel.get(APP, "/").await, 404, "unknown_path");
    assert_error(&tunnel.get(APP, "/apiary").await, 404, "unknown_path");
    assert_eq!(tunnel.get(APP, "/api/x").await.text(), "no such path\n");
    assert_eq!(backend.counters().requests, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_matched_without_case_port_and_final_dot() {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    for host in [
        "APP.Example.TEST",
        "app.example.test.",
        "app.example.test:8080",
        "App.example.test.:1",
    ] {
        assert_eq!(
            tunnel.get(host, "/status/200").await.status(),
            200,
            "{host}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_has_the_form_that_the_client_accepts() {
    let tunnel = Tunnel::with(Carrier::WebSocket).agents(0).start().await;
    let ask = async |field: &str| {
        let head = format!("GET /secret?query HTTP/1.1\r\nHost: nobody.test\r\n{field}\r\n\r\n");
        tunnel.exchange(head).await
    };
    let html = ask("Accept: text/html,application/xhtml+xml").await;
    assert_eq!((html.status(), error_code(&html)), (404, "unknown_host"));
    assert_eq!(
        html.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert!(
        html.text().starts_with("<!doctype html>"),
        "{}",
        html.text()
    );
    assert!(
        html.text().contains("<code>unknown_host</code>"),
        "{}",
        html.text()
    );

    let text = ask("Accept: text/plain").await;
    assert_eq!(
        text.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert!(text.text().ends_with("(unknown_host)\n"), "{}", text.text());

    assert_error(&ask("Accept: */*").await, 404, "unknown_host");
    assert_error(&ask("X-Nothing: y").await, 404, "unknown_host");

    let grpc = ask("Content-Type: application/grpc").await;
    assert_eq!((grpc.status(), error_code(&grpc)), (200, "unknown_host"));
    assert_eq!(grpc.header("grpc-status"), Some("12"));
    assert_eq!(grpc.header("content-type"), Some("application/grpc"));
    assert_eq!(grpc.text(), "");
    for response in [&html, &text, &grpc] {
        let all = format!("{response:?} {}", response.text());
        assert!(
            !all.contains("secret") && !all.contains("nobody"),
            "an error repeats nothing: {all}"
        );
    }
}

async fn a_route_without_a_tunnel_is_503_with_retry_after(carrier: Carrier) {
    let backend = Backend::start().await;
    let mut tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    assert_eq!(tunnel.get(APP, "/status/200").await.status(), 200);
    tunnel.stop_agent(0).await;
    tunnel
        .await_answer(APP, "/status/200", 503, "no_tunnel")
        .await;
    assert_error(&tunnel.get(APP, "/status/200").await, 503, "no_tunnel");
    assert_error(
        &tunnel.get("other.example.test", "/").await,
        404,
        "unknown_host",
    );
    tunnel.start_agent().await;
    assert_eq!(tunnel.get(APP, "/status/200").await.status(), 200);
}

async fn a_route_without_a_tunnel_is_503_after_an_edge_restart(carrier: Carrier) {
    let backend = Backend::start().await;
    let mut tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    tunnel.stop_agent(0).await;
    tunnel.stop_edge().await;
    tunnel.start_edge().await;
    assert_error(&tunnel.get(APP, "/status/200").await, 503, "no_tunnel");
    tunnel.start_agent().await;
    assert_eq!(tunnel.get(APP, "/status/200").await.status(), 200);
}

async fn a_backend_that_refuses_is_502(carrier: Carrier) {
    let nobody = ([127, 0, 0, 1], free_port()).into();
    let tunnel = Tunnel::with(carrier).app(nobody).start().await;
    assert_error(&tunnel.get(APP, "/").await, 502, "backend_refused");
    // A failed exchange does not cost the user's connection.
    let mut connection = tunnel.connect().await;
    for _ in 0..2 {
        connection
            .send(format!("GET / HTTP/1.1\r\nHost: {APP}\r\n\r\n"))
            .await
            .expect("send");
        let response = connection.read_response().await.expect("a response");
        assert_error(&response, 502, "backend_refused");
    }
}

async fn a_backend_that_speaks_something_else_is_502(carrier: Carrier) {
    let backend = Scripted::answering("SSH-2.0-OpenSSH_9.9\r\n\r\n").await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    assert_error(&tunnel.get(APP, "/").await, 502, "backend_protocol");
    assert_eq!(backend.heads().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_closes_without_an_answer_is_502() {
    let backend = Scripted::answering("").await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    assert_error(&tunnel.get(APP, "/").await, 502, "backend_refused");
}

async fn a_first_byte_that_is_late_is_504(carrier: Carrier) {
    let backend = Backend::start().await;
    let timeouts = json!({"timeouts": {"first_byte": 0.3}});
    let tunnel = Tunnel::with(carrier)
        .app(backend.address())
        .edge(timeouts)
        .start()
        .await;
    assert_error(
        &tunnel.get(APP, "/slow-headers").await,
        504,
        "first_byte_timeout",
    );
    // Nobody waits for the backend's answer any more, and it hears so.
    backend
        .await_counters("the end of the late request", |seen| seen.in_flight == 0)
        .await;
    assert_eq!(backend.counters().aborted, 1);
}

async fn a_first_byte_that_is_late_for_the_agent_is_504(carrier: Carrier) {
    let backend = Backend::start().await;
    let timeouts = json!({"timeouts": {"first_byte": 0.3}});
    let tunnel = Tunnel::with(carrier)
        .app(backend.address())
        .agent(timeouts)
        .start()
        .await;
    assert_error(
        &tunnel.get(APP, "/slow-headers").await,
        504,
        "first_byte_timeout",
    );
    backend
        .await_counters("the end of the late request", |seen| seen.in_flight == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_accepts_no_connection_in_time_is_504() {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let listener = socket.listen(1).expect("a listener");
    let address = listener.local_addr().expect("its address");
    // Nobody accepts; once the queue is full, the kernel answers no more.
    let mut queue = Vec::new();
    let full = async {
        let patience = std::time::Duration::from_millis(500);
        while let Ok(socket) = tokio::time::timeout(patience, TcpStream::connect(address)).await {
            queue.push(socket.expect("a place in the queue"));
        }
    };
    tokio::time::timeout(SOON, full)
        .await
        .expect("a queue that gets full");
    let timeouts = json!({"timeouts": {"connect": 0.3}});
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(address)
        .agent(timeouts)
        .start()
        .await;
    assert_error(&tunnel.get(APP, "/").await, 504, "backend_connect_timeout");
}

async fn a_service_without_ready_endpoints_is_503(carrier: Carrier) {
    let mut objects = vec![manifests::ingress("app", &[(APP, "/", "app")])];
    objects.extend(manifests::service("app", &[]));
    let tunnel = Tunnel::with(carrier)
        .file("app.yaml", manifests::file(objects))
        .start()
        .await;
    assert_error(&tunnel.get(APP, "/").await, 503, "no_endpoints");
    // Endpoints that come later count without a new route.
    let backend = Backend::start().await;
    let mut objects = vec![manifests::ingress("app", &[(APP, "/", "app")])];
    objects.extend(manifests::service("app", &[backend.address()]));
    tunnel.put("app.yaml", &manifests::file(objects));
    tunnel.await_answer(APP, "/status/200", 200, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_a_backend_pass_as_they_are() {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    for status in [400, 401, 404, 408, 413, 414, 429, 431, 500, 502, 503] {
        let response = tunnel.get(APP, &format!("/status/{status}")).await;
        assert_eq!((response.status(), error_code(&response)), (status, ""));
        assert_eq!(response.text(), format!("status {status}\n"));
    }
}
