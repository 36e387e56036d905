//! Whether a namespace lets objects of another use its clusters: Gateway API ReferenceGrants
//! (`gateway.networking.k8s.io/v1`). May not grant anything.

use crate::error::{Error, Result};
use gateway_api::referencegrants::ReferenceGrant;
use gatewright_controller::Ctx;
use gatewright_garage::api::GROUP;
use gatewright_garage::cluster::ClusterKey;
use kube::Api;
use kube::api::ListParams;

/// Whether `key` may be used by objects of `kind` in the namespace `from`. Without the Gateway API's
/// CRDs nothing is granted.
pub(crate) async fn granted(ctx: &Ctx, kind: &str, from: &str, key: &ClusterKey) -> Result<bool> {
    let grants: Api<ReferenceGrant> = Api::namespaced(ctx.client().clone(), &key.namespace);
    let list = match grants.list(&ListParams::default()).await {
        Ok(list) => list,
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(false),
        Err(source) => {
            let action = format!("list the ReferenceGrants of namespace {}", key.namespace);
            return Err(Error::read(action, source));
        }
    };
    Ok(list.items.iter().any(|grant| {
        let spec = &grant.spec;
        let is_from = spec.from.iter().any(|one| {
            one.group == GROUP && one.kind == kind && one.namespace == from
        });
        let is_to = spec.to.iter().any(|one| {
            one.group == GROUP
                && one.kind == "GarageCluster"
                && one.name.as_ref().is_none_or(|name| *name == key.name)
        });
        is_from && is_to
    }))
}
