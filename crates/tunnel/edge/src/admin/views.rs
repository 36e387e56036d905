//! What the admin API and the status page show, as values: the shapes of its JSON. It may not decide
//! anything, and no credential has a place in it.

use std::collections::BTreeMap;

use gatewright_names::HostPattern;
use gatewright_routes::registry::{Explanation, Verdict};
use gatewright_routes::{ClusterId, RouteId};
use serde::Serialize;

use super::{Admin, RecentError};
use crate::clock;
use crate::clusters::ClusterView;
use crate::connections::ConnectionInfo;

/// A cluster and how it fares.
#[derive(Serialize)]
pub(crate) struct ClusterJson {
    pub(crate) id: ClusterId,
    pub(crate) name: String,
    pub(crate) tenant: Option<String>,
    /// The cluster's own name.
    pub(crate) own_host: String,
    /// Granted patterns.
    pub(crate) hosts: Vec<String>,
    /// RFC 3339.
    pub(crate) created: String,
    /// Whether a tunnel takes requests.
    pub(crate) connected: bool,
    pub(crate) connections: Vec<ConnectionInfo>,
    pub(crate) routes: RouteCounts,
    /// Answered since the edge started.
    pub(crate) requests: u64,
    /// Those of them with a status of 500 or above.
    pub(crate) server_errors: u64,
    /// Since the last heartbeat; absent before the first.
    pub(crate) last_heartbeat_seconds: Option<u64>,
    /// Whether no load balancer of the cluster has a public address; absent when it did not say.
    pub(crate) private: Option<bool>,
    /// Valid tokens, the oldest first.
    pub(crate) tokens: Vec<TokenJson>,
}

#[derive(Serialize)]
pub(crate) struct RouteCounts {
    /// Kept, served or not.
    pub(crate) total: usize,
    /// Requests can reach them.
    pub(crate) active: u64,
}

#[derive(Serialize)]
pub(crate) struct TokenJson {
    /// The part of the token before the secret.
    pub(crate) id: String,
    /// RFC 3339.
    pub(crate) created: String,
}

impl ClusterJson {
    pub(crate) fn new(view: ClusterView, now_ms: u64) -> Self {
        let ClusterView {
            record,
            cluster,
            tokens,
            routes,
        } = view;
        Self {
            id: record.id,
            name: record.name,
            tenant: record.tenant,
            own_host: record.own_host.to_string(),
            hosts: record.hosts.iter().map(HostPattern::to_string).collect(),
            created: clock::rfc3339_of(record.created),
            connected: cluster.connections.usable() > 0,
            connections: cluster.connections.describe(),
            routes: RouteCounts {
                total: routes,
                active: cluster.stats.active_routes(),
            },
            requests: cluster.stats.requests(),
            server_errors: cluster.stats.server_errors(),
            last_heartbeat_seconds: cluster.lease.age(now_ms).map(|age| age / 1000),
            private: cluster
                .heartbeat()
                .and_then(|heartbeat| heartbeat.is_private),
            tokens: tokens
                .into_iter()
                .map(|(id, created)| TokenJson {
                    id: id.to_string(),
                    created: clock::rfc3339_of(created),
                })
                .collect(),
        }
    }
}

/// A route and whether it is served.
#[derive(Serialize)]
pub(crate) struct RouteJson {
    pub(crate) id: RouteId,
    /// Name of its cluster.
    pub(crate) cluster: String,
    /// Where requests can reach it: its host, or the cluster's own name.
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) path_type: &'static str,
    pub(crate) service: String,
    pub(crate) namespace: String,
    pub(crate) port: u16,
    pub(crate) protocol: &'static str,
    pub(crate) tls: bool,
    /// "Ingress/namespace/name"; empty if the agent did not say.
    pub(crate) source: String,
    pub(crate) served: bool,
    /// Why it is not served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    /// Why and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<&'static str>,
}

