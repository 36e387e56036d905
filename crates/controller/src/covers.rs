//! Whether an object already is as desired. Pure; may not know any kind in particular.
//!
//! The apiserver fills in defaults, drops empty fields and rewrites quantities, so an object is
//! never equal to what was applied. It is *covered*: every field that is desired is there.

use serde_json::{Map, Value};

/// Fields whose zero value the apiserver drops, for they are plain values with `omitempty` in the
/// built-in kinds. Where absent means something else than zero, a field must not be listed here.
const DROPPED_ZEROS: [&str; 11] = [
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "minReadySeconds",
    "nullable",
    "publishNotReadyAddresses",
    "readOnly",
    "stdin",
    "stdinOnce",
    "tty",
    "value",
];

/// Maps whose strings mean nothing to the apiserver, so that `1` and `1000m` differ there.
const LITERAL: [&str; 4] = ["annotations", "binaryData", "data", "labels"];

/// Lists in `metadata` in which others put entries, too.
const SHARED: [&str; 2] = ["finalizers", "ownerReferences"];

/// Whether `present` has all that `desired` has: maps may have more fields, lists have the same
/// length and order, strings are equal or the same Kubernetes quantity, numbers have the same
/// value. Absent, `null`, `{}` and `[]` are the same. Entries that others have put among the
/// finalizers and owners of the object do not count.
#[must_use]
pub fn covers(present: &Value, desired: &Value) -> bool {
    within(present, desired, Place::Field)
}

/// What is known about a value from the path to it.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Field,
    /// A string of the user's own.
    Literal,
    /// The object's `metadata`, or one in a template.
    Metadata,
    /// A list with entries of others.
    Shared,
}

impl Place {
    fn of(self, field: &str) -> Self {
        match self {
            Self::Literal => Self::Literal,
            Self::Metadata if SHARED.contains(&field) => Self::Shared,
            Self::Field | Self::Metadata | Self::Shared if LITERAL.contains(&field) => {
                Self::Literal
            }
            Self::Field | Self::Metadata | Self::Shared if field == "metadata" => Self::Metadata,
            Self::Field | Self::Metadata | Self::Shared => Self::Field,
        }
    }
}

fn within(present: &Value, desired: &Value, place: Place) -> bool {
    match (present, desired) {
        (_, Value::Null) => true,
        (Value::Array(present), Value::Object(_)) if present.is_empty() => is_empty(desired),
        (Value::Null, desired) => is_empty(desired),
        (present, Value::Array(desired)) if desired.is_empty() => is_empty(present),
        (Value::Object(present), Value::Object(desired)) => {
            desired
                .iter()
                .all(|(field, value)| match present.get(field) {
                    Some(seen) => within(seen, value, place.of(field)),
                    None => is_empty(value) || is_dropped(field, value),
                })
        }
        (Value::Array(present), Value::Array(desired)) if place == Place::Shared => desired
            .iter()
            .all(|value| present.iter().any(|seen| within(seen, value, Place::Field))),
        (Value::Array(present), Value::Array(desired)) => {
            let place = if place == Place::Literal {
                place
            } else {
                Place::Field
            };
            present.len() == desired.len()
                && present
                    .iter()
                    .zip(desired)
                    .all(|(seen, value)| within(seen, value, place))
        }
        (Value::Number(present), Value::Number(desired)) => {
            present == desired || present.as_f64() == desired.as_f64()
        }
        (Value::String(present), Value::String(desired)) => {
            present == desired || (place != Place::Literal && same_quantity(present, desired))
        }
        // `cpu: 1` comes back as "1".
        (Value::String(present), Value::Number(desired)) => {
            place != Place::Literal && same_quantity(present, &desired.to_string())
        }
        (present, desired) => present == desired,
    }
}

/// Nothing is in it: `null`, `{}`, `[]`, or nested so.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn is_dropped(field: &str, value: &Value) -> bool {
    let zero = match value {
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    };
    zero && DROPPED_ZEROS.contains(&field)
}

/// Removes the `null`s of all maps: to apply one would be to own a field and leave it empty.
pub(crate) fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn same_quantity(a: &str, b: &str) -> bool {
    match (Quantity::parse(a), Quantity::parse(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

/// A Kubernetes quantity in its lowest terms: `digits` × 2^`twos` × 10^`tens`.
/// (`k8s.io/apimachinery/pkg/api/resource`)
#[derive(Debug, PartialEq)]
struct Quantity {
    negative: bool,
    digits: u128,
    twos: u32,
    tens: i32,
}

impl Quantity {
    fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let (twos, tens) = suffix_of(suffix)?;
        // 38 digits fit; longer ones are no amount of anything.
        let digits = format!("{whole}{fraction}").parse().ok()?;
        let tens = tens.checked_sub(i32::try_from(fraction.len()).ok()?)?;
        Some(
            Self {
                negative,
                digits,
                twos,
                tens,
            }
            .reduced(),
        )
    }

    fn reduced(mut self) -> Self {
        if self.digits == 0 {
            return Self {
                negative: false,
                digits: 0,
                twos: 0,
                tens: 0,
            };
        }
        // Binary suffixes are multiplied in as far as possible, then powers of ten taken out.
        while self.twos > 0 {
            let Some(more) = self.digits.checked_mul(2) else {
                break;
            };
            self.digits = more;
            self.twos -= 1;
        }
        while self.digits.is_multiple_of(10) {
            self.digits /= 10;
            self.tens = self.tens.saturating_add(1);
        }
        self
    }
}

/// Powers of two and of ten that a suffix stands for.
fn suffix_of(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            (0, exponent.parse::<i16>().ok()?.into())
        }
    })
}

