//! The one place of this crate that reads the wall clock. May not be used to decide anything: the
//! times it gives are written for people, decisions use the monotonic clock of tokio.

use k8s_openapi::jiff::Timestamp;

/// The present wall-clock time, for values that are written into objects and certificates.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the clock of this crate; its values are only written into objects"
)]
pub fn now() -> Timestamp {
    Timestamp::now()
}
