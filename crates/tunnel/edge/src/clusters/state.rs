//! Everything about clusters that is in memory, and how each change alters it. A change notes in a
//! `Batch` what has to reach the disk and the world; the writer sees to that. It may not do I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gatewright_names::{HostPattern, Hostname};
use gatewright_routes::message::{IngressRoutesAck, Position, WireRoute};
use gatewright_routes::registry::{Changes, Grant, Registry, Verdict};
use gatewright_routes::{Change, ClusterId, RefusedReason, RouteId, RouteTable};
use http::HeaderValue;

use super::{Cluster, ClusterEvent, ClusterRecord, ClusterView, EdgeRoute};
use crate::error::Error;
use crate::store::{Contents, KeptToken, Op};
use crate::token::{Digested, TokenId};

/// Clusters, tokens, positions, and who has which host.
pub(super) struct State {
    registry: Registry,
    entries: BTreeMap<ClusterId, Entry>,
    names: BTreeMap<String, ClusterId>,
    tokens: BTreeMap<TokenId, ([u8; 32], ClusterId)>,
    /// Hosts that more than one cluster wants, and in which order they claimed them.
    contested: BTreeMap<HostPattern, Vec<ClusterId>>,
    table: RouteTable<Arc<EdgeRoute>>,
    /// How many routes of a host the table has, and whose.
    served: BTreeMap<HostPattern, (ClusterId, usize)>,
}

struct Entry {
    record: ClusterRecord,
    cluster: Arc<Cluster>,
    /// The oldest first.
    tokens: Vec<KeptToken>,
    position: Option<Position>,
}

/// What some changes have to make happen.
#[derive(Default)]
pub(super) struct Batch {
    /// On the disk, before anything else.
    pub(super) ops: Vec<Op>,
    /// Known once the disk has it.
    positions: Vec<(ClusterId, Option<Position>)>,
    /// Hosts to rebuild in the table.
    hosts: BTreeSet<HostPattern>,
    /// To be told when all is done.
    pub(super) events: Vec<ClusterEvent>,
}

impl State {
    /// Everything as the store has it. Clusters that `before` has stay the same objects, with their
    /// connections and counters.
    pub(super) fn restore(contents: Contents, limit: usize, before: Option<&State>) -> Self {
        let mut state = Self {
            registry: Registry::with_limit(limit),
            entries: BTreeMap::new(),
            names: BTreeMap::new(),
            tokens: BTreeMap::new(),
            contested: contents.claims.into_iter().collect(),
            table: RouteTable::new(),
            served: BTreeMap::new(),
        };
        let mut hosts = BTreeSet::new();
        for record in contents.clusters {
            let known = before.and_then(|state| state.entries.get(&record.id));
            let cluster = known.map_or_else(
                || {
                    Arc::new(Cluster::new(
                        record.id.clone(),
                        record.name.clone(),
                        record.own_host.clone(),
                    ))
                },
                |entry| Arc::clone(&entry.cluster),
            );
            cluster.stats.set_active_routes(0);
            hosts.append(&mut state.registry.put_cluster(grant(&record)).hosts);
            state.names.insert(record.name.clone(), record.id.clone());
            let position = contents.positions.get(&record.id).copied();
            let id = record.id.clone();
            state.entries.insert(
                id,
                Entry {
                    record,
                    cluster,
                    tokens: Vec::new(),
                    position,
                },
            );
        }
        let mut tokens = contents.tokens;
        tokens.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        for token in tokens {
            if let Some(entry) = state.entries.get_mut(&token.cluster) {
                state
                    .tokens
                    .insert(token.id.clone(), (token.sha256, token.cluster.clone()));
                entry.tokens.push(token);
            }
        }
        // Whoever claimed a host first comes first again.
        for (cluster, routes) in in_order_of_claims(contents.routes, &state.contested) {
            if let Ok(mut changes) = state.registry.apply(&cluster, Change::Upsert(routes)) {
                hosts.append(&mut changes.hosts);
            }
        }
        state.rebuild(hosts);
        state
    }

    // === Changes. Each checks first and then cannot fail. ===

    pub(super) fn create(
        &mut self,
        record: ClusterRecord,
        token: Digested,
        batch: &mut Batch,
    ) -> Result<(), Error> {
        if self.names.contains_key(&record.name) {
            return Err(Error::ClusterExists { name: record.name });
        }
        let id = record.id.clone();
        let (name, own_host) = (record.name.clone(), record.own_host.clone());
        let cluster = Arc::new(Cluster::new(id.clone(), name, own_host));
        self.names.insert(record.name.clone(), id.clone());
        batch.ops.push(Op::PutCluster(record.clone()));
        let changes = self.registry.put_cluster(grant(&record));
        self.entries.insert(
            id.clone(),
            Entry {
                record,
                cluster,
                tokens: Vec::new(),
                position: None,
            },
        );
        self.add_token(&id, token, batch);
        self.note(&id, changes, batch);
        Ok(())
    }

