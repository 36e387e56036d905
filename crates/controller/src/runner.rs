//! Runs one controller: which object is reconciled when, how often after an error, and what is
//! counted. May not know what reconciling is.

use crate::backoff::Backoff;
use crate::metrics::{Metrics, Outcome};
use futures_util::{FutureExt as _, StreamExt as _};
use kube::runtime::controller::{Action, Config, Error as Trigger};
use kube::runtime::{Controller, watcher};
use kube::{Resource, ResourceExt};
use prometheus_client::metrics::gauge::Gauge;
use serde::de::DeserializeOwned;
use std::any::Any;
use std::collections::hash_map::DefaultHasher;
use std::convert::Infallible;
use std::error::Error;
use std::fmt::Debug;
use std::hash::{Hash as _, Hasher as _};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How a controller runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The label `controller` of its metrics, and its name in the log.
    pub name: String,
    /// How many objects are reconciled at a time, at least one. Never one object twice.
    pub concurrency: u16,
    /// How soon an object is looked at again although nothing has changed. Each object gets its own
    /// share of three to five quarters of it, so that they do not come all at once.
    pub resync: Duration,
    /// The delay after a first error; it doubles with each further one of the same object.
    pub first_retry: Duration,
    /// The longest delay after an error.
    pub longest_retry: Duration,
}

impl Settings {
    /// Four at a time, every hour, retries after 1 s up to 5 min.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            concurrency: 4,
            resync: Duration::from_secs(3600),
            first_retry: Duration::from_secs(1),
            longest_retry: Duration::from_secs(300),
        }
    }
}

/// When an object that was reconciled is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// When something changes, at the latest with the resync.
    Settled,
    /// After this time, or when something changes.
    After(Duration),
}

/// Reconciles the objects of a controller until `cancel`; then lets what has begun come to its end.
///
/// An error is logged with its chain, counted under `category(&error)` and tried again with a delay
/// of its own for each object. A panic is an error of its object, of the category `panic`. While an
/// object fails, changes bring the next attempt forward, but not below [`Settings::first_retry`].
///
/// `controller` comes from [`crate::Watched::controller`] or [`Controller::new`]; its concurrency
/// and its end are set here.
pub async fn run<K, R, F, E>(
    controller: Controller<K>,
    settings: Settings,
    metrics: Metrics,
    cancel: CancellationToken,
    category: fn(&E) -> &'static str,
    reconcile: R,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    R: Fn(Arc<K>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Next, E>> + Send + 'static,
    E: Error + Send + Sync + 'static,
{
    let running = Arc::new(Running {
        retries: Mutex::new(Backoff::new(settings.first_retry, settings.longest_retry)),
        in_flight: metrics.running(&settings.name),
        failing: metrics.failing(&settings.name),
        metrics,
        category,
        settings,
    });
    let reconcile = Arc::new(reconcile);
    let one = move |object: Arc<K>, running: Arc<Running<E>>| {
        let reconcile = reconcile.clone();
        async move {
            let key = key(&object.namespace().unwrap_or_default(), &object.name_any());
            // Also calling the closure may panic, so it is called inside.
            let action = running
                .one(&key, async move { reconcile(object).await })
                .await;
            Ok::<_, Infallible>(action)
        }
    };
    let never = |_: Arc<K>, error: &Infallible, _: Arc<Running<E>>| match *error {};
    let config = Config::default().concurrency(running.settings.concurrency.max(1));
    let events = controller
        .with_config(config)
        .graceful_shutdown_on(cancel.cancelled_owned())
        .run(one, never, running.clone());
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(_) => {}
            // Deleted meanwhile: what we knew about it is forgotten.
            Err(Trigger::ObjectNotFound(gone)) => {
                running.forget(&key(
                    gone.namespace.as_deref().unwrap_or_default(),
                    &gone.name,
                ));
            }
            Err(Trigger::ReconcilerFailed(never, _)) => match never {},
            Err(Trigger::QueueError(error)) => running.watch_failed(&error),
            Err(Trigger::RunnerError(error)) => {
                let error = &error as &dyn Error;
                tracing::error!(
                    controller = running.settings.name,
                    error,
                    "a controller has ended"
                );
            }
        }
    }
    running.in_flight.set(0);
    running.failing.set(0);
}

/// Namespace and name.
type Key = (String, String);

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

/// The state of a running controller.
struct Running<E> {
    settings: Settings,
    metrics: Metrics,
    category: fn(&E) -> &'static str,
    retries: Mutex<Backoff<Key>>,
    in_flight: Gauge,
    failing: Gauge,
}

