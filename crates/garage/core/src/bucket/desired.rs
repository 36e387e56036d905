//! From a GarageBucket to what it asks for. What the apiserver has checked is checked again. May not
//! look at other objects.

use crate::admin::{
    AbortIncompleteUpload, BucketPermissions, BucketQuotas, CorsRule, Expiration, LifecycleFilter,
    LifecycleRule,
};
use crate::api::{self, BucketRights, DeletionPolicy, GarageBucket};
use crate::cluster::{ClusterKey, Problem};
use crate::quantity;
use crate::tenant;
use std::collections::{BTreeMap, BTreeSet};

/// What one bucket should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// Where the object is.
    pub key: ClusterKey,
    /// Its UID, of which the reservation alias is made.
    pub uid: String,
    /// The object is being deleted.
    pub absent: bool,
    /// The cluster that it names.
    pub cluster: ClusterKey,
    /// Its name for all keys.
    pub global_alias: Option<String>,
    /// Its names for single keys: GarageKey and name.
    pub local_aliases: BTreeSet<(String, String)>,
    /// Limits.
    pub quotas: BucketQuotas,
    /// Its documents; `None`: no website.
    pub website: Option<Documents>,
    /// Expiry rules, all of them.
    pub lifecycle: Vec<LifecycleRule>,
    /// Cross-origin rules, all of them.
    pub cors: Vec<CorsRule>,
    /// GarageKeys that may use it.
    pub grants: BTreeMap<String, BucketPermissions>,
    /// What becomes of it when the object is deleted, if the object says so.
    pub policy: Option<DeletionPolicy>,
    /// A bucket that exists already may be taken over.
    pub adopt: bool,
}

/// Documents of a website.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    /// What a folder shows.
    pub index: String,
    /// What a missing page shows.
    pub error: Option<String>,
}

impl Desired {
    /// Reads the object.
    ///
    /// # Errors
    /// Everything in it that cannot be done, each with its field.
    pub fn parse(bucket: &GarageBucket) -> Result<Self, Vec<Problem>> {
        let meta = &bucket.metadata;
        let spec = &bucket.spec;
        let key = ClusterKey {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        };
        let mut problems = Vec::new();
        let quotas = spec.quotas.clone().unwrap_or_default();
        let max_size = quotas
            .max_size
            .as_ref()
            .and_then(|size| match quantity::bytes(size) {
                Ok(bytes) => Some(bytes),
                Err(why) => {
                    problems.push(problem("spec.quotas.maxSize", &why.to_string()));
                    None
                }
            });
        let max_objects = quotas.max_objects.and_then(|count| {
            let count = u64::try_from(count).ok();
            if count.is_none() {
                problems.push(problem("spec.quotas.maxObjects", "cannot be negative"));
            }
            count
        });
        let locals = spec.local_aliases.iter();
        let local_aliases: BTreeSet<(String, String)> = locals
            .map(|local| (local.key_ref.clone(), local.alias.clone()))
            .collect();
        let named = spec.global_alias.clone().filter(|alias| !alias.is_empty());
        let by_default = || local_aliases.is_empty().then(|| key.name.clone());
        let website = spec.website.as_ref().filter(|website| website.enabled);
        let lifecycle = spec
            .lifecycle
            .as_ref()
            .map(|lifecycle| lifecycle.rules.as_slice());
        let desired = Self {
            uid: meta.uid.clone().unwrap_or_default(),
            absent: meta.deletion_timestamp.is_some(),
            cluster: tenant::target(&spec.cluster_ref, &key.namespace),
            global_alias: named.or_else(by_default),
            local_aliases,
            quotas: BucketQuotas {
                max_size,
                max_objects,
            },
            website: website.map(|website| Documents {
                index: website.index_document.clone(),
                error: website.error_document.clone(),
            }),
            lifecycle: lifecycle
                .unwrap_or_default()
                .iter()
                .map(lifecycle_rule)
                .collect(),
            cors: spec.cors.iter().map(cors_rule).collect(),
            grants: grants(bucket),
            policy: spec.deletion_policy,
            adopt: meta
                .annotations
                .as_ref()
                .and_then(|all| all.get(api::ANNOTATION_ADOPT))
                .is_some_and(|adopt| adopt == "true"),
            key,
        };
        // What goes is cleaned up by what is left of it, however wrong its fields are.
        if problems.is_empty() || desired.absent {
            Ok(desired)
        } else {
            Err(problems)
        }
    }

