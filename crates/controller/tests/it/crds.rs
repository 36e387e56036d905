//! CRDs are installed, upgraded, and never made older.

use crate::object;
use gatewright_controller::Error;
use gatewright_controller::crds::{Outcome, REVISION, install};
use gatewright_testkit::Cluster;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition as Crd;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

fn crd(plural: &str, versions: &[&str], extra: Value) -> Crd {
    let mut fields = json!({ "size": { "type": "string", "default": "small" } });
    for (name, value) in extra.as_object().expect("is a map") {
        fields[name] = value.clone();
    }
    let versions: Vec<_> = versions
        .iter()
        .enumerate()
        .map(|(n, name)| {
            json!({
                "name": name, "served": true, "storage": n == 0, "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": {
                    "type": "object", "nullable": false,
                    "properties": { "spec": { "type": "object", "properties": fields } },
                } },
            })
        })
        .collect();
    object(json!({
        "metadata": { "name": format!("{plural}.test.gatewright.dev") },
        "spec": {
            "group": "test.gatewright.dev", "scope": "Namespaced", "versions": versions,
            "names": { "plural": plural, "kind": plural },
        },
    }))
}

async fn outcome(client: &Client, crd: &Crd, revision: u64) -> Outcome {
    let installed = install(client, std::slice::from_ref(crd), revision).await;
    let installed = installed.expect("is installed");
    assert_eq!(installed.len(), 1);
    installed[0].outcome
}

#[tokio::test]
async fn a_crd_is_installed_upgraded_and_never_made_older() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let (client, namespace) = (cluster.client(), cluster.namespace("crd").await);
    let first = crd("things", &["v1"], json!({}));
    assert_eq!(outcome(&client, &first, 1).await, Outcome::Created);
    // It is served when the installation returns.
    let kind = GroupVersionKind::gvk("test.gatewright.dev", "v1", "things");
    let resource = ApiResource::from_gvk_with_plural(&kind, "things");
    let things = Api::<DynamicObject>::namespaced_with(client.clone(), &namespace, &resource);
    let thing = DynamicObject::new("one", &resource).data(json!({ "spec": {} }));
    let thing = things
        .create(&PostParams::default(), &thing)
        .await
        .expect("is served");
    assert_eq!(thing.data["spec"]["size"], "small");

    assert_eq!(outcome(&client, &first, 1).await, Outcome::Unchanged);
    let second = crd("things", &["v1"], json!({ "colour": { "type": "string" } }));
    assert_eq!(outcome(&client, &second, 2).await, Outcome::Updated);
    let kept = Outcome::NewerKept { revision: 2 };
    assert_eq!(outcome(&client, &first, 1).await, kept);

    let present = Api::<Crd>::all(client.clone())
        .get(&first.name_any())
        .await
        .expect("is there");
    assert_eq!(present.annotations()[REVISION], "2");
    assert!(schema(&present).contains("colour"), "{present:?}");
    assert_eq!(appliers(&present), ["gatewright/crds"]);
}

/// Who has applied fields of it that he still owns.
fn appliers(crd: &Crd) -> Vec<&str> {
    let all = crd.managed_fields().iter();
    let applied = all.filter(|one| one.operation.as_deref() == Some("Apply"));
    applied.filter_map(|one| one.manager.as_deref()).collect()
}

fn schema(crd: &Crd) -> String {
    let schema = serde_json::to_value(&crd.spec.versions[0].schema).expect("is JSON");
    schema.to_string()
}

#[tokio::test]
async fn what_a_killed_replica_has_claimed_is_taken_over_whole() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let client = cluster.client();
    let mut old = crd("gizmos", &["v1"], json!({ "colour": { "type": "string" } }));
    let revision = [(REVISION.to_owned(), "1".to_owned())];
    old.metadata.annotations = Some(revision.into());
    let crds = Api::<Crd>::all(client.clone());
    let name = old.name_any();
    let claim = PatchParams::apply("gatewright/crds-1");
    let claimed = crds.patch(&name, &claim, &Patch::Apply(&old)).await;
    claimed.expect("is claimed");

    let new = crd("gizmos", &["v1"], json!({}));
    assert_eq!(outcome(&client, &new, 2).await, Outcome::Updated);
    let present = crds.get(&name).await.expect("is there");
    assert_eq!(appliers(&present), ["gatewright/crds"]);
    assert!(!schema(&present).contains("colour"), "{present:?}");
    assert_eq!(outcome(&client, &new, 2).await, Outcome::Unchanged);
}

#[tokio::test]
async fn a_stored_version_is_not_dropped() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let client = cluster.client();
    let old = crd("gadgets", &["v1alpha1"], json!({}));
    assert_eq!(outcome(&client, &old, 1).await, Outcome::Created);
    let both = crd("gadgets", &["v1", "v1alpha1"], json!({}));
    assert_eq!(outcome(&client, &both, 2).await, Outcome::Updated);
    let new = crd("gadgets", &["v1"], json!({}));
    let error = install(&client, &[new], 3)
        .await
        .expect_err("would lose objects");
    assert!(matches!(error, Error::StoredVersions { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("gadgets.test.gatewright.dev"), "{text}");
    assert!(text.contains("v1alpha1"), "{text}");
}

#[tokio::test]
async fn replicas_of_two_releases_leave_the_newer_crd() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let client = cluster.client();
    let old = [crd("widgets", &["v1"], json!({}))];
    let new = [crd(
        "widgets",
        &["v1"],
        json!({ "colour": { "type": "string" } }),
    )];
    let crds = Api::<Crd>::all(client.clone());
    let name = new[0].name_any();
    // Who comes first differs from time to time.
    for _ in 0..8 {
        let (a, b) = tokio::join!(install(&client, &old, 1), install(&client, &new, 2));
        a.expect("is installed");
        b.expect("is installed");
        let present = crds.get(&name).await.expect("is there");
        assert_eq!(present.annotations()[REVISION], "2");
        assert_eq!(appliers(&present), ["gatewright/crds"]);
        let deleted = crds.delete(&name, &DeleteParams::default()).await;
        deleted.expect("is there");
    }
}
