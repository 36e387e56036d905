//! What a GarageCluster says about itself: status, conditions and events, from the same facts and the
//! same plan that the steps come from. May not decide.
//!
//! Nothing in it changes by itself at rest (no free space, no time since something was seen): a status
//! that did would be written for ever.

use super::observed::{Facts, TargetSeen};
use super::{Desired, Garage, Mode, Observed, Plan, Step, Verdict, Wait};
use crate::api::{
    self, BuildInfo, ClusterHealth, ClusterNode, Endpoints, GarageClusterStatus, GatewayStatus,
    LayoutHistory, LayoutVersionStatus, condition,
};
use crate::identity::NodeId;
use crate::quantity;
use serde_json::{Value, json};
use std::collections::BTreeSet;

mod figures;
mod preview;
mod words;

/// What is to be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The whole status, conditions without times.
    pub status: Value,
    /// Something a person should see once: reason and sentence.
    pub warning: Option<(String, String)>,
}

/// The ports of the cluster's Services, as its status shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    s3: Option<i32>,
    k2v: Option<i32>,
    web: Option<i32>,
    admin: Option<i32>,
}

/// Puts together what is to be told. `failure` is what went wrong while the plan was carried out.
#[must_use]
pub fn report(
    cluster: &api::GarageCluster,
    desired: &Desired,
    seen: &Observed,
    plan: &Plan,
    failure: Option<&str>,
) -> Report {
    let facts = seen.garage.facts();
    let told = cluster.status.as_ref();
    let live = seen.pods.iter().filter(|pod| !pod.finished);
    let ready = seen
        .pods
        .iter()
        .filter(|pod| pod.ready && !pod.terminating)
        .count();
    let component = match desired.mode {
        Mode::Storage => api::COMPONENT_STORAGE,
        Mode::Gateway(_) => api::COMPONENT_GATEWAY,
    };
    let selector = format!(
        "{}={},{}={},{}={component}",
        api::LABEL_NAME,
        api::APP,
        api::LABEL_INSTANCE,
        desired.key.name,
        api::LABEL_COMPONENT,
    );
    let status = GarageClusterStatus {
        observed_generation: cluster.metadata.generation,
        phase: Some(phase(desired, seen, plan).to_owned()),
        replicas: i32::try_from(live.count()).ok(),
        ready_replicas: i32::try_from(ready).ok(),
        selector: Some(selector),
        gateways: match desired.mode {
            Mode::Storage => Vec::new(),
            Mode::Gateway(_) => gateways(seen, facts),
        },
        build_info: facts.and_then(version).map(|version| BuildInfo {
            version: Some(version),
            ..BuildInfo::default()
        }),
        health: facts.and_then(health),
        endpoints: Some(endpoints(cluster, desired)),
        nodes: facts.map(|facts| nodes(seen, facts)).unwrap_or_default(),
        total_nodes: facts.and_then(|facts| i32::try_from(facts.layout.roles.len()).ok()),
        layout_version: facts.and_then(|facts| i64::try_from(facts.layout.version).ok()),
        staged_layout_version: facts
            .filter(|facts| !facts.layout.staged.is_empty())
            .and_then(|facts| i64::try_from(facts.layout.version + 1).ok()),
        staged_roles: facts.and_then(|facts| i32::try_from(facts.layout.staged.len()).ok()),
        layout_history: facts.map(history),
        draining_nodes: facts.map(figures::draining),
        storage_stats: match desired.mode {
            Mode::Storage => facts
                .and_then(|f| figures::stats(f, told.and_then(|told| told.storage_stats.as_ref()))),
            Mode::Gateway(_) => None,
        },
        resync_queue_length: match desired.mode {
            Mode::Storage => facts
                .and_then(|f| figures::resync(f, told.and_then(|told| told.resync_queue_length))),
            Mode::Gateway(_) => None,
        },
        layout_preview: facts.and_then(|facts| {
            preview::preview(facts, told.and_then(|told| told.layout_preview.as_ref()))
        }),
        ..GarageClusterStatus::default()
    };
    let mut status = serde_json::to_value(status).unwrap_or(Value::Null);
    if let Some(fields) = status.as_object_mut() {
        let conditions = conditions(desired, seen, plan, failure);
        fields.insert("conditions".into(), Value::Array(conditions));
    }
    Report {
        status,
        warning: warning(plan),
    }
}

