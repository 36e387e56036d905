//! Ends that are silent, broken or malicious: the connection ends with the right reason, its
//! requests fail, memory stays bounded, and another connection notices nothing.

use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use gatewright_link::{Limits, LinkError, RequestBody, SendError, accept_raw};
use http::{Request, Response};
use http_body_util::Empty;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::rig::{
    ACK, BOTH, CONTINUATION, DATA, END_HEADERS, HEADERS, HandMade, Kind, PING, PIPE, RST_STREAM,
    Rig, SETTINGS, STATUS_200, WINDOW_UPDATE, agent_end, client_websocket, edge_end, frame, post,
    settled, soon,
};

type NoBody = RequestBody<Empty<Bytes>>;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const MESSAGE_LIMIT: usize = 4 * 1024 * 1024;

/// A WebSocket frame as an agent sends it (RFC 6455 §5.2), masked with zeros.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = head(first, payload.len() as u64);
    bytes.extend(payload);
    bytes
}

fn head(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..126 => bytes.push(0x80 | length as u8),
        126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes
}

fn is_keep_alive(error: &LinkError) -> bool {
    matches!(error, LinkError::KeepAlive(timeout) if *timeout == Limits::default().keep_alive_timeout)
}

#[tokio::test(start_paused = true)]
async fn a_live_connection_outlasts_any_number_of_pings() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        // The clock is paused: this hour is made of nothing but PINGs and their answers.
        sleep(Duration::from_secs(3600)).await; // virtual time
        rig.small_request().await;
        assert!(!rig.edge.is_finished() && !rig.agent.is_finished());
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_falls_silent_is_found_out() {
    let limits = Limits::default();
    let begun = Instant::now();
    let mut rig = HandMade::new(&limits).await;
    let (sending, _) = rig.open().await;
    let error = soon(rig.edge).await.unwrap().unwrap_err();
    assert!(is_keep_alive(&error), "{error:?}");
    assert_eq!(
        error.to_string(),
        "the other end did not answer a PING within 10s"
    );
    assert!(matches!(
        soon(sending).await.unwrap(),
        Err(SendError::Lost(_))
    ));
    let took = begun.elapsed();
    assert!(
        took <= limits.keep_alive_interval + limits.keep_alive_timeout + Duration::from_millis(2),
        "{took:?}"
    );
    assert_eq!(rig.control.incoming.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_silent_from_the_start_is_found_out() {
    let limits = Limits::default();
    let (edge, _agent) = duplex(PIPE);
    let (_tunnel, _control, driver) = edge_end(Kind::WebSocket, edge, &limits).await.unwrap();
    let error = soon(driver).await.unwrap_err();
    assert!(is_keep_alive(&error), "{error:?}");

    let (edge, _agent) = duplex(PIPE);
    let error = soon(accept_raw(edge, &limits))
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(error, LinkError::HandshakeTimeout(_)), "{error:?}");
    assert_eq!(error.to_string(), "the handshake was not over within 10s");
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_is_silent_is_found_out() {
    let limits = Limits::default();
    for kind in BOTH {
        let (_edge, agent) = duplex(PIPE);
        let error = soon(agent_end(kind, agent, &limits))
            .await
            .map(|_| ())
            .unwrap_err();
        assert!(matches!(error, LinkError::HandshakeTimeout(_)), "{error:?}");
    }
    // After a handshake that went well.
    let (mut edge, agent) = duplex(PIPE);
    edge.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat())
        .await
        .unwrap();
    let end = agent_end(Kind::Raw, agent, &limits).await.unwrap();
    let error = soon(end.driver).await.unwrap_err();
    assert!(is_keep_alive(&error), "{error:?}");
}

#[tokio::test]
async fn an_end_that_is_no_tunnel_is_refused() {
    let limits = Limits::default();
    for kind in BOTH {
        // An agent that dialled something else.
        let (mut edge, agent) = duplex(PIPE);
        let garbage = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\nno";
        match kind {
            Kind::WebSocket => {
                let mut unmasked = vec![0x82, garbage.len() as u8];
                unmasked.extend(garbage);
                edge.write_all(&unmasked).await.unwrap();
            }
            Kind::Raw => edge.write_all(garbage).await.unwrap(),
        }
        let error = soon(agent_end(kind, agent, &limits))
            .await
            .map(|_| ())
            .unwrap_err();
        assert!(matches!(error, LinkError::Http2(_)), "{error:?}");
        assert_eq!(error.to_string(), "the HTTP/2 connection failed");
    }
    // An edge that was dialled by something else.
    let (edge, mut agent) = duplex(PIPE);
    agent
        .write_all(b"GET / HTTP/1.1\r\nhost: edge\r\n\r\n")
        .await
        .unwrap();
    let error = soon(accept_raw(edge, &limits))
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(error, LinkError::Http2(_)), "{error:?}");

    let (edge, agent) = duplex(PIPE);
    drop(agent);
    assert!(soon(accept_raw(edge, &limits)).await.is_err());
}

