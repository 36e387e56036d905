//! Reads the objects that belong to one GarageCluster: its set, its claims, its Services and its budget.
//! May not write.

use super::Hands;
use crate::error::{Error, Result};
use crate::operator::Operator;
use gatewright_garage::api::{self, GarageCluster};
use gatewright_garage::cluster::{Claim, ClusterKey, Desired, Mode, Observed, Workload};
use gatewright_garage::objects::names;
use gatewright_garage::quantity;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{self, PersistentVolumeClaim, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt as _};
use std::collections::BTreeMap;

/// What pods of the newest template are recognised by.
pub(crate) enum Revision {
    /// `controller-revision-hash`
    Set(String),
    /// `pod-template-hash`
    Template(String),
}

impl Operator {
    /// The StatefulSet or Deployment; returns what pods of its newest template are recognised by.
    pub(super) async fn workload(
        &self,
        desired: &Desired,
        seen: &mut Observed,
        hands: &mut Hands,
    ) -> Result<Option<Revision>> {
        let ClusterKey { namespace, name } = &desired.key;
        match desired.mode {
            Mode::Storage => {
                let set: Option<StatefulSet> = self.ctx.get_opt(Some(namespace), name).await?;
                let Some(set) = set else { return Ok(None) };
                let (spec, status) = (set.spec.as_ref(), set.status.as_ref());
                let generation = status.and_then(|status| status.observed_generation);
                let templates = spec.and_then(|spec| spec.volume_claim_templates.as_ref());
                let sizes: BTreeMap<String, u64> = templates
                    .into_iter()
                    .flatten()
                    .map(|claim| (claim.name_any(), requested(claim.spec.as_ref())))
                    .collect();
                seen.workload = Some(Workload {
                    replicas: count(spec.and_then(|spec| spec.replicas)),
                    observed: generation >= set.metadata.generation,
                    claims_match: sizes == desired.claims,
                });
                let revision = status.and_then(|status| status.update_revision.clone());
                hands.stateful_set = Some(set);
                Ok(revision.map(Revision::Set))
            }
            Mode::Gateway(_) => {
                let set: Option<Deployment> = self.ctx.get_opt(Some(namespace), name).await?;
                let Some(set) = set else { return Ok(None) };
                let generation = set
                    .status
                    .as_ref()
                    .and_then(|status| status.observed_generation);
                seen.workload = Some(Workload {
                    replicas: count(set.spec.as_ref().and_then(|spec| spec.replicas)),
                    observed: generation >= set.metadata.generation,
                    claims_match: true,
                });
                let newest = self.newest(namespace, &set).await;
                hands.deployment = Some(set);
                newest
            }
        }
    }

    /// The hash label of the Deployment's newest ReplicaSet.
    async fn newest(&self, namespace: &str, set: &Deployment) -> Result<Option<Revision>> {
        let revision = "deployment.kubernetes.io/revision";
        let newest = set.annotations().get(revision);
        let labels = set
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.match_labels.clone());
        let labels: Vec<String> = labels
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let sets: Api<ReplicaSet> = Api::namespaced(self.ctx.client().clone(), namespace);
        // Their templates are long, and not asked for.
        let list = sets
            .list_metadata(&ListParams::default().labels(&labels.join(",")))
            .await;
        let action = format!(
            "list the ReplicaSets of Deployment {namespace}/{}",
            set.name_any()
        );
        let list = list.map_err(|source| Error::read(action, source))?;
        let found = list
            .items
            .iter()
            .find(|one| newest.is_some() && one.annotations().get(revision) == newest);
        let hash = found.and_then(|set| set.labels().get("pod-template-hash").cloned());
        Ok(hash.map(Revision::Template))
    }

    pub(super) async fn claims(
        &self,
        desired: &Desired,
        seen: &mut Observed,
        hands: &mut Hands,
    ) -> Result<()> {
        let ClusterKey { namespace, name } = &desired.key;
        let selector = format!(
            "{}={},{}={name}",
            api::LABEL_NAME,
            api::APP,
            api::LABEL_INSTANCE
        );
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(self.ctx.client().clone(), namespace);
        let list = claims.list(&ListParams::default().labels(&selector)).await;
        let action = format!("list the claims of GarageCluster {namespace}/{name}");
        for claim in list.map_err(|source| Error::read(action, source))? {
            let full = claim.name_any();
            // `<template>-<set>-<ordinal>`
            let Some((rest, slot)) = full.rsplit_once('-') else {
                continue;
            };
            let Some(template) = rest.strip_suffix(&format!("-{name}")) else {
                continue;
            };
            let Ok(slot) = slot.parse() else { continue };
            seen.claims.push(Claim {
                name: full.clone(),
                template: template.to_owned(),
                slot,
                bytes: requested(claim.spec.as_ref()),
                room: room(&claim),
            });
            hands.claims.insert(full, claim);
        }
        Ok(())
    }

    /// The Services and the budget, whether they are asked for or left from before.
    pub(super) async fn belongings(
        &self,
        cluster: &GarageCluster,
        seen: &mut Observed,
        hands: &mut Hands,
    ) -> Result<()> {
        let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
        let selector = format!(
            "{}={},{}={name},{}={}",
            api::LABEL_NAME,
            api::APP,
            api::LABEL_INSTANCE,
            api::LABEL_MANAGED_BY,
            api::MANAGER,
        );
        let services: Api<Service> = Api::namespaced(self.ctx.client().clone(), &namespace);
        let list = services
            .list(&ListParams::default().labels(&selector))
            .await;
        let action = format!("list the Services of GarageCluster {namespace}/{name}");
        for service in list.map_err(|source| Error::read(action, source))? {
            let slot = names::public_slot(&name, &service.name_any());
            if is_ours(&service, cluster) {
                seen.public_services.extend(slot);
            }
            hands.services.insert(service.name_any(), service);
        }
        hands.budget = self.ctx.get_opt(Some(&namespace), &name).await?;
        let budget: Option<&PodDisruptionBudget> = hands.budget.as_ref();
        seen.budget = budget.is_some_and(|budget| is_ours(budget, cluster));
        Ok(())
    }
}

/// Made by us for this very object, and not on its way out.
fn is_ours<K: Resource<DynamicType = ()>>(object: &K, cluster: &GarageCluster) -> bool {
    let managed = object.labels().get(api::LABEL_MANAGED_BY);
    let mut owners = object.owner_references().iter();
    managed.is_some_and(|manager| manager == api::MANAGER)
        && owners.any(|owner| Some(&owner.uid) == cluster.metadata.uid.as_ref())
        && object.meta().deletion_timestamp.is_none()
}

fn count(replicas: Option<i32>) -> u32 {
    replicas
        .and_then(|replicas| u32::try_from(replicas).ok())
        .unwrap_or(1)
}

pub(crate) fn requested(spec: Option<&v1::PersistentVolumeClaimSpec>) -> u64 {
    let requests = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let storage = requests.and_then(|requests| requests.get("storage"));
    storage
        .and_then(|size| quantity::bytes(size).ok())
        .unwrap_or(0)
}

/// What the volume behind a claim has.
pub(crate) fn room(claim: &PersistentVolumeClaim) -> u64 {
    let capacity = claim
        .status
        .as_ref()
        .and_then(|status| status.capacity.as_ref());
    let storage = capacity.and_then(|capacity| capacity.get("storage"));
    storage
        .and_then(|size| quantity::bytes(size).ok())
        .unwrap_or(0)
}
