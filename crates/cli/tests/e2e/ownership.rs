//! Whose a host is, as users and agents see it; and where an agent goes, which is for nobody but its own
//! manifests to say.

use std::net::SocketAddr;

use gatewright_link::{Limits, RequestBody, accept_websocket, derive_accept_key};
use gatewright_routes::RefusedReason;
use gatewright_routes::message::{AgentMessage, EdgeMessage, RegisterSuccess};
use gatewright_routes::registry::Verdict;
use gatewright_testkit::await_condition;
use gatewright_testkit::backend::{Backend, Echo};
use http_body_util::Empty;
use hyper::body::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::manifests;
use crate::tunnel::{APP, Carrier, SOON, Tunnel, await_sync, error_code, launch, put};

on_both_carriers! {
    a_host_that_was_not_granted_is_refused,
    another_clusters_host_is_refused_and_promoted_when_it_is_free,
}

/// The verdicts of a cluster's routes by host.
fn verdicts(tunnel: &Tunnel, name: &str) -> Vec<(String, Verdict)> {
    let id = tunnel.clusters().view(name).expect("the cluster").record.id;
    let routes = tunnel.clusters().routes_of(&id);
    routes
        .into_iter()
        .map(|(route, verdict)| {
            (
                route
                    .host
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                verdict,
            )
        })
        .collect()
}

async fn a_host_that_was_not_granted_is_refused(carrier: Carrier) {
    let backend = Backend::start().await;
    let apps = [
        (APP, "/", backend.address()),
        ("bank.test", "/", backend.address()),
    ];
    let tunnel = Tunnel::with(carrier).apps(&apps).start().await;
    assert_eq!(tunnel.get(APP, "/status/200").await.status(), 200);
    let response = tunnel.get("bank.test", "/status/200").await;
    assert_eq!(
        (response.status(), error_code(&response)),
        (404, "unknown_host")
    );
    assert_eq!(
        verdicts(&tunnel, "main"),
        [
            (APP.to_owned(), Verdict::Accepted),
            (
                "bank.test".to_owned(),
                Verdict::Refused(RefusedReason::HostNotGranted)
            ),
        ]
    );
    // A grant counts at once, without the agent's doing.
    let patterns = ["bank.test", APP].map(|text| {
        gatewright_names::HostPattern::parse(text, gatewright_names::WildcardMode::ManyLabels)
            .expect("a pattern")
    });
    tunnel
        .clusters()
        .set_hosts("main", patterns.to_vec())
        .await
        .expect("grant");
    tunnel
        .await_answer("bank.test", "/status/200", 200, "")
        .await;
}

