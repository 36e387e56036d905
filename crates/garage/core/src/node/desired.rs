//! From a GarageNode to what it asks for. What the apiserver has checked is checked again. May not look at
//! other objects.

use crate::api::GarageNode;
use crate::cluster::{ClusterKey, Problem};
use crate::identity::{NodeId, Peer};
use crate::layout::{Role, owner_tag};
use crate::objects::names;
use crate::quantity;
use crate::tenant;
use std::collections::BTreeSet;

/// What one node should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Where the object is.
    pub key: ClusterKey,
    /// Its UID, which marks its role.
    pub uid: String,
    /// The object is being deleted.
    pub absent: bool,
    /// The cluster in whose layout it is.
    pub cluster: ClusterKey,
    /// The zone of its role.
    pub zone: String,
    /// Bytes, if the object says so.
    pub capacity: Option<u64>,
    /// It stores nothing.
    pub gateway: bool,
    /// Tags of its role besides our own.
    pub tags: BTreeSet<String>,
    /// Its id, if the object says so.
    pub node_id: Option<NodeId>,
    /// What runs it.
    pub kind: Kind,
}

/// What runs a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Somebody else, outside of this Kubernetes cluster.
    External(Peer),
    /// A pod that exists already.
    Pod(String),
    /// A pod of our own.
    Own,
}

impl Desired {
    /// Reads the object.
    ///
    /// # Errors
    /// Everything in it that cannot be done, each with its field.
    pub fn parse(node: &GarageNode) -> Result<Self, Vec<Problem>> {
        let (meta, spec) = (&node.metadata, &node.spec);
        let key = ClusterKey {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        };
        let mut problems = Vec::new();
        let mut problem = |field: &str, message: &str| {
            problems.push(Problem {
                field: field.to_owned(),
                message: message.to_owned(),
            });
        };
        let mut bytes = |field: &str, size| match quantity::bytes(size) {
            Ok(bytes) => Some(bytes),
            Err(why) => {
                problem(field, &why.to_string());
                None
            }
        };
        let data = spec
            .storage
            .as_ref()
            .and_then(|storage| storage.data.as_ref()?.size.as_ref());
        let capacity = match (&spec.capacity, data) {
            (Some(capacity), _) => bytes("spec.capacity", capacity),
            (None, Some(size)) => bytes("spec.storage.data.size", size),
            (None, None) => None,
        };
        let node_id = spec
            .node_id
            .as_deref()
            .and_then(|text| match text.parse::<NodeId>() {
                Ok(id) => Some(id),
                Err(why) => {
                    problem("spec.nodeId", &why.to_string());
                    None
                }
            });
        let kind = match (&spec.external, &spec.pod_selector) {
            (Some(_), Some(_)) => {
                problem("spec", "external and podSelector are mutually exclusive");
                Kind::Own
            }
            (Some(external), None) => match (node_id, u16::try_from(external.port)) {
                (Some(id), Ok(port)) => Kind::External(Peer {
                    id,
                    host: external.address.clone(),
                    port,
                }),
                (_, _) => {
                    problem("spec.external", "needs a nodeId and a port from 1 to 65535");
                    Kind::Own
                }
            },
            (None, Some(pod)) => Kind::Pod(pod.name.clone()),
            (None, None) => Kind::Own,
        };
        if spec.gateway && capacity.is_some() {
            problem(
                "spec.capacity",
                "capacity cannot be specified when gateway is true",
            );
        } else if capacity.is_some_and(|capacity| capacity < 1024) {
            problem("spec.capacity", "must be 1024 bytes or more");
        } else if !spec.gateway && capacity.is_none() && kind != Kind::Own {
            problem(
                "spec.capacity",
                "is required for a node that exists already and is no gateway",
            );
        }
        let desired = Self {
            uid: meta.uid.clone().unwrap_or_default(),
            absent: meta.deletion_timestamp.is_some(),
            cluster: tenant::target(&spec.cluster_ref, &key.namespace),
            zone: spec.zone.clone(),
            capacity,
            gateway: spec.gateway,
            tags: spec.tags.iter().cloned().collect(),
            node_id,
            kind,
            key,
        };
        // What goes is cleaned up by what is left of it, however wrong its fields are.
        if problems.is_empty() || desired.absent {
            Ok(desired)
        } else {
            Err(problems)
        }
    }

    /// Where nodes that start can dial it, as far as its object tells; `None` for gateways, which know less
    /// than they do, and for nodes that have no id yet.
    #[must_use]
    pub fn peer(&self, node: &GarageNode, rpc_port: u16) -> Option<Peer> {
        let status = node.status.as_ref();
        let told = status.and_then(|status| status.node_id.as_deref());
        let told = told.and_then(|id| id.parse().ok());
        if self.gateway || self.absent {
            return None;
        }
        match &self.kind {
            Kind::External(peer) => Some(peer.clone()),
            Kind::Own => {
                let pod = names::storage_pod(&names::node_workload(&self.key.name), 0);
                let service = names::headless_service(&self.cluster.name);
                Some(Peer {
                    id: told?,
                    host: format!("{pod}.{service}.{}.svc", self.key.namespace),
                    port: rpc_port,
                })
            }
            // It has no name in DNS that we know of.
            Kind::Pod(_) => {
                let (host, port) = status?.address.as_deref()?.rsplit_once(':')?;
                Some(Peer {
                    id: told?,
                    host: host.trim_matches(['[', ']']).to_owned(),
                    port: port.parse().ok()?,
                })
            }
        }
    }

    /// Its role, with this capacity unless the object names one.
    pub(super) fn role(&self, default: Option<u64>) -> Role {
        let ClusterKey { namespace, name } = &self.cluster;
        let tier = if self.gateway { "gateway" } else { "storage" };
        let ours = [
            format!("cluster:{name}/{namespace}"),
            format!("tier:{tier}"),
            owner_tag(&self.uid),
            self.key.name.clone(),
        ];
        Role {
            zone: self.zone.clone(),
            capacity: self.capacity.or(default).filter(|_| !self.gateway),
            tags: self.tags.iter().cloned().chain(ours).collect(),
        }
    }
}
