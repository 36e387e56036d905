//! The table against tables of cases and against a slow reading of the rules.

use proptest::prelude::*;

use super::*;
use crate::id::RouteId;
use crate::route::PathType;
use crate::route::tests::route;

fn one(text: &str) -> HostPattern {
    HostPattern::parse(text, WildcardMode::OneLabel).unwrap()
}

fn many(text: &str) -> HostPattern {
    HostPattern::parse(text, WildcardMode::ManyLabels).unwrap()
}

/// A table of one host in which each entry is the path it was made from; "=" in front makes it exact.
fn paths(paths: &[&str]) -> RouteTable<String> {
    let mut table = RouteTable::new();
    let routes = paths.iter().map(|&text| {
        let (path, path_type) = match text.strip_prefix('=') {
            Some(path) => (path, PathType::Exact),
            None => (text, PathType::Prefix),
        };
        (route("h.example", path, path_type), text.to_owned())
    });
    table.set_host(&one("h.example"), routes.collect());
    table
}

/// The same table with so many other paths that it is searched by hashing.
fn many_paths(some: &[&str]) -> RouteTable<String> {
    let others: Vec<String> = (0..40)
        .map(|number| format!("/filler-{number}/x"))
        .collect();
    paths(
        &some
            .iter()
            .copied()
            .chain(others.iter().map(String::as_str))
            .collect::<Vec<_>>(),
    )
}

fn each_size(some: &[&str], check: impl Fn(&RouteTable<String>)) {
    check(&paths(some));
    check(&many_paths(some));
}

fn hit<'a>(table: &'a RouteTable<String>, path: &str) -> Option<&'a str> {
    match table.lookup("h.example", path) {
        Ok(entry) => Some(entry),
        Err(NoMatch::UnknownPath) => None,
        Err(error @ (NoMatch::UnknownHost | NoMatch::BadPath(_))) => panic!("{path}: {error}"),
    }
}

#[test]
fn a_prefix_matches_element_by_element() {
    each_size(&["/foo"], |table| {
        for path in ["/foo", "/foo/", "/foo/bar", "/foo//bar"] {
            assert_eq!(hit(table, path), Some("/foo"), "{path}");
        }
        for path in ["/", "/foobar", "/fo", "/Foo", "/bar/foo", "//foo"] {
            assert_eq!(hit(table, path), None, "{path}");
        }
    });
}

#[test]
fn one_final_slash_of_a_prefix_does_not_count() {
    each_size(&["/foo/", "/"], |table| {
        for path in ["/foo", "/foo/", "/foo/bar"] {
            assert_eq!(hit(table, path), Some("/foo/"), "{path}");
        }
        assert_eq!(hit(table, "/foobar"), Some("/"));
        assert_eq!(hit(table, "/"), Some("/"));
        assert_eq!(hit(table, ""), Some("/"));
        assert_eq!(hit(table, "*"), Some("/"));
    });
}

#[test]
fn exact_is_equality_with_case_and_final_slash() {
    each_size(&["=/foo", "=/bar/"], |table| {
        assert_eq!(hit(table, "/foo"), Some("=/foo"));
        assert_eq!(hit(table, "/bar/"), Some("=/bar/"));
        for path in ["/foo/", "/foo/bar", "/FOO", "/bar", "/"] {
            assert_eq!(hit(table, path), None, "{path}");
        }
    });
}

#[test]
fn the_longest_path_wins_and_exact_before_prefix() {
    each_size(&["/", "/aaa", "/aaa/bbb", "=/aaa", "=/aaa/bbb/"], |table| {
        assert_eq!(hit(table, "/"), Some("/"));
        assert_eq!(hit(table, "/aaa"), Some("=/aaa"));
        assert_eq!(hit(table, "/aaa/"), Some("/aaa"));
        assert_eq!(hit(table, "/aaa/ccc"), Some("/aaa"));
        assert_eq!(hit(table, "/aaa/bbb"), Some("/aaa/bbb"));
        assert_eq!(hit(table, "/aaa/bbb/"), Some("=/aaa/bbb/"));
        assert_eq!(hit(table, "/aaa/bbb/c"), Some("/aaa/bbb"));
        assert_eq!(hit(table, "/aaa/bbbxyz"), Some("/aaa"));
    });
}

