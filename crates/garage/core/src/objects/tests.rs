//! The object lists of the specified manifests as goldens (`tests/goldens/objects/NAME.json`; `UPDATE=1` rewrites), and
//! a table of what each field does.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::api::{GarageCluster, GarageNode};
use crate::cluster::Problem;
use crate::config::tests::{cluster, gateway};
use crate::config::{Inherited, from_cluster};
use crate::identity::{NodeKey, Peer, SlotKeys};
use crate::secret::Redacted;

const IMAGE: &str = "dxflrs/garage:v2.5.0";

fn resolved(cluster: &GarageCluster, peers: &[Peer]) -> Resolved {
    let inherited = if cluster.spec.gateway {
        Inherited::external(3, IMAGE)
    } else {
        Inherited::of(cluster, IMAGE)
    };
    let name = cluster.metadata.name.as_deref().expect("a name");
    Resolved {
        settings: from_cluster(cluster, &inherited, peers).expect("settings"),
        image: IMAGE.to_owned(),
        rpc_secret: SecretKeyRef::rpc_secret(name, &cluster.spec),
        admin_secret: SecretKeyRef::admin_token(name, &cluster.spec),
        node_keys_secret: names::node_keys(name),
        secrets_hash: secrets::hash(&[Some(b"rpc"), Some(b"admin")]),
        rpc_secret_hash: secrets::hash(&[Some(b"rpc")]),
        replicas: u32::try_from(cluster.spec.replicas).expect("a number"),
    }
}

fn objects(cluster: &GarageCluster) -> Value {
    let workload = Workload::from_cluster(cluster, &resolved(cluster, &[])).expect("a workload");
    serde_json::to_value(of_cluster(&workload)).expect("JSON")
}

fn refused(cluster: &GarageCluster) -> Vec<Problem> {
    Workload::from_cluster(cluster, &resolved(cluster, &[])).expect_err("must be refused")
}

fn golden(name: &str, document: &Value) {
    let path = format!("tests/goldens/objects/{name}.json");
    if std::env::var_os("UPDATE").is_some() {
        let text = serde_json::to_string_pretty(document).expect("JSON") + "\n";
        fs::write(&path, text).expect("the golden can be written");
    }
    let golden = fs::read_to_string(&path).expect("the golden; UPDATE=1 writes it");
    let golden: Value = serde_json::from_str(&golden).expect("the golden is JSON");
    assert_eq!(
        *document, golden,
        "{name}.json differs; run with UPDATE=1 and look at the difference"
    );
}

