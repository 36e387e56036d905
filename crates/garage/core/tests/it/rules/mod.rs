//! Bounds and CEL rules as a real apiserver applies them: tables of what it accepts, refuses, and refuses to change.

mod admin_token;
mod bucket;
mod cluster;
mod examples;
mod key;
mod node;
mod specified;

use std::collections::BTreeSet;
use std::time::Duration;

use gatewright_garage::api;
use gatewright_testkit::{Cluster, await_condition};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// A namespace of an apiserver that has our CRDs, and one kind in it.
pub(crate) struct Door {
    kind: String,
    api: Api<DynamicObject>,
    seen: BTreeSet<String>,
    cases: u32,
}

impl Door {
    /// `None` where the binaries are missing.
    pub(crate) async fn new(kind: &str) -> Option<Self> {
        let cluster = Cluster::shared().await?;
        let client = cluster.client();
        install(&client).await;
        let namespace = cluster
            .namespace(&format!("rules-{}", kind.to_lowercase()))
            .await;
        let resource =
            ApiResource::from_gvk(&GroupVersionKind::gvk(api::GROUP, api::VERSION, kind));
        Some(Self {
            kind: kind.to_owned(),
            api: Api::namespaced_with(client, &namespace, &resource),
            seen: BTreeSet::new(),
            cases: 0,
        })
    }

    /// Applies an object with strict field validation; the error text when it is refused.
    pub(crate) async fn apply(
        &self,
        name: &str,
        spec: &Value,
        dry_run: bool,
    ) -> Result<DynamicObject, String> {
        let params = PatchParams {
            dry_run,
            ..PatchParams::apply("rules").force().validation_strict()
        };
        let object = json!({
            "apiVersion": api::API_VERSION,
            "kind": self.kind,
            "metadata": { "name": name },
            "spec": spec,
        });
        self.api
            .patch(name, &params, &Patch::Apply(&object))
            .await
            .map_err(|error| match error {
                kube::Error::Api(status) => status.message,
                other => panic!("the apiserver is gone: {other}"),
            })
    }

    fn name(&mut self) -> String {
        self.cases += 1;
        format!("case-{}", self.cases)
    }

    /// Each change of `base` (a merge patch in YAML) is accepted.
    pub(crate) async fn accepts(&mut self, base: &str, changes: &[&str]) {
        for change in changes {
            let name = self.name();
            let answer = self.apply(&name, &merged(base, change), true).await;
            assert!(answer.is_ok(), "{base} with {change}: {answer:?}");
        }
    }

    /// Each change of `base` is refused with that text.
    pub(crate) async fn rejects(&mut self, base: &str, changes: &[(&str, &str)]) {
        for (change, text) in changes {
            let name = self.name();
            let answer = self.apply(&name, &merged(base, change), true).await;
            self.refused(&format!("{base} with {change}"), answer, text);
        }
    }

    /// An object made from `base` and the first change may not become one with the second; `""` means it may.
    pub(crate) async fn updates(&mut self, base: &str, changes: &[(&str, &str, &str)]) {
        for (before, after, text) in changes {
            let name = self.name();
            let made = self.apply(&name, &merged(base, before), false).await;
            assert!(made.is_ok(), "{base} with {before}: {made:?}");
            let answer = self.apply(&name, &merged(base, after), true).await;
            let case = format!("{base} from {before} to {after}");
            if text.is_empty() {
                assert!(answer.is_ok(), "{case}: {answer:?}");
            } else {
                self.refused(&case, answer, text);
            }
        }
    }

    /// Objects with these names are refused with that text.
    pub(crate) async fn rejects_names(&mut self, base: &str, names: &[(&str, &str)]) {
        for (name, text) in names {
            let answer = self.apply(name, &merged(base, "{}"), true).await;
            self.refused(&format!("{base} called {name}"), answer, text);
        }
    }

    fn refused(&mut self, case: &str, answer: Result<DynamicObject, String>, text: &str) {
        let message = answer.map(|_| ()).expect_err(case);
        assert!(message.contains(text), "{case}: {message}");
        self.seen.insert((*text).to_owned());
    }

    /// Every rule of the kind was seen refusing something.
    pub(crate) fn all_rules_seen(&self) {
        let crds = api::crds();
        let crd = crds
            .iter()
            .find(|crd| crd.spec.names.kind == self.kind)
            .expect("the kind");
        let crd = serde_json::to_value(crd).expect("JSON");
        let mut messages = BTreeSet::new();
        collect(
            &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"],
            &mut messages,
        );
        assert!(!messages.is_empty());
        let unseen: Vec<_> = messages
            .iter()
            .filter(|message| !self.seen.iter().any(|text| message.contains(text.as_str())))
            .collect();
        assert!(
            unseen.is_empty(),
            "no case of {} shows these rules at work: {unseen:#?}",
            self.kind
        );
    }
}

fn collect(schema: &Value, messages: &mut BTreeSet<String>) {
    match schema {
        Value::Object(node) => {
            for rule in node
                .get("x-kubernetes-validations")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                messages.insert(rule["message"].as_str().expect("a message").to_owned());
            }
            node.values().for_each(|inner| collect(inner, messages));
        }
        Value::Array(items) => items.iter().for_each(|inner| collect(inner, messages)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Applies the CRDs and waits until their kinds are served.
async fn install(client: &Client) {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in api::crds() {
        let name = crd.metadata.name.clone().expect("a name");
        let params = PatchParams::apply("rules").force().validation_strict();
        let applied = crds.patch(&name, &params, &Patch::Apply(&crd)).await;
        applied.unwrap_or_else(|error| panic!("the apiserver refuses {name}: {error}"));
    }
    for crd in api::crds() {
        let name = crd.metadata.name.clone().expect("a name");
        await_condition(
            &format!("{name} is served"),
            Duration::from_secs(30),
            async || {
                let Ok(crd) = crds.get(&name).await else {
                    return false;
                };
                let conditions = crd
                    .status
                    .and_then(|status| status.conditions)
                    .unwrap_or_default();
                let bad = conditions.iter().find(|c| c.type_ == "NonStructuralSchema");
                assert!(bad.is_none(), "{name}: {bad:?}");
                conditions
                    .iter()
                    .any(|c| c.type_ == "Established" && c.status == "True")
            },
        )
        .await;
    }
}

/// `base` with a merge patch (RFC 7386), both YAML.
pub(crate) fn merged(base: &str, change: &str) -> Value {
    let mut value = yaml(base);
    merge(&mut value, &yaml(change));
    value
}

fn yaml(text: &str) -> Value {
    let text = text.replace("HEX", &"ab".repeat(32));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn merge(value: &mut Value, change: &Value) {
    let (Value::Object(_), Value::Object(change)) = (&*value, change) else {
        *value = change.clone();
        return;
    };
    let node = value.as_object_mut().expect("an object");
    for (name, change) in change {
        if change.is_null() {
            node.remove(name);
        } else {
            let empty = || json!({});
            merge(node.entry(name.clone()).or_insert_with(empty), change);
        }
    }
}
