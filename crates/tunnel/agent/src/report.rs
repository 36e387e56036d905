//! What users see of the tunnel on their own objects: the status of Ingresses and Events. May not
//! touch anything else of theirs: no spec, no class, no ConfigMap.

mod plan;

use crate::source::kubernetes::MANAGER;
use gatewright_controller::lease::{self, Leadership};
use gatewright_controller::{Backoff, Ctx, Error};
use gatewright_routes::message::Refused;
use gatewright_routes::{RefusedReason, RouteId};
use gatewright_translate::{IngressVerdict, Key, Objects, Translation, status_patch};
use k8s_openapi::api::networking::v1::{Ingress, IngressStatus};
use kube::Client;
use plan::{Said, Step};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The controller's short name.
const CONTROLLER: &str = "agent";
/// The Lease that the agents of one cluster share.
const LEASE: &str = "gatewright-agent";

/// What the edges say about our routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edges {
    /// The host names (or addresses) at which users reach this cluster. Empty while no edge is
    /// there: then no status is touched.
    pub publish: Vec<String>,
    /// Routes that no edge serves, and why.
    pub refused: BTreeMap<RouteId, Refused>,
    /// The edges have answered for the routes as they are now. Until then nothing is called
    /// served that may yet be refused.
    pub settled: bool,
    /// The cluster counts as public: its routes are not offered.
    pub withdrawn: bool,
}

/// What the objects should say, as data.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    ingresses: BTreeMap<Key, About>,
}

/// What one Ingress should say.
#[derive(Debug, Clone, PartialEq)]
struct About {
    ingress: Arc<Ingress>,
    /// The status to write; `None` if it is right already, or not ours.
    status: Option<IngressStatus>,
    /// Rules that are not served.
    refused: BTreeMap<Rule, String>,
    /// The edges have answered for the routes as they are now.
    settled: bool,
    /// Every rule is served, and the edges have confirmed it.
    served: bool,
}

/// A rule that is not served and the kind of fault; the value beside it is the message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    /// A field path in the Ingress, or host and path of a route.
    at: String,
    /// CamelCase.
    reason: String,
}

impl Report {
    /// Puts together what is to be said. Pure: the same arguments give the same report.
    #[must_use]
    pub fn new(objects: &Objects, translation: &Translation, edges: &Edges) -> Self {
        let mut refused: BTreeMap<&Key, BTreeMap<Rule, String>> = BTreeMap::new();
        for refusal in &translation.refusals {
            let rule = Rule {
                at: refusal.rule.clone(),
                reason: refusal.reason.to_string(),
            };
            let rules = refused.entry(&refusal.object).or_default();
            rules.insert(rule, refusal.message.clone());
        }
        let mut ingresses = BTreeMap::new();
        for (key, verdict) in &translation.ingresses {
            let Some(ingress) = objects.ingresses.get(key) else {
                continue;
            };
            let mut refused = refused.remove(key).unwrap_or_default();
            for answer in verdict.routes.iter().filter_map(|id| edges.refused.get(id)) {
                let rule = Rule {
                    at: format!("{}{}", answer.host, answer.path),
                    reason: reason(answer.reason),
                };
                refused.insert(rule, answer.message.clone());
            }
            let certain = edges.settled && !edges.publish.is_empty();
            let about = About {
                status: certain.then(|| status(ingress, verdict, edges)).flatten(),
                settled: edges.settled,
                served: certain
                    && !edges.withdrawn
                    && refused.is_empty()
                    && !verdict.routes.is_empty(),
                ingress: ingress.clone(),
                refused,
            };
            ingresses.insert(key.clone(), about);
        }
        Self { ingresses }
    }
}

/// The status to write: published while a route is accepted, withdrawn otherwise.
fn status(ingress: &Ingress, verdict: &IngressVerdict, edges: &Edges) -> Option<IngressStatus> {
    let accepted = verdict
        .routes
        .iter()
        .any(|id| !edges.refused.contains_key(id));
    let publish: &[String] = if accepted && !edges.withdrawn {
        &edges.publish
    } else {
        &[]
    };
    // A name that this cluster had before is still ours to withdraw.
    let mut ours = edges.publish.clone();
    if is_marked(ingress) {
        ours.extend(names(ingress));
    }
    status_patch(ingress, verdict, publish, &ours)
}

/// Whether `status.loadBalancer.ingress` is what we wrote: the apiserver keeps the field manager.
fn is_marked(ingress: &Ingress) -> bool {
    let marks = ingress.metadata.managed_fields.iter().flatten();
    marks
        .filter(|mark| mark.manager.as_deref() == Some(MANAGER))
        .any(|mark| {
            mark.fields_v1.as_ref().is_some_and(|fields| {
                !fields.0["f:status"]["f:loadBalancer"]["f:ingress"].is_null()
            })
        })
}

