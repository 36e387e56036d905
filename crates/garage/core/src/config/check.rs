//! Small readers of texts that users write and Garage would refuse at its start. Each says what is allowed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::Compression;

/// A TCP port.
pub(super) fn port(port: i32) -> Result<u16, String> {
    match u16::try_from(port) {
        Ok(0) | Err(_) => Err(format!("port {port} is not a number from 1 to 65535")),
        Ok(port) => Ok(port),
    }
}

/// Where to listen: an address, `address:port`, or nothing (all addresses); `port` where the text has none.
pub(super) fn listen(address: Option<&str>, port: u16) -> Result<SocketAddr, String> {
    let Some(text) = address else {
        return Ok(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
    };
    if text.starts_with('/') || text.starts_with("unix:") {
        return Err(format!(
            "\"{text}\" is a Unix socket, which no Service can reach; write an IP address"
        ));
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, port));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        Ok(_) | Err(_) => Err(format!(
            "\"{text}\" is not an address to listen on; write an IP address such as 0.0.0.0 or [::], or one with a port"
        )),
    }
}

/// `none` or a zstd level. <https://github.com/facebook/zstd/blob/dev/lib/zstd.h> has the limits.
pub(super) fn compression(text: &str) -> Result<Compression, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(Compression::Off);
    }
    match text.parse() {
        Ok(level @ -131_072..=22) => Ok(Compression::Level(level)),
        Ok(_) | Err(_) => Err(format!(
            "\"{text}\" is not a compression level; write none or a zstd level up to 22"
        )),
    }
}

/// A time span as systemd writes it (`6h`, `1h 30min`, `90min`, seconds where there is no unit), as a number of
/// seconds. Garage refuses to start when snapshots are less than ten minutes apart.
pub(super) fn snapshot_interval(text: &str) -> Result<f64, String> {
    let seconds = time_span(text).ok_or_else(|| {
        format!("\"{text}\" is not a time span; write for example 6h, 90min or 1h 30min")
    })?;
    if seconds < 600.0 {
        return Err(format!(
            "{text} is too short: Garage refuses less than 10min"
        ));
    }
    Ok(seconds)
}

fn time_span(text: &str) -> Option<f64> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest
            .bytes()
            .take_while(|b| b.is_ascii_digit() || *b == b'.')
            .count();
        let (number, tail) = rest.split_at(end);
        let number: f64 = number.parse().ok()?;
        let tail = tail.trim_start();
        let end = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(end);
        total += number * unit_seconds(unit)?;
        rest = tail.trim_start();
    }
    Some(total)
}

fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "us" | "usec" => 1e-6,
        "ms" | "msec" => 1e-3,
        "" | "s" | "sec" | "second" | "seconds" => 1.0,
        "m" | "min" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86_400.0,
        "w" | "week" | "weeks" => 604_800.0,
        "M" | "month" | "months" => 2_630_016.0,
        "y" | "year" | "years" => 31_557_600.0,
        _ => return None,
    })
}

/// An IP network: `10.0.0.0/8`.
pub(super) fn network(text: &str) -> Result<(), String> {
    let good = text.split_once('/').is_some_and(|(address, bits)| {
        match (address.parse::<IpAddr>(), bits.parse::<u8>()) {
            (Ok(IpAddr::V4(_)), Ok(bits)) => bits <= 32,
            (Ok(IpAddr::V6(_)), Ok(bits)) => bits <= 128,
            (Ok(_) | Err(_), Ok(_) | Err(_)) => false,
        }
    });
    if good {
        Ok(())
    } else {
        Err(format!(
            "\"{text}\" is not a network; write for example 10.0.0.0/8"
        ))
    }
}

/// A domain to cut from host names, with or without a dot in front.
pub(super) fn root_domain(text: &str) -> Result<String, String> {
    let labels = text.strip_prefix('.').unwrap_or(text);
    let good = !labels.is_empty()
        && labels.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
    if good {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "\"{text}\" is not a domain; write for example .s3.example.com"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on() {
        for (text, expected) in [
            (None, "[::]:3900"),
            (Some("0.0.0.0"), "0.0.0.0:3900"),
            (Some("::"), "[::]:3900"),
            (Some("[fd00::1]"), "[fd00::1]:3900"),
            (Some("10.0.0.1:80"), "10.0.0.1:80"),
            (Some("[::]:80"), "[::]:80"),
        ] {
            assert_eq!(
                listen(text, 3900).map(|a| a.to_string()),
                Ok(expected.to_owned())
            );
        }
        for (text, words) in [
            ("/run/garage.sock", "Unix socket"),
            ("unix:///run/garage.sock", "Unix socket"),
            ("localhost", "not an address"),
            ("0.0.0.0:0", "not an address"),
            ("", "not an address"),
        ] {
            let error = listen(Some(text), 3900).expect_err("refused");
            assert!(error.contains(words), "{text:?}: {error}");
        }
        assert_eq!((port(1), port(65_535)), (Ok(1), Ok(65_535)));
        assert!(
            [-1, 0, 65_536]
                .into_iter()
                .all(|number| port(number).is_err())
        );
    }

    #[test]
    fn compression_levels() {
        assert_eq!(compression("None"), Ok(Compression::Off));
        assert_eq!(compression("3"), Ok(Compression::Level(3)));
        assert_eq!(compression("-5"), Ok(Compression::Level(-5)));
        for bad in ["", "23", "fast", "1.5"] {
            assert!(compression(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn snapshot_intervals() {
        for (text, seconds) in [
            ("6h", 21_600.0),
            ("600", 600.0),
            ("1h 30min", 5400.0),
            ("1h30m", 5400.0),
            ("0.5d", 43_200.0),
            ("2 weeks", 1_209_600.0),
        ] {
            assert_eq!(snapshot_interval(text), Ok(seconds), "{text}");
        }
        for (text, words) in [
            ("", "not a time span"),
            ("h", "not a time span"),
            ("6 parsecs", "not a time span"),
            ("-6h", "not a time span"),
            ("1.2.3h", "not a time span"),
            ("5min", "too short"),
            ("0", "too short"),
        ] {
            let error = snapshot_interval(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn networks_and_domains() {
        for good in ["10.0.0.0/8", "fd00::/8", "0.0.0.0/0"] {
            assert_eq!(network(good), Ok(()), "{good}");
        }
        for bad in ["10.0.0.0", "10.0.0.0/33", "a/8", "fd00::/129", ""] {
            assert!(network(bad).is_err(), "{bad}");
        }
        for good in [".s3.example.com", "s3.example.com", ".web.c.ns.svc"] {
            assert!(root_domain(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a..b", "http://a", "*.a"] {
            assert!(root_domain(bad).is_err(), "{bad}");
        }
    }
}
