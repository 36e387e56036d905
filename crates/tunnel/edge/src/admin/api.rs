//! The handlers of `/api/v1`: parse what came, ask `Clusters`, answer JSON. Errors are
//! `{"error": {"code", "message"}}`. It may not decide who may ask; that is `access`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use gatewright_names::{HostPattern, Hostname, WildcardMode};
use gatewright_routes::registry::Outcome;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::views::{self, ClusterJson, ExplainedCluster, ExplanationJson, RouteJson, StatusJson};
use super::{Admin, LARGEST_BODY};
use crate::clock;
use crate::clusters::{ClusterView, NewCluster};
use crate::error::Error;

/// Granted patterns of one cluster.
const MOST_HOSTS: usize = 1000;
/// Characters of a tenant's name.
const LONGEST_TENANT: usize = 100;

/// Why a request was not obeyed.
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    /// Stable, for programs.
    pub(crate) code: &'static str,
    /// For people.
    pub(crate) message: String,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    pub(super) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is nothing here; the API is under /api/v1",
        )
    }

    pub(super) fn method_not_allowed() -> Self {
        let message = "this method is not allowed here; see the header Allow";
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            message,
        )
    }

    pub(super) fn too_slow() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "too_slow",
            "the request took too long to arrive or to be done",
        )
    }

    fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = serde_json::json!({ "error": { "code": self.code, "message": self.message } });
        (self.status, Json(error)).into_response()
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let (status, code) = match &error {
            Error::NoSuchCluster { .. } => (StatusCode::NOT_FOUND, "no_such_cluster"),
            Error::ClusterExists { .. } => (StatusCode::CONFLICT, "cluster_exists"),
            Error::ClusterName { .. } | Error::OwnHost { .. } => {
                (StatusCode::BAD_REQUEST, "bad_name")
            }
            Error::StoreClosed => (StatusCode::SERVICE_UNAVAILABLE, "store_closed"),
            Error::StoreWrite { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "store_failed"),
            Error::StoreFolder { .. }
            | Error::StoreInUse { .. }
            | Error::StoreDamaged { .. }
            | Error::StoreEntry { .. }
            | Error::StoreNewer { .. }
            | Error::Bind { .. }
            | Error::TunnelWithoutTls
            | Error::TlsFile { .. }
            | Error::TlsPair(_)
            | Error::AccessLog { .. }
            | Error::Thread(_)
            | Error::Random
            | Error::AdminUnprotected { .. }
            | Error::AdminTokenFile { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        Self {
            status,
            code,
            message: error.to_string(),
        }
    }
}

type Answer<T> = Result<Json<T>, ApiError>;
type Body = Result<Bytes, BytesRejection>;

// === Clusters ===

#[derive(Serialize)]
pub(super) struct ClusterList {
    clusters: Vec<ClusterJson>,
}

pub(super) async fn clusters(State(admin): State<Arc<Admin>>) -> Json<ClusterList> {
    let clusters = admin.clusters.views().into_iter().map(shown).collect();
    Json(ClusterList { clusters })
}

