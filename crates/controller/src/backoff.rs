//! How long to leave an object alone after its writes failed. Pure: the time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Exponential delays, one series per object, so that a broken one does not slow the others.
#[derive(Debug, Clone)]
pub struct Backoff<K> {
    first: Duration,
    longest: Duration,
    failing: BTreeMap<K, Failing>,
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    times: u32,
    last: Instant,
    due: Instant,
}

impl<K: Ord + Clone> Backoff<K> {
    /// The delay is `first` after one failure and doubles up to `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failing: BTreeMap::new(),
        }
    }

    /// Notes a failure; returns when the object is due again.
    pub fn failed(&mut self, key: &K, now: Instant) -> Instant {
        let times = self.failing.get(key).map_or(0, |failing| failing.times);
        let delay = self
            .first
            .saturating_mul(2_u32.saturating_pow(times))
            .min(self.longest);
        let due = now + delay;
        let times = times.saturating_add(1);
        let failing = Failing {
            times,
            last: now,
            due,
        };
        self.failing.insert(key.clone(), failing);
        due
    }

    /// Forgets the failures of an object.
    pub fn succeeded(&mut self, key: &K) {
        self.failing.remove(key);
    }

    /// Whether an object may be tried.
    #[must_use]
    pub fn is_due(&self, key: &K, now: Instant) -> bool {
        self.failing
            .get(key)
            .is_none_or(|failing| failing.due <= now)
    }

    /// When an object failed last, if it has since its last success.
    #[must_use]
    pub fn last_failure(&self, key: &K) -> Option<Instant> {
        self.failing.get(key).map(|failing| failing.last)
    }

    /// How many objects are failing.
    #[must_use]
    pub fn len(&self) -> usize {
        self.failing.len()
    }

    /// Whether no object is failing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.failing.is_empty()
    }

    /// When the next failing object is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.failing.values().map(|failing| failing.due).min()
    }

    /// Forgets objects that no longer exist.
    pub fn retain(&mut self, mut exists: impl FnMut(&K) -> bool) {
        self.failing.retain(|key, _| exists(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn delays_double_up_to_the_longest_and_start_anew_after_a_success() {
        let now = Instant::now();
        let mut backoff = Backoff::new(seconds(1), seconds(5));
        let delays: Vec<_> = (0..5).map(|_| backoff.failed(&"a", now) - now).collect();
        assert_eq!(delays, [1, 2, 4, 5, 5].map(seconds));
        backoff.succeeded(&"a");
        assert_eq!(backoff.failed(&"a", now) - now, seconds(1));
    }

    #[test]
    fn a_failing_object_does_not_hold_up_another() {
        let now = Instant::now();
        let mut backoff = Backoff::new(seconds(1), seconds(5));
        backoff.failed(&"a", now);
        assert!(!backoff.is_due(&"a", now));
        assert!(backoff.is_due(&"b", now));
        assert_eq!(backoff.next_due(), Some(now + seconds(1)));
        assert!(backoff.is_due(&"a", now + seconds(1)));
    }

    #[test]
    fn objects_that_are_gone_are_forgotten() {
        let now = Instant::now();
        let mut backoff = Backoff::new(seconds(1), seconds(5));
        backoff.failed(&"a", now);
        backoff.retain(|key| *key != "a");
        assert_eq!(backoff.next_due(), None);
    }

    #[test]
    fn very_many_failures_do_not_overflow() {
        let now = Instant::now();
        let mut backoff = Backoff::new(seconds(1), seconds(300));
        for _ in 0..100 {
            backoff.failed(&"a", now);
        }
        assert_eq!(backoff.next_due(), Some(now + seconds(300)));
    }
}
