//! Bodies as they stream: the first byte at once, both ways at the same time, trailers, and everything
//! that has no body where another response would have one.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use gatewright_testkit::backend::Backend;
use gatewright_testkit::backend::scripted::Scripted;
use gatewright_testkit::http::Connection;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Mutex, mpsc};

use crate::client::{H2, empty};
use crate::manifests;
use crate::tunnel::{APP, Carrier, Tunnel, error_code};

on_both_carriers! {
    a_response_may_come_before_the_request_is_over,
    both_directions_stream_at_the_same_time,
    flaw_1_a_response_may_last_longer_than_every_timeout,
    flaw_1_an_upload_may_last_longer_than_every_timeout,
    flaw_24_trailers_pass_both_ways,
    flaw_3_an_event_arrives_before_the_next_is_sent,
    head_204_and_304_have_no_body,
}

async fn ask(tunnel: &Tunnel, method: &str, target: &str, fields: &str) -> Connection {
    let mut connection = tunnel.connect().await;
    let head = format!("{method} {target} HTTP/1.1\r\nHost: {APP}\r\n{fields}\r\n");
    connection.send(head).await.expect("send a head");
    connection
}

async fn next_chunk(connection: &mut Connection) -> String {
    let chunk = connection
        .read_chunk()
        .await
        .expect("a chunk")
        .expect("not the last one");
    String::from_utf8(chunk).expect("text")
}

async fn flaw_3_an_event_arrives_before_the_next_is_sent(carrier: Carrier) {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let mut connection = ask(&tunnel, "GET", "/sse", "").await;
    let head = connection.read_head().await.expect("a head");
    assert_eq!(
        (head.status, head.header("content-type")),
        (200, Some("text/event-stream"))
    );
    for event in 1..=5 {
        // The backend holds the next one back until this one has arrived here.
        assert_eq!(
            next_chunk(&mut connection).await,
            format!("data: {event}\n\n")
        );
        backend.release();
    }
    drop(connection);
    // The first reader would take the releases that are meant for the second.
    backend
        .await_counters("the end of the first", |seen| seen.in_flight == 0)
        .await;
    let user = H2::connect(tunnel.http()).await;
    let mut body = user.get(APP, "/sse").await.into_body();
    for event in 1..=3 {
        let frame = body.frame().await.expect("not the end").expect("a frame");
        assert_eq!(
            frame.into_data().expect("data"),
            format!("data: {event}\n\n")
        );
        backend.release();
    }
}

async fn both_directions_stream_at_the_same_time(carrier: Carrier) {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let mut connection = ask(&tunnel, "POST", "/body", "Transfer-Encoding: chunked\r\n").await;
    for round in 0..20 {
        let text = format!("round {round}");
        connection
            .send(format!("{:x}\r\n{text}\r\n", text.len()))
            .await
            .expect("send a chunk");
        if round == 0 {
            assert_eq!(connection.read_head().await.expect("a head").status, 200);
        }
        assert_eq!(next_chunk(&mut connection).await, text);
    }
    connection.send("0\r\n\r\n").await.expect("send the end");
    assert_eq!(connection.read_chunk().await.expect("a chunk"), None);

    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
        Some((Ok(Frame::data(receiver.recv().await?)), receiver))
    });
    let request = http::Request::post(format!("http://{APP}/body"))
        .body(StreamBody::new(frames).boxed_unsync())
        .expect("a request");
    let user = H2::connect(tunnel.http()).await;
    sender
        .send(Bytes::from_static(b"first"))
        .await
        .expect("send a frame");
    let mut body = user
        .send(request)
        .await
        .expect("a response")
        .into_body()
        .into_data_stream();
    assert_eq!(
        body.next().await.expect("not the end").expect("data"),
        "first"
    );
    sender
        .send(Bytes::from_static(b"second"))
        .await
        .expect("send a frame");
    assert_eq!(
        body.next().await.expect("not the end").expect("data"),
        "second"
    );
    drop(sender);
    while let Some(rest) = body.next().await {
        assert_eq!(rest.expect("a clean end"), "");
    }
}

