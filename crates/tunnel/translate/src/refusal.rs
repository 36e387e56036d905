//! Why a rule of an Ingress is not served, in words for its author. Holds data; may not decide.

use std::fmt;

use serde::Serialize;

use crate::objects::Key;

/// One rule that is not served; the rest of its Ingress is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The Ingress.
    pub object: Key,
    /// Its `metadata.uid`, which an Event needs; absent for manifests.
    pub uid: Option<String>,
    /// Where in the Ingress, as a field path: `spec.rules[1].http.paths[0]`.
    pub rule: String,
    /// The kind of fault.
    pub reason: RefusalReason,
    /// What is wrong and what to do, for people.
    pub message: String,
}

/// Kinds of fault; the name is the `reason` of a Kubernetes Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum RefusalReason {
    /// The host is not a host name or a wildcard of one label.
    InvalidHost,
    /// The path is missing, not absolute or cannot occur in a request.
    InvalidPath,
    /// `pathType` is missing or not one of Kubernetes' three.
    InvalidPathType,
    /// The backend names no Service or no usable port.
    InvalidBackend,
    /// A rule without paths in an Ingress without `defaultBackend`.
    NoBackend,
    /// The backend is a resource, not a Service.
    ResourceBackend,
    /// The Service points outside the cluster.
    ExternalName,
    /// The Service does not exist (yet).
    ServiceNotFound,
    /// The Service has no such TCP port.
    ServicePortNotFound,
    /// The Service port asks for a protocol that is not spoken to backends.
    UnsupportedProtocol,
    /// An older Ingress or an earlier rule serves the same host and path.
    PathConflict,
}

impl RefusalReason {
    /// The stable name, CamelCase.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidHost => "InvalidHost",
            Self::InvalidPath => "InvalidPath",
            Self::InvalidPathType => "InvalidPathType",
            Self::InvalidBackend => "InvalidBackend",
            Self::NoBackend => "NoBackend",
            Self::ResourceBackend => "ResourceBackend",
            Self::ExternalName => "ExternalName",
            Self::ServiceNotFound => "ServiceNotFound",
            Self::ServicePortNotFound => "ServicePortNotFound",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
            Self::PathConflict => "PathConflict",
        }
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A fault before it is known whose it is.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) at: String,
    pub(crate) reason: RefusalReason,
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(
        at: impl Into<String>,
        reason: RefusalReason,
        message: impl Into<String>,
    ) -> Self {
        Self {
            at: at.into(),
            reason,
            message: message.into(),
        }
    }

    pub(crate) fn of(self, object: &Key, uid: Option<&str>) -> Refusal {
        Refusal {
            object: object.clone(),
            uid: uid.map(str::to_owned),
            rule: self.at,
            reason: self.reason,
            message: self.message,
        }
    }
}
