//! The edge's metrics, read from the counters when they are asked for. Nothing here runs for a request.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::clusters::{Cluster, ClusterStats, Clusters};

/// Content type of [`Metrics::render`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of an edge.
pub(crate) struct Metrics {
    counters: Arc<Counters>,
    registry: Registry,
}

/// Counters that belong to no cluster.
#[derive(Debug, Default)]
struct Counters {
    no_cluster: ClusterStats,
    control_errors: Mutex<BTreeMap<&'static str, u64>>,
    rejected_agents: AtomicU64,
    dropped_log_lines: Arc<AtomicU64>,
}

impl Metrics {
    /// Metrics over these clusters.
    #[must_use]
    pub(crate) fn new(clusters: Arc<Clusters>) -> Self {
        let counters = Arc::new(Counters::default());
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape {
            clusters,
            counters: Arc::clone(&counters),
        }));
        Self { counters, registry }
    }

    /// Counts a request whose host no cluster has, under `cluster_uuid=""`.
    pub(crate) fn record_unrouted(&self, status: u16, duration: Duration) {
        self.counters.no_cluster.record(status, duration);
    }

    /// Counts a control message that could not be obeyed, by a stable code of ours.
    pub(crate) fn count_control(&self, code: &'static str) {
        let mut counts = self
            .counters
            .control_errors
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *counts.entry(code).or_default() += 1;
    }

    /// Where the access log counts lines that it had to drop.
    #[must_use]
    pub(crate) fn dropped_log_lines(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.counters.dropped_log_lines)
    }

    /// Counts an agent that came without a valid token.
    pub(crate) fn agent_rejected(&self) {
        self.counters.rejected_agents.fetch_add(1, Relaxed);
    }

    /// The metrics as OpenMetrics text.
    #[must_use]
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail, so neither can this.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

struct Scrape {
    clusters: Arc<Clusters>,
    counters: Arc<Counters>,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let clusters = self.clusters.all();
        let stats = || {
            let unnamed = ("", &self.counters.no_cluster);
            std::iter::once(unnamed).chain(
                clusters
                    .iter()
                    .map(|cluster| (cluster.id.as_str(), &cluster.stats)),
            )
        };

        // The suffix `_total` of counters is added by the encoder.
        let mut family = encoder.encode_descriptor(
            "gateway_requests",
            "Requests answered, by cluster and status.",
            None,
            MetricType::Counter,
        )?;
        for (uuid, stats) in stats() {
            for (status, count) in stats.by_status() {
                let labels = [
                    ("cluster_uuid", uuid.to_owned()),
                    ("status_code", status.to_string()),
                ];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }

        let mut family = encoder.encode_descriptor(
            "gateway_request_duration_seconds",
            "Time from a request's head to the end of its response.",
            None,
            MetricType::Histogram,
        )?;
        for (uuid, stats) in stats() {
            let durations = stats.durations();
            if durations.count > 0 {
                family
                    .encode_family(&[("cluster_uuid", uuid)])?
                    .encode_histogram::<[(&str, &str); 0]>(
                        durations.sum,
                        durations.count,
                        &durations.buckets,
                        None,
                    )?;
            }
        }

        gauge(
            &mut encoder,
            &clusters,
            "gateway_active_routes",
            "Routes that requests can reach.",
            |cluster| cluster.stats.active_routes(),
        )?;
        gauge(
            &mut encoder,
            &clusters,
            "gateway_tunnel_health",
            "1 while a tunnel of the cluster takes requests, else 0.",
            |cluster| u64::from(cluster.connections.usable() > 0),
        )?;

        let mut family = encoder.encode_descriptor(
            "gatewright_control_errors",
            "Control messages that could not be obeyed, by what was wrong.",
            None,
            MetricType::Counter,
        )?;
        let counts = self
            .counters
            .control_errors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for (code, count) in counts {
            ConstCounter::new(count).encode(family.encode_family(&[("code", code)])?)?;
        }

        ConstCounter::new(self.counters.rejected_agents.load(Relaxed)).encode(
            encoder.encode_descriptor(
                "gatewright_rejected_agents",
                "Agents turned away for want of a valid token.",
                None,
                MetricType::Counter,
            )?,
        )?;

        ConstCounter::new(self.counters.dropped_log_lines.load(Relaxed)).encode(
            encoder.encode_descriptor(
                "gatewright_access_log_dropped",
                "Lines of the access log dropped because the writer fell behind.",
                None,
                MetricType::Counter,
            )?,
        )?;

        let mut family = encoder.encode_descriptor(
            "gatewright_build_info",
            "1, with the running version as labels.",
            None,
            MetricType::Gauge,
        )?;
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("component", "edge"),
        ];
        ConstGauge::new(1_u64).encode(family.encode_family(&labels)?)
    }
}

/// One gauge with a value for each cluster.
fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    clusters: &[Arc<Cluster>],
    name: &str,
    help: &str,
    value: impl Fn(&Cluster) -> u64,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for cluster in clusters {
        let labels = [("cluster_uuid", cluster.id.as_str())];
        ConstGauge::new(value(cluster)).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clusters::NewCluster;
    use crate::config::StoreConfig;

    #[tokio::test]
    async fn the_text_is_as_specified() {
        let folder = tempfile::tempdir().unwrap();
        let domain = gatewright_names::Hostname::parse("gateway.localhost").unwrap();
        let clusters = Clusters::open(
            &StoreConfig {
                path: folder.path().to_owned(),
            },
            &domain,
        )
        .unwrap();
        let new = NewCluster {
            name: "demo".to_owned(),
            tenant: None,
            hosts: Vec::new(),
        };
        let (record, _) = clusters.create(new).await.unwrap();
        let metrics = Metrics::new(Arc::clone(&clusters));
        let cluster = clusters.view("demo").unwrap().cluster;
        cluster.stats.record(200, Duration::from_millis(2));
        cluster.stats.record(200, Duration::from_millis(250));
        cluster.stats.record(503, Duration::from_secs(90));
        metrics.record_unrouted(404, Duration::from_micros(500));
        metrics.count_control("not_a_message");
        metrics.count_control("not_a_message");
        let text = metrics
            .render()
            .replace(record.id.as_str(), "UUID")
            .replace(env!("CARGO_PKG_VERSION"), "VERSION");
        let golden = std::path::Path::new("src/metrics.golden");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(golden, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(golden).unwrap());
    }
}
