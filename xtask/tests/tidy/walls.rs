//! The walls between the crates: who may depend on whom, and what may not be linked at all.

use crate::tree::Package;

/// Which crates of ours each crate may name. Whoever adds a room adds it here and in ARCHITECTURE.md.
const EDGES: &[(&str, &[&str])] = &[
    ("gatewright-names", &[]),
    ("gatewright-routes", &["gatewright-names"]),
    (
        "gatewright-translate",
        &["gatewright-routes", "gatewright-names"],
    ),
    ("gatewright-link", &[]),
    (
        "gatewright-edge",
        &["gatewright-link", "gatewright-routes", "gatewright-names"],
    ),
    (
        "gatewright-agent",
        &[
            "gatewright-link",
            "gatewright-routes",
            "gatewright-translate",
            "gatewright-names",
            "gatewright-controller",
        ],
    ),
    ("gatewright-controller", &[]),
    ("gatewright-garage", &[]),
    (
        "gatewright-garage-operator",
        &["gatewright-garage", "gatewright-controller"],
    ),
    (
        "gatewright",
        &[
            "gatewright-agent",
            "gatewright-controller",
            "gatewright-edge",
            "gatewright-garage",
            "gatewright-garage-operator",
            "gatewright-link",
            "gatewright-names",
            "gatewright-routes",
            "gatewright-translate",
        ],
    ),
    ("gatewright-testkit", &[]),
    ("xtask", &[]),
];

/// Tests of any crate may use it, and nothing else.
const TESTKIT: &str = "gatewright-testkit";

/// Crates that must not link certain others, however far down.
pub(crate) struct Wall {
    pub(crate) crates: &'static [&'static str],
    forbidden: &'static [&'static str],
    why: &'static str,
}

pub(crate) const CLOSURES: &[Wall] = &[
    Wall {
        crates: &[
            "gatewright-names",
            "gatewright-routes",
            "gatewright-translate",
            "gatewright-garage",
        ],
        forbidden: &[
            "async-std",
            "chrono",
            "fastrand",
            "getrandom",
            "h2",
            "hyper",
            "hyper-util",
            "kube",
            "kube-client",
            "kube-runtime",
            "mio",
            "rand",
            "rand_core",
            "reqwest",
            "rustls",
            "smol",
            "socket2",
            "time",
            "tokio",
            "tokio-util",
            "tonic",
            "tracing",
            "uuid",
        ],
        why: "a pure crate decides; I/O, clocks and randomness belong to its caller",
    },
    Wall {
        crates: &["gatewright-edge", "gatewright-link"],
        forbidden: &[
            "k8s-openapi",
            "kube",
            "kube-client",
            "kube-core",
            "kube-runtime",
        ],
        why: "the edge runs outside any cluster",
    },
];

/// Edges that the table does not allow, and crates that it does not know.
pub(crate) fn edges(packages: &[Package]) -> Vec<String> {
    let mut complaints = Vec::new();
    for package in packages {
        let name = package.name.as_str();
        let Some((_, allowed)) = EDGES.iter().find(|(known, _)| *known == name) else {
            complaints.push(format!(
                "{name}: this crate has no place in the table of walls"
            ));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|d| d.path.is_some()) {
            let on = dependency.name.as_str();
            let for_tests = dependency.kind.as_deref() == Some("dev");
            let testing = on == TESTKIT && for_tests;
            if !testing && on != name && !allowed.contains(&on) {
                let kind = if for_tests { " (for tests)" } else { "" };
                complaints.push(format!("{name} may not depend on {on}{kind}"));
            }
        }
    }
    complaints
}

/// What `linked`, the closure of `name`, holds although `wall` forbids it.
pub(crate) fn closure(wall: &Wall, name: &str, linked: &[String]) -> Vec<String> {
    let found = wall
        .forbidden
        .iter()
        .filter(|f| linked.iter().any(|l| l == **f));
    found
        .map(|crate_name| {
            format!(
                "{name} links {crate_name}: {} (`cargo tree -p {name} -e normal -i {crate_name}`)",
                wall.why
            )
        })
        .collect()
}

mod tests {
    use super::*;
    use crate::tree::Dependency;

    fn package(name: &str, on: &str, kind: Option<&str>) -> Package {
        Package {
            name: name.to_owned(),
            dependencies: vec![Dependency {
                name: on.to_owned(),
                kind: kind.map(str::to_owned),
                path: Some("somewhere".into()),
            }],
            targets: Vec::new(),
            manifest: "Cargo.toml".into(),
        }
    }

    #[test]
    fn an_edge_outside_the_table_is_told() {
        for (name, on, kind, want) in [
            ("gatewright-routes", "gatewright-names", None, 0),
            ("gatewright-names", "gatewright-routes", None, 1),
            ("gatewright-edge", "gatewright-agent", None, 1),
            ("gatewright-edge", "gatewright-agent", Some("dev"), 1),
            ("gatewright-edge", "gatewright-testkit", Some("dev"), 0),
            ("gatewright-edge", "gatewright-testkit", None, 1),
            ("gatewright", "gatewright-testkit", Some("build"), 1),
            ("gatewright", "xtask", None, 1),
            ("gatewright-new", "gatewright-names", None, 1),
        ] {
            let complaints = edges(&[package(name, on, kind)]);
            assert_eq!(
                complaints.len(),
                want,
                "{name} → {on} {kind:?}: {complaints:?}"
            );
        }
    }

    #[test]
    fn a_crate_from_a_registry_is_no_edge() {
        let mut package = package("gatewright-names", "idna", None);
        package.dependencies[0].path = None;
        assert_eq!(edges(&[package]), Vec::<String>::new());
    }

    #[test]
    fn a_forbidden_crate_deep_in_the_closure_is_told() {
        let linked = ["gatewright-names", "idna", "tokio"].map(str::to_owned);
        let complaints = closure(&CLOSURES[0], "gatewright-names", &linked);
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].starts_with("gatewright-names links tokio"));
        assert!(closure(&CLOSURES[0], "gatewright-names", &linked[..2]).is_empty());
        let linked = ["kube-core".to_owned()];
        assert_eq!(closure(&CLOSURES[1], "gatewright-edge", &linked).len(), 1);
    }
}