#[test]
fn of_equal_routes_the_oldest_wins_then_the_least_source() {
    let aged = |created, source: &str| Route {
        created,
        source: source.into(),
        ..route("h.example", "/a", PathType::Prefix)
    };
    let mut contest = vec![
        (aged(20, "Ingress/a/a"), "young"),
        (aged(10, "Ingress/b/b"), "old, later name"),
        (aged(10, "Ingress/b/a"), "old, earlier name"),
        (aged(i64::MAX, ""), "of unknown age"),
    ];
    for _ in 0..contest.len() {
        contest.rotate_left(1);
        let mut table = RouteTable::new();
        table.set_host(&one("h.example"), contest.clone());
        assert_eq!(table.lookup("h.example", "/a"), Ok(&"old, earlier name"));
        assert_eq!(table.len(), 1, "only one of them can ever win");
    }
    // The same path with and without a final slash is the same prefix.
    let mut table = RouteTable::new();
    let slash = Route {
        created: 5,
        ..route("h.example", "/a/", PathType::ImplementationSpecific)
    };
    table.set_host(
        &one("h.example"),
        vec![(aged(10, "Ingress/b/b"), "plain"), (slash, "slash")],
    );
    assert_eq!(table.lookup("h.example", "/a"), Ok(&"slash"));
}

#[test]
fn empty_elements_are_elements_and_never_merged() {
    each_size(&["/", "/a/b", "/x//y"], |table| {
        assert_eq!(hit(table, "//a/b"), Some("/"));
        assert_eq!(hit(table, "/a//b"), Some("/"));
        assert_eq!(hit(table, "/x//y/z"), Some("/x//y"));
        assert_eq!(hit(table, "/x/y"), Some("/"));
    });
}

#[test]
fn paths_are_compared_decoded() {
    each_size(&["/a b", "/%C3%BC", "=/100%"], |table| {
        assert_eq!(hit(table, "/a%20b/c"), Some("/a b"));
        assert_eq!(hit(table, "/%61%20b"), Some("/a b"));
        assert_eq!(hit(table, "/%c3%bc"), Some("/%C3%BC"));
        assert_eq!(hit(table, "/100%25"), Some("=/100%"));
        assert_eq!(hit(table, "/100%"), Some("=/100%"));
        assert_eq!(hit(table, "/%2561%20b"), None, "decoded once only");
    });
}

#[test]
fn a_path_that_backends_could_read_differently_is_bad_only_if_routes_differ() {
    each_size(&["/", "/admin", "/static"], |table| {
        let bad = |path: &str| matches!(table.lookup("h.example", path), Err(NoMatch::BadPath(_)));
        for path in [
            "/static/../admin",
            "/static/%2e%2e/admin",
            "/static/%2E./admin/x",
            "/static/..;/admin",
            "/static/..;a=b/admin",
            "/static/..%2fadmin",
            "/static%2f..%2fadmin",
            "/static\\..\\admin",
            "/static/..%5Cadmin",
            "/%2fadmin/../static",
            "/./admin",
            "/x/../admin",
            "/admin/..",
            "/admin%2fx",
            "/a/../../admin",
        ] {
            assert!(bad(path), "{path}: {:?}", table.lookup("h.example", path));
        }
        for (path, entry) in [
            ("/admin/../admin/x", "/admin"),
            ("/admin/./x", "/admin"),
            ("/static/a%2Fb", "/static"),
            ("/static/a/../b", "/static"),
            ("/a/../b", "/"),
            ("/group%2Fproject", "/"),
            ("/static/..a", "/static"),
            ("/static/.hidden", "/static"),
            ("/.well-known/acme-challenge/x", "/"),
        ] {
            assert_eq!(hit(table, path), Some(entry), "{path}");
        }
        assert!(bad("/static/a%00b"));
        assert!(bad("static"));
    });
    // With one route for everything there is nothing to get around.
    each_size(&["/"], |table| {
        assert_eq!(hit(table, "/a/%2e%2e/..%2f\\b"), Some("/"))
    });
}

