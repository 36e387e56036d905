//! Who may have which host: grants, claims and verdicts of all clusters. May not match requests and may not store;
//! it says which hosts of the routing table to rebuild and which routes to keep.

mod change;
mod explain;
mod reserved;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gatewright_names::{HostPattern, Hostname};
use serde::{Serialize, Serializer};

use crate::id::{ClusterId, RouteId};
use crate::message::{Refused, WireRoute};
use crate::reason::RefusedReason;
use crate::route::{MAX_ROUTES, Route};
pub use change::{Change, RouteSelector};
use change::{Parsed, parse};
pub use explain::{Candidate, Explanation, Outcome, RefusedRoute};
use reserved::Reserved;

/// What a cluster may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Whose grant.
    pub cluster: ClusterId,
    /// The cluster's own name. It and everything below it is this cluster's and nobody else's, whatever is granted;
    /// the caller sees to it that no two clusters have the same one.
    pub own_host: Hostname,
    /// What an administrator has granted. A many-label wildcard also covers one-label wildcards.
    pub patterns: Vec<HostPattern>,
}

/// Whether a route is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It is in the routing table.
    Accepted,
    /// It is not.
    Refused(RefusedReason),
}

/// `"accepted"`, or the reason's code.
impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Accepted => serializer.serialize_str("accepted"),
            Self::Refused(reason) => serializer.serialize_str(reason.code()),
        }
    }
}

/// What a call has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Rebuild these in the routing table from [`Registry::routes_of_host`].
    pub hosts: BTreeSet<HostPattern>,
    /// Verdicts that changed; of the cluster that applied a change, those of all routes that the change names.
    pub verdicts: BTreeMap<ClusterId, Vec<(RouteId, Verdict)>>,
    /// What the registry keeps (`None`: no longer) of the cluster that applied a change: what to store.
    pub routes: BTreeMap<RouteId, Option<Arc<Route>>>,
    /// Clusters that had too many routes and have room again: ask them for a snapshot.
    pub resync: BTreeSet<ClusterId>,
}

/// The cluster has no grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "cluster {0} is not known to the registry; create it, or connect with the credential of another"
)]
pub struct UnknownCluster(pub ClusterId);

/// All routes of all clusters and what became of them.
///
/// A cluster may have a host that lies at or under its own name, or that one of its granted patterns covers and that
/// does not touch another cluster's own name. Of several that may, the first to claim the host has it; a claim lasts
/// while the cluster has such a route, and when it ends the next claim takes its place. A wildcard and a host below it
/// are different hosts; the two kinds of wildcard with equal suffix are the same.
#[derive(Debug)]
pub struct Registry {
    clusters: BTreeMap<ClusterId, Cluster>,
    hosts: BTreeMap<HostKey, Host>,
    reserved: Reserved,
    limit: usize,
}

#[derive(Debug)]
struct Cluster {
    own_host: Hostname,
    patterns: Vec<HostPattern>,
    routes: BTreeMap<RouteId, Entry>,
    /// Routes were turned away for want of room.
    overflowed: bool,
}

#[derive(Debug)]
struct Entry {
    route: Arc<Route>,
    /// `None` until the host has been settled.
    verdict: Option<Verdict>,
}

/// All that want one host.
#[derive(Debug, Default)]
struct Host {
    /// Clusters that may have it, the first claim first.
    claims: Vec<ClusterId>,
    routes: BTreeMap<ClusterId, BTreeSet<RouteId>>,
}

/// A host pattern without the kind of wildcard.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct HostKey {
    name: Hostname,
    wildcard: bool,
}

impl HostKey {
    fn of(pattern: &HostPattern) -> Self {
        let wildcard = match pattern {
            HostPattern::Exact(_) => false,
            HostPattern::Wildcard { .. } => true,
        };
        Self {
            name: pattern.name().clone(),
            wildcard,
        }
    }
}

