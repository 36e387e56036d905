//! What a GarageBucket says about itself. May not decide.

use super::{Desired, Observed, Plan, Refusal, Step, Verdict, Wait};
use crate::admin::{BucketInfo, BucketPermissions};
use crate::api::{
    ANNOTATION_ADOPT, BucketKeyStatus, BucketRights, GarageBucket, GarageBucketStatus,
    GarageCluster, LocalAliasStatus, QuotaUsage, WebsiteStatus,
};
use crate::cluster::Report;
use crate::quantity;
use crate::tenant::{self, Said};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

/// Whether the figures of use are told anew. They change with every request, and a status that followed
/// them would be written for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// As they are.
    Fresh,
    /// As they were told last.
    AsTold,
}

/// Puts together what is to be told. `cluster` is the one that the object names; `failure` is what went
/// wrong while the plan was carried out.
#[must_use]
pub fn report(
    object: &GarageBucket,
    cluster: Option<&GarageCluster>,
    desired: &Desired,
    seen: &Observed,
    plan: &Plan,
    usage: Usage,
    failure: Option<&str>,
) -> Report {
    let refused = matches!(&plan.verdict, Verdict::Refused(Refusal::Managed(_)));
    let told = object.status.clone().unwrap_or_default();
    // To name a bucket is to claim it.
    let claimed = |bucket: &&BucketInfo| {
        seen.recorded.as_ref() == Some(&bucket.id)
            || plan.steps.contains(&Step::Record(bucket.id.clone()))
    };
    let mut status = match seen.bucket.as_ref().filter(|_| !refused).filter(claimed) {
        Some(bucket) => GarageBucketStatus {
            adopted: adopted(desired, seen, bucket).then_some(true),
            ..facts(&told, cluster, desired, bucket, usage)
        },
        // Nobody was asked: what was known stays known.
        None if seen.home != tenant::Home::Reached => GarageBucketStatus {
            conditions: Vec::new(),
            ..told
        },
        None => GarageBucketStatus::default(),
    };
    status.observed_generation = object.metadata.generation;
    status.phase = Some(phase(desired, plan).to_owned());
    let mut status = serde_json::to_value(status).unwrap_or(Value::Null);
    if let Some(fields) = status.as_object_mut() {
        fields.insert(
            "conditions".into(),
            Value::Array(conditions(desired, seen, plan, failure)),
        );
    }
    Report {
        status,
        warning: warning(plan),
    }
}

/// The bucket was not made by this object. What was made still has its reservation when it is recorded.
fn adopted(desired: &Desired, seen: &Observed, bucket: &BucketInfo) -> bool {
    match seen.recorded.as_ref() == Some(&bucket.id) {
        true => seen.adopted,
        false => !bucket.global_aliases.contains(&desired.reservation()),
    }
}

fn phase(desired: &Desired, plan: &Plan) -> &'static str {
    match &plan.verdict {
        _ if desired.absent => "Deleting",
        Verdict::Ready => "Ready",
        Verdict::Refused(_) => "Failed",
        Verdict::Waiting(wait) => match wait {
            Wait::Cluster(_) => "Pending",
            Wait::Creating | Wait::Changing => "Creating",
            Wait::Deleting | Wait::NotEmpty { .. } => "Deleting",
        },
    }
}

fn conditions(
    desired: &Desired,
    seen: &Observed,
    plan: &Plan,
    failure: Option<&str>,
) -> Vec<Value> {
    let ready = match &plan.verdict {
        Verdict::Ready => (true, "AsAsked", "the bucket is as asked".to_owned()),
        Verdict::Waiting(wait) => (false, wait.reason(), wait.to_string()),
        Verdict::Refused(refusal) => (false, refusal.reason(), refusal.to_string()),
    };
    let blocked = match &plan.verdict {
        Verdict::Waiting(wait @ (Wait::NotEmpty { .. } | Wait::Cluster(_))) if desired.absent => {
            Some((wait.reason(), wait.to_string()))
        }
        Verdict::Ready | Verdict::Waiting(_) | Verdict::Refused(_) => None,
    };
    let missing = plan
        .missing_keys
        .iter()
        .map(|(key, why)| format!("GarageKey {key} {why}"));
    tenant::conditions(&Said {
        ready,
        failure,
        elsewhere: desired.cluster.namespace != desired.key.namespace,
        home: &seen.home,
        blocked,
        degraded: (!plan.missing_keys.is_empty()).then(|| {
            (
                "KeysMissing",
                format!("left out: {}", tenant::list(missing)),
            )
        }),
    })
}

