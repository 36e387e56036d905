//! What applying the staged changes would do, for a person who is to approve them. May not decide.

use crate::api::LayoutPreview;
use crate::cluster::Facts;
use crate::identity::NodeId;
use crate::layout::Change;
use crate::quantity;
use std::collections::BTreeSet;

/// The preview; `None` when nothing is staged, or when it could not be applied. `told` is what the object
/// says already: data comes and goes while a person thinks, and an estimate that followed it would be
/// written for ever.
pub(super) fn preview(facts: &Facts, told: Option<&LayoutPreview>) -> Option<LayoutPreview> {
    let layout = &facts.layout;
    if layout.staged.is_empty() && layout.staged_redundancy.is_none() {
        return None;
    }
    let said = layout.preview.as_ref()?.as_ref().ok()?;
    let mut found = LayoutPreview {
        partition_transfers: said.moved.and_then(|(moved, _)| i32::try_from(moved).ok()),
        ..LayoutPreview::default()
    };
    let mut zones = BTreeSet::new();
    for change in &layout.staged {
        let node = change.node();
        let present = layout.roles.get(&node);
        zones.extend(present.map(|role| role.zone.clone()));
        let nodes = match (change, present) {
            (Change::Remove(_), _) => &mut found.nodes_removed,
            (Change::Set(..), Some(_)) => &mut found.nodes_modified,
            (Change::Set(..), None) => &mut found.nodes_added,
        };
        nodes.push(node.to_string());
        if let Change::Set(_, role) = change {
            zones.insert(role.zone.clone());
        }
    }
    for nodes in [
        &mut found.nodes_added,
        &mut found.nodes_modified,
        &mut found.nodes_removed,
    ] {
        nodes.sort();
    }
    found.zones_affected = zones.into_iter().collect();
    found.data_transfer_estimate = match told {
        Some(told) if same(told, &found) => told.data_transfer_estimate.clone(),
        Some(_) | None => said
            .moved
            .and_then(|(moved, copies)| estimate(facts, moved, copies)),
    };
    Some(found)
}

fn same(told: &LayoutPreview, found: &LayoutPreview) -> bool {
    let told = LayoutPreview {
        data_transfer_estimate: None,
        ..told.clone()
    };
    told == *found
}

/// The part of what lies on the nodes that `moved` of all `copies` are.
fn estimate(facts: &Facts, moved: u64, copies: u64) -> Option<String> {
    let roles = facts.layout.roles.iter();
    let stored: Vec<u128> = roles
        .filter_map(|(node, role)| stored(facts, node, role.capacity?))
        .map(u128::from)
        .collect();
    if copies == 0 || stored.is_empty() {
        return None;
    }
    let bytes = stored.iter().sum::<u128>() * u128::from(moved) / u128::from(copies);
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    Some(quantity::rough(bytes).0)
}

/// A disk that others use too holds no more of Garage's than the node may take.
fn stored(facts: &Facts, node: &NodeId, capacity: u64) -> Option<u64> {
    let disk = facts.nodes.get(node)?.data?;
    Some(disk.total.saturating_sub(disk.free).min(capacity))
}
