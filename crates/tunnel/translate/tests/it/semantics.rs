//! How rules, default backends and several Ingresses add up. Tests of single decisions stand beside the code.

use gatewright_translate::{Options, RefusalReason};

use crate::support::{OWN_NAME, Served, key, objects, with_services};

/// An Ingress of one-line rules: "host path pathType service", "-" for what is absent.
fn ingress(name: &str, created: &str, default: Option<&str>, rules: &[&str]) -> String {
    let backend =
        |service: &str| format!("{{ service: {{ name: {service}, port: {{ number: 8080 }} }} }}");
    let mut text =
        format!("---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{ name: {name}");
    if !created.is_empty() {
        text += &format!(", creationTimestamp: \"{created}\"");
    }
    text += " }\nspec:\n  ingressClassName: any\n";
    if let Some(service) = default {
        text += &format!("  defaultBackend: {}\n", backend(service));
    }
    if !rules.is_empty() {
        text += "  rules:\n";
    }
    for rule in rules {
        let words: Vec<&str> = rule.split(' ').collect();
        let [host, path, path_type, service] = words[..] else {
            panic!("{rule:?} has not four words")
        };
        let host = if host == "-" {
            String::new()
        } else {
            format!("host: \"{host}\"")
        };
        text += &match path {
            "-" => format!("  - {{ {host} }}\n"),
            path => {
                let path = format!(
                    "path: \"{path}\", pathType: {path_type}, backend: {}",
                    backend(service)
                );
                let comma = if host.is_empty() { "" } else { ", " };
                format!("  - {{ {host}{comma}http: {{ paths: [{{ {path} }}] }} }}\n")
            }
        };
    }
    text
}

fn serve(texts: &[String]) -> Served {
    Served::new(&with_services(
        objects(&texts.concat()),
        &["one", "two", "three"],
    ))
}

#[test]
fn a_default_backend_takes_what_is_left_of_the_hosts_of_its_ingress() {
    let rules = [
        "a.test /api Prefix two",
        "a.test /exact Exact three",
        "b.test - - -",
        "*.w.test /x Prefix two",
    ];
    let served = serve(&[ingress("app", "", Some("one"), &rules)]);
    assert_eq!(served.refusals(), [""; 0]);
    for (host, path, answer) in [
        ("a.test", "/api/x", Some("two")),
        ("a.test", "/exact", Some("three")),
        ("a.test", "/exact/x", Some("one")),
        ("a.test", "/", Some("one")),
        ("b.test", "/anything", Some("one")),
        ("y.w.test", "/x", Some("two")),
        ("y.w.test", "/y", Some("one")),
        ("c.test", "/", None),
        (OWN_NAME, "/", None),
    ] {
        assert_eq!(served.get(host, path), answer, "{host}{path}");
    }
}

#[test]
fn without_a_host_only_the_cluster_s_own_name_is_meant() {
    let served = serve(&[ingress("app", "", Some("one"), &["- /api Prefix two"])]);
    assert_eq!(served.refusals(), [""; 0]);
    assert!(
        served
            .translation
            .routes
            .values()
            .all(|route| route.host.is_none())
    );
    assert_eq!(served.get(OWN_NAME, "/api"), Some("two"));
    assert_eq!(served.get(OWN_NAME, "/"), Some("one"));
    assert_eq!(served.get("a.test", "/api"), None);
}

#[test]
fn a_rule_for_everything_comes_before_any_default_backend() {
    let own = ingress(
        "own",
        "2026-01-01T00:00:00Z",
        Some("one"),
        &["a.test / Prefix two"],
    );
    let served = serve(std::slice::from_ref(&own));
    assert_eq!(
        (served.get("a.test", "/x"), served.refusals().len()),
        (Some("two"), 0)
    );
    // The rule wins although its Ingress is younger than the one with the default backend.
    let old = ingress(
        "old",
        "2020-01-01T00:00:00Z",
        Some("three"),
        &["a.test /api Prefix three"],
    );
    let served = serve(&[own, old]);
    assert_eq!(served.get("a.test", "/x"), Some("two"));
    assert_eq!(served.get("a.test", "/api"), Some("three"));
    assert_eq!(served.refusals(), ["old spec.defaultBackend PathConflict"]);
}

#[test]
fn a_rule_with_nowhere_to_go_is_refused() {
    let served = serve(&[
        ingress("a", "", None, &["a.test - - -", "b.test / Prefix one"]),
        ingress("b", "", None, &[]),
    ]);
    assert_eq!(
        served.refusals(),
        ["a spec.rules[0] NoBackend", "b spec NoBackend"]
    );
    assert_eq!(served.get("b.test", "/"), Some("one"));
}

#[test]
fn the_older_ingress_keeps_a_path_then_the_first_by_name() {
    let (old, new) = ("2020-01-01T00:00:00Z", "2026-01-01T00:00:00Z");
    //   a          b          path of b        winner           refused
    for (a, b, path, winner, refused) in [
        (old, new, "/x Prefix", "one", Some("b")),
        (new, old, "/x Prefix", "two", Some("a")),
        (old, old, "/x Prefix", "one", Some("b")),
        ("", "", "/x Prefix", "one", Some("b")),
        ("", new, "/x Prefix", "two", Some("a")),
        // What matches alike is the same path.
        (old, new, "/x/ Prefix", "one", Some("b")),
        (old, new, "/x ImplementationSpecific", "one", Some("b")),
        // What does not is not.
        (old, new, "/x Exact", "two", None),
        (old, new, "/X Prefix", "one", None),
    ] {
        let b_rule = format!("h.test {path} two");
        let served = serve(&[
            ingress("a", a, None, &["h.test /x Prefix one"]),
            ingress("b", b, None, &[&b_rule]),
        ]);
        let given = format!("given a of {a:?}, b of {b:?} with {path}");
        assert_eq!(served.get("h.test", "/x"), Some(winner), "{given}");
        let refusals: Vec<String> = refused
            .iter()
            .map(|name| format!("{name} spec.rules[0].http.paths[0] PathConflict"))
            .collect();
        assert_eq!(served.refusals(), refusals, "{given}");
    }
}

