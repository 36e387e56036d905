//! What a GarageNode says about itself. May not decide. Nothing in it changes by itself at rest.

use super::{Desired, Observed, Plan, Refusal, Verdict, Wait};
use crate::api::{GarageNode, GarageNodeStatus, condition};
use crate::cluster::Report;
use crate::tenant::{self, Home, Said};
use serde_json::Value;

/// Puts together what is to be told. `failure` is what went wrong while the plan was carried out.
#[must_use]
pub fn report(
    object: &GarageNode,
    desired: &Desired,
    seen: &Observed,
    plan: &Plan,
    failure: Option<&str>,
) -> Report {
    let told = object.status.clone().unwrap_or_default();
    let id = match &seen.id {
        Some(Ok(id)) => Some(*id),
        Some(Err(_)) | None => seen.recorded,
    };
    let mut status = match (&seen.facts, id) {
        (Some(facts), Some(id)) => {
            let node = facts.nodes.get(&id);
            let role = facts.layout.roles.get(&id);
            GarageNodeStatus {
                node_id: Some(id.to_string()),
                address: seen.address.clone(),
                hostname: seen.hostname.clone(),
                version: node.and_then(|node| node.version.clone()),
                in_layout: Some(role.is_some()),
                connected: Some(node.is_some_and(|node| node.up)),
                layout_version: role.and_then(|_| i64::try_from(facts.layout.version).ok()),
                tags: role
                    .map(|role| role.tags.iter().cloned().collect())
                    .unwrap_or_default(),
                ..GarageNodeStatus::default()
            }
        }
        // Nobody was asked: what was known stays known.
        (None, _) if seen.home != Home::Reached => GarageNodeStatus {
            node_id: id.map(|id| id.to_string()).or(told.node_id.clone()),
            conditions: Vec::new(),
            ..told
        },
        (_, _) => GarageNodeStatus {
            node_id: id.map(|id| id.to_string()),
            ..GarageNodeStatus::default()
        },
    };
    status.observed_generation = object.metadata.generation;
    status.phase = Some(phase(desired, seen, plan).to_owned());
    let mut status = serde_json::to_value(status).unwrap_or(Value::Null);
    if let Some(fields) = status.as_object_mut() {
        fields.insert(
            "conditions".into(),
            Value::Array(conditions(desired, seen, plan, failure)),
        );
    }
    Report {
        status,
        warning: warning(plan),
    }
}

fn phase(desired: &Desired, seen: &Observed, plan: &Plan) -> &'static str {
    match &plan.verdict {
        _ if desired.absent => "Deleting",
        Verdict::Ready | Verdict::Waiting(Wait::Settling(_)) => "Running",
        Verdict::Refused(_) => "Failed",
        Verdict::Waiting(Wait::Cluster(_)) if seen.recorded.is_none() => "Pending",
        Verdict::Waiting(
            Wait::Rollout | Wait::RpcSecret | Wait::Rebalancing { .. } | Wait::Growing,
        ) => "Updating",
        Verdict::Waiting(_) => "Creating",
    }
}

fn conditions(
    desired: &Desired,
    seen: &Observed,
    plan: &Plan,
    failure: Option<&str>,
) -> Vec<Value> {
    let ready = match &plan.verdict {
        Verdict::Ready => (
            true,
            "AsAsked",
            "the node is connected and has its role".to_owned(),
        ),
        // Nothing is missing while older layouts run out.
        Verdict::Waiting(wait @ Wait::Settling(_)) => {
            (!desired.absent, wait.reason(), wait.to_string())
        }
        Verdict::Waiting(wait) => (false, wait.reason(), wait.to_string()),
        Verdict::Refused(refusal) => (false, refusal.reason(), refusal.to_string()),
    };
    let blocked = match &plan.verdict {
        Verdict::Waiting(wait)
            if desired.absent && *wait != Wait::Deleting && plan.steps.is_empty() =>
        {
            Some((wait.reason(), wait.to_string()))
        }
        Verdict::Ready | Verdict::Waiting(_) | Verdict::Refused(_) => None,
    };
    let mut all = tenant::conditions(&Said {
        ready,
        failure,
        elsewhere: desired.cluster.namespace != desired.key.namespace,
        home: &seen.home,
        blocked,
        degraded: None,
    });
    all.push(match &plan.verdict {
        Verdict::Waiting(Wait::LayoutBlocked(why)) => tenant::condition(
            condition::LAYOUT_BLOCKED,
            Some(true),
            "RefusedByGarage",
            why,
        ),
        Verdict::Ready | Verdict::Waiting(_) | Verdict::Refused(_) => tenant::condition(
            condition::LAYOUT_BLOCKED,
            Some(false),
            "NotBlocked",
            "Garage accepts the layout",
        ),
    });
    all
}

