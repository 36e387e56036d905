//! GarageClusters between a real apiserver and a real Garage, as far as no pod has to run.

use crate::pods::joined;
use crate::rig::{PATIENCE, Rig, condition};
use gatewright_controller::Namespaces;
use gatewright_garage_operator::{KEPT_TOKENS, Options};
use gatewright_testkit::await_condition;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

#[tokio::test]
async fn staged_changes_are_previewed_until_they_are_approved() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    rig.run_clusters();
    rig.until("GarageCluster", "c", "its role", |status| {
        status["gateways"][0]["inLayout"] == true
    })
    .await;
    let mut spec = rig.gateways(2);
    spec["layoutManagement"] = json!({ "autoApply": false });
    rig.apply("GarageCluster", "g", spec).await;
    let status = rig
        .until("GarageCluster", "g", "approval is asked for", |status| {
            condition(status, "Ready") == Some(("False", "ApprovalNeeded"))
        })
        .await;
    let mut nodes: Vec<_> = status["gateways"]
        .as_array()
        .expect("slots")
        .iter()
        .map(|slot| slot["nodeId"].clone())
        .collect();
    nodes.sort_by_key(ToString::to_string);
    let preview = json!({
        "nodesAdded": nodes, "partitionTransfers": 0, "dataTransferEstimate": "0",
        "zonesAffected": ["dc1"],
    });
    assert_eq!(status["layoutPreview"], preview);
    rig.rests().await;
    let version = status["stagedLayoutVersion"].to_string();
    let approved = gatewright_garage::cluster::APPROVED;
    rig.annotate("GarageCluster", "g", approved, &version).await;
    let status = rig
        .until("GarageCluster", "g", "its roles", |status| {
            status["gateways"][1]["inLayout"] == true
        })
        .await;
    assert_eq!(status.get("layoutPreview"), None, "nothing is staged");
}

#[tokio::test]
async fn what_is_turned_off_is_deleted_and_what_is_foreign_stays() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    rig.run_clusters();
    let spec = |more: Value| {
        let mut spec = json!({ "replicas": 2, "storage": { "data": { "size": "1Gi" } } });
        let fields = more.as_object().cloned().unwrap_or_default();
        spec.as_object_mut().expect("a spec").extend(fields);
        spec
    };
    let balancers = json!({ "type": "LoadBalancer", "loadBalancer": { "perNode": true } });
    let public = spec(json!({ "publicEndpoint": balancers }));
    rig.apply("GarageCluster", "s", public).await;
    let services: Api<Service> = Api::namespaced(rig.client.clone(), &rig.namespace);
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(rig.client.clone(), &rig.namespace);
    let names = || async {
        let list = services
            .list(&ListParams::default())
            .await
            .expect("Services");
        let names = list.items.iter().map(ResourceExt::name_any);
        names
            .filter(|name| name.contains("-rpc-"))
            .collect::<Vec<_>>()
    };
    await_condition("public Services", PATIENCE, || async {
        names().await == ["s-rpc-0", "s-rpc-1"]
            && budgets.get_opt("s").await.expect("an answer").is_some()
    })
    .await;
    // Somebody else's, with our labels and a name of ours.
    let labels = services.get("s-rpc-0").await.expect("it").labels().clone();
    let foreign = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s-rpc-7", "labels": labels },
        "spec": { "ports": [{ "port": 1 }] },
    });
    let foreign: Service = serde_json::from_value(foreign).expect("a Service");
    let created = services.create(&PostParams::default(), &foreign).await;
    created.expect("another Service");
    let plain = spec(json!({ "podDisruptionBudget": { "enabled": false } }));
    rig.apply("GarageCluster", "s", plain).await;
    await_condition("what is turned off is gone", PATIENCE, || async {
        names().await == ["s-rpc-7"] && budgets.get_opt("s").await.expect("an answer").is_none()
    })
    .await;
    rig.rests().await;
}

#[tokio::test]
async fn gateways_of_a_cluster_of_garage_nodes_find_their_peers_and_join() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    rig.run_clusters();
    // It knows the same Garage by another name, and rests once it has its role.
    rig.until("GarageCluster", "c", "its role", |status| {
        status["gateways"][0]["inLayout"] == true
    })
    .await;
    rig.storage("m").await;
    let connect = json!({ "clusterRef": { "name": "m" } });
    let spec = json!({ "gateway": true, "replicas": 2, "connectTo": connect });
    rig.apply("GarageCluster", "g", spec).await;
    rig.until("GarageCluster", "g", "its roles", |status| {
        let slots = status["gateways"].as_array().cloned().unwrap_or_default();
        slots.len() == 2 && slots.iter().all(|slot| slot["inLayout"] == true)
    })
    .await;
    let files: Api<ConfigMap> = Api::namespaced(rig.client.clone(), &rig.namespace);
    let file = files.get("g-config").await.expect("a configuration");
    let text = file
        .data
        .and_then(|mut data| data.remove("garage.toml"))
        .expect("it");
    assert!(text.contains(&rig.garage.peers()[0]), "{text}");
}

#[tokio::test]
async fn roles_elsewhere_go_also_when_the_token_went_first_and_the_operator_ended() {
    let beside = |options: &mut Options| {
        let Namespaces::Only(names) = &options.namespaces else {
            return;
        };
        options.own_namespace = names.first().cloned();
    };
    let Some(mut rig) = Rig::with(1, beside).await else {
        return;
    };
    rig.run_clusters();
    rig.until("GarageCluster", "c", "its role", |status| joined(status, 1))
        .await;
    let kept = rig.entries(KEPT_TOKENS).await.expect("a Secret");
    let entry = format!("{}_c", rig.namespace);
    let admin = rig.entries("admin").await.expect("a Secret");
    assert_eq!(kept.get(&entry), admin.get("token"));
    rig.stop();
    rig.delete("Secret", "admin").await;
    rig.delete("GarageCluster", "c").await;
    rig.start_again();
    rig.gone("GarageCluster", "c").await;
    let layout = rig.admin().get_cluster_layout().await.expect("a layout");
    assert_eq!(layout.roles.len(), 1, "storage alone: {:?}", layout.roles);
    await_condition("the token is forgotten", PATIENCE, || async {
        let kept = rig.entries(KEPT_TOKENS).await;
        kept.is_some_and(|kept| kept.is_empty())
    })
    .await;
}
