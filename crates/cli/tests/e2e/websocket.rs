//! Upgraded connections: the handshake as both sides wrote it, and after it every byte as it was.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use gatewright_testkit::await_condition;
use gatewright_testkit::backend::Backend;
use gatewright_testkit::backend::scripted::Scripted;
use gatewright_testkit::http::Connection;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, handshake::derive_accept_key};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::client::{H2, empty};
use crate::tunnel::{APP, Carrier, SOON, Tunnel};
use crate::volume::MUCH;

on_both_carriers! {
    a_half_closed_connection_goes_on_in_the_other_direction,
    a_handshake_passes_as_both_sides_wrote_it,
    a_message_of_16_mib_passes,
    a_refused_upgrade_is_an_ordinary_response,
    a_user_who_leaves_is_felt_by_the_backend,
    bytes_before_the_101_wait_for_it,
    flaw_10_close_codes_pass_both_ways,
    flaw_6_ten_thousand_messages_stay_in_order,
    flaw_7_the_first_byte_is_never_eaten,
    flaw_8_a_slow_consumer_loses_nothing,
    frames_pass_byte_for_byte,
    messages_and_pings_are_answered,
}

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

async fn websocket(tunnel: &Tunnel) -> WebSocketStream<TcpStream> {
    let socket = TcpStream::connect(tunnel.http()).await.expect("connect");
    socket.set_nodelay(true).expect("no delay");
    let (websocket, response) = client_async(format!("ws://{APP}/ws"), socket)
        .await
        .expect("a WebSocket");
    assert_eq!(response.status(), 101);
    websocket
}

fn handshake(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {APP}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{more}\r\n"
    )
}

/// A connection whose bytes a backend echoes as they are.
async fn raw(tunnel: &Tunnel) -> Connection {
    let mut connection = tunnel.connect().await;
    connection.send(handshake("/raw", "")).await.expect("send");
    let head = connection.read_head().await.expect("a head");
    assert_eq!(head.status, 101);
    connection
}

/// What a backend answers to [`handshake`], with more fields.
fn accepted(more: &str) -> String {
    let accept = derive_accept_key(KEY.as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
    )
}

async fn messages_and_pings_are_answered(carrier: Carrier) {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let mut websocket = websocket(&tunnel).await;
    for message in [
        Message::text("hello"),
        Message::text(""),
        Message::binary(vec![0, 1, 2, 255]),
        Message::binary(vec![7; 70_000]),
    ] {
        websocket.send(message.clone()).await.expect("send");
        assert_eq!(
            websocket
                .next()
                .await
                .expect("not the end")
                .expect("a message"),
            message
        );
    }
    websocket
        .send(Message::Ping("are you there".into()))
        .await
        .expect("send");
    let pong = websocket
        .next()
        .await
        .expect("not the end")
        .expect("a message");
    assert_eq!(pong, Message::Pong("are you there".into()));
}

async fn frames_pass_byte_for_byte(carrier: Carrier) {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let mut connection = raw(&tunnel).await;
    let mask = [0x11, 0x22, 0x33, 0x44];
    let frames: [&[u8]; 6] = [
        // Text in three fragments, a ping between them, reserved bits set, and a close.
        &[0x01, 0x83, 0x11, 0x22, 0x33, 0x44, b'a', b'b', b'c'],
        &[0x89, 0x80, 0x11, 0x22, 0x33, 0x44],
        &[0x00, 0x81, 0x11, 0x22, 0x33, 0x44, b'd'],
        &[0x80, 0x80, 0x11, 0x22, 0x33, 0x44],
        &[
            0xf2, 0xfe, 0x00, 0x01, mask[0], mask[1], mask[2], mask[3], 0xff,
        ],
        &[0x88, 0x82, 0x11, 0x22, 0x33, 0x44, 0x03 ^ 0x11, 0xe8 ^ 0x22],
    ];
    for frame in frames {
        connection.send(frame).await.expect("send");
        assert_eq!(
            connection.read_exactly(frame.len()).await.expect("an echo"),
            frame
        );
    }
}

async fn flaw_7_the_first_byte_is_never_eaten(carrier: Carrier) {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    for first in [b'\n', 0, 1, 2, 8, 9, 10, 13, b'{', 0xff] {
        let mut connection = raw(&tunnel).await;
        let bytes = [first, b'x', b'\n'];
        connection.send(bytes).await.expect("send");
        assert_eq!(connection.read_exactly(3).await.expect("an echo"), bytes);
    }
}

