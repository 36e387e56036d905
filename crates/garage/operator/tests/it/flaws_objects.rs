//! Flaws of the objects that a cluster is made of, as the apiserver has them. The numbers are those of the
//! research note's table.

use crate::grants::crd;
use crate::pods::joined;
use crate::rig::{PATIENCE, Rig, condition};
use gatewright_controller::Namespaces;
use gatewright_garage::api;
use gatewright_testkit::{Cluster, await_condition};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The container of a Deployment's pods.
fn container(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]["containers"][0]
}

fn annotations(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["metadata"]["annotations"]
}

#[tokio::test]
async fn flaw_7_every_change_reaches_the_deployment_and_what_others_set_stays() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    rig.run_clusters();
    let made = rig
        .until_object("Deployment", "c", "it is made", |_| true)
        .await;
    // As `kubectl rollout restart` does it, and somebody's own field.
    let theirs = json!({
        "metadata": { "annotations": { "example.com/theirs": "kept" } },
        "spec": { "progressDeadlineSeconds": 321, "template": {
            "metadata": { "annotations": { "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z" } },
        } },
    });
    let params = PatchParams {
        field_manager: Some("somebody".into()),
        ..PatchParams::default()
    };
    let patched = rig
        .api("Deployment")
        .patch("c", &params, &Patch::Merge(&theirs))
        .await;
    patched.expect("a change");

    let mut spec = rig.gateways(1);
    spec["image"] = json!("example.com/garage:v2.5.0");
    spec["resources"] = json!({ "requests": { "memory": "64Mi" } });
    spec["nodeSelector"] = json!({ "disk": "none" });
    spec["env"] = json!([{ "name": "RUST_BACKTRACE", "value": "1" }]);
    spec["s3Api"] = json!({ "region": "elsewhere" });
    rig.apply("GarageCluster", "c", spec).await;
    let changed = rig
        .until_object("Deployment", "c", "the changes", |deployment| {
            let pod = &deployment["spec"]["template"]["spec"];
            let container = container(deployment);
            let env = container["env"].as_array().cloned().unwrap_or_default();
            container["image"] == "example.com/garage:v2.5.0"
                && container["resources"]["requests"]["memory"] == "64Mi"
                && pod["nodeSelector"]["disk"] == "none"
                && env.contains(&json!({ "name": "RUST_BACKTRACE", "value": "1" }))
                && annotations(deployment)[api::ANNOTATION_CONFIG_HASH]
                    != annotations(&made)[api::ANNOTATION_CONFIG_HASH]
        })
        .await;
    let kept = |deployment: &Value| {
        let theirs = "kubectl.kubernetes.io/restartedAt";
        assert_eq!(annotations(deployment)[theirs], "2026-01-01T00:00:00Z");
        assert_eq!(deployment["spec"]["progressDeadlineSeconds"], 321);
        let own = &deployment["metadata"]["annotations"];
        assert_eq!(own["example.com/theirs"], "kept");
    };
    kept(&changed);
    // What is no longer asked for goes, because the field is ours.
    rig.apply("GarageCluster", "c", rig.gateways(1)).await;
    let back = rig
        .until_object("Deployment", "c", "without them", |deployment| {
            let pod = &deployment["spec"]["template"]["spec"];
            pod.get("nodeSelector").is_none()
                && container(deployment)["image"] == container(&made)["image"]
        })
        .await;
    kept(&back);
    assert_eq!(back["metadata"]["uid"], made["metadata"]["uid"]);
    let managers = back["metadata"]["managedFields"].as_array().expect("them");
    let ours: Vec<_> = managers
        .iter()
        .filter(|one| one["manager"] == "gatewright/garage")
        .collect();
    assert!(
        matches!(ours[..], [one] if one["operation"] == "Apply"),
        "{ours:#?}"
    );
}

#[tokio::test]
async fn flaw_7_an_autoscalers_replicas_stay_and_peers_replace_no_pod() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    rig.run_clusters();
    rig.until_object("Deployment", "c", "it is made", |_| true)
        .await;
    let params = PatchParams {
        field_manager: Some("autoscaler".into()),
        ..PatchParams::default()
    };
    let scale = Patch::Merge(json!({ "spec": { "replicas": 3 } }));
    let scaled = rig
        .api("GarageCluster")
        .patch_scale("c", &params, &scale)
        .await;
    scaled.expect("the scale subresource");
    let scaled = |deployment: &Value| deployment["spec"]["replicas"] == 3;
    let before = rig
        .until_object("Deployment", "c", "three pods", scaled)
        .await;
    // The user's manifest, which says nothing of replicas and names one more peer.
    let mut spec = rig.gateways(1);
    spec.as_object_mut().expect("a spec").remove("replicas");
    let peer = format!("{}@192.0.2.1:3901", "ab".repeat(32));
    let peers = spec["connectTo"]["bootstrapPeers"].as_array_mut();
    peers.expect("peers").push(json!(peer));
    rig.apply("GarageCluster", "c", spec).await;
    rig.until_object("ConfigMap", "c-config", "the peer", |file| {
        let text = file["data"]["garage.toml"].as_str();
        text.is_some_and(|text| text.contains(&peer))
    })
    .await;
    rig.rests().await;
    let after = rig.object("Deployment", "c").await;
    assert!(scaled(&after), "{}", after["spec"]["replicas"]);
    assert_eq!(after["spec"]["template"], before["spec"]["template"]);
}

