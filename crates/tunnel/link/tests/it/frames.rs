//! An agent that writes its WebSocket another way than ours does: in fragments, with PINGs and
//! control texts within messages. The edge notices nothing.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use gatewright_link::{Limits, RequestBody};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::rig::{Kind, PIPE, client_websocket, edge_end, pattern, post, soon};

const BODY: usize = 3 * 1024 * 1024;

/// Carries the bytes of an HTTP/2 server, each piece in three fragments with a PING between them and
/// a control text after them.
async fn in_fragments(mut websocket: WebSocketStream<DuplexStream>, mut http2: DuplexStream) {
    let mut buffer = vec![0; 50_000];
    let mut sent = 0;
    loop {
        tokio::select! {
            message = websocket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    if http2.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            read = http2.read(&mut buffer) => {
                let Ok(count @ 1..) = read else { return };
                // Lengths that put every alignment and every form of a head to use.
                let cut = sent % 131;
                sent += 1;
                let first = &buffer[..cut.min(count)];
                let rest = &buffer[first.len()..count];
                let (second, third) = rest.split_at(rest.len() / 2);
                let frame = |part: &[u8], code, last| {
                    Message::Frame(Frame::message(part.to_vec(), OpCode::Data(code), last))
                };
                for message in [
                    frame(first, Data::Binary, false),
                    Message::Ping(Bytes::from_static(b"within a message")),
                    frame(second, Data::Continue, false),
                    Message::Pong(Bytes::new()),
                    frame(third, Data::Continue, true),
                ] {
                    let _ = websocket.feed(message).await;
                }
                if sent == 1 {
                    let _ = websocket.feed(Message::text("register")).await;
                }
                // Fails once the edge has closed, after the body.
                if websocket.flush().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// An HTTP/2 server that answers one request with a long body.
async fn answer_one(socket: DuplexStream) {
    let builder = h2::server::Builder::new();
    let mut connection = builder.handshake::<_, Bytes>(socket).await.unwrap();
    let (_, mut respond) = connection.accept().await.unwrap().unwrap();
    let answering = async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        let mut body = pattern(BODY);
        while !body.is_empty() {
            stream.reserve_capacity(body.len());
            let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
            let room = room.unwrap().unwrap().min(body.len());
            let last = room == body.len();
            stream.send_data(body.split_to(room), last).unwrap();
        }
    };
    let (_, _) = tokio::join!(answering, connection.accept());
}

#[tokio::test]
async fn fragments_pings_and_texts_within_messages_change_no_byte() {
    let (edge, agent) = duplex(PIPE);
    let (http2, carried) = duplex(PIPE);
    let serving = tokio::spawn(answer_one(http2));
    let websocket = client_websocket(agent).await;
    let carrying = tokio::spawn(in_fragments(websocket, carried));
    let (tunnel, mut control, driver) = edge_end(Kind::WebSocket, edge, &Limits::default())
        .await
        .unwrap();
    let edge = tokio::spawn(driver);
    let slot = tunnel.reserve().await.unwrap();
    let sent = slot.send(post("/"), RequestBody::<Empty<Bytes>>::Empty, |_| {});
    let (head, body) = soon(sent).await.unwrap().into_parts();
    assert_eq!(head.status, StatusCode::OK);
    let received = soon(body.collect()).await.unwrap().to_bytes();
    assert!(received == pattern(BODY), "the body is another");
    assert_eq!(
        soon(control.incoming.recv()).await.as_deref(),
        Some("register")
    );
    drop(tunnel);
    let _closed = soon(edge).await.unwrap();
    soon(carrying).await.unwrap();
    soon(serving).await.unwrap();
}
