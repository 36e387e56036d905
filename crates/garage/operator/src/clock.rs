//! The one place of this crate that reads the wall clock, and a clock that tests set. May not be used for
//! waiting: that is tokio's.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// What time it is: the wall clock, with an offset that is zero outside of tests.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<AtomicI64>);

impl Clock {
    /// The time.
    #[expect(
        clippy::disallowed_methods,
        reason = "the clock of this crate; planners get its times as facts"
    )]
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let offset = SignedDuration::from_secs(self.0.load(Ordering::Relaxed));
        Timestamp::now()
            .checked_add(offset)
            .unwrap_or(Timestamp::MAX)
    }

    /// Goes forward. Only tests do that.
    pub fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}
