//! One measurement: everything is made and comes to rest, the operator starts again, and is watched. It
//! may not say what is good.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::super::http;
use super::super::process::Group;
use super::client::{Client, watch};
use super::control::Control;
use super::farm::{self, Farm};
use super::kubelet::Kubelet;
use super::metrics::{is_one_of, is_write, sum};
use crate::{stopwatch, workspace};

/// How long it may take until everything is made, for each cluster, and at least a minute.
const MAKING: Duration = Duration::from_secs(4);
/// How long the second start may take.
const START: Duration = Duration::from_secs(180);
/// Says how the operator is deployed.
const MANIFEST: &str = "deploy/operator.yaml";
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// Clusters that are being made at a time: all at once would measure how they hinder each other.
const UNDER_WAY: usize = 40;
/// Clusters in one namespace.
const CROWD: usize = 10;
/// Bytes in a MiB, in MB.
const MB: f64 = 1.048_576;
/// Everything that the operator writes, but its Lease.
const COLLECTIONS: [&str; 10] = [
    "apis/garage.rajsingh.info/v1alpha1/garageclusters",
    "apis/apps/v1/statefulsets",
    "apis/apps/v1/deployments",
    "apis/policy/v1/poddisruptionbudgets",
    "apis/events.k8s.io/v1/events",
    "apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
    "api/v1/pods",
    "api/v1/secrets",
    "api/v1/configmaps",
    "api/v1/services",
];
const GROUP: &str = "apis/garage.rajsingh.info/v1alpha1";

/// What is measured.
pub(super) struct Setup {
    pub(super) binary: PathBuf,
    /// Empty; logs and data go here.
    pub(super) dir: PathBuf,
    pub(super) first_port: u16,
    pub(super) clusters: usize,
    pub(super) seconds: u64,
}

/// What was measured.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) clusters: usize,
    pub(super) pods: usize,
    pub(super) rss_after_making: f64,
    pub(super) rss_at_rest: f64,
    /// Of the second life.
    pub(super) peak: f64,
    pub(super) making_seconds: f64,
    pub(super) making_cpu: f64,
    pub(super) start_seconds: f64,
    pub(super) start_cpu: f64,
    pub(super) start_reconciliations: u64,
    pub(super) start_reads: u64,
    pub(super) start_calls: u64,
    pub(super) rest_seconds: f64,
    pub(super) rest_cpu: f64,
    pub(super) rest_reconciliations: u64,
    pub(super) rest_reads: u64,
    /// By the operator's own count.
    pub(super) own_writes: u64,
    /// By the apiserver's count, whoever wrote, or by the objects that have changed, come or gone, if
    /// those are more. Leases are left out.
    pub(super) seen_writes: u64,
    /// Of all clusters at rest.
    pub(super) calls: u64,
    /// Of the storage cluster that was asked most, on behalf of itself and of its gateways.
    pub(super) most_calls: u64,
}

impl Figures {
    /// CPU seconds to reconcile every cluster once, as it happens at rest.
    pub(super) fn round_cpu(&self) -> f64 {
        self.rest_cpu / self.rest_reconciliations as f64 * self.clusters as f64
    }

    pub(super) fn reads_per_reconciliation(&self) -> f64 {
        self.rest_reads as f64 / self.rest_reconciliations as f64
    }

    pub(super) fn calls_per_cluster(&self) -> f64 {
        self.calls as f64 / self.clusters as f64 / (self.rest_seconds / 30.0)
    }

    pub(super) fn most_calls_per_cluster(&self) -> f64 {
        self.most_calls as f64 / 2.0 / (self.rest_seconds / 30.0)
    }
}

/// Measures.
pub(super) fn measure(setup: &Setup) -> Result<Figures> {
    let port = setup.first_port;
    let farm = Arc::new(Farm::default());
    let _serving = farm::serve(&farm, port + 4)?;
    let control = Control::start(&setup.dir, port)?;
    let kubelet = Kubelet::start(control.port, &farm, storage_of);
    let mut world = World {
        setup,
        farm,
        api: Client::new(control.port),
        control,
        kubelet: Some(kubelet),
        operator: Group::default(),
        statuses: None,
    };
    let mut figures = Figures {
        clusters: setup.clusters,
        pods: setup.clusters / 2 * 5,
        ..Figures::default()
    };
    world.make(&mut figures)?;
    world.start_again(&mut figures)?;
    world.rest(&mut figures)?;
    Ok(figures)
}

struct World<'a> {
    setup: &'a Setup,
    farm: Arc<Farm>,
    control: Control,
    api: Client,
    kubelet: Option<Kubelet>,
    operator: Group,
    statuses: Option<Statuses>,
}

