//! What all controllers of the wing share: the door to the apiserver, clients of Admin APIs, and what
//! is remembered between rounds. May not decide.

use crate::admin;
use crate::farewell::Farewells;
use crate::grants::Grants;
use crate::random;
use crate::tokens::Tokens;
use gatewright_controller::{Ctx, Namespaces};
use gatewright_garage::identity::NodeId;
use gatewright_garage::layout::{Change, Redundancy, Seen};
use gatewright_garage::objects::secrets;
use gatewright_garage::secret::Redacted;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How the operator runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it acts.
    pub namespaces: Namespaces,
    /// Where the operator keeps what has to outlive the namespaces it acts in; `None`: in memory.
    pub own_namespace: Option<String>,
    /// Image of clusters that name none.
    pub image: String,
    /// How soon a cluster that is as asked is looked at again. Each look asks the storage cluster's
    /// Admin API twice.
    pub poll: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespaces: Namespaces::default(),
            own_namespace: None,
            image: "dxflrs/garage:v2.5.0".to_owned(),
            poll: Duration::from_secs(60),
        }
    }
}

/// Shared by all reconciliations.
pub struct Operator {
    pub(crate) ctx: Ctx,
    pub(crate) options: Options,
    layouts: Mutex<BTreeMap<Layout, Arc<tokio::sync::Mutex<Known>>>>,
    clients: Mutex<BTreeMap<String, admin::Client>>,
    /// Of all clients, by whether they use TLS.
    connections: Mutex<BTreeMap<bool, admin::Connections>>,
    patience: Mutex<BTreeMap<String, Patience>>,
    /// How long another operator may take from staging a layout to applying it.
    pub(crate) patience_with_others: Duration,
    pub(crate) farewells: Farewells,
    pub(crate) grants: Grants,
    /// Admin tokens of storage elsewhere, as they worked last.
    pub(crate) tokens: Tokens,
}

/// Whose layout: changes of one are made one after the other, whoever wants them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Layout {
    /// Of a GarageCluster.
    Cluster { namespace: String, name: String },
    /// Of a storage cluster elsewhere, by the address of its Admin API.
    External(String),
}

/// What is remembered of a layout, so that a cluster at rest is asked little.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// A version that was seen settled, with nothing staged, and its redundancy.
    pub(crate) settled: Option<(u64, Option<Redundancy>)>,
    /// The replication factor, which cannot change.
    pub(crate) factor: Option<u32>,
    /// The nodes of all our objects in it, also of those that are gone.
    pub(crate) ours: BTreeSet<NodeId>,
    /// What is staged on which version, and since when it is known to be.
    staged: Option<(u64, Vec<Change>, Instant)>,
    /// The version that not all nodes have confirmed, and since when it is known to be in force.
    settling: Option<(u64, Instant)>,
}

/// Longer than a call that changes a layout takes from being sent to being seen.
pub(crate) const UNDER_WAY: Duration = Duration::from_secs(2);

/// How long nodes may take to confirm a layout before those that leave are ended without. One that is well
/// takes less than a second.
const CONFIRMATION: Duration = Duration::from_secs(5);

impl Known {
    /// Remembers the nodes of one object; those of all others.
    pub(crate) fn kin(&mut self, own: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let kin = self.ours.difference(own).copied().collect();
        self.ours.extend(own);
        kin
    }

    /// Whether this version has not settled for longer than nodes take that are well.
    pub(crate) fn overdue(&mut self, layout: &Seen) -> bool {
        let settling = layout.history.as_ref();
        if settling.is_none_or(|history| history.draining.is_empty()) {
            self.settling = None;
            return false;
        }
        let known = self
            .settling
            .filter(|(version, _)| *version == layout.version);
        let (_, since) = *self
            .settling
            .insert(known.unwrap_or((layout.version, Instant::now())));
        since.elapsed() >= CONFIRMATION
    }

    /// How long what is staged has stood as it is, and whether that is longer than another operator would
    /// leave it. Each has a patience of its own, so that two do not revert at once.
    pub(crate) fn staged(&mut self, layout: &Seen, patience: Duration) -> (Duration, bool) {
        let since = match self.staged.take() {
            Some((version, staged, since))
                if version == layout.version && staged == layout.staged =>
            {
                since
            }
            _ => Instant::now(),
        };
        let stood = since.elapsed();
        let abandoned = stood >= patience;
        // Whoever stages the same again has all the time again.
        if !abandoned && !layout.staged.is_empty() {
            self.staged = Some((layout.version, layout.staged.clone(), since));
        }
        (stood, abandoned)
    }
}

/// What an object waits for, and since when.
#[derive(Debug, Clone)]
struct Patience {
    what: String,
    since: Instant,
}

impl Patience {
    /// An eighth of what it has waited already: that much later it is noticed at worst, however often
    /// events lead to a look in between.
    fn delay(waited: Duration) -> Duration {
        (waited / 8).clamp(Duration::from_millis(300), Duration::from_secs(30))
    }
}

