//! Drives one GarageCluster: observe → plan → apply → status, until there is nothing more to do now.
//! May not decide: the plan is `gatewright_garage::cluster`'s.

mod apply;
mod belongings;
mod observe;

pub(crate) use belongings::{Revision, requested, room};
pub(crate) use observe::seen_pod;

use crate::error::{Error, Result};
use crate::home::place;
use crate::operator::Operator;
use crate::refusal::{refuse, warn, with_condition};
use crate::storage::Asked;
use crate::watches::Watches;
use gatewright_controller::{Next, Watched, runner};
use gatewright_garage::api::{self, GarageCluster};
use gatewright_garage::cluster::{
    ClusterKey, Desired, Observed, Plan, Problem, Refusal, Step, Verdict, WorkloadWanted, plan,
    report,
};
use gatewright_garage::config::Inherited;
use gatewright_garage::secret::Redacted;
use gatewright_garage::tenant;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt as _};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The cheaper pods go first when a ReplicaSet shrinks.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// How many gateways are asked to connect to another one.
const GATEWAYS: usize = 8;
/// Rounds before others get their turn.
const ROUNDS: usize = 24;

/// What `apply` needs of what `observe` has read.
pub(super) struct Hands {
    keys: Option<Secret>,
    pods: BTreeMap<String, Pod>,
    claims: BTreeMap<String, PersistentVolumeClaim>,
    stateful_set: Option<StatefulSet>,
    deployment: Option<Deployment>,
    services: BTreeMap<String, Service>,
    budget: Option<PodDisruptionBudget>,
    rpc_secret: Option<Redacted<String>>,
    admin_token: Option<Redacted<String>>,
    inherited: Inherited,
    target: Option<gatewright_garage::cluster::Storage>,
    garage: Option<Asked>,
    /// Some gateways that serve.
    gateways: Vec<crate::admin::Client>,
    /// The layout was read whole, not only remembered.
    whole: bool,
}

impl Default for Hands {
    fn default() -> Self {
        Self {
            keys: None,
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            stateful_set: None,
            deployment: None,
            services: BTreeMap::new(),
            budget: None,
            rpc_secret: None,
            admin_token: None,
            inherited: Inherited::external(0, ""),
            target: None,
            garage: None,
            gateways: Vec::new(),
            whole: false,
        }
    }
}

impl Hands {
    fn client(&self, action: &str) -> Result<&crate::admin::Client> {
        let asked = self.garage.as_ref().map(|asked| &asked.client);
        let action = || action.to_owned();
        asked.ok_or_else(|| Error::Gone { action: action() })
    }

    /// Nodes that others are made known to: those that store, and some gateways. Each passes on what it
    /// knows every ten seconds from its own start, so the next one of several is never far.
    fn peers(&self) -> Vec<crate::admin::Client> {
        let storage = self.garage.iter().flat_map(|asked| &asked.siblings);
        storage.chain(&self.gateways).cloned().collect()
    }

    fn pod(&self, name: &str) -> Result<&Pod> {
        let action = || format!("change Pod {name}");
        self.pods
            .get(name)
            .ok_or_else(|| Error::Gone { action: action() })
    }
}

/// Reconciles GarageClusters until `cancel`.
pub fn run(
    operator: Arc<Operator>,
    watches: &Watches,
    cancel: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let clusters = watches.clusters.clone();
    let related = clusters.clone();
    let controller = clusters
        .controller()
        .owns_shared_stream(watches.stateful_sets.subscribe())
        .owns_shared_stream(watches.deployments.subscribe())
        .owns_shared_stream(watches.secrets.subscribe())
        .watches_shared_stream(watches.pods.subscribe(), |pod| by_label(&*pod))
        // A storage cluster concerns its gateways, and they concern it.
        .watches_shared_stream(clusters.changes().subscribe(), move |cluster| {
            relatives(&related, &cluster)
        });
    let mut settings = runner::Settings::new("garagecluster");
    settings.concurrency = 8;
    let metrics = operator.ctx.metrics().clone();
    let reconcile = move |cluster: Arc<GarageCluster>| {
        let (operator, clusters) = (operator.clone(), clusters.clone());
        async move { Box::pin(operator.reconcile_cluster(&cluster, &clusters)).await }
    };
    runner::run(
        controller,
        settings,
        metrics,
        cancel,
        Error::category,
        reconcile,
    )
}

