//! A route as it travels: every field optional, nothing judged. May not refuse anything; `Route` does.

use std::collections::BTreeMap;

use gatewright_names::WildcardMode;
use serde::{Deserialize, Serialize};

use super::lenient;
use crate::id::RouteId;

/// A route in a message. [`Route::try_from`](crate::Route) checks it. In a `delete`, the `id` alone names the route,
/// or else host and path (and path type, service and namespace where given).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WireRoute {
    /// The id that the agent gave; computed when absent.
    #[serde(
        deserialize_with = "lenient::readable",
        skip_serializing_if = "Option::is_none"
    )]
    pub id: Option<RouteId>,
    /// A host or `*.` wildcard; absent or empty: the cluster's own name.
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    pub host: Option<String>,
    /// What the asterisk of `host` means; absent: one label.
    #[serde(
        deserialize_with = "lenient::readable",
        skip_serializing_if = "Option::is_none"
    )]
    pub wildcard: Option<WildcardMode>,
    /// Absent or empty: `/`.
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    pub path: Option<String>,
    /// `Exact`, `Prefix` or `ImplementationSpecific`; absent: `Prefix`.
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    pub path_type: Option<String>,
    /// The Service's name.
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    pub service: Option<String>,
    /// The Service's namespace; absent: `default`.
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    pub namespace: Option<String>,
    /// The Service's port.
    #[serde(
        deserialize_with = "lenient::number",
        skip_serializing_if = "Option::is_none"
    )]
    pub port: Option<i64>,
    /// Whether the source asks for TLS on this host.
    #[serde(deserialize_with = "lenient::flag")]
    pub tls: bool,
    /// Annotations of the source object.
    #[serde(
        deserialize_with = "lenient::texts",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// `http` or `h2c`; absent: `http`.
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    pub protocol: Option<String>,
    /// When the source was created, in seconds since 1970.
    #[serde(
        deserialize_with = "lenient::number",
        skip_serializing_if = "Option::is_none"
    )]
    pub created: Option<i64>,
    /// "Ingress/namespace/name".
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    pub source: Option<String>,
}
