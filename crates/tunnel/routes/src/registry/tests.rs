//! Ownership by cases, and against a registry that is built anew.

use proptest::prelude::*;

use gatewright_names::WildcardMode;

use super::*;
use crate::route::PathType;
use crate::route::tests::route;
use crate::table::{NoMatch, RouteTable};

fn id(text: &str) -> ClusterId {
    ClusterId::parse(text).unwrap()
}

fn host(text: &str) -> Hostname {
    Hostname::parse(text).unwrap()
}

fn one(text: &str) -> HostPattern {
    HostPattern::parse(text, WildcardMode::OneLabel).unwrap()
}

fn many(text: &str) -> HostPattern {
    HostPattern::parse(text, WildcardMode::ManyLabels).unwrap()
}

fn grant(cluster: &str, patterns: &[&str]) -> Grant {
    Grant {
        cluster: id(cluster),
        own_host: host(&format!("{cluster}.gw.example")),
        patterns: patterns.iter().map(|text| many(text)).collect(),
    }
}

fn registry(grants: &[(&str, &[&str])]) -> Registry {
    let mut registry = Registry::new();
    for (cluster, patterns) in grants {
        assert_eq!(
            registry.put_cluster(grant(cluster, patterns)),
            Changes::default()
        );
    }
    registry
}

fn wire(host: &str, path: &str) -> WireRoute {
    (&route(host, path, PathType::Prefix)).into()
}

fn upsert(registry: &mut Registry, cluster: &str, routes: &[(&str, &str)]) -> Changes {
    let routes = routes.iter().map(|(host, path)| wire(host, path)).collect();
    registry
        .apply(&id(cluster), Change::Upsert(routes))
        .unwrap()
}

fn delete(registry: &mut Registry, cluster: &str, routes: &[(&str, &str)]) -> Changes {
    let like = |(host, path): &(&str, &str)| {
        RouteSelector::from(WireRoute {
            host: Some((*host).into()),
            path: Some((*path).into()),
            ..WireRoute::default()
        })
    };
    registry
        .apply(
            &id(cluster),
            Change::Delete(routes.iter().map(like).collect()),
        )
        .unwrap()
}

/// What a call says about the routes of a cluster.
fn said(changes: &Changes, cluster: &str) -> Vec<Verdict> {
    let verdicts = changes.verdicts.get(&id(cluster)).into_iter().flatten();
    verdicts.map(|&(_, verdict)| verdict).collect()
}

fn verdict(registry: &Registry, cluster: &str, host: &str, path: &str) -> Option<Verdict> {
    let mut routes = registry.routes_of_cluster(&id(cluster));
    routes
        .find(|(route, _)| route.host_text() == host && route.path == path)
        .map(|(_, verdict)| *verdict)
}

fn hosts(changes: &Changes) -> Vec<String> {
    changes.hosts.iter().map(HostPattern::to_string).collect()
}

const ACCEPTED: Verdict = Verdict::Accepted;
const NOT_GRANTED: Verdict = Verdict::Refused(RefusedReason::HostNotGranted);
const OWNED: Verdict = Verdict::Refused(RefusedReason::HostOwnedByOther);
const RESERVED: Verdict = Verdict::Refused(RefusedReason::ReservedName);

#[test]
fn nothing_is_served_that_is_not_granted() {
    let mut registry = registry(&[("a", &["*.a.example", "b.example"])]);
    for (host, expected) in [
        ("x.a.example", ACCEPTED),
        ("x.y.a.example", ACCEPTED),
        ("*.a.example", ACCEPTED),
        ("b.example", ACCEPTED),
        ("a.example", NOT_GRANTED),
        ("x.b.example", NOT_GRANTED),
        ("*.b.example", NOT_GRANTED),
        ("gw.example", NOT_GRANTED),
        ("*.example", NOT_GRANTED),
        ("a.gw.example", ACCEPTED),
        ("x.y.a.gw.example", ACCEPTED),
        ("*.a.gw.example", ACCEPTED),
        ("", ACCEPTED),
    ] {
        let changes = upsert(&mut registry, "a", &[(host, "/")]);
        assert_eq!(said(&changes, "a"), [expected], "{host}");
        assert_eq!(
            changes.hosts.len(),
            usize::from(expected == ACCEPTED),
            "{host}"
        );
    }
    assert_eq!(
        registry.apply(&id("b"), Change::Replace(Vec::new())),
        Err(UnknownCluster(id("b")))
    );
}

