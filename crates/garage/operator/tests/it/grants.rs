//! ReferenceGrants as the apiserver serves them.

use crate::rig::{PATIENCE, condition};
use gatewright_controller::crds::install;
use gatewright_controller::{Ctx, Namespaces};
use gatewright_garage::api;
use gatewright_garage_operator::{Operator, Options, Watches, cluster};
use gatewright_testkit::{Cluster, await_condition};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

fn of(client: &Client, namespace: &str, version: (&str, &str), kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(version.0, version.1, kind);
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk(&kind))
}

/// The kind as older releases of the Gateway API have it.
pub(crate) fn crd() -> CustomResourceDefinition {
    let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "referencegrants.gateway.networking.k8s.io",
            "annotations": { "api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api" },
        },
        "spec": {
            "group": "gateway.networking.k8s.io", "scope": "Namespaced",
            "names": { "kind": "ReferenceGrant", "plural": "referencegrants" },
            "versions": [{ "name": "v1beta1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } }],
        },
    });
    serde_json::from_value(crd).expect("a CRD")
}

#[tokio::test]
async fn a_grant_counts_where_only_its_older_version_is_served() {
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    let client = cluster.client();
    install(&client, &api::crds(), 1).await.expect("the CRDs");
    let (there, here) = (
        cluster.namespace("there").await,
        cluster.namespace("here").await,
    );
    let apply = async |namespace: &str, name: &str, spec: Value| {
        let object = json!({
            "apiVersion": api::API_VERSION, "kind": "GarageCluster", "metadata": { "name": name }, "spec": spec,
        });
        let clusters = of(
            &client,
            namespace,
            (api::GROUP, api::VERSION),
            "GarageCluster",
        );
        let params = PatchParams::apply("user").force();
        let applied = clusters.patch(name, &params, &Patch::Apply(&object)).await;
        applied.expect("a GarageCluster");
    };
    let storage = json!({ "replicas": 1, "storage": { "data": { "size": "1Gi" } } });
    apply(&there, "s", storage).await;
    let connect = json!({ "clusterRef": { "name": "s", "namespace": there } });
    let gateway = json!({ "gateway": true, "replicas": 1, "connectTo": connect });
    apply(&here, "g", gateway).await;
    let operator = Operator::new(
        Ctx::new(client.clone(), "garage", None),
        Options {
            namespaces: Namespaces::All,
            ..Options::default()
        },
    );
    let cancel = CancellationToken::new();
    let (watches, fed) = Watches::new(&operator, cancel.clone());
    let controller = cluster::run(Arc::new(operator), &watches, cancel.clone());
    let controller = tokio::spawn(async { tokio::join!(controller, fed) });
    let reason = async || {
        let clusters = of(&client, &here, (api::GROUP, api::VERSION), "GarageCluster");
        let object = clusters.get("g").await.ok()?;
        let (_, reason) = condition(&object.data["status"], "Ready")?;
        Some(reason.to_owned())
    };
    await_condition("nothing is granted without the kind", PATIENCE, || async {
        reason().await.as_deref() == Some("ReferenceNotGranted")
    })
    .await;
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    crds.create(&PostParams::default(), &crd())
        .await
        .expect("a CRD");
    let from = json!({ "group": api::GROUP, "kind": "GarageCluster", "namespace": here });
    let to = json!({ "group": api::GROUP, "kind": "GarageCluster" });
    let version = ("gateway.networking.k8s.io", "v1beta1");
    let grant = json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
        "metadata": { "name": "all" }, "spec": { "from": [from], "to": [to] },
    });
    let grant: DynamicObject = serde_json::from_value(grant).expect("a grant");
    let grants = of(&client, &there, version, "ReferenceGrant");
    await_condition("the grant is made", PATIENCE, || async {
        grants.create(&PostParams::default(), &grant).await.is_ok()
    })
    .await;
    await_condition("it is granted", PATIENCE, || async {
        let reason = reason().await;
        reason.is_some_and(|reason| reason != "ReferenceNotGranted")
    })
    .await;
    cancel.cancel();
    controller.await.expect("the controller ends");
}
