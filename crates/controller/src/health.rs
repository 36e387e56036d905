//! The listener for metrics and probes. May not decide whether a part is well; each part says so.

use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::serve;
use axum::Router;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Named checks that must all pass for the process to be ready. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Why each check fails; `None` when it passes.
    checks: Arc<Mutex<BTreeMap<String, Option<String>>>>,
}

/// One check of a [`Health`].
#[derive(Debug, Clone)]
pub struct Check {
    health: Health,
    name: String,
}

impl Health {
    /// No checks: ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check, which fails until [`Check::pass`]. The name is for people: `CRDs established`.
    #[must_use]
    pub fn check(&self, name: &str) -> Check {
        let check = Check {
            health: self.clone(),
            name: name.to_owned(),
        };
        check.fail("not yet");
        check
    }

    /// The checks that fail, and why.
    #[must_use]
    pub fn failing(&self) -> BTreeMap<String, String> {
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks
            .iter()
            .filter_map(|(name, why)| Some((name.clone(), why.clone()?)))
            .collect()
    }

    fn set(&self, name: &str, why: Option<String>) {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks.insert(name.to_owned(), why);
    }
}

impl Check {
    /// All is well from now on.
    pub fn pass(&self) {
        self.health.set(&self.name, None);
    }

    /// Something is wrong from now on.
    pub fn fail(&self, why: &str) {
        self.health.set(&self.name, Some(why.to_owned()));
    }
}

/// Serves `/metrics` (OpenMetrics text), `/healthz` (200 while the process lives) and `/readyz`
/// (200, or 503 with the failing checks) until `cancel`.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    health: Health,
    cancel: CancellationToken,
) {
    serve::serve(listener, router(metrics, health), None, cancel).await;
}

fn router(metrics: Metrics, health: Health) -> Router {
    let encode = move || {
        let headers = [(header::CONTENT_TYPE, CONTENT_TYPE)];
        let text = metrics.encode();
        async move { (headers, text).into_response() }
    };
    let ready = move || {
        let failing = health.failing();
        async move {
            if failing.is_empty() {
                return (StatusCode::OK, "ok\n".to_owned());
            }
            let lines = failing.iter().map(|(name, why)| format!("{name}: {why}\n"));
            (StatusCode::SERVICE_UNAVAILABLE, lines.collect())
        }
    };
    Router::new()
        .route("/metrics", get(encode))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_fails_until_it_passes() {
        let health = Health::new();
        assert!(health.failing().is_empty());
        let crds = health.check("CRDs established");
        let certificates = health.check("webhook certificates");
        certificates.pass();
        let not_yet = [("CRDs established".to_owned(), "not yet".to_owned())];
        assert_eq!(health.failing(), not_yet.into());
        crds.pass();
        assert!(health.failing().is_empty());
        certificates.fail("expired");
        assert_eq!(health.failing()["webhook certificates"], "expired");
    }
}
