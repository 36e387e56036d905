//! Why a route is not served, as a stable code and as advice. May not name other clusters: a loser is not told who won.

use serde::{Deserialize, Serialize};

/// Why a route was refused. The snake_case code is part of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedReason {
    /// No granted pattern of the cluster covers the host.
    HostNotGranted,
    /// Another cluster claimed the host first.
    HostOwnedByOther,
    /// The host is, or would take in, another cluster's own name.
    ReservedName,
    /// The host is neither a name nor a wildcard.
    InvalidHost,
    /// The path does not start with a slash, is too long or can match no request.
    InvalidPath,
    /// The path type is none of the three.
    InvalidPathType,
    /// The port is not 1 to 65535, or is missing.
    InvalidPort,
    /// The service or its namespace is missing or no Kubernetes name.
    InvalidService,
    /// The backend protocol is not known.
    InvalidProtocol,
    /// The source is too long.
    InvalidSource,
    /// The annotations are too large.
    AnnotationsTooLarge,
    /// The cluster has as many routes as it may have.
    TooManyRoutes,
    /// A code of a newer peer; its message says more.
    #[serde(other)]
    Other,
}

impl RefusedReason {
    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::HostNotGranted => "host_not_granted",
            Self::HostOwnedByOther => "host_owned_by_other",
            Self::ReservedName => "reserved_name",
            Self::InvalidHost => "invalid_host",
            Self::InvalidPath => "invalid_path",
            Self::InvalidPathType => "invalid_path_type",
            Self::InvalidPort => "invalid_port",
            Self::InvalidService => "invalid_service",
            Self::InvalidProtocol => "invalid_protocol",
            Self::InvalidSource => "invalid_source",
            Self::AnnotationsTooLarge => "annotations_too_large",
            Self::TooManyRoutes => "too_many_routes",
            Self::Other => "other",
        }
    }

    /// What is wrong and what to do about it, for the owner of the route.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::HostNotGranted => {
                "this cluster is not granted the host; ask the edge's administrator to grant a pattern that covers it, or use a host under the cluster's own name"
            }
            Self::HostOwnedByOther => {
                "another cluster claimed this host first; the route is served as soon as that claim ends, or choose another host"
            }
            Self::ReservedName => {
                "this host is, or would take in, another cluster's own name; use a host under this cluster's own name or under a granted domain of its own"
            }
            Self::InvalidHost => {
                "the host is not a valid name; use a name such as app.example.com, or *.example.com, without port or IP address"
            }
            Self::InvalidPath => {
                "the path must start with /, have at most 4096 bytes and no dot segments, backslashes, NUL, query or fragment"
            }
            Self::InvalidPathType => {
                "the path type must be Exact, Prefix or ImplementationSpecific"
            }
            Self::InvalidPort => "the port must be a number from 1 to 65535",
            Self::InvalidService => {
                "the service and its namespace must be Kubernetes names: 1 to 63 lower-case letters, digits and hyphens"
            }
            Self::InvalidProtocol => "the backend protocol must be http or h2c",
            Self::InvalidSource => "the source must have at most 512 bytes",
            Self::AnnotationsTooLarge => {
                "the annotations have more than 16384 bytes; remove some, or shorten them"
            }
            Self::TooManyRoutes => {
                "this cluster has as many routes as it may have; remove routes, or ask the edge's administrator for a higher limit"
            }
            Self::Other => {
                "the other end gives a reason that this version does not know; see its message"
            }
        }
    }
}

impl std::fmt::Display for RefusedReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_the_wire_form_and_unknown_codes_are_read() {
        for reason in [
            RefusedReason::HostNotGranted,
            RefusedReason::HostOwnedByOther,
            RefusedReason::ReservedName,
            RefusedReason::InvalidHost,
            RefusedReason::InvalidPath,
            RefusedReason::InvalidPathType,
            RefusedReason::InvalidPort,
            RefusedReason::InvalidService,
            RefusedReason::InvalidProtocol,
            RefusedReason::InvalidSource,
            RefusedReason::AnnotationsTooLarge,
            RefusedReason::TooManyRoutes,
            RefusedReason::Other,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.code());
            assert_eq!(
                serde_json::from_value::<RefusedReason>(reason.code().into()).unwrap(),
                reason
            );
        }
        assert_eq!(
            serde_json::from_str::<RefusedReason>("\"from_the_future\"").unwrap(),
            RefusedReason::Other
        );
    }
}
