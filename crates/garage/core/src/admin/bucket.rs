//! Buckets, their settings, aliases and grants, as the Admin API has them. It may not check them.

use serde::{Deserialize, Serialize};

use super::null_as_default;

/// `GetBucketInfo` and every call that changes a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BucketInfo {
    /// 64 hex digits.
    pub id: String,
    /// RFC 3339.
    #[serde(default)]
    pub created: Option<String>,
    /// Names in the cluster.
    #[serde(default)]
    pub global_aliases: Vec<String>,
    /// Whether it is served as a website.
    #[serde(default)]
    pub website_access: bool,
    /// How; `None` when it is not.
    #[serde(default)]
    pub website_config: Option<WebsiteInfo>,
    /// `None`: there are none, or Garage is older than 2.3.
    #[serde(default)]
    pub cors_rules: Option<Vec<CorsRule>>,
    /// `None`: there are none, or Garage is older than 2.3.
    #[serde(default)]
    pub lifecycle_rules: Option<Vec<LifecycleRule>>,
    /// Keys with permissions or local aliases.
    #[serde(default)]
    pub keys: Vec<BucketKey>,
    /// Objects in it.
    #[serde(default)]
    pub objects: i64,
    /// Bytes of them.
    #[serde(default)]
    pub bytes: i64,
    /// Uploads that have not ended, multipart ones included.
    #[serde(default)]
    pub unfinished_uploads: i64,
    /// Multipart uploads that have not ended.
    #[serde(default)]
    pub unfinished_multipart_uploads: i64,
    /// Parts of them.
    #[serde(default)]
    pub unfinished_multipart_upload_parts: i64,
    /// Bytes of them.
    #[serde(default)]
    pub unfinished_multipart_upload_bytes: i64,
    /// Limits.
    #[serde(default)]
    pub quotas: BucketQuotas,
}

/// How a bucket is served as a website.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WebsiteInfo {
    /// What a folder shows.
    pub index_document: String,
    /// What a missing page shows.
    #[serde(default)]
    pub error_document: Option<String>,
    /// From Garage 2.3.
    #[serde(default)]
    pub routing_rules: Option<Vec<RoutingRule>>,
}

/// A key's rights and names on a bucket, as the bucket lists them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BucketKey {
    /// Whose.
    pub access_key_id: String,
    /// The key's name, for people.
    #[serde(default)]
    pub name: String,
    /// What it may do.
    #[serde(default)]
    pub permissions: BucketPermissions,
    /// Names that only this key can use.
    #[serde(default)]
    pub bucket_local_aliases: Vec<String>,
}

/// What a key may do with a bucket. In a change: which of the three to add or to take away.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(default)]
pub struct BucketPermissions {
    /// List and get.
    pub read: bool,
    /// Put and delete.
    pub write: bool,
    /// Change its settings and delete it.
    pub owner: bool,
}

/// Limits of a bucket; `None` is no limit. Both are set together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BucketQuotas {
    /// Bytes.
    pub max_size: Option<u64>,
    /// Objects.
    pub max_objects: Option<u64>,
}

/// One entry of `ListBuckets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BucketListItem {
    /// 64 hex digits.
    pub id: String,
    /// RFC 3339.
    #[serde(default)]
    pub created: Option<String>,
    /// Names in the cluster.
    #[serde(default)]
    pub global_aliases: Vec<String>,
    /// Names that only one key can use.
    #[serde(default)]
    pub local_aliases: Vec<LocalAlias>,
}

/// A name that only one key can use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalAlias {
    /// Whose.
    pub access_key_id: String,
    /// The name.
    pub alias: String,
}

/// The body of `CreateBucket`. Without any alias the bucket has only its id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateBucket {
    /// HTTP 409 when the name is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_alias: Option<String>,
    /// A name for one key, with rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_alias: Option<CreateLocalAlias>,
}

/// A name for one key, with rights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateLocalAlias {
    /// Whose.
    pub access_key_id: String,
    /// The name.
    pub alias: String,
    /// What the key may do.
    #[serde(default)]
    pub allow: BucketPermissions,
}

/// The body of `UpdateBucket`: `None` keeps what there is, an empty list removes all rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BucketUpdate {
    /// How it is served as a website.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub website_access: Option<WebsiteAccess>,
    /// Limits, both at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotas: Option<BucketQuotas>,
    /// From Garage 2.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors_rules: Option<Vec<CorsRule>>,
    /// From Garage 2.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle_rules: Option<Vec<LifecycleRule>>,
}

