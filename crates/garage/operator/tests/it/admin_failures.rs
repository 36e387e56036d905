//! The client against servers that refuse, hang, talk nonsense or are not there.

use std::time::Duration;

use gatewright_garage::admin::{BucketUpdate, CorsRule, KeyChange};
use gatewright_garage::secret::Redacted;
use gatewright_garage_operator::admin::{Client, Error, Node, Settings};
use gatewright_testkit::backend::scripted::Scripted;
use gatewright_testkit::{Garage, ports};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::admin::{client, client_with, shared};

const TOKEN: &str = "hunter2";

fn impatient(url: &str) -> Client {
    let settings = Settings {
        request_timeout: Duration::from_millis(300),
        response_limit: 64 << 10,
        ..Default::default()
    };
    Client::new(url, Redacted::new(TOKEN.to_owned()), settings).expect("a client")
}

fn url(stub: &Scripted) -> String {
    format!("http://{}", stub.address())
}

fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: application/json\r\n\r\n{body}",
        body.len()
    )
}

/// Answers every request of a connection; bodies of requests are small and come in one piece.
async fn stub(status: &'static str, body: &'static str) -> Scripted {
    Scripted::start(move |mut stream| async move {
        let mut request = [0; 4096];
        let _ = stream.write_all(answer(status, body).as_bytes()).await;
        // Until the client closes, so that its unread body does not become a reset.
        while stream.read(&mut request).await.is_ok_and(|read| read > 0) {}
    })
    .await
}

#[tokio::test]
async fn a_wrong_token_is_unauthorized_and_never_shown() {
    let Some(garage) = shared().await else { return };
    let client = client_with(&garage.node(0).admin_url(), TOKEN);
    let error = client
        .get_cluster_status()
        .await
        .expect_err("a wrong token");
    assert!(error.is_unauthorized() && !error.is_transient(), "{error}");
    assert_eq!(
        (error.status(), error.code()),
        (Some(403), Some("AccessDenied"))
    );
    assert!(!format!("{error} {error:?} {client:?}").contains(TOKEN));
    assert!(client.health().await.expect("it asks for no token"));
}

