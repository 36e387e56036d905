//! From the answers of the Admin API to the facts that are decided on. May not decide.

use super::{Disk, Facts, Health, Node, TableFill};
use crate::admin;
use crate::identity::NodeId;
use crate::layout::{Change, History, Preview, Redundancy, Role, Seen};
use std::collections::BTreeSet;

/// The layout of a cluster that was asked for it whole.
#[must_use]
pub fn layout(layout: &admin::ClusterLayout, history: Option<&admin::LayoutHistory>) -> Seen {
    let role = |role: &admin::LayoutRole| {
        let value = Role {
            zone: role.zone.clone(),
            capacity: role.capacity,
            tags: role.tags.iter().cloned().collect(),
        };
        (role.id, value)
    };
    Seen {
        version: layout.version,
        roles: layout.roles.iter().map(role).collect(),
        redundancy: Some(redundancy(&layout.parameters)),
        staged: layout.staged_role_changes.iter().map(change).collect(),
        staged_redundancy: layout.staged_parameters.as_ref().map(redundancy),
        preview: None,
        history: history.map(self::history),
        // Whoever asks twice knows.
        abandoned: false,
        unmoved: false,
        up: BTreeSet::new(),
    }
}

/// What a preview says in numbers.
#[must_use]
pub fn preview(preview: &admin::LayoutPreview) -> Preview {
    let statistics = preview.statistics.as_ref();
    let moved = statistics.and_then(|statistics| {
        let zones = statistics.zones.iter();
        let copies = zones.map(|zone| zone.total_replicated_partitions).sum();
        Some((statistics.total_moved_partitions?, copies))
    });
    Preview { moved }
}

/// The layout as the status of the nodes shows it: enough while its version is one that was seen whole
/// and settled.
#[must_use]
pub fn settled_layout(status: &admin::ClusterStatus) -> Seen {
    let role = |node: &admin::NodeStatus| {
        let role = node.role.as_ref()?;
        let value = Role {
            zone: role.zone.clone(),
            capacity: role.capacity,
            tags: role.tags.iter().cloned().collect(),
        };
        Some((node.id, value))
    };
    Seen {
        version: status.layout_version,
        roles: status.nodes.iter().filter_map(role).collect(),
        ..Seen::default()
    }
}

/// The facts, from the status of the nodes and the layout.
#[must_use]
pub fn facts(status: &admin::ClusterStatus, layout: Seen, answered: Option<NodeId>) -> Facts {
    let node = |node: &admin::NodeStatus| {
        let value = Node {
            up: node.is_up,
            version: node.garage_version.clone(),
            data: node.data_partition.map(|disk| Disk {
                free: disk.available,
                total: disk.total,
            }),
            draining: node.draining,
            resync: node.resync_queue_len,
        };
        (node.id, value)
    };
    let up = status
        .nodes
        .iter()
        .filter(|node| node.is_up)
        .map(|node| node.id);
    Facts {
        layout: Seen {
            up: up.collect(),
            ..layout
        },
        nodes: status.nodes.iter().map(node).collect(),
        answered,
        ..Facts::default()
    }
}

/// `GetClusterHealth`.
#[must_use]
pub fn health(health: &admin::ClusterHealth) -> Health {
    let status = match health.status {
        admin::HealthStatus::Healthy => "healthy",
        admin::HealthStatus::Degraded => "degraded",
        admin::HealthStatus::Unavailable => "unavailable",
    };
    Health {
        status: status.to_owned(),
        known_nodes: health.known_nodes,
        connected_nodes: health.connected_nodes,
        storage_nodes: health.storage_nodes,
        storage_nodes_up: health.storage_nodes_up,
        partitions: health.partitions,
        partitions_quorum: health.partitions_quorum,
        partitions_all_ok: health.partitions_all_ok,
    }
}

/// The tables without which a node answers 403; `None` if the node does not tell (before Garage 2.3).
#[must_use]
pub fn tables(statistics: &admin::NodeStatistics) -> Option<TableFill> {
    let items = |name: &str| statistics.table(name).map(|table| table.items);
    Some(TableFill {
        keys: items("key")?,
        buckets: items("bucket_v2")?,
        aliases: items("bucket_alias")?,
    })
}

/// A change as it travels.
#[must_use]
pub fn staged(change: &Change) -> admin::StagedRoleChange {
    match change {
        Change::Remove(id) => admin::StagedRoleChange::Remove { id: *id },
        Change::Set(id, role) => admin::StagedRoleChange::Set {
            id: *id,
            zone: role.zone.clone(),
            capacity: role.capacity,
            tags: role.tags.iter().cloned().collect(),
        },
    }
}

/// Layout parameters as they travel.
#[must_use]
pub fn parameters(redundancy: Redundancy) -> admin::LayoutParameters {
    let zone_redundancy = match redundancy {
        Redundancy::Maximum => admin::ZoneRedundancy::Maximum,
        Redundancy::AtLeast(zones) => {
            admin::ZoneRedundancy::AtLeast(u32::try_from(zones).unwrap_or(u32::MAX))
        }
    };
    admin::LayoutParameters { zone_redundancy }
}

fn change(change: &admin::StagedRoleChange) -> Change {
    match change {
        admin::StagedRoleChange::Remove { id } => Change::Remove(*id),
        admin::StagedRoleChange::Set {
            id,
            zone,
            capacity,
            tags,
        } => {
            let role = Role {
                zone: zone.clone(),
                capacity: *capacity,
                tags: tags.iter().cloned().collect(),
            };
            Change::Set(*id, role)
        }
    }
}

fn redundancy(parameters: &admin::LayoutParameters) -> Redundancy {
    match parameters.zone_redundancy {
        admin::ZoneRedundancy::Maximum => Redundancy::Maximum,
        admin::ZoneRedundancy::AtLeast(zones) => Redundancy::AtLeast(zones.into()),
    }
}

/// `updateTrackers` is null once everything is settled. Who has not even heard of the current version
/// is the one that is waited for: the others wait for its word themselves.
fn history(history: &admin::LayoutHistory) -> History {
    let current = history.current_version;
    let draining = history
        .versions
        .iter()
        .filter(|version| version.status == admin::LayoutVersionStatus::Draining)
        .map(|version| version.version);
    let below = |progress: fn(&admin::UpdateTracker) -> u64| -> BTreeSet<NodeId> {
        let trackers = history.update_trackers.iter().flatten();
        let late = trackers.filter(|(_, tracker)| progress(tracker) < current);
        late.map(|(node, _)| *node).collect()
    };
    let mut behind = below(|tracker| tracker.ack);
    let confirmed = behind.is_empty();
    if confirmed {
        behind = below(|tracker| tracker.sync);
    }
    if behind.is_empty() {
        behind = below(|tracker| tracker.sync_ack);
    }
    History {
        draining: draining.collect(),
        behind,
        confirmed,
        // Whoever asks twice knows.
        overdue: false,
    }
}