/// Paths of nulls, empty maps and empty lists.
fn hollow(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Null => found.push(path.to_owned()),
        Value::Object(map) if map.is_empty() => found.push(path.to_owned()),
        Value::Array(list) if list.is_empty() => found.push(path.to_owned()),
        Value::Object(map) => map
            .iter()
            .for_each(|(key, value)| hollow(value, &format!("{path}.{key}"), found)),
        Value::Array(list) => list
            .iter()
            .for_each(|value| hollow(value, &format!("{path}[]"), found)),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn assert_no_hollow(value: &Value) {
    let mut found = Vec::new();
    hollow(value, "", &mut found);
    assert!(found.is_empty(), "{found:?} in {value:#}");
}

#[test]
fn the_specified_manifests() {
    let folder = Path::new("tests/goldens/config");
    for name in ["storage", "gateway", "external"] {
        let manifest =
            fs::read_to_string(folder.join(format!("{name}.yaml"))).expect("the manifest");
        let mut cluster: GarageCluster =
            serde_saphyr::from_str(&manifest).expect("a GarageCluster");
        cluster.metadata.uid = Some("5f0c6f0a-0000-4000-8000-000000000001".to_owned());
        let document = objects(&cluster);
        assert_no_hollow(&document);
        golden(name, &document);
    }
}

#[test]
fn a_gateway_is_a_deployment_without_claims() {
    let document = objects(&gateway(json!({"replicas": 5})));
    assert!(document.get("statefulSet").is_none());
    let spec = &document["deployment"]["spec"];
    assert_eq!(spec["replicas"], 5);
    let pod = &spec["template"]["spec"];
    assert_eq!(
        pod["schedulingGates"],
        json!([{"name": "garage.rajsingh.info/slot"}])
    );
    assert_eq!(
        pod["readinessGates"],
        json!([{"conditionType": "garage.rajsingh.info/synced"}])
    );
    let text = document.to_string();
    assert!(
        !text.contains("persistentVolumeClaim") && !text.contains("volumeClaimTemplates"),
        "{text}"
    );
    let services: Vec<_> = document["services"]
        .as_array()
        .expect("services")
        .iter()
        .map(|s| s["metadata"]["name"].clone())
        .collect();
    assert_eq!(services, ["c", "c-admin"]);
}

#[test]
fn selectors_are_the_fixed_labels() {
    let labels = json!({"team": "a"});
    for (cluster, set, component) in [
        (
            cluster(json!({"podLabels": labels})),
            "statefulSet",
            "storage",
        ),
        (
            gateway(json!({"podLabels": labels})),
            "deployment",
            "gateway",
        ),
    ] {
        let document = objects(&cluster);
        let fixed = json!({
            "app.kubernetes.io/name": "garage",
            "app.kubernetes.io/instance": "c",
            "app.kubernetes.io/component": component,
        });
        assert_eq!(
            document[set]["spec"]["selector"],
            json!({"matchLabels": fixed})
        );
        assert_eq!(
            document["budget"]["spec"]["selector"],
            json!({"matchLabels": fixed})
        );
        for service in document["services"].as_array().expect("services") {
            assert_eq!(service["spec"]["selector"], fixed);
        }
        assert_eq!(
            document[set]["spec"]["template"]["metadata"]["labels"]["team"],
            "a"
        );
        assert!(document[set]["metadata"]["labels"].get("team").is_none());
        let owner = &document[set]["metadata"]["ownerReferences"];
        assert_eq!(
            *owner,
            json!([{
                "apiVersion": "garage.rajsingh.info/v1alpha1", "kind": "GarageCluster", "name": "c", "uid": "8d2b",
                "controller": true, "blockOwnerDeletion": true,
            }])
        );
    }
}

/// JSON pointers into the objects of a cluster with this spec, and what is there.
#[test]
fn each_field_reaches_its_object() {
    const POD: &str = "/statefulSet/spec/template/spec";
    const BOX: &str = "/statefulSet/spec/template/spec/containers/0";
    const META: &str = "/statefulSet/spec/template/metadata";
    let toleration = json!([{"key": "k", "operator": "Exists"}]);
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}}});
    let spread =
        json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]);
    for (spec, pointer, expected) in [
        (
            json!({"replicas": 4}),
            "/statefulSet/spec/replicas".to_owned(),
            json!(4),
        ),
        (
            json!({"image": "x/y:1"}),
            format!("{BOX}/image"),
            json!("x/y:1"),
        ),
        (json!({}), format!("{BOX}/image"), json!(IMAGE)),
        (
            json!({"imagePullPolicy": "Always"}),
            format!("{BOX}/imagePullPolicy"),
            json!("Always"),
        ),
        (
            json!({"imagePullSecrets": [{"name": "s"}]}),
            format!("{POD}/imagePullSecrets"),
            json!([{"name": "s"}]),
        ),
        (
            json!({"resources": {"limits": {"memory": "1Gi"}}}),
            format!("{BOX}/resources"),
            json!({"limits": {"memory": "1Gi"}}),
        ),
        (
            json!({"env": [{"name": "A", "value": "b"}]}),
            format!("{BOX}/env/4"),
            json!({"name": "A", "value": "b"}),
        ),
        (
            json!({"logging": {"level": "debug"}}),
            format!("{BOX}/env/4"),
            json!({"name": "RUST_LOG", "value": "netapp=debug,garage=debug"}),
        ),
        (
            json!({"logging": {"level": "garage_api=trace"}}),
            format!("{BOX}/env/4/value"),
            json!("garage_api=trace"),
        ),
        (
            json!({"logging": {"level": "info"}, "env": [{"name": "RUST_LOG", "value": "x"}]}),
            format!("{BOX}/env/4/value"),
            json!("x"),
        ),
        (
            json!({"podLabels": {"a": "b"}}),
            format!("{META}/labels/a"),
            json!("b"),
        ),
        (
            json!({"podAnnotations": {"a": "b"}}),
            format!("{META}/annotations/a"),
            json!("b"),
        ),
        (
            json!({"nodeSelector": {"a": "b"}}),
            format!("{POD}/nodeSelector"),
            json!({"a": "b"}),
        ),
        (
            json!({"affinity": affinity}),
            format!("{POD}/affinity"),
            affinity.clone(),
        ),
        (
            json!({"affinity": {}}),
            format!("{POD}/affinity"),
            Value::Null,
        ),
        (
            json!({"tolerations": toleration}),
            format!("{POD}/tolerations"),
            toleration.clone(),
        ),
        (
            json!({"topologySpreadConstraints": spread}),
            format!("{POD}/topologySpreadConstraints/0/topologyKey"),
            json!("zone"),
        ),
        (
            json!({"topologySpreadConstraints": spread}),
            format!(
                "{POD}/topologySpreadConstraints/0/labelSelector/matchLabels/app.kubernetes.io~1instance"
            ),
            json!("c"),
        ),
        (
            json!({"topologySpreadConstraints": spread}),
            format!("{POD}/affinity"),
            Value::Null,
        ),
        (
            json!({"priorityClassName": "p"}),
            format!("{POD}/priorityClassName"),
            json!("p"),
        ),
        (
            json!({"serviceAccountName": "s"}),
            format!("{POD}/serviceAccountName"),
            json!("s"),
        ),
        (
            json!({"serviceAccountName": "s"}),
            format!("{POD}/automountServiceAccountToken"),
            json!(false),
        ),
        (
            json!({"securityContext": {"runAsUser": 7}}),
            format!("{POD}/securityContext"),
            json!({"runAsUser": 7}),
        ),
        (
            json!({"securityContext": {}}),
            format!("{POD}/securityContext"),
            Value::Null,
        ),
        (
            json!({}),
            format!("{POD}/securityContext/runAsNonRoot"),
            json!(true),
        ),
        (
            json!({"containerSecurityContext": {"privileged": true}}),
            format!("{BOX}/securityContext"),
            json!({"privileged": true}),
        ),
        (
            json!({}),
            format!("{BOX}/securityContext/readOnlyRootFilesystem"),
            json!(true),
        ),
        (
            json!({"serviceAnnotations": {"a": "b"}}),
            "/services/0/metadata/annotations".to_owned(),
            json!({"a": "b"}),
        ),
        (
            json!({"serviceAnnotations": {"a": "b", "c": "d"}, "network": {"service": {"annotations": {"a": "x"}}}}),
            "/services/0/metadata/annotations".to_owned(),
            json!({"a": "x", "c": "d"}),
        ),
        (
            json!({"network": {"service": {"type": "NodePort"}}}),
            "/services/0/spec/type".to_owned(),
            json!("NodePort"),
        ),
        (
            json!({"network": {"service": {"type": "NodePort", "externalTrafficPolicy": "Local"}}}),
            "/services/0/spec/externalTrafficPolicy".to_owned(),
            json!("Local"),
        ),
        (
            json!({"network": {"service": {"type": "LoadBalancer", "loadBalancerIP": "10.0.0.1"}}}),
            "/services/0/spec/loadBalancerIP".to_owned(),
            json!("10.0.0.1"),
        ),
        (
            json!({"network": {"service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"]}}}),
            "/services/0/spec/loadBalancerSourceRanges".to_owned(),
            json!(["10.0.0.0/8"]),
        ),
        (
            json!({"network": {"rpcBindPort": 4901}}),
            "/services/2/spec/ports/0/port".to_owned(),
            json!(4901),
        ),
        (
            json!({"network": {"rpcSecretRef": {"name": "n", "key": "k"}}}),
            format!("{BOX}/env/2/valueFrom/secretKeyRef"),
            json!({"name": "n", "key": "k"}),
        ),
        (
            json!({}),
            format!("{BOX}/env/2/valueFrom/secretKeyRef"),
            json!({"name": "c-rpc-secret", "key": "rpc-secret"}),
        ),
        (
            json!({"admin": {"adminTokenSecretRef": {"name": "n", "key": "k"}}}),
            format!("{BOX}/env/3/valueFrom/secretKeyRef"),
            json!({"name": "n", "key": "k"}),
        ),
        (
            json!({}),
            format!("{BOX}/env/3/valueFrom/secretKeyRef"),
            json!({"name": "c-admin-token", "key": "admin-token"}),
        ),
        (
            json!({"admin": {"metricsTokenSecretRef": {"name": "n", "key": "k"}}}),
            format!("{BOX}/env/4"),
            json!({"name": "GARAGE_METRICS_TOKEN", "valueFrom": {"secretKeyRef": {"name": "n", "key": "k"}}}),
        ),
        (
            json!({"s3Api": {"bindPort": 1}}),
            "/services/0/spec/ports/0/port".to_owned(),
            json!(1),
        ),
        (
            json!({"webApi": {"bindPort": 1}}),
            "/services/0/spec/ports/1".to_owned(),
            json!({"name": "web", "port": 1, "targetPort": "web", "protocol": "TCP"}),
        ),
        (
            json!({"k2vApi": {"bindPort": 1}}),
            "/services/0/spec/ports/1".to_owned(),
            json!({"name": "k2v", "port": 1, "targetPort": "k2v", "protocol": "TCP"}),
        ),
        (
            json!({"k2vApi": {"enabled": false}}),
            "/services/0/spec/ports/1".to_owned(),
            Value::Null,
        ),
        (
            json!({"admin": {"bindPort": 1}}),
            "/services/1/spec/ports/0/port".to_owned(),
            json!(1),
        ),
        (
            json!({"podDisruptionBudget": {"enabled": false}}),
            "/budget".to_owned(),
            Value::Null,
        ),
        (
            json!({}),
            "/budget/spec/maxUnavailable".to_owned(),
            json!(1),
        ),
        (
            json!({"podDisruptionBudget": {"maxUnavailable": "25%"}}),
            "/budget/spec/maxUnavailable".to_owned(),
            json!("25%"),
        ),
        (
            json!({"podDisruptionBudget": {"minAvailable": "2"}}),
            "/budget/spec/minAvailable".to_owned(),
            json!(2),
        ),
        (
            json!({"storage": {"pvcRetentionPolicy": {"whenDeleted": "Delete"}}}),
            "/statefulSet/spec/persistentVolumeClaimRetentionPolicy".to_owned(),
            json!({"whenDeleted": "Delete", "whenScaled": "Retain"}),
        ),
        (
            json!({"storage": {"metadata": {"size": "2Gi", "storageClassName": "fast"}}}),
            "/statefulSet/spec/volumeClaimTemplates/0/spec".to_owned(),
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}, "storageClassName": "fast"}),
        ),
        (
            json!({"storage": {"data": {"storageClassName": "slow"}}}),
            "/statefulSet/spec/volumeClaimTemplates/1/spec/storageClassName".to_owned(),
            json!("slow"),
        ),
        (
            json!({"storage": {"data": {"size": null, "paths": [{"path": "/a", "capacity": "1Gi"}]}}}),
            "/statefulSet/spec/volumeClaimTemplates/1/metadata/name".to_owned(),
            json!("data-a"),
        ),
        (
            json!({"storage": {"data": {"size": null, "paths": [{"path": "/a", "capacity": "1Gi"}]}}}),
            format!("{BOX}/volumeMounts/1"),
            json!({"name": "data-a", "mountPath": "/a"}),
        ),
        (
            json!({"layoutPolicy": "Manual"}),
            "/statefulSet".to_owned(),
            Value::Null,
        ),
        (
            json!({"publicEndpoint": {"type": "LoadBalancer", "loadBalancer": {"perNode": true}}}),
            "/services/6".to_owned(),
            Value::Null,
        ),
        (
            json!({"publicEndpoint": {"type": "LoadBalancer", "loadBalancer": {"perNode": true}}}),
            "/services/5/spec/type".to_owned(),
            json!("LoadBalancer"),
        ),
        (
            json!({"publicEndpoint": {"type": "LoadBalancer", "loadBalancer": {"perNode": true, "annotations": {"a": "b"}}}}),
            "/services/4/metadata/annotations".to_owned(),
            json!({"a": "b"}),
        ),
        (
            json!({"publicEndpoint": {"type": "NodePort", "nodePort": {"basePort": 30000, "externalAddresses": ["h"]}}}),
            "/services/4/spec/ports/0/nodePort".to_owned(),
            json!(30001),
        ),
        (
            json!({"publicEndpoint": {"type": "NodePort", "nodePort": {"basePort": 30000, "externalAddresses": ["h"]}}}),
            "/services/4/spec/selector/apps.kubernetes.io~1pod-index".to_owned(),
            json!("1"),
        ),
        (
            json!({"publicEndpoint": {"type": "NodePort", "nodePort": {"basePort": 30000, "externalAddresses": ["h"]}}}),
            format!("{BOX}/env/1/value"),
            json!("/etc/garage/slot-$(GARAGE_SLOT).toml"),
        ),
        (
            json!({"publicEndpoint": {"type": "Headless"}}),
            "/services/3".to_owned(),
            Value::Null,
        ),
    ] {
        let document = objects(&cluster(spec.clone()));
        let got = document.pointer(&pointer).cloned().unwrap_or_default();
        assert_eq!(got, expected, "{spec} at {pointer}");
        assert_no_hollow(&document);
    }
}

