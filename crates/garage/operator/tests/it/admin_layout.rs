//! Every call about the layout, against a real Garage.

use gatewright_garage::admin::{
    LayoutChange, LayoutParameters, SkipDeadNodes, StagedRoleChange, ZoneRedundancy,
};
use gatewright_garage_operator::admin::Error;
use gatewright_testkit::Garage;
use gatewright_testkit::garage::{CAPACITY, Setup};

use crate::admin::{client, id_of};

#[tokio::test]
async fn a_layout_is_staged_previewed_reverted_and_applied() {
    let Some(mut garage) = Garage::start(1).await else {
        return;
    };
    // Before it runs: only its id is needed.
    let gateway = garage.add(Setup::default());
    let gateway = id_of(garage.node(gateway));
    let client = client(&garage, 0);
    let status = client.get_cluster_status().await.expect("a status");
    assert_eq!((status.layout_version, status.nodes.len()), (1, 1));
    let layout = client.get_cluster_layout().await.expect("a layout");
    assert_eq!(layout.roles[0].capacity, Some(CAPACITY));
    assert_eq!(layout.roles[0].stored_partitions, Some(256));

    let change = LayoutChange {
        roles: vec![StagedRoleChange::Set {
            id: gateway,
            zone: "dc1".into(),
            capacity: None,
            tags: vec!["tier:gateway".into()],
        }],
        parameters: Some(LayoutParameters {
            zone_redundancy: ZoneRedundancy::AtLeast(1),
        }),
    };
    let staged = client.update_cluster_layout(&change).await.expect("it");
    assert_eq!(staged.version, 1);
    assert_eq!(staged.staged_role_changes, change.roles);
    assert_eq!(staged.staged_parameters, change.parameters);
    let preview = client.preview_cluster_layout_changes().await;
    let preview = preview.expect("a preview");
    assert_eq!(preview.new_layout.version, 2);
    let statistics = preview.statistics.expect("Garage 2.5 has statistics");
    assert_eq!(statistics.replication_factor, 1);
    assert_eq!(statistics.total_moved_partitions, Some(0));

    let reverted = client.revert_cluster_layout().await.expect("it");
    assert!(reverted.staged_role_changes.is_empty() && reverted.staged_parameters.is_none());
    client.update_cluster_layout(&change).await.expect("it");
    let stale = client.apply_cluster_layout(1).await.expect_err("too old");
    assert!(stale.is_stale_layout_version(), "{stale}");
    let applied = client.apply_cluster_layout(2).await.expect("version 2");
    assert_eq!(applied.layout.version, 2);
    let role = applied.layout.roles.iter().find(|role| role.id == gateway);
    assert_eq!(role.expect("its role").tags, ["tier:gateway"]);

    let remove = LayoutChange {
        roles: vec![StagedRoleChange::Remove { id: gateway }],
        parameters: None,
    };
    let staged = client.update_cluster_layout(&remove).await.expect("it");
    assert_eq!(staged.staged_role_changes, remove.roles);
}

#[tokio::test]
async fn a_layout_that_cannot_be_is_refused_in_garages_words() {
    let Some(mut garage) = Garage::prepare(3) else {
        return;
    };
    let only = garage.add(Setup::default());
    garage.node(only).start();
    garage.node(only).listens().await;
    let client = client(&garage, 0);
    let set = |capacity| LayoutChange {
        roles: vec![StagedRoleChange::Set {
            id: id_of(garage.node(only)),
            zone: "dc1".into(),
            capacity,
            tags: Vec::new(),
        }],
        parameters: None,
    };
    let tiny = client.update_cluster_layout(&set(Some(1))).await;
    assert!(tiny.is_err(), "{tiny:?}");
    client
        .update_cluster_layout(&set(Some(CAPACITY)))
        .await
        .expect("it");
    let preview = client.preview_cluster_layout_changes().await;
    let preview = preview.expect_err("one node for three replicas");
    assert!(matches!(&preview, Error::Layout { .. }), "{preview}");
    let apply = client.apply_cluster_layout(1).await.expect_err("the same");
    assert_eq!(
        (apply.status(), apply.is_stale_layout_version()),
        (Some(500), false)
    );
    let message = preview.message().expect("Garage's words");
    assert!(
        apply.message().is_some_and(|words| words.contains(message)),
        "{apply}\n{preview}"
    );

    let skip = SkipDeadNodes {
        version: 0,
        allow_missing_data: false,
    };
    let error = client.cluster_layout_skip_dead_nodes(skip).await;
    assert_eq!(error.expect_err("one version").status(), Some(400));
    let no_layout = client.list_keys().await.expect_err("no layout yet");
    assert!(no_layout.is_transient(), "{no_layout}");
}
