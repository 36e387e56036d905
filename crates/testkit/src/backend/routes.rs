//! What each path of the backend answers. It may not listen or count connections.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TRAILER,
    UPGRADE,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::body::{Answer, Content, InFlight};
use super::{Echo, Shared};

pub(super) async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Answer>, Infallible> {
    let in_flight = InFlight::new(Arc::clone(&shared));
    if request.headers().contains_key(UPGRADE) {
        return Ok(upgrade(request, in_flight));
    }
    let path = request.uri().path().to_owned();
    let (name, argument) = match path[1..].split_once('/') {
        Some((name, argument)) => (name, Some(argument)),
        None => (&path[1..], None),
    };
    let number = argument.and_then(|text| text.parse::<u64>().ok());
    let response = match (name, number) {
        ("status", Some(code)) => status(code, in_flight),
        ("echo", _) => echo(request, in_flight).await,
        ("body", _) => stream_back(request, in_flight),
        ("sse", _) => events(shared, in_flight),
        ("slow-headers", _) => {
            released(&shared).await;
            text(StatusCode::OK, "released\n", in_flight)
        }
        ("hang", _) => std::future::pending().await,
        ("bytes", Some(size)) => sized(size, in_flight),
        ("chunked", Some(size)) => {
            Response::new(Answer::new(Content::repeat(size, false), in_flight))
        }
        ("sink", _) => sink(request, &shared, in_flight).await,
        ("reset-mid-body", _) => break_off(in_flight),
        ("trailers", _) => trailers(in_flight),
        _ => text(StatusCode::NOT_FOUND, "no such path\n", in_flight),
    };
    Ok(response)
}

async fn released(shared: &Shared) {
    // The semaphore is never closed, so this cannot fail.
    if let Ok(permit) = shared.releases.acquire().await {
        permit.forget();
    }
}

fn text(status: StatusCode, body: &'static str, in_flight: InFlight) -> Response<Answer> {
    let content = Content::Full(Bytes::from_static(body.as_bytes()));
    let mut response = Response::new(Answer::new(content, in_flight));
    *response.status_mut() = status;
    response
}

fn status(code: u64, in_flight: InFlight) -> Response<Answer> {
    let status = u16::try_from(code)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok());
    let Some(status) = status else {
        return text(StatusCode::BAD_REQUEST, "no such status\n", in_flight);
    };
    let body = match status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => Bytes::new(),
        other => Bytes::from(format!("status {}\n", other.as_u16())),
    };
    let mut response = Response::new(Answer::new(Content::Full(body), in_flight));
    *response.status_mut() = status;
    response
}

fn json(value: &impl serde::Serialize, in_flight: InFlight) -> Response<Answer> {
    let body = serde_json::to_vec(value).unwrap_or_else(|e| panic!("cannot write JSON: {e}"));
    let mut response = Response::new(Answer::new(Content::Full(body.into()), in_flight));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn echo(request: Request<Incoming>, in_flight: InFlight) -> Response<Answer> {
    let (head, body) = request.into_parts();
    // A client that goes mid-body drops this future; an error here is one that still listens.
    let Ok(body) = body.collect().await else {
        return text(StatusCode::BAD_REQUEST, "the body broke off\n", in_flight);
    };
    let headers = head.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    });
    let echo = Echo {
        method: head.method.to_string(),
        target: head
            .uri
            .path_and_query()
            .map_or_else(String::new, |target| target.as_str().to_owned()),
        version: format!("{:?}", head.version),
        authority: head.uri.authority().map(|name| name.as_str().to_owned()),
        headers: headers.collect(),
        body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    };
    json(&echo, in_flight)
}

fn stream_back(request: Request<Incoming>, in_flight: InFlight) -> Response<Answer> {
    let content_type = request.headers().get(CONTENT_TYPE).cloned();
    let mut response = Response::new(Answer::new(Content::Echo(request.into_body()), in_flight));
    if let Some(value) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, value);
    }
    response
}

/// Sends frames from a task of its own, which ends when the client goes.
fn streamed(in_flight: InFlight) -> (mpsc::Sender<io::Result<Frame<Bytes>>>, Response<Answer>) {
    let (sender, receiver) = mpsc::channel(1);
    let response = Response::new(Answer::new(Content::Streamed(receiver), in_flight));
    (sender, response)
}

fn events(shared: Arc<Shared>, in_flight: InFlight) -> Response<Answer> {
    let (sender, mut response) = streamed(in_flight);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    tokio::spawn(async move {
        for event in 1_u64.. {
            let frame = Frame::data(Bytes::from(format!("data: {event}\n\n")));
            if sender.send(Ok(frame)).await.is_err() {
                return;
            }
            tokio::select! {
                () = released(&shared) => {}
                () = sender.closed() => return,
            }
        }
    });
    response
}

fn sized(size: u64, in_flight: InFlight) -> Response<Answer> {
    let mut response = Response::new(Answer::new(Content::repeat(size, true), in_flight));
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(size));
    response
}

async fn sink(
    request: Request<Incoming>,
    shared: &Shared,
    in_flight: InFlight,
) -> Response<Answer> {
    let mut body = request.into_body();
    let mut bytes = 0_u64;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return text(StatusCode::BAD_REQUEST, "the body broke off\n", in_flight);
        };
        if let Some(data) = frame.data_ref() {
            bytes += data.len() as u64;
            shared
                .sunk_bytes
                .fetch_add(data.len() as u64, Ordering::SeqCst);
        }
    }
    json(&serde_json::json!({ "bytes": bytes }), in_flight)
}

fn break_off(in_flight: InFlight) -> Response<Answer> {
    let (sender, mut response) = streamed(in_flight);
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(1_000_000));
    tokio::spawn(async move {
        let data = Frame::data(Bytes::from(vec![b'x'; 1000]));
        if sender.send(Ok(data)).await.is_ok() {
            let _ = sender
                .send(Err(io::Error::other("broken off on purpose")))
                .await;
        }
    });
    response
}

fn trailers(in_flight: InFlight) -> Response<Answer> {
    let (sender, mut response) = streamed(in_flight);
    response
        .headers_mut()
        .insert(TRAILER, HeaderValue::from_static("x-checksum, grpc-status"));
    tokio::spawn(async move {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", HeaderValue::from_static("c0ffee"));
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        if sender.send(Ok(Frame::data("body\n".into()))).await.is_ok() {
            let _ = sender.send(Ok(Frame::trailers(trailers))).await;
        }
    });
    response
}

fn upgrade(mut request: Request<Incoming>, in_flight: InFlight) -> Response<Answer> {
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "", in_flight);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(protocol) = request.headers().get(UPGRADE) {
        headers.insert(UPGRADE, protocol.clone());
    }
    if let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY)
        && let Ok(accept) = HeaderValue::try_from(derive_accept_key(key.as_bytes()))
    {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    let messages = request.uri().path() == "/ws";
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let stream = TokioIo::new(upgraded);
        if messages {
            echo_messages(stream).await;
        } else {
            echo_bytes(stream).await;
        }
    });
    response
}

async fn echo_bytes(mut stream: TokioIo<hyper::upgrade::Upgraded>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(size @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..size]).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
    let _ = stream.shutdown().await;
}

/// Echoes text and binary; a ping or a close is answered by the library, the close with its own code.
async fn echo_messages(stream: TokioIo<hyper::upgrade::Upgraded>) {
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        let echoed = message.is_text() || message.is_binary();
        if echoed && socket.send(message).await.is_err() {
            return;
        }
    }
}