#[test]
fn a_route_without_host_is_served_under_the_own_name_only() {
    let mut registry = registry(&[("a", &[]), ("b", &[])]);
    assert_eq!(
        hosts(&upsert(&mut registry, "a", &[("", "/")])),
        ["a.gw.example"]
    );
    assert_eq!(
        hosts(&upsert(&mut registry, "b", &[("", "/")])),
        ["b.gw.example"]
    );
    assert_eq!(registry.routes_of_host(&one("a.gw.example")).len(), 1);
    // The own name changes: the route moves.
    let moved = registry.put_cluster(Grant {
        own_host: host("new.gw.example"),
        ..grant("a", &[])
    });
    assert_eq!(hosts(&moved), ["a.gw.example", "new.gw.example"]);
    assert_eq!(registry.owner(&one("a.gw.example")), None);
    assert_eq!(registry.owner(&one("new.gw.example")), Some(&id("a")));
}

#[test]
fn an_own_name_and_all_below_it_belong_to_one_cluster_whatever_is_granted() {
    let mut registry = registry(&[
        ("a", &["*.gw.example", "*.example", "b.gw.example"]),
        ("b", &[]),
    ]);
    for (host, expected) in [
        ("b.gw.example", RESERVED),
        ("x.b.gw.example", RESERVED),
        ("*.b.gw.example", RESERVED),
        ("*.x.b.gw.example", RESERVED),
        ("*.gw.example", RESERVED),
        ("*.example", ACCEPTED),
        ("c.gw.example", ACCEPTED),
    ] {
        assert_eq!(
            said(&upsert(&mut registry, "a", &[(host, "/")]), "a"),
            [expected],
            "{host}"
        );
    }
    // A one-label wildcard of the grandparent does not reach the own name, a many-label one does.
    let mut wire = wire("*.example", "/many");
    wire.wildcard = Some(WildcardMode::ManyLabels);
    let changes = registry
        .apply(&id("a"), Change::Upsert(vec![wire]))
        .unwrap();
    assert_eq!(said(&changes, "a"), [RESERVED]);
    // It is a cluster's own name as soon as the cluster exists, and no longer.
    let changes = registry.put_cluster(grant("c", &[]));
    assert_eq!(
        (said(&changes, "a"), hosts(&changes)),
        (vec![RESERVED], vec!["c.gw.example".to_owned()])
    );
    let changes = registry.remove_cluster(&id("c"));
    assert_eq!(
        (said(&changes, "a"), hosts(&changes)),
        (vec![ACCEPTED], vec!["c.gw.example".to_owned()])
    );
    let changes = registry.remove_cluster(&id("b"));
    assert_eq!(
        said(&changes, "a"),
        [ACCEPTED; 6],
        "all that had touched b's name"
    );
}

#[test]
fn the_first_claim_wins_and_the_next_follows_when_it_ends() {
    let mut registry = registry(&[
        ("a", &["h.example"]),
        ("b", &["h.example"]),
        ("c", &["h.example"]),
    ]);
    upsert(&mut registry, "b", &[("h.example", "/")]);
    let changes = upsert(
        &mut registry,
        "a",
        &[("h.example", "/"), ("h.example", "/a")],
    );
    assert_eq!(
        (said(&changes, "a"), hosts(&changes).len()),
        (vec![OWNED, OWNED], 0)
    );
    upsert(&mut registry, "c", &[("h.example", "/")]);
    assert_eq!(registry.owner(&one("h.example")), Some(&id("b")));

    // The owner changes its routes and keeps the host, even if none of the old routes stays.
    let replaced = registry
        .apply(&id("b"), Change::Replace(vec![wire("h.example", "/new")]))
        .unwrap();
    assert_eq!(
        (said(&replaced, "a"), hosts(&replaced)),
        (vec![], vec!["h.example".to_owned()])
    );
    assert_eq!(registry.routes_of_host(&one("h.example"))[0].path, "/new");

    let changes = delete(&mut registry, "b", &[("h.example", "/new")]);
    assert_eq!(
        (said(&changes, "a"), said(&changes, "c")),
        (vec![ACCEPTED, ACCEPTED], vec![])
    );
    assert_eq!(hosts(&changes), ["h.example"]);
    assert_eq!(registry.claims(&one("h.example")), [id("a"), id("c")]);
    // Whoever comes back queues at the end.
    assert_eq!(
        said(&upsert(&mut registry, "b", &[("h.example", "/")]), "b"),
        [OWNED]
    );
    assert_eq!(said(&registry.remove_cluster(&id("a")), "c"), [ACCEPTED]);
    assert_eq!(registry.owner(&one("h.example")), Some(&id("c")));
}