/// One call under way.
#[derive(Debug, Default)]
struct Work {
    changes: Changes,
    /// Hosts of which claims and verdicts may have changed.
    touched: BTreeSet<HostKey>,
    /// Verdicts to report although they may not have changed.
    named: BTreeMap<RouteId, Option<Verdict>>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// No clusters, and [`MAX_ROUTES`] routes for each that comes.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(MAX_ROUTES)
    }

    /// No clusters, and `limit` routes for each that comes.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self {
            clusters: BTreeMap::new(),
            hosts: BTreeMap::new(),
            reserved: Reserved::default(),
            limit,
        }
    }

    /// Adds a cluster or changes what it may have. Its routes and claims stay, as far as they are still granted.
    pub fn put_cluster(&mut self, grant: Grant) -> Changes {
        let Grant {
            cluster: id,
            own_host,
            patterns,
        } = grant;
        let mut work = Work::default();
        let before = self
            .clusters
            .get(&id)
            .map(|cluster| cluster.own_host.clone());
        if before.as_ref() != Some(&own_host) {
            if let Some(before) = &before {
                self.reserved.remove(before, &id);
                work.touched.extend(self.near(before));
            }
            self.reserved.add(&own_host, &id);
            work.touched.extend(self.near(&own_host));
        }
        // Routes without a host move with the own name.
        let mut moving = Vec::new();
        if let Some(cluster) = self.clusters.get(&id) {
            work.touched.extend(
                cluster
                    .routes
                    .values()
                    .map(|entry| HostKey::of(&cluster.pattern(&entry.route))),
            );
            if cluster.own_host != own_host {
                moving.extend(
                    cluster
                        .routes
                        .values()
                        .map(|entry| &entry.route)
                        .filter(|r| r.host.is_none())
                        .cloned(),
                );
            }
        }
        for route in &moving {
            self.remove(&id, route.id, &mut work);
        }
        let cluster = self.clusters.entry(id.clone()).or_insert_with(|| Cluster {
            own_host: own_host.clone(),
            patterns: Vec::new(),
            routes: BTreeMap::new(),
            overflowed: false,
        });
        cluster.own_host = own_host;
        cluster.patterns = patterns;
        for route in moving {
            self.insert(&id, route, &mut work);
        }
        work.changes.routes.clear();
        self.settle(work, None)
    }

    /// Removes a cluster with all its routes and claims. One that is not known is no error.
    pub fn remove_cluster(&mut self, id: &ClusterId) -> Changes {
        let mut work = Work::default();
        let Some(cluster) = self.clusters.get(id) else {
            return work.changes;
        };
        let own_host = cluster.own_host.clone();
        let routes: Vec<RouteId> = cluster.routes.keys().copied().collect();
        for route in routes {
            self.remove(id, route, &mut work);
        }
        self.reserved.remove(&own_host, id);
        work.touched.extend(self.near(&own_host));
        self.clusters.remove(id);
        self.settle(work, None)
    }

    /// Applies a change of a cluster's routes as a whole.
    ///
    /// # Errors
    /// [`UnknownCluster`] if [`Registry::put_cluster`] was not called for it.
    pub fn apply(&mut self, id: &ClusterId, change: Change) -> Result<Changes, UnknownCluster> {
        let Some(cluster) = self.clusters.get_mut(id) else {
            return Err(UnknownCluster(id.clone()));
        };
        let mut work = Work::default();
        let had_overflowed = cluster.overflowed;
        match change {
            Change::Upsert(routes) => self.upsert(id, routes, &mut work),
            Change::Delete(selectors) => {
                for route in cluster.select(&selectors) {
                    self.remove(id, route, &mut work);
                }
            }
            Change::Replace(routes) => {
                cluster.overflowed = false;
                let routes: Vec<_> = routes.into_iter().map(parse).collect();
                let stay: BTreeSet<RouteId> = routes.iter().map(|parsed| parsed.id()).collect();
                let gone: Vec<_> = cluster
                    .routes
                    .keys()
                    .filter(|route| !stay.contains(route))
                    .copied()
                    .collect();
                for route in gone {
                    self.remove(id, route, &mut work);
                }
                self.upsert_parsed(id, routes, &mut work);
            }
        }
        if let Some(cluster) = self.clusters.get_mut(id)
            && had_overflowed
            && cluster.overflowed
            && cluster.routes.len() < self.limit
        {
            cluster.overflowed = false;
            work.changes.resync.insert(id.clone());
        }
        Ok(self.settle(work, Some(id)))
    }

    /// The clusters that may have a host and want it, the first claim first: the first of them has it. To keep this
    /// order over a restart, store it and apply the routes of each host in it.
    #[must_use]
    pub fn claims(&self, pattern: &HostPattern) -> &[ClusterId] {
        let host = self.hosts.get(&HostKey::of(pattern));
        host.map_or(&[], |host| &host.claims)
    }

    /// The cluster that has a host.
    #[must_use]
    pub fn owner(&self, pattern: &HostPattern) -> Option<&ClusterId> {
        self.claims(pattern).first()
    }

    /// The routes to serve for a host: those of its owner, in the order of their ids.
    #[must_use]
    pub fn routes_of_host(&self, pattern: &HostPattern) -> Vec<Arc<Route>> {
        let Some(host) = self.hosts.get(&HostKey::of(pattern)) else {
            return Vec::new();
        };
        let Some((id, routes)) = host
            .claims
            .first()
            .and_then(|owner| host.routes.get_key_value(owner))
        else {
            return Vec::new();
        };
        let Some(cluster) = self.clusters.get(id) else {
            return Vec::new();
        };
        let entries = routes.iter().filter_map(|route| cluster.routes.get(route));
        entries
            .filter(|entry| {
                entry.verdict == Some(Verdict::Accepted)
                    && cluster.pattern(&entry.route) == *pattern
            })
            .map(|entry| entry.route.clone())
            .collect()
    }

    /// All routes of a cluster with their verdicts, in the order of their ids. Routes that were refused because they
    /// are no routes, or for want of room, are not kept.
    pub fn routes_of_cluster(
        &self,
        id: &ClusterId,
    ) -> impl Iterator<Item = (&Arc<Route>, &Verdict)> + use<'_> {
        let entries = self
            .clusters
            .get(id)
            .into_iter()
            .flat_map(|cluster| cluster.routes.values());
        entries.filter_map(|entry| {
            entry
                .verdict
                .as_ref()
                .map(|verdict| (&entry.route, verdict))
        })
    }

    /// How many routes of a cluster are served, and those that are kept but not served: what an agent is told when it
    /// connects.
    #[must_use]
    pub fn refusals(&self, id: &ClusterId) -> (u64, Vec<Refused>) {
        let mut accepted = 0;
        let mut refused = Vec::new();
        for (route, verdict) in self.routes_of_cluster(id) {
            match verdict {
                Verdict::Accepted => accepted += 1,
                Verdict::Refused(reason) => {
                    refused.push(Refused::new(
                        route.id,
                        &route.host_text(),
                        &route.path,
                        *reason,
                    ));
                }
            }
        }
        (accepted, refused)
    }

    /// The clusters and their own names, in the order of their ids.
    pub fn clusters(&self) -> impl Iterator<Item = (&ClusterId, &Hostname)> {
        self.clusters
            .iter()
            .map(|(id, cluster)| (id, &cluster.own_host))
    }

    // === impl Registry: one call under way ===

    fn upsert(&mut self, id: &ClusterId, routes: Vec<WireRoute>, work: &mut Work) {
        self.upsert_parsed(id, routes.into_iter().map(parse).collect(), work);
    }

    fn upsert_parsed(&mut self, id: &ClusterId, routes: Vec<Parsed>, work: &mut Work) {
        for parsed in routes {
            let Some(cluster) = self.clusters.get_mut(id) else {
                return;
            };
            let known = cluster.routes.get(&parsed.id());
            match parsed {
                Parsed::Refused(route, reason) => {
                    // What was there under this id is not what the cluster wants any more.
                    self.remove(id, route, work);
                    work.named.insert(route, Some(Verdict::Refused(reason)));
                }
                Parsed::Route(route) if known.is_some_and(|entry| *entry.route == route) => {
                    work.named.insert(route.id, None);
                }
                Parsed::Route(route) if known.is_none() && cluster.routes.len() >= self.limit => {
                    cluster.overflowed = true;
                    work.named.insert(
                        route.id,
                        Some(Verdict::Refused(RefusedReason::TooManyRoutes)),
                    );
                }
                Parsed::Route(route) => {
                    work.named.insert(route.id, None);
                    self.remove(id, route.id, work);
                    self.insert(id, Arc::new(route), work);
                }
            }
        }
    }

    fn insert(&mut self, id: &ClusterId, route: Arc<Route>, work: &mut Work) {
        let Some(cluster) = self.clusters.get_mut(id) else {
            return;
        };
        let key = HostKey::of(&cluster.pattern(&route));
        self.hosts
            .entry(key.clone())
            .or_default()
            .routes
            .entry(id.clone())
            .or_default()
            .insert(route.id);
        work.touched.insert(key);
        work.changes.routes.insert(route.id, Some(route.clone()));
        cluster.routes.insert(
            route.id,
            Entry {
                route,
                verdict: None,
            },
        );
    }

    fn remove(&mut self, id: &ClusterId, route: RouteId, work: &mut Work) {
        let Some(cluster) = self.clusters.get_mut(id) else {
            return;
        };
        let Some(entry) = cluster.routes.remove(&route) else {
            return;
        };
        let pattern = cluster.pattern(&entry.route);
        let key = HostKey::of(&pattern);
        if let Some(host) = self.hosts.get_mut(&key)
            && let Some(routes) = host.routes.get_mut(id)
        {
            routes.remove(&route);
            if routes.is_empty() {
                host.routes.remove(id);
            }
        }
        if entry.verdict == Some(Verdict::Accepted) {
            work.changes.hosts.insert(pattern);
        }
        work.touched.insert(key);
        work.changes.routes.insert(route, None);
    }

    /// The hosts whose verdicts depend on whether `own_host` is somebody's own name. The only step that looks at all
    /// hosts; own names come and go with clusters, not with routes.
    fn near(&self, own_host: &Hostname) -> Vec<HostKey> {
        let near = |key: &&HostKey| {
            key.name == *own_host
                || key.name.is_under(own_host)
                || (key.wildcard && own_host.is_under(&key.name))
        };
        self.hosts.keys().filter(near).cloned().collect()
    }

    /// Brings claims and verdicts of the touched hosts up to date.
    fn settle(&mut self, mut work: Work, applied: Option<&ClusterId>) -> Changes {
        for key in std::mem::take(&mut work.touched) {
            self.settle_host(&key, &mut work.changes);
        }
        if let Some(id) = applied {
            let reported = work.changes.verdicts.entry(id.clone()).or_default();
            let changed: BTreeSet<RouteId> = reported.iter().map(|&(route, _)| route).collect();
            let routes = self.clusters.get(id).map(|cluster| &cluster.routes);
            for (route, verdict) in work.named {
                let kept = || {
                    routes
                        .and_then(|routes| routes.get(&route))
                        .and_then(|entry| entry.verdict)
                };
                if !changed.contains(&route)
                    && let Some(verdict) = verdict.or_else(kept)
                {
                    reported.push((route, verdict));
                }
            }
            reported.sort_unstable_by_key(|&(route, _)| route);
        }
        work.changes
            .verdicts
            .retain(|_, verdicts| !verdicts.is_empty());
        work.changes
    }

    fn settle_host(&mut self, key: &HostKey, changes: &mut Changes) {
        let Some(host) = self.hosts.get_mut(key) else {
            return;
        };
        if host.routes.is_empty() {
            self.hosts.remove(key);
            return;
        }
        let mut judged: Vec<(ClusterId, RouteId, HostPattern, Result<(), RefusedReason>)> =
            Vec::new();
        let mut eligible = BTreeSet::new();
        for (id, routes) in &host.routes {
            let Some(cluster) = self.clusters.get(id) else {
                continue;
            };
            // At most two patterns have this key, so nearly all routes share their judgement with the one before.
            let mut last: Option<(HostPattern, Result<(), RefusedReason>)> = None;
            for route in routes {
                let Some(entry) = cluster.routes.get(route) else {
                    continue;
                };
                let pattern = cluster.pattern(&entry.route);
                let judgement = match &last {
                    Some((same, judgement)) if *same == pattern => *judgement,
                    Some(_) | None => self.reserved.judge(id, &cluster.patterns, &pattern),
                };
                last = Some((pattern.clone(), judgement));
                if judgement.is_ok() {
                    eligible.insert(id.clone());
                }
                judged.push((id.clone(), *route, pattern, judgement));
            }
        }
        host.claims.retain(|id| eligible.remove(id));
        host.claims.extend(eligible);
        let owner = host.claims.first();
        for (id, route, pattern, judgement) in judged {
            let verdict = match judgement {
                Err(reason) => Verdict::Refused(reason),
                Ok(()) if owner == Some(&id) => Verdict::Accepted,
                Ok(()) => Verdict::Refused(RefusedReason::HostOwnedByOther),
            };
            let entry = self
                .clusters
                .get_mut(&id)
                .and_then(|cluster| cluster.routes.get_mut(&route));
            let Some(entry) = entry else { continue };
            let before = entry.verdict.replace(verdict);
            if before == Some(verdict) {
                continue;
            }
            if before == Some(Verdict::Accepted) || verdict == Verdict::Accepted {
                changes.hosts.insert(pattern);
            }
            changes
                .verdicts
                .entry(id)
                .or_default()
                .push((route, verdict));
        }
    }
}

impl Cluster {
    fn pattern(&self, route: &Route) -> HostPattern {
        route
            .host
            .clone()
            .unwrap_or_else(|| HostPattern::Exact(self.own_host.clone()))
    }

    /// The routes that are selected, in one pass over them however many selectors there are.
    fn select(&self, selectors: &[RouteSelector]) -> BTreeSet<RouteId> {
        let mut selected = BTreeSet::new();
        let mut by_place: BTreeMap<(&str, &str), Vec<&RouteSelector>> = BTreeMap::new();
        for selector in selectors {
            match selector {
                RouteSelector::Id(id) => {
                    selected.insert(*id);
                }
                RouteSelector::Like { host, path, .. } => {
                    by_place.entry((host, path)).or_default().push(selector)
                }
            }
        }
        if !by_place.is_empty() {
            for route in self.routes.values().map(|entry| &entry.route) {
                let host = route.host_text();
                let selectors = by_place.get(&(host.as_str(), route.path.as_str()));
                if selectors.is_some_and(|selectors| {
                    selectors.iter().any(|selector| selector.selects(route))
                }) {
                    selected.insert(route.id);
                }
            }
        }
        selected
    }
}

#[cfg(test)]
mod tests;