#[test]
fn what_kubernetes_would_refuse() {
    for (spec, field, words) in [
        (
            json!({"podLabels": {"app.kubernetes.io/name": "x"}}),
            "spec.podLabels",
            "is reserved",
        ),
        (
            json!({"podLabels": {"garage.rajsingh.info/x": "x"}}),
            "spec.podLabels",
            "is reserved",
        ),
        (
            json!({"podLabels": {"pod-template-hash": "x"}}),
            "spec.podLabels",
            "is reserved",
        ),
        (
            json!({"podAnnotations": {"garage.rajsingh.info/slot": "1"}}),
            "spec.podAnnotations",
            "is reserved",
        ),
        (
            json!({"env": [{"name": "GARAGE_RPC_SECRET", "value": "x"}]}),
            "spec.env",
            "set by the operator",
        ),
        (
            json!({"network": {"service": {"externalTrafficPolicy": "Local"}}}),
            "spec.network.service.externalTrafficPolicy",
            "needs the type",
        ),
        (
            json!({"network": {"service": {"type": "NodePort", "externalTrafficPolicy": "x"}}}),
            "spec.network.service.externalTrafficPolicy",
            "neither Cluster",
        ),
        (
            json!({"network": {"service": {"loadBalancerIP": "1.1.1.1"}}}),
            "spec.network.service.loadBalancerIP",
            "needs the type",
        ),
        (
            json!({"network": {"service": {"type": "NodePort", "loadBalancerSourceRanges": ["a"]}}}),
            "spec.network.service.loadBalancerSourceRanges",
            "needs the type",
        ),
        (
            json!({"podDisruptionBudget": {"maxUnavailable": "x"}}),
            "spec.podDisruptionBudget.maxUnavailable",
            "neither a number",
        ),
        (
            json!({"podDisruptionBudget": {"minAvailable": "101%"}}),
            "spec.podDisruptionBudget.minAvailable",
            "neither a number",
        ),
        (
            json!({"podDisruptionBudget": {"minAvailable": "1", "maxUnavailable": "1"}}),
            "spec.podDisruptionBudget",
            "either",
        ),
        (
            json!({"logging": {"syslog": true}}),
            "spec.logging.syslog",
            "no such daemon",
        ),
        (
            json!({"logging": {"journald": true}}),
            "spec.logging.journald",
            "no such daemon",
        ),
        (
            json!({"publicEndpoint": {"type": "LoadBalancer"}}),
            "spec.publicEndpoint.loadBalancer.perNode",
            "must be true",
        ),
    ] {
        let problems = refused(&cluster(spec.clone()));
        let found = problems
            .iter()
            .any(|p| p.field == field && p.message.contains(words));
        assert!(found, "{spec}: {problems:?}");
    }
}

