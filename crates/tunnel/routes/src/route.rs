//! A route that has been checked. May not judge who may have its host; it only knows what a route is.

use std::collections::BTreeMap;

use gatewright_names::{HostPattern, WildcardMode};
use serde::{Deserialize, Serialize};

use crate::id::RouteId;
use crate::message::WireRoute;
use crate::path;
use crate::reason::RefusedReason;

/// Routes that one cluster may have unless its edge says otherwise.
pub const MAX_ROUTES: usize = 10_000;
/// Longest path of a route in bytes.
pub const MAX_PATH: usize = 4096;
/// Keys and values of a route's annotations together, in bytes.
pub const MAX_ANNOTATIONS: usize = 16 * 1024;
/// Longest source of a route in bytes.
const MAX_SOURCE: usize = 512;

/// How a path is compared with a request's (Kubernetes Ingress v1, `pathType`).
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum PathType {
    /// The whole path, case and trailing slash included.
    Exact,
    /// Element by element from the front.
    #[default]
    Prefix,
    /// Here the same as `Prefix`.
    ImplementationSpecific,
}

impl PathType {
    /// The name in Kubernetes and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "Exact",
            Self::Prefix => "Prefix",
            Self::ImplementationSpecific => "ImplementationSpecific",
        }
    }

    fn from_wire(text: &str) -> Option<Self> {
        [Self::Exact, Self::Prefix, Self::ImplementationSpecific]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

impl std::fmt::Display for PathType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the agent speaks with a backend.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum BackendProtocol {
    /// HTTP/1.1 in clear text.
    #[default]
    Http,
    /// HTTP/2 in clear text with prior knowledge.
    H2c,
}

impl BackendProtocol {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::H2c => "h2c",
        }
    }

    fn from_wire(text: &str) -> Option<Self> {
        [Self::Http, Self::H2c]
            .into_iter()
            .find(|protocol| protocol.as_str() == text)
    }
}

/// A route: requests for this host and path go to this port of this service. Serialised in its wire form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WireRoute", into = "WireRoute")]
pub struct Route {
    /// Its name in the tunnel.
    pub id: RouteId,
    /// The hosts it serves; `None`: the cluster's own name only.
    pub host: Option<HostPattern>,
    /// Starts with a slash; compared after percent-decoding.
    pub path: String,
    /// How `path` is compared.
    pub path_type: PathType,
    /// The Service's name.
    pub service: String,
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's port, 1 to 65535.
    pub port: u16,
    /// Whether the source asks for TLS on this host.
    pub tls: bool,
    /// Annotations of the source object.
    pub annotations: BTreeMap<String, String>,
    /// What the backend speaks.
    pub protocol: BackendProtocol,
    /// When the source was created, in seconds since 1970; the older of two equal routes wins. `i64::MAX`: not known.
    pub created: i64,
    /// Where it comes from: "Ingress/namespace/name". Empty: not known.
    pub source: String,
}

impl Route {
    /// The host as displayed; empty for the cluster's own name. This is the form that [`RouteId::of`] takes.
    #[must_use]
    pub fn host_text(&self) -> String {
        self.host
            .as_ref()
            .map(HostPattern::to_string)
            .unwrap_or_default()
    }
}

impl AsRef<Route> for Route {
    fn as_ref(&self) -> &Route {
        self
    }
}

impl TryFrom<WireRoute> for Route {
    type Error = RefusedReason;

