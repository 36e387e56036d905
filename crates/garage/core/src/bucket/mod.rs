//! What one GarageBucket needs next: [`plan`] is the whole decision, facts in, steps and a verdict out.
//! May not read or write anything.
//!
//! A bucket is created under an alias that is made of the object's UID, and loses it once the bucket is
//! recorded and has a name: whatever step a process dies after, the next one finds the bucket, and knows
//! whether it is one of ours. Rights of GarageKeys on the bucket are set here and nowhere else, also those
//! that a GarageKey asks for; keys that no GarageKey stands for are left alone.

mod desired;
mod observed;
mod status;
#[cfg(test)]
mod world;

pub use desired::{Desired, Documents, permissions, reservation};
pub(crate) use desired::{is_none, minus, union};
pub use observed::{Key, Observed, Rival};
pub use status::{Usage, report};

use crate::admin::{
    BucketAlias, BucketInfo, BucketPermissions, BucketUpdate, GarageVersion, LifecycleRule,
    WebsiteAccess,
};
use crate::api::DeletionPolicy;
use crate::cluster::{ClusterKey, Problem};
use crate::tenant::{Asker, Closed, Gate};
use std::collections::{BTreeMap, BTreeSet};

/// One effect on the world outside.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Adds our finalizer, before anything exists that it has to clean up.
    AddFinalizer,
    /// Removes it.
    RemoveFinalizer,
    /// `CreateBucket` with this global alias.
    Create(String),
    /// Tells the id in the status: from then on the bucket is this object's. Written with the status of the
    /// round, so there is nothing else to do.
    Record(String),
    /// `AddBucketAlias`.
    AddAlias(BucketAlias),
    /// `RemoveBucketAlias`.
    RemoveAlias(BucketAlias),
    /// `UpdateBucket`.
    Update(BucketUpdate),
    /// `AllowBucketKey`.
    Allow(String, BucketPermissions),
    /// `DenyBucketKey`.
    Deny(String, BucketPermissions),
    /// `DeleteBucket`.
    Delete,
}

/// Why a bucket is not ready yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// The cluster cannot be asked.
    Cluster(Closed),
    /// It is being created.
    Creating,
    /// It is being changed.
    Changing,
    /// It goes.
    Deleting,
    /// It goes once it is empty.
    NotEmpty {
        /// Objects.
        objects: i64,
        /// Bytes of them.
        bytes: i64,
        /// Uploads that have not ended.
        uploads: i64,
    },
}

/// Why a bucket will not be ready until somebody changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The object cannot be done.
    Invalid(Vec<Problem>),
    /// The bucket is another object's.
    Managed(ClusterKey),
    /// A bucket of this name exists, and nobody has said that it may be taken over.
    Exists(String),
    /// Another bucket has the global alias.
    AliasTaken {
        /// The alias.
        alias: String,
        /// Whose it is.
        holder: String,
    },
    /// Garage is too old for these fields.
    Unsupported(Vec<&'static str>),
}

/// How the bucket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As asked.
    Ready,
    /// On its way.
    Waiting(Wait),
    /// Not before somebody acts.
    Refused(Refusal),
}

/// What comes next, and how the bucket is until then.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// How the bucket is.
    pub verdict: Verdict,
    /// GarageKeys that are named and cannot be given anything, each with the reason.
    pub missing_keys: BTreeMap<String, &'static str>,
}

impl Plan {
    fn new(steps: Vec<Step>, verdict: Verdict) -> Self {
        Self {
            steps,
            verdict,
            missing_keys: BTreeMap::new(),
        }
    }

    fn waiting(steps: Vec<Step>, wait: Wait) -> Self {
        Self::new(steps, Verdict::Waiting(wait))
    }
}

/// Decides what one bucket needs next.
#[must_use]
pub fn plan(desired: &Desired, seen: &Observed) -> Plan {
    if desired.absent && !seen.finalizer {
        return Plan::waiting(Vec::new(), Wait::Deleting);
    }
    let gate = seen.home.gate(Asker {
        kind: "GarageBucket",
        namespace: &desired.key.namespace,
        cluster: &desired.cluster,
        absent: desired.absent,
        namespace_ends: seen.namespace_ends,
    });
    match gate {
        Gate::Open => {}
        Gate::Release => return Plan::waiting(vec![Step::RemoveFinalizer], Wait::Deleting),
        Gate::Closed(closed) => return Plan::waiting(Vec::new(), Wait::Cluster(closed)),
    }
    if desired.absent {
        return absent(desired, seen);
    }
    if !seen.finalizer {
        return Plan::waiting(vec![Step::AddFinalizer], Wait::Creating);
    }
    if let Some(rival) = owner(desired, seen) {
        return Plan::new(Vec::new(), Verdict::Refused(Refusal::Managed(rival)));
    }
    match &seen.bucket {
        None => Plan::waiting(vec![Step::Create(desired.reservation())], Wait::Creating),
        // Whoever guesses a name must not get the data of somebody who made the bucket by hand.
        Some(bucket) if !desired.adopt && !is_ours(desired, seen, bucket) => {
            let refusal = Refusal::Exists(bucket.id.clone());
            Plan::new(Vec::new(), Verdict::Refused(refusal))
        }
        Some(bucket) => converge(desired, seen, bucket),
    }
}

