//! Drives one GarageBucket: observe → plan → apply → status. May not decide: the plan is
//! `gatewright_garage::bucket`'s.

mod apply;
mod observe;

pub(crate) use observe::get as get_bucket;

use crate::error::{Error, Result};
use crate::home::{Home, Marks, concerns, place};
use crate::operator::Operator;
use crate::refusal::{refuse, warn};
use crate::watches::Watches;
use gatewright_controller::{Next, Watched, runner};
use gatewright_garage::api::{GarageBucket, GarageCluster, GarageKey};
use gatewright_garage::bucket::{Desired, Plan, Refusal, Step, Usage, Verdict, plan, report};
use gatewright_garage::cluster::Problem;
use gatewright_garage::tenant;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the figures of use are told anew, and how soon a bucket at rest is looked at again.
const USAGE: Duration = Duration::from_secs(300);
/// Rounds before others get their turn.
const ROUNDS: usize = 16;

/// What reconciliations of buckets share.
struct Buckets {
    operator: Arc<Operator>,
    buckets: Watched<GarageBucket>,
    keys: Watched<GarageKey>,
    clusters: Watched<GarageCluster>,
    /// When the figures of each bucket were told last, by UID.
    told: Mutex<BTreeMap<String, Instant>>,
}

/// Reconciles GarageBuckets until `cancel`.
pub fn run(
    operator: Arc<Operator>,
    watches: &Watches,
    cancel: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let shared = Arc::new(Buckets {
        operator: operator.clone(),
        buckets: watches.buckets.clone(),
        keys: watches.keys.clone(),
        clusters: watches.clusters.clone(),
        told: Mutex::default(),
    });
    let (of_keys, of_clusters, marks) = (shared.clone(), shared.clone(), Marks::default());
    let controller = watches
        .buckets
        .controller()
        .watches_shared_stream(watches.keys.changes().subscribe(), move |key| {
            of_keys.of_key(&key)
        })
        .watches_shared_stream(watches.clusters.changes().subscribe(), move |cluster| {
            of_clusters.of_cluster(&cluster, marks.is_new(&cluster))
        });
    let metrics = operator.ctx.metrics().clone();
    let reconcile = move |bucket: Arc<GarageBucket>| {
        let shared = shared.clone();
        async move { Box::pin(shared.reconcile(&bucket)).await }
    };
    let settings = runner::Settings::new("garagebucket");
    runner::run(
        controller,
        settings,
        metrics,
        cancel,
        Error::category,
        reconcile,
    )
}

impl Buckets {
    /// The buckets that a GarageKey has rights on, asks for, or is named by.
    fn of_key(&self, key: &GarageKey) -> Vec<ObjectRef<GarageBucket>> {
        let at = place(key);
        let ids = observe::ids(key);
        let concerns = |bucket: &GarageBucket| {
            let near = bucket.namespace().as_deref() == Some(&at.namespace);
            let spec = &bucket.spec;
            let named = spec
                .key_permissions
                .iter()
                .any(|one| one.key_ref == at.name)
                || spec.local_aliases.iter().any(|one| one.key_ref == at.name);
            let told = bucket.status.as_ref().map(|status| status.keys.as_slice());
            let has = told.unwrap_or_default().iter();
            let has = has
                .filter_map(|one| one.key_id.as_ref())
                .any(|id| ids.contains(id));
            near && named || has || observe::asks_for(key, bucket)
        };
        let buckets = self.buckets.all();
        let concerned = buckets.iter().filter(|bucket| concerns(bucket));
        concerned
            .map(|bucket| ObjectRef::from_obj(&**bucket))
            .collect()
    }

    fn of_cluster(&self, cluster: &GarageCluster, new: bool) -> Vec<ObjectRef<GarageBucket>> {
        let concerns = |bucket: &GarageBucket| {
            let namespace = bucket.namespace().unwrap_or_default();
            let target = tenant::target(&bucket.spec.cluster_ref, &namespace);
            let phase = bucket
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            (new || phase != Some("Ready")) && concerns(&self.clusters, cluster, &target)
        };
        let buckets = self.buckets.all();
        let concerned = buckets.iter().filter(|bucket| concerns(bucket));
        concerned
            .map(|bucket| ObjectRef::from_obj(&**bucket))
            .collect()
    }

