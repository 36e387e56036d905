//! What one Garage cluster answers at its Admin API, as far as the operator asks while no node fails:
//! members, layout, history, health, tables. It may not open a socket. Nodes are up once they have joined.
//!
//! Kept honest by a test that asks a real Garage the same.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A node that has started.
pub(super) struct Node {
    /// Of its RPC.
    pub(super) addr: String,
    pub(super) hostname: String,
}

/// The state that all nodes of a cluster share.
pub(super) struct Garage {
    nodes: BTreeMap<String, Node>,
    version: u64,
    /// By node: `{zone, tags, capacity}`.
    roles: BTreeMap<String, Value>,
    redundancy: Value,
    /// By node; `None` removes it.
    staged: BTreeMap<String, Option<Value>>,
    staged_redundancy: Option<Value>,
    /// The version before the current one is still read from. The first who asks for the history sees it.
    draining: Option<u64>,
}

impl Default for Garage {
    fn default() -> Self {
        Self {
            nodes: BTreeMap::new(),
            version: 0,
            roles: BTreeMap::new(),
            redundancy: json!("maximum"),
            staged: BTreeMap::new(),
            staged_redundancy: None,
            draining: None,
        }
    }
}

/// HTTP status and body.
pub(super) type Answer = (u16, Value);

impl Garage {
    /// A node starts, or starts again elsewhere.
    pub(super) fn join(&mut self, id: &str, node: Node) {
        self.nodes.insert(id.to_owned(), node);
    }

    /// What the node `asked` answers to `call` (`GetClusterStatus`), with its query left out.
    pub(super) fn answer(&mut self, asked: &str, call: &str, body: &Value) -> Answer {
        match call {
            "GetClusterStatus" => (200, self.status()),
            "GetClusterHealth" => (200, self.health()),
            "GetClusterLayout" => (200, self.layout()),
            "GetClusterLayoutHistory" => (200, self.history()),
            "UpdateClusterLayout" => self.stage(body),
            "PreviewClusterLayoutChanges" => {
                let (layout, statistics) = self.next();
                let message = json!(["it fits"]);
                (
                    200,
                    json!({ "message": message, "statistics": statistics, "newLayout": layout }),
                )
            }
            "ApplyClusterLayout" => self.apply(body),
            "RevertClusterLayout" => {
                self.staged.clear();
                self.staged_redundancy = None;
                (200, self.layout())
            }
            "ConnectClusterNodes" => (200, self.connect(body)),
            "GetNodeStatistics" => (
                200,
                json!({ "success": { asked: statistics() }, "error": {} }),
            ),
            other => refusal(
                400,
                "InvalidRequest",
                &format!("Bad request: not played: {other}"),
                call,
            ),
        }
    }

    fn status(&self) -> Value {
        let space = json!({ "available": 1_u64 << 40, "total": 1_u64 << 40 });
        let up = self.nodes.iter().map(|(id, node)| {
            json!({
                "id": id, "garageVersion": "v2.5.0", "addr": node.addr, "hostname": node.hostname,
                "isUp": true, "lastSeenSecsAgo": null, "role": self.roles.get(id), "draining": false,
                "dataPartition": space, "metadataPartition": space, "resyncQueueLen": 0,
            })
        });
        let absent = self
            .roles
            .iter()
            .filter(|(id, _)| !self.nodes.contains_key(*id));
        let down = absent.map(|(id, role)| {
            json!({
                "id": id, "garageVersion": null, "addr": null, "hostname": null, "isUp": false,
                "lastSeenSecsAgo": null, "role": role, "draining": false,
            })
        });
        let nodes: Vec<Value> = up.chain(down).collect();
        json!({ "layoutVersion": self.version, "nodes": nodes })
    }

    fn health(&self) -> Value {
        let storing = self
            .roles
            .iter()
            .filter(|(_, role)| !role["capacity"].is_null());
        let (mut all, mut up) = (0, 0);
        for (id, _) in storing {
            all += 1;
            up += u64::from(self.nodes.contains_key(id));
        }
        let partitions = if self.version == 0 { 0 } else { 256 };
        json!({
            "status": if self.version > 0 && all == up { "healthy" } else { "unavailable" },
            "knownNodes": self.nodes.len(), "connectedNodes": self.nodes.len(),
            "storageNodes": all, "storageNodesUp": up, "partitions": partitions,
            "partitionsQuorum": partitions, "partitionsAllOk": if all == up { partitions } else { 0 },
        })
    }