#[tokio::test]
async fn malformed_http2_ends_its_own_connection_only() {
    let mut other = Rig::new(Kind::Raw).await;
    let too_long = vec![0; Limits::default().max_frame as usize + 1];
    let wide = ((1_u32 << 31) - 1).to_be_bytes();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("DATA on stream 0", frame(DATA, 0, 0, b"x")),
        (
            "a DATA frame that is too long",
            frame(DATA, 0, 3, &too_long),
        ),
        ("DATA on a stream that never was", frame(DATA, 0, 99, b"x")),
        (
            "HEADERS on a stream that never was",
            frame(HEADERS, END_HEADERS, 99, STATUS_200),
        ),
        (
            "RST_STREAM on a stream that never was",
            frame(RST_STREAM, 0, 99, &[0; 4]),
        ),
        (
            "a stream that the agent opens",
            frame(HEADERS, END_HEADERS, 2, STATUS_200),
        ),
        (
            "a pushed stream",
            frame(5, END_HEADERS, 3, &[0, 0, 0, 2, 0x82]),
        ),
        (
            "a window that grows by nothing",
            frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
        ),
        (
            "a window that grows too wide",
            [
                frame(WINDOW_UPDATE, 0, 0, &wide),
                frame(WINDOW_UPDATE, 0, 0, &wide),
            ]
            .concat(),
        ),
        ("SETTINGS of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        (
            "a largest frame of one byte",
            frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1]),
        ),
        (
            "CONTINUATION of nothing",
            frame(CONTINUATION, END_HEADERS, 3, STATUS_200),
        ),
        (
            "a header block that is no HPACK",
            frame(HEADERS, END_HEADERS, 3, &[0xff; 20]),
        ),
        ("a PING of three bytes", frame(PING, 0, 0, &[0; 3])),
        (
            "a header block that never ends",
            [
                frame(HEADERS, 0, 3, STATUS_200),
                frame(CONTINUATION, 0, 3, &[0; 0]).repeat(10_000),
            ]
            .concat(),
        ),
    ];
    for (what, bytes) in cases {
        let mut rig = HandMade::new(&Limits::default()).await;
        let (sending, stream) = rig.open().await;
        assert_eq!(stream, 3);
        // The edge may be gone before all of it is written.
        let _ = rig.agent.write_all(&bytes).await;
        let mut rest = Vec::new();
        let _ = soon(rig.agent.read_to_end(&mut rest)).await;
        drop(rig.agent);
        let error = soon(rig.edge).await.unwrap().expect_err(what);
        assert!(matches!(error, LinkError::Http2(_)), "{what}: {error:?}");
        let sent = soon(sending).await.unwrap();
        assert!(matches!(sent, Err(SendError::Lost(_))), "{what}");
        assert!(!rig.tunnel.is_usable(), "{what}");
    }
    other.small_request().await;
}

#[tokio::test]
async fn unknown_frames_and_priorities_are_tolerated() {
    let mut rig = HandMade::new(&Limits::default()).await;
    let (sending, stream) = rig.open().await;
    rig.write(&frame(0x42, 0xff, stream, b"from the future"))
        .await;
    rig.write(&frame(2, 0, stream, &[0, 0, 0, 0, 16])).await;
    rig.write(&frame(SETTINGS, 0, 0, &[0xfe, 0xdc, 0, 0, 0, 1]))
        .await;
    rig.write(&frame(HEADERS, END_HEADERS, stream, STATUS_200))
        .await;
    assert!(soon(sending).await.unwrap().is_ok());
}

#[tokio::test]
async fn malformed_websocket_frames_end_their_own_connection_only() {
    let mut other = Rig::new(Kind::WebSocket).await;
    let over = MESSAGE_LIMIT as u64 + 1;
    let half = vec![b'x'; MESSAGE_LIMIT / 2 + 1];
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a frame without a mask", vec![0x82, 1, 0]),
        ("a reserved bit", masked(0xc2, b"x")),
        ("a reserved opcode", masked(0x83, b"x")),
        ("a long PING", masked(0x89, &[0; 126])),
        ("a PING in fragments", masked(0x09, b"x")),
        ("the rest of nothing", masked(0x80, b"x")),
        ("text that is no UTF-8", masked(0x81, &[0xff, 0xfe])),
        ("a binary message that is too long", head(0x82, over)),
        ("a text message that is too long", head(0x81, over)),
        ("a length beyond all", head(0x82, u64::MAX)),
        (
            "fragments that together are too long",
            [masked(0x01, &half), masked(0x80, &half)].concat(),
        ),
    ];
    for (what, bytes) in cases {
        let (edge, mut agent) = duplex(PIPE);
        let (tunnel, mut control, driver) = edge_end(Kind::WebSocket, edge, &Limits::default())
            .await
            .unwrap();
        let edge = tokio::spawn(driver);
        let slot = tunnel.reserve().await.unwrap();
        let sending = tokio::spawn(slot.send(post("/"), NoBody::Empty, |_| {}));
        let _ = agent.write_all(&bytes).await;
        let error = soon(edge).await.unwrap().expect_err(what);
        assert!(
            matches!(error, LinkError::WebSocket(_)),
            "{what}: {error:?}"
        );
        assert!(soon(sending).await.unwrap().is_err(), "{what}");
        assert_eq!(control.incoming.recv().await, None, "{what}");
    }
    other.small_request().await;
}