async fn another_clusters_host_is_refused_and_promoted_when_it_is_free(carrier: Carrier) {
    let first = Backend::start().await;
    let second = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(first.address()).start().await;
    let token = tunnel.create_cluster("rival", &["*.example.test"]).await;
    put(tunnel.folder(), "rival-token", &token);
    let manifests = tunnel.folder().join("rival");
    std::fs::create_dir(&manifests).expect("make a folder");
    let mut objects = vec![manifests::ingress(
        "rival",
        &[(APP, "/", "app"), ("own.example.test", "/", "app")],
    )];
    objects.extend(manifests::service("app", &[second.address()]));
    put(&manifests, "apps.yaml", &manifests::file(objects));
    let settings = json!({"carrier": format!("{carrier:?}")});
    let rival = launch(&tunnel.agent_settings(&manifests, "rival-token", settings)).await;
    await_sync(&rival).await;
    assert_eq!(
        verdicts(&tunnel, "rival"),
        [
            (
                APP.to_owned(),
                Verdict::Refused(RefusedReason::HostOwnedByOther)
            ),
            ("own.example.test".to_owned(), Verdict::Accepted),
        ]
    );
    tunnel
        .await_answer("own.example.test", "/status/200", 200, "")
        .await;
    assert_eq!(tunnel.get(APP, "/status/200").await.status(), 200);
    assert_eq!(
        (first.counters().requests, second.counters().requests),
        (1, 1)
    );
    // The winner gives the host up; the loser serves it without doing anything.
    tunnel.remove("apps.yaml");
    await_condition("the loser's promotion", SOON, || async {
        tunnel.get(APP, "/status/200").await.status() == 200 && second.counters().requests > 1
    })
    .await;
    rival.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_without_a_host_is_served_under_the_clusters_own_name_only() {
    let backend = Backend::start().await;
    let mut objects = vec![manifests::ingress("any", &[("", "/", "app")])];
    objects.extend(manifests::service("app", &[backend.address()]));
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .file("any.yaml", manifests::file(objects))
        .start()
        .await;
    let own = tunnel.own_host();
    assert_eq!(tunnel.get(&own, "/status/200").await.status(), 200);
    for other in [APP, "gateway.test", &format!("x.{own}"), "127.0.0.1"] {
        let response = tunnel.get(other, "/status/200").await;
        assert_eq!(
            (response.status(), error_code(&response)),
            (404, "unknown_host"),
            "{other}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flaw_17_wildcards_and_many_paths_of_a_host_are_served() {
    let (star, exact, deep) = (
        Backend::start().await,
        Backend::start().await,
        Backend::start().await,
    );
    let apps = [
        ("*.example.test", "/", star.address()),
        (APP, "/", exact.address()),
        (APP, "/deep/er", deep.address()),
    ];
    let tunnel = Tunnel::with(Carrier::WebSocket).apps(&apps).start().await;
    for (host, path) in [
        ("x.example.test", "/echo"),
        (APP, "/echo"),
        (APP, "/deep/er/echo"),
        (APP, "/deep/erx"),
    ] {
        tunnel.get(host, path).await;
    }
    let requests = [&star, &exact, &deep].map(|backend| backend.counters().requests);
    assert_eq!(requests, [1, 2, 1]);
    let response = tunnel.get("a.b.example.test", "/").await;
    assert_eq!(
        (response.status(), error_code(&response)),
        (404, "unknown_host"),
        "one label for an Ingress"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flaw_14_an_update_takes_back_what_it_no_longer_names() {
    let backend = Backend::start().await;
    let app = backend.address();
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .apps(&[(APP, "/", app), ("dropped.example.test", "/", app)])
        .start()
        .await;
    assert_eq!(
        tunnel
            .get("dropped.example.test", "/status/200")
            .await
            .status(),
        200
    );
    tunnel.put_apps(&[(APP, "/status", app)]);
    tunnel
        .await_answer("dropped.example.test", "/status/200", 404, "unknown_host")
        .await;
    tunnel.await_answer(APP, "/echo", 404, "unknown_path").await;
    assert_eq!(tunnel.get(APP, "/status/200").await.status(), 200);
    // No Ingress at all is an update, too.
    tunnel.remove("apps.yaml");
    tunnel
        .await_answer(APP, "/status/200", 404, "unknown_host")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flaw_15_deleting_one_ingress_leaves_the_others_of_its_host() {
    let backend = Backend::start().await;
    let one = manifests::file([manifests::ingress("one", &[(APP, "/status", "app")])]);
    let two = manifests::file([manifests::ingress("two", &[(APP, "/echo", "app")])]);
    let service = manifests::file(manifests::service("app", &[backend.address()]));
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .file("one.yaml", one)
        .file("two.yaml", two)
        .file("service.yaml", service)
        .start()
        .await;
    assert_eq!(tunnel.get(APP, "/status/200").await.status(), 200);
    tunnel.remove("one.yaml");
    tunnel
        .await_answer(APP, "/status/200", 404, "unknown_path")
        .await;
    assert_eq!(
        tunnel.get(APP, "/echo").await.json::<Echo>().target,
        "/echo"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flaw_19_a_service_that_comes_late_brings_its_routes() {
    let backend = Backend::start().await;
    let ingress = manifests::file([manifests::ingress("app", &[(APP, "/", "app")])]);
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .file("ingress.yaml", ingress)
        .start()
        .await;
    assert_ne!(tunnel.get(APP, "/status/200").await.status(), 200);
    tunnel.put(
        "service.yaml",
        &manifests::file(manifests::service("app", &[backend.address()])),
    );
    tunnel.await_answer(APP, "/status/200", 200, "").await;
}

/// An edge that asks an agent for what it wants, in place of what users asked for.
struct FakeEdge {
    listener: TcpListener,
}

impl FakeEdge {
    async fn start() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.expect("listen"),
        }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("its address")
    }

    /// Takes one connection, answers its upgrade and its registration, and returns the tunnel.
    async fn accept(&self) -> (gatewright_link::Tunnel, tokio::task::JoinSet<()>) {
        let (mut socket, _) = self.listener.accept().await.expect("an agent");
        upgrade(&mut socket).await;
        let (tunnel, mut control, driver) =
            accept_websocket(socket, Vec::new(), &Limits::default())
                .await
                .expect("a tunnel");
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            // How it ends is of no interest.
            let _ = driver.await;
        });
        let first = control.incoming.recv().await.expect("a registration");
        let (id, message) = AgentMessage::decode(&first).expect("a message");
        assert!(matches!(message, AgentMessage::Register(_)), "{message:?}");
        let success = RegisterSuccess {
            cluster_id: "c".to_owned(),
            cluster_uuid: "c".to_owned(),
            name: "c".to_owned(),
            own_host: "c.gateway.test".to_owned(),
            edge_id: "fake".to_owned(),
            resume: None,
            max_streams: 100,
        };
        let answer = EdgeMessage::RegisterSuccess(success).encode(&id, "2026-11-21T00:00:00Z");
        control.outgoing.send(answer).await.expect("answer");
        tasks.spawn(async move { while control.incoming.recv().await.is_some() {} });
        (tunnel, tasks)
    }
}

async fn upgrade(socket: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.expect("an upgrade request"));
    }
    let head = String::from_utf8(head).expect("text");
    let key = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find_map(|(name, value)| {
            name.eq_ignore_ascii_case("sec-websocket-key")
                .then_some(value)
        })
        .expect("a key");
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: gatewright.h2r.v1\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    socket.write_all(answer.as_bytes()).await.expect("answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flaw_27_an_agent_goes_nowhere_that_no_route_names() {
    let named = Backend::start().await;
    let secret = Backend::start().await;
    let fixture = Tunnel::with(Carrier::WebSocket)
        .app(named.address())
        .start()
        .await;
    let id = fixture.clusters().all()[0].id.clone();
    let known = fixture.clusters().routes_of(&id)[0].0.id;
    let edge = FakeEdge::start().await;
    let mut config = fixture.agent_config().clone();
    config["edges"] = json!([format!("ws://{}", edge.address())]);
    config["connections"] = json!(1);
    let agent = launch(&config).await;
    let (tunnel, _tasks) = edge.accept().await;
    let ask = async |uri: String, route: Option<String>| {
        let mut request = http::Request::get(uri);
        if let Some(route) = route {
            request = request.header("x-gatewright-route", route);
        }
        let slot = tunnel.reserve().await.expect("a slot");
        let request = request.body(()).expect("a request");
        let response = slot
            .send(request, RequestBody::<Empty<Bytes>>::Empty, |_| {})
            .await
            .expect("a response");
        let code = response
            .head
            .headers
            .get("x-gatewright-error")
            .map(|code| code.to_str().expect("text").to_owned());
        (response.head.status.as_u16(), code.unwrap_or_default())
    };
    let to_secret = format!("http://{}/status/200", secret.address());
    for route in [
        None,
        Some("0000000000000001".to_owned()),
        Some(secret.address().to_string()),
        Some("app-0".to_owned()),
        Some(String::new()),
    ] {
        let answer = ask(to_secret.clone(), route.clone()).await;
        assert_eq!(answer, (503, "route_gone".to_owned()), "{route:?}");
    }
    assert_eq!(
        ask(to_secret, Some(known.to_string())).await,
        (200, String::new())
    );
    assert_eq!(
        named.counters().requests,
        1,
        "a known route goes where the agent's manifests say"
    );
    assert_eq!(secret.counters().connections, 0);
    drop(tunnel);
    agent.drain().await;
}