#[tokio::test]
async fn without_a_quorum_writes_are_refused_for_now() {
    let Some(garage) = Garage::start(2).await else {
        return;
    };
    garage.node(1).kill();
    garage.sees(0, 1, false).await;
    let client = client(&garage, 0);
    let error = client.create_key(&KeyChange::default()).await;
    let error = error.expect_err("no quorum");
    assert_eq!(
        (error.status(), error.code()),
        (Some(503), Some("ServiceUnavailable"))
    );
    assert!(error.is_quorum_lost() && error.is_transient(), "{error}");
    assert!(!client.health().await.expect("an answer"));
    let health = client.get_cluster_health().await.expect("an answer");
    assert_eq!(health.storage_nodes_up, 1);

    // A node that is in the layout and down: HTTP 200, and an error inside.
    let down = crate::admin::id_of(garage.node(1));
    let error = client
        .get_node_info(Node::Id(down))
        .await
        .expect_err("down");
    assert!(
        matches!(&error, Error::Node { node, .. } if *node == down),
        "{error}"
    );
    assert!(error.is_transient());
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let client = impatient(&format!("http://127.0.0.1:{}", ports::free_port()));
    let error = client.get_cluster_status().await.expect_err("nobody");
    assert!(
        matches!(error, Error::Unreachable { .. }) && error.is_transient(),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .starts_with("GetClusterStatus: http://127.0.0.1:")
    );
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_unreachable() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"layoutVersion\"";
    let stub = Scripted::answering(half).await;
    let error = impatient(&url(&stub)).get_cluster_status().await;
    let error = error.expect_err("half an answer");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up() {
    // One never answers, one stops in the middle of its answer.
    for begin in ["", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"] {
        let stub = Scripted::start(move |mut stream| async move {
            let _ = stream.write_all(begin.as_bytes()).await;
            std::future::pending::<()>().await;
        })
        .await;
        let error = impatient(&url(&stub)).get_cluster_status().await;
        let error = error.expect_err("no answer");
        assert!(
            matches!(error, Error::Timeout { .. }) && error.is_transient(),
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_endless_answer_is_cut_short() {
    // One announces its size, one does not end.
    for head in ["Content-Length: 999999999", "Transfer-Encoding: chunked"] {
        let stub = Scripted::start(move |mut stream| async move {
            let head = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n");
            let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
            let mut sent = stream.write_all(head.as_bytes()).await;
            while sent.is_ok() {
                sent = stream.write_all(chunk.as_bytes()).await;
            }
        })
        .await;
        let error = impatient(&url(&stub)).get_cluster_status().await;
        let error = error.expect_err("too much");
        assert!(
            matches!(error, Error::TooLarge { limit: 65_536, .. }),
            "{error}"
        );
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn an_answer_of_another_kind_is_unreadable_and_not_quoted() {
    for (body, what) in [
        ("<html>hunter2</html>", "no JSON"),
        ("{\"layoutVersion\": \"hunter2\"}", "JSON of another shape"),
        ("{\"layoutVersion\": 1, \"nodes\": [", "cut off"),
        ("", "cut off"),
    ] {
        let stub = stub("200 OK", body).await;
        let error = impatient(&url(&stub)).get_cluster_status().await;
        let error = error.expect_err("no status");
        let text = format!("{error} {error:?}");
        assert!(text.contains(what) && !text.contains("hunter2"), "{text}");
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn a_proxy_that_echoes_our_token_is_not_quoted_with_it() {
    let stub = stub("502 Bad Gateway", "upstream refused Bearer hunter2").await;
    let error = impatient(&url(&stub)).get_cluster_status().await;
    let error = error.expect_err("a bad gateway");
    assert!(error.is_transient() && error.code().is_none(), "{error:?}");
    assert_eq!(error.message(), Some("upstream refused Bearer [redacted]"));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = stub("200 OK", "{}").await;
    let location = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n",
        url(&elsewhere)
    );
    let stub = Scripted::answering(location).await;
    let error = impatient(&url(&stub)).get_cluster_status().await;
    assert_eq!(error.expect_err("a redirect").status(), Some(307));
    assert!(elsewhere.heads().is_empty(), "our token went elsewhere");
    let heads = stub.heads();
    assert!(
        heads[0].contains("authorization: Bearer hunter2"),
        "{heads:?}"
    );
}

#[tokio::test]
async fn settings_that_an_old_garage_drops_are_an_error() {
    let stub = stub("200 OK", r#"{"id":"ab","websiteAccess":false}"#).await;
    let update = BucketUpdate {
        cors_rules: Some(vec![CorsRule::default()]),
        ..Default::default()
    };
    let error = impatient(&url(&stub)).update_bucket("ab", &update).await;
    let error = error.expect_err("dropped");
    assert!(matches!(&error, Error::Dropped { settings, .. } if settings == &["corsRules"]));
}

#[tokio::test]
async fn failures_inside_a_success_are_errors() {
    const NODE: &str = concat!(
        r#"{"success":{},"error":{"#,
        r#""aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa":"Timeout"}}"#
    );
    let server = stub("200 OK", NODE).await;
    let error = impatient(&url(&server)).get_node_info(Node::Asked).await;
    let error = error.expect_err("its error");
    assert!(
        matches!(&error, Error::Node { message, .. } if message == "Timeout"),
        "{error}"
    );

    let server = stub("200 OK", r#"{"success":{},"error":{}}"#).await;
    let error = impatient(&url(&server)).get_node_info(Node::Asked).await;
    assert!(matches!(error.expect_err("nothing"), Error::NoNode { .. }));

    let server = stub("200 OK", r#"{"error":"no zones"}"#).await;
    let error = impatient(&url(&server))
        .preview_cluster_layout_changes()
        .await;
    let error = error.expect_err("its error");
    assert!(
        matches!(&error, Error::Layout { message, .. } if message == "no zones"),
        "{error}"
    );

    let outcomes = r#"[{"success":true,"error":null},{"success":false,"error":"Timeout"}]"#;
    let server = stub("200 OK", outcomes).await;
    let peers = ["a@h:1".to_owned(), "b@h:1".to_owned()];
    let error = impatient(&url(&server)).connect_cluster_nodes(&peers).await;
    let error = error.expect_err("one of two");
    assert!(
        matches!(&error, Error::NotConnected { failed, .. } if failed.len() == 1),
        "{error}"
    );
}