#[tokio::test]
async fn a_websocket_that_is_closed_or_pinged_is_answered() {
    let (edge, agent) = duplex(PIPE);
    let (_tunnel, _control, driver) = edge_end(Kind::WebSocket, edge, &Limits::default())
        .await
        .unwrap();
    let edge = tokio::spawn(driver);
    let mut agent = client_websocket(agent).await;
    agent
        .send(Message::Ping(Bytes::from_static(b"there?")))
        .await
        .unwrap();
    let mut ponged = false;
    agent.send(Message::Close(None)).await.unwrap();
    let mut closed = false;
    while let Some(Ok(message)) = soon(futures_util::StreamExt::next(&mut agent)).await {
        match message {
            Message::Pong(payload) => ponged = payload == "there?",
            Message::Close(_) => closed = true,
            Message::Binary(_) | Message::Text(_) | Message::Ping(_) | Message::Frame(_) => {}
        }
    }
    assert!(ponged && closed, "ponged {ponged}, closed {closed}");
    soon(edge).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_agent_that_dies_within_a_frame_loses_its_requests_only() {
    for kind in BOTH {
        let mut other = Rig::new(kind).await;
        let (sending, edge) = match kind {
            Kind::Raw => {
                let mut rig = HandMade::new(&Limits::default()).await;
                let (sending, stream) = rig.open().await;
                rig.write(&frame(DATA, 0, stream, &[0; 1000])[..500]).await;
                (sending, rig.edge)
            }
            Kind::WebSocket => {
                let (edge, mut agent) = duplex(PIPE);
                let (tunnel, _control, driver) =
                    edge_end(kind, edge, &Limits::default()).await.unwrap();
                let slot = tunnel.reserve().await.unwrap();
                let sending = tokio::spawn(slot.send(post("/"), NoBody::Empty, |_| {}));
                agent
                    .write_all(&masked(0x82, &[0; 1000])[..500])
                    .await
                    .unwrap();
                (sending, tokio::spawn(driver))
            }
        };
        assert!(matches!(
            soon(sending).await.unwrap(),
            Err(SendError::Lost(_))
        ));
        assert!(soon(edge).await.unwrap().is_err());
        other.small_request().await;
    }
}

#[tokio::test]
async fn an_edge_that_dies_within_a_frame_cancels_its_exchanges() {
    let (mut edge, agent) = duplex(PIPE);
    edge.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat())
        .await
        .unwrap();
    let mut end = agent_end(Kind::Raw, agent, &Limits::default())
        .await
        .unwrap();
    let agent = tokio::spawn(end.driver);
    // `:method: GET`, `:scheme: http`, `:path: /`, and a DATA frame that is cut.
    edge.write_all(&frame(HEADERS, END_HEADERS, 1, &[0x82, 0x86, 0x84]))
        .await
        .unwrap();
    edge.write_all(&frame(DATA, 0, 1, &[0; 1000])[..500])
        .await
        .unwrap();
    let mut exchange = soon(end.exchanges.recv()).await.unwrap();
    drop(edge);
    soon(exchange.responder.cancelled()).await;
    // With nothing left to send, a lost connection is as good as a closed one.
    let _ended = soon(agent).await.unwrap();
    assert_eq!(end.control.incoming.recv().await, None);
}

/// Writes the same bytes over and over without reading, until nothing more is taken, and says how
/// much was. The clock is paused.
async fn write_until_stuck(agent: &mut DuplexStream, bytes: &[u8], most: usize) -> usize {
    let mut taken = 0;
    while taken < most {
        match timeout(
            Duration::from_millis(1),
            agent.write(&bytes[taken % bytes.len()..]),
        )
        .await
        {
            Ok(Ok(count)) => taken += count,
            Ok(Err(_)) | Err(_) => break,
        }
    }
    taken
}

