//! What buckets, keys, tokens and nodes have in common: a cluster that they live in, and how they
//! speak about it. May not look for the cluster.

use crate::api::{ClusterRef, condition};
use crate::cluster::ClusterKey;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// The condition that tells whether the last round of reconciliation went through.
pub const RECONCILED: &str = "Reconciled";
/// The reason of a condition about a cluster in a namespace where this operator does not look.
pub(crate) const NOT_WATCHED: &str = "NamespaceNotWatched";

/// Whether the cluster that an object names can be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Home {
    /// There is no such GarageCluster.
    #[default]
    Missing,
    /// It is in another namespace, which does not grant its use.
    NotGranted,
    /// It is in a namespace where this operator does not look.
    OutOfReach,
    /// Its Admin API does not answer.
    Unreachable {
        /// Why.
        why: String,
        /// The GarageCluster is being deleted.
        ending: bool,
    },
    /// Its Admin API answers.
    Reached,
}

/// Whether anything can be done about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Go on.
    Open,
    /// The object ends, and there is nothing that could be cleaned up.
    Release,
    /// Not now.
    Closed(Closed),
}

/// Why nothing can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// There is no such GarageCluster.
    Missing(ClusterKey),
    /// Its namespace does not grant the use to objects of this kind.
    NotGranted {
        /// The cluster.
        cluster: ClusterKey,
        /// Kind of the object.
        kind: &'static str,
        /// Namespace of the object.
        namespace: String,
    },
    /// This operator does not look into its namespace.
    OutOfReach(ClusterKey),
    /// Its Admin API does not answer, and why.
    Unreachable(ClusterKey, String),
}

impl Closed {
    /// The reason of a condition.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing(_) => "ClusterMissing",
            Self::NotGranted { .. } => "NotGranted",
            Self::OutOfReach(_) => NOT_WATCHED,
            Self::Unreachable(..) => "ClusterUnreachable",
        }
    }

    /// Whether a person has to do something.
    pub(crate) fn is_warning(&self) -> bool {
        match self {
            Self::Missing(_) | Self::NotGranted { .. } | Self::OutOfReach(_) => true,
            Self::Unreachable(..) => false,
        }
    }
}

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(cluster) => {
                write!(
                    f,
                    "GarageCluster {cluster} does not exist; nothing happens until it does"
                )
            }
            Self::NotGranted {
                cluster,
                kind,
                namespace,
            } => write!(
                f,
                "namespace {} does not grant its GarageCluster {} to a {kind} in namespace {namespace}: create a \
                 ReferenceGrant (gateway.networking.k8s.io) there",
                cluster.namespace, cluster.name
            ),
            Self::OutOfReach(cluster) => f.write_str(&out_of_reach(cluster)),
            Self::Unreachable(cluster, why) => {
                write!(
                    f,
                    "the Admin API of GarageCluster {cluster} does not answer: {why}"
                )
            }
        }
    }
}

/// Who asks about the cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) kind: &'static str,
    pub(crate) namespace: &'a str,
    pub(crate) cluster: &'a ClusterKey,
    /// The object is being deleted.
    pub(crate) absent: bool,
    /// Its namespace too.
    pub(crate) namespace_ends: bool,
}

impl Home {
    /// What the state of the cluster means. An object that ends is never held by a cluster that is gone.
    pub(crate) fn gate(&self, asker: Asker<'_>) -> Gate {
        let cluster = asker.cluster.clone();
        match self {
            Self::Reached => Gate::Open,
            Self::Missing if asker.absent => Gate::Release,
            Self::Missing => Gate::Closed(Closed::Missing(cluster)),
            // What was once granted is cleaned up also when the grant is gone.
            Self::NotGranted => Gate::Closed(Closed::NotGranted {
                cluster,
                kind: asker.kind,
                namespace: asker.namespace.to_owned(),
            }),
            Self::OutOfReach if asker.absent && asker.namespace_ends => Gate::Release,
            Self::OutOfReach => Gate::Closed(Closed::OutOfReach(cluster)),
            Self::Unreachable { ending, .. }
                if asker.absent && (*ending || asker.namespace_ends) =>
            {
                Gate::Release
            }
            Self::Unreachable { why, .. } => {
                Gate::Closed(Closed::Unreachable(cluster, why.clone()))
            }
        }
    }
}

