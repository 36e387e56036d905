//! Why a source cannot start. May not print the cause: the chain is printed once, by `cli`.

use super::Problem;
use std::path::PathBuf;

/// Why there is no first set of objects.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The folder is missing, is no folder, or may not be read.
    #[error("cannot read the manifest directory {}: it must be a directory that this user may read", path.display())]
    Directory {
        /// The folder as configured.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A manifest is wrong: `file:line: what`.
    #[error("{0}")]
    Manifest(Problem),
    /// The kernel refuses to tell about changes.
    #[error(
        "cannot watch the manifest directory {} for changes: the limits fs.inotify.max_user_watches or max_user_instances may be reached, raise them with sysctl",
        path.display()
    )]
    Watch {
        /// The folder as configured.
        path: PathBuf,
        /// Why.
        #[source]
        source: notify::Error,
    },
    /// The credentials or the address of the cluster are unusable.
    #[cfg(feature = "kubernetes")]
    #[error("cannot use the Kubernetes API as a source")]
    Client(#[source] gatewright_controller::Error),
    /// The apiserver refuses to list a kind.
    #[cfg(feature = "kubernetes")]
    #[error(
        "the agent's ServiceAccount may not list and watch {resource} {scope}: apply deploy/agent.yaml, or give it a role with get, list and watch on them"
    )]
    Forbidden {
        /// `ingresses.networking.k8s.io`.
        resource: String,
        /// `in all namespaces` or `in namespace shop`.
        scope: String,
        /// The apiserver's answer.
        #[source]
        source: Box<kube::runtime::watcher::Error>,
    },
    /// The apiserver does not accept the credentials.
    #[cfg(feature = "kubernetes")]
    #[error(
        "the apiserver does not accept the agent's credentials: check the kubeconfig's user or the Pod's ServiceAccount token"
    )]
    Unauthorized(#[source] Box<kube::runtime::watcher::Error>),
    /// The token was cancelled before the first set was complete.
    #[error("stopped before the first objects were read")]
    Cancelled,
    /// A task of the source panicked.
    #[error(
        "reading the source ended unexpectedly: this is a fault of the agent, please report it"
    )]
    Broken(#[source] tokio::task::JoinError),
}