    fn try_from(wire: WireRoute) -> Result<Self, RefusedReason> {
        let host = match wire.host.as_deref() {
            None | Some("") => None,
            Some(text) => Some(
                HostPattern::parse(text, wire.wildcard.unwrap_or(WildcardMode::OneLabel))
                    .map_err(|_| RefusedReason::InvalidHost)?,
            ),
        };
        let path = match wire.path {
            None => "/".to_owned(),
            Some(path) if path.is_empty() => "/".to_owned(),
            Some(path) => path,
        };
        if !path::is_routable(&path) {
            return Err(RefusedReason::InvalidPath);
        }
        let path_type = match wire.path_type.as_deref() {
            None | Some("") => PathType::default(),
            Some(text) => PathType::from_wire(text).ok_or(RefusedReason::InvalidPathType)?,
        };
        let service = wire.service.unwrap_or_default();
        let namespace = wire
            .namespace
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| "default".to_owned());
        if !is_dns_label(&service) || !is_dns_label(&namespace) {
            return Err(RefusedReason::InvalidService);
        }
        let port = wire
            .port
            .and_then(|port| u16::try_from(port).ok())
            .filter(|&port| port > 0);
        let port = port.ok_or(RefusedReason::InvalidPort)?;
        let protocol = match wire.protocol.as_deref() {
            None | Some("") => BackendProtocol::default(),
            Some(text) => BackendProtocol::from_wire(text).ok_or(RefusedReason::InvalidProtocol)?,
        };
        let size: usize = wire
            .annotations
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if size > MAX_ANNOTATIONS {
            return Err(RefusedReason::AnnotationsTooLarge);
        }
        let source = wire.source.unwrap_or_default();
        if source.len() > MAX_SOURCE {
            return Err(RefusedReason::InvalidSource);
        }
        let host_text = host
            .as_ref()
            .map(HostPattern::to_string)
            .unwrap_or_default();
        Ok(Self {
            id: wire
                .id
                .unwrap_or_else(|| RouteId::of(&source, &host_text, &path, path_type)),
            host,
            path,
            path_type,
            service,
            namespace,
            port,
            tls: wire.tls,
            annotations: wire.annotations,
            protocol,
            created: wire.created.unwrap_or(i64::MAX),
            source,
        })
    }
}

impl From<Route> for WireRoute {
    fn from(route: Route) -> Self {
        let host = route.host_text();
        let wildcard = match &route.host {
            Some(HostPattern::Wildcard {
                mode: WildcardMode::ManyLabels,
                ..
            }) => Some(WildcardMode::ManyLabels),
            Some(
                HostPattern::Wildcard {
                    mode: WildcardMode::OneLabel,
                    ..
                }
                | HostPattern::Exact(_),
            )
            | None => None,
        };
        Self {
            id: Some(route.id),
            host: Some(host),
            wildcard,
            path: Some(route.path),
            path_type: Some(route.path_type.as_str().to_owned()),
            service: Some(route.service),
            namespace: Some(route.namespace),
            port: Some(i64::from(route.port)),
            tls: route.tls,
            annotations: route.annotations,
            protocol: Some(route.protocol.as_str().to_owned()),
            created: Some(route.created).filter(|&created| created != i64::MAX),
            source: Some(route.source).filter(|source| !source.is_empty()),
        }
    }
}

impl From<&Route> for WireRoute {
    fn from(route: &Route) -> Self {
        route.clone().into()
    }
}

