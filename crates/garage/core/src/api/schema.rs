//! Turns a generated CRD into one that says exactly what is meant: no `nullable`, quantities with their pattern,
//! list types, bounds and CEL rules. Knows the shape of schemas, not the meaning of fields.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Map, Value, json};

use super::rules::{Bound, Rule, Rules};

/// What Kubernetes itself demands of a quantity.
const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// Applies the clean-up and the rules of one kind.
///
/// # Panics
/// When a rule or bound names a path that the schema does not have: a mistake in this crate, found by its tests.
pub(super) fn finish(crd: &CustomResourceDefinition, rules: &Rules) -> CustomResourceDefinition {
    let mut document = serde_json::to_value(crd).expect("a CRD is JSON");
    let schema = document
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema")
        .expect("a derived CRD has one version with a schema");
    clean(schema);
    for Bound { path, keywords } in &rules.bounds {
        let node = at(schema, path);
        for (keyword, value) in keywords {
            node.insert(keyword.clone(), value.clone());
        }
    }
    for Rule {
        path,
        rule,
        message,
        expression,
    } in &rules.rules
    {
        let mut entry = json!({ "rule": rule, "message": message });
        if let Some(expression) = expression {
            entry["messageExpression"] = json!(expression);
        }
        let list = at(schema, path)
            .entry("x-kubernetes-validations")
            .or_insert_with(|| json!([]));
        list.as_array_mut()
            .expect("validations are a list")
            .push(entry);
    }
    if let Some(spec) = schema.pointer_mut("/properties/spec/properties") {
        for (name, node) in spec.as_object_mut().expect("properties are an object") {
            // Variables of the user's own are core/v1 and checked when pods are created.
            if name != "env" {
                check_secret_refs(node);
            }
        }
    }
    serde_json::from_value(document).expect("the finished document is a CRD")
}

/// The schema at a path such as `spec.storage.data.paths[].volume` or `spec.podLabels`; empty for the root.
fn at<'a>(schema: &'a mut Value, path: &str) -> &'a mut Map<String, Value> {
    let mut node = schema;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (name, items) = part
            .strip_suffix("[]")
            .map_or((part, false), |name| (name, true));
        node = node
            .get_mut("properties")
            .and_then(|properties| properties.get_mut(name))
            .unwrap_or_else(|| panic!("the schema has no {path}"));
        if items {
            node = node
                .get_mut("items")
                .unwrap_or_else(|| panic!("{path} is no list"));
        }
    }
    node.as_object_mut()
        .unwrap_or_else(|| panic!("{path} is no schema"))
}

/// Removes what generators leave behind and completes quantities, Secret references and conditions.
fn clean(schema: &mut Value) {
    let Some(node) = schema.as_object_mut() else {
        return;
    };
    if let Some(Value::String(text)) = node.get_mut("description") {
        shorten(text);
    }
    // Absent and null mean the same to us, and the apiserver drops nulls of fields that are not nullable.
    node.remove("nullable");
    if let Some(words) = node.get_mut("enum").and_then(Value::as_array_mut) {
        words.retain(|word| !word.is_null());
    }
    if node.get("x-kubernetes-int-or-string").is_some() {
        // Ports by name do not occur in our kinds: every such value is a quantity.
        node.remove("type");
        node.insert(
            "anyOf".to_owned(),
            json!([{ "type": "integer" }, { "type": "string" }]),
        );
        node.insert("pattern".to_owned(), json!(QUANTITY));
        node.insert("maxLength".to_owned(), json!(64));
    }
    if is_key_selector(node) {
        node.insert("required".to_owned(), json!(["key"]));
        if let Some(name) = node
            .get_mut("properties")
            .and_then(|properties| properties.get_mut("name"))
        {
            name["default"] = json!("");
        }
    }
    if let Some(properties) = node.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, property) in properties {
            clean(property);
            if name == "conditions" {
                property["x-kubernetes-list-type"] = json!("map");
                property["x-kubernetes-list-map-keys"] = json!(["type"]);
            }
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = node.get_mut(inner) {
            clean(inner);
        }
    }
}

/// Keeps the first sentence of a long description. Kubernetes' own texts would be three quarters of the CRD, which
/// `kubectl apply` has to fit into an annotation of 256 KiB.
fn shorten(text: &mut String) {
    if text.len() > 240
        && let Some(end) = text.find(". ").or_else(|| text.find(".\n"))
    {
        text.truncate(end + 1);
    }
}

/// A reference to a key of a Secret or ConfigMap: exactly `key`, `name`, `optional`.
fn is_key_selector(node: &Map<String, Value>) -> bool {
    node.get("properties")
        .and_then(Value::as_object)
        .is_some_and(|properties| {
            properties.len() == 3
                && ["key", "name", "optional"]
                    .iter()
                    .all(|name| properties.contains_key(*name))
        })
}

/// References to Secrets that we read ourselves must be complete, and the Secret must exist.
fn check_secret_refs(schema: &mut Value) {
    let Some(node) = schema.as_object_mut() else {
        return;
    };
    if is_key_selector(node) {
        node.insert(
            "x-kubernetes-validations".to_owned(),
            json!([
                {
                    "rule": "size(self.name) > 0 && size(self.key) > 0",
                    "message": "a reference to a Secret needs name and key",
                },
                {
                    "rule": "!has(self.optional) || !self.optional",
                    "message": "optional must be false: nothing works without this Secret",
                },
            ]),
        );
        for name in ["name", "key"] {
            node["properties"][name]["maxLength"] = json!(253);
        }
    }
    if let Some(properties) = node.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(check_secret_refs);
    }
    if let Some(items) = node.get_mut("items") {
        check_secret_refs(items);
    }
}