pub(super) async fn cluster(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
) -> Answer<ClusterJson> {
    Ok(Json(shown(admin.clusters.view(&name)?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateRequest {
    name: String,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    hosts: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct Created {
    cluster: ClusterJson,
    /// The only time that it is shown.
    token: String,
}

pub(super) async fn create(
    State(admin): State<Arc<Admin>>,
    body: Body,
) -> Result<(StatusCode, Json<Created>), ApiError> {
    let request: CreateRequest = parse(body)?;
    let tenant = request.tenant.filter(|tenant| !tenant.is_empty());
    if tenant.as_ref().is_some_and(|tenant| {
        tenant.chars().count() > LONGEST_TENANT || tenant.contains(char::is_control)
    }) {
        return Err(ApiError::bad(
            "tenant may have at most 100 characters and no control characters",
        ));
    }
    let hosts = patterns(&request.hosts)?;
    let (record, token) = admin
        .clusters
        .create(NewCluster {
            name: request.name,
            tenant,
            hosts,
        })
        .await?;
    let cluster = shown(admin.clusters.view(&record.name)?);
    Ok((
        StatusCode::CREATED,
        Json(Created {
            cluster,
            token: token.reveal().to_owned(),
        }),
    ))
}

pub(super) async fn delete(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    admin.clusters.delete(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateRequest {
    #[serde(default)]
    revoke_old: bool,
}

#[derive(Serialize)]
pub(super) struct Rotated {
    /// The only time that it is shown.
    token: String,
}

pub(super) async fn rotate_token(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    body: Body,
) -> Answer<Rotated> {
    let request = match &body {
        Ok(bytes) if bytes.is_empty() => RotateRequest::default(),
        Ok(_) | Err(_) => parse(body)?,
    };
    let token = admin
        .clusters
        .rotate_token(&name, request.revoke_old)
        .await?;
    Ok(Json(Rotated {
        token: token.reveal().to_owned(),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostsRequest {
    hosts: Vec<String>,
}

pub(super) async fn set_hosts(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    body: Body,
) -> Answer<ClusterJson> {
    let request: HostsRequest = parse(body)?;
    admin
        .clusters
        .set_hosts(&name, patterns(&request.hosts)?)
        .await?;
    Ok(Json(shown(admin.clusters.view(&name)?)))
}

// === Routes and status ===

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RoutesQuery {
    #[serde(default)]
    cluster: Option<String>,
}

#[derive(Serialize)]
pub(super) struct RouteList {
    routes: Vec<RouteJson>,
}

pub(super) async fn routes(
    State(admin): State<Arc<Admin>>,
    query: Result<Query<RoutesQuery>, QueryRejection>,
) -> Answer<RouteList> {
    let Query(query) =
        query.map_err(|_| ApiError::bad("the only parameter is cluster, a cluster's name"))?;
    let of = match query.cluster {
        Some(name) => vec![admin.clusters.view(&name)?],
        None => admin.clusters.views(),
    };
    Ok(Json(RouteList {
        routes: of
            .iter()
            .flat_map(|view| views::routes(&admin, view))
            .collect(),
    }))
}

pub(super) async fn status(State(admin): State<Arc<Admin>>) -> Json<StatusJson> {
    Json(views::status(&admin))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainQuery {
    host: String,
    #[serde(default)]
    path: Option<String>,
}

pub(super) async fn explain(
    State(admin): State<Arc<Admin>>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Answer<ExplanationJson> {
    let usage = "the parameters are host and, if wanted, path";
    let Query(query) = query.map_err(|_| ApiError::bad(usage))?;
    let host = Hostname::from_authority(&query.host)
        .map_err(|error| ApiError::bad(format!("host is not a host name: {error}")))?;
    let path = query.path.unwrap_or_else(|| "/".to_owned());
    let path = path
        .split(['?', '#'])
        .next()
        .filter(|path| path.starts_with('/'));
    let path = path.ok_or_else(|| ApiError::bad("path must start with /"))?;
    let explanation = admin.clusters.explain(&host, path);
    let (served_by, status) = match &explanation.outcome {
        Outcome::Served { cluster, .. } => (Some(cluster), None),
        Outcome::UnknownHost | Outcome::UnknownPath => (None, Some(StatusCode::NOT_FOUND)),
        Outcome::BadPath { .. } => (None, Some(StatusCode::BAD_REQUEST)),
    };
    let mentioned = |view: &ClusterView| {
        let id = &view.record.id;
        let wanted = explanation
            .candidates
            .iter()
            .flat_map(|candidate| candidate.owner.iter().chain(&candidate.waiting));
        let mut ids = wanted
            .chain(explanation.refused.iter().map(|refused| &refused.cluster))
            .chain(served_by);
        ids.any(|mentioned| mentioned == id)
    };
    let clusters: std::collections::BTreeMap<_, _> = admin
        .clusters
        .views()
        .into_iter()
        .filter(mentioned)
        .map(|view| {
            let connected = view.cluster.connections.usable() > 0;
            let own_host = view.record.own_host.to_string();
            (
                view.record.id,
                ExplainedCluster {
                    name: view.record.name,
                    own_host,
                    connected,
                },
            )
        })
        .collect();
    let no_tunnel = served_by
        .and_then(|id| clusters.get(id))
        .is_some_and(|cluster| !cluster.connected);
    let status = if no_tunnel {
        Some(StatusCode::SERVICE_UNAVAILABLE)
    } else {
        status
    };
    Ok(Json(ExplanationJson {
        status: status.map(|status| status.as_u16()),
        clusters,
        explanation,
    }))
}

// === Helpers ===

fn shown(view: ClusterView) -> ClusterJson {
    ClusterJson::new(view, clock::unix_millis())
}

fn parse<T: DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    let body = body.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let message = format!("the body may have at most {LARGEST_BODY} bytes");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
        } else {
            ApiError::bad("the body did not arrive whole")
        }
    })?;
    serde_json::from_slice(&body)
        .map_err(|error| ApiError::bad(format!("the body is not the JSON wanted here: {error}")))
}

/// Grants: an asterisk stands for one label or more.
fn patterns(texts: &[String]) -> Result<Vec<HostPattern>, ApiError> {
    if texts.len() > MOST_HOSTS {
        return Err(ApiError::bad("a cluster may have at most 1000 patterns"));
    }
    let mut patterns: Vec<_> = texts
        .iter()
        .map(|text| {
            HostPattern::parse(text, WildcardMode::ManyLabels)
                .map_err(|error| ApiError::bad(format!("hosts: {error}")))
        })
        .collect::<Result<_, _>>()?;
    patterns.sort();
    patterns.dedup();
    Ok(patterns)
}
