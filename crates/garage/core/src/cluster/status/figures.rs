//! Figures of a storage cluster that move with every request: told roughly, and anew only when they have
//! moved far. May not decide.

use crate::api::StorageStats;
use crate::cluster::{Disk, Facts};
use crate::quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Part of the whole by which a size may move before it is told anew.
const BAND: u64 = 20;
/// A queue as short as this is empty within seconds.
const SHORT: i64 = 100;

/// Nodes that hold data of an older layout only.
pub(super) fn draining(facts: &Facts) -> i32 {
    let draining = facts.nodes.values().filter(|node| node.draining);
    i32::try_from(draining.count()).unwrap_or(i32::MAX)
}

/// Capacity by the roles, use and room by the nodes' disks, partitions by Garage's health. `told` is what
/// the object says already; it stays where a node does not tell its disks.
pub(super) fn stats(facts: &Facts, told: Option<&StorageStats>) -> Option<StorageStats> {
    let roles = facts.layout.roles.iter();
    let storing: Vec<_> = roles
        .filter_map(|(node, role)| Some((node, role.capacity?)))
        .collect();
    let capacity = storing
        .iter()
        .fold(0_u64, |sum, (_, capacity)| sum.saturating_add(*capacity));
    if storing.is_empty() {
        return None;
    }
    let disks = storing
        .iter()
        .map(|(node, _)| facts.nodes.get(node)?.data)
        .collect::<Option<Vec<Disk>>>();
    let (former_used, former_free) = told.map_or((None, None), |told| {
        (
            told.used_capacity.as_ref(),
            told.available_capacity.as_ref(),
        )
    });
    let (used, free) = match disks {
        Some(disks) => {
            let sum = |of: fn(&Disk) -> u64| disks.iter().map(of).fold(0, u64::saturating_add);
            let (free, total) = (sum(|disk| disk.free), sum(|disk| disk.total));
            let used = total.saturating_sub(free);
            (
                Some(roughly(used, total, former_used)),
                Some(roughly(free, total, former_free)),
            )
        }
        None => (former_used.cloned(), former_free.cloned()),
    };
    let number = |number: u64| i32::try_from(number).ok();
    let health = facts.health.as_ref();
    Some(StorageStats {
        total_capacity: Some(quantity::canonical(capacity)),
        used_capacity: used,
        available_capacity: free,
        total_partitions: health.and_then(|health| number(health.partitions)),
        healthy_partitions: health.and_then(|health| number(health.partitions_all_ok)),
    })
}

fn roughly(now: u64, whole: u64, told: Option<&Quantity>) -> Quantity {
    let near = |told: &&Quantity| {
        quantity::bytes(told).is_ok_and(|told| told.abs_diff(now) <= whole / BAND)
    };
    told.filter(near)
        .cloned()
        .unwrap_or_else(|| quantity::rough(now))
}

/// Blocks that wait on all nodes; `None` where Garage does not tell.
pub(super) fn resync(facts: &Facts, told: Option<i64>) -> Option<i64> {
    let lengths: Vec<u64> = facts
        .nodes
        .values()
        .filter_map(|node| node.resync)
        .collect();
    if lengths.is_empty() {
        return None;
    }
    let now = lengths.into_iter().fold(0, u64::saturating_add);
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    Some(match told {
        _ if now < SHORT => 0,
        Some(told) if now / 2 <= told && told / 2 <= now => told,
        Some(_) | None => now,
    })
}
