//! What a GarageKey says about itself. May not decide.

use super::{Desired, Live, Observed, Plan, Refusal, Taken, Target, Verdict, Wait, published};
use crate::api::{
    EffectivePermission, GarageKey, GarageKeyStatus, KeyBucketStatus, KeyPermissions,
    NamespacedName, RotationStatus,
};
use crate::bucket::is_none;
use crate::cluster::Report;
use crate::tenant::{self, Home, Said};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

/// Puts together what is to be told. `failure` is what went wrong while the plan was carried out.
#[must_use]
pub fn report(
    object: &GarageKey,
    desired: &Desired,
    seen: &Observed,
    plan: &Plan,
    failure: Option<&str>,
) -> Report {
    let told = object.status.clone().unwrap_or_default();
    let mut status = match seen.live.last().filter(|_| seen.taken.is_none()) {
        Some(newest) => facts(desired, seen, plan, newest),
        // Nobody was asked: what was known stays known.
        None if seen.home != Home::Reached => GarageKeyStatus {
            conditions: Vec::new(),
            ..told
        },
        // The numbers of lost keys must not be forgotten: their ids cannot be used again.
        None => GarageKeyStatus {
            key_id: told.key_id,
            access_key_id: told.access_key_id,
            secret_ref: told.secret_ref,
            ..GarageKeyStatus::default()
        },
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

fn phase(desired: &Desired, plan: &Plan) -> &'static str {
    match &plan.verdict {
        _ if desired.absent => "Deleting",
        Verdict::Ready => "Ready",
        Verdict::Expired => "Expired",
        Verdict::Refused(_) => "Failed",
        Verdict::Waiting(wait) => match wait {
            Wait::Cluster(_) | Wait::Material(_) => "Pending",
            Wait::Creating | Wait::Changing | Wait::Rights(_) => "Creating",
            Wait::Deleting => "Deleting",
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
        Verdict::Ready => (
            true,
            "AsAsked",
            "the key and its Secret are as asked".to_owned(),
        ),
        Verdict::Expired => (
            false,
            "Expired",
            "the key has ended: set a later expiration".to_owned(),
        ),
        Verdict::Waiting(wait) => (false, wait.reason(), wait.to_string()),
        Verdict::Refused(refusal) => (false, refusal.reason(), refusal.to_string()),
    };
    let blocked = match &plan.verdict {
        Verdict::Waiting(wait @ Wait::Cluster(_)) if desired.absent => {
            Some((wait.reason(), wait.to_string()))
        }
        Verdict::Ready | Verdict::Expired | Verdict::Waiting(_) | Verdict::Refused(_) => None,
    };
    let left_out = plan
        .left_out
        .iter()
        .map(|(bucket, why)| format!("{bucket} {why}"));
    tenant::conditions(&Said {
        ready,
        failure,
        elsewhere: desired.cluster.namespace != desired.key.namespace,
        home: &seen.home,
        blocked,
        degraded: (!plan.left_out.is_empty()).then(|| {
            (
                "BucketsMissing",
                format!("left out: {}", tenant::list(left_out)),
            )
        }),
    })
}

fn facts(desired: &Desired, seen: &Observed, plan: &Plan, newest: &Live) -> GarageKeyStatus {
    let current = published(seen).and_then(|id| seen.live.iter().find(|key| key.id == *id));
    let current = current.unwrap_or(newest);
    let previous = seen
        .live
        .iter()
        .rev()
        .find(|key| key.id != newest.id && key.id != current.id);
    // While the successor waits for its rights, the current key is the one before it.
    let previous = previous.or_else(|| seen.live.iter().rev().find(|key| key.id != newest.id));
    let rotation = desired.rotation.map(|rotation| RotationStatus {
        last_rotated: newest
            .number
            .filter(|number| *number > 0)
            .and(newest.created)
            .map(Time),
        next_rotation: newest
            .created
            .map(|time| Time(super::after(time, rotation.interval))),
        previous_access_key_id: previous.map(|key| key.id.clone()),
    });
    let leftover = || RotationStatus {
        previous_access_key_id: previous.map(|key| key.id.clone()),
        ..RotationStatus::default()
    };
    GarageKeyStatus {
        key_id: Some(newest.id.clone()),
        access_key_id: Some(current.id.clone()),
        created_at: newest.created.map(Time),
        expiration: newest.expiration.map(|time| time.to_string()),
        expired: Some(newest.expired),
        permissions: Some(KeyPermissions {
            create_bucket: newest.create_bucket,
        }),
        buckets: buckets(newest),
        effective_permissions: effective(desired, seen, newest),
        secret_ref: plan.secret.as_ref().map(|_| NamespacedName {
            name: Some(desired.secret.name.clone()),
            namespace: Some(desired.key.namespace.clone()),
        }),
        rotation: rotation.or_else(|| previous.map(|_| leftover())),
        ..GarageKeyStatus::default()
    }
}

fn buckets(key: &Live) -> Vec<KeyBucketStatus> {
    let used = key
        .buckets
        .iter()
        .filter(|(_, access)| !is_none(access.rights));
    used.map(|(id, access)| KeyBucketStatus {
        bucket_id: Some(id.clone()),
        global_alias: access.aliases.first().cloned(),
        local_alias: access.local_aliases.first().cloned(),
        read: Some(access.rights.read),
        write: Some(access.rights.write),
        owner: Some(access.rights.owner),
    })
    .collect()
}

fn effective(desired: &Desired, seen: &Observed, key: &Live) -> Vec<EffectivePermission> {
    let asked = |bucket: &str| {
        desired
            .buckets
            .iter()
            .zip(&seen.targets)
            .any(|(_, target)| match target {
                Target::Bucket { id, .. } => id == bucket,
                Target::Missing | Target::NotYet | Target::NotGranted(_) | Target::Elsewhere => {
                    false
                }
            })
    };
    let used = key
        .buckets
        .iter()
        .filter(|(_, access)| !is_none(access.rights));
    used.map(|(id, access)| EffectivePermission {
        bucket_id: Some(id.clone()),
        bucket_alias: access.aliases.first().cloned(),
        source: match (asked(id), seen.managed.get(id)) {
            (true, _) => Some("GarageKey".to_owned()),
            (false, Some(bucket)) => Some(format!("GarageBucket/{}", bucket.name)),
            (false, None) => None,
        },
        read: Some(access.rights.read),
        write: Some(access.rights.write),
        owner: Some(access.rights.owner),
    })
    .collect()
}

fn warning(plan: &Plan) -> Option<(String, String)> {
    match &plan.verdict {
        Verdict::Refused(refusal) => Some((refusal.reason().to_owned(), refusal.to_string())),
        Verdict::Waiting(Wait::Cluster(closed)) if closed.is_warning() => {
            Some((closed.reason().to_owned(), closed.to_string()))
        }
        Verdict::Waiting(wait @ Wait::Material(_)) => {
            Some((wait.reason().to_owned(), wait.to_string()))
        }
        Verdict::Ready | Verdict::Expired | Verdict::Waiting(_) => None,
    }
}

impl Wait {
    /// The reason of a condition: CamelCase.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Cluster(closed) => closed.reason(),
            Self::Material(_) => "KeyMaterialMissing",
            Self::Creating => "Creating",
            Self::Changing => "Changing",
            Self::Rights(_) => "RightsPending",
            Self::Deleting => "Deleting",
        }
    }
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster(closed) => closed.fmt(f),
            Self::Material(why) => write!(f, "the key to be imported cannot be read: {why}"),
            Self::Creating => f.write_str("the key is being created"),
            Self::Changing => f.write_str("the key is being changed"),
            Self::Rights(buckets) if buckets.is_empty() => f.write_str(
                "the new key has not all rights of the old one yet, which goes on working",
            ),
            Self::Rights(buckets) => {
                write!(f, "rights are not given yet: {}", tenant::list(buckets))
            }
            Self::Deleting => f.write_str("the key is being deleted"),
        }
    }
}

impl Refusal {
    /// The reason of a condition: CamelCase.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "Invalid",
            Self::SecretTaken(_) => "SecretTaken",
            Self::IdTaken(_) => "AccessKeyTaken",
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(problems) => f.write_str(&tenant::list(problems)),
            Self::SecretTaken(name) => write!(
                f,
                "Secret {name} exists and is not this object's: choose another secretTemplate.name, or delete the Secret"
            ),
            Self::IdTaken(Taken::By(other)) => {
                write!(f, "the access key to be imported is that of GarageKey {other}")
            }
            Self::IdTaken(Taken::OtherSecret) => f.write_str(
                "Garage has the access key to be imported already, with another secret: correct the secret, or delete that \
                 key in Garage and import one with another id",
            ),
        }
    }
}