    pub(super) fn rotate(
        &mut self,
        name: &str,
        token: Digested,
        revoke_old: bool,
        batch: &mut Batch,
    ) -> Result<(), Error> {
        let id = self.id_of(name)?;
        let Some(entry) = self.entries.get_mut(&id) else {
            return Err(no_such(name));
        };
        let stay = if revoke_old { 0 } else { 1 };
        let gone: Vec<KeptToken> = entry
            .tokens
            .drain(..entry.tokens.len().saturating_sub(stay))
            .collect();
        let cluster = Arc::clone(&entry.cluster);
        for token in gone {
            self.tokens.remove(&token.id);
            batch.ops.push(Op::DropToken(token.id.clone()));
            batch.events.push(ClusterEvent::TokenRevoked {
                cluster: Arc::clone(&cluster),
                token: token.id,
            });
        }
        self.add_token(&id, token, batch);
        Ok(())
    }

    pub(super) fn delete(&mut self, name: &str, batch: &mut Batch) -> Result<(), Error> {
        let id = self.id_of(name)?;
        let Some(entry) = self.entries.remove(&id) else {
            return Err(no_such(name));
        };
        self.names.remove(name);
        batch.ops.push(Op::DropCluster(id.clone()));
        for token in entry.tokens {
            self.tokens.remove(&token.id);
            batch.ops.push(Op::DropToken(token.id));
        }
        batch.events.push(ClusterEvent::Deleted(entry.cluster));
        let changes = self.registry.remove_cluster(&id);
        self.note(&id, changes, batch);
        Ok(())
    }

    pub(super) fn set_hosts(
        &mut self,
        name: &str,
        hosts: Vec<HostPattern>,
        batch: &mut Batch,
    ) -> Result<ClusterRecord, Error> {
        let id = self.id_of(name)?;
        let Some(entry) = self.entries.get_mut(&id) else {
            return Err(no_such(name));
        };
        entry.record.hosts = hosts;
        let record = entry.record.clone();
        batch.ops.push(Op::PutCluster(record.clone()));
        let mut changes = self.registry.put_cluster(grant(&record));
        // Its own agents did not ask for this either.
        tell(changes.verdicts.remove_entry(&id), batch);
        self.note(&id, changes, batch);
        Ok(record)
    }

    pub(super) fn apply(
        &mut self,
        id: &ClusterId,
        change: Change,
        position: Option<Position>,
        batch: &mut Batch,
    ) -> Result<Vec<IngressRoutesAck>, Error> {
        let mut changes = self
            .registry
            .apply(id, change)
            .map_err(|_| no_such(id.as_str()))?;
        for (route, kept) in std::mem::take(&mut changes.routes) {
            batch.ops.push(match kept {
                Some(kept) => Op::PutRoute(id.clone(), route, WireRoute::from(&*kept)),
                None => Op::DropRoute(id.clone(), route),
            });
        }
        batch.ops.push(Op::SetPosition(id.clone(), position));
        batch.positions.push((id.clone(), position));
        let own = changes.verdicts.get(id).cloned().unwrap_or_default();
        let mut acks = IngressRoutesAck::of_verdicts(position, &own);
        if changes.resync.contains(id) {
            acks.push(IngressRoutesAck::resync(None));
        }
        self.note(id, changes, batch);
        Ok(acks)
    }

