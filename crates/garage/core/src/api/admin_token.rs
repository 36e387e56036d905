//! GarageAdminToken: a token of Garage's Admin API with a scope and an end. Data only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{ClusterRef, NamespacedName, StringMap, is_false};

/// What an admin token should be.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "garage.rajsingh.info",
    version = "v1alpha1",
    kind = "GarageAdminToken",
    plural = "garageadmintokens",
    shortname = "gat",
    namespaced,
    doc = "A token of the Admin API of a Garage cluster, with its Secret.",
    status = "GarageAdminTokenStatus",
    derive = "PartialEq",
    printcolumn(
        name = "Cluster",
        type_ = "string",
        json_path = ".spec.clusterRef.name"
    ),
    printcolumn(name = "TokenID", type_ = "string", json_path = ".status.tokenId"),
    printcolumn(name = "Expired", type_ = "boolean", json_path = ".status.expired"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    crates(
        kube_core = "::kube_core",
        k8s_openapi = "::k8s_openapi",
        schemars = "::schemars",
        serde = "::serde",
        serde_json = "::serde_json"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct GarageAdminTokenSpec {
    /// The cluster of the token. Cannot be changed.
    pub cluster_ref: ClusterRef,
    /// Name of the token in Garage; the object's name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Calls of the Admin API that the token may make, for example `GetClusterStatus`; `*` for all.
    #[serde(default = "everything")]
    pub scope: Vec<String>,
    /// When the token ends, as RFC 3339 time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration: Option<String>,
    /// The token never ends, also when it had an end before.
    #[serde(default, skip_serializing_if = "is_false")]
    pub never_expires: bool,
    /// Name, keys and additions of the Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_template: Option<TokenSecretTemplate>,
}

impl Default for GarageAdminTokenSpec {
    fn default() -> Self {
        Self {
            cluster_ref: ClusterRef::default(),
            name: None,
            scope: everything(),
            expiration: None,
            never_expires: false,
            secret_template: None,
        }
    }
}

fn everything() -> Vec<String> {
    vec!["*".to_owned()]
}

/// The Secret of an admin token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenSecretTemplate {
    /// Name of the Secret; the object's name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Namespace of the Secret; only the object's own is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels added to the Secret.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub labels: StringMap,
    /// Annotations added to the Secret.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub annotations: StringMap,
    /// Key of the token.
    #[serde(default = "token_key")]
    pub token_key: String,
    /// Key of the Admin API's endpoint.
    #[serde(default = "endpoint_key")]
    pub endpoint_key: String,
    /// False: no endpoint in the Secret. True when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_endpoint: Option<bool>,
}

impl Default for TokenSecretTemplate {
    fn default() -> Self {
        Self {
            name: None,
            namespace: None,
            labels: StringMap::new(),
            annotations: StringMap::new(),
            token_key: token_key(),
            endpoint_key: endpoint_key(),
            include_endpoint: None,
        }
    }
}

fn token_key() -> String {
    "admin-token".to_owned()
}

fn endpoint_key() -> String {
    "admin-endpoint".to_owned()
}

/// Observed state of a GarageAdminToken.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GarageAdminTokenStatus {
    /// Generation of the spec that this status speaks about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pending, Creating, Ready, Expired, Deleting or Failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Conditions, one of a type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Garage's id of the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// When it ends, as Garage has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration: Option<String>,
    /// It has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expired: Option<bool>,
    /// The Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<NamespacedName>,
}