impl World<'_> {
    /// The operator makes all clusters.
    fn make(&mut self, figures: &mut Figures) -> Result<()> {
        self.start_operator("operator-1")?;
        let limit = Duration::from_secs(60);
        self.wait("the operator leads", limit, |world| {
            Ok(world
                .own("gatewright_leader", |_| true)
                .is_some_and(|held| held > 0.0))
        })?;
        self.statuses = Some(Statuses::follow(self.control.port));
        let begun = stopwatch::now();
        let limit = Duration::from_secs(60).max(MAKING * u32::try_from(self.setup.clusters)?);
        let mut pairs = 0;
        self.wait("all clusters run", limit, |world| {
            world.kubelet.as_ref().map_or(Ok(()), Kubelet::check)?;
            let running = world.statuses.as_ref().map_or(0, Statuses::running);
            while pairs * 2 < world.setup.clusters.min(running + UNDER_WAY) {
                world.create_pair(pairs)?;
                pairs += 1;
            }
            Ok(running == world.setup.clusters)
        })?;
        figures.making_seconds = begun.elapsed().as_secs_f64();
        figures.making_cpu = self.operator.cpu_seconds();
        figures.rss_after_making = self.operator.rss_mib() * MB;
        Ok(())
    }

    /// The operator finds everything as it should be.
    fn start_again(&mut self, figures: &mut Figures) -> Result<()> {
        self.operator.stop();
        self.farm.reset();
        let before = self.reads()?;
        let begun = stopwatch::now();
        self.start_operator("operator-2")?;
        let most = self.setup.clusters as f64;
        self.wait("every cluster is reconciled", START, |world| {
            let Some(page) = world.page() else {
                return Ok(false);
            };
            let ours = |labels: &str| is_one_of(labels, "controller", &["garagecluster"]);
            let running = |labels: &str| ours(labels) && is_one_of(labels, "state", &["running"]);
            let done = sum(&page, "gatewright_reconcile_total", ours);
            let under_way = sum(&page, "gatewright_reconcile_queue", running);
            // Each is asked about itself and about its gateways.
            let asked = |calls: &BTreeMap<String, u64>| {
                calls
                    .get("GetClusterStatus")
                    .is_some_and(|status| *status >= 2)
            };
            let calls = world.farm.calls();
            let asked = calls.values().filter(|calls| asked(calls)).count();
            Ok(done >= most && under_way < 1.0 && asked * 2 == world.setup.clusters)
        })?;
        figures.start_seconds = begun.elapsed().as_secs_f64();
        figures.start_cpu = self.operator.cpu_seconds();
        figures.start_reconciliations = self.reconciliations()?;
        figures.start_reads = self.reads()? - before;
        figures.start_calls = self.calls().0;
        Ok(())
    }

    /// Nothing changes.
    fn rest(&mut self, figures: &mut Figures) -> Result<()> {
        let versions = self.versions()?;
        self.farm.reset();
        let begun = stopwatch::now();
        let before = self.counts()?;
        let window = Duration::from_secs(self.setup.seconds);
        self.wait("the time at rest is over", window * 2, |_| {
            Ok(begun.elapsed() >= window)
        })?;
        figures.rest_seconds = begun.elapsed().as_secs_f64();
        let after = self.counts()?;
        (figures.calls, figures.most_calls) = after.calls;
        figures.rest_cpu = after.cpu - before.cpu;
        figures.rest_reconciliations = after.reconciliations - before.reconciliations;
        figures.rest_reads = after.reads - before.reads;
        figures.own_writes = after.own_writes - before.own_writes;
        let changed = changed(&versions, &self.versions()?);
        figures.seen_writes = (after.writes - before.writes).max(changed);
        figures.rss_at_rest = self.operator.rss_mib() * MB;
        figures.peak = self.operator.peak_mib() * MB;
        anyhow::ensure!(
            figures.rest_reconciliations > 0,
            "nothing was reconciled at rest"
        );
        self.kubelet.as_ref().map_or(Ok(()), Kubelet::check)
    }

    fn start_operator(&mut self, name: &str) -> Result<()> {
        let port = self.setup.first_port;
        let mut command = Command::new(&self.setup.binary);
        command
            .arg("operator")
            .arg("--kubeconfig")
            .arg(&self.control.kubeconfig)
            .args(["--lease-namespace", "default"])
            .arg(format!("--listen-health=127.0.0.1:{}", port + 2))
            .arg(format!("--listen-webhook=127.0.0.1:{}", port + 3))
            .arg("--webhook-host=127.0.0.1")
            .env_remove("KUBECONFIG")
            .current_dir(&self.setup.dir);
        let manifest = fs::read_to_string(workspace::root().join(MANIFEST))
            .with_context(|| format!("cannot read {MANIFEST}"))?;
        command.envs(allocator(&manifest));
        let log = self.setup.dir.join(format!("{name}.log"));
        self.operator.spawn(name, &command, &log)
    }

    fn create_pair(&mut self, number: usize) -> Result<()> {
        let namespace = namespace_of(number);
        if (number * 2).is_multiple_of(CROWD) {
            let object = json!({ "metadata": { "name": namespace } });
            self.api.post("/api/v1/namespaces", &object)?;
        }
        let path = format!("/{GROUP}/namespaces/{namespace}/garageclusters");
        for object in pair(number, self.setup.first_port + 4) {
            self.api.post(&path, &object)?;
        }
        Ok(())
    }

    /// Waits until `done`, and fails as soon as a process has ended.
    fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let mut outcome = Ok(false);
        let in_time = stopwatch::poll(limit, PAUSE, || {
            let alive = self
                .operator
                .check()
                .and_then(|()| self.control.group.check());
            outcome = alive.and_then(|()| done(self));
            !matches!(outcome, Ok(false))
        });
        outcome?;
        anyhow::ensure!(in_time, "not within {limit:?}: {what}");
        Ok(())
    }

    /// The operator's metrics, once it serves them.
    fn page(&self) -> Option<String> {
        let port = self.setup.first_port + 2;
        let answer = http::get(port, "localhost", "/metrics", Duration::from_secs(5)).ok()?;
        String::from_utf8(answer.body).ok()
    }

    fn own(&self, name: &str, counts: impl Fn(&str) -> bool) -> Option<f64> {
        Some(sum(&self.page()?, name, counts))
    }

    fn reconciliations(&self) -> Result<u64> {
        let done = self.own("gatewright_reconcile_total", |_| true);
        Ok(done.context("the operator tells no metrics")? as u64)
    }

    fn reads(&mut self) -> Result<u64> {
        let page = self.api.text("/metrics")?;
        let reads = |labels: &str| is_one_of(labels, "verb", &["GET", "LIST"]);
        Ok(sum(&page, "apiserver_request_total", reads) as u64)
    }

    /// Calls of the Admin API: all, and those of the storage cluster with most.
    fn calls(&self) -> (u64, u64) {
        let calls = self.farm.calls();
        let each = calls.values().map(|calls| calls.values().sum::<u64>());
        (each.clone().sum(), each.max().unwrap_or(0))
    }

    fn versions(&mut self) -> Result<Versions> {
        let mut versions = Versions::new();
        for collection in COLLECTIONS {
            let list = self.api.metadata(&format!("/{collection}"))?;
            for item in list["items"].as_array().into_iter().flatten() {
                let text = |field: &str| {
                    item["metadata"][field]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned()
                };
                versions.insert(text("uid"), text("resourceVersion"));
            }
        }
        Ok(versions)
    }

    fn counts(&mut self) -> Result<Counts> {
        let cpu = self.operator.cpu_seconds();
        let reconciliations = self.reconciliations()?;
        let calls = self.calls();
        let reads = self.reads()?;
        let page = self.api.text("/metrics")?;
        let own_writes = self.own("gatewright_api_writes_total", |_| true);
        Ok(Counts {
            cpu,
            reconciliations,
            calls,
            reads,
            own_writes: own_writes.context("the operator tells no metrics")? as u64,
            writes: sum(&page, "apiserver_request_total", is_write) as u64,
        })
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        self.operator.stop();
        self.control.group.stop();
        if let Some(statuses) = self.statuses.take() {
            let _ = statuses.thread.join();
        }
        if let Some(kubelet) = self.kubelet.take() {
            kubelet.join();
        }
    }
}

