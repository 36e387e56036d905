//! Where the agent's objects come from: a folder of manifests, or the Kubernetes API. May not
//! interpret the objects; it keeps the newest complete set of them.

mod directory;
mod error;
mod files;
#[cfg(feature = "kubernetes")]
pub(crate) mod kubernetes;
mod manifest;
#[cfg(feature = "kubernetes")]
mod shelf;
mod watching;

pub use error::SourceError;

use gatewright_translate::Objects;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Which source to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceConfig {
    /// Every `*.yaml`, `*.yml` and `*.json` file in this folder and the folders in it.
    Directory(PathBuf),
    /// The Kubernetes API.
    #[cfg(feature = "kubernetes")]
    Kubernetes(KubernetesSource),
}

/// Which cluster, and which part of it.
#[cfg(feature = "kubernetes")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubernetesSource {
    /// A kubeconfig file. Absent: `KUBECONFIG`, `~/.kube/config`, then the Pod's ServiceAccount.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig. Absent: its current one.
    pub context: Option<String>,
    /// The namespaces to watch. Empty: all of them.
    pub namespaces: Vec<String>,
}

/// A running source. It stops with the token it was started with.
pub struct Source {
    /// The newest complete set of objects. Objects that did not change are shared with the set
    /// before.
    pub objects: watch::Receiver<Arc<Objects>>,
    /// What is wrong with the source right now; empty when all is well. Sorted.
    pub problems: watch::Receiver<Vec<Problem>>,
    /// The version of the apiserver, `v1.33.1` for instance; `None` for a folder, or if the
    /// apiserver does not tell.
    pub kubernetes_version: Option<String>,
    /// The client of a Kubernetes source, for reports back to the objects; `None` for a folder.
    #[cfg(feature = "kubernetes")]
    pub client: Option<kube::Client>,
}

/// Something that does not work, while the rest does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// A file, an object, or a kind of objects.
    pub place: String,
    /// The line in the file, from 1.
    pub line: Option<u64>,
    /// What is wrong, and what is done about it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.place, self.message),
            None => write!(f, "{}: {}", self.place, self.message),
        }
    }
}

/// Starts a source; resolves when the first complete set of objects is there.
///
/// # Errors
/// [`SourceError`] when there is no such first set: the folder or one of its manifests cannot be
/// read, the credentials do not suffice, or `cancel` came first. An apiserver that cannot be
/// reached is no error: it is waited for.
pub async fn start(
    config: &SourceConfig,
    cancel: CancellationToken,
    tasks: &TaskTracker,
) -> Result<Source, SourceError> {
    match config {
        SourceConfig::Directory(path) => directory::start(path, cancel, tasks).await,
        #[cfg(feature = "kubernetes")]
        SourceConfig::Kubernetes(config) => kubernetes::start(config, cancel, tasks).await,
    }
}

/// Publishes what is wrong now; what is new or over is logged once.
fn publish_problems(sender: &watch::Sender<Vec<Problem>>, mut now: Vec<Problem>) {
    now.sort();
    now.dedup();
    sender.send_if_modified(|before| {
        if *before == now {
            return false;
        }
        for problem in now.iter().filter(|problem| !before.contains(problem)) {
            tracing::warn!(place = problem.place, line = problem.line, "{problem}");
        }
        let over = |place: &str| !now.iter().any(|problem| problem.place == place);
        for problem in before.iter().filter(|problem| over(&problem.place)) {
            tracing::info!(place = problem.place, "{} is well again", problem.place);
        }
        *before = now;
        true
    });
}

/// Publishes a set, unless it is the one that is already there.
fn publish_objects(sender: &watch::Sender<Arc<Objects>>, objects: Objects) {
    sender.send_if_modified(|before| {
        let changed = !same(before, &objects);
        if changed {
            *before = Arc::new(objects);
        }
        changed
    });
}

/// Whether two sets are the same objects; unchanged ones are shared, so the pointers tell.
fn same(a: &Objects, b: &Objects) -> bool {
    fn same<K: PartialEq, V>(a: &BTreeMap<K, Arc<V>>, b: &BTreeMap<K, Arc<V>>) -> bool {
        let pairs = a.iter().zip(b);
        a.len() == b.len()
            && pairs
                .into_iter()
                .all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1))
    }
    same(&a.ingresses, &b.ingresses)
        && same(&a.classes, &b.classes)
        && same(&a.services, &b.services)
        && same(&a.slices, &b.slices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_like_a_compilers_message() {
        let mut problem = Problem {
            place: "web.yaml".into(),
            line: Some(3),
            message: "no".into(),
        };
        assert_eq!(problem.to_string(), "web.yaml:3: no");
        problem.line = None;
        assert_eq!(problem.to_string(), "web.yaml: no");
    }
}
