//! Ends that come early: a user who leaves is felt by the backend, a backend that breaks off is felt by
//! the user, and one that stands still is felt by nobody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gatewright_testkit::await_condition;
use gatewright_testkit::backend::Backend;
use gatewright_testkit::backend::scripted::Scripted;
use gatewright_testkit::http::Connection;
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

use crate::client::{H2, Recorder, empty};
use crate::manifests;
use crate::tunnel::{APP, Carrier, SOON, Tunnel, error_code};

on_both_carriers! {
    flaw_11_a_user_who_leaves_is_felt_by_the_backend,
    flaw_11_a_reset_http_2_stream_is_felt_by_the_backend,
    flaw_4_users_who_read_nothing_hold_up_neither_requests_nor_control_messages,
    flaw_5_a_backend_that_reads_nothing_stops_nobody_else,
    flaw_9_users_who_leave_in_the_middle_never_end_the_agent,
    flaw_2_more_than_fifty_slow_requests_at_once,
    a_backend_that_breaks_off_never_ends_cleanly_for_the_user,
    an_upload_that_breaks_off_never_ends_cleanly_for_the_backend,
    a_revoked_tunnel_breaks_its_responses_off,
    an_upload_that_the_backend_leaves_unread_ends_in_time,
}

async fn flaw_11_a_user_who_leaves_is_felt_by_the_backend(carrier: Carrier) {
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
    for (host, backend) in [(APP, &backend), ("h2.example.test", &h2c)] {
        for (left, when, request) in [
            (
                1,
                "before the response",
                format!("GET /slow-headers HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            ),
            (
                2,
                "between two events",
                format!("GET /sse HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            ),
            (
                3,
                "in a download",
                format!("GET /chunked/10000000000 HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            ),
        ] {
            let mut connection = tunnel.connect().await;
            connection.send(request).await.expect("send");
            backend
                .await_counters(&format!("the request, {when}"), |seen| seen.in_flight == 1)
                .await;
            if left % 2 == 0 {
                connection.reset().expect("reset the connection");
            } else {
                drop(connection);
            }
            let what = format!("the user's leave {when} ({host})");
            backend
                .await_counters(&what, |seen| seen.in_flight == 0 && seen.aborted == left)
                .await;
        }
    }
    assert_eq!(tunnel.get(APP, "/status/200").await.status(), 200);
}

async fn flaw_11_a_reset_http_2_stream_is_felt_by_the_backend(carrier: Carrier) {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let user = H2::connect(tunnel.http()).await;
    let body = user.get(APP, "/chunked/10000000000").await.into_body();
    backend
        .await_counters("the download", |seen| seen.in_flight == 1)
        .await;
    // The stream is reset, the connection goes on.
    drop(body);
    backend
        .await_counters("the reset", |seen| seen.in_flight == 0 && seen.aborted == 1)
        .await;
    let request = http::Request::get(format!("http://{APP}/slow-headers")).body(empty());
    let waiting = tokio::spawn({
        let user = user.clone();
        async move { user.send(request.expect("a request")).await.map(|_| ()) }
    });
    backend
        .await_counters("the slow request", |seen| seen.in_flight == 1)
        .await;
    waiting.abort();
    backend
        .await_counters("the second reset", |seen| {
            seen.in_flight == 0 && seen.aborted == 2
        })
        .await;
    assert_eq!(user.get(APP, "/status/200").await.status(), 200);
}

async fn a_backend_that_breaks_off_never_ends_cleanly_for_the_user(carrier: Carrier) {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let sized = Backend::start().await;
    let reset = Scripted::resetting_after(head).await;
    let closed = Scripted::answering(head).await;
    let unsized_reset = Scripted::resetting_after("HTTP/1.1 200 OK\r\n\r\nhello").await;
    let apps = [
        (APP, "/reset-mid-body", sized.address()),
        (APP, "/reset", reset.address()),
        (APP, "/closed", closed.address()),
        (APP, "/unsized", unsized_reset.address()),
    ];
    let tunnel = Tunnel::with(carrier).apps(&apps).start().await;
    let user = H2::connect(tunnel.http()).await;
    for (_, path, _) in apps {
        let mut connection = tunnel.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {APP}\r\n\r\n");
        connection.send(request).await.expect("send");
        // A reset may overtake even the head; what may not come is a response that looks whole.
        if let Ok(response) = connection.read_response().await {
            assert_eq!(
                response.status(),
                502,
                "{path}: {:?} looks whole",
                response.text()
            );
        }
        let request = http::Request::get(format!("http://{APP}{path}")).body(empty());
        if let Ok(response) = user.send(request.expect("a request")).await
            && response.status() != 502
        {
            let collected = response.into_body().collect().await;
            assert!(collected.is_err(), "{path} over HTTP/2 looks whole");
        }
    }
}

async fn an_upload_that_breaks_off_never_ends_cleanly_for_the_backend(carrier: Carrier) {
    let backend = Recorder::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    for (number, framing) in ["Content-Length: 1000", "Transfer-Encoding: chunked"]
        .iter()
        .enumerate()
    {
        let mut connection = tunnel.connect().await;
        let request =
            format!("POST /sink HTTP/1.1\r\nHost: {APP}\r\n{framing}\r\n\r\n5\r\nhello\r\n");
        connection.send(request).await.expect("send");
        await_condition("the first bytes", SOON, || async {
            backend.seen() > number
        })
        .await;
        if number == 0 {
            connection
                .finish()
                .await
                .expect("end the sending half early");
        } else {
            connection.reset().expect("reset");
        }
        // The backend's connection ends without waiting for anything else.
        await_condition("the end", SOON, || async { backend.ended() > number }).await;
    }
    drop(tunnel);
    let bodies = backend.bodies().await;
    assert_eq!(bodies.len(), 2);
    assert!(
        bodies
            .iter()
            .all(|body| body.len() < 1000 && !body.ends_with(b"0\r\n\r\n")),
        "{bodies:?}"
    );
}

async fn a_revoked_tunnel_breaks_its_responses_off(carrier: Carrier) {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let mut connection = tunnel.connect().await;
    connection
        .send(format!("GET /sse HTTP/1.1\r\nHost: {APP}\r\n\r\n"))
        .await
        .expect("send");
    connection.read_head().await.expect("a head");
    connection
        .read_chunk()
        .await
        .expect("an event")
        .expect("not the end");
    tunnel
        .clusters()
        .rotate_token("main", true)
        .await
        .expect("rotate");
    assert!(
        connection.read_chunk().await.is_err(),
        "a lost tunnel is never a clean end"
    );
    backend
        .await_counters("the loss", |seen| seen.in_flight == 0)
        .await;
}

/// Writes until the other end takes no more; counts what it took.
fn pour(mut socket: TcpStream, poured: Arc<AtomicU64>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let block = vec![b'x'; 64 * 1024];
        while let Ok(count) = socket.write(&block).await {
            poured.fetch_add(count as u64, Ordering::Relaxed);
        }
    })
}

async fn flaw_5_a_backend_that_reads_nothing_stops_nobody_else(carrier: Carrier) {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let mut uploads = Vec::new();
    for _ in 0..8 {
        let mut socket = TcpStream::connect(tunnel.http()).await.expect("connect");
        let head =
            format!("POST /hang HTTP/1.1\r\nHost: {APP}\r\nContent-Length: 1000000000\r\n\r\n");
        socket
            .write_all(head.as_bytes())
            .await
            .expect("send a head");
        let poured = Arc::new(AtomicU64::new(0));
        uploads.push((pour(socket, Arc::clone(&poured)), poured));
    }
    backend
        .await_counters("the uploads", |seen| seen.in_flight == 8)
        .await;
    for (_, poured) in &uploads {
        // More than sockets and windows hold on the way never gets in.
        let last = AtomicU64::new(0);
        await_condition("an upload that has filled its window", SOON, || async {
            let now = poured.load(Ordering::Relaxed);
            now > 0 && last.swap(now, Ordering::Relaxed) == now
        })
        .await;
        let taken = poured.load(Ordering::Relaxed);
        assert!(
            taken < 64 * 1024 * 1024,
            "{taken} bytes were taken for a backend that reads none"
        );
    }
    for _ in 0..50 {
        assert_eq!(tunnel.get(APP, "/status/200").await.status(), 200);
    }
    assert_eq!(backend.counters().in_flight, 8, "they still wait");
    for (upload, _) in uploads {
        upload.abort();
    }
}

async fn flaw_4_users_who_read_nothing_hold_up_neither_requests_nor_control_messages(
    carrier: Carrier,
) {
    let backend = Backend::start().await;
    let other = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let mut readers = Vec::new();
    for _ in 0..8 {
        let mut reader = tunnel.connect().await;
        let request = format!("GET /bytes/10000000000 HTTP/1.1\r\nHost: {APP}\r\n\r\n");
        reader.send(request).await.expect("send");
        reader.read_head().await.expect("a head");
        readers.push(reader);
    }
    let sent = AtomicU64::new(0);
    await_condition("downloads that have filled their windows", SOON, || async {
        let now = backend.counters().sent_bytes;
        now > 0 && sent.swap(now, Ordering::Relaxed) == now
    })
    .await;
    for _ in 0..50 {
        assert_eq!(tunnel.get(APP, "/status/200").await.status(), 200);
    }
    // The agent tells of a new route on the connections that these downloads stand on.
    tunnel.put_apps(&[
        (APP, "/", backend.address()),
        ("late.example.test", "/", other.address()),
    ]);
    tunnel
        .await_answer("late.example.test", "/status/200", 200, "")
        .await;
    assert_eq!(backend.counters().in_flight, 8, "they still wait");
    assert_eq!(
        tunnel
            .agent(0)
            .status()
            .borrow()
            .connections
            .values()
            .sum::<u32>(),
        2,
        "the connections are the first ones"
    );
}

async fn flaw_9_users_who_leave_in_the_middle_never_end_the_agent(carrier: Carrier) {
    const USERS: usize = 200;
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let connections = tunnel.agent(0).status();
    let mut users = tokio::task::JoinSet::new();
    for user in 0..USERS {
        let mut connection = tunnel.connect().await;
        users.spawn(async move {
            let request = format!("GET /bytes/10000000000 HTTP/1.1\r\nHost: {APP}\r\n\r\n");
            connection.send(request).await.expect("send");
            connection.read_head().await.expect("a head");
            // Each at another point of its stream, while data for it is on the way.
            let taken = 1 + 7_919 * user;
            connection.read_exactly(taken).await.expect("a piece");
            if user % 2 == 0 {
                connection.reset().expect("reset the connection");
            }
        });
    }
    while let Some(left) = users.join_next().await {
        left.expect("a user's task");
    }
    backend
        .await_counters("the end of all downloads", |seen| {
            seen.in_flight == 0 && seen.aborted == USERS as u64
        })
        .await;
    assert_eq!(tunnel.get(APP, "/status/200").await.status(), 200);
    assert_eq!(
        connections.has_changed().ok(),
        Some(false),
        "nothing was dialled anew"
    );
}

async fn an_upload_that_the_backend_leaves_unread_ends_in_time(carrier: Carrier) {
    // The backend looks at nothing but the head, until it is told to read the rest.
    let told = Arc::new(Notify::new());
    let (sender, mut ended) = mpsc::unbounded_channel();
    let backend = Scripted::start({
        let told = Arc::clone(&told);
        move |mut stream| {
            let (told, sender) = (Arc::clone(&told), sender.clone());
            async move {
                told.notified().await;
                let mut rest = Vec::new();
                // A reset is an end as good as another.
                let _ = stream.read_to_end(&mut rest).await;
                let _ = sender.send(rest.len());
            }
        }
    })
    .await;
    let short = json!({"timeouts": {"first_byte": 0.5}});
    let tunnel = Tunnel::with(carrier)
        .app(backend.address())
        .edge(short)
        .start()
        .await;
    let socket = TcpStream::connect(tunnel.http()).await.expect("connect");
    let (reading, mut writing) = socket.into_split();
    let head = format!("POST / HTTP/1.1\r\nHost: {APP}\r\nContent-Length: 1000000000\r\n\r\n");
    writing
        .write_all(head.as_bytes())
        .await
        .expect("send a head");
    let pouring = tokio::spawn(async move {
        let block = vec![b'x'; 64 * 1024];
        while writing.write_all(&block).await.is_ok() {}
    });
    let mut connection = Connection::over(tokio::io::join(reading, tokio::io::sink()));
    let response = connection.read_response().await.expect("a response");
    assert_eq!(
        (response.status(), error_code(&response)),
        (504, "first_byte_timeout")
    );
    // The rest is not read for ever, neither here nor there.
    tokio::time::timeout(SOON, pouring)
        .await
        .expect("the connection's end")
        .expect("no panic");
    told.notify_one();
    let taken = tokio::time::timeout(SOON, ended.recv())
        .await
        .expect("the backend's connection ends");
    assert!(
        taken.is_some_and(|taken| taken < 1_000_000_000),
        "{taken:?}"
    );
}

async fn flaw_2_more_than_fifty_slow_requests_at_once(carrier: Carrier) {
    const COUNT: u64 = 200;
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let mut waiting = Vec::new();
    for _ in 0..COUNT {
        let mut connection = tunnel.connect().await;
        let request = format!("GET /slow-headers HTTP/1.1\r\nHost: {APP}\r\n\r\n");
        connection.send(request).await.expect("send");
        waiting.push(connection);
    }
    backend
        .await_counters("all of them at once", |seen| seen.in_flight == COUNT)
        .await;
    assert_eq!(tunnel.get(APP, "/status/200").await.status(), 200);
    for _ in 0..COUNT {
        backend.release();
    }
    for mut connection in waiting {
        assert_eq!(
            connection.read_response().await.expect("a response").text(),
            "released\n"
        );
    }
}