/// What to do about a cluster in a namespace where this operator does not look.
#[must_use]
pub fn out_of_reach(cluster: &ClusterKey) -> String {
    format!(
        "this operator does not look into namespace {}, where GarageCluster {} would be: it has to be among its \
         --namespace",
        cluster.namespace, cluster.name
    )
}

/// Where a reference of an object in `namespace` leads.
#[must_use]
pub fn target(reference: &ClusterRef, namespace: &str) -> ClusterKey {
    let given = reference
        .namespace
        .clone()
        .filter(|given| !given.is_empty());
    ClusterKey {
        namespace: given.unwrap_or_else(|| namespace.to_owned()),
        name: reference.name.clone(),
    }
}

/// A time as RFC 3339 has it.
#[must_use]
pub fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

pub(crate) fn condition(type_: &str, status: Option<bool>, reason: &str, message: &str) -> Value {
    let status = match status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    json!({ "type": type_, "status": status, "reason": reason, "message": message })
}

/// What the conditions of all kinds are made of.
pub(crate) struct Said<'a> {
    /// Status, reason and message of Ready.
    pub(crate) ready: (bool, &'static str, String),
    /// What went wrong while the plan was carried out.
    pub(crate) failure: Option<&'a str>,
    /// The cluster is in another namespace.
    pub(crate) elsewhere: bool,
    /// How it was seen.
    pub(crate) home: &'a Home,
    /// Reason and message of DeletionBlocked.
    pub(crate) blocked: Option<(&'static str, String)>,
    /// Reason and message of Degraded.
    pub(crate) degraded: Option<(&'static str, String)>,
}

/// The conditions, without times.
pub(crate) fn conditions(said: &Said<'_>) -> Vec<Value> {
    let (ready, reason, message) = &said.ready;
    let mut all = vec![condition(condition::READY, Some(*ready), reason, message)];
    all.push(match said.failure {
        None => condition(
            RECONCILED,
            Some(true),
            "Done",
            "the last round went through",
        ),
        Some(why) => condition(RECONCILED, Some(false), "Failed", why),
    });
    if said.elsewhere {
        let (status, reason, message) = match said.home {
            Home::NotGranted => (Some(false), "NotGranted", "a ReferenceGrant is missing"),
            Home::Missing => (None, "ClusterMissing", "the cluster does not exist"),
            Home::OutOfReach => (
                None,
                NOT_WATCHED,
                "this operator does not look into the cluster's namespace",
            ),
            Home::Unreachable { .. } | Home::Reached => (
                Some(true),
                "Granted",
                "a ReferenceGrant allows the reference",
            ),
        };
        all.push(condition(
            condition::REFERENCE_GRANTED,
            status,
            reason,
            message,
        ));
    }
    all.push(match &said.blocked {
        Some((reason, message)) => {
            condition(condition::DELETION_BLOCKED, Some(true), reason, message)
        }
        None => condition(
            condition::DELETION_BLOCKED,
            Some(false),
            "NotBlocked",
            "nothing stands in the way of its deletion",
        ),
    });
    all.push(match &said.degraded {
        Some((reason, message)) => condition(condition::DEGRADED, Some(true), reason, message),
        None => condition(
            condition::DEGRADED,
            Some(false),
            "Complete",
            "nothing is left out",
        ),
    });
    all
}

/// `a, b`.
pub(crate) fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_ends_is_not_held_by_a_cluster_that_is_gone() {
        let cluster = ClusterKey {
            namespace: "s".into(),
            name: "c".into(),
        };
        let down = |ending| Home::Unreachable {
            why: "x".into(),
            ending,
        };
        for (home, absent, ends, open) in [
            (Home::Reached, false, false, Some(true)),
            (Home::Reached, true, true, Some(true)),
            (Home::Missing, true, false, None),
            (Home::Missing, false, false, Some(false)),
            (Home::NotGranted, false, false, Some(false)),
            (Home::OutOfReach, false, false, Some(false)),
            (Home::OutOfReach, true, false, Some(false)),
            (Home::OutOfReach, true, true, None),
            (down(false), true, false, Some(false)),
            (down(false), true, true, None),
            (down(true), true, false, None),
            (down(true), false, false, Some(false)),
        ] {
            let gate = home.gate(Asker {
                kind: "GarageKey",
                namespace: "ns",
                cluster: &cluster,
                absent,
                namespace_ends: ends,
            });
            let found = match gate {
                Gate::Open => Some(true),
                Gate::Closed(_) => Some(false),
                Gate::Release => None,
            };
            assert_eq!(found, open, "{home:?} {absent} {ends}");
        }
    }
}
