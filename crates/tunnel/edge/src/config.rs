//! What an edge is told: listeners, domain, store, limits and times. Values and their checks only.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use gatewright_names::Hostname;
use serde::Deserialize;

/// `edge.yaml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeConfig {
    /// Sockets.
    pub listen: Listen,
    /// The edge's own domain: agents dial it, and each cluster's own name lies under it.
    #[serde(deserialize_with = "hostname")]
    pub domain: Hostname,
    /// Where clusters, tokens and routes are kept.
    pub store: StoreConfig,
    /// Certificate of the `tunnel` listener.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
    /// Sizes.
    #[serde(default)]
    pub limits: RequestLimits,
    /// Times.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// `stdout`, `off`, or a file's path.
    #[serde(default)]
    pub access_log: AccessLogTarget,
    /// Worker threads; the number of CPUs when absent.
    #[serde(default)]
    pub workers: Option<usize>,
    /// Proxies whose `X-Forwarded-*` are believed, as CIDR blocks.
    #[serde(default)]
    pub trusted_proxies: Vec<IpBlock>,
    /// File with the token that the admin API wants; needed when it listens beyond loopback.
    #[serde(default)]
    pub admin_token_file: Option<PathBuf>,
}

impl EdgeConfig {
    /// The keys of the top level.
    pub const KEYS: &[&str] = &[
        "listen",
        "domain",
        "store",
        "tls",
        "limits",
        "timeouts",
        "access_log",
        "workers",
        "trusted_proxies",
        "admin_token_file",
    ];
}

/// Sockets to listen on.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Users and agents: HTTP/1.1, h2c and `/ws`.
    pub http: SocketAddr,
    /// Metrics, health, API and status page.
    pub admin: SocketAddr,
    /// Agents over raw TLS.
    #[serde(default)]
    pub tunnel: Option<SocketAddr>,
}

/// A certificate chain and its key, PEM.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Chain, leaf first.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// Where the edge keeps what it must not forget.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// A folder for the embedded store.
    pub path: PathBuf,
}

/// Sizes that requests may have.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RequestLimits {
    /// Bytes of the request target; more is 414.
    pub uri: usize,
    /// Bytes of all header fields; more is 431.
    pub headers: usize,
    /// Number of header fields; more is 431.
    pub header_count: usize,
    /// Bytes of a request body; more is 413. No limit when absent.
    pub body: Option<u64>,
    /// Users' connections at once, over all workers.
    pub connections: usize,
    /// Requests at once on one tunnel connection; more is 503.
    pub tunnel_streams: u32,
    /// Connections of one cluster's agents.
    pub tunnels: usize,
    /// Routes of one cluster.
    pub routes: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            uri: 8 * 1024,
            headers: 64 * 1024,
            header_count: 100,
            body: None,
            connections: 50_000,
            tunnel_streams: 1024,
            tunnels: 64,
            routes: 10_000,
        }
    }
}

/// Times of each phase, in seconds. There is none for a whole response.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From a request's first byte to the end of its head.
    #[serde(deserialize_with = "seconds")]
    pub header: Duration,
    /// Between two requests on a connection.
    #[serde(deserialize_with = "seconds")]
    pub keep_alive: Duration,
    /// Without a byte of a request body.
    #[serde(deserialize_with = "seconds")]
    pub request_idle: Duration,
    /// From the request's last byte to the response's first; 504 after it.
    #[serde(deserialize_with = "seconds")]
    pub first_byte: Duration,
    /// Without a byte of a response body from the backend.
    #[serde(deserialize_with = "seconds")]
    pub response_idle: Duration,
    /// Without the user taking a byte of the response.
    #[serde(deserialize_with = "seconds")]
    pub write_idle: Duration,
    /// Without a byte on an upgraded connection, either way.
    #[serde(deserialize_with = "seconds")]
    pub upgrade_idle: Duration,
    /// For requests under way when the edge stops.
    #[serde(deserialize_with = "seconds")]
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            header: seconds(10),
            keep_alive: seconds(75),
            request_idle: seconds(60),
            first_byte: seconds(60),
            response_idle: seconds(300),
            write_idle: seconds(60),
            upgrade_idle: seconds(3600),
            drain: seconds(30),
        }
    }
}

/// Where the access log goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Standard output.
    #[default]
    Stdout,
    /// Nowhere.
    Off,
    /// A file, appended to.
    File(PathBuf),
}

impl<'de> Deserialize<'de> for AccessLogTarget {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match String::deserialize(deserializer)?.as_str() {
            "stdout" => Self::Stdout,
            "off" => Self::Off,
            path => Self::File(path.into()),
        })
    }
}

/// A block of addresses, `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpBlock {
    base: u128,
    bits: u32,
    v4: bool,
}

impl IpBlock {
    /// Whether the address lies in the block. IPv4-mapped IPv6 addresses count as IPv4.
    pub fn contains(&self, address: std::net::IpAddr) -> bool {
        let (value, v4) = bits_of(address.to_canonical());
        v4 == self.v4 && (value ^ self.base).leading_zeros() >= self.bits
    }
}

/// An address left-aligned in 128 bits, and whether it is IPv4.
fn bits_of(address: std::net::IpAddr) -> (u128, bool) {
    match address {
        std::net::IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, true),
        std::net::IpAddr::V6(address) => (address.to_bits(), false),
    }
}

impl std::str::FromStr for IpBlock {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!("{text:?} is not a block of addresses; write ADDRESS/BITS, as in 10.0.0.0/8")
        };
        let (address, bits) = text.split_once('/').ok_or_else(bad)?;
        let address: std::net::IpAddr = address.parse().map_err(|_| bad())?;
        let bits: u32 = bits.parse().map_err(|_| bad())?;
        let (base, v4) = bits_of(address);
        let most = if v4 { 32 } else { 128 };
        if bits > most || base.checked_shl(bits).is_some_and(|rest| rest != 0) {
            return Err(bad());
        }
        Ok(Self { base, bits, v4 })
    }
}

impl<'de> Deserialize<'de> for IpBlock {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

fn hostname<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Hostname, D::Error> {
    let text = String::deserialize(deserializer)?;
    Hostname::parse(&text)
        .map_err(|error| serde::de::Error::custom(format!("{text:?} is not a domain: {error}")))
}

fn seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    if seconds > 0.0 && seconds <= 86_400.0 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(serde::de::Error::custom(
            "a time must be above 0 and at most 86400 seconds",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_those_that_are_read() {
        let error = serde_json::from_str::<EdgeConfig>(r#"{"x": 1}"#)
            .unwrap_err()
            .to_string();
        let named: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
        assert_eq!(named, EdgeConfig::KEYS);
    }

    #[test]
    fn blocks_hold_what_lies_in_them() {
        let block: IpBlock = "10.0.0.0/8".parse().unwrap();
        for (address, inside) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.0", false),
            ("::", false),
        ] {
            assert_eq!(
                block.contains(address.parse().unwrap()),
                inside,
                "{address}"
            );
        }
        assert!(
            "0.0.0.0/0"
                .parse::<IpBlock>()
                .unwrap()
                .contains([1, 2, 3, 4].into())
        );
        assert!(
            "2001:db8::/32"
                .parse::<IpBlock>()
                .unwrap()
                .contains("2001:db8::1".parse().unwrap())
        );
    }

    #[test]
    fn blocks_that_are_none_are_refused() {
        for text in [
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "x/8",
            "10.0.0.0/-1",
            "",
        ] {
            assert!(text.parse::<IpBlock>().is_err(), "{text}");
        }
    }
}
