//! What controller-manager and kubelet make of a workload: its pods, claims, ReplicaSet and statuses. It
//! may not send anything.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::net::Ipv4Addr;

use serde_json::{Map, Value, json};

/// The label with the cluster's name.
pub(super) const INSTANCE: &str = "app.kubernetes.io/instance";
/// By this the operator finds the newest ReplicaSet of a Deployment.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";

const SLOT: &str = "garage.rajsingh.info/slot";
const SET_HASH: &str = "controller-revision-hash";
const TEMPLATE_HASH: &str = "pod-template-hash";
/// The time at which everything happens; nobody reads it.
const WHEN: &str = "2026-01-01T00:00:00Z";

/// What a pod needs now.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// It waits for its slot or for its readiness gate, or is ready.
    Nothing,
    /// It starts as the node of this slot.
    Start(u32),
    /// Its gate has opened.
    Ready,
}

/// What a pod needs now.
pub(super) fn next(pod: &Value) -> Next {
    let gated = pod["spec"]["schedulingGates"]
        .as_array()
        .is_some_and(|gates| !gates.is_empty());
    if gated {
        return Next::Nothing;
    }
    if pod["status"]["podIP"].is_null() {
        return slot(pod).map_or(Next::Nothing, Next::Start);
    }
    match !is_ready(pod) && gates_are_open(pod) {
        true => Next::Ready,
        false => Next::Nothing,
    }
}

/// The slot that the operator has given a gateway, or the ordinal of a storage pod.
fn slot(pod: &Value) -> Option<u32> {
    let meta = &pod["metadata"];
    if let Some(slot) = meta["annotations"][SLOT].as_str() {
        return slot.parse().ok();
    }
    let of_set = meta["labels"].get(SET_HASH).is_some();
    let (_, ordinal) = meta["name"].as_str()?.rsplit_once('-')?;
    ordinal.parse().ok().filter(|_| of_set)
}

/// Whether the condition `Ready` is true.
pub(super) fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")
}

fn condition(pod: &Value, kind: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter()
            .any(|one| one["type"] == kind && one["status"] == "True")
    })
}

fn gates_are_open(pod: &Value) -> bool {
    let gates = pod["spec"]["readinessGates"].as_array();
    let mut gates = gates
        .into_iter()
        .flatten()
        .filter_map(|gate| gate["conditionType"].as_str());
    gates.all(|gate| condition(pod, gate))
}

/// The status of a pod whose containers have started at `address`.
pub(super) fn running(pod: &Value, address: Ipv4Addr) -> Value {
    let containers = pod["spec"]["containers"].as_array();
    let containers = containers.into_iter().flatten().map(|container| {
        json!({
            "name": container["name"], "image": container["image"], "imageID": "bench",
            "ready": true, "started": true, "restartCount": 0,
            "state": { "running": { "startedAt": WHEN } },
        })
    });
    let containers: Vec<Value> = containers.collect();
    let ready = if gates_are_open(pod) { "True" } else { "False" };
    let conditions = [
        ("PodScheduled", "True"),
        ("Initialized", "True"),
        ("ContainersReady", "True"),
        ("Ready", ready),
    ];
    let conditions = conditions.map(
        |(kind, status)| json!({ "type": kind, "status": status, "lastTransitionTime": WHEN }),
    );
    json!({ "status": {
        "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }], "hostIP": "127.0.0.1",
        "startTime": WHEN, "containerStatuses": containers, "conditions": conditions,
    } })
}

/// The change of a status of a pod whose gate has opened.
pub(super) fn ready() -> Value {
    let ready = json!({ "type": "Ready", "status": "True", "lastTransitionTime": WHEN });
    json!({ "status": { "conditions": [ready] } })
}

/// A hash of the template: two templates that differ have two.
pub(super) fn revision(workload: &Value) -> String {
    let mut hasher = DefaultHasher::new();
    workload["spec"]["template"].to_string().hash(&mut hasher);
    format!("{:08x}", hasher.finish() as u32)
}