/// The routes of a cluster, by host and path.
pub(crate) fn routes(admin: &Admin, view: &ClusterView) -> Vec<RouteJson> {
    let routes = admin.clusters.routes_of(&view.record.id).into_iter();
    routes
        .map(|(route, verdict)| {
            let refused = match verdict {
                Verdict::Accepted => None,
                Verdict::Refused(reason) => Some(reason),
            };
            let host = route
                .host
                .as_ref()
                .map_or_else(|| view.record.own_host.to_string(), HostPattern::to_string);
            RouteJson {
                id: route.id,
                cluster: view.record.name.clone(),
                host,
                path: route.path.clone(),
                path_type: route.path_type.as_str(),
                service: route.service.clone(),
                namespace: route.namespace.clone(),
                port: route.port,
                protocol: route.protocol.as_str(),
                tls: route.tls,
                source: route.source.clone(),
                served: refused.is_none(),
                reason: refused.map(|reason| reason.code()),
                message: refused.map(|reason| reason.message()),
            }
        })
        .collect()
}

/// An edge and how it fares.
#[derive(Serialize)]
pub(crate) struct StatusJson {
    pub(crate) edge_id: String,
    pub(crate) version: &'static str,
    pub(crate) domain: String,
    /// RFC 3339.
    pub(crate) started: String,
    pub(crate) uptime_seconds: i64,
    /// Whether it takes no new work.
    pub(crate) draining: bool,
    /// By name.
    pub(crate) clusters: Vec<ClusterJson>,
    /// The latest first.
    pub(crate) errors: Vec<ErrorJson>,
}

/// A recent error, with its cluster by name.
#[derive(Serialize)]
pub(crate) struct ErrorJson {
    pub(crate) code: String,
    /// Name of the cluster, its id if it is no more, or empty.
    pub(crate) cluster: String,
    pub(crate) host: String,
    pub(crate) message: String,
    pub(crate) count: u64,
    /// RFC 3339.
    pub(crate) first: String,
    /// RFC 3339.
    pub(crate) last: String,
    pub(crate) last_seconds_ago: i64,
}

/// Everything the status page and `gatewright status` show.
pub(crate) fn status(admin: &Admin) -> StatusJson {
    let (now, now_ms) = (clock::unix_seconds(), clock::unix_millis());
    let clusters: Vec<_> = admin
        .clusters
        .views()
        .into_iter()
        .map(|view| ClusterJson::new(view, now_ms))
        .collect();
    let names: BTreeMap<&str, &str> = clusters
        .iter()
        .map(|cluster| (cluster.id.as_str(), cluster.name.as_str()))
        .collect();
    let error = |error: RecentError| ErrorJson {
        cluster: names
            .get(error.cluster.as_str())
            .map_or(error.cluster, |&name| name.to_owned()),
        code: error.code,
        host: error.host,
        message: error.message,
        count: error.count,
        first: clock::rfc3339_of(error.first),
        last: clock::rfc3339_of(error.last),
        last_seconds_ago: now.saturating_sub(error.last).max(0),
    };
    let errors = admin.recent.list().into_iter().map(error).collect();
    StatusJson {
        edge_id: admin.edge_id.clone(),
        version: env!("CARGO_PKG_VERSION"),
        domain: admin.domain.to_string(),
        started: clock::rfc3339_of(admin.started),
        uptime_seconds: now.saturating_sub(admin.started).max(0),
        draining: admin.drain.is_cancelled(),
        clusters,
        errors,
    }
}

/// What happens to a request, with the names of the clusters that it mentions.
#[derive(Serialize)]
pub(crate) struct ExplanationJson {
    #[serde(flatten)]
    pub(crate) explanation: Explanation,
    /// By id.
    pub(crate) clusters: BTreeMap<ClusterId, ExplainedCluster>,
    /// Status that the edge itself would answer with now; absent when the request reaches a tunnel.
    pub(crate) status: Option<u16>,
}

#[derive(Serialize)]
pub(crate) struct ExplainedCluster {
    pub(crate) name: String,
    pub(crate) own_host: String,
    pub(crate) connected: bool,
}
