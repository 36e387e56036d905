//! From a GarageKey to what it asks for. What the apiserver has checked is checked again. May not look at
//! other objects.

use crate::admin::BucketPermissions;
use crate::api::{GarageKey, KeySecretTemplate};
use crate::bucket;
use crate::cluster::{ClusterKey, Problem};
use crate::secret::Redacted;
use crate::tenant;
use k8s_openapi::jiff::Timestamp;

/// How long a replaced key still works, at most, if the object does not say.
const OVERLAP: i64 = 24 * 3600;

/// What one key should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// Where the object is.
    pub key: ClusterKey,
    /// Its UID, of which the ids of its access keys are made.
    pub uid: String,
    /// The object is being deleted.
    pub absent: bool,
    /// The cluster that it names.
    pub cluster: ClusterKey,
    /// Its name in Garage.
    pub name: String,
    /// When it ends.
    pub expiry: Expiry,
    /// It may create buckets.
    pub create_bucket: bool,
    /// Key material that exists already.
    pub import: Option<Import>,
    /// Buckets that it may use.
    pub buckets: Vec<Wanted>,
    /// How often it is replaced.
    pub rotation: Option<Interval>,
    /// How the Secret looks.
    pub secret: Template,
}

/// When a key or a token ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// As it is; a new one never ends.
    AsIs,
    /// Never.
    Never,
    /// Then.
    At(Timestamp),
}

impl Expiry {
    /// Reads the two fields of a key or a token.
    pub(crate) fn parse(
        expiration: Option<&str>,
        never: bool,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let Some(text) = expiration.filter(|text| !text.is_empty()) else {
            return if never { Self::Never } else { Self::AsIs };
        };
        if never {
            problems.push(Problem {
                field: "spec.neverExpires".into(),
                message: "expiration and neverExpires are mutually exclusive".into(),
            });
        }
        tenant::time(text).map_or_else(
            || {
                problems.push(Problem {
                    field: "spec.expiration".into(),
                    message: "must be a time as in RFC 3339, for example 2027-01-31T12:00:00Z"
                        .into(),
                });
                Self::AsIs
            },
            Self::At,
        )
    }

    /// What to tell Garage about a key or token that ends at `present`: the time, or that it never ends.
    pub(crate) fn change(self, present: Option<Timestamp>) -> (Option<String>, bool) {
        match self {
            Self::AsIs => (None, false),
            Self::Never => (None, present.is_some()),
            Self::At(time) if present == Some(time) => (None, false),
            Self::At(time) => (Some(time.to_string()), false),
        }
    }
}

/// Key material that exists already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Import {
    /// In the object itself.
    Inline(Material),
    /// In a Secret of the object's namespace, under `access-key-id` and `secret-access-key`.
    Secret(String),
}

/// An access key id and its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    /// Access key id.
    pub id: String,
    /// Secret access key.
    pub secret: Redacted<String>,
}

/// A bucket that the key may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub bucket: Bucket,
    /// How.
    pub rights: BucketPermissions,
}

/// How a bucket is named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bucket {
    /// By a GarageBucket of the object's namespace.
    Object(String),
    /// By its id.
    Id(String),
    /// By its name for all keys.
    Alias(String),
}

impl std::fmt::Display for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Object(name) => write!(f, "GarageBucket {name}"),
            Self::Id(id) => write!(f, "bucket {id}"),
            Self::Alias(alias) => write!(f, "bucket {alias}"),
        }
    }
}

/// How often a key is replaced. Seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// Age at which it is replaced.
    pub interval: i64,
    /// How long the replaced one still works.
    pub overlap: i64,
}

/// How the Secret looks.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// Its name.
    pub name: String,
    /// The rest.
    pub template: KeySecretTemplate,
}