fn phase(desired: &Desired, seen: &Observed, plan: &Plan) -> &'static str {
    let young = seen
        .garage
        .facts()
        .is_none_or(|facts| facts.layout.version == 0);
    match &plan.verdict {
        _ if desired.absent => "Deleting",
        Verdict::Ready => "Running",
        Verdict::Refused(_) => "Failed",
        Verdict::Waiting(wait) => match wait {
            Wait::StorageMissing(_) | Wait::StorageStarting(_) => "Pending",
            Wait::Secrets => "Creating",
            _ if seen.workload.is_none() || young => "Creating",
            Wait::Rollout { .. }
            | Wait::RpcSecret { .. }
            | Wait::Rebalancing { .. }
            | Wait::Leaving(_)
            | Wait::Growing
            | Wait::Layout
            | Wait::Approval(_)
            | Wait::Settling(_) => "Updating",
            Wait::Deleting | Wait::GatewaysAttached(_) | Wait::GatewaysDeparting(_) => "Deleting",
            Wait::StorageUnreachable(_)
            | Wait::LayoutBlocked(_)
            | Wait::ForeignStagedChanges(_)
            | Wait::TooFewHealthy { .. }
            | Wait::Nodes(_)
            | Wait::Pods { .. } => "Degraded",
        },
    }
}

fn condition(type_: &str, status: Option<bool>, reason: &str, message: &str) -> Value {
    let status = match status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    json!({ "type": type_, "status": status, "reason": reason, "message": message })
}

fn conditions(
    desired: &Desired,
    seen: &Observed,
    plan: &Plan,
    failure: Option<&str>,
) -> Vec<Value> {
    let (ready, reason, message) = match &plan.verdict {
        Verdict::Ready => (
            true,
            "AsAsked",
            "every node runs, is in the layout and serves".to_owned(),
        ),
        Verdict::Waiting(wait) => (false, wait.reason(), wait.to_string()),
        Verdict::Refused(refusal) => (false, refusal.reason(), refusal.to_string()),
    };
    // Nodes that serve while older layouts run out are ready: clients notice nothing.
    let settling = matches!(plan.verdict, Verdict::Waiting(Wait::Settling(_)));
    let mut all = vec![condition(
        condition::READY,
        Some(ready || settling),
        reason,
        &message,
    )];
    all.push(match failure {
        None => condition(
            RECONCILED,
            Some(true),
            "Done",
            "the last round went through",
        ),
        Some(why) => condition(RECONCILED, Some(false), "Failed", why),
    });
    let facts = seen.garage.facts();
    if let Mode::Gateway(_) = desired.mode {
        all.push(match (&seen.garage, &seen.target) {
            (Garage::Reached(_), _) => condition(
                condition::STORAGE_CONNECTED,
                Some(true),
                "Answers",
                "the storage cluster's Admin API answers",
            ),
            (
                Garage::Unreachable(_),
                TargetSeen::Missing
                | TargetSeen::NotStorage
                | TargetSeen::NotGranted
                | TargetSeen::OutOfReach,
            ) => condition(condition::STORAGE_CONNECTED, Some(false), reason, &message),
            (Garage::Unreachable(why), TargetSeen::None | TargetSeen::Found(_)) => condition(
                condition::STORAGE_CONNECTED,
                Some(false),
                "Unreachable",
                why,
            ),
        });
    } else {
        let attached = &seen.attached;
        let names = list(attached);
        all.push(match attached.is_empty() {
            true => condition(
                condition::GATEWAYS_ATTACHED,
                Some(false),
                "None",
                "no gateway cluster uses it",
            ),
            false => condition(
                condition::GATEWAYS_ATTACHED,
                Some(true),
                "InUse",
                &format!("used by {names}; it will not be deleted under them"),
            ),
        });
    }
    all.push(joined(desired, seen, facts));
    all.push(match &plan.verdict {
        Verdict::Waiting(Wait::LayoutBlocked(why)) => condition(
            condition::LAYOUT_BLOCKED,
            Some(true),
            "RefusedByGarage",
            why,
        ),
        _ => condition(
            condition::LAYOUT_BLOCKED,
            Some(false),
            "NotBlocked",
            "Garage accepts the layout",
        ),
    });
    all.push(match &plan.verdict {
        Verdict::Waiting(wait @ Wait::ForeignStagedChanges(_)) => condition(
            condition::FOREIGN_STAGED_CHANGES,
            Some(true),
            wait.reason(),
            &wait.to_string(),
        ),
        _ => condition(
            condition::FOREIGN_STAGED_CHANGES,
            Some(false),
            "None",
            "nobody else's staged changes are in the way",
        ),
    });
    all.push(degraded(seen, facts));
    all.push(quorum(facts));
    all
}

