//! The one thread that changes clusters. It takes the changes that wait, makes them in memory, puts
//! them on the disk together, and only then lets anybody see them. It may not judge a change.

use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use super::state::{Batch, State};
use super::{ClusterEvent, Shared, Snapshot};
use crate::error::Error;
use crate::store::Store;

/// Changes that go to the disk together, at most.
const TOGETHER: usize = 256;

/// A change, and how its maker is told: with nothing once it is on the disk, or with why it is not.
pub(super) type Job = Box<dyn FnOnce(&mut State, &mut Batch) -> Tell + Send>;
type Tell = Box<dyn FnOnce(Option<Error>) + Send>;

/// Starts the thread. It ends when nobody can send any more, and closes the store.
pub(super) fn start(
    shared: Arc<Shared>,
    store: Store,
    limit: usize,
    mut waiting: mpsc::Receiver<Job>,
) -> Result<JoinHandle<()>, Error> {
    let write = move || {
        let mut jobs = Vec::new();
        while let Some(first) = waiting.blocking_recv() {
            jobs.push(first);
            while jobs.len() < TOGETHER
                && let Ok(job) = waiting.try_recv()
            {
                jobs.push(job);
            }
            if write_together(&shared, &store, limit, jobs.drain(..)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("edge-store".to_owned())
        .spawn(write)
        .map_err(Error::Thread)
}

/// Makes these changes, all or none. An error means that memory and disk can no longer be brought in
/// line; what requests see stays as it was.
fn write_together(
    shared: &Shared,
    store: &Store,
    limit: usize,
    jobs: impl Iterator<Item = Job>,
) -> Result<(), ()> {
    let mut batch = Batch::default();
    let tell: Vec<Tell> = {
        let mut state = shared.state.write().unwrap_or_else(PoisonError::into_inner);
        jobs.map(|job| job(&mut state, &mut batch)).collect()
    };
    let written = if batch.ops.is_empty() {
        Ok(())
    } else {
        store.write(&batch.ops)
    };
    match written {
        Ok(()) => {
            let mut state = shared.state.write().unwrap_or_else(PoisonError::into_inner);
            if state.settle(&mut batch) {
                shared.snapshot.store(Arc::new(Snapshot {
                    table: state.table(),
                }));
            }
            drop(state);
            announce(shared, batch.events);
            tell.into_iter().for_each(|tell| tell(None));
            Ok(())
        }
        Err(failure) => {
            let error = Error::from(failure.clone());
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "changes of clusters could not be kept"
            );
            // Memory is ahead of the disk; go back to what the disk has.
            let restored = store.load().map(|contents| {
                let mut state = shared.state.write().unwrap_or_else(PoisonError::into_inner);
                *state = State::restore(contents, limit, Some(&state));
            });
            tell.into_iter()
                .for_each(|tell| tell(Some(failure.clone().into())));
            restored.map_err(|error| {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the store cannot be read any more: the edge serves the routes it has and takes no changes until it is restarted"
                );
            })
        }
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