#[test]
fn the_most_specific_host_is_consulted_and_no_other() {
    let mut table = RouteTable::new();
    let mut set = |pattern: HostPattern, path: &str, entry: &'static str| {
        table.set_host(&pattern, vec![(route("x", path, PathType::Prefix), entry)]);
    };
    set(one("a.b.example"), "/exact", "exact");
    set(one("*.b.example"), "/", "one");
    set(many("*.b.example"), "/", "many");
    set(many("*.example"), "/", "top");
    for (host, path, expected) in [
        ("a.b.example", "/exact", Ok(&"exact")),
        ("a.b.example", "/else", Err(NoMatch::UnknownPath)),
        ("c.b.example", "/else", Ok(&"one")),
        ("c.c.b.example", "/else", Ok(&"many")),
        ("b.example", "/", Ok(&"top")),
        ("c.c.example", "/", Ok(&"top")),
        ("example", "/", Err(NoMatch::UnknownHost)),
        ("a.b.test", "/", Err(NoMatch::UnknownHost)),
        ("", "/", Err(NoMatch::UnknownHost)),
        (".", "/", Err(NoMatch::UnknownHost)),
        ("*.b.example", "/", Ok(&"one")),
    ] {
        assert_eq!(table.lookup(host, path), expected, "{host}{path}");
    }
    // A one-label wildcard is of the parent only.
    table.set_host(&many("*.example"), Vec::<(Route, _)>::new());
    table.set_host(&many("*.b.example"), Vec::<(Route, _)>::new());
    assert_eq!(
        table.lookup("c.c.b.example", "/"),
        Err(NoMatch::UnknownHost)
    );
}

#[test]
fn a_change_touches_its_host_only_and_clones_keep_what_they_had() {
    let mut table = RouteTable::new();
    let hosts: Vec<HostPattern> = (0..500)
        .map(|number| one(&format!("h{number}.example")))
        .collect();
    for (number, host) in hosts.iter().enumerate() {
        table.set_host(host, vec![(route("x", "/", PathType::Prefix), number)]);
    }
    let before = table.clone();
    let bytes = table.memory_bytes();
    table.set_host(
        &hosts[7],
        vec![
            (route("x", "/a", PathType::Prefix), 1007),
            (route("x", "/b", PathType::Prefix), 2007),
        ],
    );
    table.set_host(&hosts[8], Vec::<(Route, usize)>::new());
    assert_eq!(before.lookup("h7.example", "/"), Ok(&7));
    assert_eq!(before.lookup("h8.example", "/"), Ok(&8));
    assert_eq!(table.lookup("h7.example", "/"), Err(NoMatch::UnknownPath));
    assert_eq!(table.lookup("h7.example", "/b"), Ok(&2007));
    assert_eq!(table.lookup("h8.example", "/"), Err(NoMatch::UnknownHost));
    let shared = (0..FANOUT)
        .flat_map(|group| (0..FANOUT).map(move |shard| (group, shard)))
        .filter(|&(group, shard)| {
            Arc::ptr_eq(&table.groups[group][shard], &before.groups[group][shard])
        })
        .count();
    assert_eq!(shared, FANOUT * FANOUT - 2);
    assert_eq!((before.len(), table.len()), (500, 500));
    // Back to the same set: the same size to the byte.
    table.set_host(&hosts[7], vec![(route("x", "/", PathType::Prefix), 7)]);
    table.set_host(&hosts[8], vec![(route("x", "/", PathType::Prefix), 8)]);
    assert_eq!(table.memory_bytes(), bytes);
    for host in &hosts {
        table.set_host(host, Vec::<(Route, usize)>::new());
    }
    assert!(table.is_empty());
    assert_eq!(
        table.memory_bytes(),
        RouteTable::<usize>::new().memory_bytes()
    );
}

