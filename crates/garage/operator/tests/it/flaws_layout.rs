//! Flaws of a layout that everybody changes as he likes: factor, zone, whom to ask, and what others have
//! staged. The numbers are those of the research note's table.

use crate::admin::{bucket_and_key, client, client_with, id_of};
use crate::pods::{joined, slots};
use crate::rig::{PATIENCE, Rig, condition, message};
use gatewright_garage::admin::{LayoutChange, StagedRoleChange};
use gatewright_testkit::await_condition;
use gatewright_testkit::garage::{Garage, Setup};
use serde_json::{Value, json};

#[tokio::test]
async fn flaw_4_gateways_inherit_the_factor_and_none_starts_with_another() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    let mut wrong = rig.gateways(1);
    wrong["replication"] = json!({ "factor": 3 });
    rig.apply("GarageCluster", "wrong", wrong).await;
    rig.run_clusters();
    let status = rig
        .until("GarageCluster", "wrong", "it is refused", |status| {
            condition(status, "Ready") == Some(("False", "ReplicationFactorMismatch"))
        })
        .await;
    let text = message(&status, "Ready");
    assert!(
        text.contains("is 3, and the storage cluster keeps 1"),
        "{text}"
    );
    // The one that says nothing has what storage has.
    let file = rig
        .until_object("ConfigMap", "c-config", "it is made", |_| true)
        .await;
    let text = file["data"]["garage.toml"].as_str().expect("it");
    assert!(text.contains("replication_factor = 1\n"), "{text}");
    rig.rests().await;
    let layout = rig.admin().get_cluster_layout().await.expect("a layout");
    assert_eq!(layout.roles.len(), 2, "storage and the other gateway");
    assert_eq!(layout.staged_role_changes, []);
    for kind in ["Deployment", "ConfigMap", "Secret"] {
        let all = rig
            .api(kind)
            .list(&Default::default())
            .await
            .expect("a list");
        let names = all
            .items
            .iter()
            .filter_map(|one| one.metadata.name.as_deref());
        let made: Vec<_> = names.filter(|name| name.starts_with("wrong")).collect();
        assert!(made.is_empty(), "{kind}: {made:?}");
    }
}

#[tokio::test]
async fn flaw_5_a_gateway_is_in_a_zone_of_storage_and_a_zone_of_its_own_is_only_previewed() {
    let Some(rig) = Rig::start(3).await else {
        return;
    };
    rig.run_clusters();
    rig.until("GarageCluster", "c", "its role", |status| joined(status, 1))
        .await;
    let mut edge = rig.gateways(1);
    edge["zone"] = json!("edge");
    rig.apply("GarageCluster", "edge", edge.clone()).await;
    let status = rig
        .until("GarageCluster", "edge", "Garage refuses it", |status| {
            condition(status, "LayoutBlocked") == Some(("True", "RefusedByGarage"))
        })
        .await;
    let words = "number of zones with non-gateway nodes (1) is smaller than the redundancy";
    let text = message(&status, "LayoutBlocked");
    assert!(text.contains(words), "{text}");
    assert_eq!(
        condition(&status, "Ready"),
        Some(("False", "LayoutBlocked"))
    );
    await_condition("an Event says so", PATIENCE, || async {
        let events = rig.events("edge").await;
        let told =
            |(reason, text): &(String, String)| reason == "LayoutBlocked" && text.contains(words);
        events.iter().any(told)
    })
    .await;
    let layout = rig.admin().get_cluster_layout().await.expect("a layout");
    assert_eq!((layout.version, layout.roles.len()), (2, 4));
    assert_eq!(rig.object("Deployment", "edge").await, Value::Null);

    // Without a wish of its own it is where storage is.
    rig.apply("GarageCluster", "edge", rig.gateways(1)).await;
    rig.until("GarageCluster", "edge", "its role", |status| {
        joined(status, 1)
    })
    .await;
    let layout = rig.admin().get_cluster_layout().await.expect("a layout");
    assert_eq!((layout.version, layout.roles.len()), (3, 5));
    assert!(layout.roles.iter().all(|role| role.zone == "dc1"));
}