    fn layout(&self) -> Value {
        let staged: Vec<Value> = self
            .staged
            .iter()
            .map(|(id, role)| match role {
                Some(role) => with_id(id, role),
                None => json!({ "id": id, "remove": true }),
            })
            .collect();
        let mut layout = layout(self.version, &self.roles, &self.redundancy);
        layout["stagedRoleChanges"] = staged.into();
        let staged = self.staged_redundancy.as_ref();
        layout["stagedParameters"] =
            staged.map_or(Value::Null, |zones| json!({ "zoneRedundancy": zones }));
        layout
    }

    fn history(&mut self) -> Value {
        let storing = self
            .roles
            .values()
            .filter(|role| !role["capacity"].is_null())
            .count();
        let version = |version: u64, status: &str| {
            json!({
                "version": version, "status": status, "storageNodes": storing,
                "gatewayNodes": self.roles.len() - storing,
            })
        };
        let current = version(self.version, "Current");
        let Some(draining) = self.draining else {
            return json!({
                "currentVersion": self.version, "minAck": self.version, "versions": [current],
                "updateTrackers": null,
            });
        };
        let tracker = json!({ "ack": self.version, "sync": draining, "syncAck": draining });
        let trackers: BTreeMap<&String, &Value> =
            self.roles.keys().map(|id| (id, &tracker)).collect();
        let history = json!({
            "currentVersion": self.version, "minAck": self.version,
            "versions": [current, version(draining, "Draining")], "updateTrackers": trackers,
        });
        self.draining = None;
        history
    }

    fn stage(&mut self, body: &Value) -> Answer {
        let call = "UpdateClusterLayout";
        for change in body["roles"].as_array().into_iter().flatten() {
            let Some(id) = change["id"].as_str().filter(|id| id.len() == 64) else {
                return refusal(400, "InvalidRequest", "Bad request: Invalid node id", call);
            };
            let role = match change["remove"].as_bool() {
                Some(true) => None,
                _ if !change["tags"].is_array() || !change["zone"].is_string() => {
                    return refusal(400, "InvalidRequest", "Bad request: Invalid JSON", call);
                }
                _ => Some(json!({
                    "zone": change["zone"], "tags": change["tags"], "capacity": change["capacity"],
                })),
            };
            self.staged.insert(id.to_owned(), role);
        }
        if let Some(zones) = body["parameters"].get("zoneRedundancy") {
            // What is so already is not staged.
            self.staged_redundancy = (*zones != self.redundancy).then(|| zones.clone());
        }
        (200, self.layout())
    }

    /// The layout that Apply makes, and its statistics.
    fn next(&self) -> (Value, Value) {
        let mut roles = self.roles.clone();
        for (id, role) in &self.staged {
            match role {
                Some(role) => drop(roles.insert(id.clone(), role.clone())),
                None => drop(roles.remove(id)),
            }
        }
        let zones = self.staged_redundancy.as_ref().unwrap_or(&self.redundancy);
        let total: u64 = roles
            .values()
            .filter_map(|role| role["capacity"].as_u64())
            .sum();
        let statistics = json!({
            "replicationFactor": 3, "effectiveZoneRedundancy": 1, "partitionSize": total / 768,
            "previousPartitionSize": null, "lowPartitionSize": false, "usableCapacity": total,
            "totalCapacity": total, "effectiveCapacity": total / 3, "lowUsableCapacity": false,
            "totalMovedPartitions": null, "zones": [],
        });
        let mut next = layout(self.version + 1, &roles, zones);
        next["stagedRoleChanges"] = json!([]);
        next["stagedParameters"] = Value::Null;
        (next, statistics)
    }

    fn apply(&mut self, body: &Value) -> Answer {
        if body["version"] != self.version + 1 {
            let message = "Internal error: Invalid new layout version";
            return refusal(500, "InternalError", message, "ApplyClusterLayout");
        }
        let (layout, statistics) = self.next();
        for (id, role) in std::mem::take(&mut self.staged) {
            match role {
                Some(role) => drop(self.roles.insert(id, role)),
                None => drop(self.roles.remove(&id)),
            }
        }
        if let Some(zones) = self.staged_redundancy.take() {
            self.redundancy = zones;
        }
        // There is nothing to move out of the version that never was.
        self.draining = (self.version > 0).then_some(self.version);
        self.version += 1;
        (
            200,
            json!({ "message": ["it fits"], "statistics": statistics, "layout": layout }),
        )
    }

