//! Drives one GarageNode: observe → plan → apply → status. May not decide: the plan is
//! `gatewright_garage::node`'s.

mod apply;
mod observe;
mod own;

use crate::error::{Error, Result};
use crate::home::{Marks, concerns, layout_at, place};
use crate::operator::Operator;
use crate::refusal::{refuse, warn};
use crate::watches::Watches;
use gatewright_controller::{Next, Watched, runner};
use gatewright_garage::api::{GarageCluster, GarageNode};
use gatewright_garage::node::{Desired, Kind, Refusal, Step, Verdict, plan, report};
use gatewright_garage::objects::names;
use gatewright_garage::tenant;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Rounds before others get their turn.
const ROUNDS: usize = 16;

/// What reconciliations of nodes share.
struct Nodes {
    operator: Arc<Operator>,
    nodes: Watched<GarageNode>,
    clusters: Watched<GarageCluster>,
}

/// Reconciles GarageNodes until `cancel`.
pub fn run(
    operator: Arc<Operator>,
    watches: &Watches,
    cancel: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let shared = Arc::new(Nodes {
        operator: operator.clone(),
        nodes: watches.nodes.clone(),
        clusters: watches.clusters.clone(),
    });
    let (of_clusters, of_pods, marks) = (shared.clone(), shared.clone(), Marks::default());
    let controller = watches
        .nodes
        .controller()
        .owns_shared_stream(watches.stateful_sets.subscribe())
        .owns_shared_stream(watches.secrets.subscribe())
        .watches_shared_stream(watches.pods.subscribe(), move |pod| of_pods.of_pod(&pod))
        .watches_shared_stream(watches.clusters.changes().subscribe(), move |cluster| {
            of_clusters.of_cluster(&cluster, marks.is_new(&cluster))
        });
    let metrics = operator.ctx.metrics().clone();
    let reconcile = move |node: Arc<GarageNode>| {
        let shared = shared.clone();
        async move { Box::pin(shared.reconcile(&node)).await }
    };
    let settings = runner::Settings::new("garagenode");
    runner::run(
        controller,
        settings,
        metrics,
        cancel,
        Error::category,
        reconcile,
    )
}

impl Nodes {
    fn of_pod(&self, pod: &PartialObjectMeta<Pod>) -> Vec<ObjectRef<GarageNode>> {
        let at = place(pod);
        let owner = pod.labels().get(names::LABEL_NODE);
        let concerns = |node: &GarageNode| {
            let selected = node.spec.pod_selector.as_ref();
            node.namespace().as_deref() == Some(&at.namespace)
                && (owner == Some(&node.name_any())
                    || selected.is_some_and(|pod| pod.name == at.name))
        };
        let nodes = self.nodes.all();
        let concerned = nodes.iter().filter(|node| concerns(node));
        concerned.map(|node| ObjectRef::from_obj(&**node)).collect()
    }

    fn of_cluster(&self, cluster: &GarageCluster, new: bool) -> Vec<ObjectRef<GarageNode>> {
        let concerns = |node: &GarageNode| {
            let namespace = node.namespace().unwrap_or_default();
            let target = tenant::target(&node.spec.cluster_ref, &namespace);
            let phase = node
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            (new || phase != Some("Running")) && concerns(&self.clusters, cluster, &target)
        };
        let nodes = self.nodes.all();
        let concerned = nodes.iter().filter(|node| concerns(node));
        concerned.map(|node| ObjectRef::from_obj(&**node)).collect()
    }

    async fn reconcile(&self, node: &GarageNode) -> Result<Next> {
        let operator = &self.operator;
        let at = place(node);
        let name = format!("GarageNode {at}");
        self.clusters.ready().await;
        // What the runner hands over may be older than our own last write.
        let fresh: Option<GarageNode> = operator.ctx.get_opt(Some(&at.namespace), &at.name).await?;
        let uid = node.metadata.uid.clone();
        let Some(mut node) = fresh.filter(|fresh| fresh.metadata.uid == uid) else {
            operator.rests(&name);
            return Ok(Next::Settled);
        };
        let desired = match Desired::parse(&node) {
            Ok(desired) => desired,
            Err(problems) => {
                let refusal = Refusal::Invalid(problems);
                let (reason, message) = (refusal.reason(), refusal.to_string());
                return refuse(operator, &node, reason, &message).await;
            }
        };
        let mut known = operator
            .layout(layout_at(&self.clusters, &desired.cluster))
            .await;
        for _ in 0..ROUNDS {
            let (seen, hands) = Box::pin(self.observe(&node, &desired, &mut known)).await?;
            let plan = plan(&desired, &seen);
            // Decided on what was remembered: somebody may have staged something meanwhile.
            if !hands.whole && known.settled.is_some() && plan.steps.iter().any(is_about_layout) {
                known.settled = None;
                continue;
            }
            if plan.workload
                && desired.kind == Kind::Own
                && let Err(problems) = self.workload(&node, &hands)
            {
                drop(known);
                let refusal = Refusal::Invalid(problems);
                let (reason, message) = (refusal.reason(), refusal.to_string());
                return refuse(operator, &node, reason, &message).await;
            }
            let done = Box::pin(self.apply(&node, &plan, &hands, &mut known)).await;
            if plan.steps.contains(&Step::RemoveFinalizer) && done.is_ok() {
                operator.rests(&name);
                return Ok(Next::Settled);
            }
            let failure = done
                .as_ref()
                .err()
                .filter(|error| !error.is_race())
                .map(Error::chain);
            let report = report(&node, &desired, &seen, &plan, failure.as_deref());
            if let Some(written) = operator.ctx.write_status(&node, &report.status).await? {
                warn(operator, &node, report.warning).await;
                // It has changed since it was parsed: the next round must not speak of fields that it has not read.
                if written.metadata.generation != node.metadata.generation {
                    return Ok(Next::After(Duration::from_millis(100)));
                }
                node = written;
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
            let reason = match &plan.verdict {
                Verdict::Ready => {
                    operator.rests(&name);
                    return Ok(Next::After(operator.options.poll));
                }
                Verdict::Waiting(wait) => wait.reason(),
                Verdict::Refused(refusal) => refusal.reason(),
            };
            return Ok(Next::After(operator.again(&name, reason)));
        }
        Ok(Next::After(Duration::from_millis(100)))
    }
}

fn is_about_layout(step: &Step) -> bool {
    matches!(
        step,
        Step::Stage(_) | Step::Revert | Step::Apply(_) | Step::SkipDead(_)
    )
}