#[test]
fn a_grant_that_is_withdrawn_frees_the_host_and_given_again_queues() {
    let mut registry = registry(&[("a", &["h.example"]), ("b", &["h.example"])]);
    upsert(&mut registry, "a", &[("h.example", "/")]);
    upsert(&mut registry, "b", &[("h.example", "/")]);
    let changes = registry.put_cluster(grant("a", &[]));
    assert_eq!(
        (said(&changes, "a"), said(&changes, "b")),
        (vec![NOT_GRANTED], vec![ACCEPTED])
    );
    assert_eq!(
        changes.routes,
        BTreeMap::new(),
        "the routes themselves stay"
    );
    let changes = registry.put_cluster(grant("a", &["*.h.example"]));
    assert_eq!(changes, Changes::default(), "h.example is not below itself");
    let changes = registry.put_cluster(grant("a", &["h.example"]));
    assert_eq!(
        (said(&changes, "a"), said(&changes, "b")),
        (vec![OWNED], vec![])
    );
}

#[test]
fn a_wildcard_and_a_host_below_it_may_have_two_owners() {
    let mut registry = registry(&[
        ("a", &["*.w.example"]),
        ("b", &["x.w.example"]),
        ("c", &["*.w.example"]),
    ]);
    assert_eq!(
        said(&upsert(&mut registry, "a", &[("*.w.example", "/")]), "a"),
        [ACCEPTED]
    );
    assert_eq!(
        said(&upsert(&mut registry, "b", &[("x.w.example", "/")]), "b"),
        [ACCEPTED]
    );
    assert_eq!(
        said(&upsert(&mut registry, "b", &[("y.w.example", "/")]), "b"),
        [NOT_GRANTED]
    );
    // The two kinds of wildcard are one host: else a later claim of the narrower kind would take the traffic.
    let mut wire = wire("*.w.example", "/");
    wire.wildcard = Some(WildcardMode::ManyLabels);
    let changes = registry
        .apply(&id("c"), Change::Upsert(vec![wire]))
        .unwrap();
    assert_eq!(said(&changes, "c"), [OWNED]);
    let changes = delete(&mut registry, "a", &[("*.w.example", "/")]);
    assert_eq!(
        changes.hosts,
        [one("*.w.example"), many("*.w.example")].into()
    );
    assert_eq!(registry.routes_of_host(&one("*.w.example")), []);
    assert_eq!(registry.routes_of_host(&many("*.w.example")).len(), 1);
}

