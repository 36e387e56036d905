//! Accepts connections for a router, with or without TLS. May not know any route.

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

/// Connections at a time; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 512;
/// How long a client may take for a handshake, and for its last response after the server is told
/// to stop.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may wait for the head of its next request. Longer than the 90 s after
/// which an apiserver closes an idle connection, or we would close it while a review is under way.
const IDLE: Duration = Duration::from_secs(120);

/// Serves `router` until `cancel`; connections under way then end after their response.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<ServerConfig>>,
    cancel: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let acceptor = tls.map(TlsAcceptor::from);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &permits) => accepted,
        };
        let Some((socket, permit)) = accepted else {
            continue;
        };
        let (router, acceptor, cancel) = (router.clone(), acceptor.clone(), cancel.clone());
        connections.spawn(async move {
            let _permit = permit;
            match acceptor {
                None => connection(socket, router, cancel).await,
                Some(acceptor) => match timeout(PATIENCE, acceptor.accept(socket)).await {
                    Ok(Ok(secured)) => connection(secured, router, cancel).await,
                    // An apiserver that trusts another authority shows here, and only here.
                    Ok(Err(error)) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::debug!(error, "a TLS handshake has failed");
                    }
                    Err(_) => tracing::debug!("a TLS handshake took too long"),
                },
            }
        });
    }
    let finish = async { while connections.join_next().await.is_some() {} };
    // Whoever is slower than this is cut off with the set.
    let _ = timeout(PATIENCE, finish).await;
}

async fn connection<S>(socket: S, router: Router, cancel: CancellationToken)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // A client's failure is the client's affair.
        _ = connection.as_mut() => return,
        () = cancel.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((socket, _)) => Some((socket, permit)),
        Err(error) => {
            // Out of file descriptors, most likely: trying at once would only burn the CPU.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a listener cannot accept connections"
            );
            sleep(Duration::from_millis(100)).await;
            None
        }
    }
}