#[tokio::test]
async fn flaw_6_storage_is_asked_for_roles_and_never_a_gateway() {
    let Some(mut rig) = Rig::start(1).await else {
        return;
    };
    rig.apply("GarageCluster", "c", rig.running_gateways(1))
        .await;
    rig.run_clusters();
    let status = rig
        .until("GarageCluster", "c", "its role", |status| joined(status, 1))
        .await;
    // No pod has been there that could have been asked.
    assert!(slots(&status).iter().all(|slot| slot.get("pod").is_none()));
    assert_eq!(condition(&status, "LayoutJoined"), Some(("True", "Joined")));
    let gateway = rig.gateway("c", "c-a").await;
    rig.until("GarageCluster", "c", "it has all tables", |status| {
        slots(status)[0]["synced"] == true
    })
    .await;
    rig.apply("GarageCluster", "c", rig.running_gateways(2))
        .await;
    rig.until("GarageCluster", "c", "another role", |status| {
        joined(status, 2)
    })
    .await;
    // What each was asked, in its own words.
    let (storage, gateway) = (rig.garage.node(0).log(), rig.garage.node(gateway).log());
    assert!(gateway.contains("/v2/GetNodeStatistics"), "{gateway}");
    for call in ["UpdateClusterLayout", "ApplyClusterLayout"] {
        let call = format!("POST /v2/{call}");
        assert!(storage.contains(&call), "{call}: {storage}");
        assert!(!gateway.contains(&call), "{call}: {gateway}");
    }

    // What a gateway says that is asked before it knows storage.
    let mut alone = Garage::prepare(1).expect("it was there before");
    let index = alone.add(Setup::default());
    alone.node(index).start();
    alone.node(index).listens().await;
    let itself = client(&alone, index);
    let change = LayoutChange {
        roles: vec![StagedRoleChange::Set {
            id: id_of(alone.node(index)),
            zone: "dc1".into(),
            capacity: None,
            tags: Vec::new(),
        }],
        parameters: None,
    };
    itself.update_cluster_layout(&change).await.expect("staged");
    let refused = itself.apply_cluster_layout(1).await;
    let refused = refused.expect_err("it is no layout").to_string();
    assert!(refused.contains("positive capacity (0)"), "{refused}");
}

#[tokio::test]
async fn flaw_15_what_somebody_else_has_staged_is_neither_applied_nor_lost() {
    let Some(mut rig) = Rig::start(1).await else {
        return;
    };
    let index = rig.garage.add(Setup::default());
    let theirs = id_of(rig.garage.node(index));
    let foreign = vec![StagedRoleChange::Set {
        id: theirs,
        zone: "dc1".into(),
        capacity: None,
        tags: vec!["somebody".into()],
    }];
    let change = LayoutChange {
        roles: foreign.clone(),
        parameters: None,
    };
    rig.admin()
        .update_cluster_layout(&change)
        .await
        .expect("staged");
    rig.run_clusters();
    let status = rig
        .until("GarageCluster", "c", "it is in the way", |status| {
            condition(status, "ForeignStagedChanges") == Some(("True", "ForeignStagedChanges"))
        })
        .await;
    let text = message(&status, "ForeignStagedChanges");
    assert!(text.contains(&theirs.to_string()[..16]), "{text}");
    rig.rests().await;
    let layout = rig.admin().get_cluster_layout().await.expect("a layout");
    assert_eq!(layout.version, 1);
    assert_eq!(layout.staged_role_changes, foreign);

    // Whoever staged it thinks better of it.
    rig.admin().revert_cluster_layout().await.expect("reverted");
    rig.until("GarageCluster", "c", "its role", |status| joined(status, 1))
        .await;
    let layout = rig.admin().get_cluster_layout().await.expect("a layout");
    assert_eq!((layout.version, layout.roles.len()), (2, 2));
    assert!(!layout.roles.iter().any(|role| role.id == theirs));
}