/// Whether the bucket was made by this object, or taken over and recorded.
fn is_ours(desired: &Desired, seen: &Observed, bucket: &BucketInfo) -> bool {
    seen.recorded.as_ref() == Some(&bucket.id)
        || bucket.global_aliases.contains(&desired.reservation())
}

/// The object that has the bucket, if it is not this one. Of two the older one has it.
fn owner(desired: &Desired, seen: &Observed) -> Option<ClusterKey> {
    let ours = seen
        .bucket
        .as_ref()
        .is_some_and(|bucket| is_ours(desired, seen, bucket));
    let rival = seen.rivals.iter().find(|rival| match ours {
        true => rival.manages && rival.older,
        false => rival.manages || rival.older,
    });
    rival.map(|rival| rival.key.clone())
}

fn absent(desired: &Desired, seen: &Observed) -> Plan {
    let release = || Plan::waiting(vec![Step::RemoveFinalizer], Wait::Deleting);
    let Some(bucket) = &seen.bucket else {
        return release();
    };
    let ours = is_ours(desired, seen, bucket) && owner(desired, seen).is_none();
    if !ours {
        return release();
    }
    let stays = match desired.policy {
        Some(DeletionPolicy::Retain) => true,
        Some(DeletionPolicy::Delete) => false,
        // What was there before the object is there after it.
        None => seen.adopted,
    };
    if stays {
        return retain(desired, bucket);
    }
    if bucket.objects == 0 && !seen.not_empty {
        return Plan::waiting(vec![Step::Delete], Wait::Deleting);
    }
    // Nothing of a namespace that ends can be changed any more, so waiting would be for ever. Data stays.
    if seen.namespace_ends {
        return retain(desired, bucket);
    }
    let wait = Wait::NotEmpty {
        objects: bucket.objects,
        bytes: bucket.bytes,
        uploads: bucket.unfinished_uploads,
    };
    Plan::waiting(Vec::new(), wait)
}

/// The bucket stays, under the names that a person would look for.
fn retain(desired: &Desired, bucket: &BucketInfo) -> Plan {
    let mut steps = Vec::new();
    let reservation = desired.reservation();
    if names(bucket).len() > 1 && bucket.global_aliases.contains(&reservation) {
        steps.push(Step::RemoveAlias(global(&reservation)));
    }
    steps.push(Step::RemoveFinalizer);
    Plan::waiting(steps, Wait::Deleting)
}

fn global(alias: &str) -> BucketAlias {
    BucketAlias::Global {
        global_alias: alias.to_owned(),
    }
}

fn local(key: &str, alias: &str) -> BucketAlias {
    BucketAlias::Local {
        local_alias: alias.to_owned(),
        access_key_id: key.to_owned(),
    }
}

/// All names of a bucket.
fn names(bucket: &BucketInfo) -> BTreeSet<BucketAlias> {
    let globals = bucket.global_aliases.iter().map(|alias| global(alias));
    let locals = bucket.keys.iter().flat_map(|key| {
        key.bucket_local_aliases
            .iter()
            .map(|alias| local(&key.access_key_id, alias))
    });
    globals.chain(locals).collect()
}

fn converge(desired: &Desired, seen: &Observed, bucket: &BucketInfo) -> Plan {
    let mut steps = Vec::new();
    let mut refusal = None;
    let missing = missing(desired, seen);
    // Rights are given on a recorded bucket alone: GarageKeys recognise by it whose task that is.
    let recorded = seen.recorded.as_ref() == Some(&bucket.id);
    if !recorded {
        let mut plan = Plan::waiting(vec![Step::Record(bucket.id.clone())], Wait::Creating);
        plan.missing_keys = missing;
        return plan;
    }
    let present = names(bucket);
    let mut wanted: BTreeSet<BucketAlias> = BTreeSet::new();
    if let Some(alias) = &desired.global_alias {
        match &seen.alias_holder {
            Some(holder) if *holder != bucket.id => {
                let alias = alias.clone();
                refusal = Some(Refusal::AliasTaken {
                    alias,
                    holder: holder.clone(),
                });
            }
            Some(_) | None => {
                wanted.insert(global(alias));
            }
        }
    }
    for (key, alias) in &desired.local_aliases {
        wanted.extend(ids(desired, seen, key).map(|id| local(id, alias)));
    }
    steps.extend(wanted.difference(&present).cloned().map(Step::AddAlias));
    let unsupported = settings(desired, bucket, seen.version, &mut steps);
    if !unsupported.is_empty() {
        refusal.get_or_insert(Refusal::Unsupported(unsupported));
    }
    rights(desired, seen, bucket, &mut steps);
    let former = seen.former_alias.iter().map(|alias| global(alias));
    let former = former.chain(
        seen.former_locals
            .iter()
            .map(|(id, alias)| local(id, alias)),
    );
    let former = former.chain([global(&desired.reservation())]);
    let surplus: BTreeSet<BucketAlias> = former
        .filter(|alias| present.contains(alias) && !wanted.contains(alias))
        .collect();
    // Garage keeps the last name; and a name that is only planned may fail to come.
    if surplus.len() < present.len() {
        steps.extend(surplus.into_iter().map(Step::RemoveAlias));
    }
    let verdict = match refusal {
        Some(refusal) => Verdict::Refused(refusal),
        None if steps.is_empty() => Verdict::Ready,
        None => Verdict::Waiting(Wait::Changing),
    };
    Plan {
        steps,
        verdict,
        missing_keys: missing,
    }
}

