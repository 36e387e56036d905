//! The one place of this crate that reads the wall clock. May not be called by anything pure.

/// Now, in milliseconds since the Unix epoch. A clock set before the epoch reads as the epoch.
pub(crate) fn unix_millis() -> u64 {
    u64::try_from(now().as_millisecond()).unwrap_or(0)
}

/// Now, in microseconds since the Unix epoch.
pub(crate) fn unix_micros() -> i64 {
    now().as_microsecond()
}

/// Now, in seconds since the Unix epoch.
pub(crate) fn unix_seconds() -> i64 {
    now().as_second()
}

/// Now as RFC 3339 text in UTC with milliseconds, as control messages and logs carry it.
pub(crate) fn rfc3339() -> String {
    format!("{:.3}", now())
}

/// A time of the past as RFC 3339 text in UTC with seconds; empty when `seconds` is out of range.
pub(crate) fn rfc3339_of(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map(|time| time.to_string())
        .unwrap_or_default()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the crate's one reading of the wall clock"
)]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        let text = rfc3339();
        assert_eq!(
            (text.len(), &text[10..11], &text[23..]),
            (24, "T", "Z"),
            "{text}"
        );
        assert_eq!(rfc3339_of(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339_of(i64::MAX), "");
    }

    #[test]
    fn seconds_and_milliseconds_agree() {
        let before = unix_seconds();
        let between = i64::try_from(unix_millis()).unwrap() / 1000;
        assert!(before <= between && between <= unix_seconds());
    }
}
