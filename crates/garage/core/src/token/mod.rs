//! What one GarageAdminToken needs next: [`plan`] is the whole decision, facts in, steps and a verdict out.
//! May not read or write anything, and knows the time only as a fact.
//!
//! Garage tells a token once, when it makes it. Its name in Garage ends with the object's UID, so a token
//! that was made by a process that died before it wrote the Secret is found, and deleted: nobody has it.

mod desired;
pub mod secret;
mod status;
#[cfg(test)]
mod world;

pub use desired::Desired;
pub use status::report;

use crate::admin::AdminTokenChange;
use crate::cluster::Problem;
use crate::tenant::{Asker, Closed, Gate, Home};
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeSet;

/// All facts about one token.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// The time.
    pub now: Timestamp,
    /// Our finalizer is on the object.
    pub finalizer: bool,
    /// The object's namespace is being deleted.
    pub namespace_ends: bool,
    /// The cluster.
    pub home: Home,
    /// The Secret.
    pub secret: SecretSeen,
    /// Secrets of ours under other names.
    pub stale_secrets: Vec<String>,
    /// The tokens in Garage that carry the object's UID.
    pub tokens: Vec<Token>,
}

/// The Secret under the name that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSeen {
    /// There is none.
    Missing,
    /// It is not ours.
    Foreign,
    /// It is ours.
    Ours {
        /// The id of the token in it, if that is as it was written.
        id: Option<String>,
    },
}

/// One token in Garage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Garage's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it ends.
    pub expiration: Option<Timestamp>,
    /// It has ended.
    pub expired: bool,
    /// Calls that it may make.
    pub scope: BTreeSet<String>,
}

/// One effect on the world outside.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Adds our finalizer, before anything exists that it has to clean up.
    AddFinalizer,
    /// Removes it.
    RemoveFinalizer,
    /// `CreateAdminToken`, and then the Secret with it.
    Create(AdminTokenChange),
    /// `UpdateAdminToken`.
    Update(String, AdminTokenChange),
    /// `DeleteAdminToken`.
    Delete(String),
    /// Deletes a Secret of ours.
    DeleteSecret(String),
}

/// Why a token is not ready yet.
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
}

/// Why a token will not be ready until somebody changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The object cannot be done.
    Invalid(Vec<Problem>),
    /// There is a Secret of that name that is not ours.
    SecretTaken(String),
}

/// How the token is.
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

/// What comes next, and how the token is until then.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// How the token is.
    pub verdict: Verdict,
    /// When there is something to tell although nothing changes.
    pub wake: Option<Timestamp>,
}

impl Plan {
    fn waiting(steps: Vec<Step>, wait: Wait) -> Self {
        Self {
            steps,
            verdict: Verdict::Waiting(wait),
            wake: None,
        }
    }
}

/// Decides what one token needs next.
#[must_use]
pub fn plan(desired: &Desired, seen: &Observed) -> Plan {
    if desired.absent && !seen.finalizer {
        return Plan::waiting(Vec::new(), Wait::Deleting);
    }
    let gate = seen.home.gate(Asker {
        kind: "GarageAdminToken",
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
        let mut steps: Vec<Step> = seen
            .tokens
            .iter()
            .map(|token| Step::Delete(token.id.clone()))
            .collect();
        if steps.is_empty() {
            steps.push(Step::RemoveFinalizer);
        }
        return Plan::waiting(steps, Wait::Deleting);
    }
    if !seen.finalizer {
        return Plan::waiting(vec![Step::AddFinalizer], Wait::Creating);
    }
    let held = match &seen.secret {
        SecretSeen::Foreign => {
            let refusal = Refusal::SecretTaken(desired.secret_name.clone());
            return Plan {
                steps: Vec::new(),
                verdict: Verdict::Refused(refusal),
                wake: None,
            };
        }
        SecretSeen::Missing => None,
        SecretSeen::Ours { id } => id.as_ref(),
    };
    let ours = seen.tokens.iter().find(|token| Some(&token.id) == held);
    // Nobody has them: they go before another one is made.
    let others = seen.tokens.iter().filter(|token| Some(&token.id) != held);
    let mut steps: Vec<Step> = others.map(|token| Step::Delete(token.id.clone())).collect();
    let Some(token) = ours else {
        if steps.is_empty() {
            steps.push(Step::Create(desired.change(None)));
        }
        return Plan::waiting(steps, Wait::Creating);
    };
    let change = desired.change(Some(token));
    if change != AdminTokenChange::default() {
        steps.push(Step::Update(token.id.clone(), change));
    }
    steps.extend(seen.stale_secrets.iter().cloned().map(Step::DeleteSecret));
    let over = token.expired || token.expiration.is_some_and(|end| end <= seen.now);
    let verdict = match (steps.is_empty(), over) {
        (false, _) => Verdict::Waiting(Wait::Changing),
        (true, true) => Verdict::Expired,
        (true, false) => Verdict::Ready,
    };
    Plan {
        steps,
        verdict,
        wake: token.expiration.filter(|_| !over),
    }
}
