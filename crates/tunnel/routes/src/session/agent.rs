//! The agent's side of the control session: what to send next. May not look at objects; it is given routes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::RouteId;
use crate::message::{Action, IngressRoutes, IngressRoutesAck, Position, Refused, WireRoute};
use crate::route::Route;

/// Routes in one message at most.
pub const MAX_ROUTES_PER_MESSAGE: usize = 500;
/// JSON of the routes in one message at most, in bytes; a single route is always sent.
const MAX_ROUTES_BYTES: usize = 1024 * 1024;
/// How long to wait for an answer, in milliseconds.
pub const ACK_TIMEOUT: u64 = 10_000;
/// The first and the longest pause before another snapshot when the edge asks for one again and again.
const RETRY_FIRST: u64 = 1_000;
const RETRY_LONGEST: u64 = 30_000;

type Routes = BTreeMap<RouteId, Arc<Route>>;

/// What the agent has told one edge, and what it has yet to tell it. Times are milliseconds of any clock that does
/// not run backwards.
#[derive(Debug)]
pub struct AgentSession {
    /// What the edge should have.
    desired: Routes,
    /// What the edge has, if it is at `acked`.
    confirmed: Routes,
    acked: Option<Position>,
    generation: u64,
    /// The last number used.
    sequence: u64,
    connected: bool,
    phase: Phase,
    in_flight: Option<InFlight>,
    /// `desired` may differ from `confirmed`.
    dirty: bool,
    /// Times in a row that a snapshot had to be begun anew.
    failures: u32,
    retry_at: u64,
    refusals: BTreeMap<RouteId, Refused>,
    /// Refusals of the snapshot under way, from the answers to its parts.
    early_refusals: BTreeMap<RouteId, Refused>,
}

/// What can be sent.
#[derive(Debug)]
enum Phase {
    /// The edge's set is not known, or the last part of a snapshot has no answer yet: only a snapshot.
    Unknown,
    /// The next part of a snapshot.
    Snapshot {
        /// All of it.
        routes: Routes,
        /// What has not been sent, in reverse.
        rest: Vec<Arc<Route>>,
    },
    /// Deltas: the edge has `confirmed`.
    Deltas,
}

#[derive(Debug)]
struct InFlight {
    at: Position,
    deadline: u64,
    sent: Sent,
}

/// What the edge has done once it confirms a message.
#[derive(Debug)]
enum Sent {
    /// Kept a part of a snapshot that is not the last.
    Part,
    /// Replaced all routes.
    Snapshot(Routes),
    Upsert(Vec<Arc<Route>>),
    Delete(Vec<RouteId>),
}

impl AgentSession {
    /// A session with no routes. `generation` must differ from that of every earlier process of this agent; the
    /// time at its start in milliseconds will do.
    #[must_use]
    pub fn new(generation: u64) -> Self {
        Self {
            desired: Routes::new(),
            confirmed: Routes::new(),
            acked: None,
            generation,
            sequence: 0,
            connected: false,
            phase: Phase::Unknown,
            in_flight: None,
            dirty: true,
            failures: 0,
            retry_at: 0,
            refusals: BTreeMap::new(),
            early_refusals: BTreeMap::new(),
        }
    }

    /// Sets all routes that the edge should have.
    pub fn set_routes(&mut self, routes: BTreeMap<RouteId, Route>) {
        let desired: Routes = routes
            .into_iter()
            .map(|(id, route)| match self.desired.get(&id) {
                Some(known) if **known == route => (id, known.clone()),
                Some(_) | None => (id, Arc::new(route)),
            })
            .collect();
        self.refusals.retain(|id, _| desired.contains_key(id));
        self.desired = desired;
        self.dirty = true;
    }

    /// The control connection is registered; the edge says what it has.
    pub fn connected(&mut self, now: u64, resume: Option<Position>) {
        // The answer to the last message may have been lost with the connection that it was to come on.
        if let Some(unanswered) = self.in_flight.take()
            && resume == Some(unanswered.at)
        {
            self.confirm(unanswered);
        }
        // A number is never used twice, so after a message that was lost the edge would only see a gap.
        let last = Position {
            generation: self.generation,
            sequence: self.sequence,
        };
        let known = resume == Some(last) && self.acked == resume;
        self.phase = if known { Phase::Deltas } else { Phase::Unknown };
        self.connected = true;
        self.failures = 0;
        self.retry_at = now;
    }