fn facts(
    told: &GarageBucketStatus,
    cluster: Option<&GarageCluster>,
    desired: &Desired,
    bucket: &BucketInfo,
    usage: Usage,
) -> GarageBucketStatus {
    let reservation = desired.reservation();
    let has = |alias: &&String| bucket.global_aliases.contains(alias);
    // A former alias is told until it is gone: this is where we know from that it was ours.
    let former = told
        .global_alias
        .as_ref()
        .filter(has)
        .filter(|alias| **alias != reservation);
    let alias = former.or_else(|| desired.global_alias.as_ref().filter(has));
    let locals = bucket.keys.iter().flat_map(|key| {
        key.bucket_local_aliases
            .iter()
            .map(|alias| LocalAliasStatus {
                alias: Some(alias.clone()),
                key_id: Some(key.access_key_id.clone()),
                key_name: Some(key.name.clone()),
            })
    });
    let with_rights = bucket
        .keys
        .iter()
        .filter(|key| !super::is_none(key.permissions));
    let config = bucket
        .website_config
        .as_ref()
        .filter(|_| bucket.website_access);
    let fresh = told.bucket_id.as_ref() != Some(&bucket.id)
        || match usage {
            Usage::Fresh => true,
            Usage::AsTold => quota_limits(bucket) != told_limits(told),
        };
    let mut status = GarageBucketStatus {
        bucket_id: Some(bucket.id.clone()),
        created_at: bucket.created.as_deref().and_then(tenant::time).map(Time),
        global_alias: alias.cloned(),
        local_aliases: locals.collect(),
        keys: with_rights
            .map(|key| BucketKeyStatus {
                key_id: Some(key.access_key_id.clone()),
                name: Some(key.name.clone()),
                permissions: Some(rights(key.permissions)),
            })
            .collect(),
        website_enabled: Some(bucket.website_access),
        website_config: config.map(|config| WebsiteStatus {
            index_document: Some(config.index_document.clone()),
            error_document: config.error_document.clone(),
        }),
        website_url: config.and_then(|_| website_url(cluster?, alias?)),
        ..GarageBucketStatus::default()
    };
    if fresh {
        status.size = u64::try_from(bucket.bytes)
            .ok()
            .map(|bytes| quantity::canonical(bytes).0);
        status.object_count = Some(bucket.objects);
        status.quota_usage = quota_usage(bucket);
        status.incomplete_uploads = Some(bucket.unfinished_uploads);
        status.incomplete_upload_parts = Some(bucket.unfinished_multipart_upload_parts);
        status.incomplete_upload_bytes = Some(bucket.unfinished_multipart_upload_bytes);
    } else {
        status.size.clone_from(&told.size);
        status.object_count = told.object_count;
        status.quota_usage.clone_from(&told.quota_usage);
        status.incomplete_uploads = told.incomplete_uploads;
        status.incomplete_upload_parts = told.incomplete_upload_parts;
        status.incomplete_upload_bytes = told.incomplete_upload_bytes;
    }
    status
}