#[test]
fn flaw_15_a_delete_reaches_neither_other_paths_nor_other_clusters() {
    let mut registry = registry(&[("a", &["h.example"]), ("b", &["h.example"])]);
    let mut other = wire("h.example", "/api");
    (other.id, other.source, other.path_type) = (
        None,
        Some("Ingress/shop/other".into()),
        Some("Exact".into()),
    );
    upsert(
        &mut registry,
        "a",
        &[("h.example", "/"), ("h.example", "/api")],
    );
    registry
        .apply(&id("a"), Change::Upsert(vec![other]))
        .unwrap();
    upsert(
        &mut registry,
        "b",
        &[("h.example", "/"), ("h.example", "/api")],
    );

    // Another cluster deletes by the same host and path, and even by the same ids.
    let same_ids = registry
        .routes_of_cluster(&id("a"))
        .map(|(route, _)| RouteSelector::Id(route.id))
        .collect();
    delete(&mut registry, "b", &[("h.example", "/")]);
    registry.apply(&id("b"), Change::Delete(same_ids)).unwrap();
    assert_eq!(registry.routes_of_cluster(&id("a")).count(), 3);
    assert_eq!(registry.routes_of_cluster(&id("b")).count(), 0);
    assert_eq!(registry.routes_of_host(&one("h.example")).len(), 3);

    // Its own delete takes the one path, of the one type, service and namespace that it names.
    let like = |path_type: Option<&str>, service: Option<&str>| WireRoute {
        host: Some("H.Example.".into()),
        path: Some("/api".into()),
        path_type: path_type.map(str::to_owned),
        service: service.map(str::to_owned),
        ..WireRoute::default()
    };
    let mut apply = |wire: WireRoute| {
        let changes = registry
            .apply(&id("a"), Change::Delete(vec![wire.into()]))
            .unwrap();
        changes
            .routes
            .values()
            .filter(|route| route.is_none())
            .count()
    };
    assert_eq!(apply(like(None, Some("else"))), 0);
    assert_eq!(apply(like(Some("Exact"), None)), 1);
    assert_eq!(apply(like(None, None)), 1);
    assert_eq!(registry.routes_of_host(&one("h.example"))[0].path, "/");
}

#[test]
fn a_route_that_is_none_is_refused_and_takes_its_predecessor_with_it() {
    let mut registry = registry(&[("a", &["h.example"])]);
    upsert(
        &mut registry,
        "a",
        &[("h.example", "/"), ("h.example", "/b")],
    );
    let bad = WireRoute {
        port: Some(0),
        ..wire("h.example", "/")
    };
    let changes = registry
        .apply(&id("a"), Change::Upsert(vec![bad.clone()]))
        .unwrap();
    assert_eq!(
        said(&changes, "a"),
        [Verdict::Refused(RefusedReason::InvalidPort)]
    );
    assert_eq!(
        (hosts(&changes), changes.routes.values().collect::<Vec<_>>()),
        (vec!["h.example".to_owned()], vec![&None])
    );
    assert_eq!(verdict(&registry, "a", "h.example", "/"), None);
    assert_eq!(verdict(&registry, "a", "h.example", "/b"), Some(ACCEPTED));
    // One without an id has one to be refused under.
    let changes = registry
        .apply(
            &id("a"),
            Change::Upsert(vec![WireRoute { id: None, ..bad }]),
        )
        .unwrap();
    assert_eq!(said(&changes, "a").len(), 1);
}

#[test]
fn too_many_routes_are_refused_until_there_is_room() {
    let mut registry = Registry::with_limit(2);
    registry.put_cluster(grant("a", &["h.example"]));
    let changes = upsert(
        &mut registry,
        "a",
        &[
            ("h.example", "/1"),
            ("h.example", "/2"),
            ("h.example", "/3"),
        ],
    );
    let refused = said(&changes, "a")
        .into_iter()
        .filter(|verdict| *verdict != ACCEPTED)
        .collect::<Vec<_>>();
    assert_eq!(refused, [Verdict::Refused(RefusedReason::TooManyRoutes)]);
    assert_eq!(changes.routes.len(), 2);
    // What is there may still change.
    let changed = WireRoute {
        port: Some(81),
        ..wire("h.example", "/1")
    };
    let changes = registry
        .apply(&id("a"), Change::Upsert(vec![changed]))
        .unwrap();
    assert_eq!(
        (said(&changes, "a"), changes.resync.len()),
        (vec![ACCEPTED], 0)
    );
    let changes = delete(&mut registry, "a", &[("h.example", "/2")]);
    assert_eq!(
        changes.resync,
        [id("a")].into(),
        "the agent is asked for what was turned away"
    );
    assert_eq!(
        delete(&mut registry, "a", &[("h.example", "/1")]).resync,
        BTreeSet::new()
    );
    // A snapshot makes room first.
    upsert(
        &mut registry,
        "a",
        &[("h.example", "/1"), ("h.example", "/2")],
    );
    let snapshot = Change::Replace(vec![wire("h.example", "/3"), wire("h.example", "/4")]);
    assert_eq!(
        said(&registry.apply(&id("a"), snapshot).unwrap(), "a"),
        [ACCEPTED, ACCEPTED]
    );
}

