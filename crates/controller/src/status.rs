//! Writing the status of objects. May not decide what a status says; only whether saying it changes
//! anything but times.

use crate::apply::{Ctx, Target};
use crate::clock;
use crate::conditions::{self, Wanted};
use crate::covers::{field, is_empty, strip_nulls};
use crate::error::{Error, Result};
use crate::kind::Kind;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ManagedFieldsEntry, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};

impl Ctx {
    /// Server-side apply of the status subresource: `status` holds all the fields of it that are
    /// ours, and only those. `None` when the object already says so: nothing was sent.
    ///
    /// A field that an earlier call set and `status` lacks is removed.
    ///
    /// # Errors
    /// [`Error::NotHolder`] without the lease, else what the apiserver says.
    pub async fn apply_status<K: Kind>(&self, object: &K, status: &Value) -> Result<Option<K>> {
        let target = Target::of("apply-status", "apply the status of", object)?;
        let present = target.encode(object)?;
        if !status_differs(&present["status"], status) {
            return Ok(None);
        }
        self.send_status(&target, object, status).await.map(Some)
    }

    /// [`Ctx::apply_status`] for a status with conditions: `status.conditions` is a list of
    /// [`Wanted`] (other fields of an element are ignored), to which transition times and
    /// `observedGeneration` are added. `None` when nothing but times would differ: nothing was
    /// sent.
    ///
    /// A condition whose `status` stays keeps its `lastTransitionTime`. Conditions of others stay,
    /// which takes a list that is merged by type (`x-kubernetes-list-type: map`, key `type`) in the
    /// kind's schema. A time in a field named `last...` (`lastSeen`) does not cause a write by
    /// itself. A field of ours that `status` no longer has is noticed by `metadata.managedFields`
    /// and removed.
    ///
    /// # Errors
    /// [`Error::Encode`] if an element of `conditions` is no [`Wanted`], [`Error::NotHolder`]
    /// without the lease, else what the apiserver says.
    pub async fn write_status<K: Kind>(&self, object: &K, status: &Value) -> Result<Option<K>> {
        let target = Target::of("apply-status", "apply the status of", object)?;
        let present = target.encode(object)?;
        let generation = object.meta().generation;
        let composed = compose(&present["status"], status, generation, clock::now());
        let composed = composed.map_err(|source| Error::Encode {
            action: target.action.clone(),
            source,
        })?;
        let managed = object.meta().managed_fields.as_deref().unwrap_or_default();
        if composed.same && !owns_more(managed, self.manager(), &composed.status) {
            return Ok(None);
        }
        self.send_status(&target, object, &composed.status)
            .await
            .map(Some)
    }

    /// Strategic merge of some fields into the status of a built-in kind, for conditions of Pods:
    /// `{"conditions": [Wanted, ...]}` sets ours by their type and leaves those of others. Times
    /// are added as in [`Ctx::write_status`]; `None` when nothing but times would differ.
    ///
    /// # Errors
    /// As [`Ctx::write_status`]. Kinds from CRDs do not know strategic merges.
    pub async fn patch_status<K: Kind>(&self, object: &K, status: &Value) -> Result<Option<K>> {
        let target = Target::of("patch-status", "patch the status of", object)?;
        let present = target.encode(object)?;
        // The conditions of built-in kinds have no observedGeneration before Kubernetes 1.34.
        let composed = compose(&present["status"], status, None, clock::now());
        let composed = composed.map_err(|source| Error::Encode {
            action: target.action.clone(),
            source,
        })?;
        if composed.same {
            return Ok(None);
        }
        let patch = Patch::Strategic(json!({
            "metadata": { "uid": object.meta().uid },
            "status": composed.status,
        }));
        let parameters = PatchParams {
            field_manager: Some(self.manager().to_owned()),
            ..PatchParams::default()
        };
        let request =
            target
                .request()
                .patch_subresource("status", &target.name, &parameters, &patch);
        self.write_to(&target, self.send(request)).await.map(Some)
    }

    async fn send_status<K: Kind>(&self, target: &Target, object: &K, status: &Value) -> Result<K> {
        let patch = Patch::Apply(json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            // An object made anew under the same name must not get the old one's status.
            "metadata": { "name": target.name, "uid": object.meta().uid },
            "status": status,
        }));
        let parameters = PatchParams::apply(self.manager()).force();
        let request =
            target
                .request()
                .patch_subresource("status", &target.name, &parameters, &patch);
        self.write_to(target, self.send(request)).await
    }
}

/// A status to write.
#[derive(Debug)]
struct Composed {
    status: Value,
    /// The object already says so, but for times.
    same: bool,
}

