//! What a GarageAdminToken says about itself. May not decide.

use super::{Desired, Observed, Plan, Refusal, SecretSeen, Verdict, Wait};
use crate::api::{GarageAdminToken, GarageAdminTokenStatus, NamespacedName};
use crate::cluster::Report;
use crate::tenant::{self, Home, Said};
use serde_json::Value;

/// Puts together what is to be told. `failure` is what went wrong while the plan was carried out.
#[must_use]
pub fn report(
    object: &GarageAdminToken,
    desired: &Desired,
    seen: &Observed,
    plan: &Plan,
    failure: Option<&str>,
) -> Report {
    let told = object.status.clone().unwrap_or_default();
    let held = match &seen.secret {
        SecretSeen::Ours { id } => id.as_ref(),
        SecretSeen::Missing | SecretSeen::Foreign => None,
    };
    let token = seen.tokens.iter().find(|token| Some(&token.id) == held);
    let mut status = match token {
        Some(token) => GarageAdminTokenStatus {
            token_id: Some(token.id.clone()),
            expiration: token.expiration.map(|time| time.to_string()),
            expired: Some(plan.verdict == Verdict::Expired),
            secret_ref: Some(NamespacedName {
                name: Some(desired.secret_name.clone()),
                namespace: Some(desired.key.namespace.clone()),
            }),
            ..GarageAdminTokenStatus::default()
        },
        // Nobody was asked: what was known stays known.
        None if seen.home != Home::Reached => GarageAdminTokenStatus {
            conditions: Vec::new(),
            ..told
        },
        None => GarageAdminTokenStatus::default(),
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
    let warning = match &plan.verdict {
        Verdict::Refused(refusal) => Some((refusal.reason().to_owned(), refusal.to_string())),
        Verdict::Waiting(Wait::Cluster(closed)) if closed.is_warning() => {
            Some((closed.reason().to_owned(), closed.to_string()))
        }
        Verdict::Expired => Some((
            "Expired".into(),
            "the token has ended: set a later expiration".into(),
        )),
        Verdict::Ready | Verdict::Waiting(_) => None,
    };
    Report { status, warning }
}

fn phase(desired: &Desired, plan: &Plan) -> &'static str {
    match &plan.verdict {
        _ if desired.absent => "Deleting",
        Verdict::Ready => "Ready",
        Verdict::Expired => "Expired",
        Verdict::Refused(_) => "Failed",
        Verdict::Waiting(wait) => match wait {
            Wait::Cluster(_) => "Pending",
            Wait::Creating | Wait::Changing => "Creating",
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
            "the token and its Secret are as asked".to_owned(),
        ),
        Verdict::Expired => (
            false,
            "Expired",
            "the token has ended: set a later expiration".to_owned(),
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
    tenant::conditions(&Said {
        ready,
        failure,
        elsewhere: desired.cluster.namespace != desired.key.namespace,
        home: &seen.home,
        blocked,
        degraded: None,
    })
}

impl Wait {
    /// The reason of a condition: CamelCase.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Cluster(closed) => closed.reason(),
            Self::Creating => "Creating",
            Self::Changing => "Changing",
            Self::Deleting => "Deleting",
        }
    }
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster(closed) => closed.fmt(f),
            Self::Creating => f.write_str("the token is being created"),
            Self::Changing => f.write_str("the token is being changed"),
            Self::Deleting => f.write_str("the token is being deleted"),
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
        }
    }
}
