//! Access keys, as the Admin API has them. It may not make one up.

use serde::{Deserialize, Serialize, Serializer};

use super::{BucketPermissions, null_as_default, read_optional_secret};
use crate::secret::Redacted;

/// `GetKeyInfo`, `CreateKey`, `ImportKey`, `UpdateKey`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyInfo {
    /// `GK...`, or what was imported.
    pub access_key_id: String,
    /// RFC 3339; `None` for keys older than Garage 2.
    #[serde(default)]
    pub created: Option<String>,
    /// For people; not unique.
    #[serde(default)]
    pub name: String,
    /// RFC 3339; `None` is never.
    #[serde(default)]
    pub expiration: Option<String>,
    /// Whether that time has come.
    #[serde(default)]
    pub expired: bool,
    /// Only in the answer to `CreateKey` and to `GetKeyInfo` with `showSecretKey`.
    #[serde(default, deserialize_with = "read_optional_secret")]
    pub secret_access_key: Option<Redacted<String>>,
    /// What it may do apart from buckets.
    #[serde(default, deserialize_with = "null_as_default")]
    pub permissions: KeyPermissions,
    /// Buckets that it has rights or names for.
    #[serde(default)]
    pub buckets: Vec<KeyBucket>,
}

/// What a key may do apart from buckets. In a change: what to add or to take away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeyPermissions {
    /// Create buckets by S3.
    pub create_bucket: bool,
}

/// A key's rights and names on a bucket, as the key lists them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyBucket {
    /// The bucket's id.
    pub id: String,
    /// Its names in the cluster.
    #[serde(default)]
    pub global_aliases: Vec<String>,
    /// Its names for this key.
    #[serde(default)]
    pub local_aliases: Vec<String>,
    /// What this key may do.
    #[serde(default)]
    pub permissions: BucketPermissions,
}

/// One entry of `ListKeys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyListItem {
    /// The access key id.
    pub id: String,
    /// For people; not unique.
    #[serde(default)]
    pub name: String,
    /// RFC 3339.
    #[serde(default)]
    pub created: Option<String>,
    /// RFC 3339; `None` is never.
    #[serde(default)]
    pub expiration: Option<String>,
    /// Whether that time has come.
    #[serde(default)]
    pub expired: bool,
}

/// The body of `CreateKey` and `UpdateKey`: `None` keeps what there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyChange {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration: Option<String>,
    /// Removes the expiration; not together with one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub never_expires: bool,
    /// Rights to add.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<KeyPermissions>,
    /// Rights to take away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny: Option<KeyPermissions>,
}

/// The body of `ImportKey`. An id that was ever used, also by a key that is deleted, is HTTP 409.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportKey {
    /// At least 8 of `[A-Za-z0-9-_.]`.
    pub access_key_id: String,
    /// At least 16 characters.
    #[serde(serialize_with = "write_secret")]
    pub secret_access_key: Redacted<String>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The one way by which a secret leaves: in the request that gives it to Garage.
fn write_secret<S: Serializer>(
    secret: &Redacted<String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_key_does_not_print_its_secret() {
        let key: KeyInfo = serde_json::from_value(json!({
            "accessKeyId": "GK1", "secretAccessKey": "hunter2", "permissions": null,
            "buckets": [{"id": "b", "permissions": {"read": true}}],
        }))
        .expect("a key");
        assert!(!format!("{key:?}").contains("hunter2"));
        assert_eq!(
            key.buckets[0].permissions,
            BucketPermissions {
                read: true,
                ..Default::default()
            }
        );
        let import = ImportKey {
            access_key_id: "GK1".into(),
            secret_access_key: Redacted::new("hunter2".into()),
            name: None,
        };
        assert!(!format!("{import:?}").contains("hunter2"));
        let wire = json!({"accessKeyId": "GK1", "secretAccessKey": "hunter2"});
        assert_eq!(serde_json::to_value(&import).expect("it"), wire);
    }

    #[test]
    fn a_change_names_only_what_it_changes() {
        let change = KeyChange {
            never_expires: true,
            deny: Some(KeyPermissions {
                create_bucket: true,
            }),
            ..Default::default()
        };
        let wire = json!({"neverExpires": true, "deny": {"createBucket": true}});
        assert_eq!(serde_json::to_value(&change).expect("it"), wire);
        assert_eq!(
            serde_json::to_value(KeyChange::default()).expect("it"),
            json!({})
        );
    }
}