#[test]
fn scaling_or_new_peers_do_not_change_the_template() {
    let peer = Peer {
        id: NodeKey::from_seed([1; 32]).id(),
        host: "h".to_owned(),
        port: 3901,
    };
    let template = |replicas: i32, peers: &[Peer]| {
        let cluster = gateway(json!({"replicas": replicas}));
        let workload =
            Workload::from_cluster(&cluster, &resolved(&cluster, peers)).expect("a workload");
        of_cluster(&workload)
            .deployment
            .and_then(|d| d.spec)
            .expect("a Deployment")
            .template
    };
    assert_eq!(template(2, &[]), template(5, &[peer]));
}

#[test]
fn nodes_have_a_pod_of_their_own() {
    let cluster = cluster(json!({
        "layoutPolicy": "Manual",
        "storage": {"data": {"size": null}},
        "tolerations": [{"key": "of-cluster", "operator": "Exists"}],
        "podLabels": {"team": "a"},
    }));
    let node = |spec: Value| -> GarageNode {
        let mut base = json!({"clusterRef": {"name": "c"}, "zone": "z"});
        base.as_object_mut()
            .expect("a map")
            .extend(spec.as_object().expect("a map").clone());
        serde_json::from_value(json!({
            "apiVersion": "garage.rajsingh.info/v1alpha1",
            "kind": "GarageNode",
            "metadata": {"name": "n", "namespace": "ns", "uid": "77"},
            "spec": base,
        }))
        .expect("a GarageNode")
    };
    let mut resolved = resolved(&cluster, &[]);
    resolved.node_keys_secret = names::node_keys(&names::node_workload("n"));
    let built = |spec: Value| {
        let workload = Workload::from_node(&node(spec), &cluster, &resolved)?;
        Ok::<_, Vec<Problem>>(serde_json::to_value(of_node(&workload)).expect("JSON"))
    };
    let document = built(json!({
        "capacity": "50Gi",
        "image": "x/y:1",
        "nodeSelector": {"disk": "big"},
        "podLabels": {"rack": "1"},
        "podAnnotations": {"a": "b"},
        "priorityClassName": "p",
        "resources": {"limits": {"memory": "1Gi"}},
        "storage": {"metadata": {"existingClaim": "old-meta"}, "data": {"storageClassName": "slow"}},
    }))
    .expect("a StatefulSet");
    assert_no_hollow(&document);
    golden("node", &document);

    let pod = |document: &Value| document["statefulSet"]["spec"]["template"]["spec"].clone();
    let other = built(json!({
        "capacity": "1Gi",
        "tolerations": [{"key": "own", "operator": "Exists"}],
        "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "t"}]}},
        "storage": {"data": {"existingClaim": "old"}, "metadata": {"size": "1Gi"}},
    }));
    let other = pod(&other.expect("a StatefulSet"));
    assert_eq!(other["tolerations"][0]["key"], "own");
    assert!(other["affinity"]["podAffinity"].is_object());

    let gateway = built(json!({"gateway": true})).expect("a StatefulSet");
    assert!(
        gateway["statefulSet"]["spec"]
            .get("volumeClaimTemplates")
            .is_none()
    );
    assert!(pod(&gateway).get("schedulingGates").is_none());

    for (spec, field, words) in [
        (json!({}), "spec.storage.data.size", "how large"),
        (
            json!({"external": {"address": "a"}}),
            "spec",
            "exists already",
        ),
        (
            json!({"podSelector": {"name": "p"}}),
            "spec",
            "exists already",
        ),
        (
            json!({"capacity": "1Gi", "podLabels": {"app.kubernetes.io/name": "x"}}),
            "spec.podLabels",
            "is reserved",
        ),
    ] {
        let problems = built(spec.clone()).expect_err("must be refused");
        let found = problems
            .iter()
            .any(|p| p.field == field && p.message.contains(words));
        assert!(found, "{spec}: {problems:?}");
    }
}

