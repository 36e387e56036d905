//! Our schemas against the published field contract, field by field. Every difference is listed with its reason.

use std::collections::{BTreeMap, BTreeSet};

use gatewright_garage::api;
use serde_json::{Value, json};

const CONTRACT: &str = include_str!("../contract/garage-v1alpha1.txt");

/// What differs on purpose: kind, path and aspect, and why.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    // The specified manifests leave these out; a schema default would decide for gateways, which inherit.
    (
        "GarageCluster spec.replication",
        "required",
        "gateways inherit, and storage has 3",
    ),
    (
        "GarageCluster spec.replication.factor",
        "required",
        "gateways inherit, and storage has 3",
    ),
    (
        "GarageCluster spec.replication.factor",
        "default",
        "gateways inherit, and storage has 3",
    ),
    // Required with a default is the same as optional with a default.
    (
        "GarageCluster spec.replicas",
        "required",
        "it has a default",
    ),
    (
        "GarageCluster spec.s3Api.region",
        "required",
        "it has a default",
    ),
    (
        "GarageCluster spec.image",
        "default",
        "the operator's flag names the tested version",
    ),
    // Refused at the door instead of when the pod starts.
    (
        "GarageCluster spec.imagePullPolicy",
        "enum",
        "Kubernetes knows three",
    ),
    (
        "GarageCluster spec.network.service.externalTrafficPolicy",
        "enum",
        "Kubernetes knows two",
    ),
    (
        "GarageCluster spec.network.rpcPingTimeoutMs",
        "minimum",
        "no time is no timeout",
    ),
    (
        "GarageCluster spec.network.rpcTimeoutMs",
        "minimum",
        "no time is no timeout",
    ),
    (
        "GarageCluster spec.layoutManagement.minNodesHealthy",
        "minimum",
        "a number of nodes",
    ),
    (
        "GarageCluster spec.podDisruptionBudget.minAvailable",
        "pattern",
        "a number or percentage",
    ),
    (
        "GarageCluster spec.podDisruptionBudget.maxUnavailable",
        "pattern",
        "a number or percentage",
    ),
    (
        "GarageCluster spec.blocks.compressionLevel",
        "pattern",
        "none or a zstd level",
    ),
    (
        "GarageCluster spec.storage.metadataSnapshotsDir",
        "pattern",
        "an absolute path",
    ),
    (
        "GarageCluster spec.storage.metadata.accessModes[]",
        "enum",
        "Kubernetes' modes that can write",
    ),
    (
        "GarageCluster spec.storage.data.paths[].volume.accessModes[]",
        "enum",
        "Kubernetes' modes that can write",
    ),
    ("GarageNode spec.nodeId", "pattern", "64 hex digits"),
    (
        "GarageKey spec.bucketPermissions[].bucketId",
        "pattern",
        "64 hex digits",
    ),
    (
        "GarageKey spec.secretTemplate.accessKeyIdKey",
        "pattern",
        "Kubernetes' rule for keys of Secrets",
    ),
    (
        "GarageKey spec.secretTemplate.secretAccessKeyKey",
        "pattern",
        "Kubernetes' rule for keys of Secrets",
    ),
    (
        "GarageKey spec.secretTemplate.endpointKey",
        "pattern",
        "Kubernetes' rule for keys of Secrets",
    ),
    (
        "GarageKey spec.secretTemplate.regionKey",
        "pattern",
        "Kubernetes' rule for keys of Secrets",
    ),
    (
        "GarageAdminToken spec.secretTemplate.tokenKey",
        "pattern",
        "Kubernetes' rule for keys of Secrets",
    ),
    (
        "GarageAdminToken spec.secretTemplate.endpointKey",
        "pattern",
        "Kubernetes' rule for keys of Secrets",
    ),
    // Ours in addition.
    (
        "GarageCluster column Gateway",
        "added",
        "the two modes are told apart at a glance",
    ),
    (
        "GarageCluster subresources scale",
        "added",
        "kubectl scale and autoscalers",
    ),
    (
        "GarageCluster spec.env",
        "added",
        "variables of the user's own",
    ),
    (
        "GarageCluster status.replicas",
        "added",
        "the scale subresource reads it",
    ),
    (
        "GarageCluster status.selector",
        "added",
        "the scale subresource reads it",
    ),
    (
        "GarageCluster status.gateways",
        "added",
        "one line for each gateway identity",
    ),
    (
        "GarageNode spec.podSelector",
        "added",
        "the specified hand-made gateway uses it",
    ),
    (
        "GarageBucket spec.deletionPolicy",
        "added",
        "a bucket can outlive its object",
    ),
    (
        "GarageBucket status.adopted",
        "added",
        "a bucket that was there before its object outlives it",
    ),
    (
        "GarageBucket spec.lifecycle",
        "added",
        "Garage has lifecycle rules since 2.3",
    ),
    (
        "GarageBucket spec.cors",
        "added",
        "Garage has CORS rules since 2.3",
    ),
    (
        "GarageKey spec.rotation",
        "added",
        "keys are replaced with an overlap",
    ),
    (
        "GarageKey spec.secretTemplate.bucketKey",
        "added",
        "clients need the name of the bucket",
    ),
    (
        "GarageKey status.rotation",
        "added",
        "keys are replaced with an overlap",
    ),
    (
        "GarageAdminToken spec.scope",
        "added",
        "tokens with less than all rights",
    ),
];

