//! The edge's side of a control connection: which message is the next one. May not apply anything; it says what to apply.

use std::collections::BTreeMap;

use crate::message::{Action, IngressRoutes, IngressRoutesAck, Position, Refused, WireRoute};
use crate::reason::RefusedReason;
use crate::registry::{Change, RouteSelector};
use crate::route::{MAX_ROUTES, Route};

/// What the edge has received on one control connection.
///
/// Create one per connection, after `register`, with the position that the store has for the cluster. If another
/// connection of the same cluster has changed the routes since, create it anew: the next delta then leads to a
/// snapshot instead of a change upon an unknown set.
#[derive(Debug)]
pub struct EdgeSession {
    /// What has been applied; `None`: nothing that a delta could continue.
    position: Option<Position>,
    staging: Option<Staging>,
    /// The last message that this connection brought and that was not refused.
    seen: Option<Position>,
    limit: usize,
}

/// A snapshot of which parts are missing.
#[derive(Debug)]
struct Staging {
    /// The last part that has arrived.
    at: Position,
    routes: Vec<WireRoute>,
}

/// What to do about a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Apply the change as a whole and store the position with it (`None`: forget the stored one), then answer with
    /// [`IngressRoutesAck::of_verdicts`]. If applying fails, call [`EdgeSession::apply_failed`].
    Apply {
        /// What changes.
        change: Change,
        /// Where the cluster's routes are then.
        position: Option<Position>,
    },
    /// Answer this; nothing changes (yet): a part of a snapshot, or a message that was applied before.
    Staged(IngressRoutesAck),
    /// Answer this; what was applied stays: the message does not continue it.
    Resync(IngressRoutesAck),
}

impl EdgeSession {
    /// A session that continues at `resume`, with room for [`MAX_ROUTES`] routes.
    #[must_use]
    pub fn new(resume: Option<Position>) -> Self {
        Self::with_limit(resume, MAX_ROUTES)
    }

    /// A session in which a snapshot in parts may have `limit` routes; those beyond it are refused at once.
    #[must_use]
    pub fn with_limit(resume: Option<Position>, limit: usize) -> Self {
        Self {
            position: resume,
            staging: None,
            seen: None,
            limit,
        }
    }

    /// What the session has passed on for applying.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// The last change could not be applied: nothing may continue it.
    #[must_use]
    pub fn apply_failed(&mut self) -> IngressRoutesAck {
        let failed = self.position.take();
        self.staging = None;
        self.seen = None;
        IngressRoutesAck::resync(failed)
    }

    /// Takes the next message.
    #[must_use]
    pub fn on_routes(&mut self, message: IngressRoutes) -> Step {
        let Some(at) = message.position() else {
            // A sender that does not count: applied as it stands, and no delta can continue from here.
            self.staging = None;
            self.seen = None;
            self.position = None;
            return Step::Apply {
                change: change(message.action, message.routes),
                position: None,
            };
        };
        // A snapshot stands for itself: only if this very connection has brought it before is it an old one.
        let past = match message.action {
            Action::Snapshot => self.seen,
            Action::Add | Action::Update | Action::Delete => self.seen.or(self.position),
        };
        if past.is_some_and(|past| past.generation == at.generation && at.sequence <= past.sequence)
        {
            return Step::Staged(IngressRoutesAck::at(Some(at)));
        }
        match (message.action, self.staging.take()) {
            (Action::Snapshot, _) => self.stage(Vec::new(), at, message),
            (Action::Add | Action::Update, Some(staging)) if follows(at, staging.at) => {
                self.stage(staging.routes, at, message)
            }
            (Action::Add | Action::Update | Action::Delete, None)
                if self.position.is_some_and(|applied| follows(at, applied)) =>
            {
                self.seen = Some(at);
                self.position = Some(at);
                Step::Apply {
                    change: change(message.action, message.routes),
                    position: Some(at),
                }
            }
            (Action::Add | Action::Update | Action::Delete, _) => {
                // Nothing that was seen counts any more, so that the snapshot to come is never taken for an old one.
                self.seen = None;
                Step::Resync(IngressRoutesAck::resync(Some(at)))
            }
        }
    }

    /// Adds a part to a snapshot; the last part makes it a change.
    fn stage(
        &mut self,
        mut routes: Vec<WireRoute>,
        at: Position,
        mut message: IngressRoutes,
    ) -> Step {
        self.seen = Some(at);
        if !message.more {
            // Applied as a whole by somebody who counts the routes.
            routes.append(&mut message.routes);
            self.position = Some(at);
            return Step::Apply {
                change: Change::Replace(routes),
                position: Some(at),
            };
        }
        let room = self
            .limit
            .saturating_sub(routes.len())
            .min(message.routes.len());
        let beyond = message.routes.split_off(room);
        routes.append(&mut message.routes);
        self.staging = Some(Staging { at, routes });
        Step::Staged(IngressRoutesAck {
            refused: refuse(beyond),
            ..IngressRoutesAck::at(Some(at))
        })
    }
}

fn follows(at: Position, before: Position) -> bool {
    at.generation == before.generation && before.sequence.checked_add(1) == Some(at.sequence)
}

fn change(action: Action, routes: Vec<WireRoute>) -> Change {
    match action {
        Action::Add | Action::Update => Change::Upsert(routes),
        Action::Delete => Change::Delete(routes.into_iter().map(RouteSelector::from).collect()),
        Action::Snapshot => Change::Replace(routes),
    }
}

/// Routes for which there is no room, each named once.
fn refuse(routes: Vec<WireRoute>) -> Vec<Refused> {
    let mut refused = BTreeMap::new();
    for wire in routes {
        if let Some(id) = wire
            .id
            .or_else(|| Route::try_from(wire).ok().map(|route| route.id))
        {
            refused.insert(id, Refused::new(id, "", "", RefusedReason::TooManyRoutes));
        }
    }
    refused.into_values().collect()
}
