//! Whether a namespace lets objects of another use its clusters: Gateway API ReferenceGrants
//! (`gateway.networking.k8s.io/v1`). May not grant anything.

use crate::error::{Error, Result};
use gateway_api::referencegrants::ReferenceGrant;
use gatewright_controller::{Ctx, Namespaces};
use gatewright_garage::admission::{Grant, GrantFrom, GrantTo};
use gatewright_garage::cluster::ClusterKey;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

/// Whether `key` may be used by objects of `kind` in the namespace `from`. Without the Gateway API's
/// CRDs nothing is granted.
pub(crate) async fn granted(ctx: &Ctx, kind: &str, from: &str, key: &ClusterKey) -> Result<bool> {
    let grants = list(Api::namespaced(ctx.client().clone(), &key.namespace)).await?;
    Ok(grants.iter().any(|grant| grant.allows(kind, from, key)))
}

/// All grants.
pub(crate) async fn all(client: &Client, namespaces: &Namespaces) -> Result<Vec<Grant>> {
    let mut found = Vec::new();
    for api in namespaces.apis::<ReferenceGrant>(client) {
        found.extend(list(api).await?);
    }
    Ok(found)
}

async fn list(api: Api<ReferenceGrant>) -> Result<Vec<Grant>> {
    let list = match api.list(&ListParams::default()).await {
        Ok(list) => list,
        // Without the CRD the apiserver answers with a page that is no Status.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
        Err(source) => return Err(Error::read("list the ReferenceGrants".to_owned(), source)),
    };
    let grant = |grant: ReferenceGrant| Grant {
        namespace: grant.namespace().unwrap_or_default(),
        from: grant
            .spec
            .from
            .into_iter()
            .map(|from| GrantFrom {
                group: from.group,
                kind: from.kind,
                namespace: from.namespace,
            })
            .collect(),
        to: grant
            .spec
            .to
            .into_iter()
            .map(|to| GrantTo {
                group: to.group,
                kind: to.kind,
                name: to.name,
            })
            .collect(),
    };
    Ok(list.items.into_iter().map(grant).collect())
}