#[test]
fn hosts_with_equal_hashes_are_told_apart() {
    // The last slot of every size: a run of equal hashes goes over the end.
    const LAST: u64 = u32::MAX as u64;
    let rules = |host: &str, entry| {
        let routes = vec![(route("x", "/", PathType::Prefix), entry)];
        HostRules::new(&one(host), routes)
    };
    let mut shard: Shard<usize> = Arc::new([]);
    let hosts: Vec<String> = (0..20).map(|number| format!("h{number}")).collect();
    for (number, host) in hosts.iter().enumerate() {
        assert!(put(&mut shard, LAST, Kind::Exact, host, rules(host, number)).is_none());
    }
    assert!(put(&mut shard, LAST, Kind::OneLabel, "h3", rules("*.h3", 103)).is_none());
    for (number, host) in hosts
        .iter()
        .enumerate()
        .filter(|(number, _)| number % 3 == 0)
    {
        let before = put(&mut shard, LAST, Kind::Exact, host, None);
        assert_eq!(
            before.and_then(|rules| rules.entry(0).copied()),
            Some(number)
        );
    }
    let entry = |kind, host: &str| {
        let at = find(&shard, LAST, kind, host)?;
        shard[at]
            .rules
            .as_ref()
            .and_then(|rules| rules.entry(0).copied())
    };
    for (number, host) in hosts.iter().enumerate() {
        assert_eq!(
            entry(Kind::Exact, host),
            Some(number).filter(|number| number % 3 != 0)
        );
    }
    assert_eq!(entry(Kind::OneLabel, "h3"), Some(103));
    assert_eq!(entry(Kind::ManyLabels, "h3"), None);
    assert_eq!((super::hosts(&shard), shard.len()), (14, 20));
}

#[test]
fn names_and_paths_of_every_length_are_kept_whole() {
    for length in (1..80).chain([500, 4095]) {
        let path = format!("/{}", "p".repeat(length));
        let host = format!("{}.example", "h".repeat(length.min(63)));
        let mut table = RouteTable::new();
        table.set_host(&one(&host), vec![(route("x", &path, PathType::Exact), 1)]);
        assert_eq!(table.lookup(&host, &path), Ok(&1), "{length}");
        assert_eq!(
            table.lookup(&host, &path[1..]),
            Err(NoMatch::BadPath("the path does not start with a slash"))
        );
        assert_eq!(
            table.lookup(&host, &format!("{path}p")),
            Err(NoMatch::UnknownPath)
        );
        assert_eq!(table.lookup(&host[1..], &path), Err(NoMatch::UnknownHost));
    }
}

#[test]
fn routes_that_no_request_can_reach_are_left_out() {
    let mut table = RouteTable::new();
    table.set_host(
        &one("h.example"),
        vec![(route("x", "/a/../b", PathType::Prefix), ())],
    );
    assert!(table.is_empty());
    assert_eq!(table.lookup("h.example", "/b"), Err(NoMatch::UnknownHost));
}

/// The rules read off the documentation, without regard to time.
fn slow_lookup<'a>(routes: &'a [Route], path: &str) -> Option<&'a Route> {
    let elements =
        |path: &str| -> Vec<String> { path[1..].split('/').map(str::to_owned).collect() };
    let prefix = |path: &str| {
        elements(
            path.strip_suffix('/')
                .filter(|rest| !rest.is_empty())
                .unwrap_or(path),
        )
    };
    let depth = |route: &Route| {
        if route.path == "/" {
            0
        } else {
            prefix(&route.path).len()
        }
    };
    let matches = |route: &&Route| match route.path_type {
        PathType::Exact => route.path == path,
        PathType::Prefix | PathType::ImplementationSpecific => {
            route.path == "/" || elements(path).starts_with(&prefix(&route.path))
        }
    };
    routes.iter().filter(matches).min_by_key(|route| {
        let exact = route.path_type == PathType::Exact;
        let rank = if exact {
            (0, 0)
        } else {
            (1, usize::MAX - depth(route))
        };
        (rank, route.created, route.source.clone(), route.id)
    })
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab]{0,2}", 1..5).prop_map(|elements| format!("/{}", elements.join("/")))
}