/// RFC 1123 label, as Kubernetes names Services and namespaces.
fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A valid route; every field that is not given is the same for all.
    pub(crate) fn route(host: &str, path: &str, path_type: PathType) -> Route {
        Route {
            id: RouteId::of("Ingress/default/app", host, path, path_type),
            host: (!host.is_empty())
                .then(|| HostPattern::parse(host, WildcardMode::OneLabel).unwrap()),
            path: path.to_owned(),
            path_type,
            service: "app".to_owned(),
            namespace: "default".to_owned(),
            port: 8080,
            tls: false,
            annotations: BTreeMap::new(),
            protocol: BackendProtocol::Http,
            created: 1_700_000_000,
            source: "Ingress/default/app".to_owned(),
        }
    }

    fn wire() -> WireRoute {
        WireRoute {
            host: Some("app.example.com".into()),
            service: Some("app".into()),
            port: Some(8080),
            ..WireRoute::default()
        }
    }

    #[test]
    fn what_is_absent_has_the_documented_default() {
        let route = Route::try_from(wire()).unwrap();
        assert_eq!(
            (route.path.as_str(), route.path_type),
            ("/", PathType::Prefix)
        );
        assert_eq!(
            (route.namespace.as_str(), route.protocol),
            ("default", BackendProtocol::Http)
        );
        assert_eq!(
            (route.tls, route.created, route.source.as_str()),
            (false, i64::MAX, "")
        );
        assert_eq!(
            route.id,
            RouteId::of("", "app.example.com", "/", PathType::Prefix)
        );
        let own = Route::try_from(WireRoute {
            host: None,
            ..wire()
        })
        .unwrap();
        assert_eq!(own.host, None);
    }

    #[test]
    fn a_route_survives_the_wire() {
        for mode in [WildcardMode::OneLabel, WildcardMode::ManyLabels] {
            let route = Route {
                id: RouteId(7),
                host: Some(HostPattern::parse("*.example.com", mode).unwrap()),
                path: "/a%20b/".into(),
                path_type: PathType::Exact,
                service: "app".into(),
                namespace: "shop".into(),
                port: 65535,
                tls: true,
                annotations: [("a/b".to_owned(), "c".to_owned())].into(),
                protocol: BackendProtocol::H2c,
                created: 1_700_000_000,
                source: "Ingress/shop/app".into(),
            };
            let text = serde_json::to_string(&route).unwrap();
            assert_eq!(serde_json::from_str::<Route>(&text).unwrap(), route);
        }
    }

    #[test]
    fn each_fault_has_its_own_reason() {
        let long = || Some("/".to_owned() + &"a".repeat(MAX_PATH));
        let big = || [("k".to_owned(), "v".repeat(MAX_ANNOTATIONS))].into();
        let cases: Vec<(WireRoute, RefusedReason)> = vec![
            (
                WireRoute {
                    host: Some("10.0.0.1".into()),
                    ..wire()
                },
                RefusedReason::InvalidHost,
            ),
            (
                WireRoute {
                    host: Some("app.example.com:80".into()),
                    ..wire()
                },
                RefusedReason::InvalidHost,
            ),
            (
                WireRoute {
                    host: Some("*".into()),
                    ..wire()
                },
                RefusedReason::InvalidHost,
            ),
            (
                WireRoute {
                    path: Some("api".into()),
                    ..wire()
                },
                RefusedReason::InvalidPath,
            ),
            (
                WireRoute {
                    path: Some("/a/../b".into()),
                    ..wire()
                },
                RefusedReason::InvalidPath,
            ),
            (
                WireRoute {
                    path: Some("/a/%2E%2e".into()),
                    ..wire()
                },
                RefusedReason::InvalidPath,
            ),
            (
                WireRoute {
                    path: Some("/a\\b".into()),
                    ..wire()
                },
                RefusedReason::InvalidPath,
            ),
            (
                WireRoute {
                    path: Some("/a%00".into()),
                    ..wire()
                },
                RefusedReason::InvalidPath,
            ),
            (
                WireRoute {
                    path: Some("/a?b".into()),
                    ..wire()
                },
                RefusedReason::InvalidPath,
            ),
            (
                WireRoute {
                    path: long(),
                    ..wire()
                },
                RefusedReason::InvalidPath,
            ),
            (
                WireRoute {
                    path_type: Some("Regex".into()),
                    ..wire()
                },
                RefusedReason::InvalidPathType,
            ),
            (
                WireRoute {
                    service: None,
                    ..wire()
                },
                RefusedReason::InvalidService,
            ),
            (
                WireRoute {
                    service: Some("a.b".into()),
                    ..wire()
                },
                RefusedReason::InvalidService,
            ),
            (
                WireRoute {
                    namespace: Some("-x".into()),
                    ..wire()
                },
                RefusedReason::InvalidService,
            ),
            (
                WireRoute {
                    port: None,
                    ..wire()
                },
                RefusedReason::InvalidPort,
            ),
            (
                WireRoute {
                    port: Some(0),
                    ..wire()
                },
                RefusedReason::InvalidPort,
            ),
            (
                WireRoute {
                    port: Some(65536),
                    ..wire()
                },
                RefusedReason::InvalidPort,
            ),
            (
                WireRoute {
                    protocol: Some("ftp".into()),
                    ..wire()
                },
                RefusedReason::InvalidProtocol,
            ),
            (
                WireRoute {
                    annotations: big(),
                    ..wire()
                },
                RefusedReason::AnnotationsTooLarge,
            ),
            (
                WireRoute {
                    source: Some("s".repeat(513)),
                    ..wire()
                },
                RefusedReason::InvalidSource,
            ),
        ];
        for (wire, reason) in cases {
            assert_eq!(Route::try_from(wire.clone()), Err(reason), "{wire:?}");
        }
    }
}