async fn flaw_6_ten_thousand_messages_stay_in_order(carrier: Carrier) {
    const COUNT: u32 = 10_000;
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let (mut sink, mut stream) = websocket(&tunnel).await.split();
    let sending = tokio::spawn(async move {
        for number in 0..COUNT {
            sink.feed(Message::text(number.to_string()))
                .await
                .expect("send");
        }
        sink.flush().await.expect("flush");
        sink
    });
    for number in 0..COUNT {
        let message = stream
            .next()
            .await
            .expect("not the end")
            .expect("a message");
        assert_eq!(message, Message::text(number.to_string()));
    }
    drop(sending.await.expect("a sender that did not fail"));
}

async fn flaw_8_a_slow_consumer_loses_nothing(carrier: Carrier) {
    const SIZE: usize = 32 * 1024 * 1024;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let backend = Scripted::start(move |mut stream| {
        let counter = Arc::clone(&counter);
        async move {
            stream
                .write_all(accepted("").as_bytes())
                .await
                .expect("accept");
            let mut number: u64 = 0;
            while counter.load(Ordering::Relaxed) < SIZE {
                let block: Vec<u8> = (0..1024)
                    .flat_map(|place| (number + place).to_be_bytes())
                    .collect();
                number += 1024;
                stream.write_all(&block).await.expect("send");
                counter.fetch_add(block.len(), Ordering::Relaxed);
            }
            let _ = stream.shutdown().await;
        }
    })
    .await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let mut connection = raw(&tunnel).await;
    let last = AtomicUsize::new(0);
    await_condition(
        "a backend that has to wait for the consumer",
        SOON,
        || async {
            let now = sent.load(Ordering::Relaxed);
            now > 0 && last.swap(now, Ordering::Relaxed) == now
        },
    )
    .await;
    let ahead = sent.load(Ordering::Relaxed);
    assert!(ahead < SIZE, "the backend was never made to wait");
    for block in 0..SIZE / 8192 {
        let bytes = connection.read_exactly(8192).await.expect("what was sent");
        let first = u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"));
        let last = u64::from_be_bytes(bytes[8184..].try_into().expect("eight bytes"));
        assert_eq!(
            (first, last),
            (block as u64 * 1024, block as u64 * 1024 + 1023)
        );
    }
    assert_eq!(connection.read_to_end().await.expect("a clean end"), b"");
}

async fn flaw_10_close_codes_pass_both_ways(carrier: Carrier) {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    for code in [1000, 1001, 1011, 3000, 4001, 4999] {
        let mut websocket = websocket(&tunnel).await;
        let frame = CloseFrame {
            code: CloseCode::from(code),
            reason: "enough".into(),
        };
        websocket.close(Some(frame)).await.expect("close");
        // The backend answers with the code that it got.
        match websocket.next().await {
            Some(Ok(Message::Close(Some(answer)))) => assert_eq!(u16::from(answer.code), code),
            other => panic!("{other:?} in answer to {code}"),
        }
        assert!(websocket.next().await.is_none());
    }
    let closing = Scripted::start(|mut stream| async move {
        stream
            .write_all(accepted("").as_bytes())
            .await
            .expect("accept");
        stream
            .write_all(b"\x88\x06\x0f\xa1bye!")
            .await
            .expect("close");
        let _ = stream.shutdown().await;
    })
    .await;
    let apps = [(APP, "/", closing.address())];
    let tunnel = Tunnel::with(carrier).apps(&apps).start().await;
    let mut connection = raw(&tunnel).await;
    assert_eq!(
        connection.read_to_end().await.expect("a clean end"),
        b"\x88\x06\x0f\xa1bye!"
    );
}

async fn a_message_of_16_mib_passes(carrier: Carrier) {
    let _much = MUCH.lock().await;
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let (mut sink, mut stream) = websocket(&tunnel).await.split();
    let bytes: Vec<u8> = (0..16 * 1024 * 1024)
        .map(|place: u32| (place % 253) as u8)
        .collect();
    let message = Message::binary(bytes);
    let sending = tokio::spawn({
        let message = message.clone();
        async move {
            sink.send(message).await.expect("send");
            sink
        }
    });
    let echoed = tokio::time::timeout(Duration::from_secs(60), stream.next()).await;
    let echoed = echoed
        .expect("in time")
        .expect("not the end")
        .expect("a message");
    assert!(echoed == message, "the echo differs");
    drop(sending.await.expect("a sender that did not fail"));
}

