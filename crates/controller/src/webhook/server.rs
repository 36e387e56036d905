//! Answers AdmissionReviews (`admission.k8s.io/v1`). May not decide what is admitted; a handler
//! does. Whatever is sent here, the answer is a review or an HTTP error that says what is wrong.

use super::certs::Certificates;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::serve;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use kube::core::{DynamicObject, Status};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Largest review: an object of 1.5 MiB, its old state, and what is around them. The apiserver
/// sends none larger than 3 MiB either.
const LARGEST: usize = 3 * 1024 * 1024;
/// How long a review may take to arrive, and how long its handler may think.
const PATIENCE: Duration = Duration::from_secs(10);
/// The one version of reviews that is understood.
const VERSION: &str = "admission.k8s.io/v1";

/// What is said about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may happen.
    Allow {
        /// Shown to the user, one line each.
        warnings: Vec<String>,
    },
    /// It may not.
    Deny {
        /// The kind of refusal.
        denial: Denial,
        /// What is wrong and what to do, as the user reads it.
        reason: String,
        /// Shown to the user, one line each.
        warnings: Vec<String>,
    },
}

/// The kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// This user may not do it: 403.
    Forbidden,
    /// Nobody may, the object is wrong: 422.
    Invalid,
}

impl Verdict {
    /// It may happen, and nothing is to be said.
    #[must_use]
    pub fn allow() -> Self {
        Self::Allow {
            warnings: Vec::new(),
        }
    }

    /// The object is wrong.
    #[must_use]
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::Deny {
            denial: Denial::Invalid,
            reason: reason.into(),
            warnings: Vec::new(),
        }
    }

    /// This user may not do it.
    #[must_use]
    pub fn forbidden(reason: impl Into<String>) -> Self {
        Self::Deny {
            denial: Denial::Forbidden,
            reason: reason.into(),
            warnings: Vec::new(),
        }
    }

    fn respond(self, request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
        let mut response = AdmissionResponse::from(request);
        let warnings = match self {
            Self::Allow { warnings } => warnings,
            Self::Deny {
                denial,
                reason,
                warnings,
            } => {
                let (code, word) = match denial {
                    Denial::Forbidden => (403, "Forbidden"),
                    Denial::Invalid => (422, "Invalid"),
                };
                response.allowed = false;
                response.result = Status::failure(&reason, word).with_code(code);
                warnings
            }
        };
        response.warnings = Some(warnings).filter(|warnings| !warnings.is_empty());
        response
    }
}

type Handler =
    Arc<dyn Fn(AdmissionRequest<DynamicObject>) -> BoxFuture<'static, Verdict> + Send + Sync>;

/// A server of admission webhooks. Each handler has a name, and is served at `/admit/<name>`.
#[derive(Clone, Default)]
pub struct Server {
    handlers: BTreeMap<String, Handler>,
    metrics: Metrics,
}

impl Server {
    /// A server without handlers.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            handlers: BTreeMap::new(),
            metrics: metrics.clone(),
        }
    }

    /// Adds a handler. It gets ten seconds; a panic or a longer wait is answered with an HTTP
    /// error, upon which the webhook's failure policy decides.
    #[must_use]
    pub fn admit<F>(
        mut self,
        name: &str,
        handler: impl Fn(AdmissionRequest<DynamicObject>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Verdict> + Send + 'static,
    {
        let handler = Arc::new(move |request| handler(request).boxed());
        self.handlers.insert(name.to_owned(), handler);
        self
    }

    /// Serves until `cancel`, with the certificate that is the present one at each handshake.
    ///
    /// # Errors
    /// [`Error::Certificate`] if TLS cannot be set up.
    pub async fn serve(
        self,
        listener: TcpListener,
        certificates: &Certificates,
        cancel: CancellationToken,
    ) -> Result<()> {
        let config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|source| Error::Certificate {
                action: "set up TLS for the webhook server".to_owned(),
                source: source.into(),
            })?
            .with_no_client_auth()
            .with_cert_resolver(certificates.resolver());
        serve::serve(listener, self.router(), Some(Arc::new(config)), cancel).await;
        Ok(())
    }

    fn router(self) -> Router {
        Router::new()
            .route("/admit/{name}", post(review))
            .with_state(Arc::new(self))
    }

    /// Answers one review, given as JSON.
    async fn answer(&self, name: &str, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let handler = self.handlers.get(name).ok_or_else(|| {
            let known: Vec<_> = self.handlers.keys().map(String::as_str).collect();
            let text = format!(
                "no webhook is called {name:?}; there are: {}",
                known.join(", ")
            );
            Refusal(StatusCode::NOT_FOUND, text)
        })?;
        let malformed = |text: String| {
            self.metrics.admitted(name, "malformed");
            Refusal(StatusCode::BAD_REQUEST, text)
        };
        let review: AdmissionReview<DynamicObject> = serde_json::from_slice(body)
            .map_err(|error| malformed(format!("this is no AdmissionReview: {error}")))?;
        let version = &review.types.api_version;
        if version != VERSION {
            let text = format!("reviews of {version:?} are not understood, only {VERSION:?}");
            return Err(malformed(text));
        }
        let request: AdmissionRequest<DynamicObject> = review
            .try_into()
            .map_err(|_| malformed("this AdmissionReview has no request".to_owned()))?;
        let asked = request.clone();
        // Also calling the handler may panic, so it is called inside.
        let thinking = AssertUnwindSafe(async { handler(request).await }).catch_unwind();
        let failed = |text: &str| {
            self.metrics.admitted(name, "failed");
            Refusal(StatusCode::INTERNAL_SERVER_ERROR, text.to_owned())
        };
        let verdict = match timeout(PATIENCE, thinking).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => {
                let uid = &asked.uid;
                tracing::error!(webhook = name, uid, "a webhook has panicked; this is a bug");
                return Err(failed("the webhook has failed; its log says why"));
            }
            Err(_) => return Err(failed("the webhook could not decide in time")),
        };
        let result = match &verdict {
            Verdict::Allow { .. } => "allowed",
            Verdict::Deny { .. } => "denied",
        };
        self.metrics.admitted(name, result);
        let review = verdict.respond(&asked).into_review();
        serde_json::to_vec(&review).map_err(|_| failed("the answer is not representable as JSON"))
    }
}

