//! Stands in for controller-manager, scheduler and kubelet: the workloads of Garage clusters get pods,
//! the pods get addresses of their own in 127.0.0.0/8, and their nodes join the farm. It may not replace
//! a pod or change a template: nothing of that happens to healthy clusters.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::client::{Client, MERGE, STRATEGIC, watch};
use super::farm::Farm;
use super::pods::{self, Next};

/// A cluster's events all go to the same one.
const WORKERS: u64 = 3;
/// What the operator labels its objects with.
const OURS: &str = "labelSelector=app.kubernetes.io%2Fmanaged-by%3Dgarage-operator";

/// The running stand-in. Its watches end with the apiserver.
pub(super) struct Kubelet {
    threads: Vec<JoinHandle<()>>,
    fault: Fault,
}

type Fault = Arc<Mutex<Option<String>>>;

impl Kubelet {
    /// `storage_of` names the storage cluster of a cluster: its own name or that of its target.
    pub(super) fn start(port: u16, farm: &Arc<Farm>, storage_of: fn(&str) -> String) -> Self {
        let fault = Fault::default();
        let addresses = Arc::new(AtomicU32::new(1));
        let mut threads = Vec::new();
        let mut queues = Vec::new();
        for _ in 0..WORKERS {
            let (queue, events) = channel();
            queues.push(queue);
            let mut worker = Worker {
                client: Client::new(port),
                farm: farm.clone(),
                addresses: addresses.clone(),
                storage_of,
                workloads: BTreeMap::new(),
            };
            let fault = fault.clone();
            threads.push(std::thread::spawn(move || {
                tell(&fault, worker.run(&events));
            }));
        }
        for collection in [
            "apis/apps/v1/statefulsets",
            "apis/apps/v1/deployments",
            "api/v1/pods",
        ] {
            let (queues, fault) = (queues.clone(), fault.clone());
            threads.push(std::thread::spawn(move || {
                let path = format!("/{collection}?watch=1&resourceVersion=0&{OURS}");
                tell(&fault, watch(port, &path, |event| pass_on(&queues, event)));
            }));
        }
        Self { threads, fault }
    }