fn warning(plan: &Plan) -> Option<(String, String)> {
    match &plan.verdict {
        Verdict::Refused(refusal) => Some((refusal.reason().to_owned(), refusal.to_string())),
        Verdict::Waiting(Wait::Cluster(closed)) if closed.is_warning() => {
            Some((closed.reason().to_owned(), closed.to_string()))
        }
        Verdict::Waiting(
            wait @ (Wait::LayoutBlocked(_)
            | Wait::ForeignStagedChanges(_)
            | Wait::Approval(_)
            | Wait::RpcSecret),
        ) => Some((wait.reason().to_owned(), wait.to_string())),
        Verdict::Ready | Verdict::Waiting(_) => None,
    }
}

impl Wait {
    /// The reason of a condition: CamelCase.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Cluster(closed) => closed.reason(),
            Self::Key => "MakingKey",
            Self::Id(_) => "NodeIdUnknown",
            Self::Connection => "NotConnected",
            Self::Company { .. } => "TooFewNodes",
            Self::Layout => "ChangingLayout",
            Self::Settling(_) => "LayoutSettling",
            Self::LayoutBlocked(_) => "LayoutBlocked",
            Self::ForeignStagedChanges(_) => "ForeignStagedChanges",
            Self::Approval(_) => "ApprovalNeeded",
            Self::Rollout => "RollingOut",
            Self::RpcSecret => "RPCSecretChanged",
            Self::Rebalancing { .. } => "Rebalancing",
            Self::Growing => "GrowingVolumes",
            Self::Deleting => "Deleting",
        }
    }
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster(closed) => closed.fmt(f),
            Self::Key => f.write_str("the node's key is being made"),
            Self::Id(why) => write!(f, "the node's id is not known: {why}"),
            Self::Connection => f.write_str(
                "the cluster is not connected to the node: check that it runs, that it has the cluster's RPC secret, and \
                 that its RPC port can be reached",
            ),
            Self::Company { there, factor } => write!(
                f,
                "the replication factor is {factor}, so Garage takes no layout of fewer storing nodes; {there} are connected: \
                 create the others, they join together"
            ),
            Self::Layout => f.write_str("the layout is being changed"),
            Self::Settling(history) => write!(
                f,
                "nodes are moving to the newest layout; not there yet: {}",
                tenant::list(&history.behind)
            ),
            Self::LayoutBlocked(why) => write!(f, "Garage refuses the layout: {why}"),
            Self::ForeignStagedChanges(nodes) => write!(
                f,
                "somebody else has staged layout changes ({}): apply or revert them",
                tenant::list(nodes)
            ),
            Self::Approval(version) => write!(
                f,
                "layout version {version} is staged and waits for approval: annotate the GarageCluster with {}={version}",
                crate::cluster::APPROVED
            ),
            Self::Rollout => f.write_str(
                "the pod is to be replaced by one of the newest template; one node of the cluster is at a time, while all others serve",
            ),
            Self::RpcSecret => f.write_str(
                "the RPC secret has changed: nodes with the old and the new one cannot talk, so the pods of all nodes are replaced at once, and requests fail until they are back",
            ),
            Self::Rebalancing { complete, partitions } => write!(
                f,
                "{complete} of {partitions} partitions have all their nodes; the pod is not replaced before all have"
            ),
            Self::Growing => f.write_str("volumes are being made larger"),
            Self::Deleting => f.write_str("the node is being removed"),
        }
    }
}

impl Refusal {
    /// The reason of a condition: CamelCase.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "Invalid",
            Self::BadKey(_) => "BadNodeKey",
            Self::Taken(_) => "Conflict",
            Self::RoleTaken { .. } => "RoleTaken",
            Self::OtherId { .. } => "OtherNodeId",
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(problems) => f.write_str(&tenant::list(problems)),
            Self::BadKey(why) => write!(
                f,
                "the node's key is malformed ({why}): restore the Secret, or delete this object and create another"
            ),
            Self::Taken(other) => write!(f, "GarageNode {other} stands for this node already"),
            Self::RoleTaken { node, owner } => write!(
                f,
                "the role of node {node} is managed by another object (UID {owner}): a node has one role"
            ),
            Self::OtherId { asked, found } => write!(
                f,
                "the pod's node id is {found}, and the object says {asked}: correct nodeId, or leave it out"
            ),
        }
    }
}