/// An HTTP error and what it says.
struct Refusal(StatusCode, String);

async fn review(
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let body = match read(request.into_body()).await {
        Ok(body) => body,
        Err(Refusal(code, text)) => return (code, text).into_response(),
    };
    match server.answer(&name, &body).await {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(Refusal(code, text)) => (code, text).into_response(),
    }
}

async fn read(body: Body) -> Result<Bytes, Refusal> {
    match timeout(PATIENCE, to_bytes(body, LARGEST)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(Refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a review is not longer than {LARGEST} bytes, and arrives whole"),
        )),
        Err(_) => Err(Refusal(
            StatusCode::REQUEST_TIMEOUT,
            "the review did not arrive in time".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn server() -> Server {
        Server::new(&Metrics::new()).admit("names", |request| async move {
            let name = request.object.and_then(|object| object.metadata.name);
            match name.as_deref() {
                Some("good") => Verdict::allow(),
                Some("odd") => Verdict::Allow {
                    warnings: vec!["an odd name".to_owned()],
                },
                Some("private") => Verdict::forbidden("not yours"),
                Some("panic") => panic!("as asked"),
                Some("slow") => std::future::pending().await,
                Some(_) | None => Verdict::invalid("choose another name"),
            }
        })
    }

    fn question(name: &str) -> Value {
        json!({
            "apiVersion": VERSION,
            "kind": "AdmissionReview",
            "request": {
                "uid": "u-1",
                "kind": { "group": "", "version": "v1", "kind": "ConfigMap" },
                "resource": { "group": "", "version": "v1", "resource": "configmaps" },
                "name": name,
                "operation": "CREATE",
                "userInfo": { "username": "jane" },
                "object": { "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } },
                "oldObject": null,
            },
        })
    }

    async fn ask(body: &[u8]) -> Result<Value, (u16, String)> {
        match server().answer("names", body).await {
            Ok(json) => Ok(serde_json::from_slice(&json).expect("is JSON")),
            Err(Refusal(code, text)) => Err((code.as_u16(), text)),
        }
    }

    #[tokio::test]
    async fn a_verdict_becomes_a_review() {
        for (name, allowed, code, reason, message, warnings) in [
            ("good", true, 0, "", "", Value::Null),
            ("odd", true, 0, "", "", json!(["an odd name"])),
            ("private", false, 403, "Forbidden", "not yours", Value::Null),
            (
                "bad",
                false,
                422,
                "Invalid",
                "choose another name",
                Value::Null,
            ),
        ] {
            let review = ask(question(name).to_string().as_bytes())
                .await
                .expect("is answered");
            assert_eq!(review["apiVersion"], VERSION);
            assert_eq!(review["kind"], "AdmissionReview");
            let response = &review["response"];
            assert_eq!(response["uid"], "u-1", "{name}");
            assert_eq!(response["allowed"], allowed, "{name}");
            let status = &response["status"];
            assert_eq!(status["code"].as_u64().unwrap_or_default(), code, "{name}");
            assert_eq!(
                status["reason"].as_str().unwrap_or_default(),
                reason,
                "{name}"
            );
            assert_eq!(
                status["message"].as_str().unwrap_or_default(),
                message,
                "{name}"
            );
            assert_eq!(response["warnings"], warnings, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_review_is_refused_with_a_text() {
        let mut beta = question("good");
        beta["apiVersion"] = json!("admission.k8s.io/v1beta1");
        let mut empty = question("good");
        empty["request"] = Value::Null;
        for (body, code, part) in [
            (String::new(), 400, "no AdmissionReview"),
            ("[]".to_owned(), 400, "no AdmissionReview"),
            ("{\"apiVersion\": 1}".to_owned(), 400, "no AdmissionReview"),
            ("\u{0}\u{1}".to_owned(), 400, "no AdmissionReview"),
            ("[".repeat(100_000), 400, "no AdmissionReview"),
            (beta.to_string(), 400, "v1beta1"),
            (empty.to_string(), 400, "no request"),
            (question("panic").to_string(), 500, "log"),
            (question("slow").to_string(), 500, "in time"),
        ] {
            let (got, text) = ask(body.as_bytes()).await.expect_err("is refused");
            assert_eq!(got, code, "{text}");
            assert!(text.contains(part), "{text}");
        }
        let answered = server().answer("nothing", b"").await;
        let Err(Refusal(code, text)) = answered else {
            panic!("there is no such webhook");
        };
        assert_eq!(code, StatusCode::NOT_FOUND);
        assert!(text.contains("names"), "{text}");
    }
}
