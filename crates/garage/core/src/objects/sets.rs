//! The sets of pods (StatefulSet of storage nodes, Deployment of gateways) and how many of them may be away.

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment, StatefulSet,
    StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::workload::{Budget, Owner, Tier, Workload};
use super::{filled, names, pod};

/// Enough to look back, not enough to clutter.
const REVISIONS: i32 = 3;

fn replicas(workload: &Workload) -> Option<i32> {
    Some(i32::try_from(workload.resolved.replicas).unwrap_or(i32::MAX))
}

/// Storage nodes. All start at once, since they wait for each other; the operator alone deletes outdated pods, one at
/// a time and only while the data can spare one.
pub(super) fn stateful_set(workload: &Workload) -> StatefulSet {
    let owner = &workload.owner;
    StatefulSet {
        metadata: owner.meta(workload.name.clone()),
        spec: Some(StatefulSetSpec {
            replicas: replicas(workload),
            revision_history_limit: Some(REVISIONS),
            selector: Owner::label_selector(owner.selector()),
            service_name: Some(names::headless_service(&owner.cluster)),
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                rolling_update: None,
            }),
            persistent_volume_claim_retention_policy: Some(
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    when_deleted: Some(workload.retention.when_deleted.as_str().to_owned()),
                    when_scaled: Some(workload.retention.when_scaled.as_str().to_owned()),
                },
            ),
            volume_claim_templates: filled(claim_templates(workload)),
            template: pod::template(workload),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

/// Claim templates cannot be changed later, so they carry nothing that could.
fn claim_templates(workload: &Workload) -> Vec<PersistentVolumeClaim> {
    let template = |claim: &super::volumes::Claim| PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim.name.clone()),
            labels: Some(workload.owner.labels()),
            ..ObjectMeta::default()
        },
        spec: Some(claim.spec.clone()),
        ..PersistentVolumeClaim::default()
    };
    workload.claims.iter().map(template).collect()
}

/// Gateways. A slot's key may be in one live pod only, so a new pod waits for an old one to go: no surge.
pub(super) fn deployment(workload: &Workload) -> Deployment {
    let owner = &workload.owner;
    Deployment {
        metadata: owner.meta(workload.name.clone()),
        spec: Some(DeploymentSpec {
            replicas: replicas(workload),
            revision_history_limit: Some(REVISIONS),
            selector: Owner::label_selector(owner.selector()),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(0)),
                    max_unavailable: Some(IntOrString::Int(1)),
                }),
            }),
            template: pod::template(workload),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

pub(super) fn budget(workload: &Workload) -> Option<PodDisruptionBudget> {
    let (min_available, max_unavailable) = match workload.budget.clone()? {
        Budget::MinAvailable(pods) => (Some(pods), None),
        Budget::MaxUnavailable(pods) => (None, Some(pods)),
    };
    // A gateway that is not ready serves nobody and holds no data: it must not keep a node from being drained.
    let eviction = match workload.owner.tier {
        Tier::Storage => None,
        Tier::Gateway => Some("AlwaysAllow".to_owned()),
    };
    Some(PodDisruptionBudget {
        metadata: workload.owner.meta(workload.owner.cluster.clone()),
        spec: Some(PodDisruptionBudgetSpec {
            min_available,
            max_unavailable,
            selector: Some(Owner::label_selector(workload.owner.tier_selector())),
            unhealthy_pod_eviction_policy: eviction,
        }),
        ..PodDisruptionBudget::default()
    })
}
