//! Where the Kubernetes API is and who we are there. May not send a request.

use crate::error::{Error, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::path::PathBuf;
use std::time::Duration;

/// How to find the apiserver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig file. Absent: `KUBECONFIG`, `~/.kube/config`, then the Pod's ServiceAccount.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig. Absent: its current one.
    pub context: Option<String>,
}

/// Builds a client; no connection is opened before the first request.
///
/// # Errors
/// [`Error::Kubeconfig`], [`Error::NoCluster`] or [`Error::Client`], each naming what to change.
pub async fn connect(access: &Access) -> Result<Client> {
    let mut config = config(access).await?;
    // A dead apiserver shows within seconds; what it sends is bounded by the requests themselves.
    config.connect_timeout = Some(Duration::from_secs(10));
    let server = config.cluster_url.to_string();
    Client::try_from(config).map_err(|source| Error::Client {
        server,
        source: Box::new(source),
    })
}

async fn config(access: &Access) -> Result<Config> {
    let options = KubeConfigOptions {
        context: access.context.clone(),
        ..KubeConfigOptions::default()
    };
    let (path, loaded) = match (&access.kubeconfig, &access.context) {
        (Some(path), _) => {
            let loaded = match Kubeconfig::read_from(path) {
                Ok(file) => Config::from_custom_kubeconfig(file, &options).await,
                Err(error) => Err(error),
            };
            (path.clone(), loaded)
        }
        (None, Some(_)) => {
            let path = PathBuf::from("$KUBECONFIG or ~/.kube/config");
            (path, Config::from_kubeconfig(&options).await)
        }
        (None, None) => {
            return Config::infer()
                .await
                .map_err(|source| Error::NoCluster(Box::new(source)));
        }
    };
    loaded.map_err(|source| Error::Kubeconfig {
        path,
        context: access.context.clone(),
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named() {
        let access = Access {
            kubeconfig: Some(PathBuf::from("/nonexistent/kubeconfig")),
            context: Some("staging".into()),
        };
        let text = connect(&access).await.err().expect("fails").to_string();
        assert!(text.contains("/nonexistent/kubeconfig"), "{text}");
        assert!(text.contains("staging"), "{text}");
    }
}