impl<E: Error + 'static> Running<E> {
    /// Reconciles one object, unless it has just failed.
    async fn one(&self, key: &Key, reconcile: impl Future<Output = Result<Next, E>>) -> Action {
        let last = self.retries(|retries| retries.last_failure(key));
        if let Some(last) = last {
            // A failing object that writes its status would otherwise wake itself without end.
            let soonest = last + self.settings.first_retry;
            let now = Instant::now();
            if now < soonest {
                return Action::requeue(soonest - now);
            }
        }
        let begun = Instant::now();
        let counted = InFlight::new(&self.in_flight);
        let ended = AssertUnwindSafe(reconcile).catch_unwind().await;
        drop(counted);
        let took = begun.elapsed();
        let name = &self.settings.name;
        let (namespace, object) = key;
        let action = match ended {
            Ok(Ok(next)) => {
                self.retries(|retries| retries.succeeded(key));
                let (outcome, again) = match next {
                    Next::Settled => (Outcome::Settled, spread(self.settings.resync, key)),
                    Next::After(delay) => (Outcome::Again, delay),
                };
                self.metrics.reconciled(name, outcome, took);
                Action::requeue(again)
            }
            Ok(Err(error)) => {
                let category = (self.category)(&error);
                let delay = self.failed(key, category, took);
                let error = &error as &dyn Error;
                tracing::warn!(
                    controller = name, namespace, name = object, category, error,
                    again_in = ?delay, "cannot reconcile"
                );
                Action::requeue(delay)
            }
            Err(panic) => {
                let delay = self.failed(key, "panic", took);
                let panic = text(&*panic);
                tracing::error!(
                    controller = name, namespace, name = object, panic,
                    again_in = ?delay, "a reconciliation has panicked; this is a bug"
                );
                Action::requeue(delay)
            }
        };
        self.failing
            .set(self.retries(|retries| count(retries.len())));
        action
    }

    fn failed(&self, key: &Key, category: &str, took: Duration) -> Duration {
        let name = &self.settings.name;
        self.metrics.reconciled(name, Outcome::Error, took);
        self.metrics.failed(name, category);
        let now = Instant::now();
        self.retries(|retries| retries.failed(key, now)) - now
    }

    fn forget(&self, key: &Key) {
        self.retries(|retries| retries.succeeded(key));
        self.failing
            .set(self.retries(|retries| count(retries.len())));
    }

    fn watch_failed(&self, error: &watcher::Error) {
        let name = &self.settings.name;
        self.metrics.failed(name, "watch");
        let error = error as &dyn Error;
        tracing::warn!(
            controller = name,
            error,
            "cannot watch objects; trying again"
        );
    }

    fn retries<T>(&self, use_: impl FnOnce(&mut Backoff<Key>) -> T) -> T {
        // No code that could panic runs under the lock.
        use_(&mut self.retries.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Counts an object as in flight for as long as it lives, also when its task is aborted.
struct InFlight<'a>(&'a Gauge);

impl<'a> InFlight<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Three to five quarters of `period`, the same for the same object.
fn spread(period: Duration, key: &Key) -> Duration {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let share = (hasher.finish() % 1000) as u32;
    period * 3 / 4 + period / 2 * share / 1000
}

/// What a panic said.
fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("broken")]
    struct Broken;

    fn running() -> Running<Broken> {
        let metrics = Metrics::new();
        Running {
            settings: Settings::new("test"),
            category: |_| "broken",
            retries: Mutex::new(Backoff::new(
                Duration::from_secs(1),
                Duration::from_secs(300),
            )),
            in_flight: metrics.running("test"),
            failing: metrics.failing("test"),
            metrics,
        }
    }

    async fn fail() -> Result<Next, Broken> {
        Err(Broken)
    }

    #[tokio::test(start_paused = true)]
    async fn errors_and_panics_delay_their_own_object_and_are_counted() {
        let running = running();
        let (a, b) = (key("n", "a"), key("n", "b"));
        assert_eq!(
            running.one(&a, fail()).await,
            Action::requeue(Duration::from_secs(1))
        );
        // Woken at once, by its own status for instance.
        assert_eq!(
            running.one(&a, fail()).await,
            Action::requeue(Duration::from_secs(1))
        );
        let fine = running.one(&b, async { Ok(Next::After(Duration::from_secs(7))) });
        assert_eq!(fine.await, Action::requeue(Duration::from_secs(7)));
        tokio::time::advance(Duration::from_secs(1)).await;
        let panicking = running.one(&a, async { panic!("at {}", 1) });
        assert_eq!(panicking.await, Action::requeue(Duration::from_secs(2)));
        assert_eq!(running.failing.get(), 1);
        assert_eq!(running.in_flight.get(), 0);
        tokio::time::advance(Duration::from_secs(2)).await;
        let resync = running.one(&a, async { Ok(Next::Settled) }).await;
        assert_eq!(resync, Action::requeue(spread(running.settings.resync, &a)));
        assert_eq!(running.failing.get(), 0);
        let text = running.metrics.encode();
        for line in [
            r#"gatewright_reconcile_total{controller="test",result="error"} 2"#,
            r#"gatewright_reconcile_total{controller="test",result="settled"} 1"#,
            r#"gatewright_reconcile_total{controller="test",result="again"} 1"#,
            r#"gatewright_reconcile_errors_total{controller="test",category="broken"} 1"#,
            r#"gatewright_reconcile_errors_total{controller="test",category="panic"} 1"#,
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn a_thousand_objects_are_spread_over_half_a_period() {
        let hour = Duration::from_secs(3600);
        let mut quarters = [0; 4];
        for n in 0..1000 {
            let delay = spread(hour, &key("n", &n.to_string()));
            assert!(delay >= hour * 3 / 4 && delay < hour * 5 / 4, "{delay:?}");
            quarters[((delay - hour * 3 / 4).as_secs() / 450) as usize] += 1;
        }
        assert!(quarters.iter().all(|n| *n > 150), "{quarters:?}");
    }
}