/// The field of a map, or `null`.
pub(crate) fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> &'a Value {
    fields.get(name).unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_covers_what_it_has_and_no_more() {
        for (present, desired, covered) in [
            (json!({"a": 1, "b": 2}), json!({"a": 1}), true),
            (json!({"a": 1}), json!({"a": 1, "b": 2}), false),
            (json!({"a": 1}), json!({"a": 2}), false),
            (
                json!({"a": {"b": {"c": "x", "d": 1}}}),
                json!({"a": {"b": {"c": "x"}}}),
                true,
            ),
            // Absent, null and empty are the same.
            (
                json!({}),
                json!({"a": null, "b": {}, "c": [], "d": {"e": []}}),
                true,
            ),
            (json!({"a": {}}), json!({"a": []}), true),
            (json!({"a": [1]}), json!({"a": []}), false),
            (json!({"a": {"b": 1}}), json!({"a": {}}), true),
            (json!({"a": {"b": 1}}), json!({"a": {"c": {}}}), true),
            (json!({"a": {"b": 1}}), json!({"a": null}), true),
            (json!({"a": null}), json!({"a": {"b": 1}}), false),
            // Lists.
            (
                json!([{"a": 1, "b": 2}, {"a": 3}]),
                json!([{"a": 1}, {"a": 3}]),
                true,
            ),
            (json!([{"a": 1}]), json!([{"a": 1}, {"a": 2}]), false),
            (json!([1, 2, 3]), json!([1, 2]), false),
            (json!([2, 1]), json!([1, 2]), false),
            // Numbers and quantities.
            (json!({"a": 1}), json!({"a": 1.0}), true),
            (json!({"cpu": "1"}), json!({"cpu": "1000m"}), true),
            (json!({"cpu": "1"}), json!({"cpu": 1}), true),
            (json!({"memory": "1Gi"}), json!({"memory": "1024Mi"}), true),
            (json!({"memory": "1Gi"}), json!({"memory": "1G"}), false),
            (json!({"port": "80"}), json!({"port": 81}), false),
            (json!({"a": "true"}), json!({"a": true}), false),
            // Users' own strings are no quantities.
            (
                json!({"data": {"a": "1k"}}),
                json!({"data": {"a": "1000"}}),
                false,
            ),
            (
                json!({"metadata": {"labels": {"a": "1"}}}),
                json!({"metadata": {"labels": {"a": "1000m"}}}),
                false,
            ),
            // Zero values that the apiserver drops, and one that it keeps.
            (
                json!({"spec": {}}),
                json!({"spec": {"hostNetwork": false, "minReadySeconds": 0}}),
                true,
            ),
            (
                json!({"name": "A"}),
                json!({"name": "A", "value": ""}),
                true,
            ),
            (
                json!({"spec": {}}),
                json!({"spec": {"allowPrivilegeEscalation": false}}),
                false,
            ),
            (
                json!({"spec": {}}),
                json!({"spec": {"storageClassName": ""}}),
                false,
            ),
            // Finalizers and owners of others.
            (
                json!({"metadata": {"finalizers": ["b", "a"]}}),
                json!({"metadata": {"finalizers": ["a"]}}),
                true,
            ),
            (
                json!({"metadata": {"finalizers": ["b"]}}),
                json!({"metadata": {"finalizers": ["a"]}}),
                false,
            ),
            (
                json!({"metadata": {"ownerReferences": [{"uid": "1"}, {"uid": "2", "name": "x"}]}}),
                json!({"metadata": {"ownerReferences": [{"uid": "2"}]}}),
                true,
            ),
            (
                json!({"spec": {"finalizers": ["b", "a"]}}),
                json!({"spec": {"finalizers": ["a"]}}),
                false,
            ),
        ] {
            assert_eq!(
                covers(&present, &desired),
                covered,
                "{present} covers {desired}"
            );
        }
    }

    #[test]
    fn quantities_are_compared_by_amount() {
        for (a, b, same) in [
            ("1", "1000m", true),
            ("0.5", "500m", true),
            ("1.5Gi", "1536Mi", true),
            ("1Ki", "1024", true),
            ("1e3", "1k", true),
            ("1E3", "1000", true),
            ("1E", "1000P", true),
            ("0", "0Gi", true),
            ("-1", "-1000m", true),
            ("+1", "1", true),
            (".5", "0.5", true),
            ("16Ei", "16Ei", true),
            ("1", "1m", false),
            ("1Gi", "1G", false),
            ("1", "-1", false),
            ("a", "b", false),
            ("1.2.3", "1.2.3.0", false),
            ("", "0", false),
            (".", "0", false),
            ("1x", "1x0", false),
        ] {
            assert_eq!(same_quantity(a, b), same, "{a} and {b}");
        }
    }

    #[test]
    fn nulls_are_stripped_from_maps_at_any_depth() {
        let mut value = json!({"a": null, "b": {"c": null, "d": 1}, "e": [{"f": null}, null]});
        strip_nulls(&mut value);
        assert_eq!(value, json!({"b": {"d": 1}, "e": [{}, null]}));
    }
}