#[tokio::test]
async fn flaw_15_many_clusters_change_one_layout_one_after_the_other() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    let names = ["c", "d", "e", "f", "g"];
    for name in names {
        rig.apply("GarageCluster", name, rig.gateways(2)).await;
    }
    rig.run_clusters();
    for name in names {
        rig.until("GarageCluster", name, "its roles", |status| {
            joined(status, 2)
        })
        .await;
    }
    // None lost, none twice, and no version of nothing.
    let layout = rig.admin().get_cluster_layout().await.expect("a layout");
    let version = 1 + names.len() as u64;
    assert_eq!((layout.version, layout.roles.len()), (version, 11));
    assert_eq!(layout.staged_role_changes, []);
    rig.rests().await;
    let layout = rig.admin().get_cluster_layout().await.expect("a layout");
    assert_eq!(layout.version, version);
}

#[tokio::test]
async fn flaw_15_two_operators_change_one_layout_and_neither_undoes_the_others_changes() {
    let Some(mut rig) = Rig::start(1).await else {
        return;
    };
    rig.run_clusters();
    let first = rig.namespace.clone();
    rig.go_elsewhere().await;
    rig.run_clusters();
    let places = [first, rig.namespace.clone()];
    for name in ["d", "e"] {
        for place in &places {
            rig.namespace.clone_from(place);
            rig.apply("GarageCluster", name, rig.gateways(2)).await;
        }
    }
    for place in &places {
        rig.namespace.clone_from(place);
        for name in ["d", "e"] {
            rig.until("GarageCluster", name, "its roles", |status| {
                joined(status, 2)
            })
            .await;
        }
    }
    rig.namespace.clone_from(&places[0]);
    rig.until("GarageCluster", "c", "its role", |status| joined(status, 1))
        .await;
    // One storage node, four clusters with two gateways each, and the one that every rig has.
    let layout = rig.admin().get_cluster_layout().await.expect("a layout");
    assert_eq!(layout.roles.len(), 1 + 8 + 1);
    assert_eq!(layout.staged_role_changes, []);
    // At rest nobody changes what the other has done.
    rig.rests().await;
    let now = rig.admin().get_cluster_layout().await.expect("a layout");
    assert_eq!(now, layout);
}

#[tokio::test]
async fn flaw_18_nodes_that_know_nothing_become_a_cluster_of_real_garage() {
    let Some(rig) = Rig::start(1).await else {
        return;
    };
    let mut garage = Garage::prepare(3).expect("it was there before");
    rig.secret("s-admin", json!({ "token": garage.admin_token() }))
        .await;
    rig.secret("s-rpc", json!({ "secret": garage.rpc_secret() }))
        .await;
    let storage = json!({
        "replicas": 3, "storage": { "data": { "size": "1Gi" } },
        "admin": { "adminTokenSecretRef": { "name": "s-admin", "key": "token" } },
        "network": { "rpcSecretRef": { "name": "s-rpc", "key": "secret" } },
    });
    rig.apply("GarageCluster", "s", storage).await;
    rig.run_clusters();
    for slot in 0..3 {
        let pod = format!("s-{slot}");
        rig.pod("StatefulSet", "s", &pod).await;
        let seed = Some(rig.seed("s", slot).await);
        let index = garage.add(Setup {
            seed,
            ..Setup::default()
        });
        garage.node_mut(index).set_peers(&[]);
        garage.node(index).start();
    }
    for slot in 0..3 {
        garage.node(slot).listens().await;
        rig.runs(&format!("s-{slot}"), garage.node(slot)).await;
    }
    let status = rig
        .until("GarageCluster", "s", "its layout", |status| {
            condition(status, "LayoutJoined") == Some(("True", "Joined"))
        })
        .await;
    assert_eq!(status["layoutVersion"], 1, "all of them in one version");
    garage.healthy().await;
    let admin = client_with(&garage.node(0).admin_url(), garage.admin_token());
    let (_, key) = bucket_and_key(&admin, "data").await;
    let put = garage.node(1).s3(&key, "PUT", "/data/a", b"x").await;
    assert_eq!(put.expect("an answer").status(), 200);
    let got = garage.node(2).s3(&key, "GET", "/data/a", b"").await;
    assert_eq!(got.expect("an answer").text(), "x");
}
