//! What an agent is told: edges, credential, source. Values and their checks only.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use gatewright_link::Endpoint;
use serde::Deserialize;

/// `agent.yaml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Where to dial; the agent keeps connections to all of them.
    #[serde(deserialize_with = "endpoints")]
    pub edges: Vec<Endpoint>,
    /// File with the cluster's token. Read again at each dial, so that a rotation needs no restart.
    pub token_file: PathBuf,
    /// Where routes come from.
    pub source: SourceSettings,
    /// Connections to each edge, each with a thread of its own.
    #[serde(default = "two")]
    pub connections: u32,
    /// Certificates to trust besides the system's, PEM.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// What this agent calls itself; the host's name and a random part when absent.
    #[serde(default)]
    pub name: Option<String>,
    /// Ingress classes to take; all when absent.
    #[serde(default)]
    pub ingress_classes: Option<Vec<String>>,
    /// Whether the cluster can be reached without a tunnel.
    #[serde(default)]
    pub network: NetworkMode,
    /// Times.
    #[serde(default)]
    pub timeouts: AgentTimeouts,
    /// Sizes.
    #[serde(default)]
    pub limits: AgentLimits,
    /// Where to answer health checks; nowhere when absent.
    #[serde(default)]
    pub health: Option<std::net::SocketAddr>,
}

impl AgentConfig {
    /// The keys of the top level.
    pub const KEYS: &[&str] = &[
        "edges",
        "token_file",
        "source",
        "connections",
        "ca_file",
        "name",
        "ingress_classes",
        "network",
        "timeouts",
        "limits",
        "health",
    ];
}

/// Where an agent's routes come from; exactly one of them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSettings {
    /// A folder of manifests.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// A cluster's API server.
    #[serde(default)]
    pub kubernetes: Option<KubernetesSettings>,
}

/// How to reach the API server; all empty: as kubectl would, or as a pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesSettings {
    /// A kubeconfig file.
    pub kubeconfig: Option<PathBuf>,
    /// A context in it.
    pub context: Option<String>,
    /// Namespaces to watch; all when empty.
    pub namespaces: Vec<String>,
    /// Namespace of the agents' Lease; the pod's own when absent.
    pub lease_namespace: Option<String>,
}

/// Whether the cluster counts as private.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Private until a load balancer has a globally routable address, looked at all the time.
    #[default]
    Auto,
    /// Always offer routes.
    Private,
    /// Never offer routes.
    Public,
}

/// Times in seconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentTimeouts {
    /// For a connection to a backend.
    #[serde(deserialize_with = "seconds")]
    pub connect: Duration,
    /// For a backend's first byte, from the request's last.
    #[serde(deserialize_with = "seconds")]
    pub first_byte: Duration,
    /// Between heartbeats.
    #[serde(deserialize_with = "seconds")]
    pub heartbeat: Duration,
    /// For requests under way when the agent stops.
    #[serde(deserialize_with = "seconds")]
    pub drain: Duration,
}

impl Default for AgentTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(60),
            heartbeat: Duration::from_secs(30),
            drain: Duration::from_secs(30),
        }
    }
}

/// Sizes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentLimits {
    /// Requests at once on one connection to an edge.
    pub streams: u32,
    /// Kept-alive connections to one backend that idle, for each thread.
    pub idle_backends: usize,
}

impl Default for AgentLimits {
    fn default() -> Self {
        Self {
            streams: 1024,
            idle_backends: 128,
        }
    }
}

fn two() -> u32 {
    2
}

fn endpoints<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Endpoint>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    if texts.is_empty() {
        return Err(serde::de::Error::custom("at least one edge is needed"));
    }
    texts
        .iter()
        .map(|text| Endpoint::from_str(text).map_err(serde::de::Error::custom))
        .collect()
}

fn seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    if seconds > 0.0 && seconds <= 86_400.0 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(serde::de::Error::custom(
            "a time must be above 0 and at most 86400 seconds",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_those_that_are_read() {
        let error = serde_json::from_str::<AgentConfig>(r#"{"x": 1}"#)
            .unwrap_err()
            .to_string();
        let named: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
        assert_eq!(named, AgentConfig::KEYS);
    }

    #[test]
    fn an_address_that_is_none_is_refused_with_the_reason() {
        for (edges, why) in [
            (r#"[]"#, "at least one edge"),
            (r#"["http://a"]"#, "its scheme is unknown"),
            (r#"["a:80"]"#, "it has no scheme"),
            (r#"["tls://a"]"#, "it has no port"),
            (r#"["ws://a/x"]"#, "more than a host and a port"),
        ] {
            let text = format!(r#"{{"edges": {edges}, "token_file": "t", "source": {{}}}}"#);
            let error = serde_json::from_str::<AgentConfig>(&text)
                .unwrap_err()
                .to_string();
            assert!(error.contains(why), "{edges}: {error}");
        }
    }
}
