//! Drives one GarageKey: observe → plan → apply → status. May not decide: the plan is
//! `gatewright_garage::key`'s.

mod apply;
mod observe;

pub(crate) use observe::secrets_of;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::home::{Marks, concerns, place};
use crate::operator::Operator;
use crate::refusal::{refuse, warn};
use crate::watches::Watches;
use gatewright_controller::{Next, Watched, runner};
use gatewright_garage::api::{GarageBucket, GarageCluster, GarageKey};
use gatewright_garage::key::{Desired, Plan, Refusal, Step, Verdict, plan, report};
use gatewright_garage::tenant;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How soon a key at rest is looked at again: somebody may have deleted it in Garage.
const REST: Duration = Duration::from_secs(300);
/// Rounds before others get their turn.
const ROUNDS: usize = 16;

/// What reconciliations of keys share.
struct Keys {
    operator: Arc<Operator>,
    keys: Watched<GarageKey>,
    buckets: Watched<GarageBucket>,
    clusters: Watched<GarageCluster>,
    clock: Clock,
}

/// Reconciles GarageKeys until `cancel`.
pub fn run(
    operator: Arc<Operator>,
    watches: &Watches,
    clock: Clock,
    cancel: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let shared = Arc::new(Keys {
        operator: operator.clone(),
        keys: watches.keys.clone(),
        buckets: watches.buckets.clone(),
        clusters: watches.clusters.clone(),
        clock,
    });
    let (of_buckets, of_clusters, marks) = (shared.clone(), shared.clone(), Marks::default());
    let controller = watches
        .keys
        .controller()
        .owns_shared_stream(watches.secrets.subscribe())
        .watches_shared_stream(watches.buckets.changes().subscribe(), move |bucket| {
            of_buckets.of_bucket(&bucket)
        })
        .watches_shared_stream(watches.clusters.changes().subscribe(), move |cluster| {
            of_clusters.of_cluster(&cluster, marks.is_new(&cluster))
        });
    let metrics = operator.ctx.metrics().clone();
    let reconcile = move |key: Arc<GarageKey>| {
        let shared = shared.clone();
        async move { Box::pin(shared.reconcile(&key)).await }
    };
    let settings = runner::Settings::new("garagekey");
    runner::run(
        controller,
        settings,
        metrics,
        cancel,
        Error::category,
        reconcile,
    )
}

impl Keys {
    /// The keys that ask for a bucket, and those that it names and that wait.
    fn of_bucket(&self, bucket: &GarageBucket) -> Vec<ObjectRef<GarageKey>> {
        let at = place(bucket);
        let status = bucket.status.clone().unwrap_or_default();
        let concerns = |key: &GarageKey| {
            let near = key.namespace().as_deref() == Some(&at.namespace);
            let asked = key.spec.bucket_permissions.iter().any(|one| {
                near && one.bucket_ref.as_deref() == Some(&at.name)
                    || one.bucket_id.is_some() && one.bucket_id == status.bucket_id
                    || one.global_alias.is_some() && one.global_alias == status.global_alias
            });
            let named = near
                && bucket
                    .spec
                    .key_permissions
                    .iter()
                    .any(|one| one.key_ref == key.name_any());
            asked || named
        };
        let keys = self.keys.all();
        keys.iter()
            .filter(|key| concerns(key))
            .map(|key| ObjectRef::from_obj(&**key))
            .collect()
    }

    fn of_cluster(&self, cluster: &GarageCluster, new: bool) -> Vec<ObjectRef<GarageKey>> {
        let concerns = |key: &GarageKey| {
            let namespace = key.namespace().unwrap_or_default();
            let target = tenant::target(&key.spec.cluster_ref, &namespace);
            let phase = key
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            (new || phase != Some("Ready")) && concerns(&self.clusters, cluster, &target)
        };
        let keys = self.keys.all();
        keys.iter()
            .filter(|key| concerns(key))
            .map(|key| ObjectRef::from_obj(&**key))
            .collect()
    }

    async fn reconcile(&self, key: &GarageKey) -> Result<Next> {
        let operator = &self.operator;
        let at = place(key);
        let name = format!("GarageKey {at}");
        self.buckets.ready().await;
        self.clusters.ready().await;
        // What the runner hands over may be older than our own last write.
        let fresh: Option<GarageKey> = operator.ctx.get_opt(Some(&at.namespace), &at.name).await?;
        let uid = key.metadata.uid.clone();
        let Some(mut key) = fresh.filter(|fresh| fresh.metadata.uid == uid) else {
            operator.rests(&name);
            return Ok(Next::Settled);
        };
        let desired = match Desired::parse(&key) {
            Ok(desired) => desired,
            Err(problems) => {
                let refusal = Refusal::Invalid(problems);
                let (reason, message) = (refusal.reason(), refusal.to_string());
                return refuse(operator, &key, reason, &message).await;
            }
        };
        let mut whole = desired.absent;
        for _ in 0..ROUNDS {
            let (seen, hands) = Box::pin(self.observe(&key, &desired, whole)).await?;
            let plan = plan(&desired, &seen);
            // Before another one is made, those of ours are looked for that nobody knows of.
            if !seen.listed
                && plan
                    .steps
                    .iter()
                    .any(|step| matches!(step, Step::Create { .. }))
            {
                whole = true;
                continue;
            }
            let done = self.apply(&key, &desired, &plan, &hands).await;
            if plan.steps.contains(&Step::RemoveFinalizer) && done.is_ok() {
                operator.rests(&name);
                return Ok(Next::Settled);
            }
            let failure = done
                .as_ref()
                .err()
                .filter(|error| !error.is_race())
                .map(Error::chain);
            let report = report(&key, &desired, &seen, &plan, failure.as_deref());
            if let Some(written) = operator.ctx.write_status(&key, &report.status).await? {
                warn(operator, &key, report.warning).await;
                // It has changed since it was parsed: the next round must not speak of fields that it has not read.
                if written.metadata.generation != key.metadata.generation {
                    return Ok(Next::After(Duration::from_millis(100)));
                }
                key = written;
            }
            let written = match done {
                Err(error) if error.is_race() => {
                    return Ok(Next::After(Duration::from_millis(100)));
                }
                Err(error) => return Err(error),
                Ok(written) => written,
            };
            if plan.steps.is_empty() && !written {
                return Ok(self.next(&name, &plan));
            }
        }
        Ok(Next::After(Duration::from_secs(1)))
    }

    fn next(&self, name: &str, plan: &Plan) -> Next {
        let reason = match &plan.verdict {
            Verdict::Ready | Verdict::Expired => {
                self.operator.rests(name);
                return Next::After(until(plan.wake, self.clock.now()).min(REST));
            }
            Verdict::Waiting(wait) => wait.reason(),
            Verdict::Refused(refusal) => refusal.reason(),
        };
        Next::After(self.operator.again(name, reason))
    }
}

/// From now until then; a second more, so that it has come.
pub(crate) fn until(then: Option<Timestamp>, now: Timestamp) -> Duration {
    let Some(then) = then else {
        return Duration::MAX;
    };
    let seconds = then
        .as_second()
        .saturating_sub(now.as_second())
        .saturating_add(1);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(1))
}
