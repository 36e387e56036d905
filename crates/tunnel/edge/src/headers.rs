//! Which header fields pass the edge, in either direction. Pure functions on header maps.
//!
//! Hop-by-hop fields end here (RFC 9110 §7.6.1), with the fields that `Connection` nominates; but a
//! nomination never removes a field that other parties rely on, such as `Host`, `Cookie` or the
//! forwarding fields. `Authorization` and `Cookie` are end-to-end and pass. What says where a
//! request came from is the edge's to say: users' own `X-Forwarded-*`, `Forwarded`, `X-Real-IP` and
//! every `X-Gatewright-*` are dropped, unless a trusted proxy sent the forwarding fields.

use http::header::{
    self, CONNECTION, CONTENT_LENGTH, COOKIE, Entry, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};

/// Prefix of fields that belong to Gatewright.
const OWN_PREFIX: &str = "x-gatewright-";
/// Names the route that the agent resolves.
pub(crate) const ROUTE: HeaderName = HeaderName::from_static("x-gatewright-route");
/// Says what went wrong.
pub(crate) const ERROR: HeaderName = HeaderName::from_static("x-gatewright-error");
/// Says that the backend accepted an upgrade.
pub(crate) const UPGRADED: HeaderName = HeaderName::from_static("x-gatewright-upgraded");
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What one field is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Passes.
    EndToEnd,
    /// Ends here.
    HopByHop,
    /// Ends here when a user sent it.
    ForwardingClaim,
    /// Ends here always.
    Own,
}

fn kind(name: &HeaderName) -> Kind {
    // Names are lower case; the first byte sorts out nearly all.
    let text = name.as_str();
    match text.as_bytes().first() {
        Some(b'c') if *name == CONNECTION => Kind::HopByHop,
        Some(b'f') if *name == header::FORWARDED => Kind::ForwardingClaim,
        Some(b'h') if *name == HTTP2_SETTINGS => Kind::HopByHop,
        Some(b'k') if *name == KEEP_ALIVE => Kind::HopByHop,
        Some(b'p') if text.starts_with("proxy-") => match text {
            "proxy-connection"
            | "proxy-authorization"
            | "proxy-authenticate"
            | "proxy-authentication-info" => Kind::HopByHop,
            _ => Kind::EndToEnd,
        },
        Some(b't') if *name == TE || *name == TRANSFER_ENCODING => Kind::HopByHop,
        Some(b'u') if *name == UPGRADE => Kind::HopByHop,
        Some(b'x') if text.starts_with("x-forwarded-") || text == "x-real-ip" => {
            Kind::ForwardingClaim
        }
        Some(b'x') if text.starts_with(OWN_PREFIX) => Kind::Own,
        _ => Kind::EndToEnd,
    }
}

/// Fields that `Connection` cannot have removed (the class of CVE-2026-105299).
fn is_protected(name: &HeaderName) -> bool {
    *name == HOST
        || *name == COOKIE
        || *name == CONTENT_LENGTH
        || *name == header::AUTHORIZATION
        || *name == header::SET_COOKIE
        || *name == header::CONTENT_TYPE
        || *name == header::CONTENT_ENCODING
        || *name == header::LOCATION
        || *name == header::CACHE_CONTROL
        || *name == REQUEST_ID
        || kind(name) != Kind::EndToEnd
}

fn drop_fields(headers: &mut HeaderMap, drops: impl Fn(Kind) -> bool) {
    if headers.keys().all(|name| !drops(kind(name))) {
        return;
    }
    let nominated: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| !is_protected(name))
        .collect();
    for name in nominated {
        headers.remove(name);
    }
    let dropped: Vec<HeaderName> = headers
        .keys()
        .filter(|name| drops(kind(name)))
        .cloned()
        .collect();
    for name in dropped {
        headers.remove(name);
    }
}

/// What the edge says of a request's origin.
pub(crate) struct Origin<'a> {
    /// The user's address as a field value.
    pub(crate) address: &'a HeaderValue,
    /// Host as the user wrote it.
    pub(crate) host: &'a HeaderValue,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// The peer is a trusted proxy: what it says stays.
    pub(crate) trusted: bool,
}

/// Makes a user's fields into those that travel through the tunnel. `Host` is taken out: it
/// travels as `:authority`.
pub(crate) fn request(headers: &mut HeaderMap, origin: &Origin<'_>) {
    let trailers = headers.get(TE).is_some_and(accepts_trailers);
    let trusted = origin.trusted;
    drop_fields(headers, |kind| match kind {
        Kind::EndToEnd => false,
        Kind::HopByHop | Kind::Own => true,
        Kind::ForwardingClaim => !trusted,
    });
    headers.remove(HOST);
    if trailers {
        // The one value that HTTP/2 allows (RFC 9113 §8.2.2).
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if trusted {
        append_forwarded_for(headers, origin.address);
        if let Entry::Vacant(entry) = headers.entry(FORWARDED_HOST) {
            entry.insert(origin.host.clone());
        }
        if let Entry::Vacant(entry) = headers.entry(FORWARDED_PROTO) {
            entry.insert(HeaderValue::from_static(origin.scheme));
        }
    } else {
        headers.insert(FORWARDED_FOR, origin.address.clone());
        headers.insert(FORWARDED_HOST, origin.host.clone());
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(origin.scheme));
    }
}