/// Adds times to the conditions of `desired`, and compares with what is there.
fn compose(
    present: &Value,
    desired: &Value,
    generation: Option<i64>,
    now: Timestamp,
) -> serde_json::Result<Composed> {
    let mut status = desired.clone();
    strip_nulls(&mut status);
    let Value::Object(fields) = &mut status else {
        let same = is_empty(&status);
        return Ok(Composed {
            status: json!({}),
            same,
        });
    };
    let mut same = true;
    if let Some(list) = fields.get("conditions").cloned() {
        let wanted: Vec<Wanted> = serde_json::from_value(list)?;
        let seen = conditions_of(present);
        let merged = conditions::merge(&seen, &wanted, generation, now);
        same = !conditions::differ(&seen, &merged);
        fields.insert("conditions".to_owned(), serde_json::to_value(merged)?);
    }
    same &= fields
        .iter()
        .filter(|(name, _)| *name != "conditions")
        .all(|(name, value)| {
            same_but_times(name, present.get(name).unwrap_or(&Value::Null), value)
        });
    Ok(Composed { status, same })
}

/// The conditions of a status, as far as they can be read: some kinds leave out reasons and times.
fn conditions_of(status: &Value) -> Vec<Condition> {
    let list = status["conditions"].as_array();
    let text =
        |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    list.into_iter()
        .flatten()
        .map(|condition| Condition {
            type_: text(condition, "type"),
            status: text(condition, "status"),
            reason: text(condition, "reason"),
            message: text(condition, "message"),
            observed_generation: condition["observedGeneration"].as_i64(),
            last_transition_time: Time(
                time(&condition["lastTransitionTime"]).unwrap_or(Timestamp::UNIX_EPOCH),
            ),
        })
        .collect()
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// Equality in which empty fields are the same as absent ones, and times in `last...` as each other.
fn same_but_times(name: &str, a: &Value, b: &Value) -> bool {
    if name.starts_with("last") && time(a).is_some() && time(b).is_some() {
        return true;
    }
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let names = a.keys().chain(b.keys());
            names
                .into_iter()
                .all(|name| same_but_times(name, field(a, name), field(b, name)))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_but_times(name, a, b))
        }
        (a, b) => same(a, b),
    }
}

/// Whether `manager` owns a field of the status that `desired` does not have.
fn owns_more(managed: &[ManagedFieldsEntry], manager: &str, desired: &Value) -> bool {
    managed
        .iter()
        .filter(|entry| {
            entry.manager.as_deref() == Some(manager)
                && entry.operation.as_deref() == Some("Apply")
                && entry.subresource.as_deref() == Some("status")
        })
        .filter_map(|entry| entry.fields_v1.as_ref()?.0.get("f:status")?.as_object())
        .any(|owned| !names_all(owned, desired))
}

/// Whether each path of a `FieldsV1` tree is there in `value`.
/// (`sigs.k8s.io/structured-merge-diff`, serialised path elements `f:`, `k:`, `v:`, `i:`)
fn names_all(owned: &Map<String, Value>, value: &Value) -> bool {
    owned.iter().all(|(path, below)| {
        let found = match path.split_at_checked(2) {
            Some(("f:", name)) => value.get(name),
            Some(("k:", keys)) => {
                let keys: Value = serde_json::from_str(keys).unwrap_or_default();
                let items = value.as_array();
                items.into_iter().flatten().find(|item| {
                    let keys = keys.as_object();
                    keys.is_some_and(|keys| {
                        keys.iter()
                            .all(|(key, wanted)| item.get(key) == Some(wanted))
                    })
                })
            }
            Some(("v:", one)) => {
                let one: Value = serde_json::from_str(one).unwrap_or_default();
                value
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find(|item| **item == one)
            }
            // `.` is the element itself; what is new is not ours to judge.
            Some(_) | None => return true,
        };
        match (found, below) {
            (Some(found), Value::Object(below)) => names_all(below, found),
            (Some(_), _) => true,
            (None, _) => false,
        }
    })
}

