//! Reads what belongs to a GarageNode with a pod of our own: its set, its pod, its claims, and whether the
//! other nodes could spare it. May not write.

use super::Nodes;
use super::observe::Hands;
use crate::cluster::{Revision, requested, room, seen_pod};
use crate::error::{Error, Result};
use crate::storage;
use gatewright_garage::api::{self, GarageNode, LayoutPolicy};
use gatewright_garage::cluster::{Claim, Workload};
use gatewright_garage::node::{Desired, Observed};
use gatewright_garage::objects::{names, secrets};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use std::collections::BTreeMap;

impl Nodes {
    /// `pod` is the one of the set, if it is there.
    pub(super) async fn own(
        &self,
        node: &GarageNode,
        desired: &Desired,
        pod: Option<&Pod>,
        seen: &mut Observed,
        hands: &mut Hands,
    ) -> Result<()> {
        let namespace = &desired.key.namespace;
        let set = names::node_workload(&desired.key.name);
        let found: Option<StatefulSet> = self.operator.ctx.get_opt(Some(namespace), &set).await?;
        let wanted = self.workload(node, hands).ok().flatten();
        let wanted = wanted.and_then(|objects| objects.stateful_set);
        seen.sizes = wanted.as_ref().map(sizes).unwrap_or_default();
        let Some(found) = found else { return Ok(()) };
        let status = found.status.as_ref();
        let generation = status.and_then(|status| status.observed_generation);
        seen.set = Some(Workload {
            replicas: 1,
            observed: generation >= found.metadata.generation,
            claims_match: wanted.is_none() || sizes(&found) == seen.sizes,
        });
        let revision = status.and_then(|status| status.update_revision.clone());
        let secret = hands.rpc_secret.as_ref();
        let hash = secret.map(|secret| secrets::hash(&[Some(secret.expose().as_bytes())]));
        let revision = revision.map(Revision::Set);
        seen.pod = pod.map(|pod| seen_pod(pod, Some(0), revision.as_ref(), hash.as_deref()));
        hands.pod = pod.cloned();
        hands.set = Some(found);
        if !desired.gateway {
            self.claims(desired, &set, seen, hands).await?;
        }
        if seen.pod.as_ref().is_some_and(|pod| pod.outdated) {
            seen.others_serve = self.others_serve(desired).await?;
        }
        Ok(())
    }

    /// All nodes of the cluster but this one serve, gateways too.
    async fn others_serve(&self, desired: &Desired) -> Result<bool> {
        let at = &desired.cluster;
        let own = names::storage_pod(&names::node_workload(&desired.key.name), 0);
        for tier in [api::COMPONENT_STORAGE, api::COMPONENT_GATEWAY] {
            let policy = LayoutPolicy::Manual;
            let pods = self.operator.nodes(&at.namespace, &at.name, tier, policy);
            let mut others = pods.await?.into_iter().filter(|pod| pod.name_any() != own);
            let serves =
                |pod: Pod| storage::is_ready(&pod) && pod.metadata.deletion_timestamp.is_none();
            if !others.all(serves) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn claims(
        &self,
        desired: &Desired,
        set: &str,
        seen: &mut Observed,
        hands: &mut Hands,
    ) -> Result<()> {
        let (namespace, name) = (&desired.key.namespace, &desired.key.name);
        let selector = format!(
            "{}={},{}={},{}={name}",
            api::LABEL_NAME,
            api::APP,
            api::LABEL_INSTANCE,
            desired.cluster.name,
            names::LABEL_NODE,
        );
        let client = self.operator.ctx.client().clone();
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client, namespace);
        let list = claims.list(&ListParams::default().labels(&selector)).await;
        let action = format!("list the claims of GarageNode {namespace}/{name}");
        for claim in list.map_err(|source| Error::read(action, source))? {
            let full = claim.name_any();
            let Some(template) = full.strip_suffix(&format!("-{set}-0")) else {
                continue;
            };
            seen.claims.push(Claim {
                name: full.clone(),
                template: template.to_owned(),
                slot: 0,
                bytes: requested(claim.spec.as_ref()),
                room: room(&claim),
            });
            hands.claims.insert(full, claim);
        }
        Ok(())
    }
}

/// Bytes of the claims of a set, by the name of the template.
fn sizes(set: &StatefulSet) -> BTreeMap<String, u64> {
    let templates = set
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_claim_templates.as_ref());
    templates
        .into_iter()
        .flatten()
        .map(|claim| (claim.name_any(), requested(claim.spec.as_ref())))
        .collect()
}
