//! The loopback backend does on each path what its table says, over both protocols.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use gatewright_testkit::backend::scripted::Scripted;
use gatewright_testkit::backend::{Backend, Echo, Protocols};
use gatewright_testkit::http::{Connection, exchange, get};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

#[tokio::test]
async fn status_answers_what_is_asked() {
    let backend = Backend::start().await;
    for code in [200, 204, 404, 418, 503] {
        let response = get(backend.address(), "any", &format!("/status/{code}")).await;
        assert_eq!(response.status(), code);
    }
    assert_eq!(
        get(backend.address(), "any", "/status/99999")
            .await
            .status(),
        400
    );
    assert_eq!(
        get(backend.address(), "any", "/nowhere").await.status(),
        404
    );
    let seen = backend.counters();
    assert_eq!((seen.requests, seen.in_flight, seen.aborted), (7, 0, 0));
}

#[tokio::test]
async fn echo_shows_the_bytes_that_came() {
    let backend = Backend::start().await;
    let request = "PURGE /echo/a%2Fb/../c?x=%00&y=%zz HTTP/1.1\r\nHost: App.Example\r\nX-Two: 1\r\nX-Two: 2\r\nContent-Length: 3\r\n\r\nabc";
    let echo: Echo = exchange(backend.address(), request).await.json();
    assert_eq!(echo.method, "PURGE");
    assert_eq!(echo.target, "/echo/a%2Fb/../c?x=%00&y=%zz");
    assert_eq!(echo.version, "HTTP/1.1");
    assert_eq!(echo.header("host"), ["App.Example"]);
    assert_eq!(echo.header("x-two"), ["1", "2"]);
    assert_eq!(echo.body, "abc");
}

#[tokio::test]
async fn one_port_speaks_h2c_with_trailers() {
    let backend = Backend::start().await;
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http::<Empty<Bytes>>();
    let url = |path: &str| {
        format!("http://{}{path}", backend.address())
            .parse()
            .unwrap()
    };
    let response = client.get(url("/echo")).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let echo: Echo = serde_json::from_slice(&body).unwrap();
    assert_eq!(echo.version, "HTTP/2.0");
    assert_eq!(echo.authority, Some(backend.address().to_string()));
    let body = client.get(url("/trailers")).await.unwrap().into_body();
    let body = body.collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(backend.counters().connections, 1);
}

#[tokio::test]
async fn a_backend_can_be_h1_or_h2c_only() {
    let h1 = Backend::start_with(Protocols::Http1).await;
    assert_eq!(get(h1.address(), "any", "/status/200").await.status(), 200);
    let h2c = Backend::start_with(Protocols::H2c).await;
    let mut connection = Connection::connect(h2c.address()).await.unwrap();
    connection
        .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    // An HTTP/2 server begins with its SETTINGS frame whatever the client says.
    let length_and_type = connection.read_exactly(4).await.unwrap();
    assert_eq!((length_and_type[0], length_and_type[3]), (0, 4));
}