#[test]
fn a_change_that_changes_nothing_says_the_verdicts_again_and_nothing_else() {
    let mut registry = registry(&[("a", &["h.example"])]);
    let routes = [("h.example", "/"), ("other.example", "/")];
    let first = upsert(&mut registry, "a", &routes);
    let again = upsert(&mut registry, "a", &routes);
    assert_eq!(
        again.verdicts, first.verdicts,
        "the agent that asks may be another process"
    );
    assert_eq!((again.hosts.len(), again.routes.len()), (0, 0));
    let snapshot = Change::Replace(routes.iter().map(|(host, path)| wire(host, path)).collect());
    assert_eq!(registry.apply(&id("a"), snapshot).unwrap(), again);
    assert_eq!(
        delete(&mut registry, "a", &[("h.example", "/none")]),
        Changes::default()
    );
    assert_eq!(
        registry.put_cluster(grant("a", &["h.example"])),
        Changes::default()
    );
    assert_eq!(registry.remove_cluster(&id("z")), Changes::default());
    let (accepted, refused) = registry.refusals(&id("a"));
    assert_eq!(
        (accepted, refused.len(), refused[0].host.as_str()),
        (1, 1, "other.example")
    );
}

#[test]
fn an_explanation_says_what_happens_and_what_came_close() {
    let mut registry = registry(&[("a", &["*.w.example"]), ("b", &["*.w.example"])]);
    upsert(
        &mut registry,
        "a",
        &[("x.w.example", "/app"), ("*.w.example", "/")],
    );
    upsert(
        &mut registry,
        "b",
        &[("x.w.example", "/"), ("w.example", "/")],
    );
    let explain = |name: &str, path: &str| registry.explain(&host(name), path);

    let explained = explain("x.w.example", "/app/1");
    assert!(
        matches!(&explained.outcome, Outcome::Served { cluster, route } if *cluster == id("a") && route.path == "/app")
    );
    let patterns: Vec<_> = explained
        .candidates
        .iter()
        .map(|candidate| candidate.pattern.to_string())
        .collect();
    assert_eq!(patterns, ["x.w.example", "*.w.example"]);
    assert_eq!(
        (
            explained.candidates[0].owner.as_ref(),
            &explained.candidates[0].waiting
        ),
        (Some(&id("a")), &vec![id("b")])
    );
    assert_eq!(explained.candidates[0].paths, ["/app (Prefix)"]);
    assert_eq!(explained.refused.len(), 1);
    assert_eq!(
        (&explained.refused[0].cluster, explained.refused[0].reason),
        (&id("b"), RefusedReason::HostOwnedByOther)
    );

    assert_eq!(
        explain("x.w.example", "/else").outcome,
        Outcome::UnknownPath,
        "the wildcard is no second try"
    );
    assert!(matches!(
        explain("x.w.example", "/app/../else").outcome,
        Outcome::BadPath { .. }
    ));
    assert!(matches!(
        explain("y.w.example", "/else").outcome,
        Outcome::Served { .. }
    ));
    assert_eq!(
        explain("nowhere.example", "/").outcome,
        Outcome::UnknownHost
    );
    let refused = explain("w.example", "/");
    assert_eq!(
        (&refused.outcome, refused.candidates[0].owner.as_ref()),
        (&Outcome::UnknownHost, None)
    );
    assert_eq!(refused.refused[0].reason, RefusedReason::HostNotGranted);
    let json = serde_json::to_value(&explained).unwrap();
    assert_eq!(json["outcome"]["served"]["cluster"], "a");
    assert_eq!(json["outcome"]["served"]["route"]["path"], "/app");
}

