//! Any paths as routes and as requests: the first lines are routes (`=` in front: exact), the last is the request. May
//! not look into the table: it compares the winner with what the documented rules allow.
#![no_main]

use std::collections::BTreeMap;

use gatewright_names::{HostPattern, WildcardMode};
use gatewright_routes::{BackendProtocol, NoMatch, PathType, Route, RouteId, RouteTable};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines: Vec<&str> = text.split('\n').collect();
    let request = lines.pop().unwrap_or_default();
    let routes: Vec<Route> = lines.into_iter().map(route).collect();
    let host = HostPattern::parse("h.example", WildcardMode::OneLabel).expect("a valid host");
    let mut table = RouteTable::new();
    table.set_host(
        &host,
        routes
            .iter()
            .map(|route| (route.clone(), route.clone()))
            .collect(),
    );
    // With so many more routes of which none matches, the table is searched in another way.
    let mut larger = RouteTable::new();
    let others = (0..20).map(|number| route(&format!("=/\u{1f980}/{number}")));
    let all = routes
        .iter()
        .cloned()
        .chain(others)
        .map(|route| (route.clone(), route));
    larger.set_host(&host, all.collect());

    let found = table.lookup("h.example", request);
    if !request.contains('%') && !request.contains('\u{1f980}') && !table.is_empty() {
        assert_eq!(found, larger.lookup("h.example", request));
    }
    assert!(table.len() <= routes.len());
    assert_eq!(
        table.lookup("i.example", request),
        Err(NoMatch::UnknownHost)
    );
    match found {
        Ok(winner) => {
            assert!(
                allowed(winner, request),
                "{winner:?} must not serve {request:?}"
            );
            assert!(
                !request.contains('\0'),
                "a NUL is bad whatever the routes are"
            );
        }
        Err(NoMatch::UnknownPath) => {
            let root = routes
                .iter()
                .any(|route| route.path == "/" && route.path_type == PathType::Prefix);
            assert!(
                !root,
                "a prefix of / serves every path that is none of the bad ones"
            );
        }
        Err(NoMatch::UnknownHost) => assert!(table.is_empty()),
        Err(NoMatch::BadPath(reason)) => assert!(!reason.is_empty()),
    }
});

/// Whether the route's elements are the first of the request's, in the plainest reading of both.
fn allowed(route: &Route, request: &str) -> bool {
    let request = if request.is_empty() || request == "*" {
        "/"
    } else {
        request
    };
    let (request, path) = (decode(request), decode(&route.path));
    match route.path_type {
        PathType::Exact => request == path,
        PathType::Prefix | PathType::ImplementationSpecific => {
            let prefix = path.strip_suffix(b"/").unwrap_or(&path);
            request
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        }
    }
}

/// Percent-decodes once; an encoded slash becomes a NUL, which no path that is served has.
fn decode(path: &str) -> Vec<u8> {
    let bytes = path.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).and_then(|digits| {
            let digits = str::from_utf8(digits)
                .ok()
                .filter(|digits| !digits.starts_with('+'))?;
            u8::from_str_radix(digits, 16).ok()
        });
        match escape.filter(|_| bytes[at] == b'%') {
            Some(byte) => {
                out.push(if byte == b'/' { 0 } else { byte });
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

fn route(line: &str) -> Route {
    let (path, path_type) = match line.strip_prefix('=') {
        Some(path) => (path, PathType::Exact),
        None => (line, PathType::Prefix),
    };
    Route {
        id: RouteId::of("", "", path, path_type),
        host: None,
        path: path.to_owned(),
        path_type,
        service: "app".to_owned(),
        namespace: "default".to_owned(),
        port: 80,
        tls: false,
        annotations: BTreeMap::new(),
        protocol: BackendProtocol::Http,
        created: 0,
        source: String::new(),
    }
}