    fn connect(&self, body: &Value) -> Value {
        let peers = body.as_array().into_iter().flatten();
        let outcome = |peer: &Value| {
            let id = peer
                .as_str()
                .and_then(|peer| peer.split('@').next())
                .unwrap_or_default();
            match self.nodes.contains_key(id) {
                true => json!({ "success": true, "error": null }),
                false => json!({ "success": false, "error": "IO error: Connection refused" }),
            }
        };
        peers.map(outcome).collect()
    }
}

fn layout(version: u64, roles: &BTreeMap<String, Value>, zones: &Value) -> Value {
    let roles = roles.iter().map(|(id, role)| {
        let mut role = with_id(id, role);
        let capacity = role["capacity"].as_u64().unwrap_or(0);
        role["storedPartitions"] = json!(if capacity > 0 { 256 } else { 0 });
        role["usableCapacity"] = json!(capacity);
        role
    });
    let roles: Vec<Value> = roles.collect();
    json!({
        "version": version, "roles": roles, "parameters": { "zoneRedundancy": zones },
        "partitionSize": 0,
    })
}

fn with_id(id: &str, role: &Value) -> Value {
    let mut role = role.clone();
    role["id"] = json!(id);
    role
}

fn statistics() -> Value {
    let names = [
        "admin_token",
        "bucket_v2",
        "bucket_alias",
        "key",
        "object",
        "version",
        "block_ref",
    ];
    let tables = names.map(|name| {
        json!({
            "tableName": name, "items": 7, "merkleItems": 7, "merkleQueueLen": 0,
            "insertQueueLen": 0, "gcQueueLen": 0,
        })
    });
    let blocks = json!({ "rcEntries": 0, "resyncQueueLen": 0, "resyncErrors": 0 });
    json!({ "freeform": "", "tableStats": tables, "blockManagerStats": blocks })
}