async fn a_response_may_come_before_the_request_is_over(carrier: Carrier) {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let mut connection = ask(
        &tunnel,
        "POST",
        "/status/413",
        "Content-Length: 10000000\r\n",
    )
    .await;
    connection
        .send(vec![b'x'; 1000])
        .await
        .expect("send a part");
    let response = connection.read_response().await.expect("an early response");
    assert_eq!(
        (response.status(), response.text().as_str()),
        (413, "status 413\n")
    );
    assert_eq!(error_code(&response), "");
    // The rest of the body is never taken for a request.
    let _ = connection.send(vec![b'x'; 1000]).await;
    assert_eq!(connection.read_to_end().await.unwrap_or_default(), b"");
    assert_eq!(tunnel.get(APP, "/status/200").await.status(), 200);
}

async fn head_204_and_304_have_no_body(carrier: Carrier) {
    let backend = Backend::start().await;
    let unchanged = Scripted::answering(
        "HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n",
    )
    .await;
    let apps = [
        (APP, "/", backend.address()),
        (APP, "/unchanged", unchanged.address()),
    ];
    let tunnel = Tunnel::with(carrier).apps(&apps).start().await;
    let mut connection = ask(&tunnel, "HEAD", "/bytes/1000", "").await;
    let head = connection.read_head().await.expect("a head");
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("1000"))
    );
    let next = async |connection: &mut Connection, target: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {APP}\r\n\r\n");
        connection.send(request).await.expect("send");
        connection.read_response().await.expect("a response")
    };
    // Each next response begins where a body would have been.
    assert_eq!(next(&mut connection, "/status/204").await.status(), 204);
    let response = next(&mut connection, "/unchanged").await;
    assert_eq!(
        (response.status(), response.header("etag")),
        (304, Some("\"v1\""))
    );
    assert_eq!(next(&mut connection, "/status/304").await.status(), 304);
    assert_eq!(
        next(&mut connection, "/status/200").await.text(),
        "status 200\n"
    );

    let user = H2::connect(tunnel.http()).await;
    let request = http::Request::head(format!("http://{APP}/bytes/1000")).body(empty());
    let response = user
        .send(request.expect("a request"))
        .await
        .expect("a response");
    assert_eq!(response.headers()["content-length"], "1000");
    assert_eq!(
        response
            .into_body()
            .collect()
            .await
            .expect("no body")
            .to_bytes()
            .len(),
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lengths_ranges_and_encodings_pass_as_they_are() {
    let backend = Backend::start().await;
    let ranges = Scripted::answering(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-4/10\r\nContent-Length: 3\r\n\
         Accept-Ranges: bytes\r\nContent-Encoding: gzip\r\nVary: Accept-Encoding\r\n\r\ncde",
    )
    .await;
    let apps = [
        (APP, "/", backend.address()),
        (APP, "/ranges", ranges.address()),
    ];
    let tunnel = Tunnel::with(Carrier::WebSocket).apps(&apps).start().await;
    let sized = tunnel.get(APP, "/bytes/12345").await;
    assert_eq!(
        (sized.header("content-length"), sized.body.len()),
        (Some("12345"), 12345)
    );
    assert_eq!(sized.header("transfer-encoding"), None);
    let unsized_ = tunnel.get(APP, "/chunked/12345").await;
    assert_eq!(
        (unsized_.header("content-length"), unsized_.body.len()),
        (None, 12345)
    );
    assert_eq!(unsized_.header("transfer-encoding"), Some("chunked"));
    assert_eq!(sized.body, unsized_.body);

    let request = format!(
        "GET /ranges HTTP/1.1\r\nHost: {APP}\r\nRange: bytes=2-4\r\nIf-Range: \"v1\"\r\nAccept-Encoding: gzip\r\n\r\n"
    );
    let response = tunnel.exchange(request).await;
    assert_eq!((response.status(), response.text().as_str()), (206, "cde"));
    assert_eq!(response.header("content-range"), Some("bytes 2-4/10"));
    assert_eq!(
        response.header("content-encoding"),
        Some("gzip"),
        "nothing is packed or unpacked"
    );
    let head = ranges.heads()[0].to_ascii_lowercase();
    for field in [
        "range: bytes=2-4",
        "if-range: \"v1\"",
        "accept-encoding: gzip",
    ] {
        assert!(head.lines().any(|line| line == field), "{field} in {head}");
    }
}

async fn flaw_24_trailers_pass_both_ways(carrier: Carrier) {
    let backend = Backend::start().await;
    let h2c = Backend::start().await;
    let mut objects = vec![manifests::ingress(
        "apps",
        &[(APP, "/", "h1"), ("h2.example.test", "/", "h2")],
    )];
    objects.extend(manifests::service("h1", &[backend.address()]));
    objects.extend(manifests::h2c_service("h2", &[h2c.address()]));
    let tunnel = Tunnel::with(carrier)
        .file("apps.yaml", manifests::file(objects))
        .start()
        .await;
    let sum = ("x-checksum".to_owned(), "c0ffee".to_owned());
    let up = "1\r\na\r\n0\r\nX-Up: yes\r\n\r\n";
    for host in [APP, "h2.example.test"] {
        let request = format!("GET /trailers HTTP/1.1\r\nHost: {host}\r\nTE: trailers\r\n\r\n");
        let response = tunnel.exchange(request).await;
        assert_eq!(response.text(), "body\n", "{host}");
        let lower = |(name, value): (String, String)| (name.to_ascii_lowercase(), value);
        let trailers: Vec<_> = response.trailers.into_iter().map(lower).collect();
        assert!(
            trailers.contains(&sum),
            "from the backend at {host}: {trailers:?}"
        );

        let request = format!(
            "POST /body HTTP/1.1\r\nHost: {host}\r\nTE: trailers\r\nTrailer: x-up\r\nTransfer-Encoding: chunked\r\n\r\n{up}"
        );
        let response = tunnel.exchange(request).await;
        assert_eq!(response.text(), "a", "{host}");
    }
    // Over HTTP/2 all the way nothing has to announce them.
    let user = H2::connect(tunnel.http()).await;
    let frames = [
        Ok(Frame::data(Bytes::from_static(b"a"))),
        Ok(Frame::trailers(
            [("x-up", "yes")]
                .map(|(name, value)| {
                    (
                        http::HeaderName::from_static(name),
                        http::HeaderValue::from_static(value),
                    )
                })
                .into_iter()
                .collect(),
        )),
    ];
    let request = http::Request::post("http://h2.example.test/body")
        .header("te", "trailers")
        .body(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
        .expect("a request");
    let response = user.send(request).await.expect("a response");
    let body = response.into_body().collect().await.expect("a whole body");
    assert_eq!(body.trailers().expect("trailers")["x-up"], "yes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expect_100_continue_is_answered_before_the_body_comes() {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    let fields = "Content-Length: 5\r\nExpect: 100-continue\r\n";
    let mut connection = ask(&tunnel, "POST", "/sink", fields).await;
    assert_eq!(
        connection
            .read_head()
            .await
            .expect("an interim response")
            .status,
        100
    );
    connection.send("hello").await.expect("send the body");
    let response = connection.read_response().await.expect("a response");
    assert_eq!(response.json::<Value>(), json!({"bytes": 5}));
    // A refusal comes instead of the 100.
    let mut connection = tunnel.connect().await;
    connection
        .send(format!(
            "POST / HTTP/1.1\r\nHost: nobody.example.test\r\n{fields}\r\n"
        ))
        .await
        .expect("send a head");
    assert_eq!(connection.read_head().await.expect("a refusal").status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_responses_arrive_before_the_final_one_is_sent() {
    let (sender, receiver) = mpsc::channel::<()>(1);
    let receiver = Arc::new(Mutex::new(receiver));
    let backend = Scripted::start(move |mut stream| {
        let receiver = Arc::clone(&receiver);
        async move {
            let early = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nX-Gatewright-X: y\r\n\r\n";
            stream
                .write_all(early.as_bytes())
                .await
                .expect("send a hint");
            receiver.lock().await.recv().await.expect("a word");
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
                .await;
        }
    })
    .await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    let mut connection = ask(&tunnel, "GET", "/", "").await;
    let hint = connection.read_head().await.expect("a hint");
    assert_eq!((hint.status, hint.header("link")), (103, Some("</a.css>")));
    assert_eq!(hint.header("x-gatewright-x"), None);
    sender.send(()).await.expect("let it go on");
    let response = connection.read_response().await.expect("a response");
    assert_eq!((response.status(), response.text().as_str()), (200, "ok"));
    assert_eq!(
        response.header("link"),
        None,
        "a hint's field is not the response's"
    );
    // An HTTP/1.0 client knows no interim responses.
    sender.send(()).await.expect("let it go on");
    let response = tunnel
        .exchange(format!("GET / HTTP/1.0\r\nHost: {APP}\r\n\r\n"))
        .await;
    assert_eq!((response.status(), response.text().as_str()), (200, "ok"));
    assert_eq!(response.informational, []);
}

/// Every time that has a bound here is this long.
const SHORT: Duration = Duration::from_secs(1);
/// Between two pieces, so that nothing ever idles as long as [`SHORT`].
const PACE: Duration = Duration::from_millis(100);
/// Together longer than any of the times.
const PIECES: u32 = 25;

async fn with_short_times(carrier: Carrier, backend: &Backend) -> Tunnel {
    let short = SHORT.as_secs();
    let edge = json!({"timeouts": {
        "header": short, "keep_alive": short, "request_idle": short, "first_byte": short,
        "response_idle": short, "write_idle": short, "upgrade_idle": short,
    }});
    let agent = json!({"timeouts": {"first_byte": short, "connect": short}});
    Tunnel::with(carrier)
        .app(backend.address())
        .edge(edge)
        .agent(agent)
        .start()
        .await
}

async fn flaw_1_a_response_may_last_longer_than_every_timeout(carrier: Carrier) {
    let backend = Backend::start().await;
    let tunnel = with_short_times(carrier, &backend).await;
    let mut connection = ask(&tunnel, "GET", "/sse", "").await;
    connection.read_head().await.expect("a head");
    let mut pace = tokio::time::interval(PACE);
    for event in 1..=PIECES {
        assert_eq!(
            next_chunk(&mut connection).await,
            format!("data: {event}\n\n")
        );
        pace.tick().await;
        backend.release();
    }
}

async fn flaw_1_an_upload_may_last_longer_than_every_timeout(carrier: Carrier) {
    let backend = Backend::start().await;
    let tunnel = with_short_times(carrier, &backend).await;
    let mut connection = ask(&tunnel, "POST", "/sink", "Transfer-Encoding: chunked\r\n").await;
    let mut pace = tokio::time::interval(PACE);
    for _ in 0..PIECES {
        pace.tick().await;
        connection
            .send("5\r\nhello\r\n")
            .await
            .expect("send a chunk");
    }
    connection.send("0\r\n\r\n").await.expect("send the end");
    let response = connection.read_response().await.expect("a response");
    assert_eq!(response.status(), 200, "{}", response.text());
    assert_eq!(response.json::<Value>(), json!({"bytes": 5 * PIECES}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_stops_coming_is_408_and_one_that_stops_going_is_cut() {
    let backend = Backend::start().await;
    let tunnel = with_short_times(Carrier::WebSocket, &backend).await;
    let mut upload = ask(&tunnel, "POST", "/sink", "Content-Length: 10\r\n").await;
    upload.send("12345").await.expect("send a part");
    let response = upload.read_response().await.expect("a refusal");
    assert_eq!(
        (response.status(), error_code(&response)),
        (408, "request_timeout")
    );

    let mut download = ask(&tunnel, "GET", "/sse", "").await;
    download.read_head().await.expect("a head");
    assert_eq!(next_chunk(&mut download).await, "data: 1\n\n");
    assert!(
        download.read_chunk().await.is_err(),
        "a cut response never ends cleanly"
    );
    backend
        .await_counters("the end of both", |seen| seen.in_flight == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_without_a_length_ends_with_the_backends_connection() {
    let backend = Scripted::start(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nall of it").await;
        let _ = stream.shutdown().await;
    })
    .await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    assert_eq!(tunnel.get(APP, "/").await.text(), "all of it");
}