/// Counters at one moment.
struct Counts {
    cpu: f64,
    reconciliations: u64,
    calls: (u64, u64),
    reads: u64,
    own_writes: u64,
    writes: u64,
}

/// By uid.
type Versions = BTreeMap<String, String>;

/// How many objects came, went or changed.
fn changed(before: &Versions, after: &Versions) -> u64 {
    let new = after
        .iter()
        .filter(|(uid, version)| before.get(*uid) != Some(*version));
    let gone = before.keys().filter(|uid| !after.contains_key(*uid));
    (new.count() + gone.count()) as u64
}

/// Which clusters run as asked, by what their objects say.
struct Statuses {
    running: Arc<Mutex<BTreeMap<String, bool>>>,
    thread: JoinHandle<()>,
}

impl Statuses {
    fn follow(port: u16) -> Self {
        let running = Arc::new(Mutex::new(BTreeMap::new()));
        let known = running.clone();
        let thread = std::thread::spawn(move || {
            let path = format!("/{GROUP}/garageclusters?watch=1&resourceVersion=0");
            // It ends with the apiserver.
            let _ = watch(port, &path, |event| {
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                let object = &event["object"];
                let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
                known.insert(uid.to_owned(), runs(object));
                true
            });
        });
        Self { running, thread }
    }

    fn running(&self) -> usize {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.values().filter(|runs| **runs).count()
    }
}

