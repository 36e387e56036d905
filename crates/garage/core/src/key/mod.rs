//! What one GarageKey needs next: [`plan`] is the whole decision, facts in, steps and a verdict out. May
//! not read or write anything, and knows the time only as a fact.
//!
//! The ids of a GarageKey's access keys follow from its UID and a number; their secrets are random and
//! stay in Garage, which tells them at any time. So the Secret is a copy that can be made anew, and a
//! process that dies at any point leaves keys that the next one recognises. Rights on buckets of
//! GarageBuckets are set with those (`crate::bucket`); on other buckets here.

mod desired;
mod observed;
pub mod secret;
mod status;
#[cfg(test)]
mod world;

pub use desired::{Bucket, Desired, Expiry, Import, Interval, Material, Template, Wanted};
pub use observed::{Access, Live, Observed, SecretSeen, Taken, Target, access_key_id, number_of};
pub use status::report;

use crate::admin::{BucketPermissions, KeyChange, KeyPermissions};
use crate::bucket::{is_none, minus, union};
use crate::cluster::Problem;
use crate::tenant::{Asker, Closed, Gate};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// One effect on the world outside.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Adds our finalizer, before anything exists that it has to clean up.
    AddFinalizer,
    /// Removes it.
    RemoveFinalizer,
    /// `ImportKey` of the access key with this number; of the next ones, while Garage says that the id
    /// was used before.
    Create {
        /// The first number to try.
        number: u32,
        /// Its secret is still in our Secret: clients go on as before.
        known: bool,
    },
    /// `ImportKey` of the key that is given.
    Import,
    /// `UpdateKey`.
    Update(String, KeyChange),
    /// `AllowBucketKey`: access key, bucket.
    Allow(String, String, BucketPermissions),
    /// `DenyBucketKey`: access key, bucket.
    Deny(String, String, BucketPermissions),
    /// Puts this access key into the Secret.
    Publish(String),
    /// Deletes a Secret of ours.
    DeleteSecret(String),
    /// `DeleteKey`.
    Delete(String),
}

/// What the Secret should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Access key id.
    pub id: String,
    /// Since when it is in the Secret.
    pub since: Timestamp,
    /// Name of the only bucket.
    pub bucket: Option<String>,
}

/// Why a key is not ready yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// The cluster cannot be asked.
    Cluster(Closed),
    /// The key material that is to be imported cannot be read, and why.
    Material(String),
    /// It is being created.
    Creating,
    /// It is being changed.
    Changing,
    /// GarageBuckets have not given it these rights yet.
    Rights(Vec<String>),
    /// It goes.
    Deleting,
}

/// Why a key will not be ready until somebody changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The object cannot be done.
    Invalid(Vec<Problem>),
    /// There is a Secret of that name that is not ours.
    SecretTaken(String),
    /// The id that is to be imported is somebody else's.
    IdTaken(Taken),
}

/// How the key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As asked.
    Ready,
    /// As asked, and its time has come.
    Expired,
    /// On its way.
    Waiting(Wait),
    /// Not before somebody acts.
    Refused(Refusal),
}

/// What comes next, and how the key is until then.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// What the Secret should say after them; `None`: it is left as it is.
    pub secret: Option<Published>,
    /// How the key is.
    pub verdict: Verdict,
    /// Buckets that are asked for and left out, each with the reason.
    pub left_out: BTreeMap<String, String>,
    /// When there is something to do although nothing changes.
    pub wake: Option<Timestamp>,
}

impl Plan {
    fn new(steps: Vec<Step>, verdict: Verdict) -> Self {
        Self {
            steps,
            secret: None,
            verdict,
            left_out: BTreeMap::new(),
            wake: None,
        }
    }

    fn waiting(steps: Vec<Step>, wait: Wait) -> Self {
        Self::new(steps, Verdict::Waiting(wait))
    }
}