    async fn reconcile(&self, bucket: &GarageBucket) -> Result<Next> {
        let operator = &self.operator;
        let at = place(bucket);
        let name = format!("GarageBucket {at}");
        self.keys.ready().await;
        self.clusters.ready().await;
        // What the runner hands over may be older than our own last write.
        let fresh: Option<GarageBucket> =
            operator.ctx.get_opt(Some(&at.namespace), &at.name).await?;
        let uid = bucket.metadata.uid.clone();
        let Some(mut bucket) = fresh.filter(|fresh| fresh.metadata.uid == uid) else {
            operator.rests(&name);
            self.told().remove(&uid.unwrap_or_default());
            return Ok(Next::Settled);
        };
        let desired = match Desired::parse(&bucket) {
            Ok(desired) => desired,
            Err(problems) => return self.refuse(&bucket, problems).await,
        };
        let mut not_empty = false;
        for _ in 0..ROUNDS {
            let (seen, home) = Box::pin(self.observe(&bucket, &desired, not_empty)).await?;
            let plan = plan(&desired, &seen);
            let done = self.apply(&bucket, &plan, &seen, &home).await;
            if plan.steps.contains(&Step::RemoveFinalizer) && done.is_ok() {
                operator.rests(&name);
                return Ok(Next::Settled);
            }
            if plan.steps.contains(&Step::Delete) && done.as_ref().is_err_and(apply::is_conflict) {
                not_empty = true;
                continue;
            }
            let failure = done
                .as_ref()
                .err()
                .filter(|error| !error.is_race())
                .map(Error::chain);
            let usage = self.usage(&desired.uid);
            let cluster = home.referenced.as_ref();
            let report = report(
                &bucket,
                cluster,
                &desired,
                &seen,
                &plan,
                usage,
                failure.as_deref(),
            );
            if let Some(written) = operator.ctx.write_status(&bucket, &report.status).await? {
                warn(operator, &bucket, report.warning).await;
                // It has changed since it was parsed: the next round must not speak of fields that it has not read.
                if written.metadata.generation != bucket.metadata.generation {
                    return Ok(Next::After(Duration::from_millis(100)));
                }
                bucket = written;
            }
            match done {
                Err(error) if error.is_race() => {
                    return Ok(Next::After(Duration::from_millis(100)));
                }
                Err(error) => return Err(error),
                Ok(()) => {}
            }
            if plan.steps.is_empty() {
                return Ok(self.next(&name, &desired, &home, &plan));
            }
        }
        Ok(Next::After(Duration::from_secs(1)))
    }

    fn next(&self, name: &str, desired: &Desired, home: &Home, plan: &Plan) -> Next {
        let reason = match &plan.verdict {
            Verdict::Ready => {
                self.operator.rests(name);
                if home.asked.is_some() && self.usage(&desired.uid) == Usage::Fresh {
                    self.told().insert(desired.uid.clone(), Instant::now());
                }
                return Next::After(USAGE);
            }
            Verdict::Waiting(wait) => wait.reason(),
            Verdict::Refused(refusal) => refusal.reason(),
        };
        Next::After(self.operator.again(name, reason))
    }

    fn usage(&self, uid: &str) -> Usage {
        match self.told().get(uid) {
            Some(told) if told.elapsed() < USAGE => Usage::AsTold,
            Some(_) | None => Usage::Fresh,
        }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Instant>> {
        // No code that could panic runs under the lock.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what is wrong with an object; nothing of it is touched.
    async fn refuse(&self, bucket: &GarageBucket, problems: Vec<Problem>) -> Result<Next> {
        let refusal = Refusal::Invalid(problems);
        let (reason, message) = (refusal.reason(), refusal.to_string());
        refuse(&self.operator, bucket, reason, &message).await
    }
}