#[tokio::test]
async fn flaw_8_users_labels_are_on_pods_and_never_in_the_selector() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    let with = |labels: Value| {
        let mut spec = rig.gateways(1);
        spec["podLabels"] = labels;
        spec
    };
    rig.apply("GarageCluster", "c", with(json!({ "team": "a" })))
        .await;
    rig.run_clusters();
    let labelled = |team: &'static str| {
        move |deployment: &Value| {
            deployment["spec"]["template"]["metadata"]["labels"]["team"] == team
        }
    };
    let made = rig
        .until_object("Deployment", "c", "it is made", labelled("a"))
        .await;
    let selector = json!({ "matchLabels": {
        "app.kubernetes.io/name": "garage",
        "app.kubernetes.io/instance": "c",
        "app.kubernetes.io/component": "gateway",
    } });
    assert_eq!(made["spec"]["selector"], selector);
    // A selector cannot change: with these labels in it, the change would be refused for ever.
    rig.apply("GarageCluster", "c", with(json!({ "team": "b" })))
        .await;
    let changed = rig
        .until_object("Deployment", "c", "the label", labelled("b"))
        .await;
    assert_eq!(changed["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(changed["spec"]["selector"], selector);
    for key in ["app.kubernetes.io/instance", "garage.rajsingh.info/slot"] {
        let refused = rig
            .try_apply("GarageCluster", "c", with(json!({ key: "x" })))
            .await;
        let text = refused.expect_err(key).to_string();
        assert!(text.contains("podLabels may not have keys"), "{text}");
    }
}

/// Lets GarageClusters of the namespace `from` use those of `to`.
async fn grant(rig: &Rig, from: &str, to: &str) {
    let crds: Api<CustomResourceDefinition> = Api::all(rig.client.clone());
    let params = PatchParams::apply("user").force();
    let crd = crd();
    let installed = crds
        .patch(&crd.name_any(), &params, &Patch::Apply(&crd))
        .await;
    installed.expect("the kind of grants");
    let clusters = json!({ "group": api::GROUP, "kind": "GarageCluster" });
    let mut users = clusters.clone();
    users["namespace"] = json!(from);
    let grant = json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
        "metadata": { "name": "all" }, "spec": { "from": [users], "to": [clusters] },
    });
    let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1beta1", "ReferenceGrant");
    let resource = ApiResource::from_gvk(&kind);
    let grants: Api<DynamicObject> = Api::namespaced_with(rig.client.clone(), to, &resource);
    await_condition("the grant is made", PATIENCE, || async {
        let made = grants.patch("all", &params, &Patch::Apply(&grant)).await;
        made.is_ok()
    })
    .await;
}