/// Decides what one key needs next.
#[must_use]
pub fn plan(desired: &Desired, seen: &Observed) -> Plan {
    if desired.absent && !seen.finalizer {
        return Plan::waiting(Vec::new(), Wait::Deleting);
    }
    let gate = seen.home.gate(Asker {
        kind: "GarageKey",
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
        let live = match &seen.taken {
            None => seen.live.as_slice(),
            Some(_) => &[],
        };
        let mut steps: Vec<Step> = live
            .iter()
            .map(|key| Step::Delete(key.id.clone()))
            .collect();
        if steps.is_empty() && seen.listed {
            steps.push(Step::RemoveFinalizer);
        }
        return Plan::waiting(steps, Wait::Deleting);
    }
    if !seen.finalizer {
        return Plan::waiting(vec![Step::AddFinalizer], Wait::Creating);
    }
    if seen.secret == SecretSeen::Foreign {
        let refusal = Refusal::SecretTaken(desired.secret.name.clone());
        return Plan::new(Vec::new(), Verdict::Refused(refusal));
    }
    if let Some(taken) = &seen.taken {
        return Plan::new(
            Vec::new(),
            Verdict::Refused(Refusal::IdTaken(taken.clone())),
        );
    }
    match seen.live.last() {
        Some(newest) => converge(desired, seen, newest),
        None => create(desired, seen),
    }
}

/// The number and the id in the Secret.
fn published(seen: &Observed) -> Option<&String> {
    match &seen.secret {
        SecretSeen::Ours { id, .. } => id.as_ref(),
        SecretSeen::Missing | SecretSeen::Foreign => None,
    }
}

fn create(desired: &Desired, seen: &Observed) -> Plan {
    if desired.import.is_some() {
        return match &seen.given {
            Some(Ok(_)) => Plan::waiting(vec![Step::Import], Wait::Creating),
            Some(Err(why)) => Plan::waiting(Vec::new(), Wait::Material(why.clone())),
            None => Plan::waiting(Vec::new(), Wait::Material("it was not read".into())),
        };
    }
    let number = seen.last.unwrap_or(0);
    let known = published(seen).is_some_and(|id| *id == access_key_id(&desired.uid, number));
    Plan::waiting(vec![Step::Create { number, known }], Wait::Creating)
}

fn converge(desired: &Desired, seen: &Observed, newest: &Live) -> Plan {
    let mut plan = Plan::new(Vec::new(), Verdict::Ready);
    let current = published(seen).and_then(|id| seen.live.iter().find(|key| key.id == *id));
    for key in &seen.live {
        update(desired, key, &mut plan.steps);
        rights(desired, seen, key, &mut plan.steps);
    }
    let pending = targets(desired, seen, newest, &mut plan);
    // A successor is published once it can do all that its predecessor can.
    let behind = current.is_some_and(|current| current.id != newest.id && !covers(current, newest));
    let shown = current.filter(|_| behind).unwrap_or(newest);
    let since = match &seen.secret {
        SecretSeen::Ours {
            id: Some(id),
            since,
            ..
        } if *id == shown.id => since.or(shown.created),
        SecretSeen::Ours { .. } | SecretSeen::Missing | SecretSeen::Foreign => None,
    };
    match &seen.secret {
        SecretSeen::Ours {
            type_matches: false,
            ..
        } => {
            plan.steps
                .push(Step::DeleteSecret(desired.secret.name.clone()));
        }
        _ if published(seen) != Some(&shown.id) => plan.steps.push(Step::Publish(shown.id.clone())),
        SecretSeen::Ours { .. } | SecretSeen::Missing | SecretSeen::Foreign => {}
    }
    plan.secret = Some(Published {
        id: shown.id.clone(),
        since: since.unwrap_or(seen.now),
        bucket: only_bucket(desired, seen, shown),
    });
    let settled = published(seen) == Some(&newest.id);
    if settled {
        plan.steps
            .extend(seen.stale_secrets.iter().cloned().map(Step::DeleteSecret));
        retire(desired, seen, newest, since.unwrap_or(seen.now), &mut plan);
        rotate(desired, seen, newest, &mut plan);
    }
    plan.verdict = match (plan.steps.is_empty(), pending.is_empty() && !behind) {
        (false, _) => Verdict::Waiting(Wait::Changing),
        (true, false) => Verdict::Waiting(Wait::Rights(pending)),
        (true, true) if newest.expired => Verdict::Expired,
        (true, true) => Verdict::Ready,
    };
    plan
}

/// Everything that the older one can do, the newer one can do too.
fn covers(older: &Live, newer: &Live) -> bool {
    older.buckets.iter().all(|(id, access)| {
        let other = newer.buckets.get(id).cloned().unwrap_or_default();
        let names = access
            .local_aliases
            .iter()
            .all(|name| other.local_aliases.contains(name));
        is_none(minus(access.rights, other.rights)) && names
    })
}

fn update(desired: &Desired, key: &Live, steps: &mut Vec<Step>) {
    let (expiration, never_expires) = desired.expiry.change(key.expiration);
    let create = KeyPermissions {
        create_bucket: true,
    };
    let change = KeyChange {
        name: (key.name != desired.name).then(|| desired.name.clone()),
        expiration,
        never_expires,
        allow: (desired.create_bucket && !key.create_bucket).then_some(create),
        deny: (!desired.create_bucket && key.create_bucket).then_some(create),
    };
    if change != KeyChange::default() {
        steps.push(Step::Update(key.id.clone(), change));
    }
}

/// What is asked for, by the id of the bucket.
fn wanted(desired: &Desired, seen: &Observed) -> BTreeMap<String, BucketPermissions> {
    let mut wanted: BTreeMap<String, BucketPermissions> = BTreeMap::new();
    for (one, target) in desired.buckets.iter().zip(&seen.targets) {
        if let Target::Bucket { id, .. } = target {
            let rights = wanted.entry(id.clone()).or_default();
            *rights = union(*rights, one.rights);
        }
    }
    wanted
}

/// Rights on buckets that no GarageBucket stands for: exactly those that are asked for. A key that may
/// create buckets owns what it has created.
fn rights(desired: &Desired, seen: &Observed, key: &Live, steps: &mut Vec<Step>) {
    let wanted = wanted(desired, seen);
    for (bucket, rights) in &wanted {
        let present = key
            .buckets
            .get(bucket)
            .map(|access| access.rights)
            .unwrap_or_default();
        let more = minus(*rights, present);
        if !seen.managed.contains_key(bucket) && !is_none(more) {
            steps.push(Step::Allow(key.id.clone(), bucket.clone(), more));
        }
    }
    for (bucket, access) in &key.buckets {
        let named = wanted.get(bucket);
        let less = minus(access.rights, named.copied().unwrap_or_default());
        let its_own = desired.create_bucket && named.is_none();
        if !seen.managed.contains_key(bucket) && !its_own && !is_none(less) {
            steps.push(Step::Deny(key.id.clone(), bucket.clone(), less));
        }
    }
}

/// Notes what is left out; returns what GarageBuckets have not given yet.
fn targets(desired: &Desired, seen: &Observed, newest: &Live, plan: &mut Plan) -> Vec<String> {
    let mut pending = Vec::new();
    for (one, target) in desired.buckets.iter().zip(&seen.targets) {
        let name = one.bucket.to_string();
        let why = match target {
            Target::Bucket { id, .. } => {
                let present = newest.buckets.get(id).map(|access| access.rights);
                let missing = minus(one.rights, present.unwrap_or_default());
                if seen.managed.contains_key(id) && !is_none(missing) {
                    pending.push(name);
                }
                continue;
            }
            // It is being made; until then the Secret has no name of a bucket.
            Target::NotYet => {
                pending.push(name);
                continue;
            }
            Target::Missing => "does not exist".to_owned(),
            Target::NotGranted(owner) => {
                format!(
                    "belongs to GarageBucket {owner}, whose namespace does not grant its use to GarageKeys of this one"
                )
            }
            Target::Elsewhere => "is in another cluster".to_owned(),
        };
        plan.left_out.insert(name, why);
    }
    pending
}

/// The name of the bucket, if there is only one.
fn only_bucket(desired: &Desired, seen: &Observed, key: &Live) -> Option<String> {
    if let ([one], [target]) = (desired.buckets.as_slice(), seen.targets.as_slice()) {
        return match (target, &one.bucket) {
            (_, Bucket::Alias(alias)) => Some(alias.clone()),
            (Target::Bucket { id, alias }, Bucket::Object(_) | Bucket::Id(_)) => {
                let local = key
                    .buckets
                    .get(id)
                    .and_then(|access| access.local_aliases.first());
                Some(alias.as_ref().or(local).unwrap_or(id).clone())
            }
            (_, _) => None,
        };
    }
    let mut usable = key
        .buckets
        .iter()
        .filter(|(_, access)| !is_none(access.rights));
    let (id, access) = usable.next()?;
    let name = access
        .aliases
        .first()
        .or(access.local_aliases.first())
        .unwrap_or(id);
    (usable.next().is_none() && desired.buckets.is_empty()).then(|| name.clone())
}

/// Replaced keys end when their overlap does.
fn retire(desired: &Desired, seen: &Observed, newest: &Live, since: Timestamp, plan: &mut Plan) {
    let end = after(since, desired.overlap());
    for key in seen.live.iter().filter(|key| key.id != newest.id) {
        match seen.now >= end {
            true => plan.steps.push(Step::Delete(key.id.clone())),
            false => plan.wake = Some(end),
        }
    }
}

fn rotate(desired: &Desired, seen: &Observed, newest: &Live, plan: &mut Plan) {
    let Some((rotation, created)) = desired.rotation.zip(newest.created) else {
        return;
    };
    let Some(number) = newest.number else { return };
    let due = after(created, rotation.interval);
    // One after the other: at most two keys are valid.
    let alone = seen.live.len() == 1;
    if seen.now >= due && alone && plan.steps.is_empty() {
        plan.steps.push(Step::Create {
            number: number.saturating_add(1),
            known: false,
        });
    } else if seen.now < due {
        plan.wake = Some(plan.wake.map_or(due, |wake| wake.min(due)));
    }
}

fn after(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}
