//! Whether a namespace lets objects of another use what is in it: Gateway API ReferenceGrants, in the
//! version that the apiserver serves. May not grant anything.

use crate::error::{Error, Result};
use crate::operator::lock;
use gatewright_controller::{Ctx, Namespaces};
use gatewright_garage::admission::{Grant, GrantFrom, GrantTo};
use gatewright_garage::cluster::ClusterKey;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, ResourceExt as _};
use serde::Deserialize;
use std::sync::{Arc, Mutex};

const GROUP: &str = "gateway.networking.k8s.io";
/// The best first. Their contents are the same.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// The grants, and the version in which the apiserver serves them once that is known.
#[derive(Clone, Default)]
pub(crate) struct Grants(Arc<Mutex<Option<&'static str>>>);

impl Grants {
    /// Whether objects of `kind` in the namespace `from` may use the object `to` of the kind `target`.
    /// Without the Gateway API's CRDs nothing is granted.
    pub(crate) async fn granted(
        &self,
        ctx: &Ctx,
        kind: &str,
        from: &str,
        target: &str,
        to: &ClusterKey,
    ) -> Result<bool> {
        let grants = self.list(ctx.client(), Some(&to.namespace)).await?;
        let mut grants = grants.iter();
        Ok(grants.any(|grant| grant.allows_use(kind, from, target, to)))
    }

    /// All grants.
    pub(crate) async fn all(&self, client: &Client, namespaces: &Namespaces) -> Result<Vec<Grant>> {
        let names = match namespaces {
            Namespaces::All => return self.list(client, None).await,
            Namespaces::Only(names) => names,
        };
        let mut found = Vec::new();
        for name in names {
            found.extend(self.list(client, Some(name)).await?);
        }
        Ok(found)
    }

    /// The version that is served; asked for until there is one, since CRDs may be installed later.
    async fn version(&self, client: &Client) -> Result<Option<&'static str>> {
        if let Some(known) = *lock(&self.0) {
            return Ok(Some(known));
        }
        for version in VERSIONS {
            let served = match client
                .list_api_group_resources(&format!("{GROUP}/{version}"))
                .await
            {
                Ok(list) => list
                    .resources
                    .iter()
                    .any(|one| one.name == "referencegrants"),
                Err(kube::Error::Api(status)) if status.code == 404 => false,
                Err(source) => {
                    let action = format!("find out whether {GROUP}/{version} is served");
                    return Err(Error::read(action, source));
                }
            };
            if served {
                *lock(&self.0) = Some(version);
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    async fn list(&self, client: &Client, namespace: Option<&str>) -> Result<Vec<Grant>> {
        let Some(version) = self.version(client).await? else {
            return Ok(Vec::new());
        };
        let kind = GroupVersionKind::gvk(GROUP, version, "ReferenceGrant");
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        match api.list(&ListParams::default()).await {
            Ok(list) => Ok(list.items.iter().filter_map(grant).collect()),
            // It is served no more; the next look finds out what is.
            Err(kube::Error::Api(status)) if status.code == 404 => {
                *lock(&self.0) = None;
                Ok(Vec::new())
            }
            Err(source) => Err(Error::read("list the ReferenceGrants".to_owned(), source)),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    from: Vec<From>,
    to: Vec<To>,
}

#[derive(Deserialize)]
struct From {
    group: String,
    kind: String,
    namespace: String,
}

#[derive(Deserialize)]
struct To {
    group: String,
    kind: String,
    name: Option<String>,
}

/// One that cannot be read grants nothing.
fn grant(object: &DynamicObject) -> Option<Grant> {
    let spec = object.data.get("spec").cloned()?;
    let spec: Spec = serde_json::from_value(spec).ok()?;
    let from = |one: From| GrantFrom {
        group: one.group,
        kind: one.kind,
        namespace: one.namespace,
    };
    let to = |one: To| GrantTo {
        group: one.group,
        kind: one.kind,
        name: one.name,
    };
    Some(Grant {
        namespace: object.namespace().unwrap_or_default(),
        from: spec.from.into_iter().map(from).collect(),
        to: spec.to.into_iter().map(to).collect(),
    })
}
