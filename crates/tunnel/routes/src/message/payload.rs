//! The payloads of the control messages. Data only; which of them follows which is the session's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{WireRoute, lenient};
use crate::id::RouteId;
use crate::reason::RefusedReason;
use crate::registry::Verdict;

/// A point in the history of a cluster's routes. A generation begins with the agent's process (or whenever it
/// starts counting anew); the sequence grows by one with every message of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Which count.
    pub generation: u64,
    /// The last message in it.
    pub sequence: u64,
}

/// `register`: who dials. The cluster is known by the credential; nothing here identifies it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Register {
    /// Which agent process; the same on all its connections.
    #[serde(deserialize_with = "lenient::text_or_empty")]
    pub agent_id: String,
    /// Number of this connection, from 0; connection 0 carries heartbeats and routes.
    pub connection: u32,
    /// How many connections the agent means to keep to this edge; 0: not said.
    pub connections: u32,
    /// The agent's version.
    #[serde(deserialize_with = "lenient::text_or_empty")]
    pub agent_version: String,
    /// The Kubernetes version, if the routes come from one.
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    pub k8s_version: Option<String>,
    /// Free labels, for people.
    #[serde(
        deserialize_with = "lenient::texts",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// What the agent believes that this edge has.
    #[serde(
        deserialize_with = "lenient::readable",
        skip_serializing_if = "Option::is_none"
    )]
    pub resume: Option<Position>,
    /// The agent is leaving: no new requests for this connection.
    #[serde(
        deserialize_with = "lenient::flag",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub drain: bool,
}

/// `register_success`: what the edge knows of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegisterSuccess {
    /// The cluster's id at this edge.
    pub cluster_id: String,
    /// The cluster's UUID, as in metrics and logs.
    pub cluster_uuid: String,
    /// The cluster's name, for people.
    pub name: String,
    /// The cluster's own host name; everything below it is the cluster's too. Empty: not said.
    pub own_host: String,
    /// Which edge answered.
    pub edge_id: String,
    /// What the edge has of the cluster's routes; absent: nothing that can be continued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<Position>,
    /// Requests that the edge will have open at once on this connection.
    pub max_streams: u32,
}

/// `heartbeat`: refreshes the cluster's lease.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Heartbeat {
    /// Informational; the credential identifies the cluster.
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    pub cluster_id: Option<String>,
    /// Which agent process.
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    pub agent_id: Option<String>,
    /// How the agent feels, for people.
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    pub status: Option<String>,
    /// Facts about the cluster.
    pub metadata: HeartbeatMetadata,
}

/// Facts about a cluster; all optional, unknown ones kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeartbeatMetadata {
    /// Whether no load balancer of the cluster has a public address.
    #[serde(
        deserialize_with = "lenient::choice",
        skip_serializing_if = "Option::is_none"
    )]
    pub is_private: Option<bool>,
    /// Routes that the agent offers.
    #[serde(
        deserialize_with = "lenient::count",
        skip_serializing_if = "Option::is_none"
    )]
    pub gateway_routes: Option<u64>,
    /// The agent's version.
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    pub agent_version: Option<String>,
    /// The Kubernetes version.
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    pub k8s_version: Option<String>,
    /// Whatever else was said.
    #[serde(flatten)]
    pub rest: BTreeMap<String, serde_json::Value>,
}

/// `heartbeat_ack`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeartbeatAck {
    /// How long the cluster counts as alive without another heartbeat.
    #[serde(
        deserialize_with = "lenient::count",
        skip_serializing_if = "Option::is_none"
    )]
    pub lease_seconds: Option<u64>,
}

/// What an `ingress_routes` message does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Adds routes, or replaces those of the same id; within a snapshot, another part of it.
    Add,
    /// The same as `Add` outside a snapshot.
    Update,
    /// Removes routes of this cluster.
    Delete,
    /// The routes are all that the cluster has, or with `more` the first part of that.
    Snapshot,
}

/// `ingress_routes`: a change of the cluster's routes. Without `generation` and `sequence` it is applied as it
/// stands; with them gaps are found and duplicates ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressRoutes {
    /// What to do.
    pub action: Action,
    /// Informational; the credential identifies the cluster.
    #[serde(
        default,
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    pub cluster_uuid: Option<String>,
    /// The routes concerned; at most [`MAX_ROUTES_IN_MESSAGE`](super::MAX_ROUTES_IN_MESSAGE).
    #[serde(default, deserialize_with = "lenient::bounded")]
    pub routes: Vec<WireRoute>,
    /// Which count `sequence` belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// One more than that of the message before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// More parts of this snapshot follow; nothing is applied before the last.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

