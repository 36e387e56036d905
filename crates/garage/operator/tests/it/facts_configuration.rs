//! What Garage wants of its configuration and identity: facts that the operator's files rest on.

use std::os::unix::fs::PermissionsExt as _;

use gatewright_garage_operator::admin::Node;
use gatewright_testkit::Garage;
use gatewright_testkit::garage::Setup;
use gatewright_testkit::scratch::Scratch;

use crate::admin::{client, id_of};

/// Starts a node that has to end by itself, and returns its last words.
async fn refusal(setup: Setup) -> Option<String> {
    let mut garage = Garage::prepare(1)?;
    let index = garage.add(setup);
    garage.node(index).start();
    garage.node(index).ends().await;
    Some(garage.node(index).log())
}

#[tokio::test]
async fn fact_the_data_folder_and_four_more_settings_are_mandatory() {
    for key in [
        "data_dir",
        "metadata_dir",
        "rpc_bind_addr",
        "s3_region",
        "replication_factor",
    ] {
        let setup = Setup {
            without: vec![key],
            ..Default::default()
        };
        let Some(log) = refusal(setup).await else {
            return;
        };
        assert!(log.contains(key), "without {key}: {log}");
    }
}

#[tokio::test]
async fn fact_a_secret_file_that_others_may_read_is_refused() {
    let dir = Scratch::new("secret");
    let file = dir.path().join("rpc-secret");
    std::fs::write(&file, "ab".repeat(32)).expect("a secret");
    // As Kubernetes mounts Secrets: by default, and with fsGroup and defaultMode 0400 or 0440.
    for mode in [0o644, 0o440, 0o640] {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&file, permissions).expect("a mode");
        let setup = Setup {
            without: vec!["rpc_secret"],
            more: format!("rpc_secret_file = \"{}\"", file.display()),
            ..Default::default()
        };
        let Some(log) = refusal(setup).await else {
            return;
        };
        assert!(log.contains("world-readable"), "{mode:o}: {log}");
    }
}

#[tokio::test]
async fn fact_a_node_is_who_its_issued_key_says() {
    let Some(mut garage) = Garage::start(1).await else {
        return;
    };
    let issued = garage.add(Setup::default());
    let node = garage.node(issued);
    let id = id_of(node);
    // The key is read-only and alone, as from a Secret; the role is there before the process.
    let key = std::fs::metadata(node.metadata().join("node_key")).expect("its key");
    assert!(key.permissions().readonly());
    assert!(!node.metadata().join("node_key.pub").exists());
    garage
        .apply([node.role("dc1", None)].into_iter().collect())
        .await;

    node.start();
    node.listens().await;
    let info = client(&garage, issued).get_node_info(Node::Asked).await;
    assert_eq!(info.expect("its info").node_id, id);
    garage.sees(0, issued, true).await;
    let status = client(&garage, 0).get_cluster_status().await;
    let status = status.expect("a status");
    let seen = status.nodes.iter().find(|seen| seen.id == id);
    let role = seen.and_then(|seen| seen.role.as_ref()).expect("its role");
    assert_eq!(role.capacity, None);
    let layout = client(&garage, 0).get_cluster_layout().await.expect("it");
    assert_eq!(layout.version, 2, "its start changed the layout");
}

#[tokio::test]
async fn fact_a_token_with_a_dot_never_authenticates() {
    let Some(mut garage) = Garage::prepare(1) else {
        return;
    };
    let index = garage.add(Setup {
        without: vec!["admin_token"],
        // The last section of the file is [admin]; what is added is at its end.
        end: "admin_token = \"to.ken\"\n".into(),
        ..Default::default()
    });
    let node = garage.node(index);
    node.start();
    node.listens_at_all().await;
    let dotted = crate::admin::client_with(&node.admin_url(), "to.ken");
    let error = dotted
        .get_cluster_status()
        .await
        .expect_err("it is looked up");
    assert!(!error.is_not_found(), "{error}");
}

#[tokio::test]
async fn fact_another_replication_factor_kills_the_lower_side() {
    let Some(mut garage) = Garage::start(3).await else {
        return;
    };
    let lower = garage.add(Setup {
        factor: Some(2),
        ..Default::default()
    });
    garage.node(lower).start();
    garage.node(lower).ends().await;
    assert!(
        (0..3).all(|index| garage.node(index).is_running()),
        "only the gateway ends"
    );

    let higher = garage.add(Setup {
        factor: Some(5),
        ..Default::default()
    });
    garage.node(higher).start();
    for storage in 0..3 {
        garage.node(storage).ends().await;
    }
    assert!(
        garage.node(higher).is_running(),
        "the one that is wrong stays"
    );
}