    /// The global alias under which the bucket is created: nobody else's, so that a bucket is ours or is
    /// not, also when its creation was the last thing that a process did.
    #[must_use]
    pub fn reservation(&self) -> String {
        reservation(&self.uid)
    }
}

/// The reservation alias of the object with this UID.
#[must_use]
pub fn reservation(uid: &str) -> String {
    format!("gatewright-{uid}")
}

fn problem(field: &str, message: &str) -> Problem {
    Problem {
        field: field.to_owned(),
        message: message.to_owned(),
    }
}

/// Rights as they travel.
#[must_use]
pub fn permissions(rights: BucketRights) -> BucketPermissions {
    BucketPermissions {
        read: rights.read,
        write: rights.write,
        owner: rights.owner,
    }
}

fn grants(bucket: &GarageBucket) -> BTreeMap<String, BucketPermissions> {
    let mut grants: BTreeMap<String, BucketPermissions> = BTreeMap::new();
    for one in &bucket.spec.key_permissions {
        let rights = grants.entry(one.key_ref.clone()).or_default();
        *rights = union(*rights, permissions(one.rights()));
    }
    grants
}

/// What either allows.
pub(crate) fn union(a: BucketPermissions, b: BucketPermissions) -> BucketPermissions {
    BucketPermissions {
        read: a.read || b.read,
        write: a.write || b.write,
        owner: a.owner || b.owner,
    }
}

/// What `a` allows and `b` does not.
pub(crate) fn minus(a: BucketPermissions, b: BucketPermissions) -> BucketPermissions {
    BucketPermissions {
        read: a.read && !b.read,
        write: a.write && !b.write,
        owner: a.owner && !b.owner,
    }
}

/// Nothing is allowed.
pub(crate) fn is_none(a: BucketPermissions) -> bool {
    a == BucketPermissions::default()
}

fn cors_rule(rule: &api::CorsRule) -> CorsRule {
    CorsRule {
        id: rule.id.clone(),
        max_age_seconds: rule.max_age_seconds,
        allowed_origins: rule.allowed_origins.clone(),
        allowed_methods: rule.allowed_methods.clone(),
        allowed_headers: rule.allowed_headers.clone(),
        expose_headers: rule.expose_headers.clone(),
    }
}

fn lifecycle_rule(rule: &api::LifecycleRule) -> LifecycleRule {
    let filter = rule.filter.as_ref().map(|filter| LifecycleFilter {
        and: None,
        prefix: filter.prefix.clone(),
        size_greater_than: filter.object_size_greater_than,
        size_less_than: filter.object_size_less_than,
    });
    let abort = rule.abort_incomplete_multipart_upload.as_ref();
    LifecycleRule {
        id: Some(rule.id.clone()),
        status: rule.status.as_str().to_owned(),
        filter: filter.and_then(filter_as_sent),
        expiration: rule.expiration.as_ref().map(|expiration| Expiration {
            days: expiration.days.map(i64::from),
            date: expiration.date.clone(),
        }),
        abort_incomplete_upload: abort.map(|abort| AbortIncompleteUpload {
            days: abort.days_after_initiation.into(),
        }),
    }
}

/// Garage takes one condition as it is, and more than one in `And`.
fn filter_as_sent(filter: LifecycleFilter) -> Option<LifecycleFilter> {
    let given = [
        filter.prefix.is_some(),
        filter.size_greater_than.is_some(),
        filter.size_less_than.is_some(),
    ];
    match given.iter().filter(|given| **given).count() {
        0 => None,
        1 => Some(filter),
        _ => Some(LifecycleFilter {
            and: Some(Box::new(filter)),
            ..LifecycleFilter::default()
        }),
    }
}

/// A rule with the freedom taken out that Garage has in giving it back.
pub(crate) fn normal(rule: &LifecycleRule) -> LifecycleRule {
    let filter = rule.filter.clone().map(|filter| match filter.and {
        Some(inner) => *inner,
        None => filter,
    });
    let expiration = rule.expiration.clone().map(|expiration| Expiration {
        date: expiration.date.map(|date| date.chars().take(10).collect()),
        ..expiration
    });
    LifecycleRule {
        filter: filter.and_then(filter_as_sent),
        expiration,
        ..rule.clone()
    }
}