fn by_label<K: Resource<DynamicType = ()>>(object: &K) -> Option<ObjectRef<GarageCluster>> {
    let name = object.labels().get(api::LABEL_INSTANCE)?;
    Some(ObjectRef::new(name).within(object.namespace().as_deref()?))
}

/// The gateways of a storage cluster, and the storage cluster of gateways.
fn relatives(
    clusters: &Watched<GarageCluster>,
    changed: &GarageCluster,
) -> Vec<ObjectRef<GarageCluster>> {
    let key = place(changed);
    let all = clusters.all();
    let gateways = all.iter().filter(|one| target(one).as_ref() == Some(&key));
    let storage = target(changed).map(|to| ObjectRef::new(&to.name).within(&to.namespace));
    gateways
        .map(|gateways| ObjectRef::from_obj(&**gateways))
        .chain(storage)
        .collect()
}

/// The storage cluster that a cluster names.
fn target(cluster: &GarageCluster) -> Option<ClusterKey> {
    let connect = cluster.spec.connect_to.as_ref()?;
    let reference = connect.cluster_ref.as_ref()?;
    let own = cluster.namespace().unwrap_or_default();
    Some(tenant::target(reference, &own))
}

impl Operator {
    async fn reconcile_cluster(
        &self,
        cluster: &GarageCluster,
        clusters: &Watched<GarageCluster>,
    ) -> Result<Next> {
        let name = format!(
            "{}/{}",
            cluster.namespace().unwrap_or_default(),
            cluster.name_any()
        );
        // What the runner hands over may be older than our own last write.
        let uid = cluster.metadata.uid.clone();
        let fresh: Option<GarageCluster> = self
            .ctx
            .get_opt(cluster.namespace().as_deref(), &cluster.name_any())
            .await?;
        let Some(mut cluster) = fresh.filter(|fresh| fresh.metadata.uid == uid) else {
            self.rests(&name);
            return Ok(Next::Settled);
        };
        let desired = match Desired::parse(&cluster) {
            Ok(desired) => desired,
            Err(problems) => return self.refuse(&cluster, problems).await,
        };
        let mut known = self.layout(Self::layout_owner(&desired)).await;
        for _ in 0..ROUNDS {
            let observed = Box::pin(self.observe(&cluster, &desired, clusters, &mut known)).await;
            let (seen, hands) = match observed {
                Ok(observed) => observed,
                Err(error) => {
                    let report = unobserved(&cluster, &error.chain());
                    self.ctx.write_status(&cluster, &report).await?;
                    return Err(error);
                }
            };
            let seen = with_target(seen, &hands);
            let plan = plan(&desired, &seen);
            // Decided on what was remembered: somebody may have staged something meanwhile.
            if !hands.whole && known.settled.is_some() && plan.steps.iter().any(is_about_layout) {
                known.settled = None;
                continue;
            }
            let invalid = invalid(&cluster, &plan, &hands);
            if !invalid.is_empty() {
                drop(known);
                return self.refuse(&cluster, invalid).await;
            }
            let done = Box::pin(self.apply(&cluster, &desired, &plan, &hands, &mut known)).await;
            if plan.steps.contains(&Step::RemoveFinalizer) && done.is_ok() {
                self.rests(&name);
                return Ok(Next::Settled);
            }
            let failure = done
                .as_ref()
                .err()
                .filter(|error| !error.is_race())
                .map(Error::chain);
            let report = report(&cluster, &desired, &seen, &plan, failure.as_deref());
            if let Some(written) = self.ctx.write_status(&cluster, &report.status).await? {
                warn(self, &cluster, report.warning).await;
                // It has changed since it was parsed: the next round must not speak of fields that it has not read.
                if written.metadata.generation != cluster.metadata.generation {
                    return Ok(Next::After(Duration::from_millis(100)));
                }
                cluster = written;
            }
            match done {
                Err(error) if error.is_race() => {
                    return Ok(Next::After(Duration::from_millis(100)));
                }
                Err(error) => return Err(error),
                Ok(()) => {}
            }
            if !plan.steps.is_empty() {
                continue;
            }
            return Ok(match &plan.verdict {
                Verdict::Ready => {
                    self.rests(&name);
                    Next::After(self.options.poll)
                }
                Verdict::Waiting(wait) => {
                    Next::After(self.again(&name, &awaited(wait.reason(), &seen)))
                }
                Verdict::Refused(refusal) => Next::After(self.again(&name, refusal.reason())),
            });
        }
        Ok(Next::After(Duration::from_millis(100)))
    }