impl BucketUpdate {
    /// The settings that were asked for and that `answer`, the bucket after the call, does not have:
    /// a Garage before 2.3 answers 200 and drops what it does not know. In the API's names.
    pub fn dropped_by(&self, answer: &BucketInfo) -> Vec<&'static str> {
        fn asked<T>(rules: Option<&Vec<T>>) -> bool {
            rules.is_some_and(|rules| !rules.is_empty())
        }
        let routing = |website: &WebsiteAccess| asked(website.routing_rules.as_ref());
        let answered = answer.website_config.as_ref();
        let answered = asked(answered.and_then(|website| website.routing_rules.as_ref()));
        let mut dropped = Vec::new();
        if asked(self.cors_rules.as_ref()) && !asked(answer.cors_rules.as_ref()) {
            dropped.push("corsRules");
        }
        if asked(self.lifecycle_rules.as_ref()) && !asked(answer.lifecycle_rules.as_ref()) {
            dropped.push("lifecycleRules");
        }
        if self.website_access.as_ref().is_some_and(routing) && !answered {
            dropped.push("websiteAccess.routingRules");
        }
        dropped
    }
}

/// How to serve a bucket as a website. With `enabled: false` Garage refuses documents (HTTP 400).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WebsiteAccess {
    /// Whether at all.
    pub enabled: bool,
    /// What a folder shows; needed when enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_document: Option<String>,
    /// What a missing page shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_document: Option<String>,
    /// From Garage 2.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing_rules: Option<Vec<RoutingRule>>,
}

/// A CORS rule; names as in S3's XML.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorsRule {
    /// A name of its own.
    #[serde(rename = "ID", default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Seconds that a browser may remember the answer.
    #[serde(
        rename = "MaxAgeSeconds",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub max_age_seconds: Option<i64>,
    /// `*`, or origins.
    #[serde(rename = "AllowedOrigin")]
    pub allowed_origins: Vec<String>,
    /// `GET`, `PUT`, ...
    #[serde(rename = "AllowedMethod")]
    pub allowed_methods: Vec<String>,
    /// Headers that a request may have.
    #[serde(rename = "AllowedHeader", default)]
    pub allowed_headers: Vec<String>,
    /// Headers that a script may see.
    #[serde(rename = "ExposeHeader", default)]
    pub expose_headers: Vec<String>,
}

/// A lifecycle rule; names as in S3's XML.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleRule {
    /// A name of its own.
    #[serde(rename = "ID", default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `Enabled` or `Disabled`.
    #[serde(rename = "Status")]
    pub status: String,
    /// Which objects; `None` is all.
    #[serde(rename = "Filter", default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<LifecycleFilter>,
    /// When objects go.
    #[serde(
        rename = "Expiration",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub expiration: Option<Expiration>,
    /// When uploads that never ended go.
    #[serde(
        rename = "AbortIncompleteMultipartUpload",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub abort_incomplete_upload: Option<AbortIncompleteUpload>,
}

/// Which objects a lifecycle rule is for. More than one condition has to be in `and`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleFilter {
    /// All of these.
    #[serde(rename = "And", default, skip_serializing_if = "Option::is_none")]
    pub and: Option<Box<LifecycleFilter>>,
    /// Keys that begin so.
    #[serde(rename = "Prefix", default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Bytes.
    #[serde(
        rename = "ObjectSizeGreaterThan",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub size_greater_than: Option<i64>,
    /// Bytes.
    #[serde(
        rename = "ObjectSizeLessThan",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub size_less_than: Option<i64>,
}

/// When objects go: one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiration {
    /// Days after their creation.
    #[serde(rename = "Days", default, skip_serializing_if = "Option::is_none")]
    pub days: Option<i64>,
    /// `YYYY-MM-DD`, or RFC 3339 at midnight UTC.
    #[serde(rename = "Date", default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
}

/// When uploads that never ended go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbortIncompleteUpload {
    /// Days after they began.
    #[serde(rename = "DaysAfterInitiation")]
    pub days: i64,
}

/// A redirect of a website; names as in S3's XML.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingRule {
    /// When; `None` is always.
    #[serde(rename = "Condition", default)]
    pub condition: Option<RoutingCondition>,
    /// Where to.
    #[serde(rename = "Redirect")]
    pub redirect: RoutingRedirect,
}

/// When a redirect applies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingCondition {
    /// Only instead of this HTTP status.
    #[serde(
        rename = "HttpErrorCodeReturnedEquals",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub http_error_code: Option<i64>,
    /// Only for keys that begin so.
    #[serde(
        rename = "KeyPrefixEquals",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub key_prefix: Option<String>,
}

/// Where a redirect leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingRedirect {
    /// Another host.
    #[serde(rename = "HostName", default, skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
    /// `http` or `https`.
    #[serde(rename = "Protocol", default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// 301, 302, ...; without a redirect (for `ReplaceKeyWith`) 200 or 404.
    #[serde(
        rename = "HttpRedirectCode",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub http_redirect_code: Option<i64>,
    /// In place of the prefix of the condition.
    #[serde(
        rename = "ReplaceKeyPrefixWith",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub replace_prefix: Option<String>,
    /// In place of the whole key.
    #[serde(
        rename = "ReplaceKeyWith",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub replace_key: Option<String>,
}

