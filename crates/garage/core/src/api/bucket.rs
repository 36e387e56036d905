//! GarageBucket: a bucket with its aliases, quotas, website, rules and the keys that may use it. Data only.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{BucketRights, ClusterRef, is_false, words};

/// What a bucket should be.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "garage.rajsingh.info",
    version = "v1alpha1",
    kind = "GarageBucket",
    plural = "garagebuckets",
    shortname = "gb",
    namespaced,
    doc = "A bucket of a Garage cluster.",
    status = "GarageBucketStatus",
    derive = "PartialEq",
    printcolumn(
        name = "Cluster",
        type_ = "string",
        json_path = ".spec.clusterRef.name"
    ),
    printcolumn(name = "Alias", type_ = "string", json_path = ".status.globalAlias"),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size"),
    printcolumn(name = "Objects", type_ = "integer", json_path = ".status.objectCount"),
    printcolumn(
        name = "Website",
        type_ = "boolean",
        json_path = ".status.websiteEnabled"
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
pub struct GarageBucketSpec {
    /// The cluster of the bucket. Cannot be changed.
    pub cluster_ref: ClusterRef,
    /// Name of the bucket for all keys; the object's name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_alias: Option<String>,
    /// Names of the bucket for single keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local_aliases: Vec<LocalAlias>,
    /// Limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quotas: Option<Quotas>,
    /// Static website.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub website: Option<Website>,
    /// Keys that may use the bucket, and how. Keys that are not named here or in a GarageKey lose their rights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_permissions: Vec<KeyPermission>,
    /// Expiry of objects and of unfinished uploads (Garage 2.3 and later).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Lifecycle>,
    /// Cross-origin rules (Garage 2.3 and later).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cors: Vec<CorsRule>,
    /// What becomes of the bucket when the object is deleted. Delete needs an empty bucket. Absent: Delete for a
    /// bucket that the object made, Retain for one that it adopted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
}

words! {
    /// What becomes of a bucket.
    pub enum DeletionPolicy {
        /// It is deleted once it is empty.
        #[default]
        Delete = "Delete",
        /// It stays as it is.
        Retain = "Retain",
    }
}

/// Name of the bucket for one key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalAlias {
    /// Name of a GarageKey in the same namespace.
    pub key_ref: String,
    /// Name of the bucket for that key.
    pub alias: String,
}

/// Limits of a bucket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quotas {
    /// Sum of the sizes of the objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Quantity>,
    /// Number of objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_objects: Option<i64>,
}

/// Static website of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Website {
    /// False or absent: no website.
    #[serde(default, skip_serializing_if = "is_false")]
    pub enabled: bool,
    /// Object served for a folder.
    #[serde(default = "index_html")]
    pub index_document: String,
    /// Object served when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_document: Option<String>,
}

impl Default for Website {
    fn default() -> Self {
        Self {
            enabled: false,
            index_document: index_html(),
            error_document: None,
        }
    }
}

fn index_html() -> String {
    "index.html".to_owned()
}

/// A key that may use the bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyPermission {
    /// Name of a GarageKey in the same namespace.
    pub key_ref: String,
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

impl KeyPermission {
    /// The three rights together.
    pub fn rights(&self) -> BucketRights {
        BucketRights {
            read: self.read,
            write: self.write,
            owner: self.owner,
        }
    }
}

/// Expiry rules.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    /// Rules; each with at least one action.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<LifecycleRule>,
}

/// One expiry rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LifecycleRule {
    /// Name of the rule, unique in the bucket.
    pub id: String,
    /// Disabled rules stay in the bucket and do nothing.
    #[serde(default)]
    pub status: RuleStatus,
    /// Which objects; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<LifecycleFilter>,
    /// Deletes objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration: Option<LifecycleExpiration>,
    /// Deletes uploads that were never finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort_incomplete_multipart_upload: Option<AbortIncompleteMultipartUpload>,
}

words! {
    /// Whether a rule works.
    pub enum RuleStatus {
        /// It works.
        #[default]
        Enabled = "Enabled",
        /// It does nothing.
        Disabled = "Disabled",
    }
}

/// Which objects a rule is about; all that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LifecycleFilter {
    /// Start of the object key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub object_size_greater_than: Option<i64>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub object_size_less_than: Option<i64>,
}

/// When objects go: exactly one of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LifecycleExpiration {
    /// Days after the object was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub days: Option<i32>,
    /// A day: `2027-01-31`, or its midnight in UTC, `2027-01-31T00:00:00Z`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
}

/// When unfinished uploads go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AbortIncompleteMultipartUpload {
    /// Days after the upload began.
    #[schemars(range(min = 1))]
    pub days_after_initiation: i32,
}

/// One cross-origin rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CorsRule {
    /// Name of the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Origins, `*` for all.
    pub allowed_origins: Vec<String>,
    /// GET, PUT, POST, DELETE, HEAD.
    pub allowed_methods: Vec<String>,
    /// Request headers, `*` for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_headers: Vec<String>,
    /// Response headers that scripts may read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose_headers: Vec<String>,
    /// How long browsers may keep the answer to a preflight request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_age_seconds: Option<i64>,
}

/// Observed state of a GarageBucket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GarageBucketStatus {
    /// Generation of the spec that this status speaks about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pending, Creating, Ready, Deleting or Failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Conditions, one of a type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Garage's id of the bucket, 64 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket_id: Option<String>,
    /// When the bucket was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Time>,
    /// Its name for all keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_alias: Option<String>,
    /// Its names for single keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local_aliases: Vec<LocalAliasStatus>,
    /// Keys that may use it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<BucketKeyStatus>,
    /// Sum of the sizes of the objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// Number of objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_count: Option<i64>,
    /// Use of the quotas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota_usage: Option<QuotaUsage>,
    /// Unfinished uploads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incomplete_uploads: Option<i64>,
    /// Parts of unfinished uploads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incomplete_upload_parts: Option<i64>,
    /// Bytes of unfinished uploads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incomplete_upload_bytes: Option<i64>,
    /// Whether the bucket is a website.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub website_enabled: Option<bool>,
    /// Its documents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub website_config: Option<WebsiteStatus>,
    /// Where the website is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub website_url: Option<String>,
    /// The bucket existed before the object, which took it over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopted: Option<bool>,
}

/// Name of the bucket for one key, as Garage has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalAliasStatus {
    /// Name of the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Access key id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Name of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_name: Option<String>,
}

/// A key that may use the bucket, as Garage has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BucketKeyStatus {
    /// Access key id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Name of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its rights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<BucketRights>,
}

/// Use of the quotas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaUsage {
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// Bytes allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<i64>,
    /// Per cent of the bytes allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_percent: Option<i32>,
    /// Objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_count: Option<i64>,
    /// Objects allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_limit: Option<i64>,
    /// Per cent of the objects allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_percent: Option<i32>,
}

/// Documents of the website, as Garage has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebsiteStatus {
    /// Object served for a folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index_document: Option<String>,
    /// Object served when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_document: Option<String>,
}