impl Desired {
    /// Reads the object.
    ///
    /// # Errors
    /// Everything in it that cannot be done, each with its field.
    pub fn parse(object: &GarageKey) -> Result<Self, Vec<Problem>> {
        let (meta, spec) = (&object.metadata, &object.spec);
        let key = ClusterKey {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        };
        let mut problems = Vec::new();
        let expiry = Expiry::parse(
            spec.expiration.as_deref(),
            spec.never_expires,
            &mut problems,
        );
        let template = spec.secret_template.clone().unwrap_or_default();
        let elsewhere = |given: Option<&String>| {
            given.is_some_and(|given| !given.is_empty() && *given != key.namespace)
        };
        let mut own = |field: &str, given: Option<&String>| {
            if elsewhere(given) {
                let message = "must be the object's own namespace, or absent".to_owned();
                problems.push(Problem {
                    field: field.to_owned(),
                    message,
                });
            }
        };
        own("spec.secretTemplate.namespace", template.namespace.as_ref());
        let reference = spec
            .import_key
            .as_ref()
            .and_then(|import| import.secret_ref.as_ref());
        own(
            "spec.importKey.secretRef.namespace",
            reference.and_then(|r| r.namespace.as_ref()),
        );
        let desired = Self {
            uid: meta.uid.clone().unwrap_or_default(),
            absent: meta.deletion_timestamp.is_some(),
            cluster: tenant::target(&spec.cluster_ref, &key.namespace),
            name: spec.name.clone().unwrap_or_else(|| key.name.clone()),
            expiry,
            create_bucket: spec
                .permissions
                .is_some_and(|permissions| permissions.create_bucket),
            import: import(object, &mut problems),
            buckets: buckets(object, &mut problems),
            rotation: rotation(object, &mut problems),
            secret: Template {
                name: template.name.clone().unwrap_or_else(|| key.name.clone()),
                template,
            },
            key,
        };
        // What goes is cleaned up by what is left of it, however wrong its fields are.
        if problems.is_empty() || desired.absent {
            Ok(desired)
        } else {
            Err(problems)
        }
    }

    /// How long a replaced key still works. Seconds.
    pub(super) fn overlap(&self) -> i64 {
        self.rotation.map_or(OVERLAP, |rotation| rotation.overlap)
    }
}

fn import(object: &GarageKey, problems: &mut Vec<Problem>) -> Option<Import> {
    let import = object.spec.import_key.as_ref()?;
    if let Some(reference) = &import.secret_ref {
        return Some(Import::Secret(reference.name.clone().unwrap_or_default()));
    }
    match (
        import.access_key_id.clone(),
        import.secret_access_key.clone(),
    ) {
        (Some(id), Some(secret)) => Some(Import::Inline(Material {
            id,
            secret: Redacted::new(secret),
        })),
        (_, _) => {
            problems.push(Problem {
                field: "spec.importKey".into(),
                message: "needs either secretRef, or accessKeyId and secretAccessKey".into(),
            });
            None
        }
    }
}

fn buckets(object: &GarageKey, problems: &mut Vec<Problem>) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for (index, one) in object.spec.bucket_permissions.iter().enumerate() {
        let rights = bucket::permissions(one.rights());
        let bucket = match (&one.bucket_ref, &one.bucket_id, &one.global_alias) {
            (Some(name), None, None) => Bucket::Object(name.clone()),
            (None, Some(id), None) => Bucket::Id(id.clone()),
            (None, None, Some(alias)) => Bucket::Alias(alias.clone()),
            (_, _, _) => {
                problems.push(Problem {
                    field: format!("spec.bucketPermissions[{index}]"),
                    message: "needs exactly one of bucketRef, bucketId and globalAlias".into(),
                });
                continue;
            }
        };
        wanted.push(Wanted { bucket, rights });
    }
    wanted
}

fn rotation(object: &GarageKey, problems: &mut Vec<Problem>) -> Option<Interval> {
    let rotation = object.spec.rotation.as_ref()?;
    let mut read = |field: &str, text: &str| {
        let seconds = seconds(text);
        if seconds.is_none() {
            problems.push(Problem {
                field: format!("spec.rotation.{field}"),
                message: "must be a duration of hours, minutes and seconds, for example 720h"
                    .into(),
            });
        }
        seconds
    };
    let interval = read("interval", &rotation.interval)?;
    let overlap = match &rotation.overlap {
        Some(text) => read("overlap", text)?,
        None => OVERLAP.min(interval / 2),
    };
    if object.spec.import_key.is_some() || interval < 60 || overlap >= interval {
        problems.push(Problem {
            field: "spec.rotation".into(),
            message: "needs an interval of 1m or more, an overlap below it, and no importKey"
                .into(),
        });
    }
    Some(Interval { interval, overlap })
}

/// The seconds of a Go duration of hours, minutes and seconds.
fn seconds(text: &str) -> Option<i64> {
    let mut total: i64 = 0;
    let mut number = String::new();
    let mut units = "hms".chars();
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        // In this order, each once.
        units.by_ref().find(|unit| *unit == c)?;
        let factor = match c {
            'h' => 3600,
            'm' => 60,
            _ => 1,
        };
        let value: i64 = std::mem::take(&mut number).parse().ok()?;
        total = total.checked_add(value.checked_mul(factor)?)?;
    }
    (number.is_empty() && !text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, want) in [
            ("720h", Some(720 * 3600)),
            ("1h30m", Some(5400)),
            ("90s", Some(90)),
            ("1m1s", Some(61)),
            ("", None),
            ("5", None),
            ("1m1h", None),
            ("1d", None),
            ("h", None),
        ] {
            assert_eq!(seconds(text), want, "{text}");
        }
    }
}
