//! Kubernetes objects of a Garage workload, built from values. Nothing here talks to a cluster.
//!
//! All objects are complete: applying them by server-side apply with one field manager gives the wanted state. No
//! object has an empty map, an empty list or a null in it, which would be taken for a wish.

pub mod names;
mod pod;
pub mod secrets;
mod services;
mod sets;
pub mod volumes;
mod workload;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Serialize;

pub use secrets::SecretKeyRef;
pub use services::has_public_services;
pub use workload::{Owner, PodOptions, Resolved, Tier, Workload};

/// All objects of one workload, Secrets excepted.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Objects {
    /// `garage.toml`. A GarageNode has none of its own: it uses the cluster's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMap>,
    /// Sorted as: users' API, admin, headless, public endpoints by slot.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    /// Storage nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stateful_set: Option<StatefulSet>,
    /// Gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Deployment>,
    /// How many pods may go at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<PodDisruptionBudget>,
}

/// The objects of a GarageCluster. With the manual layout its pods are GarageNodes', so it has no set of its own.
pub fn of_cluster(workload: &Workload) -> Objects {
    let storage = workload.owner.tier == Tier::Storage && !workload.manual_layout;
    let gateway = workload.owner.tier == Tier::Gateway && !workload.manual_layout;
    Objects {
        config_map: Some(services::config_map(workload)),
        services: services::services(workload),
        stateful_set: storage.then(|| sets::stateful_set(workload)),
        deployment: gateway.then(|| sets::deployment(workload)),
        budget: sets::budget(workload),
    }
}

/// The one object of a GarageNode: a StatefulSet with one pod.
pub fn of_node(workload: &Workload) -> Objects {
    Objects {
        config_map: None,
        services: Vec::new(),
        stateful_set: Some(sets::stateful_set(workload)),
        deployment: None,
        budget: None,
    }
}

/// An empty collection is no wish.
fn filled<C>(collection: C) -> Option<C>
where
    for<'a> &'a C: IntoIterator,
{
    let empty = (&collection).into_iter().next().is_none();
    (!empty).then_some(collection)
}

#[cfg(test)]
mod tests;