#[test]
fn a_path_conflict_names_the_winner() {
    let rules = ["h.test /x Prefix one"];
    let served = serve(&[
        ingress("a", "", None, &rules),
        ingress("b", "", None, &rules),
    ]);
    assert_eq!(
        served.translation.refusals[0].message,
        "h.test/x is already given to Ingress default/a (spec.rules[0].http.paths[0]), which comes first; remove it \
         from one of the two"
    );
}

#[test]
fn within_one_ingress_the_first_rule_counts_and_a_repetition_is_harmless() {
    let rules = [
        "h.test /x Prefix one",
        "h.test /x/ Prefix one",
        "h.test /x Prefix two",
    ];
    let served = serve(&[ingress("a", "", None, &rules)]);
    assert_eq!(served.get("h.test", "/x/y"), Some("one"));
    assert_eq!(
        served.refusals(),
        ["a spec.rules[2].http.paths[0] PathConflict"]
    );
    assert_eq!(
        served.translation.refusals[0].message,
        "h.test/x is already given to spec.rules[0].http.paths[0] of this Ingress; remove one of the two"
    );
}

#[test]
fn the_winner_s_path_does_not_change_hands_while_its_service_is_missing() {
    let rules = |service: &str| [format!("h.test / Prefix {service}")];
    let texts = [
        ingress("a", "", None, &rules("late").each_ref().map(String::as_str)),
        ingress("b", "", None, &rules("one").each_ref().map(String::as_str)),
    ];
    let before = serve(&texts);
    assert_eq!(before.get("h.test", "/"), None);
    let refusals = [
        "a spec.rules[0].http.paths[0] ServiceNotFound",
        "b spec.rules[0].http.paths[0] PathConflict",
    ];
    assert_eq!(before.refusals(), refusals);
    // The loser is served as soon as the winner is gone.
    assert_eq!(serve(&texts[1..]).get("h.test", "/"), Some("one"));
}

#[test]
fn one_bad_rule_does_not_spoil_its_neighbours() {
    let rules = [
        "10.0.0.1 / Prefix one",
        "good.test /a Prefix one",
        "bad_.-.test / Prefix one",
        "good.test relative Prefix one",
        "good.test /b Fuzzy one",
        "good.test /c Prefix missing",
        "* / Prefix one",
        "a.*.test / Prefix one",
        "good.test /d Prefix two",
    ];
    let served = serve(&[ingress("a", "", None, &rules)]);
    assert_eq!(served.get("good.test", "/a"), Some("one"));
    assert_eq!(served.get("good.test", "/d"), Some("two"));
    assert_eq!(served.translation.routes.len(), 2);
    assert_eq!(
        served.refusals(),
        [
            "a spec.rules[0].host InvalidHost",
            "a spec.rules[2].host InvalidHost",
            "a spec.rules[3].http.paths[0] InvalidPath",
            "a spec.rules[4].http.paths[0] InvalidPathType",
            "a spec.rules[6].host InvalidHost",
            "a spec.rules[7].host InvalidHost",
            "a spec.rules[5].http.paths[0] ServiceNotFound",
        ]
    );
}

#[test]
fn hosts_are_normalised() {
    let served = serve(&[ingress(
        "a",
        "",
        None,
        &["B\u{fc}cher.Example.TEST / Prefix one"],
    )]);
    assert_eq!(served.get("xn--bcher-kva.example.test", "/"), Some("one"));
}

#[test]
fn an_ingress_that_is_not_taken_has_a_verdict_and_nothing_else() {
    let text = ingress("a", "", Some("missing"), &["10.0.0.1 / Prefix one"]);
    let none = Options {
        classes: Some(Vec::new()),
    };
    let served = Served::with(&objects(&text), &none);
    let verdict = &served.translation.ingresses[&key("a")];
    assert_eq!(
        (
            verdict.taken,
            verdict.routes.len(),
            verdict.class.as_deref()
        ),
        (false, 0, Some("any"))
    );
    assert_eq!(served.refusals(), [""; 0]);
}

#[test]
fn refusals_carry_what_an_event_needs() {
    let mut objects = objects(&ingress("a", "", None, &["h.test / Prefix missing"]));
    let mut changed = (*objects.ingresses[&key("a")]).clone();
    changed.metadata.uid = Some("6f1c".to_owned());
    objects.ingresses.insert(key("a"), changed.into());
    let served = Served::new(&objects);
    let [refusal] = &served.translation.refusals[..] else {
        panic!("{:?}", served.translation.refusals)
    };
    assert_eq!(refusal.uid.as_deref(), Some("6f1c"));
    assert_eq!(refusal.reason, RefusalReason::ServiceNotFound);
    assert_eq!(
        refusal.message,
        "Service default/missing does not exist; the rule is served as soon as it does"
    );
}
