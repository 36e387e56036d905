//! Why a request goes where it goes, for people. May not decide anything: it asks the same rules as the table.

use std::sync::Arc;

use gatewright_names::{HostPattern, Hostname};
use serde::Serialize;

use super::{HostKey, Registry, Verdict};
use crate::id::ClusterId;
use crate::reason::RefusedReason;
use crate::route::Route;
use crate::table::{HostRules, NoMatch};

/// What happens to a request for a host and a path, and what came close.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The host asked about.
    pub host: Hostname,
    /// The raw path asked about.
    pub path: String,
    /// What happens.
    pub outcome: Outcome,
    /// Host patterns that match the host and that somebody wants, the one that is consulted first.
    pub candidates: Vec<Candidate>,
    /// Routes of these patterns that are not served.
    pub refused: Vec<RefusedRoute>,
}

/// A host pattern that matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// The pattern.
    pub pattern: HostPattern,
    /// Who has it; nobody if all routes for it are refused.
    pub owner: Option<ClusterId>,
    /// Who would have it next.
    pub waiting: Vec<ClusterId>,
    /// The served paths, with their types.
    pub paths: Vec<String>,
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is sent through the tunnel.
    Served {
        /// Whose route.
        cluster: ClusterId,
        /// Which.
        route: Arc<Route>,
    },
    /// 404: no pattern with served routes matches the host.
    UnknownHost,
    /// 404: none of the served paths of the first pattern that has any matches.
    UnknownPath,
    /// 400: the path could be read in several ways.
    BadPath {
        /// Why.
        reason: &'static str,
    },
}

/// A route that is not served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedRoute {
    /// Whose.
    pub cluster: ClusterId,
    /// Which.
    pub route: Arc<Route>,
    /// Why.
    pub reason: RefusedReason,
    /// Why and what to do.
    pub message: &'static str,
}

impl Registry {
    /// Says what happens to a request for `host` and the raw `path`, and why.
    #[must_use]
    pub fn explain(&self, host: &Hostname, path: &str) -> Explanation {
        let mut explanation = Explanation {
            host: host.clone(),
            path: path.to_owned(),
            outcome: Outcome::UnknownHost,
            candidates: Vec::new(),
            refused: Vec::new(),
        };
        let mut consulted = false;
        for pattern in self.patterns_for(host) {
            let Some(state) = self.hosts.get(&HostKey::of(&pattern)) else {
                continue;
            };
            self.explain_refused(&pattern, &mut explanation.refused);
            let routes = self.routes_of_host(&pattern);
            let owner = state.claims.first().filter(|_| !routes.is_empty());
            explanation.candidates.push(Candidate {
                owner: owner.cloned(),
                waiting: state
                    .claims
                    .iter()
                    .filter(|&id| Some(id) != owner)
                    .cloned()
                    .collect(),
                paths: routes
                    .iter()
                    .map(|route| format!("{} ({})", route.path, route.path_type))
                    .collect(),
                pattern: pattern.clone(),
            });
            if !consulted && let Some(owner) = owner {
                consulted = true;
                explanation.outcome = outcome(&pattern, owner, routes, path);
            }
        }
        explanation
    }

    /// The patterns that match a host and that somebody wants, in the order in which the table consults them.
    fn patterns_for(&self, host: &Hostname) -> Vec<HostPattern> {
        let mut patterns = Vec::new();
        let mut keys = vec![HostKey {
            name: host.clone(),
            wildcard: false,
        }];
        let parents = std::iter::successors(host.parent(), Hostname::parent);
        keys.extend(parents.map(|name| HostKey {
            name,
            wildcard: true,
        }));
        for key in keys {
            let Some(state) = self.hosts.get(&key) else {
                continue;
            };
            for (id, routes) in &state.routes {
                let Some(cluster) = self.clusters.get(id) else {
                    continue;
                };
                let entries = routes.iter().filter_map(|route| cluster.routes.get(route));
                patterns.extend(entries.map(|entry| cluster.pattern(&entry.route)));
            }
        }
        patterns.retain(|pattern| pattern.matches(host));
        patterns.sort_by(HostPattern::specificity);
        patterns.dedup();
        patterns
    }

    fn explain_refused(&self, pattern: &HostPattern, refused: &mut Vec<RefusedRoute>) {
        let Some(state) = self.hosts.get(&HostKey::of(pattern)) else {
            return;
        };
        for (id, routes) in &state.routes {
            let Some(cluster) = self.clusters.get(id) else {
                continue;
            };
            for entry in routes.iter().filter_map(|route| cluster.routes.get(route)) {
                if let Some(Verdict::Refused(reason)) = entry.verdict
                    && cluster.pattern(&entry.route) == *pattern
                {
                    let (cluster, route) = (id.clone(), entry.route.clone());
                    refused.push(RefusedRoute {
                        cluster,
                        route,
                        reason,
                        message: reason.message(),
                    });
                }
            }
        }
    }
}

fn outcome(
    pattern: &HostPattern,
    owner: &ClusterId,
    routes: Vec<Arc<Route>>,
    path: &str,
) -> Outcome {
    let entries = routes
        .into_iter()
        .map(|route| (route.clone(), route))
        .collect();
    let found = match &HostRules::new(pattern, entries) {
        Some(rules) => rules.lookup(path).cloned(),
        None => Err(NoMatch::UnknownPath),
    };
    match found {
        Ok(route) => Outcome::Served {
            cluster: owner.clone(),
            route,
        },
        Err(NoMatch::UnknownHost) => Outcome::UnknownHost,
        Err(NoMatch::UnknownPath) => Outcome::UnknownPath,
        Err(NoMatch::BadPath(reason)) => Outcome::BadPath { reason },
    }
}
