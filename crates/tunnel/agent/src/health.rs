//! `/healthz` and `/readyz` of an agent, for a kubelet. It may not change anything.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::Error;
use crate::shared::Shared;

/// Listens until the agent ends.
pub(crate) async fn serve(shared: &Arc<Shared>, address: SocketAddr) -> Result<(), Error> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| Error::Health { address, source })?;
    let shared = Arc::clone(shared);
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shared.cancel.cancelled() => return,
            };
            let Ok((socket, _)) = accepted else { continue };
            let answering = Arc::clone(&shared);
            let service = service_fn(move |request| {
                let response = answer(&answering, &request);
                async move { Ok::<_, std::convert::Infallible>(response) }
            });
            let stop = shared.cancel.clone();
            shared.tasks.spawn(async move {
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(socket), service);
                tokio::select! {
                    _ = connection => {}
                    () = stop.cancelled() => {}
                }
            });
        }
    });
    Ok(())
}

fn answer<B>(shared: &Shared, request: &Request<B>) -> Response<Full<Bytes>> {
    let ready = !shared.drain.is_cancelled() && shared.status.borrow().is_ready();
    let (status, text) = match request.uri().path() {
        "/healthz" => (StatusCode::OK, "ok\n"),
        "/readyz" if ready => (StatusCode::OK, "ok\n"),
        "/readyz" => (
            StatusCode::SERVICE_UNAVAILABLE,
            "not connected to any edge\n",
        ),
        _ => (StatusCode::NOT_FOUND, "/healthz or /readyz\n"),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