fn names(ingress: &Ingress) -> Vec<String> {
    let balancer = ingress
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let entries = balancer
        .and_then(|balancer| balancer.ingress.as_deref())
        .unwrap_or_default();
    let names = entries
        .iter()
        .flat_map(|entry| [&entry.hostname, &entry.ip]);
    names.flatten().cloned().collect()
}

/// The reason as Events spell it: `host_not_granted` is `HostNotGranted`.
fn reason(reason: RefusedReason) -> String {
    let words = reason.code().split('_');
    words
        .map(|word| {
            let mut letters = word.chars();
            let first = letters.next().map(|first| first.to_ascii_uppercase());
            first.into_iter().chain(letters).collect::<String>()
        })
        .collect()
}

/// Joins the election for the agents of one cluster; the result writes only while it is elected.
///
/// `identity` is different for every agent (the Pod's name, for instance), `namespace` is where the
/// Lease `gatewright-agent` lives, `duration` how long an agent that died keeps the others from
/// writing. The Lease is given back after `cancel`, by a task among `tasks`.
#[must_use]
pub fn context(
    client: Client,
    namespace: &str,
    identity: &str,
    duration: Duration,
    cancel: CancellationToken,
    tasks: &TaskTracker,
) -> Ctx {
    let settings = lease::Settings {
        controller: CONTROLLER.to_owned(),
        namespace: namespace.to_owned(),
        name: LEASE.to_owned(),
        identity: identity.to_owned(),
        duration,
    };
    let leadership = lease::start(client.clone(), settings, cancel, tasks);
    Ctx::new(client, CONTROLLER, Some(identity.to_owned())).gated_by(leadership)
}

/// Makes the objects say what the newest report wants, while we are the one to write.
pub async fn run(ctx: Ctx, reports: watch::Receiver<Arc<Report>>, cancel: CancellationToken) {
    let reporter = Reporter {
        ctx,
        reports,
        said: Said::default(),
        backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(300)),
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = reporter.run() => {}
    }
}

struct Reporter {
    ctx: Ctx,
    reports: watch::Receiver<Arc<Report>>,
    said: Said,
    backoff: Backoff<Key>,
}

impl Reporter {
    async fn run(mut self) {
        let mut claims = self.ctx.leadership().map(Leadership::claims);
        loop {
            let elected = |ctx: &Ctx| {
                ctx.leadership()
                    .is_none_or(|one| one.is_held(Instant::now()))
            };
            if elected(&self.ctx) {
                self.report().await;
            }
            let due = self.backoff.next_due().filter(|_| elected(&self.ctx));
            let claimed = async {
                let changed = match &mut claims {
                    Some(claims) => claims.changed().await.is_ok(),
                    None => false,
                };
                // Without an election, or after its end, there is nothing to wait for.
                if !changed {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                changed = self.reports.changed() => if changed.is_err() { return },
                () = claimed => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    /// Carries out what is left to do, until done or a newer report is there.
    async fn report(&mut self) {
        let report = self.reports.borrow_and_update().clone();
        self.said.forget_gone(&report);
        self.backoff
            .retain(|key| report.ingresses.contains_key(key));
        let mut failed = BTreeSet::new();
        for step in self.said.plan(&report) {
            if self.reports.has_changed().unwrap_or(true) {
                return;
            }
            let key = step.key().clone();
            if failed.contains(&key) || !self.backoff.is_due(&key, Instant::now()) {
                continue;
            }
            match apply(&self.ctx, &step).await {
                Ok(()) => self.said.done(step),
                Err(error) if error.is_not_holder() => return,
                // Deleted meanwhile, or its namespace is; the source will tell.
                Err(error) if error.is_gone() => self.said.done(step),
                Err(error) => {
                    self.backoff.failed(&key, Instant::now());
                    failed.insert(key);
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "an Ingress does not show its state; trying again");
                }
            }
        }
        let now = Instant::now();
        for key in report.ingresses.keys() {
            if !failed.contains(key) && self.backoff.is_due(key, now) {
                self.backoff.succeeded(key);
            }
        }
    }
}

async fn apply(ctx: &Ctx, step: &Step) -> Result<(), Error> {
    match step {
        Step::Write {
            ingress, status, ..
        } => {
            let entries = status
                .load_balancer
                .as_ref()
                .and_then(|lb| lb.ingress.as_ref());
            let balancer = match entries.filter(|entries| !entries.is_empty()) {
                Some(entries) => json!({ "ingress": entries }),
                // Left out, so that the field is nobody's rather than ours and empty.
                None => json!({}),
            };
            let status = json!({ "loadBalancer": balancer });
            ctx.apply_status(&**ingress, &status).await.map(drop)
        }
        Step::Tell {
            ingress, notice, ..
        } => ctx.publish(&**ingress, notice).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_the_edge_are_spelt_as_kubernetes_does() {
        assert_eq!(reason(RefusedReason::HostNotGranted), "HostNotGranted");
        assert_eq!(reason(RefusedReason::Other), "Other");
    }
}
