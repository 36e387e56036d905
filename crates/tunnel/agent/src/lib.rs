//! The agent: dials edges, watches objects and forwards users' requests to Services. It may not
//! listen for users, and it changes nothing in a cluster but the status and events of Ingresses.
//!
//! ```text
//!   source ─► translate ─┬─► targets ──────────────► forward (each stream of each connection)
//!                        └─► routes ─► control session of each edge ─► refusals ─► report
//! ```

mod backoff;
mod config;
mod control;
mod dialler;
mod error;
mod forward;
mod health;
mod pool;
#[cfg(feature = "kubernetes")]
pub mod report;
mod shared;
pub mod source;
mod table;
mod trust;

use std::sync::Arc;
use std::time::Duration;

use gatewright_link::Limits;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{
    AgentConfig, AgentLimits, AgentTimeouts, KubernetesSettings, NetworkMode, SourceSettings,
};
pub use error::Error;
pub use shared::{AgentStatus, Offered};

use shared::Shared;
use source::{Source, SourceConfig};

/// A running agent.
pub struct Agent {
    shared: Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Agent {
    /// Reads the credential and the first complete set of objects, and starts dialling. Edges that
    /// cannot be reached are no error; they are dialled until they can.
    ///
    /// # Errors
    /// When a file of the configuration is of no use, or the source cannot be read.
    pub async fn start(config: AgentConfig) -> Result<Self, Error> {
        let source_config = source_config(&config.source)?;
        dialler::authorization(&config.token_file)?;
        let tls = trust::client_config(config.ca_file.as_deref())?;
        let cancel = CancellationToken::new();
        let tasks = TaskTracker::new();
        let source = source::start(&source_config, cancel.clone(), &tasks)
            .await
            .map_err(Error::Source)?;
        let shared = Arc::new(Shared::new(config, tls, &source, cancel, tasks)?);
        shared.translate(&source);
        shared
            .tasks
            .spawn(shared::follow(Arc::clone(&shared), source.objects.clone()));
        report_to_cluster(&shared, &source);
        if let Some(address) = shared.config.health {
            health::serve(&shared, address).await?;
        }
        let mut threads = Vec::new();
        for slot in 0..shared.config.connections.max(1) {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new()
                .name(format!("agent-{slot}"))
                .spawn(move || dialler::run(&shared, slot))
                .map_err(Error::Thread)?;
            threads.push(thread);
        }
        Ok(Self { shared, threads })
    }

    /// What people and health checks may know.
    pub fn status(&self) -> watch::Receiver<AgentStatus> {
        self.shared.status.subscribe()
    }

    /// The routes that the agent offers now.
    pub fn offered(&self) -> watch::Receiver<Vec<Offered>> {
        self.shared.offered.subscribe()
    }

    /// Tells the edges to send nothing more, waits for what is under way (at most
    /// `timeouts.drain`), and ends.
    pub async fn drain(self) {
        self.shared.drain.cancel();
        let limit = self.shared.config.timeouts.drain + Duration::from_secs(1);
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A thread that panicked has said so already.
                let _ = thread.join();
            }
        });
        if tokio::time::timeout(limit, joined).await.is_err() {
            tracing::warn!("some requests were not over in time");
        }
        self.shared.cancel.cancel();
        self.shared.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(5), self.shared.tasks.wait()).await;
    }
}

fn source_config(settings: &SourceSettings) -> Result<SourceConfig, Error> {
    match (&settings.directory, &settings.kubernetes) {
        (Some(directory), None) => Ok(SourceConfig::Directory(directory.clone())),
        #[cfg(feature = "kubernetes")]
        (None, Some(kubernetes)) => Ok(SourceConfig::Kubernetes(source::KubernetesSource {
            kubeconfig: kubernetes.kubeconfig.clone(),
            context: kubernetes.context.clone(),
            namespaces: kubernetes.namespaces.clone(),
        })),
        #[cfg(not(feature = "kubernetes"))]
        (None, Some(_)) => Err(Error::NoKubernetes),
        (None, None) | (Some(_), Some(_)) => Err(Error::OneSource),
    }
}

#[cfg(feature = "kubernetes")]
fn report_to_cluster(shared: &Arc<Shared>, source: &Source) {
    if let Some(client) = source.client.clone() {
        let objects = source.objects.clone();
        shared
            .tasks
            .spawn(shared::report(Arc::clone(shared), client, objects));
    }
}

#[cfg(not(feature = "kubernetes"))]
fn report_to_cluster(_: &Arc<Shared>, _: &Source) {}

/// Sizes and times of the agent's connections.
fn link_limits(config: &AgentConfig) -> Limits {
    Limits {
        max_streams: config.limits.streams,
        ..Limits::default()
    }
}