/// An error as Garage words it.
pub(super) fn refusal(status: u16, code: &str, message: &str, call: &str) -> Answer {
    let path = format!("/v2/{call}");
    (
        status,
        json!({ "code": code, "message": message, "region": "garage", "path": path }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> String {
        format!("{n:02x}").repeat(32)
    }

    fn started(nodes: &[u8]) -> Garage {
        let mut garage = Garage::default();
        for n in nodes {
            let node = Node {
                addr: format!("127.9.9.{n}:3901"),
                hostname: format!("node-{n}"),
            };
            garage.join(&id(*n), node);
        }
        garage
    }

    fn role(n: u8, capacity: Option<u64>) -> Value {
        json!({ "id": id(n), "zone": "z", "tags": ["t"], "capacity": capacity })
    }

    fn ask(garage: &mut Garage, call: &str, body: &Value) -> Value {
        let (status, answer) = garage.answer(&id(1), call, body);
        assert_eq!(status, 200, "{call}: {answer}");
        answer
    }

    #[test]
    fn staged_roles_are_merged_by_node_and_applied_as_one_version() {
        let mut garage = started(&[1]);
        for roles in [
            json!([role(1, Some(1)), role(2, None)]),
            json!([role(1, Some(5))]),
        ] {
            ask(
                &mut garage,
                "UpdateClusterLayout",
                &json!({ "roles": roles }),
            );
        }
        let layout = ask(&mut garage, "GetClusterLayout", &Value::Null);
        assert_eq!(
            layout["stagedRoleChanges"].as_array().map(Vec::len),
            Some(2)
        );
        assert_eq!(layout["stagedRoleChanges"][0]["capacity"], 5);
        let preview = ask(&mut garage, "PreviewClusterLayoutChanges", &Value::Null);
        let applied = ask(&mut garage, "ApplyClusterLayout", &json!({ "version": 1 }));
        assert_eq!(applied["layout"], preview["newLayout"]);
        let status = ask(&mut garage, "GetClusterStatus", &Value::Null);
        assert_eq!(status["layoutVersion"], 1);
        // The second has a role and has never been seen.
        assert_eq!(status["nodes"][1]["isUp"], false);
        assert_eq!(status["nodes"][0]["role"]["capacity"], 5);
    }

    #[test]
    fn another_version_than_the_next_is_refused_and_changes_nothing() {
        let mut garage = started(&[1]);
        let (status, answer) =
            garage.answer(&id(1), "ApplyClusterLayout", &json!({ "version": 5 }));
        assert_eq!((status, &answer["code"]), (500, &json!("InternalError")));
        assert_eq!(
            ask(&mut garage, "GetClusterLayout", &Value::Null)["version"],
            0
        );
    }

    #[test]
    fn a_removed_role_is_gone_and_a_reverted_removal_is_not() {
        let mut garage = started(&[1, 2]);
        let stage = |roles: Value| json!({ "roles": roles });
        ask(
            &mut garage,
            "UpdateClusterLayout",
            &stage(json!([role(1, Some(9)), role(2, None)])),
        );
        ask(&mut garage, "ApplyClusterLayout", &json!({ "version": 1 }));
        let removal = stage(json!([{ "id": id(2), "remove": true }]));
        ask(&mut garage, "UpdateClusterLayout", &removal);
        ask(&mut garage, "RevertClusterLayout", &Value::Null);
        assert_eq!(garage.roles.len(), 2);
        ask(&mut garage, "UpdateClusterLayout", &removal);
        ask(&mut garage, "ApplyClusterLayout", &json!({ "version": 2 }));
        assert_eq!(garage.roles.keys().collect::<Vec<_>>(), [&id(1)]);
    }

    #[test]
    fn a_version_after_the_first_drains_until_somebody_has_seen_it() {
        let mut garage = started(&[1]);
        for version in 1..=2 {
            ask(
                &mut garage,
                "UpdateClusterLayout",
                &json!({ "roles": [role(1, Some(version))] }),
            );
            ask(
                &mut garage,
                "ApplyClusterLayout",
                &json!({ "version": version }),
            );
        }
        let statuses = |history: &Value| {
            let versions = history["versions"].as_array().cloned().unwrap_or_default();
            let statuses: Vec<_> = versions.iter().map(|one| one["status"].clone()).collect();
            statuses
        };
        let draining = ask(&mut garage, "GetClusterLayoutHistory", &Value::Null);
        assert_eq!(statuses(&draining), ["Current", "Draining"]);
        assert_eq!(draining["updateTrackers"][id(1)]["sync"], 1);
        let settled = ask(&mut garage, "GetClusterLayoutHistory", &Value::Null);
        assert_eq!(statuses(&settled), ["Current"]);
        assert_eq!(settled["updateTrackers"], Value::Null);
    }

    #[test]
    fn health_counts_nodes_that_store_only() {
        let mut garage = started(&[1, 3]);
        let roles = json!([role(1, Some(9)), role(2, Some(9)), role(3, None)]);
        ask(
            &mut garage,
            "UpdateClusterLayout",
            &json!({ "roles": roles }),
        );
        ask(&mut garage, "ApplyClusterLayout", &json!({ "version": 1 }));
        let health = ask(&mut garage, "GetClusterHealth", &Value::Null);
        assert_eq!(
            (&health["storageNodes"], &health["storageNodesUp"]),
            (&json!(2), &json!(1))
        );
        assert_eq!(health["status"], "unavailable");
    }

    #[test]
    fn only_nodes_that_have_started_are_connected_to() {
        let mut garage = started(&[1]);
        let peers = json!([format!("{}@h:1", id(1)), format!("{}@h:1", id(2))]);
        let outcomes = ask(&mut garage, "ConnectClusterNodes", &peers);
        assert_eq!(
            (&outcomes[0]["success"], &outcomes[1]["success"]),
            (&json!(true), &json!(false))
        );
    }

    #[test]
    fn malformed_changes_and_unknown_calls_are_refused() {
        let mut garage = started(&[1]);
        for (call, body) in [
            (
                "UpdateClusterLayout",
                json!({ "roles": [{ "id": "abc", "remove": true }] }),
            ),
            (
                "UpdateClusterLayout",
                json!({ "roles": [{ "id": id(1), "zone": "z" }] }),
            ),
            ("CreateKey", json!({})),
        ] {
            assert_eq!(garage.answer(&id(1), call, &body).0, 400, "{call} {body}");
        }
    }
}
