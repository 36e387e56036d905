//! What a pod of our own needs besides its role: room that was asked for later, and a successor when its
//! template has changed. May not change a layout.

use super::{Observed, Plan, Step, Verdict, Wait};
use crate::cluster::Claim;

/// Adds the steps to a plan, and what is waited for if nothing else is.
pub(super) fn add(plan: &mut Plan, seen: &Observed) {
    let calm = match &plan.verdict {
        Verdict::Ready | Verdict::Waiting(Wait::Settling(_)) => true,
        Verdict::Waiting(_) | Verdict::Refused(_) => false,
    };
    let growing = grow(seen, &mut plan.steps);
    let rollout = replace(seen, calm, &mut plan.steps);
    let severed = rollout == Some(Wait::RpcSecret);
    if let Some(wait) = rollout.or(growing)
        && (calm || severed)
    {
        plan.verdict = Verdict::Waiting(wait);
    }
}

/// The claims, each with the size that it is to have.
fn claims(seen: &Observed) -> impl Iterator<Item = (&Claim, &u64)> {
    let claims = seen.claims.iter();
    claims.filter_map(|claim| Some((claim, seen.sizes.get(&claim.template)?)))
}

fn is_data(claim: &Claim) -> bool {
    claim.template != "metadata"
}

/// A volume with data has not all the room that was asked for.
pub(super) fn is_growing(seen: &Observed) -> bool {
    claims(seen).any(|(claim, bytes)| is_data(claim) && claim.grows_to(*bytes))
}

/// The room on the volumes with data; `unknown` if there is none that we know of.
pub(super) fn room(seen: &Observed, unknown: u64) -> u64 {
    let data = seen.claims.iter().filter(|claim| is_data(claim));
    let room: u64 = data.map(|claim| claim.room).sum();
    if room == 0 { unknown } else { room }
}

fn grow(seen: &Observed, steps: &mut Vec<Step>) -> Option<Wait> {
    let mut growing = false;
    for (claim, bytes) in claims(seen) {
        growing |= claim.grows_to(*bytes);
        if claim.bytes < *bytes {
            growing = true;
            steps.push(Step::GrowClaim {
                claim: claim.name.clone(),
                bytes: *bytes,
            });
        }
    }
    if seen.set.is_some_and(|set| !set.claims_match) {
        growing = true;
        steps.push(Step::OrphanWorkload);
    }
    growing.then_some(Wait::Growing)
}

/// Replaces an outdated pod: one node of the cluster at a time, and only while every piece has all its
/// copies. `calm`: nothing else is due.
fn replace(seen: &Observed, calm: bool, steps: &mut Vec<Step>) -> Option<Wait> {
    let pod = seen
        .pod
        .as_ref()
        .filter(|pod| pod.outdated && !pod.finished)?;
    let observed = seen.set.is_some_and(|set| set.observed);
    if pod.severed && observed {
        // Nodes with different secrets cannot talk, so that waiting for the others would be for ever.
        if !pod.terminating {
            steps.push(Step::DeletePod);
        }
        return Some(Wait::RpcSecret);
    }
    if pod.terminating || !observed {
        return Some(Wait::Rollout);
    }
    // A pod that does not serve costs nothing to replace, and may be the reason for the change.
    if !pod.ready {
        steps.push(Step::DeletePod);
        return Some(Wait::Rollout);
    }
    let health = seen.facts.as_ref().and_then(|facts| facts.health.as_ref());
    let Some(health) = health.filter(|_| calm) else {
        return Some(Wait::Rollout);
    };
    if health.partitions_all_ok < health.partitions {
        return Some(Wait::Rebalancing {
            complete: health.partitions_all_ok,
            partitions: health.partitions,
        });
    }
    if seen.others_serve && health.storage_nodes_up == health.storage_nodes {
        steps.push(Step::DeletePod);
    }
    Some(Wait::Rollout)
}