#[tokio::test]
async fn sse_sends_one_event_per_release_and_sees_the_client_go() {
    let backend = Backend::start().await;
    let mut connection = Connection::connect(backend.address()).await.unwrap();
    connection
        .send("GET /sse HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let head = connection.read_head().await.unwrap();
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    assert_eq!(
        connection.read_chunk().await.unwrap().unwrap(),
        b"data: 1\n\n"
    );
    let second = tokio::time::timeout(Duration::from_millis(50), connection.read_chunk()).await;
    assert!(second.is_err(), "the second event came unasked");
    backend.release();
    assert_eq!(
        connection.read_chunk().await.unwrap().unwrap(),
        b"data: 2\n\n"
    );
    assert_eq!(backend.counters().in_flight, 1);
    connection.reset().unwrap();
    backend
        .await_counters("the client's reset", |seen| {
            (seen.aborted, seen.in_flight) == (1, 0)
        })
        .await;
}

#[tokio::test]
async fn slow_headers_wait_for_their_release() {
    let backend = Backend::start().await;
    let mut connection = Connection::connect(backend.address()).await.unwrap();
    connection
        .send("GET /slow-headers HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    backend
        .await_counters("the request", |seen| seen.in_flight == 1)
        .await;
    backend.release();
    assert_eq!(
        connection.read_response().await.unwrap().text(),
        "released\n"
    );
}

#[tokio::test]
async fn a_client_that_leaves_a_hanging_request_counts_as_aborted() {
    let backend = Backend::start().await;
    let mut connection = Connection::connect(backend.address()).await.unwrap();
    connection
        .send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    backend
        .await_counters("the request", |seen| seen.in_flight == 1)
        .await;
    drop(connection);
    backend
        .await_counters("the abort", |seen| seen.aborted == 1)
        .await;
}

#[tokio::test]
async fn bytes_come_whole_with_and_without_a_length() {
    let backend = Backend::start().await;
    let sized = get(backend.address(), "any", "/bytes/200000").await;
    assert_eq!(sized.header("content-length"), Some("200000"));
    let chunked = get(backend.address(), "any", "/chunked/200000").await;
    assert_eq!(chunked.header("content-length"), None);
    assert_eq!(sized.body.len(), 200_000);
    assert!(sized.body == chunked.body);
    assert_eq!(get(backend.address(), "any", "/bytes/0").await.body, b"");
    assert_eq!(backend.counters().aborted, 0);
}

#[tokio::test]
async fn sink_counts_and_body_streams_back() {
    let backend = Backend::start().await;
    let upload = |path: &str| {
        let mut request =
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n")
                .into_bytes();
        request.extend([b'z'; 70_000]);
        request
    };
    let sunk: serde_json::Value = exchange(backend.address(), upload("/sink")).await.json();
    assert_eq!(sunk["bytes"], 70_000);
    assert_eq!(backend.counters().sunk_bytes, 70_000);
    let back = exchange(backend.address(), upload("/body")).await;
    assert_eq!(back.body, [b'z'; 70_000]);
}

#[tokio::test]
async fn reset_mid_body_breaks_off() {
    let backend = Backend::start().await;
    let mut connection = Connection::connect(backend.address()).await.unwrap();
    connection
        .send("GET /reset-mid-body HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let head = connection.read_head().await.unwrap();
    assert_eq!(head.header("content-length"), Some("1000000"));
    assert_eq!(connection.read_exactly(1000).await.unwrap(), [b'x'; 1000]);
    assert!(connection.read_exactly(1).await.is_err());
}

#[tokio::test]
async fn an_upgrade_echoes_raw_bytes() {
    let backend = Backend::start().await;
    let mut connection = Connection::connect(backend.address()).await.unwrap();
    connection
        .send("GET /raw HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: bytes\r\n\r\n")
        .await
        .unwrap();
    let head = connection.read_head().await.unwrap();
    assert_eq!((head.status, head.header("upgrade")), (101, Some("bytes")));
    connection.send(b"\x00\xff\r\n\r\nraw").await.unwrap();
    assert_eq!(
        connection.read_exactly(9).await.unwrap(),
        b"\x00\xff\r\n\r\nraw"
    );
    connection.finish().await.unwrap();
    assert_eq!(connection.read_to_end().await.unwrap(), b"");
}

#[tokio::test]
async fn ws_echoes_messages_and_close_codes() {
    let backend = Backend::start().await;
    let stream = tokio::net::TcpStream::connect(backend.address())
        .await
        .unwrap();
    let url = format!("ws://{}/ws", backend.address());
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    socket.send(Message::text("häh")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("häh"));
    let close = CloseFrame {
        code: CloseCode::Library(4321),
        reason: "enough".into(),
    };
    socket.close(Some(close.clone())).await.unwrap();
    assert_eq!(
        socket.next().await.unwrap().unwrap(),
        Message::Close(Some(close))
    );
}

#[tokio::test]
async fn a_scripted_backend_sends_what_no_server_would() {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let backend = Scripted::answering(early).await;
    let response = get(backend.address(), "a", "/%zz").await;
    assert_eq!(response.informational[0].status, 103);
    assert_eq!(response.text(), "ok");
    assert!(backend.heads()[0].starts_with("GET /%zz HTTP/1.1\r\nHost: a\r\n"));

    let backend =
        Scripted::resetting_after("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await;
    let mut connection = Connection::connect(backend.address()).await.unwrap();
    connection
        .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    connection.read_response().await.unwrap_err();
}
