//! Reads one Ingress: its hosts, paths, TLS hosts and annotations, checked at the door. May not look at other objects.

use std::collections::{BTreeMap, BTreeSet};

use gatewright_names::{HostPattern, WildcardMode};
use gatewright_routes::{MAX_ANNOTATIONS, MAX_PATH, PathType};
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, IngressSpec, IngressTLS};

use crate::refusal::{Fault, RefusalReason};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What one Ingress asks for.
pub(crate) struct Wish<'a> {
    /// Rules with a path, in the order written.
    pub(crate) rules: Vec<Rule<'a>>,
    /// Hosts whose remaining paths go to `default`. `None` is the cluster's own name.
    pub(crate) default_hosts: BTreeSet<Option<HostPattern>>,
    pub(crate) default: Option<&'a IngressBackend>,
    tls: Vec<HostPattern>,
}

/// One path of one rule.
pub(crate) struct Rule<'a> {
    pub(crate) at: String,
    pub(crate) host: Option<HostPattern>,
    pub(crate) path: String,
    pub(crate) path_type: PathType,
    pub(crate) backend: &'a IngressBackend,
}

impl<'a> Wish<'a> {
    /// Reads the spec; what cannot be read is added to `faults` and the rest is kept.
    pub(crate) fn read(spec: Option<&'a IngressSpec>, faults: &mut Vec<Fault>) -> Self {
        let mut wish = Self {
            rules: Vec::new(),
            default_hosts: BTreeSet::new(),
            default: spec.and_then(|spec| spec.default_backend.as_ref()),
            tls: tls_hosts(
                spec.and_then(|spec| spec.tls.as_deref())
                    .unwrap_or_default(),
                faults,
            ),
        };
        let rules = spec
            .and_then(|spec| spec.rules.as_deref())
            .unwrap_or_default();
        if rules.is_empty() {
            wish.default_hosts.insert(None);
            if wish.default.is_none() {
                let message = "the Ingress has neither rules nor a defaultBackend; add one of them";
                faults.push(Fault::new("spec", RefusalReason::NoBackend, message));
            }
        }
        for (i, rule) in rules.iter().enumerate() {
            let at = format!("spec.rules[{i}]");
            let host = match rule
                .host
                .as_deref()
                .filter(|host| !host.is_empty())
                .map(parse_host)
                .transpose()
            {
                Ok(host) => host,
                Err(message) => {
                    faults.push(Fault::new(
                        format!("{at}.host"),
                        RefusalReason::InvalidHost,
                        message,
                    ));
                    continue;
                }
            };
            let paths = rule
                .http
                .as_ref()
                .map(|http| http.paths.as_slice())
                .unwrap_or_default();
            if paths.is_empty() && wish.default.is_none() {
                let message =
                    "the rule has no paths and the Ingress no defaultBackend; add one of them";
                faults.push(Fault::new(&at, RefusalReason::NoBackend, message));
            }
            for (j, path) in paths.iter().enumerate() {
                let at = format!("{at}.http.paths[{j}]");
                match read_path(path.path.as_deref(), &path.path_type) {
                    Ok((path_type, text)) => wish.rules.push(Rule {
                        at,
                        host: host.clone(),
                        path: text,
                        path_type,
                        backend: &path.backend,
                    }),
                    Err((reason, message)) => faults.push(Fault::new(at, reason, message)),
                }
            }
            wish.default_hosts.insert(host);
        }
        wish
    }

    /// Whether `spec.tls` lists this very host; TLS of a neighbour in the same Ingress does not count.
    pub(crate) fn is_tls(&self, host: Option<&HostPattern>) -> bool {
        host.is_some_and(|host| self.tls.iter().any(|listed| listed.covers(host)))
    }
}

/// The annotations that travel with a route: without kubectl's copy of the whole object, and within
/// [`MAX_ANNOTATIONS`], our own first, the others by name while they fit.
pub(crate) fn annotations(ingress: &Ingress) -> BTreeMap<String, String> {
    let Some(all) = &ingress.metadata.annotations else {
        return BTreeMap::new();
    };
    let (ours, others): (Vec<_>, Vec<_>) = all
        .iter()
        .filter(|(key, _)| *key != LAST_APPLIED)
        .partition(|(key, _)| key.contains("gatewright.dev/"));
    let mut room = MAX_ANNOTATIONS;
    let mut kept = BTreeMap::new();
    for (key, value) in ours.into_iter().chain(others) {
        if let Some(left) = room.checked_sub(key.len() + value.len()) {
            room = left;
            kept.insert(key.clone(), value.clone());
        }
    }
    kept
}