    /// An error if something went wrong that nobody else would notice.
    pub(super) fn check(&self) -> Result<()> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match &*fault {
            Some(fault) => anyhow::bail!("the stand-in for kubelet: {fault}"),
            None => Ok(()),
        }
    }

    /// Waits for the threads, once the apiserver has ended.
    pub(super) fn join(self) {
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// The first fault is the one that is told.
fn tell(fault: &Fault, outcome: Result<()>) {
    if let Err(error) = outcome {
        let mut fault = fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.get_or_insert(format!("{error:#}"));
    }
}

fn pass_on(queues: &[Sender<Value>], event: Value) -> bool {
    let meta = &event["object"]["metadata"];
    let mut hasher = DefaultHasher::new();
    let cluster = meta["labels"][pods::INSTANCE].as_str();
    (meta["namespace"].as_str(), cluster).hash(&mut hasher);
    let place = usize::try_from(hasher.finish() % WORKERS).unwrap_or(0);
    queues[place].send(event).is_ok()
}

/// One StatefulSet or Deployment and its pods.
#[derive(Default)]
struct Workload {
    /// As it was last seen; without its pods' owner nothing can be made.
    object: Value,
    /// What the template was when the first pod was made.
    revision: String,
    /// How many pods were made.
    made: usize,
    /// An event may be older than what was last written about its pod.
    started: BTreeSet<String>,
    ready: BTreeSet<String>,
    /// What was last written as its status.
    told: Value,
}

struct Worker {
    client: Client,
    farm: Arc<Farm>,
    addresses: Arc<AtomicU32>,
    storage_of: fn(&str) -> String,
    /// By namespace and cluster.
    workloads: BTreeMap<(String, String), Workload>,
}

impl Worker {
    fn run(&mut self, events: &Receiver<Value>) -> Result<()> {
        for mut event in events {
            let object = event["object"].take();
            let meta = &object["metadata"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let key = (
                text(&meta["namespace"]),
                text(&meta["labels"][pods::INSTANCE]),
            );
            let what = || format!("{}/{}", key.0, text(&meta["name"]));
            anyhow::ensure!(event["type"] != "ERROR", "a watch failed: {object}");
            anyhow::ensure!(event["type"] != "DELETED", "{} was deleted", what());
            let context = what();
            let done = match object["kind"].as_str() {
                Some("Pod") => self.pod(&key, &object),
                _ => self.workload(key, object),
            };
            done.context(context)?;
        }
        Ok(())
    }

    fn workload(&mut self, key: (String, String), object: Value) -> Result<()> {
        let known = self.workloads.entry(key).or_default();
        let revision = pods::revision(&object);
        anyhow::ensure!(
            known.made == 0 || known.revision == revision,
            "its template has changed"
        );
        known.revision = revision;
        known.object = object;
        let namespace = known.object["metadata"]["namespace"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let pods_path = format!("/api/v1/namespaces/{namespace}/pods");
        let wanted = known.object["spec"]["replicas"].as_u64().unwrap_or(1);
        let wanted = usize::try_from(wanted)?;
        anyhow::ensure!(wanted >= known.made, "it shrinks");
        if known.object["kind"] == "Deployment" && known.made == 0 {
            let path = format!("/apis/apps/v1/namespaces/{namespace}/replicasets");
            let set = self.client.post(&path, &pods::replica_set(&known.object))?;
            let name = known.object["metadata"]["name"]
                .as_str()
                .unwrap_or_default();
            let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}");
            let annotations = json!({ pods::REVISION: "1" });
            self.client.patch(
                &path,
                MERGE,
                &json!({ "metadata": { "annotations": annotations } }),
            )?;
            while known.made < wanted {
                self.client
                    .post(&pods_path, &pods::of_replica_set(&set, known.made))?;
                known.made += 1;
            }
        }
        while known.made < wanted && known.object["kind"] == "StatefulSet" {
            for claim in pods::claims(&known.object, known.made) {
                let path = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims");
                self.client.post(&path, &claim)?;
            }
            self.client.post(
                &pods_path,
                &pods::of_stateful_set(&known.object, known.made),
            )?;
            known.made += 1;
        }
        anyhow::ensure!(known.made == wanted, "a Deployment grows");
        tell_status(&mut self.client, known)
    }

    fn pod(&mut self, key: &(String, String), pod: &Value) -> Result<()> {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("/api/v1/namespaces/{}/pods/{name}/status", key.0);
        let known = self
            .workloads
            .get(key)
            .context("its workload was not seen")?;
        let ready = match pods::next(pod) {
            Next::Start(slot) if !known.started.contains(name) => {
                let address = self.start(key, pod, slot)?;
                let status = pods::running(pod, address);
                self.client.patch(&path, STRATEGIC, &status)?;
                pods::is_ready(&status)
            }
            Next::Ready if !known.ready.contains(name) => {
                self.client.patch(&path, STRATEGIC, &pods::ready())?;
                true
            }
            Next::Nothing | Next::Start(_) | Next::Ready => return Ok(()),
        };
        let known = self.workloads.entry(key.clone()).or_default();
        known.started.insert(name.to_owned());
        if ready {
            known.ready.insert(name.to_owned());
        }
        tell_status(&mut self.client, known)
    }

    /// The node of a pod joins the farm; where it is.
    fn start(&mut self, key: &(String, String), pod: &Value, slot: u32) -> Result<Ipv4Addr> {
        let (namespace, cluster) = key;
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{cluster}-node-keys");
        let keys = self.client.get(&path)?;
        let entry = keys["data"][format!("slot-{slot}.pub")].as_str();
        let id = entry
            .and_then(pods::hex_of_base64)
            .context("its slot has no key")?;
        let address = pods::address(self.addresses.fetch_add(1, Ordering::Relaxed));
        let hostname = pod["metadata"]["name"].as_str().unwrap_or_default();
        let storage = format!("{namespace}/{}", (self.storage_of)(cluster));
        self.farm.join(&storage, &id, address, hostname);
        Ok(address)
    }
}

/// Writes the status of a workload if it has changed.
fn tell_status(client: &mut Client, known: &mut Workload) -> Result<()> {
    let status = pods::status(
        &known.object,
        &known.revision,
        known.made,
        known.ready.len(),
    );
    if status == known.told {
        return Ok(());
    }
    let meta = &known.object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let collection = match known.object["kind"].as_str() {
        Some("Deployment") => "deployments",
        _ => "statefulsets",
    };
    let path = format!(
        "/apis/apps/v1/namespaces/{}/{collection}/{}/status",
        text(&meta["namespace"]),
        text(&meta["name"])
    );
    client.patch(&path, MERGE, &json!({ "status": status }))?;
    known.told = status;
    Ok(())
}
