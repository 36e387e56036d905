//! What is left to say, given what was said before. Pure: no client, no clock.

use super::{Report, Rule};
use gatewright_controller::{Notice, Severity};
use gatewright_translate::Key;
use k8s_openapi::api::networking::v1::{Ingress, IngressStatus};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One write. `apply` makes no choices of its own.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Make the status of an Ingress say this.
    Write {
        key: Key,
        ingress: Arc<Ingress>,
        status: IngressStatus,
    },
    /// Publish an Event about an Ingress.
    Tell {
        key: Key,
        ingress: Arc<Ingress>,
        about: Subject,
        notice: Notice,
    },
}

/// What an Event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    /// A rule that is not served, and its message.
    Refused(Rule, String),
    /// After refusals, all is served.
    Served,
}

impl Step {
    pub(super) fn key(&self) -> &Key {
        match self {
            Self::Write { key, .. } | Self::Tell { key, .. } => key,
        }
    }
}

/// What was said so far.
#[derive(Debug, Default)]
pub(super) struct Said {
    ingresses: BTreeMap<Key, Told>,
}

#[derive(Debug, Default)]
struct Told {
    uid: Option<String>,
    /// The version of the Ingress that a status was written on top of, and the status. While the
    /// source still shows that version, the write must not be repeated.
    written: Option<(Option<String>, IngressStatus)>,
    refused: BTreeMap<Rule, String>,
    /// The last Event was about a rule that is not served.
    warned: bool,
}

impl Said {
    /// Forgets Ingresses that are gone, or were made anew under the same name.
    pub(super) fn forget_gone(&mut self, report: &Report) {
        self.ingresses.retain(|key, told| {
            let about = report.ingresses.get(key);
            about.is_some_and(|about| about.ingress.metadata.uid == told.uid)
        });
    }

    /// What the report asks for and was not done yet, in the order of the Ingresses.
    pub(super) fn plan(&mut self, report: &Report) -> Vec<Step> {
        let nothing = Told::default();
        let mut steps = Vec::new();
        for (key, about) in &report.ingresses {
            let ingress = &about.ingress;
            let told = match self.ingresses.get_mut(key) {
                Some(told) => {
                    // A rule that is refused no longer may be refused again: then that is news.
                    // While the edges have not answered, its absence says nothing.
                    if about.settled {
                        told.refused
                            .retain(|rule, _| about.refused.contains_key(rule));
                    }
                    &*told
                }
                None => &nothing,
            };
            if let Some(status) = &about.status {
                let version = &ingress.metadata.resource_version;
                let done = told.written.as_ref().is_some_and(|(on, written)| {
                    version.is_some() && on == version && written == status
                });
                if !done {
                    steps.push(Step::Write {
                        key: key.clone(),
                        ingress: ingress.clone(),
                        status: status.clone(),
                    });
                }
            }
            let mut tell = |about, notice| {
                steps.push(Step::Tell {
                    key: key.clone(),
                    ingress: ingress.clone(),
                    about,
                    notice,
                });
            };
            for (rule, message) in &about.refused {
                if told.refused.get(rule) != Some(message) {
                    let subject = Subject::Refused(rule.clone(), message.clone());
                    tell(subject, refused(rule, message));
                }
            }
            if about.served && told.warned {
                tell(Subject::Served, served());
            }
        }
        steps
    }

    /// Notes that a step was carried out.
    pub(super) fn done(&mut self, step: Step) {
        let key = step.key().clone();
        let told = self.ingresses.entry(key).or_default();
        match step {
            Step::Write {
                ingress, status, ..
            } => {
                told.uid.clone_from(&ingress.metadata.uid);
                told.written = Some((ingress.metadata.resource_version.clone(), status));
            }
            Step::Tell { ingress, about, .. } => {
                told.uid.clone_from(&ingress.metadata.uid);
                match about {
                    Subject::Refused(rule, message) => {
                        told.refused.insert(rule, message);
                        told.warned = true;
                    }
                    Subject::Served => told.warned = false,
                }
            }
        }
    }
}

fn refused(rule: &Rule, message: &str) -> Notice {
    Notice {
        severity: Severity::Warning,
        reason: rule.reason.clone(),
        action: "Route".to_owned(),
        note: format!("{} is not served: {message}", rule.at),
    }
}

fn served() -> Notice {
    Notice {
        severity: Severity::Normal,
        reason: "Served".to_owned(),
        action: "Route".to_owned(),
        note: "all rules of this Ingress are served now".to_owned(),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
