//! Who may speak to the admin listener: a browser only from the page itself, and beyond loopback only
//! who has the token. It may not look at what is asked for, but for the probes, which anybody may ask.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, Uri};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::Error;

/// Shortest admin token, in bytes.
const SHORTEST: usize = 16;
/// An admin token's file is not read beyond this.
const LONGEST: u64 = 4096;

/// The rules of one admin listener.
pub(crate) struct Access {
    /// Hash of the token, if one is wanted.
    token: Option<[u8; 32]>,
}

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// A page of another origin sent it.
    OtherOrigin,
    /// Its host is a name that anybody could have pointed here.
    ForeignHost,
    /// The token is missing or wrong.
    NoToken,
}

impl Access {
    /// The rules for a listener at `address`, with the configured token.
    ///
    /// # Errors
    /// When others could reach the listener and no token is configured, or its file is of no use.
    pub(crate) fn new(address: SocketAddr, token_file: Option<&Path>) -> Result<Self, Error> {
        let token = token_file.map(read_token).transpose()?;
        if token.is_none() && !address.ip().to_canonical().is_loopback() {
            return Err(Error::AdminUnprotected { address });
        }
        Ok(Self { token })
    }

    /// Judges a request by its target and header.
    pub(crate) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Denied> {
        let authority = uri.authority().map(http::uri::Authority::as_str);
        let host = authority
            .or_else(|| text(headers, HOST.as_str()))
            .unwrap_or_default();
        from_own_page(host, headers)?;
        match &self.token {
            // A page that had its own name pointed at this address holds no credential for that name,
            // so where a token is wanted any host will do.
            Some(_) if is_probe(uri.path()) => Ok(()),
            Some(kept) if presents(headers, kept) => Ok(()),
            Some(_) => Err(Denied::NoToken),
            None if is_local_name(host) => Ok(()),
            None => Err(Denied::ForeignHost),
        }
    }
}

/// Probes come from a kubelet or a load balancer, tell nothing, and change nothing.
fn is_probe(path: &str) -> bool {
    path == "/healthz" || path == "/readyz"
}

/// Browsers say where a request comes from; other programs do not.
fn from_own_page(host: &str, headers: &HeaderMap) -> Result<(), Denied> {
    let site_is_own = match text(headers, "sec-fetch-site") {
        None => !headers.contains_key("sec-fetch-site"),
        Some(site) => site == "same-origin" || site == "none",
    };
    let origin_is_own = match headers.get(ORIGIN).map(|origin| origin.to_str()) {
        None => true,
        Some(Ok(origin)) => origin.split_once("://").is_some_and(|(_, origin_host)| {
            !host.is_empty() && origin_host.eq_ignore_ascii_case(host)
        }),
        Some(Err(_)) => false,
    };
    if site_is_own && origin_is_own {
        Ok(())
    } else {
        Err(Denied::OtherOrigin)
    }
}

