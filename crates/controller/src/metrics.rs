//! What controllers count, in the OpenMetrics text format. May not decide anything.

use crate::lease::Leadership;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Content type of [`Metrics::encode`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of one process, and the registry that others add theirs to. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    reconciles: Family<Reconciled, Counter>,
    errors: Family<Failed, Counter>,
    durations: Family<Controller, Histogram, fn() -> Histogram>,
    queue: Family<Queued, Gauge>,
    writes: Family<Written, Counter>,
    admissions: Family<Admitted, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Controller {
    controller: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reconciled {
    controller: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failed {
    controller: String,
    category: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queued {
    controller: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Written {
    controller: String,
    kind: String,
    verb: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Admitted {
    webhook: String,
    result: &'static str,
}

/// How a reconciliation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Settled,
    Again,
    Error,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Again => "again",
            Self::Error => "error",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Metrics of nothing yet, but for `gatewright_build_info`.
    #[must_use]
    pub fn new() -> Self {
        let metrics = Self {
            registry: Arc::new(Mutex::new(Registry::with_prefix("gatewright"))),
            reconciles: Family::default(),
            errors: Family::default(),
            durations: Family::new_with_constructor(histogram),
            queue: Family::default(),
            writes: Family::default(),
            admissions: Family::default(),
        };
        metrics.register(|registry| {
            let version = ("version", env!("CARGO_PKG_VERSION"));
            registry.register("build", "What is running", Info::new(vec![version]));
            registry.register(
                "reconcile",
                "Reconciliations, by how they ended: settled, again (asked for another), error",
                metrics.reconciles.clone(),
            );
            registry.register(
                "reconcile_errors",
                "Reconciliations that failed, by the category of the error",
                metrics.errors.clone(),
            );
            registry.register(
                "reconcile_duration_seconds",
                "How long a reconciliation took",
                metrics.durations.clone(),
            );
            registry.register(
                "reconcile_queue",
                "Objects that are being reconciled (running) or wait after an error (failing)",
                metrics.queue.clone(),
            );
            registry.register(
                "api_writes",
                "Requests to the apiserver that write",
                metrics.writes.clone(),
            );
            registry.register(
                "admissions",
                "Admission reviews: allowed, denied, malformed, failed",
                metrics.admissions.clone(),
            );
        });
        metrics
    }

    /// Adds metrics to the registry; their names get the prefix `gatewright_`.
    pub fn register<T>(&self, add: impl FnOnce(&mut Registry) -> T) -> T {
        // A registry is whole between two registrations, also after a panic in one.
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds `gatewright_leader`: 1 while this replica holds the lease, read when it is asked for.
    pub fn observe_leadership(&self, leadership: Leadership) {
        self.register(|registry| registry.register_collector(Box::new(Leader(leadership))));
    }

    /// All metrics in the OpenMetrics text format, `application/openmetrics-text; version=1.0.0`.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::new();
        // Writing into a String does not fail.
        let written = self.register(|registry| text::encode(&mut out, registry));
        debug_assert!(written.is_ok());
        out
    }

    pub(crate) fn reconciled(&self, controller: &str, outcome: Outcome, took: Duration) {
        let controller = controller.to_owned();
        let labels = Controller {
            controller: controller.clone(),
        };
        self.durations
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
        let result = outcome.as_str();
        self.reconciles
            .get_or_create(&Reconciled { controller, result })
            .inc();
    }

    pub(crate) fn failed(&self, controller: &str, category: &str) {
        let labels = Failed {
            controller: controller.to_owned(),
            category: category.to_owned(),
        };
        self.errors.get_or_create(&labels).inc();
    }

    pub(crate) fn running(&self, controller: &str) -> Gauge {
        self.queue(controller, "running")
    }

    pub(crate) fn failing(&self, controller: &str) -> Gauge {
        self.queue(controller, "failing")
    }

    fn queue(&self, controller: &str, state: &'static str) -> Gauge {
        let controller = controller.to_owned();
        self.queue
            .get_or_create_owned(&Queued { controller, state })
    }

    pub(crate) fn wrote(&self, controller: &str, kind: &str, verb: &'static str) {
        let labels = Written {
            controller: controller.to_owned(),
            kind: kind.to_owned(),
            verb,
        };
        self.writes.get_or_create(&labels).inc();
    }

    pub(crate) fn admitted(&self, webhook: &str, result: &'static str) {
        let webhook = webhook.to_owned();
        self.admissions
            .get_or_create(&Admitted { webhook, result })
            .inc();
    }
}

/// From a few milliseconds (nothing to do) to minutes (a slow vendor).
fn histogram() -> Histogram {
    Histogram::new([
        0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
    ])
}

/// Whether we lead is asked when it is scraped: a claim runs out without anybody telling.
#[derive(Debug)]
struct Leader(Leadership);

impl Collector for Leader {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let held = i64::from(self.0.is_held(Instant::now()));
        let help = "Whether this replica holds the lease";
        let metric = encoder.encode_descriptor("leader", help, None, MetricType::Gauge)?;
        ConstGauge::new(held).encode(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_that_are_documented() {
        let metrics = Metrics::new();
        metrics.reconciled("garage", Outcome::Settled, Duration::from_millis(3));
        metrics.failed("garage", "forbidden");
        metrics.wrote("garage", "Service", "apply");
        metrics.running("garage").set(2);
        let more = Counter::<u64>::default();
        metrics.register(|registry| registry.register("more", "Of others", more.clone()));
        let text = metrics.encode();
        for line in [
            r#"gatewright_reconcile_total{controller="garage",result="settled"} 1"#,
            r#"gatewright_reconcile_errors_total{controller="garage",category="forbidden"} 1"#,
            r#"gatewright_reconcile_duration_seconds_bucket{le="0.005",controller="garage"} 1"#,
            r#"gatewright_reconcile_queue{controller="garage",state="running"} 2"#,
            r#"gatewright_api_writes_total{controller="garage",kind="Service",verb="apply"} 1"#,
            concat!(
                r#"gatewright_build_info{version=""#,
                env!("CARGO_PKG_VERSION"),
                r#""} 1"#
            ),
            "gatewright_more_total 0",
            "# EOF",
        ] {
            assert!(
                text.lines().any(|other| other == line),
                "no {line} in\n{text}"
            );
        }
    }
}
