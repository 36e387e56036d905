//! Shapes shared by several kinds: references, Secret templates, the words of enumerations. Data only.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::SecretKeySelector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Defines a closed list of words with `as_str`, `Display`, serde and a plain string-enum schema.
macro_rules! words {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            /// The word as it stands in manifests.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool { true }
            fn schema_name() -> std::borrow::Cow<'static, str> { stringify!($name).into() }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": [$($word),+] })
            }
        }
    };
}
pub(crate) use words;

/// A GarageCluster, of the own namespace unless another is named (then a ReferenceGrant there must allow it).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRef {
    /// Name of the GarageCluster.
    pub name: String,
    /// Namespace of the GarageCluster; the object's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Refused: a GarageCluster of another Kubernetes cluster cannot be reached through a kubeconfig. Use
    /// `connectTo.adminApiEndpoint` with `bootstrapPeers` for a storage cluster elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kube_config_secret_ref: Option<SecretKeySelector>,
}

/// An object and its namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespacedName {
    /// Name of the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Namespace of the object; the referring object's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// What a key may do with a bucket. Absent means no.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct BucketRights {
    /// Read objects and list the bucket.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read: bool,
    /// Write and delete objects.
    #[serde(default, skip_serializing_if = "is_false")]
    pub write: bool,
    /// Change the bucket itself (website, CORS, lifecycle, deletion).
    #[serde(default, skip_serializing_if = "is_false")]
    pub owner: bool,
}

/// What a key may do outside buckets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyPermissions {
    /// The key may create buckets through the S3 API.
    #[serde(default, skip_serializing_if = "is_false")]
    pub create_bucket: bool,
}

/// Serde helper: leave a `false` out.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
pub(crate) fn is_false(value: &bool) -> bool {
    !value
}

/// Strings by strings, sorted.
pub type StringMap = BTreeMap<String, String>;
