//! What a user can type and read: the five kinds of `garage.rajsingh.info/v1alpha1`, their CRDs and our names.
//! Knows no behaviour.
#![allow(
    clippy::duplicated_attributes,
    reason = "each printcolumn has keys of its own, which the lint takes for repetitions"
)]

mod admin_token;
mod bucket;
mod cluster;
mod common;
mod key;
pub mod names;
mod node;
mod rules;
mod schema;

pub use admin_token::*;
pub use bucket::*;
pub use cluster::*;
pub use common::{BucketRights, ClusterRef, KeyPermissions, NamespacedName, StringMap};
pub use key::*;
pub use names::*;
pub use node::*;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_core::CustomResourceExt as _;

/// The CRDs as they are installed, with bounds and CEL rules, sorted by name.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        schema::finish(&GarageAdminToken::crd(), &rules::admin_token()),
        schema::finish(&GarageBucket::crd(), &rules::bucket()),
        schema::finish(&GarageCluster::crd(), &rules::cluster()),
        schema::finish(&GarageKey::crd(), &rules::key()),
        schema::finish(&GarageNode::crd(), &rules::node()),
    ]
}
