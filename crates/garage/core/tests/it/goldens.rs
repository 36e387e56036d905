//! The CRDs as documents: `tests/goldens/crds/NAME.yaml`. `UPDATE=1` rewrites them.

use std::fs;
use std::path::Path;

use gatewright_garage::api;
use serde_json::Value;

#[test]
fn crds() {
    let folder = Path::new("tests/goldens/crds");
    let update = std::env::var_os("UPDATE").is_some();
    let mut names = Vec::new();
    for crd in api::crds() {
        let name = crd.metadata.name.clone().expect("a CRD has a name");
        let document = serde_json::to_value(&crd).expect("JSON");
        let text = serde_saphyr::to_string(&document).expect("YAML");
        // `kubectl apply` keeps the JSON in an annotation.
        let size = document.to_string().len();
        assert!(size < 150_000, "{name} has {size} bytes");
        let path = folder.join(format!("{name}.yaml"));
        if update {
            fs::write(&path, &text).expect("the golden can be written");
        }
        let golden = fs::read_to_string(&path).expect("the golden; UPDATE=1 writes it");
        let golden: Value = serde_saphyr::from_str(&golden).expect("the golden is YAML");
        assert_eq!(
            document, golden,
            "{name} differs; run with UPDATE=1 and look at the difference"
        );
        names.push(format!("{name}.yaml"));
    }
    assert!(names.is_sorted(), "{names:?}");
    let mut files: Vec<String> = fs::read_dir(folder)
        .expect("the folder of goldens")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    files.sort();
    assert_eq!(files, names, "a golden without a kind");
}

/// What Kubernetes calls structural, as far as generators break it.
#[test]
fn schemas_are_plain() {
    fn walk(path: &str, schema: &Value) {
        let Some(node) = schema.as_object() else {
            panic!("{path} is no schema");
        };
        for keyword in [
            "nullable",
            "$ref",
            "definitions",
            "oneOf",
            "allOf",
            "not",
            "uniqueItems",
            "const",
        ] {
            assert!(!node.contains_key(keyword), "{path} has {keyword}");
        }
        assert!(
            node.contains_key("type") != node.contains_key("x-kubernetes-int-or-string"),
            "{path} has no type: {schema}"
        );
        if let Some(format) = node.get("format").and_then(Value::as_str) {
            let known = ["int32", "int64", "date-time", "double"];
            assert!(known.contains(&format), "{path} has the format {format}");
        }
        for (name, property) in node
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            walk(&format!("{path}.{name}"), property);
        }
        for inner in ["items", "additionalProperties"] {
            if let Some(inner) = node.get(inner) {
                walk(&format!("{path}[]"), inner);
            }
        }
    }
    for crd in api::crds() {
        let schema = serde_json::to_value(&crd).expect("JSON");
        let schema = &schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        for part in ["spec", "status"] {
            walk(part, &schema["properties"][part]);
        }
    }
}