    fn add_token(&mut self, id: &ClusterId, token: Digested, batch: &mut Batch) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        // A clock that stands still or goes back must not confuse which token is the older.
        let after = entry.tokens.last().map_or(0, |token| token.created_ms + 1);
        let token = KeptToken {
            id: token.id,
            cluster: id.clone(),
            sha256: token.sha256,
            created_ms: crate::clock::unix_millis().max(after),
        };
        self.tokens
            .insert(token.id.clone(), (token.sha256, id.clone()));
        batch.ops.push(Op::PutToken(token.clone()));
        entry.tokens.push(token);
    }

    /// Notes what the registry made of a change by `actor`, who knows of its own verdicts.
    fn note(&mut self, actor: &ClusterId, changes: Changes, batch: &mut Batch) {
        let mut concerned: BTreeSet<&ClusterId> = changes.verdicts.keys().collect();
        concerned.insert(actor);
        let involved =
            |claimants: &Vec<ClusterId>| claimants.iter().any(|id| concerned.contains(id));
        let mut disputed: BTreeSet<HostPattern> = self
            .contested
            .iter()
            .filter(|(_, claimants)| involved(claimants))
            .map(|(host, _)| host.clone())
            .collect();
        for (id, verdicts) in &changes.verdicts {
            let lost: BTreeSet<RouteId> = verdicts
                .iter()
                .filter(|(_, verdict)| {
                    *verdict == Verdict::Refused(RefusedReason::HostOwnedByOther)
                })
                .map(|(route, _)| *route)
                .collect();
            if !lost.is_empty() {
                let routes = self.registry.routes_of_cluster(id).map(|(route, _)| route);
                disputed.extend(
                    routes
                        .filter(|route| lost.contains(&route.id))
                        .filter_map(|route| route.host.clone()),
                );
            }
        }
        for host in disputed {
            let claimants = claimants(&self.registry, &host);
            if claimants.len() > 1 {
                batch
                    .ops
                    .push(Op::SetClaims(host.clone(), claimants.clone()));
                self.contested.insert(host, claimants);
            } else if self.contested.remove(&host).is_some() {
                batch.ops.push(Op::SetClaims(host, Vec::new()));
            }
        }
        batch.hosts.extend(changes.hosts);
        for verdicts in changes.verdicts.into_iter().filter(|(id, _)| id != actor) {
            tell(Some(verdicts), batch);
        }
    }

    // === After the disk has it ===

    /// Makes known what the disk now has; says whether the table has changed.
    pub(super) fn settle(&mut self, batch: &mut Batch) -> bool {
        for (id, position) in batch.positions.drain(..) {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.position = position;
            }
        }
        let hosts = std::mem::take(&mut batch.hosts);
        let changed = !hosts.is_empty();
        self.rebuild(hosts);
        changed
    }

    /// Puts the routes of these hosts into the table as the registry has them.
    fn rebuild(&mut self, hosts: BTreeSet<HostPattern>) {
        for host in hosts {
            if let Some((before, routes)) = self.served.remove(&host) {
                self.count(&before, |served| served.saturating_sub(routes));
            }
            let owner = self
                .registry
                .owner(&host)
                .and_then(|id| self.entries.get(id));
            let cluster = owner.map(|entry| Arc::clone(&entry.cluster));
            let routes = self.registry.routes_of_host(&host);
            let entries: Vec<_> = cluster
                .iter()
                .flat_map(|cluster| {
                    routes
                        .iter()
                        .map(move |route| (Arc::clone(route), edge_route(route, cluster)))
                })
                .collect();
            if let Some(cluster) = cluster.filter(|_| !entries.is_empty()) {
                self.count(&cluster.id, |served| served + entries.len());
                self.served
                    .insert(host.clone(), (cluster.id.clone(), entries.len()));
            }
            self.table.set_host(&host, entries);
        }
    }

    fn count(&self, id: &ClusterId, change: impl FnOnce(usize) -> usize) {
        if let Some(entry) = self.entries.get(id) {
            let stats = &entry.cluster.stats;
            let served = usize::try_from(stats.active_routes()).unwrap_or(usize::MAX);
            stats.set_active_routes(change(served));
        }
    }

    // === Reading ===

    pub(super) fn table(&self) -> RouteTable<Arc<EdgeRoute>> {
        self.table.clone()
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) fn token(&self, id: &TokenId) -> Option<(&Arc<Cluster>, &[u8; 32])> {
        let (sha256, cluster) = self.tokens.get(id)?;
        Some((&self.entries.get(cluster)?.cluster, sha256))
    }

    pub(super) fn position(&self, id: &ClusterId) -> Option<Position> {
        self.entries.get(id)?.position
    }

    pub(super) fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.entries.values().map(|entry| &entry.cluster)
    }

    /// By name.
    pub(super) fn views(&self) -> impl Iterator<Item = ClusterView> {
        self.names
            .values()
            .filter_map(|id| self.entries.get(id))
            .map(|entry| self.view_of(entry))
    }

    pub(super) fn view(&self, name: &str) -> Result<ClusterView, Error> {
        let id = self.id_of(name)?;
        self.entries
            .get(&id)
            .map(|entry| self.view_of(entry))
            .ok_or_else(|| no_such(name))
    }

    fn view_of(&self, entry: &Entry) -> ClusterView {
        let seconds =
            |token: &KeptToken| i64::try_from(token.created_ms / 1000).unwrap_or(i64::MAX);
        ClusterView {
            record: entry.record.clone(),
            cluster: Arc::clone(&entry.cluster),
            tokens: entry
                .tokens
                .iter()
                .map(|token| (token.id.clone(), seconds(token)))
                .collect(),
            routes: self.registry.routes_of_cluster(&entry.record.id).count(),
        }
    }

    fn id_of(&self, name: &str) -> Result<ClusterId, Error> {
        self.names.get(name).cloned().ok_or_else(|| no_such(name))
    }
}

