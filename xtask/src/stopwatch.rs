//! The one place of xtask that reads a clock. It may not decide anything.

use std::time::{Duration, Instant};

/// The monotonic clock now.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place of this crate that reads the clock"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Asks `done` every `pause` until it says yes (`true`) or `limit` is over (`false`).
pub(crate) fn poll(limit: Duration, pause: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = now() + limit;
    loop {
        if done() {
            return true;
        }
        if now() >= end {
            return false;
        }
        std::thread::sleep(pause);
    }
}