/// Whether the fields that `desired` names differ from `present`. Absent, `null`, `{}` and `[]` are
/// the same, because the apiserver drops empty fields.
#[must_use]
pub fn status_differs(present: &Value, desired: &Value) -> bool {
    let Value::Object(desired) = desired else {
        return !same(present, desired);
    };
    desired
        .iter()
        .any(|(field, value)| !same(present.get(field).unwrap_or(&Value::Null), value))
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let covered = |a: &Map<String, Value>, b: &Map<String, Value>| {
                a.iter().all(|(name, value)| same(value, field(b, name)))
            };
            covered(a, b) && covered(b, a)
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (a, b) => a == b || (is_empty(a) && is_empty(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_differs_only_in_the_fields_that_are_named() {
        let web = json!({ "ingress": [{ "hostname": "web.example" }] });
        for (present, desired, differs) in [
            (json!(null), json!({ "loadBalancer": web }), true),
            (
                json!({ "loadBalancer": web }),
                json!({ "loadBalancer": web }),
                false,
            ),
            (
                json!({ "loadBalancer": web, "conditions": [1] }),
                json!({ "loadBalancer": web }),
                false,
            ),
            (
                json!({ "loadBalancer": web }),
                json!({ "loadBalancer": {} }),
                true,
            ),
            (
                json!({ "loadBalancer": {} }),
                json!({ "loadBalancer": { "ingress": [] } }),
                false,
            ),
            (json!(null), json!({ "loadBalancer": {} }), false),
            (
                json!({ "loadBalancer": { "ingress": [{ "hostname": "a" }, { "hostname": "b" }] } }),
                json!({ "loadBalancer": { "ingress": [{ "hostname": "b" }, { "hostname": "a" }] } }),
                true,
            ),
        ] {
            assert_eq!(
                status_differs(&present, &desired),
                differs,
                "{present} → {desired}"
            );
        }
    }

    fn ready(message: &str) -> Value {
        json!({ "type": "Ready", "status": "True", "reason": "Up", "message": message })
    }

    #[test]
    fn only_what_is_not_a_time_makes_a_difference() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().expect("is a time");
        let first = json!({ "phase": "Up", "nodes": [{ "id": "a", "lastSeen": "2026-01-02T03:00:00Z" }], "expires": "2027-01-01T00:00:00Z", "conditions": [ready("fine")] });
        let written = compose(&json!(null), &first, Some(2), now).expect("is a status");
        assert!(!written.same);
        let mut present = written.status;
        assert_eq!(
            present["conditions"][0]["lastTransitionTime"],
            "2026-01-02T03:04:05Z"
        );
        assert_eq!(present["conditions"][0]["observedGeneration"], 2);
        present["conditions"]
            .as_array_mut()
            .expect("is a list")
            .push(json!({ "type": "Theirs" }));
        let later: Timestamp = "2026-01-02T04:04:05Z".parse().expect("is a time");
        let with = |name: &str, value: Value| {
            let mut status = first.clone();
            status[name] = value;
            status
        };
        for (desired, generation, same) in [
            (first.clone(), 2, true),
            (first.clone(), 3, false),
            (with("extra", json!({ "nothing": [] })), 2, true),
            (with("extra", json!(null)), 2, true),
            (
                with(
                    "nodes",
                    json!([{ "id": "a", "lastSeen": "2026-01-02T03:59:00Z" }]),
                ),
                2,
                true,
            ),
            (with("nodes", json!([{ "id": "a" }])), 2, false),
            (with("nodes", json!([])), 2, false),
            (with("expires", json!("2028-01-01T00:00:00Z")), 2, false),
            (with("phase", json!("Down")), 2, false),
            (with("conditions", json!([ready("well")])), 2, false),
        ] {
            let composed =
                compose(&present, &desired, Some(generation), later).expect("is a status");
            assert_eq!(composed.same, same, "{desired} for {generation}");
            assert_eq!(
                composed.status["conditions"][0]["lastTransitionTime"],
                "2026-01-02T03:04:05Z"
            );
            assert_eq!(
                composed.status["conditions"].as_array().map(Vec::len),
                Some(1)
            );
        }
    }

    #[test]
    fn a_condition_that_is_none_is_an_error() {
        let now = Timestamp::UNIX_EPOCH;
        for list in [
            json!([{}]),
            json!([{ "type": "A", "status": "Maybe", "reason": "R" }]),
            json!("x"),
        ] {
            assert!(compose(&json!(null), &json!({ "conditions": list }), None, now).is_err());
        }
    }

    #[test]
    fn a_field_that_we_own_and_no_longer_want_is_noticed() {
        let owned = json!({
            "f:phase": {},
            "f:names": { "v:\"a\"": {} },
            "f:conditions": { "k:{\"type\":\"Ready\"}": { ".": {}, "f:type": {}, "f:status": {} } },
            "f:health": { "f:nodes": {} },
        });
        let owned = owned.as_object().expect("is a map");
        let condition = json!({ "type": "Ready", "status": "True" });
        let full = json!({ "phase": "Up", "names": ["a"], "conditions": [condition], "health": { "nodes": 1 }, "new": 1 });
        assert!(names_all(owned, &full));
        for (name, value) in [
            ("phase", None),
            ("names", Some(json!(["b"]))),
            (
                "conditions",
                Some(json!([{ "type": "Other", "status": "True" }])),
            ),
            ("health", Some(json!({}))),
        ] {
            let mut less = full.as_object().expect("is a map").clone();
            match value {
                Some(value) => less.insert(name.to_owned(), value),
                None => less.remove(name),
            };
            assert!(!names_all(owned, &Value::Object(less)), "without {name}");
        }
    }
}
