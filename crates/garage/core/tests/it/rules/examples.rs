//! The published examples, as they stand.

use std::path::Path;

use gatewright_garage::api;
use serde_json::Value;

use super::Door;

#[tokio::test]
async fn are_accepted() {
    let folder = Path::new("../../../examples/garage");
    let mut applied = 0;
    for file in std::fs::read_dir(folder).expect("the examples") {
        let file = file.expect("an example").path();
        let text = std::fs::read_to_string(&file).expect("text");
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML documents");
        for document in documents {
            if document["apiVersion"] != api::API_VERSION {
                continue;
            }
            let kind = document["kind"].as_str().expect("a kind");
            let Some(door) = Door::new(kind).await else {
                return;
            };
            let name = document["metadata"]["name"].as_str().expect("a name");
            let answer = door.apply(name, &document["spec"], false).await;
            assert!(answer.is_ok(), "{}: {name}: {answer:?}", file.display());
            applied += 1;
        }
    }
    assert!(applied >= 7, "{applied} of them");
}
