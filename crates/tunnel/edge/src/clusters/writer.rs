//! The one thread that changes clusters. It takes the changes that wait, makes them in memory, puts
//! them on the disk together, and only then lets anybody see them. It may not judge a change.

use std::sync::{Arc, PoisonError, RwLockWriteGuard};
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use super::state::{Batch, State};
use super::{ClusterEvent, Shared, Snapshot};
use crate::error::Error;
use crate::store::Store;

/// Changes that go to the disk together, at most.
const TOGETHER: usize = 256;

/// A change, to be made or told why it cannot be tried; and how its maker is told in the end: with
/// nothing once the change is on the disk, or with why it is not.
pub(super) type Job = Box<dyn FnOnce(Result<(&mut State, &mut Batch), Error>) -> Tell + Send>;
pub(super) type Tell = Box<dyn FnOnce(Option<Error>) + Send>;

/// Starts the thread. It ends when nobody can send any more, and closes the store.
pub(super) fn start(
    shared: Arc<Shared>,
    store: Store,
    limit: usize,
    mut waiting: mpsc::Receiver<Job>,
) -> Result<JoinHandle<()>, Error> {
    let mut writer = Writer {
        shared,
        store,
        limit,
        ahead: false,
    };
    let write = move || {
        let mut jobs = Vec::new();
        while let Some(first) = waiting.blocking_recv() {
            jobs.push(first);
            while jobs.len() < TOGETHER
                && let Ok(job) = waiting.try_recv()
            {
                jobs.push(job);
            }
            writer.write_together(jobs.drain(..));
        }
    };
    std::thread::Builder::new()
        .name("edge-store".to_owned())
        .spawn(write)
        .map_err(Error::Thread)
}

struct Writer {
    shared: Arc<Shared>,
    store: Store,
    limit: usize,
    /// A write failed: memory has what the disk has not, and requests do not see it.
    ahead: bool,
}

impl Writer {
    /// Makes these changes, all or none.
    fn write_together(&mut self, jobs: impl Iterator<Item = Job>) {
        if self.ahead && !self.go_back() {
            for job in jobs {
                job(Err(Error::StoreClosed))(None);
            }
            return;
        }
        let mut batch = Batch::default();
        let tell: Vec<Tell> = {
            let mut state = self.state();
            jobs.map(|job| job(Ok((&mut state, &mut batch)))).collect()
        };
        let written = if batch.ops.is_empty() {
            Ok(())
        } else {
            self.store.write(&batch.ops)
        };
        match written {
            Ok(()) => {
                let mut state = self.state();
                if state.settle(&mut batch) {
                    self.publish(&state);
                }
                drop(state);
                announce(&self.shared, batch.events);
                tell.into_iter().for_each(|tell| tell(None));
            }
            Err(failure) => {
                let error = Error::from(failure.clone());
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "changes of clusters could not be kept"
                );
                self.ahead = true;
                self.go_back();
                tell.into_iter()
                    .for_each(|tell| tell(Some(failure.clone().into())));
            }
        }
    }

    /// Brings memory back to what the disk has; false if the disk cannot even be read. The disk may
    /// well have what it failed to confirm, and then that is what holds.
    fn go_back(&mut self) -> bool {
        match self.store.load() {
            Ok(contents) => {
                let mut state = self.state();
                *state = State::restore(contents, self.limit, Some(&state));
                self.publish(&state);
                drop(state);
                self.ahead = false;
                true
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the store cannot be read: the edge serves the routes it has and takes no changes until it can"
                );
                false
            }
        }
    }

    fn state(&self) -> RwLockWriteGuard<'_, State> {
        self.shared
            .state
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, state: &State) {
        let table = state.table();
        self.shared.snapshot.store(Arc::new(Snapshot { table }));
    }
}

/// Ends the connections of those that may no longer connect, and tells whoever listens.
fn announce(shared: &Shared, events: Vec<ClusterEvent>) {
    for event in events {
        match &event {
            ClusterEvent::TokenRevoked { cluster, token } => {
                cluster
                    .connections
                    .close_where(|connection| connection.token == *token);
            }
            ClusterEvent::Deleted(cluster) => {
                cluster.connections.close_where(|_| true);
                let mut departed = shared
                    .departed
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                departed.retain(|cluster| cluster.strong_count() > 0);
                departed.push(Arc::downgrade(cluster));
            }
            ClusterEvent::VerdictsChanged { .. } => {}
        }
        // Without a receiver there is nobody to tell.
        let _ = shared.events.send(event);
    }
}
