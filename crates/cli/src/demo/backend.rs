//! The demo's sample backend: a page that shows what arrived, and a stream that ticks.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            continue;
        };
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(
                    TokioIo::new(socket),
                    service_fn(|request| async move { Ok::<_, Infallible>(answer(&request)) }),
                );
            // A user who left early is no error of the backend's.
            let _ = connection.await;
        });
    }
}

fn answer(request: &Request<Incoming>) -> Response<Body> {
    if request.uri().path().ends_with("/events") {
        return events();
    }
    let mut text = format!(
        "Hello from behind the tunnel.\n\n{} {}\n",
        request.method(),
        request.uri()
    );
    for (name, value) in request.headers() {
        text.push_str(&format!(
            "{name}: {}\n",
            String::from_utf8_lossy(value.as_bytes())
        ));
    }
    respond("text/plain; charset=utf-8", Full::from(text).boxed_unsync())
}

/// Server-sent events, one a second, for a minute.
fn events() -> Response<Body> {
    let ticks = futures_util::stream::unfold(0u32, |count| async move {
        if count == 60 {
            return None;
        }
        if count > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let event = Frame::data(Bytes::from(format!("data: tick {count}\n\n")));
        Some((Ok(event), count + 1))
    });
    respond(
        "text/event-stream",
        BodyExt::boxed_unsync(StreamBody::new(ticks)),
    )
}

fn respond(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