fn tls_hosts(tls: &[IngressTLS], faults: &mut Vec<Fault>) -> Vec<HostPattern> {
    let mut hosts = Vec::new();
    for (i, tls) in tls.iter().enumerate() {
        for (j, host) in tls.hosts.iter().flatten().enumerate() {
            match parse_host(host) {
                Ok(host) => hosts.push(host),
                Err(message) => {
                    let at = format!("spec.tls[{i}].hosts[{j}]");
                    faults.push(Fault::new(at, RefusalReason::InvalidHost, message));
                }
            }
        }
    }
    hosts
}

/// An Ingress wildcard covers exactly one label (Kubernetes, "Hostname wildcards").
fn parse_host(text: &str) -> Result<HostPattern, String> {
    HostPattern::parse(text, WildcardMode::OneLabel)
        .map_err(|error| format!("host cannot be served: {error}"))
}

fn read_path(
    path: Option<&str>,
    path_type: &str,
) -> Result<(PathType, String), (RefusalReason, String)> {
    let kind = match path_type {
        "Exact" => PathType::Exact,
        "Prefix" => PathType::Prefix,
        "ImplementationSpecific" => PathType::ImplementationSpecific,
        "" => {
            let message = "pathType is missing; set it to Exact, Prefix or ImplementationSpecific";
            return Err((RefusalReason::InvalidPathType, message.to_owned()));
        }
        other => {
            let message = format!(
                "pathType {other:?} is unknown; use Exact, Prefix or ImplementationSpecific"
            );
            return Err((RefusalReason::InvalidPathType, message));
        }
    };
    let invalid = |message: String| Err((RefusalReason::InvalidPath, message));
    let path = path.unwrap_or_default();
    if path.is_empty() {
        return match kind {
            // Kubernetes lets only this type go without a path: everything.
            PathType::ImplementationSpecific => Ok((kind, "/".to_owned())),
            PathType::Exact | PathType::Prefix => invalid(format!(
                "path is missing; pathType {path_type} needs one that begins with \"/\""
            )),
        };
    }
    if !path.starts_with('/') {
        return invalid(format!("path {path:?} does not begin with \"/\""));
    }
    if path.len() > MAX_PATH {
        return invalid(format!(
            "path of {} bytes is longer than the {MAX_PATH} that are allowed",
            path.len()
        ));
    }
    if let Some(bad) = path
        .chars()
        .find(|c| c.is_control() || c.is_whitespace() || matches!(c, '?' | '#'))
    {
        return invalid(format!(
            "path {path:?} holds {bad:?}, which the path of a request never does"
        ));
    }
    if kind == PathType::ImplementationSpecific
        && let Some(sign) = path
            .chars()
            .find(|c| matches!(c, '*' | '^' | '|' | '\\' | '[' | '{'))
    {
        return invalid(format!(
            "path {path:?} looks like a regular expression or wildcard ({sign:?}); ImplementationSpecific is matched \
             like Prefix here, write the plain prefix"
        ));
    }
    if let Some(trap) = trap(path) {
        return invalid(format!(
            "path {path:?} holds {trap}, which different servers read differently; remove it"
        ));
    }
    Ok((kind, path.to_owned()))
}

/// What a proxy and a backend may resolve differently. Kubernetes refuses most of it for Exact and Prefix; the third
/// type is no safer.
fn trap(path: &str) -> Option<&'static str> {
    let plain = path.to_ascii_lowercase().replace("%2e", ".");
    if plain.contains("//") {
        Some("\"//\"")
    } else if plain.split('/').any(is_dots) {
        Some("a dot segment")
    } else if plain.contains("%2f") {
        Some("an encoded slash")
    } else if plain.contains('\\') || plain.contains("%5c") {
        Some("a backslash")
    } else if plain.contains("%00") {
        Some("an encoded NUL")
    } else {
        None
    }
}

