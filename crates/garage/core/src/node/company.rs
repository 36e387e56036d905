//! Which new nodes join the layout together. May not say what else becomes of them.
//!
//! Garage refuses a layout of fewer storing nodes than copies, so the first nodes of a cluster cannot join
//! one by one. Later ones could, and each version would move data anew.

use super::Desired;
use crate::api::{self, GarageNode};
use crate::cluster::Facts;
use crate::identity::NodeId;
use crate::layout::Role;
use std::collections::{BTreeMap, BTreeSet};

/// The roles of storing nodes that are connected and have none yet, without that of `own`, of those
/// `others` that are in its namespace (what is granted is granted to all of them).
#[must_use]
pub fn mates<'a>(
    own: &Desired,
    default_capacity: Option<u64>,
    others: impl IntoIterator<Item = &'a GarageNode>,
    facts: &Facts,
) -> BTreeMap<NodeId, Role> {
    let mut mates = BTreeMap::new();
    let mut ambiguous = BTreeSet::new();
    for other in others {
        let mut finalizers = other.metadata.finalizers.iter().flatten();
        let ours = finalizers.any(|one| one == api::FINALIZER_NODE);
        let Ok(desired) = Desired::parse(other) else {
            continue;
        };
        let near = desired.cluster == own.cluster && desired.key.namespace == own.key.namespace;
        if !ours || !near || desired.absent || desired.uid == own.uid {
            continue;
        }
        let status = other.status.as_ref();
        let told = status.and_then(|status| status.node_id.as_ref()?.parse::<NodeId>().ok());
        let Some(id) = told.filter(|told| desired.node_id.is_none_or(|asked| asked == *told))
        else {
            continue;
        };
        let up = facts.nodes.get(&id).is_some_and(|node| node.up);
        let role = desired.role(default_capacity);
        if !up || facts.layout.roles.contains_key(&id) || role.capacity.is_none() {
            continue;
        }
        // Two objects for one node: which of them it is, is decided when their own turn comes.
        if mates.insert(id, role).is_some() {
            ambiguous.insert(id);
        }
    }
    mates.retain(|id, _| !ambiguous.contains(id));
    mates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Node;

    fn id(n: u8) -> NodeId {
        format!("{n:02x}").repeat(32).parse().expect("64 digits")
    }

    /// A GarageNode with its finalizer and this id.
    fn node(name: &str, n: u8) -> GarageNode {
        let value = serde_json::json!({
            "metadata": {
                "name": name, "namespace": "ns", "uid": name, "finalizers": [api::FINALIZER_NODE],
            },
            "spec": { "clusterRef": { "name": "c" }, "zone": "z", "capacity": "1Gi" },
            "status": { "nodeId": id(n).to_string() },
        });
        serde_json::from_value(value).expect("a GarageNode")
    }

    fn changed(name: &str, n: u8, change: impl Fn(&mut GarageNode)) -> GarageNode {
        let mut node = node(name, n);
        change(&mut node);
        node
    }

    #[test]
    fn only_who_is_connected_and_beyond_doubt_joins() {
        let up = |n| {
            let node = Node {
                up: true,
                ..Node::default()
            };
            (id(n), node)
        };
        let facts = Facts {
            nodes: (1..20).map(up).collect(),
            ..Facts::default()
        };
        let own = Desired::parse(&node("own", 1)).expect("is fine");
        let time = crate::tenant::time("2026-01-01T00:00:00Z").expect("a time");
        let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time);
        let others = [
            node("own", 1),
            node("mate", 2),
            node("away", 20),
            changed("elsewhere", 3, |node| {
                node.metadata.namespace = Some("other".into())
            }),
            changed("another's", 4, |node| {
                node.spec.cluster_ref.name = "d".into()
            }),
            changed("gateway", 5, |node| {
                (node.spec.gateway, node.spec.capacity) = (true, None)
            }),
            changed("unclean", 6, |node| node.metadata.finalizers = None),
            changed("going", 7, |node| {
                node.metadata.deletion_timestamp = Some(time.clone())
            }),
            changed("other id", 8, |node| {
                node.spec.node_id = Some(id(9).to_string())
            }),
            changed("unknown", 10, |node| node.status = None),
            node("twin", 11),
            node("twin's twin", 11),
        ];
        let found = mates(&own, None, &others, &facts);
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [id(2)]);
        assert_eq!(found[&id(2)].owner(), Some("mate"));
        let mut settled = facts;
        settled.layout.roles = found;
        assert!(mates(&own, None, &others, &settled).is_empty());
    }
}
