//! GarageKey: an S3 access key, its rights and the Secret that carries it. Data only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{
    BucketRights, ClusterRef, KeyPermissions, NamespacedName, StringMap, is_false,
};

/// What an access key should be.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "garage.rajsingh.info",
    version = "v1alpha1",
    kind = "GarageKey",
    plural = "garagekeys",
    shortname = "gk",
    namespaced,
    doc = "An S3 access key of a Garage cluster, with its Secret.",
    status = "GarageKeyStatus",
    derive = "PartialEq",
    printcolumn(
        name = "Cluster",
        type_ = "string",
        json_path = ".spec.clusterRef.name"
    ),
    printcolumn(name = "KeyID", type_ = "string", json_path = ".status.keyId"),
    printcolumn(
        name = "AccessKeyID",
        type_ = "string",
        json_path = ".status.accessKeyId"
    ),
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
pub struct GarageKeySpec {
    /// The cluster of the key. Cannot be changed.
    pub cluster_ref: ClusterRef,
    /// Name of the key in Garage; the object's name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Buckets that the key may use, and how.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bucket_permissions: Vec<BucketPermission>,
    /// What the key may do outside buckets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<KeyPermissions>,
    /// When the key ends, as RFC 3339 time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration: Option<String>,
    /// The key never ends, also when it had an end before.
    #[serde(default, skip_serializing_if = "is_false")]
    pub never_expires: bool,
    /// Use this key material instead of new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import_key: Option<ImportKey>,
    /// Name, keys and additions of the Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_template: Option<KeySecretTemplate>,
    /// Replace the key material periodically.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
}

/// A bucket that the key may use; exactly one of the first three.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BucketPermission {
    /// Name of a GarageBucket in the same namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket_ref: Option<String>,
    /// Garage's id of a bucket, 64 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket_id: Option<String>,
    /// Name of a bucket for all keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_alias: Option<String>,
    /// Read objects and list the bucket.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read: bool,
    /// Write and delete objects.
    #[serde(default, skip_serializing_if = "is_false")]
    pub write: bool,
    /// Change the bucket itself.
    #[serde(default, skip_serializing_if = "is_false")]
    pub owner: bool,
}

impl BucketPermission {
    /// The three rights together.
    pub fn rights(&self) -> BucketRights {
        BucketRights {
            read: self.read,
            write: self.write,
            owner: self.owner,
        }
    }
}

/// Key material that exists already: `secretRef`, or the two values.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportKey {
    /// A Secret with the keys `access-key-id` and `secret-access-key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<ImportSecretRef>,
    /// Access key id. Better kept in a Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// Secret access key. Better kept in a Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<String>,
}

impl std::fmt::Debug for ImportKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImportKey")
            .field("secret_ref", &self.secret_ref)
            .field("access_key_id", &self.access_key_id)
            .field(
                "secret_access_key",
                &self.secret_access_key.as_ref().map(|_| "[redacted]"),
            )
            .finish()
    }
}

/// The Secret of imported key material.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportSecretRef {
    /// Name of the Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Namespace of the Secret; only the object's own is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// The Secret of an access key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeySecretTemplate {
    /// Name of the Secret; the object's name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Namespace of the Secret; only the object's own is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Type of the Secret.
    #[serde(default = "opaque", rename = "type")]
    pub type_: String,
    /// Labels added to the Secret.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub labels: StringMap,
    /// Annotations added to the Secret.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub annotations: StringMap,
    /// Key of the access key id.
    #[serde(default = "access_key_id_key")]
    pub access_key_id_key: String,
    /// Key of the secret access key.
    #[serde(default = "secret_access_key_key")]
    pub secret_access_key_key: String,
    /// Key of the endpoint.
    #[serde(default = "endpoint_key")]
    pub endpoint_key: String,
    /// Key of the region.
    #[serde(default = "region_key")]
    pub region_key: String,
    /// Key of the bucket name, when the key has exactly one bucket.
    #[serde(default = "bucket_key")]
    pub bucket_key: String,
    /// False: no endpoint in the Secret. True when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_endpoint: Option<bool>,
    /// False: no region in the Secret. True when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_region: Option<bool>,
    /// Further entries.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub additional_data: StringMap,
}

impl Default for KeySecretTemplate {
    fn default() -> Self {
        Self {
            name: None,
            namespace: None,
            type_: opaque(),
            labels: StringMap::new(),
            annotations: StringMap::new(),
            access_key_id_key: access_key_id_key(),
            secret_access_key_key: secret_access_key_key(),
            endpoint_key: endpoint_key(),
            region_key: region_key(),
            bucket_key: bucket_key(),
            include_endpoint: None,
            include_region: None,
            additional_data: StringMap::new(),
        }
    }
}

fn opaque() -> String {
    "Opaque".to_owned()
}

fn access_key_id_key() -> String {
    "access-key-id".to_owned()
}

fn secret_access_key_key() -> String {
    "secret-access-key".to_owned()
}

fn endpoint_key() -> String {
    "endpoint".to_owned()
}

fn region_key() -> String {
    "region".to_owned()
}

fn bucket_key() -> String {
    "bucket".to_owned()
}

/// Periodic replacement. Both are Go durations of hours, minutes and seconds: `720h`, `1h30m`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// Age at which the key is replaced.
    pub interval: String,
    /// How long the replaced key still works; 24h, but at most half the interval, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap: Option<String>,
}

/// Observed state of a GarageKey.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GarageKeyStatus {
    /// Generation of the spec that this status speaks about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pending, Creating, Ready, Expired, Deleting or Failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Conditions, one of a type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Garage's id of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Access key id for S3 clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// When the key was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Time>,
    /// When it ends, as Garage has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration: Option<String>,
    /// It has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expired: Option<bool>,
    /// What it may do outside buckets, as Garage has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<KeyPermissions>,
    /// Buckets that it may use, as Garage has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<KeyBucketStatus>,
    /// Rights, and whether this object or a GarageBucket grants them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effective_permissions: Vec<EffectivePermission>,
    /// The Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<NamespacedName>,
    /// Replacement of the key material.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationStatus>,
}

/// A bucket of the key, as Garage has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyBucketStatus {
    /// Garage's id of the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket_id: Option<String>,
    /// Its name for all keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_alias: Option<String>,
    /// Its name for this key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_alias: Option<String>,
    /// Read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<bool>,
    /// Write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<bool>,
    /// Owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<bool>,
}

/// A right and who grants it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectivePermission {
    /// Garage's id of the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket_id: Option<String>,
    /// Name of the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket_alias: Option<String>,
    /// `GarageKey` or `GarageBucket/<name>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<bool>,
    /// Write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<bool>,
    /// Owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<bool>,
}

/// Replacement of the key material.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotationStatus {
    /// Last replacement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_rotated: Option<Time>,
    /// Next replacement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_rotation: Option<Time>,
    /// The replaced key, while it still works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_access_key_id: Option<String>,
}