    /// The control connection is gone.
    pub fn disconnected(&mut self) {
        self.connected = false;
    }

    /// The message to send now, if any. Call it after every other call and at [`AgentSession::next_timeout`], until
    /// it returns `None`.
    pub fn poll(&mut self, now: u64) -> Option<IngressRoutes> {
        if !self.connected {
            return None;
        }
        if let Some(waiting) = &self.in_flight {
            if now < waiting.deadline {
                return None;
            }
            self.start_over(now);
        }
        match std::mem::replace(&mut self.phase, Phase::Unknown) {
            Phase::Unknown if now < self.retry_at => None,
            Phase::Unknown => {
                self.dirty = false;
                self.early_refusals.clear();
                let rest = self.desired.values().rev().cloned().collect();
                Some(self.send_part(now, Action::Snapshot, self.desired.clone(), rest))
            }
            Phase::Snapshot { routes, rest } => {
                Some(self.send_part(now, Action::Add, routes, rest))
            }
            Phase::Deltas => {
                self.phase = Phase::Deltas;
                self.send_delta(now)
            }
        }
    }

    /// An answer or news from the edge.
    pub fn on_ack(&mut self, now: u64, ack: &IngressRoutesAck) {
        if !self.connected {
            return;
        }
        if let Some(at) = ack.position() {
            let Some(answered) = self.in_flight.take_if(|waiting| waiting.at == at) else {
                // The answer to a message that was given up, or a second answer.
                return;
            };
            if ack.resync {
                self.start_over(now);
                return;
            }
            self.confirm(answered);
        } else if ack.resync {
            self.start_over(now);
        }
        if ack.complete {
            self.refusals.clear();
        }
        for id in &ack.restored {
            self.refusals.remove(id);
        }
        let target = match self.phase {
            Phase::Snapshot { .. } => &mut self.early_refusals,
            Phase::Unknown | Phase::Deltas => &mut self.refusals,
        };
        let known = ack
            .refused
            .iter()
            .filter(|refusal| self.desired.contains_key(&refusal.id));
        target.extend(known.map(|refusal| (refusal.id, refusal.clone())));
    }

    /// When to call [`AgentSession::poll`] again although nothing happens; asked after `poll` returned `None`.
    #[must_use]
    pub fn next_timeout(&self) -> Option<u64> {
        if !self.connected {
            return None;
        }
        match (&self.in_flight, &self.phase) {
            (Some(waiting), _) => Some(waiting.deadline),
            (None, Phase::Unknown) => Some(self.retry_at),
            (None, Phase::Snapshot { .. } | Phase::Deltas) => None,
        }
    }

    /// What the edge does not serve, as far as it has said.
    #[must_use]
    pub fn refusals(&self) -> &BTreeMap<RouteId, Refused> {
        &self.refusals
    }

    /// Whether the edge has confirmed the routes as they are now.
    #[must_use]
    pub fn in_sync(&self) -> bool {
        let deltas = match self.phase {
            Phase::Deltas => true,
            Phase::Unknown | Phase::Snapshot { .. } => false,
        };
        self.connected
            && deltas
            && self.in_flight.is_none()
            && (!self.dirty || self.desired == self.confirmed)
    }

    /// Whether the edge has confirmed the routes as they are now and serves all of them.
    #[must_use]
    pub fn accepted_all(&self) -> bool {
        self.in_sync() && self.refusals.is_empty()
    }

    /// What the agent believes that the edge has, for `register`. A sequence of 0 is before the first message.
    #[must_use]
    pub fn position(&self) -> Position {
        self.acked.unwrap_or(Position {
            generation: self.generation,
            sequence: 0,
        })
    }

    fn send_part(
        &mut self,
        now: u64,
        action: Action,
        routes: Routes,
        mut rest: Vec<Arc<Route>>,
    ) -> IngressRoutes {
        let part = take_part(&mut rest);
        let wire = part.iter().map(|route| WireRoute::from(&**route)).collect();
        let more = !rest.is_empty();
        let sent = if more {
            self.phase = Phase::Snapshot { routes, rest };
            Sent::Part
        } else {
            self.phase = Phase::Unknown;
            Sent::Snapshot(routes)
        };
        self.send(now, action, wire, more, sent)
    }

