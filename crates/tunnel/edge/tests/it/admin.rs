//! The admin listener of a running edge, over its socket.

use std::net::SocketAddr;

use gatewright_edge::{Edge, EdgeConfig, Error};
use serde_json::json;

use crate::support::{Response, create, http, route, upsert};

/// An edge on free ports, with the store in a scratch folder.
struct Running {
    edge: Edge,
    admin: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Running {
    async fn start(more: serde_json::Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let edge = Edge::start(config(&folder, more)).await.unwrap();
        let admin = edge.admin_address();
        Self {
            edge,
            admin,
            _folder: folder,
        }
    }

    async fn get(&self, path: &str) -> Response {
        http(self.admin, &format!("GET {path}"), &[], "").await
    }

    async fn send(&self, method_and_path: &str, body: serde_json::Value) -> Response {
        http(
            self.admin,
            method_and_path,
            &["content-type: application/json"],
            &body.to_string(),
        )
        .await
    }
}

fn config(folder: &tempfile::TempDir, more: serde_json::Value) -> EdgeConfig {
    let mut config = json!({
        "listen": { "http": "127.0.0.1:0", "admin": "127.0.0.1:0" },
        "domain": "gateway.localhost",
        "store": { "path": folder.path().join("store") },
        "access_log": "off",
        "workers": 1,
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    serde_json::from_value(config).unwrap()
}

#[tokio::test]
async fn a_cluster_from_its_making_to_its_end() {
    let edge = Running::start(json!({})).await;
    assert_eq!(
        edge.get("/api/v1/clusters").await.json(),
        json!({ "clusters": [] })
    );

    let made = edge
        .send(
            "POST /api/v1/clusters",
            json!({ "name": "demo", "tenant": "shop", "hosts": ["*.Example.Test"] }),
        )
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    let token = made.json()["token"].as_str().unwrap().to_owned();
    assert!(edge.edge.clusters().authenticate(&token).is_some());
    let cluster = made.json()["cluster"].clone();
    assert_eq!(
        (&cluster["name"], &cluster["tenant"], &cluster["hosts"]),
        (&json!("demo"), &json!("shop"), &json!(["*.example.test"]))
    );
    assert_eq!(
        (&cluster["connected"], &cluster["routes"]),
        (&json!(false), &json!({ "total": 0, "active": 0 }))
    );

    let again = edge
        .send("POST /api/v1/clusters", json!({ "name": "demo" }))
        .await;
    assert_eq!(
        (again.status, &again.json()["error"]["code"]),
        (409, &json!("cluster_exists"))
    );

    let one = edge.get("/api/v1/clusters/demo").await;
    assert_eq!((one.status, &one.json()["id"]), (200, &cluster["id"]));
    assert!(
        !one.body.contains(&token[17..]),
        "a token is shown once only"
    );

    let rotated = edge
        .send(
            "POST /api/v1/clusters/demo/rotate-token",
            json!({ "revoke_old": true }),
        )
        .await;
    let second = rotated.json()["token"].as_str().unwrap().to_owned();
    assert!(edge.edge.clusters().authenticate(&token).is_none());
    assert!(edge.edge.clusters().authenticate(&second).is_some());
    let third = http(
        edge.admin,
        "POST /api/v1/clusters/demo/rotate-token",
        &[],
        "",
    )
    .await;
    assert_eq!(third.status, 200, "{}", third.body);
    assert!(edge.edge.clusters().authenticate(&second).is_some());

    let hosts = edge
        .send(
            "PUT /api/v1/clusters/demo/hosts",
            json!({ "hosts": ["b.test", "a.test", "a.test"] }),
        )
        .await;
    assert_eq!(
        (hosts.status, &hosts.json()["hosts"]),
        (200, &json!(["a.test", "b.test"]))
    );

    let deleted = http(edge.admin, "DELETE /api/v1/clusters/demo", &[], "").await;
    assert_eq!((deleted.status, deleted.body.as_str()), (204, ""));
    let gone = edge.get("/api/v1/clusters/demo").await;
    assert_eq!(
        (gone.status, &gone.json()["error"]["code"]),
        (404, &json!("no_such_cluster"))
    );
}

#[tokio::test]
async fn bad_requests_are_answered_with_what_is_wrong() {
    let edge = Running::start(json!({})).await;
    for (request, body, status, code, text) in [
        ("POST /api/v1/clusters", "", 400, "bad_request", "JSON"),
        (
            "POST /api/v1/clusters",
            "{\"nam\": \"x\"}",
            400,
            "bad_request",
            "`nam`",
        ),
        (
            "POST /api/v1/clusters",
            "{\"name\": \"X\"}",
            400,
            "bad_name",
            "lower-case",
        ),
        (
            "POST /api/v1/clusters",
            "{\"name\": \"x\", \"hosts\": [\"10.0.0.1\"]}",
            400,
            "bad_request",
            "10.0.0.1",
        ),
        (
            "POST /api/v1/clusters",
            "{\"name\": \"x\", \"tenant\": \"a\\u001bb\"}",
            400,
            "bad_request",
            "tenant",
        ),
        (
            "PUT /api/v1/clusters/none/hosts",
            "{\"hosts\": []}",
            404,
            "no_such_cluster",
            "none",
        ),
        (
            "DELETE /api/v1/clusters/none",
            "",
            404,
            "no_such_cluster",
            "none",
        ),
        (
            "GET /api/v1/routes?cluster=none",
            "",
            404,
            "no_such_cluster",
            "none",
        ),
        ("GET /api/v1/routes?x=1", "", 400, "bad_request", "cluster"),
        ("GET /api/v1/explain", "", 400, "bad_request", "host"),
        (
            "GET /api/v1/explain?host=a..b",
            "",
            400,
            "bad_request",
            "empty label",
        ),
        (
            "GET /api/v1/explain?host=a.test&path=x",
            "",
            400,
            "bad_request",
            "/",
        ),
        ("GET /nowhere", "", 404, "not_found", "/api/v1"),
        (
            "DELETE /api/v1/clusters",
            "",
            405,
            "method_not_allowed",
            "Allow",
        ),
    ] {
        let answer = http(edge.admin, request, &[], body).await;
        let error = answer.json()["error"].clone();
        assert_eq!(
            (answer.status, &error["code"]),
            (status, &json!(code)),
            "{request} {body}: {}",
            answer.body
        );
        assert!(
            error["message"].as_str().unwrap().contains(text),
            "{request} {body}: {error}"
        );
    }
    let large = http(
        edge.admin,
        "POST /api/v1/clusters",
        &[],
        &" ".repeat(70_000),
    )
    .await;
    assert_eq!(
        (large.status, &large.json()["error"]["code"]),
        (413, &json!("too_large"))
    );
    assert!(edge.edge.clusters().list().is_empty());
}

/// Flaw: a page on the Internet makes an administrator's browser change the edge.
#[tokio::test]
async fn a_browser_on_another_origin_is_refused() {
    let edge = Running::start(json!({})).await;
    let own = format!("origin: http://{}", edge.admin);
    let body = json!({ "name": "demo" }).to_string();
    for (headers, code) in [
        (&["origin: http://evil.example"][..], "other_origin"),
        (&["origin: null"], "other_origin"),
        (&["sec-fetch-site: cross-site"], "other_origin"),
        (&["sec-fetch-site: same-site", &own], "other_origin"),
        (
            &[
                "host: evil.example:9090",
                "origin: http://evil.example:9090",
            ],
            "foreign_host",
        ),
        (&["host: evil.example:9090"], "foreign_host"),
    ] {
        for request in [
            "POST /api/v1/clusters",
            "GET /api/v1/status",
            "GET /metrics",
            "GET /",
        ] {
            let answer = http(edge.admin, request, headers, &body).await;
            assert_eq!(
                (answer.status, &answer.json()["error"]["code"]),
                (403, &json!(code)),
                "{request} {headers:?}"
            );
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    assert!(edge.edge.clusters().list().is_empty());
    let from_page = http(
        edge.admin,
        "GET /api/v1/status",
        &[&own, "sec-fetch-site: same-origin"],
        "",
    )
    .await;
    assert_eq!(from_page.status, 200);
}

#[tokio::test]
async fn beyond_loopback_the_api_wants_its_token() {
    let folder = tempfile::tempdir().unwrap();
    let everywhere = json!({ "http": "127.0.0.1:0", "admin": "0.0.0.0:0" });
    let error = Edge::start(config(&folder, json!({ "listen": everywhere })))
        .await
        .err()
        .unwrap();
    assert!(
        matches!(error, Error::AdminUnprotected { .. }) && error.is_configuration(),
        "{error}"
    );
    assert!(error.to_string().contains("admin_token_file"), "{error}");

    let file = folder.path().join("admin-token");
    std::fs::write(&file, "correct horse battery\n").unwrap();
    let edge = Running::start(json!({ "listen": everywhere, "admin_token_file": file })).await;
    let address: SocketAddr = ([127, 0, 0, 1], edge.admin.port()).into();
    for (request, header, status) in [
        ("GET /healthz", "x: y", 200),
        ("GET /readyz", "x: y", 200),
        ("GET /metrics", "x: y", 401),
        ("GET /", "x: y", 401),
        ("GET /api/v1/status", "authorization: Bearer wrong", 401),
        (
            "GET /api/v1/status",
            "authorization: Bearer correct horse battery",
            200,
        ),
        (
            "GET /",
            "authorization: Basic YWRtaW46Y29ycmVjdCBob3JzZSBiYXR0ZXJ5",
            200,
        ),
    ] {
        let answer = http(address, request, &["host: edge.internal", header], "").await;
        assert_eq!(answer.status, status, "{request} {header}");
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401);
        assert!(!answer.body.contains("correct horse"));
    }
}

/// Flaw: a route's path, a tenant's name or a host runs as a script in an administrator's browser.
#[tokio::test]
async fn what_clusters_say_is_text_on_the_status_page() {
    let edge = Running::start(json!({})).await;
    let attack = "<script>alert(1)</script>";
    let made = edge
        .send(
            "POST /api/v1/clusters",
            json!({ "name": "demo", "tenant": format!("{attack}\"'&") }),
        )
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    let id = edge.edge.clusters().view("demo").unwrap().record.id;
    let mut served = route(1, "", &format!("/{attack}"));
    served.source = Some(format!("Ingress/{attack}"));
    let ack = upsert(edge.edge.clusters(), &id, vec![served]).await;
    assert_eq!(ack.accepted, 1);

    let page = edge.get("/").await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    assert!(!page.body.contains("<script"), "{}", page.body);
    assert_eq!(
        page.body
            .matches("&lt;script&gt;alert(1)&lt;/script&gt;")
            .count(),
        3,
        "{}",
        page.body
    );
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-")
            && policy.contains("frame-ancestors 'none'"),
        "{policy}"
    );
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert!(
        !page.body.contains("http://") && !page.body.contains("src="),
        "the page needs nothing from elsewhere"
    );
    assert!(page.body.contains("http-equiv=\"refresh\""));
    assert!(!edge.get("/?refresh=off").await.body.contains("http-equiv"));
}

#[tokio::test]
async fn routes_and_explanations_tell_what_is_served_and_why_not() {
    let edge = Running::start(json!({})).await;
    let clusters = edge.edge.clusters();
    let (a, _) = create(clusters, "a", &["*.shop.test"]).await;
    let (b, _) = create(clusters, "b", &["*.shop.test"]).await;
    upsert(
        clusters,
        &a,
        vec![
            route(1, "x.shop.test", "/"),
            route(2, "elsewhere.test", "/"),
        ],
    )
    .await;
    upsert(clusters, &b, vec![route(3, "x.shop.test", "/b")]).await;

    let routes = edge.get("/api/v1/routes?cluster=a").await.json();
    let shown: Vec<_> = routes["routes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|route| (&route["host"], &route["served"], &route["reason"]))
        .collect();
    assert_eq!(
        shown,
        [
            (
                &json!("elsewhere.test"),
                &json!(false),
                &json!("host_not_granted")
            ),
            (&json!("x.shop.test"), &json!(true), &json!(null)),
        ]
    );
    assert_eq!(
        edge.get("/api/v1/routes").await.json()["routes"]
            .as_array()
            .unwrap()
            .len(),
        3
    );

    let explained = edge
        .get("/api/v1/explain?host=X.Shop.Test:8080&path=/%2Fb%3Fq")
        .await
        .json();
    assert_eq!(explained["host"], "x.shop.test");
    assert_eq!(explained["outcome"]["served"]["cluster"], a.as_str());
    // Nobody is connected.
    assert_eq!(explained["status"], 503);
    assert_eq!(explained["clusters"][b.as_str()]["name"], "b");
    assert_eq!(explained["refused"][0]["reason"], "host_owned_by_other");
    assert_eq!(
        edge.get("/api/v1/explain?host=none.test").await.json()["outcome"],
        "unknown_host"
    );
}

#[tokio::test]
async fn status_and_health_of_a_quiet_edge() {
    let edge = Running::start(json!({})).await;
    create(edge.edge.clusters(), "demo", &[]).await;
    let status = edge.get("/api/v1/status").await.json();
    assert_eq!(
        (&status["domain"], &status["draining"], &status["errors"]),
        (&json!("gateway.localhost"), &json!(false), &json!([]))
    );
    assert_eq!(status["clusters"][0]["name"], "demo");
    assert_eq!(edge.get("/healthz").await.body, "ok\n");
    assert_eq!(
        (
            edge.get("/readyz").await.status,
            edge.get("/readyz").await.body.as_str()
        ),
        (200, "ready\n")
    );
}

#[tokio::test]
async fn requests_for_hosts_that_nobody_has_are_counted_under_no_cluster() {
    let edge = Running::start(json!({})).await;
    let answer = http(
        edge.edge.http_address(),
        "GET /",
        &["host: nobody.test"],
        "",
    )
    .await;
    assert_eq!(answer.status, 404);
    let metrics = edge.get("/metrics").await;
    assert_eq!(
        metrics.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(
        metrics
            .body
            .contains("gateway_requests_total{cluster_uuid=\"\",status_code=\"404\"} 1\n"),
        "{}",
        metrics.body
    );
    assert!(metrics.body.ends_with("# EOF\n"));
}