fn no_such(name: &str) -> Error {
    Error::NoSuchCluster {
        name: name.chars().take(64).collect(),
    }
}

fn grant(record: &ClusterRecord) -> Grant {
    Grant {
        cluster: record.id.clone(),
        own_host: record.own_host.clone(),
        patterns: record.hosts.clone(),
    }
}

fn tell(verdicts: Option<(ClusterId, Vec<(RouteId, Verdict)>)>, batch: &mut Batch) {
    if let Some((cluster, verdicts)) = verdicts {
        let acks = IngressRoutesAck::of_verdicts(None, &verdicts);
        let told = acks.into_iter().map(|ack| ClusterEvent::VerdictsChanged {
            cluster: cluster.clone(),
            ack,
        });
        batch.events.extend(told);
    }
}

fn edge_route(route: &Arc<gatewright_routes::Route>, cluster: &Arc<Cluster>) -> Arc<EdgeRoute> {
    // Hexadecimal digits are always a header value.
    let id_header = HeaderValue::from_str(&route.id.to_string())
        .unwrap_or_else(|_| HeaderValue::from_static("0000000000000000"));
    Arc::new(EdgeRoute {
        route: Arc::clone(route),
        id_header,
        cluster: Arc::clone(cluster),
    })
}

/// Who may have a host, in the order of the claims.
fn claimants(registry: &Registry, host: &HostPattern) -> Vec<ClusterId> {
    // Any host that the pattern matches will do.
    let example = match host {
        HostPattern::Exact(name) => Some(name.clone()),
        HostPattern::Wildcard { suffix, .. } => Hostname::parse(&format!("a.{suffix}")).ok(),
    };
    let Some(example) = example else {
        return registry.owner(host).into_iter().cloned().collect();
    };
    let candidates = registry.explain(&example, "/").candidates;
    let candidate = candidates
        .into_iter()
        .find(|candidate| candidate.pattern == *host);
    candidate
        .map(|candidate| {
            candidate
                .owner
                .into_iter()
                .chain(candidate.waiting)
                .collect()
        })
        .unwrap_or_default()
}

/// Routes in groups, such that of two clusters that want the same host the one that claimed it first
/// comes first: all first claims of each cluster, then all second claims, and so on.
fn in_order_of_claims(
    routes: BTreeMap<ClusterId, Vec<WireRoute>>,
    contested: &BTreeMap<HostPattern, Vec<ClusterId>>,
) -> Vec<(ClusterId, Vec<WireRoute>)> {
    let claims: BTreeMap<(String, bool), &Vec<ClusterId>> = contested
        .iter()
        .map(|(host, claimants)| (host_key(host), claimants))
        .collect();
    let mut groups: BTreeMap<(usize, ClusterId), Vec<WireRoute>> = BTreeMap::new();
    for (cluster, routes) in routes {
        for route in routes {
            let wildcard = route
                .wildcard
                .unwrap_or(gatewright_names::WildcardMode::OneLabel);
            let host = route
                .host
                .as_deref()
                .and_then(|host| HostPattern::parse(host, wildcard).ok());
            let claimants = host.as_ref().and_then(|host| claims.get(&host_key(host)));
            // One that is not on the list has not claimed, and comes after all that have.
            let rank = claimants.map_or(0, |claimants| {
                claimants
                    .iter()
                    .position(|id| *id == cluster)
                    .unwrap_or(claimants.len())
            });
            groups
                .entry((rank, cluster.clone()))
                .or_default()
                .push(route);
        }
    }
    groups
        .into_iter()
        .map(|((_, cluster), routes)| (cluster, routes))
        .collect()
}

/// A host as it is claimed: the two kinds of wildcard are the same.
fn host_key(host: &HostPattern) -> (String, bool) {
    let wildcard = match host {
        HostPattern::Exact(_) => false,
        HostPattern::Wildcard { .. } => true,
    };
    (host.name().to_string(), wildcard)
}