#[tokio::test(start_paused = true)]
async fn questions_whose_answers_nobody_reads_fill_no_memory() {
    const MOST: usize = 32 * 1024 * 1024;
    for (what, question) in [
        ("PING", frame(PING, 0, 0, &[7; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
    ] {
        let mut rig = HandMade::new(&Limits::default()).await;
        let taken = write_until_stuck(&mut rig.agent, &question.repeat(1000), MOST).await;
        // An answer is as long as its question: 256 KiB wait for the agent, the rest in the pipes.
        assert!(taken < 1024 * 1024, "{taken} bytes of {what} were taken");
        let error = soon(rig.edge).await.unwrap().unwrap_err();
        assert!(is_keep_alive(&error), "{what}: {error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn websocket_pings_whose_answers_nobody_reads_fill_no_memory() {
    let (edge, mut agent) = duplex(PIPE);
    let (_tunnel, _control, driver) = edge_end(Kind::WebSocket, edge, &Limits::default())
        .await
        .unwrap();
    let edge = tokio::spawn(driver);
    let pings = masked(0x89, &[7; 125]).repeat(1000);
    let asked = write_until_stuck(&mut agent, &pings, 16 * 1024 * 1024).await;
    let mut answers = 0;
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(Ok(count @ 1..)) = timeout(Duration::from_millis(1), agent.read(&mut buffer)).await
    {
        answers += count;
    }
    assert!(
        asked > 15 * 1024 * 1024,
        "only {asked} bytes of PINGs were read"
    );
    assert!(
        answers < 6 * 1024 * 1024,
        "{answers} bytes of answers had been kept"
    );
    assert!(!edge.is_finished());
}

#[tokio::test(start_paused = true)]
async fn late_frames_for_a_finished_stream_cost_nothing() {
    const MOST: usize = 8 * 1024 * 1024;
    let mut rig = HandMade::new(&Limits::default()).await;
    let (sending, stream) = rig.open().await;
    rig.write(&frame(HEADERS, END_HEADERS | 1, stream, STATUS_200))
        .await;
    drop(soon(sending).await.unwrap().unwrap());
    settled().await;
    let late = frame(DATA, 0, stream, b"late").repeat(1000);
    let taken = write_until_stuck(&mut rig.agent, &late, MOST).await;
    assert!(
        taken >= MOST,
        "the edge stopped reading after {taken} bytes"
    );
    let mut answers = 0;
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(Ok(count @ 1..)) =
        timeout(Duration::from_millis(1), rig.agent.read(&mut buffer)).await
    {
        answers += count;
    }
    assert!(answers < 1024, "{answers} bytes of answers had been kept");
    assert!(!rig.edge.is_finished());
}

#[tokio::test]
async fn any_number_of_responses_that_are_too_long_leaves_the_connection_alive() {
    for kind in BOTH {
        let limits = Limits {
            max_header_list: 2000,
            ..Limits::default()
        };
        let mut rig = Rig::with(kind, PIPE, &limits).await;
        let long = "x".repeat(4000);
        for _ in 0..1200 {
            let (sending, exchange) = rig.open(NoBody::Empty).await;
            let response = Response::builder()
                .header("x-long", &long)
                .body(Empty::<Bytes>::new());
            let _ = exchange.responder.send(response.unwrap()).await;
            assert!(matches!(
                soon(sending).await.unwrap(),
                Err(SendError::Lost(_))
            ));
        }
        rig.small_request().await;
    }
}

#[tokio::test]
async fn a_header_block_that_is_too_long_fails_its_own_request_only() {
    for kind in BOTH {
        let mut rig = Rig::new(kind).await;
        let long = "x".repeat(16 * 1024);
        let mut request = Request::builder().uri("http://app.example.test/");
        let mut response = Response::builder();
        for at in 0..9 {
            request = request.header(format!("x-{at}"), &long);
            response = response.header(format!("x-{at}"), &long);
        }
        // Towards the agent, it is answered for it.
        let slot = rig.tunnel.reserve().await.unwrap();
        let sent = soon(slot.send(request.body(()).unwrap(), NoBody::Empty, |_| {})).await;
        assert_eq!(
            sent.unwrap().head.status,
            http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        );
        assert!(rig.exchanges.try_recv().is_err());

        // Towards the edge, the request is lost.
        let (sending, exchange) = rig.open(NoBody::Empty).await;
        let response = response.body(Empty::<Bytes>::new()).unwrap();
        let _ = exchange.responder.send(response).await;
        assert!(matches!(
            soon(sending).await.unwrap(),
            Err(SendError::Lost(_))
        ));
        rig.small_request().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_answers_pings_but_never_acknowledges_settings_is_served() {
    // Nothing is owed for it: old agents may be slow, and requests must not wait for them.
    let mut rig = HandMade::new(&Limits::default()).await;
    let (sending, stream) = rig.open().await;
    rig.write(&frame(PING, ACK, 0, &[1; 8])).await;
    rig.write(&frame(HEADERS, END_HEADERS | 1, stream, STATUS_200))
        .await;
    assert!(soon(sending).await.unwrap().is_ok());
}