fn any_route() -> impl Strategy<Value = Route> {
    let path_type = prop::sample::select(vec![
        PathType::Exact,
        PathType::Prefix,
        PathType::ImplementationSpecific,
    ]);
    (any_path(), path_type, 0..3i64, 0..3u8, any::<u64>()).prop_map(
        |(path, path_type, created, source, id)| Route {
            created,
            source: format!("Ingress/a/{source}"),
            id: RouteId(id),
            ..route("h.example", &path, path_type)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn lookup_is_what_the_rules_say(
        routes in prop::collection::vec(any_route(), 1..40),
        requests in prop::collection::vec(any_path(), 1..10),
    ) {
        let mut table = RouteTable::new();
        let entries = routes.iter().map(|route| (route.clone(), route.id)).collect();
        table.set_host(&one("h.example"), entries);
        for path in requests {
            let expected = slow_lookup(&routes, &path).map(|route| &route.id);
            let found = table.lookup("h.example", &path);
            prop_assert_eq!(found.ok(), expected, "{} {:?}", path, routes);
        }
    }

    #[test]
    fn any_order_of_changes_gives_the_same_table(
        steps in prop::collection::vec((0..6usize, prop::collection::vec(any_route(), 0..12)), 1..20),
        requests in prop::collection::vec(any_path(), 1..6),
    ) {
        let patterns = [one("a.b.c"), one("*.b.c"), many("*.b.c"), many("*.c"), one("b.c"), one("*.c")];
        let mut table = RouteTable::new();
        let mut last: [Option<&Vec<Route>>; 6] = [None; 6];
        for (which, routes) in &steps {
            table.set_host(&patterns[*which], routes.iter().map(|route| (route.clone(), route.id)).collect());
            last[*which] = Some(routes);
        }
        let mut fresh = RouteTable::new();
        for (pattern, routes) in patterns.iter().zip(last).rev() {
            let routes = routes.map(|routes| routes.iter().map(|route| (route.clone(), route.id)).collect());
            fresh.set_host(pattern, routes.unwrap_or_default());
        }
        prop_assert_eq!((table.len(), table.memory_bytes()), (fresh.len(), fresh.memory_bytes()));
        for host in ["a.b.c", "x.b.c", "x.x.b.c", "b.c", "x.c", "c", "x"] {
            let served = patterns.iter().zip(last).filter(|(pattern, routes)| {
                pattern.matches(&host.parse().unwrap()) && routes.is_some_and(|routes| !routes.is_empty())
            });
            let best = served.min_by(|(a, _), (b, _)| a.specificity(b));
            for path in &requests {
                prop_assert_eq!(table.lookup(host, path), fresh.lookup(host, path));
                let expected = best.and_then(|(_, routes)| slow_lookup(routes?, path)).map(|route| &route.id);
                prop_assert_eq!(table.lookup(host, path).ok(), expected);
            }
        }
    }

    #[test]
    fn a_tricky_path_never_reaches_a_route_that_a_backend_would_not_mean(raw in "/[ab./%\\\\;2eEfF5cC]{0,24}") {
        let table = many_paths(&["/", "/a", "/b", "/a/b", "=/b/a"]);
        if let (Ok(entry), Ok(Readings::Several(readings))) = (table.lookup("h.example", &raw), path::readings(&raw)) {
            for reading in readings {
                let reading = String::from_utf8_lossy(&reading).replace('%', "%25").replace('\0', "%00");
                if let Ok(other) = table.lookup("h.example", &reading) {
                    prop_assert_eq!(entry, other);
                }
            }
        }
    }
}