fn rights(permissions: BucketPermissions) -> BucketRights {
    BucketRights {
        read: permissions.read,
        write: permissions.write,
        owner: permissions.owner,
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn quota_limits(bucket: &BucketInfo) -> (Option<i64>, Option<i64>) {
    (
        bucket.quotas.max_size.map(signed),
        bucket.quotas.max_objects.map(signed),
    )
}

fn told_limits(told: &GarageBucketStatus) -> (Option<i64>, Option<i64>) {
    let usage = told.quota_usage.as_ref();
    (
        usage.and_then(|usage| usage.size_limit),
        usage.and_then(|usage| usage.object_limit),
    )
}

fn quota_usage(bucket: &BucketInfo) -> Option<QuotaUsage> {
    let (size, objects) = quota_limits(bucket);
    if size.is_none() && objects.is_none() {
        return None;
    }
    let percent = |used: i64, limit: i64| {
        let percent = i128::from(used) * 100 / i128::from(limit.max(1));
        i32::try_from(percent).unwrap_or(i32::MAX)
    };
    Some(QuotaUsage {
        size_bytes: size.map(|_| bucket.bytes),
        size_limit: size,
        size_percent: size.map(|limit| percent(bucket.bytes, limit)),
        object_count: objects.map(|_| bucket.objects),
        object_limit: objects,
        object_percent: objects.map(|limit| percent(bucket.objects, limit)),
    })
}

/// Garage serves the website of a bucket at `<alias><rootDomain>`.
fn website_url(cluster: &GarageCluster, alias: &str) -> Option<String> {
    let web = cluster
        .spec
        .web_api
        .as_ref()
        .filter(|web| web.enabled.unwrap_or(true))?;
    let meta = &cluster.metadata;
    let service = || {
        Some(format!(
            "{}.{}.svc",
            meta.name.as_deref()?,
            meta.namespace.as_deref()?
        ))
    };
    let root = web
        .root_domain
        .clone()
        .filter(|root| !root.is_empty())
        .or_else(service)?;
    Some(format!("http://{alias}.{}", root.trim_start_matches('.')))
}

/// What is worth an Event.
fn warning(plan: &Plan) -> Option<(String, String)> {
    match &plan.verdict {
        Verdict::Refused(refusal) => Some((refusal.reason().to_owned(), refusal.to_string())),
        Verdict::Waiting(Wait::Cluster(closed)) if closed.is_warning() => {
            Some((closed.reason().to_owned(), closed.to_string()))
        }
        Verdict::Waiting(wait @ Wait::NotEmpty { .. }) => {
            Some((wait.reason().to_owned(), wait.to_string()))
        }
        Verdict::Ready | Verdict::Waiting(_) => None,
    }
}

impl Wait {
    /// The reason of a condition: CamelCase.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Cluster(closed) => closed.reason(),
            Self::Creating => "Creating",
            Self::Changing => "Changing",
            Self::Deleting => "Deleting",
            Self::NotEmpty { .. } => "NotEmpty",
        }
    }
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster(closed) => closed.fmt(f),
            Self::Creating => f.write_str("the bucket is being created"),
            Self::Changing => f.write_str("the bucket is being changed"),
            Self::Deleting => f.write_str("the bucket is being deleted"),
            Self::NotEmpty {
                objects,
                bytes,
                uploads,
            } => write!(
                f,
                "the bucket is not empty ({objects} objects, {bytes} bytes, {uploads} unfinished uploads): empty it, or \
                 set deletionPolicy to Retain to keep it"
            ),
        }
    }
}

impl Refusal {
    /// The reason of a condition: CamelCase.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "Invalid",
            Self::Managed(_) => "Conflict",
            Self::Exists(_) => "BucketExists",
            Self::AliasTaken { .. } => "AliasTaken",
            Self::Unsupported(_) => "Unsupported",
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(problems) => f.write_str(&tenant::list(problems)),
            Self::Managed(other) => write!(
                f,
                "GarageBucket {other} has this bucket already: choose another globalAlias, or delete one of the two"
            ),
            Self::Exists(bucket) => write!(
                f,
                "bucket {bucket} has this name and was not made by this object: to take it over, annotate the object with \
                 {ANNOTATION_ADOPT}=true; else choose another name"
            ),
            Self::AliasTaken { alias, holder } => write!(
                f,
                "the name {alias} belongs to bucket {holder}: choose another globalAlias, or take the name from that \
                 bucket"
            ),
            Self::Unsupported(fields) => write!(
                f,
                "this Garage is too old for {}: 2.3 or newer is needed",
                tenant::list(fields.iter())
            ),
        }
    }
}