impl IngressRoutes {
    /// Generation and sequence, if the sender counts.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.generation
            .zip(self.sequence)
            .map(|(generation, sequence)| Position {
                generation,
                sequence,
            })
    }
}

/// `ingress_routes_ack`. With a position it answers that message: each of its routes that is not in `refused` is
/// accepted. Without one it tells what has changed since.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IngressRoutesAck {
    /// Of the message that is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Of the message that is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// How many of the routes concerned are served.
    pub accepted: u64,
    /// Routes that are not served, and why.
    pub refused: Vec<Refused>,
    /// Routes that were refused before and are served now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub restored: Vec<RouteId>,
    /// Every route of the cluster that is not in `refused` here (or in an ack that follows) is served: what the
    /// agent knew of refusals before is void.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub complete: bool,
    /// The edge cannot continue from here and keeps what it had; send a snapshot.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub resync: bool,
}

/// A route that the edge does not serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The route.
    pub id: RouteId,
    /// Its host, as a reminder; may be empty.
    #[serde(default)]
    pub host: String,
    /// Its path, as a reminder; may be empty.
    #[serde(default)]
    pub path: String,
    /// Why, as a stable code.
    pub reason: RefusedReason,
    /// Why and what to do, for people.
    #[serde(default)]
    pub message: String,
}

impl Refused {
    /// A refusal with the reason's own message.
    #[must_use]
    pub fn new(id: RouteId, host: &str, path: &str, reason: RefusedReason) -> Self {
        Self {
            id,
            host: host.to_owned(),
            path: path.to_owned(),
            reason,
            message: reason.message().to_owned(),
        }
    }
}

/// Refusals in one ack at most; more of them follow in acks without a position.
const MAX_REFUSED: usize = 1000;

impl IngressRoutesAck {
    /// An ack that says nothing but how far the edge has come.
    #[must_use]
    pub fn at(position: Option<Position>) -> Self {
        Self {
            generation: position.map(|position| position.generation),
            sequence: position.map(|position| position.sequence),
            ..Self::default()
        }
    }

    /// "Send a snapshot", in answer to the message at `position`.
    #[must_use]
    pub fn resync(position: Option<Position>) -> Self {
        Self {
            resync: true,
            ..Self::at(position)
        }
    }

    /// The acks that answer the message at `position`, or with `None` tell the agent unasked, that these routes
    /// have these verdicts now. Send all of them, in this order; there is at least one.
    #[must_use]
    pub fn of_verdicts(position: Option<Position>, verdicts: &[(RouteId, Verdict)]) -> Vec<Self> {
        let refused = verdicts.iter().filter_map(|&(id, verdict)| match verdict {
            Verdict::Accepted => None,
            Verdict::Refused(reason) => Some(Refused::new(id, "", "", reason)),
        });
        let mut first = Self::at(position);
        let accepted = || {
            verdicts
                .iter()
                .filter(|(_, verdict)| *verdict == Verdict::Accepted)
                .map(|&(id, _)| id)
        };
        first.accepted = accepted().count() as u64;
        if position.is_none() {
            first.restored = accepted().collect();
        }
        in_parts(first, refused.collect())
    }

    /// The acks that tell an agent which has just connected everything the edge refuses of it.
    #[must_use]
    pub fn all_refusals(accepted: u64, refused: Vec<Refused>) -> Vec<Self> {
        in_parts(
            Self {
                accepted,
                complete: true,
                ..Self::default()
            },
            refused,
        )
    }

    /// The position of the message that is answered.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.generation
            .zip(self.sequence)
            .map(|(generation, sequence)| Position {
                generation,
                sequence,
            })
    }
}

fn in_parts(mut first: IngressRoutesAck, mut refused: Vec<Refused>) -> Vec<IngressRoutesAck> {
    let rest = refused.split_off(refused.len().min(MAX_REFUSED));
    first.refused = refused;
    let more = rest.chunks(MAX_REFUSED);
    std::iter::once(first)
        .chain(more.map(|part| IngressRoutesAck {
            refused: part.to_vec(),
            ..IngressRoutesAck::default()
        }))
        .collect()
}

/// `error`: a message could not be served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorReply {
    /// What failed, why and what to do, for people.
    #[serde(deserialize_with = "lenient::text_or_empty")]
    pub error: String,
    /// A stable code.
    #[serde(deserialize_with = "lenient::text_or_empty")]
    pub code: String,
}
