//! Any bytes as the host of a request and as a pattern. May not assume UTF-8.
#![no_main]

use gatewright_names::{HostPattern, Hostname, WildcardMode, normalise_authority};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut buf = [0; 256];
    let fast = normalise_authority(bytes, &mut buf);
    let Ok(text) = str::from_utf8(bytes) else {
        assert_eq!(fast, None);
        return;
    };
    let slow = Hostname::from_authority(text);
    assert_eq!(fast, slow.as_ref().ok().map(Hostname::as_str), "{text:?}");
    match slow {
        Ok(name) => {
            let normal = name.as_str();
            assert!(normal.len() <= 253 && !normal.ends_with('.'));
            assert!(
                normal
                    .split('.')
                    .all(|label| (1..=63).contains(&label.len()))
            );
            assert!(
                normal
                    .bytes()
                    .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
            );
            assert_eq!(
                Hostname::parse(normal),
                Ok(name.clone()),
                "the normal form is its own"
            );
            assert_eq!(
                Hostname::parse(&normal.to_ascii_uppercase()),
                Ok(name.clone())
            );
            assert!(normal.parse::<std::net::IpAddr>().is_err());
        }
        Err(error) => assert!(
            error.to_string().chars().all(|c| !c.is_control()),
            "{error:?}"
        ),
    }
    for mode in [WildcardMode::OneLabel, WildcardMode::ManyLabels] {
        if let Ok(pattern) = HostPattern::parse(text, mode) {
            assert_eq!(
                HostPattern::parse(&pattern.to_string(), mode),
                Ok(pattern.clone())
            );
            assert!(pattern.covers(&pattern));
            match &pattern {
                HostPattern::Exact(name) => assert!(pattern.matches(name)),
                HostPattern::Wildcard { suffix, .. } => {
                    assert!(
                        !pattern.matches(suffix),
                        "a wildcard never matches its own suffix"
                    );
                    if let Ok(below) = Hostname::parse(&format!("a.{suffix}")) {
                        assert!(pattern.matches(&below));
                    }
                }
            }
        }
    }
});