    /// New routes go before old ones are taken away, so that a route whose id changes is never missing.
    fn send_delta(&mut self, now: u64) -> Option<IngressRoutes> {
        if !self.dirty {
            return None;
        }
        let changed = |(id, route): &(&RouteId, &Arc<Route>)| self.confirmed.get(id) != Some(route);
        let mut upserts: Vec<_> = self
            .desired
            .iter()
            .filter(changed)
            .map(|(_, route)| route.clone())
            .collect();
        if !upserts.is_empty() {
            upserts.reverse();
            let part = take_part(&mut upserts);
            let wire = part.iter().map(|route| WireRoute::from(&**route)).collect();
            return Some(self.send(now, Action::Update, wire, false, Sent::Upsert(part)));
        }
        let gone = self
            .confirmed
            .keys()
            .filter(|id| !self.desired.contains_key(id));
        let gone: Vec<RouteId> = gone.take(MAX_ROUTES_PER_MESSAGE).copied().collect();
        if gone.is_empty() {
            self.dirty = false;
            return None;
        }
        let name = |id: &RouteId| match self.confirmed.get(id) {
            Some(route) => WireRoute {
                id: Some(*id),
                host: Some(route.host_text()),
                path: Some(route.path.clone()),
                path_type: Some(route.path_type.to_string()),
                ..WireRoute::default()
            },
            None => WireRoute {
                id: Some(*id),
                ..WireRoute::default()
            },
        };
        let wire = gone.iter().map(name).collect();
        Some(self.send(now, Action::Delete, wire, false, Sent::Delete(gone)))
    }

    fn send(
        &mut self,
        now: u64,
        action: Action,
        routes: Vec<WireRoute>,
        more: bool,
        sent: Sent,
    ) -> IngressRoutes {
        self.sequence += 1;
        let at = Position {
            generation: self.generation,
            sequence: self.sequence,
        };
        self.in_flight = Some(InFlight {
            at,
            deadline: now.saturating_add(ACK_TIMEOUT),
            sent,
        });
        IngressRoutes {
            action,
            cluster_uuid: None,
            routes,
            generation: Some(at.generation),
            sequence: Some(at.sequence),
            more,
        }
    }

    /// The edge has done what the message says.
    fn confirm(&mut self, message: InFlight) {
        match message.sent {
            Sent::Part => return,
            Sent::Snapshot(routes) => {
                self.confirmed = routes;
                self.refusals = std::mem::take(&mut self.early_refusals);
                self.refusals.retain(|id, _| self.desired.contains_key(id));
                self.phase = Phase::Deltas;
                self.failures = 0;
            }
            Sent::Upsert(routes) => {
                for route in routes {
                    self.refusals.remove(&route.id);
                    self.confirmed.insert(route.id, route);
                }
            }
            Sent::Delete(ids) => {
                for id in ids {
                    self.confirmed.remove(&id);
                }
            }
        }
        self.acked = Some(message.at);
    }

    /// Next is a snapshot: at once the first time, after a growing pause when that happens again and again.
    fn start_over(&mut self, now: u64) {
        let pause = match self.failures {
            0 => 0,
            again => RETRY_FIRST
                .saturating_mul(1 << (again - 1).min(16))
                .min(RETRY_LONGEST),
        };
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now.saturating_add(pause);
        self.in_flight = None;
        self.phase = Phase::Unknown;
    }
}

/// Takes the routes of one message off the end.
fn take_part(rest: &mut Vec<Arc<Route>>) -> Vec<Arc<Route>> {
    let mut part = Vec::new();
    let mut bytes = 0;
    while part.len() < MAX_ROUTES_PER_MESSAGE
        && let Some(route) = rest.pop()
    {
        // Writing to memory cannot fail; if it did, the route would still be sent.
        bytes += serde_json::to_vec(&*route).map_or(0, |json| json.len());
        if bytes > MAX_ROUTES_BYTES && !part.is_empty() {
            rest.push(route);
            break;
        }
        part.push(route);
    }
    part
}
