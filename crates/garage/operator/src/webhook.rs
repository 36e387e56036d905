//! The admission webhook of the wing: brings the objects that a rule looks at, and asks the rules of
//! `gatewright_garage::admission`. May not have a rule of its own.

use crate::error::{Error, Result};
use crate::grants::Grants;
use gatewright_controller::Namespaces;
use gatewright_controller::webhook::{
    Configuration, Endpoint, FailurePolicy, Server, Verdict, Webhook,
};
use gatewright_garage::admission::{self, World};
use gatewright_garage::api::{
    GROUP, GarageAdminToken, GarageBucket, GarageCluster, GarageClusterStatus, GarageKey,
    GarageNode, VERSION,
};
use gatewright_garage::cluster::ClusterKey;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::admissionregistration::v1::RuleWithOperations;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::api::ListParams;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, Operation};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// Path below `/admit/`, and what follows `validate.` in the webhook's name.
const HANDLER: &str = "garage";
/// Objects in a page of a list.
const PAGE: u32 = 100;

/// What objects are read with, and where.
struct Reader {
    client: Client,
    namespaces: Namespaces,
    grants: Grants,
}

/// Adds the handler of all kinds of the wing.
#[must_use]
pub fn handlers(server: Server, client: &Client, namespaces: &Namespaces) -> Server {
    let reader = Arc::new(Reader {
        client: client.clone(),
        namespaces: namespaces.clone(),
        grants: Grants::default(),
    });
    server.admit(HANDLER, move |request| {
        let reader = reader.clone();
        async move { Box::pin(review(&reader, request)).await }
    })
}

/// The configuration by which the apiserver finds it. What CEL rules of the CRDs refuse never comes
/// here, and a cluster without the webhook is still guarded by the same rules before each pod.
#[must_use]
pub fn configuration(endpoint: Endpoint, namespaces: &Namespaces) -> Configuration {
    let rule = |operations: &[&str], resources: &[&str]| RuleWithOperations {
        api_groups: Some(vec![GROUP.to_owned()]),
        api_versions: Some(vec![VERSION.to_owned()]),
        operations: Some(operations.iter().map(|one| (*one).to_owned()).collect()),
        resources: Some(resources.iter().map(|one| (*one).to_owned()).collect()),
        scope: Some("Namespaced".to_owned()),
    };
    let all = [
        "garageclusters",
        "garagenodes",
        "garagebuckets",
        "garagekeys",
        "garageadmintokens",
    ];
    let webhook = |name: &str, rules, failure_policy| Webhook {
        name: format!("{name}.{GROUP}"),
        handler: HANDLER.to_owned(),
        rules,
        failure_policy,
        equivalent: true,
        timeout: Duration::from_secs(5),
        namespaces: reviewed(namespaces),
        objects: None,
    };
    Configuration {
        name: "gatewright-garage".to_owned(),
        labels: BTreeMap::from([(
            "app.kubernetes.io/managed-by".to_owned(),
            "gatewright".to_owned(),
        )]),
        endpoint,
        webhooks: vec![
            webhook(
                "validate",
                vec![rule(&["CREATE", "UPDATE"], &all)],
                FailurePolicy::Fail,
            ),
            // It only warns; a namespace must be deletable while the operator is away.
            webhook(
                "warn",
                vec![rule(&["DELETE"], &["garageclusters"])],
                FailurePolicy::Ignore,
            ),
        ],
    }
}

/// Objects elsewhere are nobody's to judge who knows only these namespaces, and must not wait for him.
fn reviewed(namespaces: &Namespaces) -> Option<LabelSelector> {
    let names = match namespaces {
        Namespaces::All => return None,
        Namespaces::Only(names) => names,
    };
    let among = LabelSelectorRequirement {
        // The apiserver sets it on every namespace.
        key: "kubernetes.io/metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(names.iter().cloned().collect()),
    };
    Some(LabelSelector {
        match_expressions: Some(vec![among]),
        match_labels: None,
    })
}

