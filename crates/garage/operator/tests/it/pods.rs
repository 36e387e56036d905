//! Pods, as far as our controllers look at them: made from a workload's template as its controller makes
//! them, with a real Garage process behind each instead of a container. It may not assert anything.

use crate::rig::Rig;
use gatewright_garage::api;
use gatewright_testkit::garage::{Node, Setup};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

impl Rig {
    /// [`Rig::gateways`] whose nodes have the storage nodes' admin token, as all processes of the rig.
    pub(crate) fn running_gateways(&self, replicas: u32) -> Value {
        let mut spec = self.gateways(replicas);
        spec["admin"] = json!({ "adminTokenSecretRef": { "name": "admin", "key": "token" } });
        spec
    }

    /// A storage cluster whose nodes are those of the real Garage, each with a GarageNode and a pod called
    /// `member-N`.
    pub(crate) async fn storage(&self, name: &str) {
        let nodes = self.garage.nodes();
        let base = nodes[0].admin_url();
        let port = base
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse::<u16>().ok());
        let storage = json!({
            "layoutPolicy": "Manual", "replication": { "factor": nodes.len().min(3) },
            "admin": { "adminTokenSecretRef": { "name": "admin", "key": "token" }, "bindPort": port },
            "network": { "rpcSecretRef": { "name": "rpc", "key": "secret" } },
        });
        self.apply("GarageCluster", name, storage).await;
        for (index, node) in nodes.iter().enumerate() {
            let own = format!("member-{index}");
            let member = json!({
                "clusterRef": { "name": name }, "zone": "dc1", "capacity": "1Gi", "nodeId": node.id(),
                "external": { "address": node.address().to_string() },
            });
            self.apply("GarageNode", &own, member).await;
            // The pods that are asked.
            let pod = json!({
                "metadata": { "labels": {
                    "app.kubernetes.io/name": "garage", "app.kubernetes.io/instance": name,
                    "app.kubernetes.io/component": "storage", "garage.rajsingh.info/node": own,
                } },
                "spec": { "containers": [{ "name": "garage", "image": "garage" }] },
            });
            self.create_pod(&own, pod).await;
            self.runs(&own, node).await;
        }
    }

    /// A pod of a workload's template.
    pub(crate) async fn pod(&self, kind: &str, workload: &str, name: &str) {
        let set = self
            .until_object(kind, workload, "it is made", |_| true)
            .await;
        let mut pod = set["spec"]["template"].clone();
        let claims = set["spec"]["volumeClaimTemplates"].as_array().cloned();
        for claim in claims.into_iter().flatten() {
            let claim = claim["metadata"]["name"]
                .as_str()
                .expect("a name")
                .to_owned();
            let volumes = pod["spec"]["volumes"].as_array_mut().expect("volumes");
            let bound = json!({ "claimName": format!("{claim}-{name}") });
            volumes.push(json!({ "name": claim, "persistentVolumeClaim": bound }));
        }
        self.create_pod(name, pod).await;
    }

    async fn create_pod(&self, name: &str, mut pod: Value) {
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!(name);
        let pod: DynamicObject = serde_json::from_value(pod).expect("a Pod");
        let created = self.api("Pod").create(&PostParams::default(), &pod).await;
        created.unwrap_or_else(|error| panic!("Pod {name}: {error}"));
    }

    /// The slot that a pod was given, once nothing keeps it from starting.
    pub(crate) async fn slot(&self, pod: &str) -> usize {
        let may_start = |pod: &Value| {
            let gates = pod["spec"]["schedulingGates"].as_array();
            gates.is_none_or(Vec::is_empty) && given(pod).is_some()
        };
        let pod = self
            .until_object("Pod", pod, "it may start", may_start)
            .await;
        given(&pod).expect("a slot")
    }

    /// What the node key of a slot grows from.
    pub(crate) async fn seed(&self, cluster: &str, slot: usize) -> [u8; 32] {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = secrets.get(&format!("{cluster}-node-keys")).await;
        let data = secret.expect("the node keys").data.unwrap_or_default();
        let key = &data[&format!("slot-{slot}")].0;
        key[..32].try_into().expect("a key")
    }

    /// A Garage with the key of that slot, which is not started.
    pub(crate) async fn node(&mut self, cluster: &str, slot: usize, setup: Setup) -> usize {
        let seed = Some(self.seed(cluster, slot).await);
        self.garage.add(Setup { seed, ..setup })
    }

    /// A pod of the Deployment, and a Garage that runs in it.
    pub(crate) async fn gateway(&mut self, cluster: &str, pod: &str) -> usize {
        self.pod("Deployment", cluster, pod).await;
        let slot = self.slot(pod).await;
        let index = self.node(cluster, slot, Setup::default()).await;
        let node = self.garage.node(index);
        node.start();
        node.listens().await;
        self.runs(pod, node).await;
        index
    }

    /// The pod has the address of that node, and its container runs.
    pub(crate) async fn runs(&self, pod: &str, node: &Node) {
        let address = node.address().to_string();
        let status = json!({
            "podIP": address, "podIPs": [{ "ip": address }],
            "containerStatuses": [{
                "name": "garage", "image": "garage", "imageID": "", "ready": true, "restartCount": 0,
                "state": { "running": {} },
            }],
        });
        self.say("Pod", pod, status).await;
    }

    /// The pod takes requests.
    pub(crate) async fn serves(&self, pod: &str) {
        let ready = json!({ "conditions": [{ "type": "Ready", "status": "True" }] });
        self.say("Pod", pod, ready).await;
    }

    /// The workload's controller has seen its newest specification.
    pub(crate) async fn observed(&self, kind: &str, name: &str) {
        let object = self.object(kind, name).await;
        let generation = &object["metadata"]["generation"];
        self.say(kind, name, json!({ "observedGeneration": generation }))
            .await;
    }

    async fn say(&self, kind: &str, name: &str, status: Value) {
        let patch = Patch::Strategic(json!({ "status": status }));
        let params = PatchParams::default();
        let said = self.api(kind).patch_status(name, &params, &patch).await;
        said.unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
    }
}

fn given(pod: &Value) -> Option<usize> {
    pod["metadata"]["annotations"][api::ANNOTATION_SLOT]
        .as_str()?
        .parse()
        .ok()
}

/// The slots in a gateway cluster's status.
pub(crate) fn slots(status: &Value) -> &[Value] {
    status["gateways"].as_array().map_or(&[], Vec::as_slice)
}

/// Whether a gateway cluster has this many slots, all of them with a role.
pub(crate) fn joined(status: &Value, count: usize) -> bool {
    let slots = slots(status);
    slots.len() == count && slots.iter().all(|slot| slot["inLayout"] == true)
}

/// The same, and storage sees all of their nodes.
pub(crate) fn connected(status: &Value, count: usize) -> bool {
    joined(status, count) && slots(status).iter().all(|slot| slot["connected"] == true)
}