/// Whether the last round of reconciliation went through.
const RECONCILED: &str = "Reconciled";

fn joined(desired: &Desired, seen: &Observed, facts: Option<&Facts>) -> Value {
    let Some(facts) = facts else {
        return condition(
            condition::LAYOUT_JOINED,
            None,
            "NotAsked",
            "the layout cannot be read at present",
        );
    };
    let missing: BTreeSet<u32> = (0..desired.replicas)
        .filter(|slot| {
            let node = seen.keys.get(slot);
            !node.is_some_and(|node| facts.layout.roles.contains_key(node))
        })
        .collect();
    match missing.is_empty() {
        true => condition(
            condition::LAYOUT_JOINED,
            Some(true),
            "Joined",
            "every node has its role",
        ),
        false => condition(
            condition::LAYOUT_JOINED,
            Some(false),
            "RolesMissing",
            &format!("without a role yet: {}", slots(&missing)),
        ),
    }
}

/// Nodes with a role that are not connected.
fn down(facts: &Facts) -> Vec<NodeId> {
    let roles = facts.layout.roles.keys();
    let down = roles.filter(|node| !facts.nodes.get(node).is_some_and(|node| node.up));
    down.copied().collect()
}

fn degraded(seen: &Observed, facts: Option<&Facts>) -> Value {
    let Some(facts) = facts else {
        return condition(
            condition::DEGRADED,
            None,
            "NotAsked",
            "the nodes cannot be asked at present",
        );
    };
    let ours: BTreeSet<NodeId> = seen.keys.values().copied().collect();
    let down: Vec<String> = down(facts)
        .into_iter()
        .filter(|node| ours.contains(node))
        .map(|node| short(&node))
        .collect();
    if !down.is_empty() {
        let message = format!("not connected: {}", down.join(", "));
        return condition(condition::DEGRADED, Some(true), "NodesDown", &message);
    }
    match &facts.health {
        Some(health) if health.partitions_all_ok < health.partitions => condition(
            condition::DEGRADED,
            Some(true),
            "PartitionsIncomplete",
            &format!(
                "{} of {} partitions have all their nodes",
                health.partitions_all_ok, health.partitions
            ),
        ),
        _ => condition(
            condition::DEGRADED,
            Some(false),
            "AllUp",
            "every node is connected",
        ),
    }
}