/// The newest of what was asked is there.
fn runs(cluster: &Value) -> bool {
    let generation = &cluster["metadata"]["generation"];
    cluster["status"]["phase"] == "Running"
        && cluster["status"]["observedGeneration"] == *generation
}

/// The settings of the allocator in the published manifest: the operator is measured as it is deployed.
fn allocator(manifest: &str) -> Vec<(&str, &str)> {
    let mut lines = manifest.lines().map(str::trim);
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let name = line
            .strip_prefix("- name: ")
            .filter(|name| name.starts_with("MIMALLOC_"));
        let Some(name) = name else { continue };
        let value = lines.next().and_then(|line| line.strip_prefix("value: "));
        found.extend(value.map(|value| (name, value.trim_matches('"'))));
    }
    found
}

fn namespace_of(pair: usize) -> String {
    format!("bench-{}", pair * 2 / CROWD)
}

/// A storage cluster and its gateways.
fn pair(number: usize, admin_port: u16) -> [Value; 2] {
    let cluster = |name: String, mut spec: Value| {
        // Not the usual one: nothing on this machine has to make room.
        spec["admin"] = json!({ "bindPort": admin_port });
        json!({
            "apiVersion": "garage.rajsingh.info/v1alpha1", "kind": "GarageCluster",
            "metadata": { "name": name }, "spec": spec,
        })
    };
    let storage = json!({ "replicas": 3, "storage": { "data": { "size": "100Gi" } } });
    let gateway = json!({
        "gateway": true, "replicas": 2, "connectTo": { "clusterRef": { "name": format!("s-{number}") } },
    });
    [
        cluster(format!("s-{number}"), storage),
        cluster(format!("g-{number}"), gateway),
    ]
}

/// The storage cluster of either of a pair.
fn storage_of(cluster: &str) -> String {
    cluster.replacen("g-", "s-", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_a_storage_cluster_and_its_gateways() {
        let [storage, gateway] = pair(7, 3903);
        let target = &gateway["spec"]["connectTo"]["clusterRef"]["name"];
        assert_eq!(*target, storage["metadata"]["name"]);
        for one in [&storage, &gateway] {
            let name = one["metadata"]["name"].as_str().expect("a name");
            assert_eq!(storage_of(name), "s-7");
        }
    }

    #[test]
    fn pairs_share_namespaces_and_each_is_made_once() {
        let first = |pair: &usize| (pair * 2).is_multiple_of(CROWD);
        let made: Vec<String> = (0..50).filter(first).map(namespace_of).collect();
        let mut all: Vec<String> = (0..50).map(namespace_of).collect();
        all.dedup();
        assert_eq!(made, all);
        assert_eq!(made.len(), 10);
    }

    #[test]
    fn an_older_status_is_not_running() {
        let mut cluster = json!({
            "metadata": { "generation": 2 },
            "status": { "phase": "Running", "observedGeneration": 1 },
        });
        assert!(!runs(&cluster));
        cluster["status"]["observedGeneration"] = json!(2);
        assert!(runs(&cluster));
        cluster["status"]["phase"] = json!("Creating");
        assert!(!runs(&cluster));
    }

    #[test]
    fn objects_that_came_went_or_changed_are_counted() {
        let versions = |all: &[(&str, &str)]| -> Versions {
            all.iter()
                .map(|(uid, version)| ((*uid).to_owned(), (*version).to_owned()))
                .collect()
        };
        let before = versions(&[("a", "1"), ("b", "2"), ("c", "3")]);
        assert_eq!(changed(&before, &before), 0);
        assert_eq!(
            changed(&before, &versions(&[("a", "1"), ("b", "4"), ("d", "5")])),
            3
        );
    }

    #[test]
    fn the_operator_runs_with_what_the_manifest_gives_its_allocator() {
        let manifest =
            "env:\n  - name: MIMALLOC_X\n    value: \"0\"\n  - name: OTHER\n    value: \"1\"\n";
        assert_eq!(allocator(manifest), [("MIMALLOC_X", "0")]);
        let published = fs::read_to_string(workspace::root().join(MANIFEST)).expect("the manifest");
        assert!(!allocator(&published).is_empty());
    }

    #[test]
    fn rates_are_per_cluster_and_half_a_minute() {
        let figures = Figures {
            clusters: 100,
            calls: 400,
            most_calls: 8,
            rest_seconds: 120.0,
            rest_cpu: 3.0,
            rest_reads: 2_000,
            rest_reconciliations: 200,
            ..Figures::default()
        };
        assert!((figures.calls_per_cluster() - 1.0).abs() < 1e-9);
        assert!((figures.most_calls_per_cluster() - 1.0).abs() < 1e-9);
        assert!((figures.round_cpu() - 1.5).abs() < 1e-9);
        assert!((figures.reads_per_reconciliation() - 10.0).abs() < 1e-9);
    }
}