#[test]
fn secrets_hold_what_garage_takes() {
    let gateway = gateway(json!({}));
    let owner = Owner::of(&gateway);
    let secret = secrets::rpc_secret(&owner, &Redacted::new("ab".repeat(32)));
    assert_eq!(secret.metadata.name.as_deref(), Some("c-rpc-secret"));
    assert_eq!(
        secret.data.expect("data")["rpc-secret"].0,
        "ab".repeat(32).into_bytes()
    );
    let secret = secrets::admin_token(&owner, &Redacted::new("token".to_owned()));
    assert_eq!(secret.metadata.name.as_deref(), Some("c-admin-token"));
    assert_eq!(
        secret.metadata.owner_references,
        Some(vec![owner.reference.clone()])
    );
    let keys = SlotKeys {
        keys: [
            (0, NodeKey::from_seed([1; 32])),
            (2, NodeKey::from_seed([2; 32])),
        ]
        .into(),
        ..SlotKeys::default()
    };
    let secret = secrets::node_keys(&owner, names::node_keys("c"), &keys);
    assert_eq!(SlotKeys::read(&secret.data.expect("data")), keys);
    assert!(
        secrets::node_keys(&owner, names::node_keys("c"), &SlotKeys::default())
            .data
            .is_none()
    );

    assert!(secrets::is_mirrored(owner.tier, &gateway.spec));
    assert!(!secrets::is_mirrored(
        Tier::Storage,
        &cluster(json!({})).spec
    ));
    for (text, rpc, token) in [
        ("ab".repeat(32), true, true),
        ("ab".repeat(31), false, true),
        ("xy".repeat(32), false, true),
        ("a.b".to_owned(), false, false),
        ("a b".to_owned(), false, false),
        (String::new(), false, false),
    ] {
        assert_eq!(
            (
                secrets::is_rpc_secret(&text),
                secrets::is_admin_token(&text)
            ),
            (rpc, token),
            "{text}"
        );
    }
    assert_ne!(secrets::hash(&[None]), secrets::hash(&[Some(b"")]));
    assert_ne!(
        secrets::hash(&[Some(b"a"), Some(b"b")]),
        secrets::hash(&[Some(b"ab"), Some(b"")])
    );
}
