//! What can go wrong between a controller and the apiserver. May not print the cause: the chain is
//! printed once, by whoever ends the operation.

use std::path::PathBuf;

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One failure, in terms of what we were doing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig that was named is missing, malformed, or lacks the context asked for.
    #[error(
        "cannot use the kubeconfig {}{}: check that the file exists and names that context, a cluster and a user",
        path.display(),
        context.as_ref().map(|context| format!(" (context {context:?})")).unwrap_or_default()
    )]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The context asked for, if any.
        context: Option<String>,
        /// Why.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// Neither a kubeconfig nor a Pod's ServiceAccount is there.
    #[error(
        "found no access to a Kubernetes cluster: set `kubeconfig`, set KUBECONFIG, or run in a Pod with a ServiceAccount"
    )]
    NoCluster(#[source] Box<kube::config::InferConfigError>),
    /// The configuration names certificates or a proxy that cannot be used.
    #[error("cannot set up a client for the Kubernetes API at {server}")]
    Client {
        /// The address of the apiserver.
        server: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The apiserver forbids it.
    #[error(
        "the apiserver forbids to {action}: the ServiceAccount lacks a rule for it, compare its roles with the manifests in deploy/"
    )]
    Forbidden {
        /// Verb and object, for instance `apply the status of Ingress default/web`.
        action: String,
        /// The apiserver's answer.
        #[source]
        source: Answer,
    },
    /// The apiserver refused, or could not be reached.
    #[error("cannot {action}")]
    Api {
        /// Verb and object, for instance `apply the status of Ingress default/web`.
        action: String,
        /// The apiserver's answer, or why there was none.
        #[source]
        source: Answer,
    },
    /// An object to write has no name or namespace, or is not a JSON object.
    #[error("cannot {action}: the object lacks its name or namespace")]
    Unnamed {
        /// Verb and kind.
        action: String,
    },
    /// An object could not be written as JSON.
    #[error("cannot {action}: the object is not representable as JSON")]
    Encode {
        /// Verb and object.
        action: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A CRD in the cluster has stored versions that ours lacks.
    #[error(
        "will not replace the CRD {crd}: objects may still be stored as {versions}, which this release does not have any more; rewrite each object once (kubectl get -o json | kubectl replace -f -) with the release that wrote them, remove {versions} from the CRD's status.storedVersions, and start again"
    )]
    StoredVersions {
        /// Its name, plural and group.
        crd: String,
        /// The versions, with commas.
        versions: String,
    },
    /// A CRD was applied, but the apiserver does not serve it.
    #[error("the CRD {crd} is not established after {seconds} s: {why}")]
    NotEstablished {
        /// Its name, plural and group.
        crd: String,
        /// How long we waited.
        seconds: u64,
        /// What its conditions say.
        why: String,
    },
    /// Keys or certificates cannot be made or used.
    #[error("cannot {action}")]
    Certificate {
        /// Verb and object.
        action: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// This process does not hold the lease, or lost it before the write was answered.
    #[error("did not {action}: another replica holds the lease, or ours ran out")]
    NotHolder {
        /// Verb and object.
        action: String,
    },
}

impl Error {
    /// Wraps what the client says about `action` (a verb and an object).
    pub fn api(action: &str, source: kube::Error) -> Self {
        let (action, source) = (action.to_owned(), Answer(Box::new(source)));
        match source.0.as_ref() {
            kube::Error::Api(status) if status.is_forbidden() => {
                // Deleting a namespace forbids creation in it with 403 too; that is no missing rule.
                if has_cause(status, "NamespaceTerminating") {
                    Self::Api { action, source }
                } else {
                    Self::Forbidden { action, source }
                }
            }
            _ => Self::Api { action, source },
        }
    }

    /// What the apiserver answered, if it did.
    #[must_use]
    pub fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Api { source, .. } | Self::Forbidden { source, .. } => match source.0.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Kubeconfig { .. }
            | Self::NoCluster(_)
            | Self::Client { .. }
            | Self::Unnamed { .. }
            | Self::Encode { .. }
            | Self::StoredVersions { .. }
            | Self::NotEstablished { .. }
            | Self::Certificate { .. }
            | Self::NotHolder { .. } => None,
        }
    }

    /// Whether the ServiceAccount lacks a rule for it.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden { .. })
    }

    /// Whether the object is gone, so that there is nothing left to do about it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.status().is_some_and(|status| {
            status.is_not_found() || has_cause(status, "NamespaceTerminating")
        })
    }

    /// Whether there is no such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_not_found)
    }

    /// Whether the object has changed since it was seen, or is another one: look again.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_conflict)
    }

    /// Whether an object of that name is there already.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.status()
            .is_some_and(kube::core::Status::is_already_exists)
    }

    /// Whether the apiserver finds the content wrong.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_invalid)
    }

    /// One word for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Kubeconfig { .. } | Self::NoCluster(_) | Self::Client { .. } => "configuration",
            Self::Forbidden { .. } => "forbidden",
            Self::Unnamed { .. } | Self::Encode { .. } => "encoding",
            Self::StoredVersions { .. } | Self::NotEstablished { .. } => "crd",
            Self::Certificate { .. } => "certificate",
            Self::NotHolder { .. } => "not_holder",
            Self::Api { .. } => match self.status() {
                None => "unreachable",
                Some(_) if self.is_gone() => "gone",
                Some(_) if self.is_conflict() => "conflict",
                Some(_) if self.is_invalid() => "invalid",
                Some(_) => "apiserver",
            },
        }
    }

    /// Whether the reason is that another replica is the one that writes.
    #[must_use]
    pub fn is_not_holder(&self) -> bool {
        matches!(self, Self::NotHolder { .. })
    }
}

/// What the client says about a request. kube prints a refusal three times, once as the structure it
/// came in; here it is the apiserver's sentence.
#[derive(Debug)]
pub struct Answer(Box<kube::Error>);

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_ref() {
            kube::Error::Api(status) => f.write_str(status.message.trim_end()),
            other => other.fmt(f),
        }
    }
}

impl std::error::Error for Answer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self.0.as_ref() {
            kube::Error::Api(_) => None,
            other => other.source(),
        }
    }
}

/// Looks into the machine-readable details of a `Status`.
fn has_cause(status: &kube::core::Status, reason: &str) -> bool {
    status
        .details
        .as_ref()
        .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == reason))
}