/// Whether nobody else can have made this name point here.
fn is_local_name(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(address, _)| address),
        None => authority
            .rsplit_once(':')
            .map_or(authority, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

/// The token comes as `Bearer`, or, from a browser, as the password of `Basic` with any user.
fn presents(headers: &HeaderMap, kept: &[u8; 32]) -> bool {
    let Some((scheme, rest)) =
        text(headers, AUTHORIZATION.as_str()).and_then(|value| value.split_once(' '))
    else {
        return false;
    };
    let token = if scheme.eq_ignore_ascii_case("bearer") {
        Some(rest.trim().as_bytes().to_vec())
    } else if scheme.eq_ignore_ascii_case("basic") {
        BASE64_STANDARD.decode(rest.trim()).ok().and_then(|pair| {
            let colon = pair.iter().position(|&byte| byte == b':')?;
            Some(pair[colon + 1..].to_vec())
        })
    } else {
        None
    };
    token.is_some_and(|token| <[u8; 32]>::from(Sha256::digest(token)).ct_eq(kept).into())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn read_token(path: &Path) -> Result<[u8; 32], Error> {
    use std::io::Read;
    let bad = |problem, source| Error::AdminTokenFile {
        path: path.to_owned(),
        problem,
        source,
    };
    let mut token = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LONGEST + 1).read_to_string(&mut token))
        .map_err(|source| bad("it cannot be read as text", Some(source)))?;
    let token = token.trim();
    if token.len() < SHORTEST {
        return Err(bad("it must hold a secret of at least 16 characters", None));
    }
    if token.len() as u64 > LONGEST {
        return Err(bad(
            "it holds more than 4096 bytes, which is no token",
            None,
        ));
    }
    Ok(Sha256::digest(token).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: &str = "127.0.0.1:9090";

    fn check(access: &Access, path: &str, headers: &[(&'static str, &str)]) -> Result<(), Denied> {
        let headers = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
        access.check(&path.parse().unwrap(), &headers.collect())
    }

    #[test]
    fn requests_of_other_origins_are_refused() {
        let access = Access { token: None };
        for (headers, expected) in [
            (&[("host", LOCAL)][..], Ok(())),
            (
                &[("host", LOCAL), ("origin", "http://127.0.0.1:9090")],
                Ok(()),
            ),
            (
                &[("host", LOCAL), ("sec-fetch-site", "same-origin")],
                Ok(()),
            ),
            (&[("host", LOCAL), ("sec-fetch-site", "none")], Ok(())),
            (
                &[("host", LOCAL), ("origin", "http://evil.example")],
                Err(Denied::OtherOrigin),
            ),
            (
                &[("host", LOCAL), ("origin", "http://127.0.0.1:8080")],
                Err(Denied::OtherOrigin),
            ),
            (
                &[
                    ("host", LOCAL),
                    ("origin", "http://127.0.0.1:9090.evil.example"),
                ],
                Err(Denied::OtherOrigin),
            ),
            (
                &[("host", LOCAL), ("origin", "null")],
                Err(Denied::OtherOrigin),
            ),
            (
                &[("host", ""), ("origin", "http://")],
                Err(Denied::OtherOrigin),
            ),
            (
                &[("host", LOCAL), ("sec-fetch-site", "cross-site")],
                Err(Denied::OtherOrigin),
            ),
            (
                &[("host", LOCAL), ("sec-fetch-site", "same-site")],
                Err(Denied::OtherOrigin),
            ),
        ] {
            assert_eq!(check(&access, "/", headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn a_name_that_was_rebound_to_loopback_is_refused() {
        let access = Access { token: None };
        for (host, expected) in [
            ("localhost", Ok(())),
            ("LOCALHOST:9090", Ok(())),
            ("127.0.0.1", Ok(())),
            ("[::1]:9090", Ok(())),
            ("evil.example:9090", Err(Denied::ForeignHost)),
            ("localhost.evil.example", Err(Denied::ForeignHost)),
            ("127.0.0.1.evil.example", Err(Denied::ForeignHost)),
            ("[evil]", Err(Denied::ForeignHost)),
            ("", Err(Denied::ForeignHost)),
        ] {
            assert_eq!(
                check(&access, "/healthz", &[("host", host)]),
                expected,
                "{host}"
            );
        }
    }

    #[test]
    fn a_token_is_wanted_for_all_but_the_probes() {
        let access = Access {
            token: Some(Sha256::digest("sixteen characters").into()),
        };
        let with = |value: &'static str| {
            check(
                &access,
                "/metrics",
                &[("host", "edge.internal"), ("authorization", value)],
            )
        };
        assert_eq!(check(&access, "/healthz", &[("host", "10.0.0.1")]), Ok(()));
        assert_eq!(
            check(&access, "/readyz", &[("host", "edge.internal")]),
            Ok(())
        );
        assert_eq!(
            check(&access, "/", &[("host", LOCAL)]),
            Err(Denied::NoToken)
        );
        assert_eq!(with("Bearer sixteen characters"), Ok(()));
        assert_eq!(with("bearer sixteen characters"), Ok(()));
        assert_eq!(with("Basic YWRtaW46c2l4dGVlbiBjaGFyYWN0ZXJz"), Ok(()));
        for wrong in [
            "Bearer",
            "Bearer ",
            "Bearer sixteen character",
            "Basic c2l4dGVlbiBjaGFyYWN0ZXJz",
            "Basic %",
            "Digest x",
        ] {
            assert_eq!(with(wrong), Err(Denied::NoToken), "{wrong}");
        }
    }

    #[test]
    fn listening_beyond_loopback_needs_a_good_token() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let everywhere: SocketAddr = "0.0.0.0:9090".parse().unwrap();
        assert!(Access::new(LOCAL.parse().unwrap(), None).is_ok());
        assert!(Access::new("[::ffff:127.0.0.1]:1".parse().unwrap(), None).is_ok());
        assert!(matches!(
            Access::new(everywhere, None),
            Err(Error::AdminUnprotected { .. })
        ));
        assert!(matches!(
            Access::new(everywhere, Some(&file)),
            Err(Error::AdminTokenFile { .. })
        ));
        for (content, good) in [
            (" \n", false),
            ("fifteen letters", false),
            ("sixteen characters\n", true),
        ] {
            std::fs::write(&file, content).unwrap();
            assert_eq!(
                Access::new(everywhere, Some(&file)).is_ok(),
                good,
                "{content:?}"
            );
        }
    }
}