/// Keys, buckets and aliases are written to more than half of *all* nodes with a role, gateways too
/// (Garage's full-copy tables).
fn quorum(facts: Option<&Facts>) -> Value {
    let Some(facts) = facts else {
        return condition(
            condition::QUORUM_AT_RISK,
            None,
            "NotAsked",
            "the nodes cannot be asked at present",
        );
    };
    let all = facts.layout.roles.len();
    let down = down(facts);
    let up = all - down.len();
    let needed = all / 2 + 1;
    let names: Vec<String> = down.iter().map(short).collect();
    if down.is_empty() {
        let message = "every node with a role is connected";
        return condition(condition::QUORUM_AT_RISK, Some(false), "AllUp", message);
    }
    if up > needed {
        return condition(
            condition::QUORUM_AT_RISK,
            Some(false),
            "Safe",
            "one more node may be lost",
        );
    }
    let lost = up < needed;
    let message = format!(
        "{} of {all} nodes with a role are connected and keys, buckets and aliases need {needed} to change{}; not connected: {}",
        up,
        if lost {
            ", so they cannot change now"
        } else {
            ", so no further one may be lost"
        },
        names.join(", ")
    );
    let reason = if lost { "QuorumLost" } else { "NoneToSpare" };
    condition(condition::QUORUM_AT_RISK, Some(true), reason, &message)
}

fn gateways(seen: &Observed, facts: Option<&Facts>) -> Vec<GatewayStatus> {
    let slot = |(slot, node): (&u32, &NodeId)| {
        let pod = seen.pods.iter().find(|pod| pod.holds(*slot));
        GatewayStatus {
            pod: pod.map(|pod| pod.name.clone()),
            slot: i32::try_from(*slot).ok(),
            node_id: node.to_string(),
            in_layout: facts.is_some_and(|facts| facts.layout.roles.contains_key(node)),
            connected: facts
                .and_then(|facts| facts.nodes.get(node))
                .is_some_and(|node| node.up),
            synced: pod.is_some_and(|pod| pod.synced),
        }
    };
    let mut slots: Vec<GatewayStatus> = seen.keys.iter().map(slot).collect();
    // Until their roles are gone, ids without a key are remembered here: it is the only place.
    let lost = seen.former.iter().filter(|node| {
        let known = seen.keys.values().any(|key| key == *node);
        let role = facts.is_none_or(|facts| facts.layout.roles.contains_key(node));
        let relied_on = facts.is_some_and(|facts| {
            facts
                .layout
                .history
                .as_ref()
                .is_some_and(|history| history.behind.contains(node))
        });
        !known && (role || relied_on)
    });
    for node in lost {
        slots.push(GatewayStatus {
            slot: None,
            node_id: node.to_string(),
            in_layout: facts.is_some_and(|facts| facts.layout.roles.contains_key(node)),
            ..GatewayStatus::default()
        });
    }
    slots
}

fn nodes(seen: &Observed, facts: &Facts) -> Vec<ClusterNode> {
    let own = seen.keys.iter().filter_map(|(slot, node)| {
        let role = facts.layout.roles.get(node)?;
        let pod = seen.pods.iter().find(|pod| pod.holds(*slot));
        let seen = facts.nodes.get(node);
        Some(ClusterNode {
            node_id: Some(node.to_string()),
            pod_name: pod.map(|pod| pod.name.clone()),
            zone: Some(role.zone.clone()),
            capacity: role.capacity.map(|bytes| quantity::canonical(bytes).0),
            gateway: Some(role.capacity.is_none()),
            connected: Some(seen.is_some_and(|node| node.up)),
            version: seen.and_then(|node| node.version.clone()),
            ..ClusterNode::default()
        })
    });
    own.collect()
}

fn version(facts: &Facts) -> Option<String> {
    let node = facts.answered.and_then(|node| facts.nodes.get(&node))?;
    node.version.clone()
}

fn health(facts: &Facts) -> Option<ClusterHealth> {
    let health = facts.health.as_ref()?;
    let number = |number: u64| i32::try_from(number).ok();
    Some(ClusterHealth {
        status: Some(health.status.clone()),
        healthy: Some(health.status == "healthy"),
        available: Some(health.status != "unavailable"),
        known_nodes: number(health.known_nodes),
        connected_nodes: number(health.connected_nodes),
        storage_nodes: number(health.storage_nodes),
        storage_nodes_ok: number(health.storage_nodes_up),
        partitions: number(health.partitions),
        partitions_quorum: number(health.partitions_quorum),
        partitions_all_ok: number(health.partitions_all_ok),
    })
}