/// The pod `ordinal` of a StatefulSet.
pub(super) fn of_stateful_set(set: &Value, ordinal: usize) -> Value {
    let name = format!("{}-{ordinal}", text(&set["metadata"]["name"]));
    let labels = [
        (SET_HASH, revision(set)),
        ("statefulset.kubernetes.io/pod-name", name.clone()),
        ("apps.kubernetes.io/pod-index", ordinal.to_string()),
    ];
    let mut pod = pod(set, &name, &labels);
    let volumes = claims(set, ordinal)
        .into_iter()
        .zip(templates(set))
        .map(|(claim, template)| {
            let claim = json!({ "claimName": claim["metadata"]["name"] });
            json!({ "name": template["metadata"]["name"], "persistentVolumeClaim": claim })
        });
    let volumes: Vec<Value> = volumes.collect();
    match pod["spec"]["volumes"].as_array_mut() {
        Some(others) => others.extend(volumes),
        None => pod["spec"]["volumes"] = volumes.into(),
    }
    pod["spec"]["hostname"] = json!(name);
    pod["spec"]["subdomain"] = set["spec"]["serviceName"].clone();
    pod
}

/// The claims of the pod `ordinal`.
pub(super) fn claims(set: &Value, ordinal: usize) -> Vec<Value> {
    let claim = |template: &Value| {
        let name = format!(
            "{}-{}-{ordinal}",
            text(&template["metadata"]["name"]),
            text(&set["metadata"]["name"])
        );
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": { "name": name, "labels": set["spec"]["selector"]["matchLabels"] },
            "spec": template["spec"],
        })
    };
    templates(set).map(claim).collect()
}

fn templates(set: &Value) -> impl Iterator<Item = &Value> {
    set["spec"]["volumeClaimTemplates"]
        .as_array()
        .into_iter()
        .flatten()
}

/// The ReplicaSet of a Deployment's first template.
pub(super) fn replica_set(deployment: &Value) -> Value {
    let hash = revision(deployment);
    let spec = &deployment["spec"];
    let mut template = spec["template"].clone();
    template["metadata"]["labels"][TEMPLATE_HASH] = json!(hash);
    let mut selector = spec["selector"].clone();
    selector["matchLabels"][TEMPLATE_HASH] = json!(hash);
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", text(&deployment["metadata"]["name"])),
            "namespace": deployment["metadata"]["namespace"],
            "labels": template["metadata"]["labels"], "annotations": { REVISION: "1" },
            "ownerReferences": [owner(deployment)],
        },
        "spec": { "replicas": spec["replicas"], "selector": selector, "template": template },
    })
}

/// A pod of a ReplicaSet; its name is its number in a form that no ordinal has.
pub(super) fn of_replica_set(set: &Value, number: usize) -> Value {
    let name = format!("{}-p{number}", text(&set["metadata"]["name"]));
    pod(set, &name, &[])
}

fn pod(owner_: &Value, name: &str, labels: &[(&str, String)]) -> Value {
    let template = &owner_["spec"]["template"];
    let mut all = template["metadata"]["labels"]
        .as_object()
        .cloned()
        .unwrap_or_else(Map::new);
    all.extend(
        labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value))),
    );
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": owner_["metadata"]["namespace"], "labels": all,
            "annotations": template["metadata"]["annotations"], "ownerReferences": [owner(owner_)],
        },
        "spec": template["spec"],
    })
}

fn owner(object: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": object["kind"], "name": object["metadata"]["name"],
        "uid": object["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
    })
}

/// The status of a workload of which `made` pods are there and `ready` of them ready.
pub(super) fn status(workload: &Value, revision: &str, made: usize, ready: usize) -> Value {
    let mut status = json!({
        "observedGeneration": workload["metadata"]["generation"], "replicas": made,
        "readyReplicas": ready, "availableReplicas": ready, "updatedReplicas": made,
    });
    if workload["kind"] == "StatefulSet" {
        status["currentRevision"] = json!(revision);
        status["updateRevision"] = json!(revision);
    }
    status
}

/// The `n`th address, far from those that tests use.
pub(super) fn address(n: u32) -> Ipv4Addr {
    let [_, high, middle, low] = n.to_be_bytes();
    Ipv4Addr::new(127, 200 + high, middle, low)
}

