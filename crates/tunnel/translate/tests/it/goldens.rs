//! Whole translations as documents: `tests/goldens/NAME.yaml` in, `NAME.json` out. `UPDATE=1` rewrites the latter.

use std::fs;
use std::path::Path;

use gatewright_translate::{Options, network, translate};
use serde_json::{Value, json};

use crate::support::objects;

#[test]
fn translations() {
    let folder = Path::new("tests/goldens");
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("the folder of goldens")
        .filter_map(|entry| {
            Some(
                entry
                    .ok()?
                    .file_name()
                    .to_str()?
                    .strip_suffix(".yaml")?
                    .to_owned(),
            )
        })
        .collect();
    names.sort();
    assert_eq!(names, ["refused", "shared-host", "shop", "specified"]);
    for name in names {
        let manifests =
            fs::read_to_string(folder.join(format!("{name}.yaml"))).expect("the manifests");
        let objects = objects(&manifests);
        let translation = translate(&objects, &Options::default());
        let ingresses: serde_json::Map<_, _> = translation
            .ingresses
            .iter()
            .map(|(key, verdict)| (key.to_string(), json!(verdict)))
            .collect();
        let document = json!({
            "routes": translation.routes,
            "backends": translation.backends,
            "ingresses": ingresses,
            "refusals": translation.refusals,
            "network": network(&objects),
        });
        let path = folder.join(format!("{name}.json"));
        if std::env::var_os("UPDATE").is_some() {
            let text = serde_json::to_string_pretty(&document).expect("JSON") + "\n";
            fs::write(&path, text).expect("the golden can be written");
        }
        // Compared as values: another crate of the same build may have serde_json keep the order of keys.
        let golden = fs::read_to_string(&path).expect("the golden; UPDATE=1 writes it");
        let golden: Value = serde_json::from_str(&golden).expect("the golden is JSON");
        assert_eq!(
            document, golden,
            "{name}.json differs; run with UPDATE=1 and look at the difference"
        );
    }
}
