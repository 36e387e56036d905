//! How long to wait before dialling again. Pure: randomness is an argument.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);
/// A connection that lived this long starts the count anew.
pub(crate) const HEALTHY: Duration = Duration::from_secs(30);

/// Full jitter: anywhere between nothing and twice the last bound, at most 30 s. `random` is in
/// 0..1, `failures` counts from 1.
pub(crate) fn full_jitter(failures: u32, random: f64) -> Duration {
    let bound = FIRST
        .saturating_mul(1 << failures.saturating_sub(1).min(16))
        .min(LONGEST);
    bound.mul_f64(random.clamp(0.0, 1.0))
}

/// After a refused credential: slowly, for somebody has to change something first, but for ever,
/// for a restored credential must be enough.
pub(crate) fn refused(random: f64) -> Duration {
    Duration::from_secs(15) + Duration::from_secs(15).mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_to_thirty_seconds() {
        let bounds: Vec<_> = (1..=9).map(|n| full_jitter(n, 1.0).as_millis()).collect();
        assert_eq!(
            bounds,
            [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]
        );
        assert_eq!(full_jitter(5, 0.0), Duration::ZERO);
        assert_eq!(full_jitter(u32::MAX, 0.5), Duration::from_secs(15));
    }

    #[test]
    fn flaw_13_a_refused_credential_is_tried_again() {
        assert_eq!(refused(0.0), Duration::from_secs(15));
        assert_eq!(refused(1.0), Duration::from_secs(30));
    }
}