/// Servlet containers cut `;parameters` off before they resolve dots.
fn is_dots(segment: &str) -> bool {
    matches!(segment.split(';').next(), Some("." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths() {
        let ok = |kind, path: &str| Ok((kind, path.to_owned()));
        let path_error = Err(RefusalReason::InvalidPath);
        let type_error = Err(RefusalReason::InvalidPathType);
        let long = format!("/{}", "a".repeat(MAX_PATH));
        for (path, path_type, read) in [
            (Some("/foo"), "Exact", ok(PathType::Exact, "/foo")),
            (Some("/foo/"), "Prefix", ok(PathType::Prefix, "/foo/")),
            (
                Some("/a%20b/\u{fc}"),
                "Prefix",
                ok(PathType::Prefix, "/a%20b/\u{fc}"),
            ),
            (Some("/..."), "Prefix", ok(PathType::Prefix, "/...")),
            (Some("/*"), "Exact", ok(PathType::Exact, "/*")),
            (
                None,
                "ImplementationSpecific",
                ok(PathType::ImplementationSpecific, "/"),
            ),
            (
                Some(""),
                "ImplementationSpecific",
                ok(PathType::ImplementationSpecific, "/"),
            ),
            (
                Some("/wiki/A_(b)$"),
                "ImplementationSpecific",
                ok(PathType::ImplementationSpecific, "/wiki/A_(b)$"),
            ),
            (None, "Exact", path_error.clone()),
            (Some(""), "Prefix", path_error.clone()),
            (Some("foo"), "Prefix", path_error.clone()),
            (Some("/a//b"), "Prefix", path_error.clone()),
            (Some("/a/./b"), "Exact", path_error.clone()),
            (Some("/a/.."), "Prefix", path_error.clone()),
            (Some("/a/%2E%2e/b"), "Prefix", path_error.clone()),
            (Some("/a/..;x/b"), "Prefix", path_error.clone()),
            (Some("/a%2Fb"), "Prefix", path_error.clone()),
            (Some("/a%5cb"), "Prefix", path_error.clone()),
            (Some("/a\\b"), "Prefix", path_error.clone()),
            (Some("/a%00"), "ImplementationSpecific", path_error.clone()),
            (Some("/a?b=c"), "Prefix", path_error.clone()),
            (Some("/a b"), "Prefix", path_error.clone()),
            (Some("/a\n"), "Prefix", path_error.clone()),
            (
                Some("/foo(/|$)(.*)"),
                "ImplementationSpecific",
                path_error.clone(),
            ),
            (Some("/foo/*"), "ImplementationSpecific", path_error.clone()),
            (Some(long.as_str()), "Prefix", path_error),
            (Some("/foo"), "", type_error.clone()),
            (Some("/foo"), "prefix", type_error.clone()),
            (None, "Regex", type_error),
        ] {
            let got = read_path(path, path_type).map_err(|(reason, _)| reason);
            assert_eq!(got, read, "given {path:?} as {path_type:?}");
        }
    }

    #[test]
    fn annotations_travel_within_bounds() {
        let big = "x".repeat(MAX_ANNOTATIONS);
        let annotations = json!({
            LAST_APPLIED: "{\"kind\":\"Ingress\"}",
            "a.example/big": big,
            "b.example/small": "1",
            "z.gatewright.dev/own": "2",
        });
        let ingress = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": { "name": "app", "annotations": annotations } });
        let ingress: Ingress = serde_json::from_value(ingress).unwrap();
        let small = [("b.example/small", "1"), ("z.gatewright.dev/own", "2")];
        assert_eq!(
            super::annotations(&ingress),
            small
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into()
        );
    }

    #[test]
    fn tls_is_of_the_listed_hosts_only() {
        let spec = json!({ "defaultBackend": {}, "tls": [
            { "hosts": ["a.test", "*.w.test"], "secretName": "s" }, { "secretName": "all" }, { "hosts": ["10.0.0.1"] },
        ] });
        let spec: IngressSpec = serde_json::from_value(spec).unwrap();
        let mut faults = Vec::new();
        let wish = Wish::read(Some(&spec), &mut faults);
        for (host, tls) in [
            ("a.test", true),
            ("b.test", false),
            ("x.w.test", true),
            ("*.w.test", true),
            ("w.test", false),
            ("x.y.w.test", false),
            ("*.a.test", false),
        ] {
            assert_eq!(wish.is_tls(Some(&parse_host(host).unwrap())), tls, "{host}");
        }
        assert!(!wish.is_tls(None));
        let faults: Vec<_> = faults
            .iter()
            .map(|fault| (fault.at.as_str(), fault.reason))
            .collect();
        assert_eq!(
            faults,
            [("spec.tls[2].hosts[0]", RefusalReason::InvalidHost)]
        );
    }
}