/// 32 bytes as the API has them, in hexadecimal digits.
pub(super) fn hex_of_base64(text: &str) -> Option<String> {
    let (mut bits, mut count, mut hex) = (0_u32, 0, String::new());
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            hex.push_str(&format!("{:02x}", (bits >> count) as u8));
        }
    }
    (hex.len() == 64).then_some(hex)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> Value {
        json!({
            "kind": "StatefulSet",
            "metadata": { "name": "s", "namespace": "n", "uid": "u", "generation": 4 },
            "spec": {
                "serviceName": "s-headless", "replicas": 3,
                "selector": { "matchLabels": { INSTANCE: "s" } },
                "template": {
                    "metadata": { "labels": { INSTANCE: "s" }, "annotations": { "a": "b" } },
                    "spec": {
                        "containers": [{ "name": "garage", "image": "i" }],
                        "volumes": [{ "name": "config" }],
                    },
                },
                "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": { "x": 1 } }],
            },
        })
    }

    #[test]
    fn a_storage_pod_has_its_claims_and_starts_as_its_ordinal() {
        let pod = of_stateful_set(&set(), 2);
        assert_eq!(pod["metadata"]["name"], "s-2");
        assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "u");
        let volumes = json!([
            { "name": "config" },
            { "name": "data", "persistentVolumeClaim": { "claimName": "data-s-2" } },
        ]);
        assert_eq!(pod["spec"]["volumes"], volumes);
        assert_eq!(claims(&set(), 2)[0]["metadata"]["name"], "data-s-2");
        assert_eq!(next(&pod), Next::Start(2));
        let status = status(&set(), &revision(&set()), 3, 1);
        assert_eq!(
            status["updateRevision"],
            pod["metadata"]["labels"][SET_HASH]
        );
        assert_eq!(status["observedGeneration"], 4);
    }

    #[test]
    fn without_gates_a_pod_that_runs_is_ready() {
        let mut pod = of_stateful_set(&set(), 0);
        let status = running(&pod, address(1));
        assert!(is_ready(&status));
        pod["status"] = status["status"].clone();
        assert_eq!(next(&pod), Next::Nothing);
    }

    #[test]
    fn a_gateway_waits_for_its_slot_and_then_for_its_gate() {
        let mut deployment = set();
        deployment["kind"] = json!("Deployment");
        deployment["spec"]["template"]["spec"]["schedulingGates"] = json!([{ "name": "g" }]);
        deployment["spec"]["template"]["spec"]["readinessGates"] =
            json!([{ "conditionType": "synced" }]);
        let replicas = replica_set(&deployment);
        let mut pod = of_replica_set(&replicas, 7);
        assert_eq!(
            pod["metadata"]["labels"][TEMPLATE_HASH],
            replicas["spec"]["selector"]["matchLabels"][TEMPLATE_HASH]
        );
        assert_eq!(next(&pod), Next::Nothing);
        pod["spec"]["schedulingGates"] = json!([]);
        assert_eq!(next(&pod), Next::Nothing, "it has no slot yet");
        pod["metadata"]["annotations"][SLOT] = json!("1");
        assert_eq!(next(&pod), Next::Start(1));
        pod["status"] = running(&pod, address(1))["status"].clone();
        assert!(!is_ready(&pod));
        assert_eq!(next(&pod), Next::Nothing);
        let mut conditions = pod["status"]["conditions"]
            .as_array()
            .cloned()
            .expect("some");
        conditions.push(json!({ "type": "synced", "status": "True" }));
        pod["status"]["conditions"] = conditions.into();
        assert_eq!(next(&pod), Next::Ready);
    }

    #[test]
    fn another_template_is_another_revision() {
        let mut other = set();
        other["spec"]["template"]["metadata"]["annotations"]["a"] = json!("c");
        assert_ne!(revision(&set()), revision(&other));
        other = set();
        other["spec"]["replicas"] = json!(9);
        assert_eq!(revision(&set()), revision(&other));
    }

    #[test]
    fn every_pod_has_an_address_of_its_own() {
        assert_eq!(address(1), Ipv4Addr::new(127, 200, 0, 1));
        assert_eq!(address(0x1_0203), Ipv4Addr::new(127, 201, 2, 3));
    }

    #[test]
    fn keys_are_read_as_the_api_has_them() {
        let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHv8=";
        let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff";
        assert_eq!(hex_of_base64(key).as_deref(), Some(hex));
        assert_eq!(hex_of_base64("AAEC"), None);
        assert_eq!(hex_of_base64(&key.replace('A', "*")), None);
    }
}
