//! What is counted of one cluster's traffic. Recording is a few atomic additions: no lock, no look-up,
//! no allocation but the first of a status class. It may not know names or how metrics are written.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the duration histogram, in microseconds; the last bucket has none.
const BOUNDS: [u64; 10] = [
    1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 15_000_000, 60_000_000,
];

/// Counters of one cluster, or of the requests that belong to none.
#[derive(Debug, Default)]
pub struct ClusterStats {
    /// By hundreds of the status, then by the rest: few clusters see more than three classes.
    statuses: [OnceLock<Box<[AtomicU64; 100]>>; 5],
    durations: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
    routes: AtomicU64,
}

/// The duration histogram at one moment.
#[derive(Debug, PartialEq)]
pub(crate) struct Durations {
    /// Upper bound in seconds (infinite for the last) and the number of requests in that bucket alone.
    pub(crate) buckets: Vec<(f64, u64)>,
    /// Seconds of all requests together.
    pub(crate) sum: f64,
    /// Number of requests.
    pub(crate) count: u64,
}

impl ClusterStats {
    /// Counts a request that was answered with `status` after `duration`. A status outside 100..=599
    /// counts as 599.
    pub fn record(&self, status: u16, duration: Duration) {
        let status = if (100..600).contains(&status) {
            usize::from(status)
        } else {
            599
        };
        let class = self.statuses[status / 100 - 1]
            .get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
        class[status % 100].fetch_add(1, Relaxed);
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS
            .iter()
            .position(|&bound| microseconds <= bound)
            .unwrap_or(BOUNDS.len());
        self.durations[bucket].fetch_add(1, Relaxed);
        self.microseconds.fetch_add(microseconds, Relaxed);
    }

    /// Requests answered so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.durations.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Requests answered with a status of 500 or above so far.
    #[must_use]
    pub fn server_errors(&self) -> u64 {
        self.by_status()
            .filter(|&(status, _)| status >= 500)
            .map(|(_, count)| count)
            .sum()
    }

    /// Routes that requests can reach.
    #[must_use]
    pub fn active_routes(&self) -> u64 {
        self.routes.load(Relaxed)
    }

    pub(crate) fn set_active_routes(&self, routes: usize) {
        self.routes.store(routes as u64, Relaxed);
    }

    /// Each status that was answered and how often, lowest first.
    pub(crate) fn by_status(&self) -> impl Iterator<Item = (u16, u64)> {
        (1_u16..).zip(&self.statuses).flat_map(|(class, counts)| {
            let counts = counts
                .get()
                .map(|counts| counts.iter())
                .into_iter()
                .flatten();
            (0_u16..).zip(counts).filter_map(move |(rest, count)| {
                let count = count.load(Relaxed);
                (count > 0).then_some((class * 100 + rest, count))
            })
        })
    }

    pub(crate) fn durations(&self) -> Durations {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a metric's seconds; 2^53 microseconds are 285 years"
        )]
        let seconds = |microseconds: u64| microseconds as f64 / 1e6;
        let bounds = BOUNDS
            .iter()
            .map(|&bound| seconds(bound))
            .chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds
            .zip(&self.durations)
            .map(|(bound, count)| (bound, count.load(Relaxed)))
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        Durations {
            buckets,
            sum: seconds(self.microseconds.load(Relaxed)),
            count,
        }
    }
}

/// When a cluster was last heard of. It lives as long as the process: after a restart a cluster counts
/// as silent until it speaks.
#[derive(Debug, Default)]
pub struct Lease {
    last: AtomicU64,
}

impl Lease {
    /// Notes a heartbeat at `now` (Unix milliseconds). An older one than the last changes nothing.
    pub fn renew(&self, now: u64) {
        self.last.fetch_max(now, Relaxed);
    }

    /// Milliseconds from the last heartbeat to `now`; `None` if there was none.
    #[must_use]
    pub fn age(&self, now: u64) -> Option<u64> {
        match self.last.load(Relaxed) {
            0 => None,
            last => Some(now.saturating_sub(last)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_counted_one_by_one() {
        let stats = ClusterStats::default();
        for status in [200, 404, 200, 503, 101, 599, 0, 700, u16::MAX] {
            stats.record(status, Duration::ZERO);
        }
        let counted: Vec<_> = stats.by_status().collect();
        assert_eq!(counted, [(101, 1), (200, 2), (404, 1), (503, 1), (599, 4)]);
        assert_eq!((stats.requests(), stats.server_errors()), (9, 5));
    }

    #[test]
    fn durations_fall_into_the_first_bucket_that_holds_them() {
        let stats = ClusterStats::default();
        for microseconds in [0, 1_000, 1_001, 70_000_000] {
            stats.record(200, Duration::from_micros(microseconds));
        }
        let durations = stats.durations();
        let counts: Vec<u64> = durations.buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!((durations.count, durations.buckets[0].0), (4, 0.001));
        assert!((durations.sum - 70.002_001).abs() < 1e-9);
    }

    #[test]
    fn a_lease_ages_and_does_not_go_back() {
        let lease = Lease::default();
        assert_eq!(lease.age(5), None);
        lease.renew(100);
        lease.renew(90);
        assert_eq!((lease.age(150), lease.age(50)), (Some(50), Some(0)));
    }
}