/// The access keys of a GarageKey of the bucket's namespace.
fn ids<'a>(
    desired: &'a Desired,
    seen: &'a Observed,
    name: &'a str,
) -> impl Iterator<Item = &'a String> {
    let named = move |key: &&Key| {
        key.here && key.key.name == name && key.key.namespace == desired.key.namespace
    };
    seen.keys.iter().filter(named).flat_map(|key| &key.ids)
}

/// GarageKeys that are named and cannot be given anything.
fn missing(desired: &Desired, seen: &Observed) -> BTreeMap<String, &'static str> {
    let named = desired
        .grants
        .keys()
        .chain(desired.local_aliases.iter().map(|(key, _)| key));
    let mut missing = BTreeMap::new();
    for name in named {
        let found = seen
            .keys
            .iter()
            .find(|key| key.key.name == *name && key.key.namespace == desired.key.namespace);
        let why = match found {
            None => "does not exist",
            Some(key) if !key.here => "is a key of another cluster",
            Some(key) if key.ids.is_empty() => "has no access key yet",
            Some(_) => continue,
        };
        missing.insert(name.clone(), why);
    }
    missing
}

/// Brings the settings in line; returns the fields that this Garage does not know.
fn settings(
    desired: &Desired,
    bucket: &BucketInfo,
    version: Option<GarageVersion>,
    steps: &mut Vec<Step>,
) -> Vec<&'static str> {
    let mut update = BucketUpdate::default();
    let mut unsupported = Vec::new();
    if bucket.quotas != desired.quotas {
        update.quotas = Some(desired.quotas);
    }
    let config = bucket
        .website_config
        .as_ref()
        .filter(|_| bucket.website_access);
    let present = config.map(|config| Documents {
        index: config.index_document.clone(),
        error: config.error_document.clone(),
    });
    if present != desired.website || bucket.website_access != desired.website.is_some() {
        let website = desired.website.clone();
        update.website_access = Some(WebsiteAccess {
            enabled: website.is_some(),
            error_document: website.as_ref().and_then(|website| website.error.clone()),
            index_document: website.map(|website| website.index),
            // Rules that were made through S3 stay: the object has no field for them.
            routing_rules: config
                .filter(|_| desired.website.is_some())
                .and_then(|c| c.routing_rules.clone()),
        });
    }
    let normal = |rules: &[LifecycleRule]| -> Vec<LifecycleRule> {
        rules.iter().map(desired::normal).collect()
    };
    let lifecycle = bucket.lifecycle_rules.as_deref().unwrap_or_default();
    if normal(lifecycle) != normal(&desired.lifecycle) {
        match version {
            Some(version) if !version.supports_lifecycle() => unsupported.push("spec.lifecycle"),
            Some(_) | None => update.lifecycle_rules = Some(desired.lifecycle.clone()),
        }
    }
    if bucket.cors_rules.as_deref().unwrap_or_default() != desired.cors {
        match version {
            Some(version) if !version.supports_cors() => unsupported.push("spec.cors"),
            Some(_) | None => update.cors_rules = Some(desired.cors.clone()),
        }
    }
    if update != BucketUpdate::default() {
        steps.push(Step::Update(update));
    }
    unsupported
}

/// What every access key of a GarageKey should be allowed: what the bucket says, and what the key asks for.
fn rights(desired: &Desired, seen: &Observed, bucket: &BucketInfo, steps: &mut Vec<Step>) {
    for key in seen.keys.iter().filter(|key| key.here) {
        let named = (key.key.namespace == desired.key.namespace)
            .then(|| desired.grants.get(&key.key.name).copied())
            .flatten();
        let wanted = union(named.unwrap_or_default(), key.wants);
        for id in &key.ids {
            let present = bucket.keys.iter().find(|one| one.access_key_id == *id);
            let present = present.map(|one| one.permissions).unwrap_or_default();
            let (more, less) = (minus(wanted, present), minus(present, wanted));
            if !is_none(more) {
                steps.push(Step::Allow(id.clone(), more));
            }
            if !is_none(less) {
                steps.push(Step::Deny(id.clone(), less));
            }
        }
    }
}
