//! What a cluster wants changed. Data only; the registry decides what comes of it.

use gatewright_names::{HostPattern, WildcardMode};

use crate::id::RouteId;
use crate::message::WireRoute;
use crate::reason::RefusedReason;
use crate::route::{PathType, Route};

/// A change of one cluster's routes, applied as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Adds routes, or replaces those of the same id.
    Upsert(Vec<WireRoute>),
    /// Removes routes; what does not exist is no error.
    Delete(Vec<RouteSelector>),
    /// These are all routes.
    Replace(Vec<WireRoute>),
}

/// Which routes of a cluster to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteSelector {
    /// The route with this id.
    Id(RouteId),
    /// Every route that agrees in all that is given.
    Like {
        /// As displayed, in normal form; empty: the cluster's own name.
        host: String,
        /// The path, byte for byte.
        path: String,
        /// Any, if not given.
        path_type: Option<PathType>,
        /// Any, if not given.
        service: Option<String>,
        /// Any, if not given.
        namespace: Option<String>,
    },
}

impl RouteSelector {
    /// Whether `route` is to be removed.
    #[must_use]
    pub fn selects(&self, route: &Route) -> bool {
        match self {
            Self::Id(id) => route.id == *id,
            Self::Like {
                host,
                path,
                path_type,
                service,
                namespace,
            } => {
                route.host_text() == *host
                    && route.path == *path
                    && path_type.is_none_or(|wanted| wanted == route.path_type)
                    && service
                        .as_ref()
                        .is_none_or(|wanted| *wanted == route.service)
                    && namespace
                        .as_ref()
                        .is_none_or(|wanted| *wanted == route.namespace)
            }
        }
    }
}

impl From<WireRoute> for RouteSelector {
    fn from(wire: WireRoute) -> Self {
        if let Some(id) = wire.id {
            return Self::Id(id);
        }
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let host = given(wire.host).unwrap_or_default();
        // An invalid host stays as it is: no route has it, so nothing is removed.
        let host = HostPattern::parse(&host, WildcardMode::OneLabel)
            .map_or(host, |pattern| pattern.to_string());
        let path_type = given(wire.path_type);
        Self::Like {
            host,
            path: given(wire.path).unwrap_or_else(|| "/".to_owned()),
            path_type: path_type.and_then(|text| serde_json::from_value(text.into()).ok()),
            service: given(wire.service),
            namespace: given(wire.namespace),
        }
    }
}

/// A route from outside, checked; one that is none still has an id to be refused under.
pub(super) enum Parsed {
    Route(Route),
    Refused(RouteId, RefusedReason),
}

impl Parsed {
    pub(super) fn id(&self) -> RouteId {
        match self {
            Self::Route(route) => route.id,
            Self::Refused(id, _) => *id,
        }
    }
}

pub(super) fn parse(wire: WireRoute) -> Parsed {
    let id = wire.id.unwrap_or_else(|| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        RouteId::of(
            &text(&wire.source),
            &text(&wire.host),
            &text(&wire.path),
            PathType::default(),
        )
    });
    match Route::try_from(wire) {
        Ok(route) => Parsed::Route(route),
        Err(reason) => Parsed::Refused(id, reason),
    }
}