async fn a_handshake_passes_as_both_sides_wrote_it(carrier: Carrier) {
    let backend = Scripted::answering(accepted(
        "Sec-WebSocket-Protocol: chat.v2\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n\
         Set-Cookie: seen=1\r\nX-Gatewright-Upgraded: forged\r\n",
    ))
    .await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let mut connection = tunnel.connect().await;
    let fields = "Sec-WebSocket-Protocol: chat.v1, chat.v2\r\nOrigin: https://elsewhere.test\r\n\
                  Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nCookie: a=b\r\n";
    connection
        .send(handshake("/chat?room=1", fields))
        .await
        .expect("send");
    let head = connection.read_head().await.expect("a head");
    assert_eq!(head.status, 101);
    for (name, value) in [
        (
            "sec-websocket-accept",
            derive_accept_key(KEY.as_bytes()).as_str(),
        ),
        ("sec-websocket-protocol", "chat.v2"),
        (
            "sec-websocket-extensions",
            "permessage-deflate; server_no_context_takeover",
        ),
        ("set-cookie", "seen=1"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
    ] {
        assert_eq!(head.header(name), Some(value), "{name}");
    }
    assert!(
        head.headers
            .iter()
            .all(|(name, _)| !name.to_ascii_lowercase().starts_with("x-gatewright"))
    );
    let heads = backend.heads();
    assert!(
        heads[0].starts_with("GET /chat?room=1 HTTP/1.1\r\n"),
        "{}",
        heads[0]
    );
    let sent = heads[0].to_ascii_lowercase();
    for field in [
        "sec-websocket-protocol: chat.v1, chat.v2",
        "sec-websocket-extensions: permessage-deflate; client_max_window_bits",
        "sec-websocket-version: 13",
        &format!("sec-websocket-key: {KEY}").to_ascii_lowercase(),
        "origin: https://elsewhere.test",
        "cookie: a=b",
        "upgrade: websocket",
        "connection: upgrade",
        &format!("host: {APP}"),
    ] {
        assert_eq!(
            sent.lines().filter(|line| *line == field).count(),
            1,
            "{field} in {sent}"
        );
    }
    assert!(
        !sent.contains("content-length") && !sent.contains("transfer-encoding"),
        "{sent}"
    );
}

async fn a_refused_upgrade_is_an_ordinary_response(carrier: Carrier) {
    let (sender, mut received) = mpsc::unbounded_channel();
    let backend = Scripted::start(move |mut stream| {
        let sender = sender.clone();
        async move {
            let answer =
                "HTTP/1.1 403 Forbidden\r\nX-Why: no room\r\nContent-Length: 6\r\n\r\nno way";
            stream.write_all(answer.as_bytes()).await.expect("refuse");
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            let _ = sender.send(rest);
        }
    })
    .await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    let mut connection = tunnel.connect().await;
    // Bytes that hope for a 101 are no longer the upgraded protocol's when there is none.
    connection.send(handshake("/chat", "")).await.expect("send");
    let response = connection.read_response().await.expect("a response");
    assert_eq!(
        (response.status(), response.text().as_str()),
        (403, "no way")
    );
    assert_eq!(response.header("x-why"), Some("no room"));
    assert_eq!(response.header("upgrade"), None);
    // The user's connection goes on with HTTP.
    let again = format!("GET / HTTP/1.1\r\nHost: {APP}\r\nConnection: close\r\n\r\n");
    connection.send(again).await.expect("send");
    assert_eq!(
        connection
            .read_response()
            .await
            .expect("a response")
            .status(),
        403
    );
    drop(tunnel);
    for _ in 0..2 {
        assert_eq!(received.recv().await.expect("a connection's end"), b"");
    }
}

async fn bytes_before_the_101_wait_for_it(carrier: Carrier) {
    let (sender, mut received) = mpsc::unbounded_channel();
    let refusing = Scripted::start({
        let sender = sender.clone();
        move |mut stream| {
            let sender = sender.clone();
            async move {
                let answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.expect("refuse");
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                let _ = sender.send(rest);
            }
        }
    })
    .await;
    let accepting = Scripted::start(|mut stream| async move {
        // Nothing may be here yet; what is, would be echoed before the head and break it.
        let mut early = [0; 64];
        if let Ok(count @ 1..) = stream.try_read(&mut early) {
            stream
                .write_all(&early[..count])
                .await
                .expect("show what came early");
        }
        stream
            .write_all(accepted("").as_bytes())
            .await
            .expect("accept");
        let mut bytes = [0; 5];
        stream
            .read_exact(&mut bytes)
            .await
            .expect("the user's bytes");
        stream.write_all(&bytes).await.expect("echo");
    })
    .await;
    let apps = [
        (APP, "/", accepting.address()),
        (APP, "/refusing", refusing.address()),
    ];
    let tunnel = Tunnel::with(carrier).apps(&apps).start().await;

    let mut connection = tunnel.connect().await;
    connection
        .send(handshake("/", "") + "EARLY")
        .await
        .expect("send");
    assert_eq!(connection.read_head().await.expect("a head").status, 101);
    assert_eq!(connection.read_exactly(5).await.expect("an echo"), b"EARLY");

    let mut connection = tunnel.connect().await;
    let hidden = format!("GET /hidden HTTP/1.1\r\nHost: {APP}\r\n\r\n");
    connection
        .send(handshake("/refusing", "") + &hidden)
        .await
        .expect("send");
    assert_eq!(connection.read_head().await.expect("a head").status, 403);
    drop(connection);
    drop(tunnel);
    assert_eq!(
        received.recv().await.expect("the end"),
        b"",
        "no byte was passed on without a 101"
    );
    assert!(
        accepting
            .heads()
            .iter()
            .all(|head| !head.contains("/hidden") || head.contains("x-request-id"))
    );
}

async fn a_half_closed_connection_goes_on_in_the_other_direction(carrier: Carrier) {
    let backend = Backend::start().await;
    let (sender, mut received) = mpsc::unbounded_channel();
    let leaving = Scripted::start(move |mut stream| {
        let sender = sender.clone();
        async move {
            stream
                .write_all(accepted("").as_bytes())
                .await
                .expect("accept");
            stream.write_all(b"bye").await.expect("send");
            stream.shutdown().await.expect("close one direction");
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.expect("read the other");
            let _ = sender.send(rest);
        }
    })
    .await;
    let apps = [
        (APP, "/", backend.address()),
        ("leaving.example.test", "/", leaving.address()),
    ];
    let tunnel = Tunnel::with(carrier).apps(&apps).start().await;
    let mut connection = raw(&tunnel).await;
    connection.send("the last word").await.expect("send");
    connection.finish().await.expect("close one direction");
    assert_eq!(
        connection.read_to_end().await.expect("a clean end"),
        b"the last word"
    );

    let mut connection = tunnel.connect().await;
    let request = handshake("/", "").replace(APP, "leaving.example.test");
    connection.send(request).await.expect("send");
    assert_eq!(connection.read_head().await.expect("a head").status, 101);
    assert_eq!(connection.read_to_end().await.expect("a clean end"), b"bye");
    connection.send("still here").await.expect("send");
    connection
        .finish()
        .await
        .expect("close the other direction");
    assert_eq!(received.recv().await.expect("what was sent"), b"still here");
}

async fn a_user_who_leaves_is_felt_by_the_backend(carrier: Carrier) {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(carrier).app(backend.address()).start().await;
    for gone in 0..2 {
        let mut connection = raw(&tunnel).await;
        connection.send("x").await.expect("send");
        assert_eq!(connection.read_exactly(1).await.expect("an echo"), b"x");
        if gone == 0 {
            connection.reset().expect("reset");
        } else {
            drop(connection);
        }
        backend
            .await_counters("the end of the connection", |seen| {
                seen.open_connections == 0
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_2_user_upgrades_by_extended_connect() {
    let backend = Backend::start().await;
    let tunnel = Tunnel::with(Carrier::WebSocket)
        .app(backend.address())
        .start()
        .await;
    let user = H2::connect(tunnel.http()).await;
    // The edge's SETTINGS, which allow it, come with the first response.
    assert_eq!(user.get(APP, "/status/200").await.status(), 200);
    let request = http::Request::connect(format!("http://{APP}/ws"))
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(empty())
        .expect("a request");
    let response = user.send(request).await.expect("a response");
    assert_eq!(response.status(), 200);
    assert!(
        !response.headers().contains_key("sec-websocket-accept"),
        "RFC 8441 section 5"
    );
    let upgraded = hyper::upgrade::on(response).await.expect("a byte stream");
    let role = tokio_tungstenite::tungstenite::protocol::Role::Client;
    let mut websocket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), role, None).await;
    websocket
        .send(Message::text("over HTTP/2"))
        .await
        .expect("send");
    let echoed = websocket
        .next()
        .await
        .expect("not the end")
        .expect("a message");
    assert_eq!(echoed, Message::text("over HTTP/2"));
}