async fn review(reader: &Reader, request: AdmissionRequest<DynamicObject>) -> Verdict {
    let kind = request.kind.kind.as_str();
    let verdict = match kind {
        "GarageCluster" if request.operation == Operation::Delete => {
            deletion(reader, &request).await
        }
        _ if leaves_the_spec(&request) => Ok(admission::Verdict::default()),
        "GarageCluster" => judge(reader, &request, admission::cluster).await,
        "GarageNode" => judge(reader, &request, admission::node).await,
        "GarageBucket" => judge(reader, &request, admission::bucket).await,
        "GarageKey" => judge(reader, &request, admission::key).await,
        "GarageAdminToken" => judge(reader, &request, admission::admin_token).await,
        other => return Verdict::invalid(format!("this webhook knows no rules for {other}")),
    };
    match verdict {
        Ok(admission::Verdict {
            deny: None,
            warnings,
        }) => Verdict::Allow { warnings },
        Ok(admission::Verdict {
            deny: Some(reason),
            warnings,
        }) => match Verdict::invalid(reason) {
            Verdict::Deny { denial, reason, .. } => Verdict::Deny {
                denial,
                reason,
                warnings,
            },
            allowed @ Verdict::Allow { .. } => allowed,
        },
        Err(error) => Verdict::invalid(format!(
            "it cannot be checked at present: {}",
            error.chain()
        )),
    }
}

/// Of an update that leaves the spec alone the rules say nothing, so nothing is read for it: the operator's own
/// finalizers are such.
fn leaves_the_spec(request: &AdmissionRequest<DynamicObject>) -> bool {
    let (Some(new), Some(old)) = (&request.object, &request.old_object) else {
        return false;
    };
    new.data.get("spec") == old.data.get("spec")
}

async fn judge<K>(
    reader: &Reader,
    request: &AdmissionRequest<DynamicObject>,
    rules: fn(&K, Option<&K>, &World) -> admission::Verdict,
) -> Result<admission::Verdict>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let new = match read::<K>(request.object.as_ref()) {
        Ok(Some(new)) => new,
        // A deletion, or a request without an object: there is nothing to judge.
        Ok(None) => return Ok(admission::Verdict::default()),
        Err(why) => {
            return Ok(admission::Verdict {
                deny: Some(why),
                warnings: Vec::new(),
            });
        }
    };
    // An old object that cannot be read any more is no reason to refuse the one that mends it.
    let old = read::<K>(request.old_object.as_ref()).unwrap_or_default();
    let (kind, namespace) = (&request.kind.kind, request.namespace.as_deref());
    let world = world(reader, kind, namespace).await?;
    Ok(rules(&new, old.as_ref(), &world))
}

async fn deletion(
    reader: &Reader,
    request: &AdmissionRequest<DynamicObject>,
) -> Result<admission::Verdict> {
    let Ok(Some(cluster)) = read::<GarageCluster>(request.old_object.as_ref()) else {
        return Ok(admission::Verdict::default());
    };
    let clusters = reader.list(None).await?;
    let world = World {
        clusters: by_key(clusters),
        ..World::default()
    };
    Ok(admission::cluster_deletion(&cluster, &world))
}

fn read<K: DeserializeOwned>(object: Option<&DynamicObject>) -> Result<Option<K>, String> {
    let Some(object) = object else {
        return Ok(None);
    };
    let value = serde_json::to_value(object).map_err(|error| error.to_string())?;
    serde_json::from_value(value)
        .map(Some)
        .map_err(|error| format!("the object cannot be read: {error}"))
}

/// What the rules for a kind look at. Reviews are rare, and a list is never older than the request.
async fn world(reader: &Reader, kind: &str, namespace: Option<&str>) -> Result<World> {
    let mut world = World {
        clusters: by_key(reader.list(None).await?),
        grants: reader
            .grants
            .all(&reader.client, &reader.namespaces)
            .await?,
        ..World::default()
    };
    match kind {
        "GarageCluster" | "GarageNode" => world.nodes = by_key(reader.list(None).await?),
        "GarageBucket" => {
            world.buckets = Some(by_key(reader.list(None).await?));
            world.keys = Some(by_key(reader.list(namespace).await?));
        }
        // Users of Secrets: those of the same namespace.
        _ => {
            world.buckets = Some(by_key(reader.list(namespace).await?));
            world.keys = Some(by_key(reader.list(namespace).await?));
            world.tokens = by_key(reader.list(namespace).await?);
        }
    }
    Ok(world)
}

impl Reader {
    /// All objects of a kind, or those of a namespace, in pages and without what no rule looks at: a thousand
    /// clusters as they come are ten megabytes.
    async fn list<K: Reviewed>(&self, namespace: Option<&str>) -> Result<Vec<K>> {
        let apis = match namespace {
            Some(namespace) => vec![Api::namespaced(self.client.clone(), namespace)],
            None => self.namespaces.apis::<K>(&self.client),
        };
        let mut found = Vec::new();
        for api in apis {
            pages(&api, &mut found).await?;
        }
        Ok(found)
    }
}