/// A step of a history.
#[derive(Debug, Clone)]
enum Step {
    Put(u8, Vec<HostPattern>, u8),
    Remove(u8),
    Upsert(u8, Vec<WireRoute>),
    Replace(u8, Vec<WireRoute>),
    Delete(u8, Vec<WireRoute>),
}

const NAMES: [&str; 7] = [
    "x.w.example",
    "y.w.example",
    "w.example",
    "gw.example",
    "n0.gw.example",
    "a.n1.gw.example",
    "example",
];

fn any_pattern() -> impl Strategy<Value = HostPattern> {
    (prop::sample::select(NAMES.to_vec()), 0..3).prop_map(|(name, kind)| match kind {
        0 => one(name),
        1 => one(&format!("*.{name}")),
        _ => many(&format!("*.{name}")),
    })
}

fn any_wire() -> impl Strategy<Value = WireRoute> {
    (prop::option::weighted(0.9, any_pattern()), 0..3u8, 0..3u16).prop_map(
        |(pattern, path, port)| {
            // Port 0 makes it no route.
            let route = Route {
                host: pattern,
                port,
                ..route("", &format!("/{path}"), PathType::Prefix)
            };
            let id = RouteId::of(
                &route.source,
                &route.host_text(),
                &route.path,
                route.path_type,
            );
            WireRoute::from(Route { id, ..route })
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    let wires = || prop::collection::vec(any_wire(), 0..6);
    prop_oneof![
        2 => (0..4u8, prop::collection::vec(any_pattern(), 0..4), 0..2u8).prop_map(|(c, p, o)| Step::Put(c, p, o)),
        1 => (0..4u8).prop_map(Step::Remove),
        5 => (0..4u8, wires()).prop_map(|(cluster, wires)| Step::Upsert(cluster, wires)),
        2 => (0..4u8, wires()).prop_map(|(cluster, wires)| Step::Replace(cluster, wires)),
        2 => (0..4u8, wires()).prop_map(|(cluster, wires)| Step::Delete(cluster, wires)),
    ]
}

/// What somebody knows who only sees the changes: a store, an agent's verdicts and a routing table.
#[derive(Default)]
struct Mirror {
    stored: BTreeMap<(ClusterId, RouteId), Arc<Route>>,
    verdicts: BTreeMap<(ClusterId, RouteId), Verdict>,
    table: RouteTable<Arc<Route>>,
}

impl Mirror {
    fn follow(&mut self, registry: &Registry, applied: Option<&ClusterId>, changes: Changes) {
        for (route, kept) in applied
            .into_iter()
            .flat_map(|id| changes.routes.iter().map(move |kept| (id, kept)))
            .map(|(id, (route, kept))| ((id.clone(), *route), kept.clone()))
        {
            match kept {
                Some(kept) => self.stored.insert(route, kept),
                None => self.stored.remove(&route),
            };
        }
        for (cluster, verdicts) in changes.verdicts {
            for (route, verdict) in verdicts {
                self.verdicts.insert((cluster.clone(), route), verdict);
            }
        }
        self.verdicts.retain(|key, _| self.stored.contains_key(key));
        for host in changes.hosts {
            let routes = registry.routes_of_host(&host);
            self.table.set_host(
                &host,
                routes
                    .into_iter()
                    .map(|route| (route.clone(), route))
                    .collect(),
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_history_gives_what_building_anew_gives(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut registry = Registry::new();
        let mut mirror = Mirror::default();
        let mut grants: BTreeMap<ClusterId, Grant> = BTreeMap::new();
        for step in steps {
            let named = |cluster: u8| id(&format!("n{cluster}"));
            let (cluster, changes) = match step {
                Step::Put(cluster, patterns, own) => {
                    let own_host = host(&format!("n{cluster}{}.gw.example", "x".repeat(own.into())));
                    let grant = Grant { cluster: named(cluster), own_host, patterns };
                    grants.insert(named(cluster), grant.clone());
                    (None, registry.put_cluster(grant))
                }
                Step::Remove(cluster) => {
                    grants.remove(&named(cluster));
                    (Some(named(cluster)), registry.remove_cluster(&named(cluster)))
                }
                Step::Upsert(cluster, wires) => (Some(named(cluster)), registry.apply(&named(cluster), Change::Upsert(wires)).unwrap_or_default()),
                Step::Replace(cluster, wires) => (Some(named(cluster)), registry.apply(&named(cluster), Change::Replace(wires)).unwrap_or_default()),
                Step::Delete(cluster, wires) => {
                    let selectors = wires.into_iter().map(RouteSelector::from).collect();
                    (Some(named(cluster)), registry.apply(&named(cluster), Change::Delete(selectors)).unwrap_or_default())
                }
            };
            mirror.follow(&registry, cluster.as_ref(), changes);
        }

        // The changes told the whole story.
        let mut kept = BTreeMap::new();
        let mut verdicts = BTreeMap::new();
        for cluster in grants.keys() {
            for (route, verdict) in registry.routes_of_cluster(cluster) {
                kept.insert((cluster.clone(), route.id), route.clone());
                verdicts.insert((cluster.clone(), route.id), *verdict);
            }
        }
        prop_assert_eq!(&mirror.stored, &kept);
        prop_assert_eq!(&mirror.verdicts, &verdicts);

        // Anew, with the same order of claims.
        let mut fresh = Registry::new();
        for grant in grants.values() {
            fresh.put_cluster(grant.clone());
        }
        for (key, state) in &registry.hosts {
            prop_assert!(!state.routes.is_empty(), "{:?} is forgotten", key);
            let others = state.routes.keys().filter(|id| !state.claims.contains(id));
            for cluster in state.claims.iter().chain(others) {
                let routes = state.routes[cluster].iter().map(|route| WireRoute::from(&*kept[&(cluster.clone(), *route)]));
                fresh.apply(cluster, Change::Upsert(routes.collect())).unwrap();
            }
        }
        let mut patterns = BTreeSet::new();
        for (cluster, grant) in &grants {
            let all: Vec<_> = registry.routes_of_cluster(cluster).collect();
            prop_assert_eq!(&all, &fresh.routes_of_cluster(cluster).collect::<Vec<_>>());
            for (route, verdict) in all {
                let pattern = route.host.clone().unwrap_or(HostPattern::Exact(grant.own_host.clone()));
                if *verdict == ACCEPTED {
                    let own = *pattern.name() == grant.own_host || pattern.name().is_under(&grant.own_host);
                    prop_assert!(own || grant.patterns.iter().any(|granted| granted.covers(&pattern)));
                    prop_assert_eq!(registry.owner(&pattern), Some(cluster));
                    let foreign = grants.values().filter(|other| other.cluster != *cluster);
                    for other in foreign {
                        prop_assert!(!pattern.matches(&other.own_host), "{pattern} takes {} in", other.own_host);
                    }
                }
                patterns.insert(pattern);
            }
        }
        let mut table = RouteTable::new();
        for pattern in &patterns {
            prop_assert_eq!(registry.owner(pattern), fresh.owner(pattern));
            let routes = registry.routes_of_host(pattern);
            prop_assert_eq!(&routes, &fresh.routes_of_host(pattern));
            table.set_host(pattern, routes.into_iter().map(|route| (route.clone(), route)).collect());
        }
        prop_assert_eq!((mirror.table.len(), mirror.table.memory_bytes()), (table.len(), table.memory_bytes()));
        // The table and the explanation agree on every request.
        for name in NAMES.into_iter().chain(["z.w.example", "a.b.w.example", "n1.gw.example", "n1x.gw.example"]) {
            for path in ["/0", "/1/x", "/none", "/0/../1"] {
                let found = mirror.table.lookup(name, path);
                let explained = match registry.explain(&host(name), path).outcome {
                    Outcome::Served { route, .. } => Ok(route),
                    Outcome::UnknownHost => Err(NoMatch::UnknownHost),
                    Outcome::UnknownPath => Err(NoMatch::UnknownPath),
                    Outcome::BadPath { reason } => Err(NoMatch::BadPath(reason)),
                };
                prop_assert_eq!(found.cloned(), explained, "{}{}", name, path);
            }
        }
    }
}