/// The body of `AddBucketAlias` and `RemoveBucketAlias`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AliasChange {
    /// Whose name; the full id.
    pub bucket_id: String,
    /// Which name.
    #[serde(flatten)]
    pub alias: BucketAlias,
}

/// A name of a bucket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum BucketAlias {
    /// In the whole cluster.
    Global {
        /// The name.
        global_alias: String,
    },
    /// For one key.
    Local {
        /// The name.
        local_alias: String,
        /// Whose.
        access_key_id: String,
    },
}

/// The body of `AllowBucketKey`, which adds the rights that are `true`, and of `DenyBucketKey`, which
/// takes them away. What is `false` stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BucketKeyChange {
    /// Which bucket; the full id.
    pub bucket_id: String,
    /// Whose rights.
    pub access_key_id: String,
    /// Which rights.
    pub permissions: BucketPermissions,
}

/// The body of `CleanupIncompleteUploads`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CleanupUploads {
    /// Which bucket; the full id.
    pub bucket_id: String,
    /// Seconds.
    pub older_than_secs: u64,
}

/// `CleanupIncompleteUploads`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UploadsCleaned {
    /// How many uploads are gone.
    #[serde(default, deserialize_with = "null_as_default")]
    pub uploads_deleted: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn info(more: serde_json::Value) -> BucketInfo {
        let mut wire = json!({"id": "ab"});
        let fields = more.as_object().expect("an object").clone();
        wire.as_object_mut().expect("an object").extend(fields);
        serde_json::from_value(wire).expect("a bucket")
    }

    #[test]
    fn a_bucket_of_an_old_garage_is_read() {
        let bucket = info(json!({"quotas": {"maxSize": null}}));
        assert_eq!(bucket.cors_rules, None);
        assert_eq!(bucket.quotas, BucketQuotas::default());
    }

    #[test]
    fn an_update_names_only_what_it_changes() {
        let wire = |update: &BucketUpdate| serde_json::to_value(update).expect("it");
        assert_eq!(wire(&BucketUpdate::default()), json!({}));
        let update = BucketUpdate {
            website_access: Some(WebsiteAccess::default()),
            quotas: Some(BucketQuotas {
                max_size: Some(1),
                max_objects: None,
            }),
            cors_rules: Some(Vec::new()),
            lifecycle_rules: Some(vec![LifecycleRule {
                status: "Enabled".into(),
                expiration: Some(Expiration {
                    days: Some(3),
                    date: None,
                }),
                ..Default::default()
            }]),
        };
        let want = json!({
            "websiteAccess": {"enabled": false},
            "quotas": {"maxSize": 1, "maxObjects": null},
            "corsRules": [],
            "lifecycleRules": [{"Status": "Enabled", "Expiration": {"Days": 3}}],
        });
        assert_eq!(wire(&update), want);
    }

    #[test]
    fn settings_that_an_old_garage_dropped_are_named() {
        let cors = json!([{"AllowedOrigin": ["*"], "AllowedMethod": ["GET"]}]);
        let update: BucketUpdate = serde_json::from_value(json!({
            "corsRules": cors,
            "lifecycleRules": [{"Status": "Enabled"}],
            "websiteAccess": {"enabled": true, "indexDocument": "i",
                "routingRules": [{"Redirect": {"HostName": "h"}}]},
        }))
        .expect("an update");
        let all = ["corsRules", "lifecycleRules", "websiteAccess.routingRules"];
        assert_eq!(update.dropped_by(&info(json!({}))), all);
        let half = info(json!({"corsRules": cors, "lifecycleRules": []}));
        assert_eq!(update.dropped_by(&half), all[1..]);
        let removal = BucketUpdate {
            cors_rules: Some(Vec::new()),
            ..Default::default()
        };
        assert!(removal.dropped_by(&info(json!({}))).is_empty());
    }

    #[test]
    fn aliases_travel_flat() {
        for (alias, wire) in [
            (
                BucketAlias::Global {
                    global_alias: "g".into(),
                },
                json!({"bucketId": "b", "globalAlias": "g"}),
            ),
            (
                BucketAlias::Local {
                    local_alias: "l".into(),
                    access_key_id: "k".into(),
                },
                json!({"bucketId": "b", "localAlias": "l", "accessKeyId": "k"}),
            ),
        ] {
            let change = AliasChange {
                bucket_id: "b".into(),
                alias,
            };
            assert_eq!(serde_json::to_value(&change).expect("it"), wire);
        }
    }
}