/// One field: its aspects (`type`, `required`, `default`, ...) and the fields in it.
#[derive(Debug, Default, PartialEq)]
struct Field {
    aspects: BTreeMap<&'static str, Value>,
    fields: BTreeMap<String, Field>,
}

#[test]
fn every_field_of_the_contract() {
    let mut found = BTreeSet::new();
    let mut unlisted = Vec::new();
    for crd in api::crds() {
        let crd = serde_json::to_value(&crd).expect("JSON");
        let kind = crd["spec"]["names"]["kind"]
            .as_str()
            .expect("a kind")
            .to_owned();
        let contract = section(&kind);
        let mut differ = |path: &str, aspect: &str, text: String| {
            let known = DIFFERENCES
                .iter()
                .position(|(at, what, _)| *at == format!("{kind} {path}") && *what == aspect);
            match known {
                Some(index) => _ = found.insert(index),
                None => unlisted.push(format!("{kind} {path} differs in {aspect}: {text}")),
            }
        };
        names(&contract, &crd, &mut differ);
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        for part in ["spec", "status"] {
            let lines: Vec<&str> = contract
                .iter()
                .copied()
                .skip_while(|line| *line != format!("{part}:"))
                .skip(1)
                .take_while(|line| line.starts_with(' '))
                .collect();
            let published = Field {
                aspects: BTreeMap::from([("type", json!("object"))]),
                fields: published(&lines),
            };
            compare(
                part,
                &published,
                &ours(&schema["properties"][part], false),
                &mut differ,
            );
        }
    }
    assert!(
        unlisted.is_empty(),
        "without a listed reason: {unlisted:#?}"
    );
    for (index, (path, aspect, _)) in DIFFERENCES.iter().enumerate() {
        assert!(
            found.contains(&index),
            "{path} does not differ in {aspect}: the list is out of date"
        );
    }
}

fn section(kind: &str) -> Vec<&'static str> {
    let head = format!("=== {kind} ");
    let lines = CONTRACT
        .lines()
        .skip_while(|line| !line.starts_with(&head))
        .skip(1);
    let lines: Vec<_> = lines.take_while(|line| !line.starts_with("===")).collect();
    assert!(!lines.is_empty(), "the contract has no {kind}");
    lines
}

fn names(contract: &[&str], crd: &Value, differ: &mut impl FnMut(&str, &str, String)) {
    let kind = crd["spec"]["names"]["kind"].as_str().expect("a kind");
    let head = CONTRACT
        .lines()
        .find(|line| line.starts_with(&format!("=== {kind} ")))
        .expect("a heading");
    let short = crd["spec"]["names"]["shortNames"][0]
        .as_str()
        .expect("a short name");
    let expected = format!(
        "=== {kind} ({}/{}, Namespaced, short ['{short}'])",
        api::GROUP,
        crd["spec"]["versions"][0]["name"]
            .as_str()
            .expect("a version")
    );
    assert_eq!(head, expected);
    assert_eq!(crd["spec"]["scope"], "Namespaced");
    let version = &crd["spec"]["versions"][0];
    let columns: Vec<String> = version["additionalPrinterColumns"]
        .as_array()
        .expect("columns")
        .iter()
        .map(|column| {
            let text = |name: &str| column[name].as_str().expect("text").to_owned();
            format!(
                "column {} {} {}",
                text("name"),
                text("type"),
                text("jsonPath")
            )
        })
        .collect();
    let mut published = contract.iter().filter(|line| line.starts_with("column "));
    let mut next = published.next();
    for column in &columns {
        if next == Some(&column.as_str()) {
            next = published.next();
        } else {
            let name = column.split(' ').nth(1).expect("a name");
            differ(&format!("column {name}"), "added", column.clone());
        }
    }
    assert_eq!(
        next, None,
        "{kind} lacks a column, or has them in another order: {columns:?}"
    );
    let subresources: Vec<&str> = version["subresources"]
        .as_object()
        .expect("subresources")
        .keys()
        .map(String::as_str)
        .collect();
    assert!(contract.contains(&"subresources status") && subresources.contains(&"status"));
    for other in subresources.iter().filter(|name| **name != "status") {
        differ(&format!("subresources {other}"), "added", String::new());
    }
}

fn compare(
    path: &str,
    published: &Field,
    ours: &Field,
    differ: &mut impl FnMut(&str, &str, String),
) {
    let aspects: BTreeSet<_> = published
        .aspects
        .keys()
        .chain(ours.aspects.keys())
        .collect();
    for aspect in aspects {
        let (theirs, our) = (published.aspects.get(aspect), ours.aspects.get(aspect));
        let embedded = theirs == Some(&json!("core")) && our == Some(&json!("object"));
        if theirs != our && !embedded {
            differ(path, aspect, format!("published {theirs:?}, ours {our:?}"));
        }
    }
    if published.aspects.get("type") == Some(&json!("core")) {
        return;
    }
    for (name, field) in &ours.fields {
        let path = if name == "[]" {
            format!("{path}[]")
        } else {
            format!("{path}.{name}")
        };
        match published.fields.get(name) {
            Some(theirs) => compare(&path, theirs, field, differ),
            None => differ(&path, "added", format!("{field:?}")),
        }
    }
    for name in published.fields.keys() {
        assert!(ours.fields.contains_key(name), "{path}.{name} is missing");
    }
}