fn history(facts: &Facts) -> LayoutHistory {
    let version = i64::try_from(facts.layout.version).ok();
    let draining = facts
        .layout
        .history
        .iter()
        .flat_map(|history| history.draining.iter());
    let versions: Vec<LayoutVersionStatus> = draining
        .map(|version| LayoutVersionStatus {
            version: i64::try_from(*version).ok(),
            status: Some("Draining".into()),
            ..LayoutVersionStatus::default()
        })
        .collect();
    LayoutHistory {
        current_version: version,
        versions,
        ..LayoutHistory::default()
    }
}

fn endpoints(cluster: &api::GarageCluster, desired: &Desired) -> Endpoints {
    let spec = &cluster.spec;
    let s3 = spec.s3_api.clone().unwrap_or_default();
    let k2v = spec
        .k2v_api
        .as_ref()
        .filter(|api| api.enabled.unwrap_or(true));
    let web = spec
        .web_api
        .as_ref()
        .filter(|api| api.enabled.unwrap_or(true));
    let admin = spec.admin.clone().unwrap_or_default();
    let ports = Ports {
        s3: s3.enabled.then_some(s3.bind_port),
        k2v: k2v.map(|api| api.bind_port),
        web: web.map(|api| api.bind_port),
        admin: admin.enabled.then_some(admin.bind_port),
    };
    let super::ClusterKey { namespace, name } = &desired.key;
    let url = |service: &str, port: Option<i32>| {
        port.map(|port| format!("http://{service}.{namespace}.svc:{port}"))
    };
    let admin = format!("{name}-admin");
    Endpoints {
        s3: url(name, ports.s3),
        k2v: url(name, ports.k2v),
        web: url(name, ports.web),
        metrics: url(&admin, ports.admin).map(|url| format!("{url}/metrics")),
        admin: url(&admin, ports.admin),
        rpc: match desired.mode {
            Mode::Storage => Some(format!(
                "{name}-headless.{namespace}.svc:{}",
                desired.rpc_port
            )),
            Mode::Gateway(_) => None,
        },
    }
}

/// What is worth an Event: a person has to do something, or something happened that should be rare.
fn warning(plan: &Plan) -> Option<(String, String)> {
    if plan
        .steps
        .iter()
        .any(|step| matches!(step, Step::SkipDead(_)))
    {
        let text = "nodes of ours ended before they had confirmed the layout without them; they are skipped so that it can settle";
        return Some(("DeadNodesSkipped".into(), text.into()));
    }
    match &plan.verdict {
        Verdict::Ready => None,
        Verdict::Refused(refusal) => Some((refusal.reason().to_owned(), refusal.to_string())),
        Verdict::Waiting(wait) => match wait {
            Wait::StorageMissing(_)
            | Wait::LayoutBlocked(_)
            | Wait::ForeignStagedChanges(_)
            | Wait::Approval(_)
            | Wait::TooFewHealthy { .. }
            | Wait::RpcSecret { .. }
            | Wait::GatewaysAttached(_) => Some((wait.reason().to_owned(), wait.to_string())),
            Wait::Secrets
            | Wait::StorageStarting(_)
            | Wait::StorageUnreachable(_)
            | Wait::Layout
            | Wait::Settling(_)
            | Wait::Nodes(_)
            | Wait::Pods { .. }
            | Wait::Rollout { .. }
            | Wait::Rebalancing { .. }
            | Wait::Leaving(_)
            | Wait::Deleting
            | Wait::GatewaysDeparting(_)
            | Wait::Growing => None,
        },
    }
}

fn short(node: &NodeId) -> String {
    node.to_string()[..16].to_owned()
}

fn list(items: &[impl ToString]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn slots(slots: &BTreeSet<u32>) -> String {
    let numbers: Vec<u32> = slots.iter().copied().collect();
    let word = if numbers.len() == 1 { "slot" } else { "slots" };
    format!("{word} {}", list(&numbers))
}

#[cfg(test)]
mod tests;
