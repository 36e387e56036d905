//! The admin listener: metrics, health, the API of `gatewright clusters` and its like, and a status
//! page. It may not carry users' requests, and nothing of theirs waits for it.

mod access;
mod api;
mod page;
mod recent;
mod views;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Router, http};
use gatewright_names::Hostname;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

pub(crate) use recent::{RecentError, RecentErrors};

use crate::clusters::Clusters;
use crate::error::Error;
use crate::metrics::{self, Metrics};
use crate::server::Shared;
use access::{Access, Denied};
use api::ApiError;

/// Connections at once; more wait in the kernel.
const CONNECTIONS: usize = 128;
/// From a request's first byte to the end of its head, and from there to the response.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a request body.
const LARGEST_BODY: usize = 64 * 1024;

/// What the admin listener knows.
pub(crate) struct Admin {
    pub(crate) clusters: Arc<Clusters>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) recent: Arc<RecentErrors>,
    pub(crate) domain: Hostname,
    pub(crate) edge_id: String,
    /// Unix seconds.
    pub(crate) started: i64,
    /// Cancelled when the edge takes no new work.
    pub(crate) drain: CancellationToken,
    pub(crate) access: Access,
}

/// Serves the admin listener on the calling runtime until the edge stops.
///
/// # Errors
/// When others could reach it without a token, or the token's file is of no use.
pub(crate) fn serve(
    shared: &Shared,
    listener: std::net::TcpListener,
) -> Result<JoinHandle<()>, Error> {
    let address = listener.local_addr();
    let address = address.map_err(|source| Error::Bind {
        address: shared.config.listen.admin,
        source,
    })?;
    let access = Access::new(address, shared.config.admin_token_file.as_deref())?;
    let listener =
        TcpListener::from_std(listener).map_err(|source| Error::Bind { address, source })?;
    let admin = Admin {
        clusters: Arc::clone(&shared.clusters),
        metrics: Arc::clone(&shared.metrics),
        recent: Arc::clone(&shared.recent_errors),
        domain: shared.config.domain.clone(),
        edge_id: shared.edge_id.clone(),
        started: crate::clock::unix_seconds(),
        drain: shared.drain.clone(),
        access,
    };
    let stop = shared.stop.clone();
    Ok(tokio::spawn(run(Arc::new(admin), listener, stop)))
}

/// Accepts and serves connections until `stop`; those under way then end after their response.
async fn run(admin: Arc<Admin>, listener: TcpListener, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let router = router(admin);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &permits) => accepted,
        };
        let Some((socket, permit)) = accepted else {
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        let stop = stop.clone();
        connections.spawn(async move {
            let _permit = permit;
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_buf_size(LARGEST_BODY)
                .serve_connection(TokioIo::new(socket), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                // A client's failure is the client's affair.
                _ = connection.as_mut() => return,
                () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        });
    }
    let finish = async { while connections.join_next().await.is_some() {} };
    // Whoever is slower than this is cut off with the set.
    let _ = tokio::time::timeout(PATIENCE, finish).await;
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((socket, _)) => Some((socket, permit)),
        Err(error) => {
            // Out of file descriptors, most likely: trying at once would only burn the CPU.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the admin listener cannot accept"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/api/v1/clusters", get(api::clusters).post(api::create))
        .route(
            "/api/v1/clusters/{name}",
            get(api::cluster).delete(api::delete),
        )
        .route(
            "/api/v1/clusters/{name}/rotate-token",
            post(api::rotate_token),
        )
        .route("/api/v1/clusters/{name}/hosts", put(api::set_hosts))
        .route("/api/v1/routes", get(api::routes))
        .route("/api/v1/status", get(api::status))
        .route("/api/v1/explain", get(api::explain))
        .fallback(async || ApiError::not_found())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), guard))
        .with_state(admin)
}

/// Turns away who may not ask, gives every request the same time, and keeps every response out of
/// caches and frames.
async fn guard(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let mut response = match admin.access.check(request.uri(), request.headers()) {
        Ok(()) => match tokio::time::timeout(PATIENCE, next.run(request)).await {
            Ok(response) => response,
            Err(_) => ApiError::too_slow().into_response(),
        },
        Err(denied) => deny(denied),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'",
        ));
    response
}

fn deny(denied: Denied) -> Response {
    let (status, code, message) = match denied {
        Denied::OtherOrigin => (
            StatusCode::FORBIDDEN,
            "other_origin",
            "this comes from a page of another origin; open the status page itself, or use the command line",
        ),
        Denied::ForeignHost => (
            StatusCode::FORBIDDEN,
            "foreign_host",
            "ask by address or as localhost; to use a name, set admin_token_file in the edge's configuration",
        ),
        Denied::NoToken => (
            StatusCode::UNAUTHORIZED,
            "no_token",
            "the admin token is missing or wrong; send it as a bearer token (command line: GATEWRIGHT_ADMIN_TOKEN_FILE)",
        ),
    };
    let mut response = ApiError {
        status,
        code,
        message: message.to_owned(),
    }
    .into_response();
    if status == StatusCode::UNAUTHORIZED {
        // `Basic` lets a browser ask for it: any user, the token as password.
        let challenge = HeaderValue::from_static("Basic realm=\"gatewright\", Bearer");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

async fn metrics_text(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    (
        [(CONTENT_TYPE, metrics::CONTENT_TYPE)],
        admin.metrics.render(),
    )
}

async fn ready(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    if admin.drain.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StoreConfig;
    use http_body_util::BodyExt;
    use hyper::service::Service;

    #[tokio::test]
    async fn a_draining_edge_is_not_ready_and_still_answers() {
        let folder = tempfile::tempdir().unwrap();
        let domain = Hostname::parse("gateway.localhost").unwrap();
        let clusters = Clusters::open(
            &StoreConfig {
                path: folder.path().to_owned(),
            },
            &domain,
        )
        .unwrap();
        let admin = Arc::new(Admin {
            metrics: Arc::new(Metrics::new(Arc::clone(&clusters))),
            clusters,
            recent: Arc::new(RecentErrors::default()),
            domain,
            edge_id: "test".to_owned(),
            started: 0,
            drain: CancellationToken::new(),
            access: Access::new(([127, 0, 0, 1], 9090).into(), None).unwrap(),
        });
        let service = TowerToHyperService::new(router(Arc::clone(&admin)));
        let get = async |path: &str| {
            let request = http::Request::get(path)
                .header("host", "localhost")
                .body(axum::body::Body::empty());
            let response = service.call(request.unwrap()).await.unwrap();
            let (head, body) = response.into_parts();
            (
                head.status.as_u16(),
                String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap(),
            )
        };
        admin
            .recent
            .push("no_tunnel", "gone", "a.test", "the cluster has no tunnel");
        assert_eq!(get("/readyz").await, (200, "ready\n".to_owned()));
        admin.drain.cancel();
        assert_eq!(get("/readyz").await, (503, "draining\n".to_owned()));
        assert_eq!(get("/healthz").await.0, 200);
        let (status, page) = get("/").await;
        assert!(
            status == 200
                && page.contains(">draining<")
                && page.contains("the cluster has no tunnel"),
            "{page}"
        );
        let status: serde_json::Value =
            serde_json::from_str(&get("/api/v1/status").await.1).unwrap();
        assert_eq!(
            (&status["draining"], &status["errors"][0]["cluster"]),
            (&true.into(), &"gone".into())
        );
    }
}