#[tokio::test]
async fn flaw_9_the_rpc_secret_is_storages_own_and_follows_it_across_a_grant() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let far = cluster.namespace("wing").await;
    let widen = |options: &mut gatewright_garage_operator::Options| {
        let Namespaces::Only(names) = &mut options.namespaces else {
            panic!("the rig acts in its own namespace");
        };
        names.insert(far.clone());
    };
    let Some(mut rig) = Rig::with(1, widen).await else {
        return;
    };
    // It has its secret in a Secret of the user's, under a name that nobody can guess.
    rig.storage("m").await;
    let secret = rig.garage.rpc_secret().to_owned();
    let near = std::mem::replace(&mut rig.namespace, far.clone());
    let connect = json!({ "clusterRef": { "name": "m", "namespace": near } });
    let spec = json!({ "gateway": true, "replicas": 1, "connectTo": connect });
    rig.apply("GarageCluster", "g", spec).await;
    rig.run_clusters();
    rig.until("GarageCluster", "g", "a grant is missed", |status| {
        condition(status, "Ready") == Some(("False", "ReferenceNotGranted"))
    })
    .await;
    assert_eq!(rig.entries("g-rpc-secret").await, None);

    grant(&rig, &far, &near).await;
    let made = rig
        .until_object("Deployment", "g", "it is made", |_| true)
        .await;
    let copied = rig.entries("g-rpc-secret").await.expect("a copy");
    assert_eq!(
        copied.into_iter().collect::<Vec<_>>(),
        [("rpc-secret".to_owned(), secret)]
    );
    let copy = rig.object("Secret", "g-rpc-secret").await;
    let owner = &copy["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["name"]),
        (&json!("GarageCluster"), &json!("g"))
    );
    // By environment: Garage refuses a file that others may read, as Kubernetes mounts it.
    let env = container(&made)["env"].as_array().expect("variables");
    let set = json!({ "secretKeyRef": { "key": "rpc-secret", "name": "g-rpc-secret" } });
    assert!(
        env.contains(&json!({ "name": "GARAGE_RPC_SECRET", "valueFrom": set })),
        "{env:?}"
    );
    let volumes = made["spec"]["template"]["spec"]["volumes"].as_array();
    let secrets: Vec<_> = volumes
        .expect("volumes")
        .iter()
        .filter(|volume| !volume["secret"].is_null())
        .map(|volume| {
            (
                &volume["secret"]["secretName"],
                &volume["secret"]["defaultMode"],
            )
        })
        .collect();
    assert_eq!(secrets, [(&json!("g-node-keys"), &json!(0o440))]);

    // A new one reaches the copy, and by its hash the pods.
    let renewed = "cd".repeat(32);
    rig.namespace = near;
    rig.secret("rpc", json!({ "secret": renewed })).await;
    rig.namespace = far;
    await_condition("the copy is renewed", PATIENCE, || async {
        let copied = rig.entries("g-rpc-secret").await.expect("a copy");
        copied["rpc-secret"] == renewed
    })
    .await;
    let hash = "garage.rajsingh.info/secrets-hash";
    rig.until_object("Deployment", "g", "its pods are replaced", |deployment| {
        annotations(deployment)[hash] != annotations(&made)[hash]
    })
    .await;
}

#[tokio::test]
async fn flaw_16_each_service_has_its_own_pods_and_no_others() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    let alike = json!({ "app": "garage" });
    let storage = json!({
        "replicas": 1, "replication": { "factor": 1 }, "storage": { "data": { "size": "1Gi" } },
        "podLabels": alike,
    });
    rig.apply("GarageCluster", "s", storage).await;
    for name in ["c", "d"] {
        let mut spec = rig.gateways(1);
        spec["podLabels"] = alike.clone();
        spec["webApi"] = json!({});
        rig.apply("GarageCluster", name, spec).await;
    }
    rig.run_clusters();
    rig.pod("Deployment", "c", "c-a").await;
    rig.pod("Deployment", "d", "d-a").await;
    rig.pod("StatefulSet", "s", "s-0").await;
    let services: [(&str, &str, &[&str]); 7] = [
        ("c", "c-a", &["s3", "web"]),
        ("c-admin", "c-a", &["admin"]),
        ("d", "d-a", &["s3", "web"]),
        ("d-admin", "d-a", &["admin"]),
        ("s", "s-0", &["s3"]),
        ("s-admin", "s-0", &["admin"]),
        ("s-headless", "s-0", &["rpc"]),
    ];
    for (name, pod, ports) in services {
        let service = rig
            .until_object("Service", name, "it is made", |_| true)
            .await;
        let spec = &service["spec"];
        // As the apiserver understands the selector.
        let selector = spec["selector"].as_object().expect("a selector");
        let labels: Vec<String> = selector
            .iter()
            .map(|(key, value)| format!("{key}={}", value.as_str().expect("text")))
            .collect();
        let params = ListParams::default().labels(&labels.join(","));
        let found = rig.api("Pod").list(&params).await.expect("pods");
        let found: Vec<String> = found.items.iter().map(|pod| pod.name_any()).collect();
        assert_eq!(found, [pod], "{name}");
        let open = spec["ports"].as_array().expect("ports").iter();
        let open: BTreeSet<_> = open.filter_map(|port| port["name"].as_str()).collect();
        let expected: BTreeSet<&str> = ports.iter().copied().collect();
        assert_eq!(open, expected, "{name}");
        assert_eq!(spec["type"], "ClusterIP", "{name}");
        // Only nodes that look for each other are to find those that do not serve.
        let early = spec["publishNotReadyAddresses"] == true;
        assert_eq!(early, name == "s-headless", "{name}");
        assert_eq!(spec["clusterIP"] == "None", name == "s-headless", "{name}");
    }
    let all = rig.api("Service").list(&ListParams::default()).await;
    assert_eq!(all.expect("Services").items.len(), services.len());
    rig.until("GarageCluster", "c", "its role", |status| joined(status, 1))
        .await;
}