fn append_forwarded_for(headers: &mut HeaderMap, address: &HeaderValue) {
    let mut line: Vec<u8> = Vec::new();
    for value in headers.get_all(FORWARDED_FOR) {
        line.extend_from_slice(value.as_bytes());
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(address.as_bytes());
    // Joined from valid values with valid bytes.
    if let Ok(value) = HeaderValue::from_bytes(&line) {
        headers.insert(FORWARDED_FOR, value);
    }
}

fn accepts_trailers(value: &HeaderValue) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|token| {
        let name = token.split(|byte| *byte == b';').next().unwrap_or(token);
        name.trim_ascii().eq_ignore_ascii_case(b"trailers")
    })
}

/// Makes a backend's fields into those that the user gets.
pub(crate) fn response(headers: &mut HeaderMap) {
    drop_fields(headers, |kind| match kind {
        Kind::EndToEnd | Kind::ForwardingClaim => false,
        Kind::HopByHop | Kind::Own => true,
    });
    headers.remove(PROXY_CONNECTION);
}

/// The protocol that a request asks to upgrade to, lower case; `None` when it asks for none or for
/// HTTP/2 in clear text, which no proxy may pass on.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<String> {
    let asks = headers.get_all(CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    if !asks {
        return None;
    }
    let protocol = headers
        .get(UPGRADE)?
        .to_str()
        .ok()?
        .trim()
        .to_ascii_lowercase();
    let is_token = !protocol.is_empty()
        && protocol
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._/+".contains(&byte));
    (is_token && protocol != "h2c" && !protocol.starts_with("http/")).then_some(protocol)
}

/// Bytes of all fields as HTTP/1.1 would carry them.
pub(crate) fn size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        headers
    }

    fn sent(fields: &[(&str, &str)], trusted: bool) -> Vec<(String, String)> {
        let mut headers = map(fields);
        let address = HeaderValue::from_static("192.0.2.7");
        let host = HeaderValue::from_static("App.example.com:8080");
        request(
            &mut headers,
            &Origin {
                address: &address,
                host: &host,
                scheme: "http",
                trusted,
            },
        );
        let mut all: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        all.sort();
        all
    }

    fn values<'a>(all: &'a [(String, String)], name: &str) -> Vec<&'a str> {
        all.iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    #[test]
    fn flaw_24_hop_by_hop_fields_end_at_the_edge() {
        let all = sent(
            &[
                ("connection", "keep-alive, X-Secret-Hop"),
                ("x-secret-hop", "1"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("proxy-authorization", "Basic eA=="),
                ("te", "gzip, trailers;q=0.5"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("http2-settings", "AAA"),
                ("trailer", "x-checksum"),
                ("accept", "*/*"),
            ],
            false,
        );
        let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "accept",
                "te",
                "trailer",
                "x-forwarded-for",
                "x-forwarded-host",
                "x-forwarded-proto"
            ]
        );
        assert_eq!(values(&all, "te"), ["trailers"]);
    }

    #[test]
    fn a_nomination_does_not_remove_what_others_rely_on() {
        let all = sent(
            &[
                (
                    "connection",
                    "close, cookie, authorization, x-forwarded-for, host, content-length",
                ),
                ("cookie", "a=b"),
                ("authorization", "Bearer x"),
                ("content-length", "3"),
            ],
            false,
        );
        assert_eq!(values(&all, "cookie"), ["a=b"]);
        assert_eq!(values(&all, "authorization"), ["Bearer x"]);
        assert_eq!(values(&all, "content-length"), ["3"]);
        assert_eq!(values(&all, "x-forwarded-for"), ["192.0.2.7"]);
    }

    #[test]
    fn flaw_25_forwarding_claims_of_users_are_replaced() {
        let forged = [
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-host", "admin.internal"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("x-real-ip", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("x-gatewright-route", "0000000000000001"),
        ];
        let all = sent(&forged, false);
        assert_eq!(values(&all, "x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(values(&all, "x-forwarded-host"), ["App.example.com:8080"]);
        assert_eq!(values(&all, "x-forwarded-proto"), ["http"]);
        assert_eq!(all.len(), 3, "{all:?}");

        let all = sent(&forged, true);
        assert_eq!(
            values(&all, "x-forwarded-for"),
            ["10.0.0.1, 10.0.0.2, 192.0.2.7"]
        );
        assert_eq!(values(&all, "x-forwarded-proto"), ["https"]);
        assert!(values(&all, "x-gatewright-route").is_empty());
    }

    #[test]
    fn responses_keep_cookies_and_lose_hops() {
        let mut headers = map(&[
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("keep-alive", "timeout=5"),
            ("x-gatewright-error", "forged"),
            ("content-length", "5"),
        ]);
        response(&mut headers);
        assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
        assert_eq!(headers.len(), 3, "{headers:?}");
    }

    #[test]
    fn upgrades_that_may_pass() {
        for (connection, protocol, expected) in [
            ("Upgrade", "websocket", Some("websocket")),
            ("keep-alive, upgrade", "WebSocket", Some("websocket")),
            ("keep-alive", "websocket", None),
            ("Upgrade, HTTP2-Settings", "h2c", None),
            ("Upgrade", "TLS/1.0, HTTP/1.1", None),
            ("Upgrade", "SPDY/3.1", Some("spdy/3.1")),
        ] {
            let headers = map(&[("connection", connection), ("upgrade", protocol)]);
            assert_eq!(
                upgrade(&headers).as_deref(),
                expected,
                "{connection} {protocol}"
            );
        }
    }
}
