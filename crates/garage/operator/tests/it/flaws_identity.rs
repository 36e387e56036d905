//! Flaws of gateways that are nobody in particular: who a gateway is, what it starts with, and who makes it
//! known. The numbers are those of the research note's table.

use crate::admin::{client, client_with};
use crate::pods::{connected, joined, slots};
use crate::rig::{PATIENCE, Rig};
use gatewright_garage::admin::{AdminTokenChange, KeyChange};
use gatewright_garage::identity::NodeId;
use gatewright_testkit::garage::Setup;
use gatewright_testkit::{Garage, await_condition};
use serde_json::{Value, json};

/// Whether no node relies on an older layout than the present one.
async fn settled(rig: &Rig) -> bool {
    let history = rig.admin().get_cluster_layout_history().await;
    history.expect("a history").is_settled()
}

#[tokio::test]
async fn flaw_1_a_replaced_gateway_keeps_its_identity_and_its_role() {
    let Some(mut rig) = Rig::start(1).await else {
        return;
    };
    rig.apply("GarageCluster", "c", rig.running_gateways(2))
        .await;
    rig.run_clusters();
    let first = rig.gateway("c", "c-a").await;
    rig.gateway("c", "c-b").await;
    let before = rig
        .until("GarageCluster", "c", "both are there", |status| {
            connected(status, 2)
        })
        .await;
    // Both in one version, and before there was a pod.
    assert_eq!(before["layoutVersion"], 2);

    // The pod goes, and all that it had stored.
    let slot = rig.slot("c-a").await;
    rig.delete("Pod", "c-a").await;
    rig.garage.node(first).kill();
    let second = rig.gateway("c", "c-c").await;
    assert_eq!(rig.slot("c-c").await, slot);
    let (old, new) = (rig.garage.node(first), rig.garage.node(second));
    assert_eq!(new.id(), old.id());
    let id: NodeId = new.id().parse().expect("an id");
    let address = new.address().to_string();
    await_condition("storage sees it where it is now", PATIENCE, || async {
        let status = rig.admin().get_cluster_status().await.expect("a status");
        let node = status.nodes.iter().find(|node| node.id == id);
        node.is_some_and(|node| {
            let addr = node.addr.as_deref().unwrap_or_default();
            node.is_up && addr.starts_with(&address)
        })
    })
    .await;
    let after = rig
        .until("GarageCluster", "c", "another pod has the slot", |status| {
            connected(status, 2) && slots(status)[slot]["pod"] == "c-c"
        })
        .await;
    let ids = |status: &Value| {
        let ids = slots(status).iter().map(|slot| slot["nodeId"].clone());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(ids(&after), ids(&before));
    let layout = rig.admin().get_cluster_layout().await.expect("a layout");
    assert_eq!(layout.version, 2, "a restart has changed the layout");
    assert_eq!(layout.staged_role_changes, []);
    await_condition("no node relies on an older layout", PATIENCE, || {
        settled(&rig)
    })
    .await;
    // Keys are written to more than half of all roles.
    let key = rig.admin().create_key(&KeyChange::default()).await;
    key.expect("every role has its node");
}

#[tokio::test]
async fn flaw_1_the_role_of_a_lost_identity_goes_with_it() {
    let Some(mut rig) = Rig::start(1).await else {
        return;
    };
    rig.apply("GarageCluster", "c", rig.running_gateways(1))
        .await;
    rig.run_clusters();
    let first = rig.gateway("c", "c-a").await;
    rig.until("GarageCluster", "c", "it is there", |status| {
        connected(status, 1)
    })
    .await;
    let lost: NodeId = rig.garage.node(first).id().parse().expect("an id");
    // One of two roles is no majority: nobody could make a key any more.
    rig.garage.node(first).kill();
    rig.delete("Pod", "c-a").await;
    rig.delete("Secret", "c-node-keys").await;
    await_condition("its successor has its role", PATIENCE, || async {
        let layout = rig.admin().get_cluster_layout().await.expect("a layout");
        layout.roles.len() == 2 && !layout.roles.iter().any(|role| role.id == lost)
    })
    .await;
    rig.gateway("c", "c-b").await;
    rig.until("GarageCluster", "c", "it is there", |status| {
        connected(status, 1)
    })
    .await;
    // What waits for a node that is gone waits for ever.
    await_condition("nobody relies on the lost node", PATIENCE, || settled(&rig)).await;
    let layout = rig.admin().get_cluster_layout().await.expect("a layout");
    assert_eq!(layout.version, 3, "removal and addition are one version");
    let key = rig.admin().create_key(&KeyChange::default()).await;
    key.expect("every role has its node");
}

#[tokio::test]
async fn flaw_2_a_gateway_that_knows_nobody_is_dialled() {
    let Some(mut rig) = Rig::start(1).await else {
        return;
    };
    rig.apply("GarageCluster", "c", rig.running_gateways(1))
        .await;
    rig.run_clusters();
    rig.pod("Deployment", "c", "c-a").await;
    let slot = rig.slot("c-a").await;
    let index = rig.node("c", slot, Setup::default()).await;
    rig.garage.node_mut(index).set_peers(&[]);
    let node = rig.garage.node(index);
    node.start();
    node.listens().await;
    let known = client(&rig.garage, index).get_cluster_status().await;
    assert_eq!(known.expect("a status").nodes.len(), 1, "only itself");
    rig.runs("c-a", node).await;
    rig.garage.sees(0, index, true).await;
    rig.garage.sees(index, 0, true).await;
    // Others are told in its file.
    let file = rig.object("ConfigMap", "c-config").await;
    let text = file["data"]["garage.toml"].as_str().expect("it");
    assert!(text.contains(&rig.garage.peers()[0]), "{text}");
}

#[tokio::test]
async fn flaw_3_garage_starts_with_the_file_and_the_folders_that_were_written() {
    let Some(mut rig) = Rig::start(1).await else {
        return;
    };
    rig.apply("GarageCluster", "c", rig.running_gateways(1))
        .await;
    rig.run_clusters();
    rig.pod("Deployment", "c", "c-a").await;
    let pod = rig.object("Pod", "c-a").await;
    let named = |list: &Value, name: &str| {
        let mut list = list.as_array().expect("a list").iter();
        list.find(|one| one["name"] == name).expect(name).clone()
    };
    let mounts = &pod["spec"]["containers"][0]["volumeMounts"];
    for (name, path) in [
        ("metadata", "/var/lib/garage/meta"),
        ("data", "/var/lib/garage/data"),
    ] {
        // No disk of its own, and no way to fill the machine's.
        let volume = named(&pod["spec"]["volumes"], name);
        assert!(volume["emptyDir"]["sizeLimit"].is_string(), "{volume}");
        assert_eq!(named(mounts, name)["mountPath"], path);
    }

    // The file as it is in the cluster; only folders and addresses are moved to this test's own, and the
    // secrets are there that come by environment.
    let slot = rig.slot("c-a").await;
    let index = rig.node("c", slot, Setup::default()).await;
    let node = rig.garage.node(index);
    let file = rig.object("ConfigMap", "c-config").await;
    let text = file["data"]["garage.toml"].as_str().expect("it");
    let meta = node.metadata();
    let folder = meta.parent().expect("the node's folder");
    let moved = text
        .replace("/var/lib/garage", &folder.display().to_string())
        .replace("[::]", &node.address().to_string());
    assert_ne!(moved, text);
    let (secret, token) = (rig.garage.rpc_secret(), rig.garage.admin_token());
    let moved = format!("rpc_secret = \"{secret}\"\n{moved}\nadmin_token = \"{token}\"\n");
    std::fs::write(folder.join("garage.toml"), moved).expect("write the file");
    node.start();
    node.listens().await;
    rig.runs("c-a", node).await;
    let status = rig
        .until("GarageCluster", "c", "it is there", |status| {
            connected(status, 1)
        })
        .await;
    assert_eq!(slots(&status)[0]["nodeId"], node.id());
}

#[tokio::test]
async fn flaw_17_gateways_get_an_admin_token_that_garage_takes() {
    let Some(mut rig) = Rig::start(1).await else {
        return;
    };
    // It names none.
    rig.run_clusters();
    rig.pod("Deployment", "c", "c-a").await;
    let token = rig.entries("c-admin-token").await.expect("a Secret")["admin-token"].clone();
    // Garage looks for one with a dot among its dynamic tokens, and never finds it.
    assert!(token.len() >= 32 && !token.contains('.'), "{token}");
    let pod = rig.object("Pod", "c-a").await;
    let env = pod["spec"]["containers"][0]["env"].as_array();
    let set = json!({ "secretKeyRef": { "key": "admin-token", "name": "c-admin-token" } });
    let set = json!({ "name": "GARAGE_ADMIN_TOKEN", "valueFrom": set });
    assert!(env.expect("variables").contains(&set), "{env:?}");

    let slot = rig.slot("c-a").await;
    let setup = Setup {
        without: vec!["admin_token"],
        end: format!("admin_token = \"{token}\"\n"),
        ..Setup::default()
    };
    let index = rig.node("c", slot, setup).await;
    let node = rig.garage.node(index);
    node.start();
    node.listens_at_all().await;
    let with = |token: &str| client_with(&node.admin_url(), token);
    with(&token).get_cluster_health().await.expect("let in");
    let refused = with(rig.garage.admin_token()).get_cluster_health().await;
    assert!(refused.expect_err("another token").is_unauthorized());
    // The operator asks the node with it, or it would not know how full its tables are.
    rig.runs("c-a", node).await;
    rig.until("GarageCluster", "c", "it has all tables", |status| {
        joined(status, 1) && slots(status)[0]["synced"] == true
    })
    .await;
}

#[tokio::test]
async fn flaw_17_all_changes_go_to_one_node() {
    let Some(rig) = Rig::start(2).await else {
        return;
    };
    rig.storage("m").await;
    // Garage locks buckets and keys on the node that is asked, and nowhere else.
    let names = ["one", "two", "three"];
    for name in names {
        let spec = json!({ "clusterRef": { "name": "m" }, "quotas": { "maxObjects": 7 } });
        rig.apply("GarageBucket", name, spec).await;
    }
    for name in names {
        rig.ready("GarageBucket", name).await;
    }
    for call in ["POST /v2/CreateBucket", "POST /v2/UpdateBucket"] {
        let asked = rig.garage.nodes().iter().map(|node| node.log());
        let asked: Vec<usize> = asked.map(|log| log.matches(call).count()).collect();
        assert!(asked.contains(&0), "{call}: {asked:?}");
        assert!(
            asked.iter().sum::<usize>() >= names.len(),
            "{call}: {asked:?}"
        );
    }
}

/// Why the operator keeps the static token: docs/adr/0013-static-admin-token.md.
#[tokio::test]
async fn flaw_17_a_token_of_the_table_is_not_known_everywhere_and_may_do_no_less() {
    let Some(mut garage) = Garage::start(1).await else {
        return;
    };
    let scope = ["GetClusterHealth", "CreateAdminToken"].map(str::to_owned);
    let wish = |name: &str, scope: &[String]| AdminTokenChange {
        name: Some(name.to_owned()),
        scope: Some(scope.to_vec()),
        never_expires: true,
        ..AdminTokenChange::default()
    };
    let (narrow, wide) = (wish("ours", &scope), wish("all", &["*".to_owned()]));
    let made = client(&garage, 0).create_admin_token(&narrow).await;
    let scoped = made.expect("a token").secret_token;
    let with = |garage: &Garage, index: usize| {
        client_with(&garage.node(index).admin_url(), scoped.expose())
    };
    let ours = with(&garage, 0);
    ours.get_cluster_health().await.expect("in its scope");
    let refused = ours.list_keys().await.expect_err("not in its scope");
    assert!(refused.is_unauthorized(), "{refused}");

    // Whoever may make tokens may do all.
    let made = ours.create_admin_token(&wide).await;
    let all = made.expect("a token").secret_token;
    let all = client_with(&garage.node(0).admin_url(), all.expose());
    all.list_keys().await.expect("it may");

    // A node without a role has no table, and is asked all the same.
    let fresh = garage.add_running(Setup::default()).await;
    garage.introduce(fresh).await;
    garage.sees(0, fresh, true).await;
    let unknown = with(&garage, fresh).get_cluster_health().await;
    let unknown = unknown.expect_err("it has not heard of it");
    assert!(unknown.is_unauthorized(), "{unknown}");
    let known = client(&garage, fresh).get_cluster_health().await;
    known.expect("the static one");
}
