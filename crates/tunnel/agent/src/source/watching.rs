//! The kernel's news about a folder of manifests. May not read the manifests.

use super::files::Interest;
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

/// An editor writes a file in several steps: wait until nothing happened for so long ...
const QUIET: Duration = Duration::from_millis(50);
/// ... but in a folder that never rests, no longer than this.
const PATIENCE: Duration = Duration::from_millis(400);
/// When the kernel refuses a watch, try again after this.
const RETRY: Duration = Duration::from_secs(1);

/// The kernel's news about the folder.
pub(super) struct Watching {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    signal: Arc<Signal>,
    /// A watched folder was gone or replaced when the last look began.
    stale: bool,
    error: Option<notify::Error>,
}

/// What the watcher's thread leaves for the task.
#[derive(Default)]
struct Signal {
    changed: Notify,
    news: Mutex<News>,
}

#[derive(Default)]
struct News {
    interest: Interest,
    /// A watched folder went away or came anew: its watch is dead, or is one of another folder.
    stale: bool,
}

impl Signal {
    fn news(&self) -> MutexGuard<'_, News> {
        // Each change is one assignment, so a panic elsewhere leaves nothing half done.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, event: notify::Result<notify::Event>) {
        let mut news = self.news();
        let matters = match event {
            Ok(event) => match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Create(_)
                | EventKind::Modify(_)
                | EventKind::Remove(_)
                | EventKind::Any
                | EventKind::Other => {
                    let moved = !matches!(event.kind, EventKind::Access(_));
                    let folder = |path: &PathBuf| {
                        news.interest.folders.contains(path) || news.interest.names.contains(path)
                    };
                    news.stale |= moved && event.paths.iter().any(folder);
                    event.need_rescan()
                        || event.paths.iter().any(|path| news.interest.concerns(path))
                }
                // Our own reading would otherwise cause the next one.
                EventKind::Access(_) => false,
            },
            // News may have been lost.
            Err(_) => {
                news.stale = true;
                true
            }
        };
        drop(news);
        if matters {
            self.changed.notify_one();
        }
    }
}

impl Watching {
    pub(super) fn new() -> Self {
        Self {
            watcher: None,
            watched: BTreeSet::new(),
            signal: Arc::default(),
            stale: false,
            error: None,
        }
    }

    /// Resolves when something changed and the folder has come to rest.
    pub(super) async fn changed(&self) {
        if self.error.is_some() {
            tokio::select! {
                () = self.signal.changed.notified() => {}
                () = sleep(RETRY) => return,
            }
        } else {
            self.signal.changed.notified().await;
        }
        let patience = Instant::now() + PATIENCE;
        loop {
            let quiet = (Instant::now() + QUIET).min(patience);
            if timeout_at(quiet, self.signal.changed.notified())
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// Why some of the folder is not watched.
    pub(super) fn error(&self) -> Option<&notify::Error> {
        self.error.as_ref()
    }

    /// The same, given away.
    pub(super) fn take_error(&mut self) -> Option<notify::Error> {
        self.error.take()
    }

    /// A look at the folder begins: from here on, what goes away makes the watches unfit.
    pub(super) fn begin(&mut self) {
        self.stale = std::mem::take(&mut self.signal.news().stale);
    }

    /// After a look: makes the watches fit what was seen. `false` if they did not, so that the look
    /// may have missed something and must be repeated.
    pub(super) fn fit(&mut self, interest: Interest) -> bool {
        let watched = interest.watched();
        let fits = watched == self.watched && !self.stale && self.error.is_none();
        self.signal.news().interest = interest;
        if fits && self.watcher.is_some() {
            return true;
        }
        self.watch(watched);
        // Without watches a repeated look is no better.
        self.error.is_some()
    }

    /// Makes [`Watching::changed`] resolve although nothing was heard.
    pub(super) fn again(&self) {
        self.signal.changed.notify_one();
    }

    /// Watches these folders and no others. A new watcher each time: one that lives on keeps
    /// watches of folders that were replaced by others of the same name.
    fn watch(&mut self, folders: BTreeSet<PathBuf>) {
        let signal = self.signal.clone();
        let watcher = notify::recommended_watcher(move |event| signal.take(event));
        self.error = None;
        let mut watcher = match watcher {
            Ok(watcher) => watcher,
            Err(error) => {
                self.error = Some(error);
                return;
            }
        };
        for folder in &folders {
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => {}
                // Gone since it was read; the next round reads without it.
                Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
                Err(error) => self.error = Some(error),
            }
        }
        self.watcher = Some(watcher);
        self.watched = folders;
    }
}