/// Fields of the contract's text: two spaces for each level.
fn published(lines: &[&str]) -> BTreeMap<String, Field> {
    let mut fields = BTreeMap::new();
    let mut index = 0;
    let depth = |line: &str| line.len() - line.trim_start().len();
    while index < lines.len() {
        let level = depth(lines[index]);
        let end = (index + 1..lines.len())
            .find(|i| depth(lines[*i]) <= level)
            .unwrap_or(lines.len());
        let (name, rest) = lines[index].trim().split_once(": ").expect("name: type");
        let (name, required) = name
            .strip_suffix('*')
            .map_or((name, false), |name| (name, true));
        let mut field = described(rest);
        if required {
            field.aspects.insert("required", json!(true));
        }
        let inner = published(&lines[index + 1..end]);
        match field.fields.get_mut("[]") {
            Some(item) => item.fields = inner,
            None => field.fields = inner,
        }
        fields.insert(name.to_owned(), field);
        index = end;
    }
    fields
}

/// `integer:int32 default=3903 minimum=1`, `[]string`, `map[string]quantity`, `object (the core/v1 or meta/v1 type)`.
fn described(text: &str) -> Field {
    let mut field = Field::default();
    if let Some(item) = text.strip_prefix("[]") {
        field.aspects.insert("type", json!("array"));
        field.fields.insert("[]".to_owned(), described(item));
        return field;
    }
    if let Some(item) = text.strip_prefix("map[string]") {
        field.aspects.insert("type", json!("map"));
        field.fields.insert("[]".to_owned(), described(item));
        return field;
    }
    if text.ends_with("(the core/v1 or meta/v1 type)") {
        field.aspects.insert("type", json!("core"));
        return field;
    }
    let (type_, mut rest) = text.split_once(' ').unwrap_or((text, ""));
    // Go's `int` has no format; Rust has no such type.
    let type_ = if type_ == "integer" {
        "integer:int32"
    } else {
        type_
    };
    field.aspects.insert("type", json!(type_));
    while !rest.is_empty() {
        let (aspect, value) = rest.split_once('=').expect("aspect=value");
        let end = if value.starts_with('[') {
            value.find(']').map(|end| end + 1)
        } else {
            value.find(' ')
        };
        // A pattern may hold anything; it stands last.
        let end = if aspect == "pattern" {
            value.len()
        } else {
            end.unwrap_or(value.len())
        };
        let (value, tail) = value.split_at(end);
        rest = tail.trim_start();
        let aspect = ["default", "minimum", "maximum", "enum", "pattern"]
            .into_iter()
            .find(|known| *known == aspect);
        let aspect = aspect.unwrap_or_else(|| panic!("unknown aspect in {text}"));
        let value = match (aspect, value) {
            ("pattern", value) => json!(value),
            (_, "True") => json!(true),
            (_, value) => serde_json::from_str(&value.replace('\'', "\"")).expect("a value"),
        };
        field.aspects.insert(aspect, value);
    }
    field
}

/// The same shape from a schema.
fn ours(schema: &Value, required: bool) -> Field {
    let mut field = Field::default();
    if required {
        field.aspects.insert("required", json!(true));
    }
    for aspect in ["default", "minimum", "maximum", "enum", "pattern"] {
        if let Some(value) = schema.get(aspect) {
            let quantity =
                aspect == "pattern" && schema.get("x-kubernetes-int-or-string").is_some();
            if !quantity {
                // `3` and `3.0` are one number.
                let whole = value.as_f64().filter(|number| number.fract() == 0.0);
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "bounds of the contract are small"
                )]
                let value = whole.map_or_else(|| value.clone(), |number| json!(number as i64));
                field.aspects.insert(aspect, value);
            }
        }
    }
    let type_ = schema.get("type").and_then(Value::as_str);
    let (name, inner) = match (type_, schema.get("format").and_then(Value::as_str)) {
        (None, _) => ("quantity".to_owned(), None),
        (Some("array"), _) => ("array".to_owned(), schema.get("items")),
        (Some("object"), _) if schema.get("additionalProperties").is_some() => {
            ("map".to_owned(), schema.get("additionalProperties"))
        }
        (Some(type_), Some(format)) => (format!("{type_}:{format}"), None),
        (Some(type_), None) => (type_.to_owned(), None),
    };
    field.aspects.insert("type", json!(name));
    if let Some(inner) = inner {
        field.fields.insert("[]".to_owned(), ours(inner, false));
    }
    let needed: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, property) in schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        field.fields.insert(
            name.clone(),
            ours(property, needed.contains(&name.as_str())),
        );
    }
    field
}