impl Operator {
    /// `ctx` writes for the controller `garage`.
    #[must_use]
    pub fn new(ctx: Ctx, options: Options) -> Self {
        let tokens = Tokens::new(options.own_namespace.clone());
        Self {
            ctx,
            options,
            layouts: Mutex::default(),
            clients: Mutex::default(),
            connections: Mutex::default(),
            patience: Mutex::default(),
            patience_with_others: Duration::from_millis(5000 + 40 * u64::from(random::byte())),
            farewells: Farewells::default(),
            grants: Grants::default(),
            tokens,
        }
    }

    /// What is known of a layout, and the right to change it.
    pub(crate) async fn layout(&self, layout: Layout) -> tokio::sync::OwnedMutexGuard<Known> {
        let known = lock(&self.layouts).entry(layout).or_default().clone();
        known.lock_owned().await
    }

    /// A client of the Admin API at `base`; kept, so that connections are.
    pub(crate) fn admin(
        &self,
        base: &str,
        token: &Redacted<String>,
    ) -> Result<admin::Client, admin::Error> {
        let hash = secrets::hash(&[Some(token.expose().as_bytes())]);
        let key = format!("{base} {hash}");
        let mut clients = lock(&self.clients);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = admin::Client::over(&self.connections(base)?, base, token.clone())?;
        // Pods come and go, each with an address of its own.
        if clients.len() > 1024 {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }

    fn connections(&self, base: &str) -> Result<admin::Connections, admin::Error> {
        let tls = base.starts_with("https:");
        let mut all = lock(&self.connections);
        if let Some(connections) = all.get(&tls) {
            return Ok(connections.clone());
        }
        // A Garage that ends waits ten seconds for open connections. Those of a pod cost little to make.
        let settings = admin::Settings {
            idle_connections: usize::from(tls),
            ..admin::Settings::default()
        };
        let connections = admin::Connections::new(base, settings)?;
        all.insert(tls, connections.clone());
        Ok(connections)
    }

    /// When to look again at an object that waits: soon at first, less often the longer it waits for
    /// the same thing.
    pub(crate) fn again(&self, object: &str, what: &str) -> Duration {
        let now = Instant::now();
        let mut patience = lock(&self.patience);
        if let Some(known) = patience.get(object).filter(|known| known.what == what) {
            return Patience::delay(now - known.since);
        }
        let what = what.to_owned();
        patience.insert(object.to_owned(), Patience { what, since: now });
        Patience::delay(Duration::ZERO)
    }

    /// The object waits for nothing any more.
    pub(crate) fn rests(&self, object: &str) {
        lock(&self.patience).remove(object);
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that could panic runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatewright_garage::identity::NodeId;
    use gatewright_garage::layout::History;

    #[tokio::test(start_paused = true)]
    async fn what_somebody_stages_is_abandoned_in_time_and_anew_each_time() {
        let patience = Duration::from_secs(7);
        let id: NodeId = "ab".repeat(32).parse().expect("an id");
        let staged = Seen {
            staged: vec![Change::Remove(id)],
            ..Seen::default()
        };
        let mut known = Known::default();
        for _ in 0..2 {
            assert!(!known.staged(&staged, patience).1);
            tokio::time::advance(Duration::from_secs(6)).await;
            assert!(!known.staged(&staged, patience).1);
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(known.staged(&staged, patience).1);
        }
        // Between two looks it was applied, and staged again.
        assert!(!known.staged(&staged, patience).1);
        tokio::time::advance(Duration::from_secs(6)).await;
        let again = Seen {
            version: 1,
            ..staged.clone()
        };
        assert!(!known.staged(&again, patience).1);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(!known.staged(&again, patience).1);
        // Or reverted.
        assert!(!known.staged(&Seen::default(), patience).1);
        assert!(!known.staged(&again, patience).1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_is_overdue_when_it_has_been_settling_for_long() {
        let settling = |version: u64, draining: &[u64]| Seen {
            version,
            history: Some(History {
                draining: draining.iter().copied().collect(),
                ..History::default()
            }),
            ..Seen::default()
        };
        let mut known = Known::default();
        let almost = CONFIRMATION.saturating_sub(Duration::from_millis(1));
        assert!(!known.overdue(&settling(2, &[1])));
        tokio::time::advance(almost).await;
        assert!(!known.overdue(&settling(2, &[1])));
        // Another one has come.
        assert!(!known.overdue(&settling(3, &[1, 2])));
        tokio::time::advance(almost).await;
        assert!(!known.overdue(&settling(3, &[1, 2])));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(known.overdue(&settling(3, &[1, 2])));
        assert!(!known.overdue(&settling(3, &[])));
        assert!(!known.overdue(&settling(3, &[2])));
    }

    #[test]
    fn an_object_that_waits_is_seen_an_eighth_late_at_worst() {
        let seconds = Duration::from_secs;
        assert_eq!(Patience::delay(Duration::ZERO), Duration::from_millis(300));
        assert_eq!(Patience::delay(seconds(16)), seconds(2));
        assert_eq!(Patience::delay(seconds(3600)), seconds(30));
    }
}