    async fn apply(
        &self,
        cluster: &GarageCluster,
        desired: &Desired,
        plan: &Plan,
        hands: &Hands,
        known: &mut crate::operator::Known,
    ) -> Result<()> {
        if plan.steps.iter().any(is_about_layout) {
            known.settled = None;
        }
        let (first, steps): (Vec<&Step>, Vec<&Step>) =
            plan.steps.iter().partition(|step| step.precedes_workload());
        self.carry_out_all(cluster, desired, &first, hands).await?;
        if let Some(wanted) = &plan.workload
            && let Ok(objects) = apply::objects(cluster, wanted, hands)
            && !plan.steps.contains(&Step::OrphanWorkload)
        {
            self.ensure_all(&objects, hands).await?;
        }
        self.carry_out_all(cluster, desired, &steps, hands).await
    }

    /// Says what is wrong with its fields; nothing of it is touched.
    async fn refuse(&self, cluster: &GarageCluster, problems: Vec<Problem>) -> Result<Next> {
        let refusal = Refusal::Invalid(problems);
        refuse(self, cluster, refusal.reason(), &refusal.to_string()).await
    }
}

/// What is waited for: another pod that gets further is another thing.
fn awaited(reason: &str, seen: &Observed) -> String {
    let pods = seen.pods.iter();
    let pods = pods.map(|pod| format!(" {} {} {}", pod.name, pod.running, pod.synced));
    std::iter::once(reason.to_owned()).chain(pods).collect()
}

/// What the object says when not even the facts could be read.
fn unobserved(cluster: &GarageCluster, why: &str) -> Value {
    let failed = json!({
        "type": "Reconciled", "status": "False", "reason": "Failed", "message": why,
    });
    with_condition(cluster, &failed)
}

/// Whether the secrets of the storage cluster are there is known once they were read.
fn with_target(mut seen: Observed, hands: &Hands) -> Observed {
    if let Some(target) = &hands.target {
        seen.target = gatewright_garage::cluster::TargetSeen::Found(target.clone());
    }
    seen
}

fn is_about_layout(step: &Step) -> bool {
    matches!(
        step,
        Step::Stage(..) | Step::Revert | Step::Apply(_) | Step::SkipDead(_)
    )
}

/// Fields that cannot be done, before anything is made of them.
fn invalid(cluster: &GarageCluster, plan: &Plan, hands: &Hands) -> Vec<Problem> {
    let dry = WorkloadWanted {
        replicas: 0,
        factor: hands.inherited.factor,
        peers: Vec::new(),
    };
    let deleting = cluster.metadata.deletion_timestamp.is_some();
    let wanted = match (&plan.workload, &plan.verdict) {
        (Some(wanted), _) => wanted,
        (None, Verdict::Waiting(_)) if !deleting && hands.inherited.factor > 0 => &dry,
        (None, _) => return Vec::new(),
    };
    apply::objects(cluster, wanted, hands)
        .err()
        .unwrap_or_default()
}