/// Adds everything there is. A list that grew too old between two pages (410) is begun anew, once.
async fn pages<K: Reviewed>(api: &Api<K>, found: &mut Vec<K>) -> Result<()> {
    let (first, mut again) = (found.len(), true);
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        match api.list(&parameters).await {
            Ok(page) => {
                found.extend(page.items.into_iter().map(Reviewed::slim));
                match page.metadata.continue_.filter(|next| !next.is_empty()) {
                    Some(next) => parameters = parameters.continue_token(&next),
                    None => return Ok(()),
                }
            }
            Err(kube::Error::Api(status)) if status.code == 410 && again => {
                again = false;
                found.truncate(first);
                parameters = ListParams::default().limit(PAGE);
            }
            Err(source) => {
                let action = format!("list the {}s", K::kind(&()));
                return Err(Error::read(action, source));
            }
        }
    }
}

/// A kind that rules look at.
trait Reviewed:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned
{
    /// Leaves of an object what rules look at.
    #[must_use]
    fn slim(mut self) -> Self {
        let meta = self.meta_mut();
        (meta.managed_fields, meta.annotations) = (None, None);
        self
    }
}

impl Reviewed for GarageNode {}
impl Reviewed for GarageBucket {}
impl Reviewed for GarageKey {}
impl Reviewed for GarageAdminToken {}

impl Reviewed for GarageCluster {
    fn slim(mut self) -> Self {
        (self.metadata.managed_fields, self.metadata.annotations) = (None, None);
        // The zones of its nodes.
        self.status = self.status.map(|status| GarageClusterStatus {
            nodes: status.nodes,
            ..GarageClusterStatus::default()
        });
        self
    }
}

fn by_key<K: Resource>(objects: Vec<K>) -> BTreeMap<ClusterKey, Arc<K>> {
    let keyed = |object: K| {
        let key = ClusterKey {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
        };
        (key, Arc::new(object))
    };
    objects.into_iter().map(keyed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn request(operation: &str, new: Value, old: Value) -> AdmissionRequest<DynamicObject> {
        let object = |spec: Value, finalizers: Value| {
            let metadata = json!({ "name": "a", "namespace": "n", "finalizers": finalizers });
            json!({ "apiVersion": gatewright_garage::api::API_VERSION, "kind": "GarageCluster", "metadata": metadata, "spec": spec })
        };
        let old = match old {
            Value::Null => Value::Null,
            old => object(old, json!([])),
        };
        let kind = json!({ "group": GROUP, "version": VERSION, "kind": "GarageCluster" });
        let resource = json!({ "group": GROUP, "version": VERSION, "resource": "garageclusters" });
        let request = json!({
            "uid": "u", "kind": kind, "resource": resource, "operation": operation, "userInfo": {},
            "object": object(new, json!(["ours"])), "oldObject": old,
        });
        serde_json::from_value(request).expect("a request")
    }

    #[test]
    fn nothing_is_read_for_an_update_that_leaves_the_spec_alone() {
        let (three, four) = (json!({ "replicas": 3 }), json!({ "replicas": 4 }));
        assert!(leaves_the_spec(&request(
            "UPDATE",
            three.clone(),
            three.clone()
        )));
        assert!(!leaves_the_spec(&request("UPDATE", four, three.clone())));
        assert!(!leaves_the_spec(&request("CREATE", three, Value::Null)));
    }

    #[test]
    fn only_the_namespaces_that_are_looked_into_are_reviewed() {
        let endpoint = Endpoint::Address {
            host: "10.0.0.7".to_owned(),
            port: 9443,
        };
        let everywhere = configuration(endpoint.clone(), &Namespaces::All);
        assert!(
            everywhere
                .webhooks
                .iter()
                .all(|one| one.namespaces.is_none())
        );
        let some = Namespaces::new(["b".to_owned(), "a".to_owned()]);
        for webhook in configuration(endpoint, &some).webhooks {
            let selector = serde_json::to_value(webhook.namespaces).expect("JSON");
            let among = serde_json::json!([
                { "key": "kubernetes.io/metadata.name", "operator": "In", "values": ["a", "b"] },
            ]);
            assert_eq!(selector, serde_json::json!({ "matchExpressions": among }));
        }
    }
}
