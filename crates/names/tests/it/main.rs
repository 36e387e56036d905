//! What the crate promises to others: names in normal form, wildcards and their order.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cmp::Ordering;

use gatewright_names::{HostPattern, Hostname, NameError, WildcardMode};
use proptest::prelude::*;

fn host(text: &str) -> Hostname {
    Hostname::parse(text).unwrap()
}

fn one(text: &str) -> HostPattern {
    HostPattern::parse(text, WildcardMode::OneLabel).unwrap()
}

fn many(text: &str) -> HostPattern {
    HostPattern::parse(text, WildcardMode::ManyLabels).unwrap()
}

#[test]
fn equal_hosts_have_one_normal_form() {
    for (text, normal) in [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("_acme-challenge.example.com", "_acme-challenge.example.com"),
        ("r3---sn-4g5e.example.com", "r3---sn-4g5e.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("例え。テスト。", "xn--r8jz45g.xn--zckzah"),
        ("ｅｘａｍｐｌｅ.com", "example.com"),
    ] {
        assert_eq!(
            Hostname::parse(text).map(|name| name.to_string()),
            Ok(normal.to_owned()),
            "{text}"
        );
    }
}

#[test]
fn what_is_no_host_name_is_refused_with_its_reason() {
    let reason = |text: &str| Hostname::parse(text).unwrap_err();
    assert_eq!(reason(""), NameError::Empty);
    assert_eq!(reason("."), NameError::Empty);
    assert!(matches!(reason("a..b"), NameError::EmptyLabel { .. }));
    assert!(matches!(reason("a.."), NameError::EmptyLabel { .. }));
    assert!(matches!(
        reason("a b"),
        NameError::Character { character: ' ', .. }
    ));
    assert!(matches!(
        reason("a:80"),
        NameError::Character { character: ':', .. }
    ));
    assert!(matches!(
        reason("a/b"),
        NameError::Character { character: '/', .. }
    ));
    assert!(matches!(reason("-a.example"), NameError::Hyphen { .. }));
    assert!(matches!(
        reason("a.exa_mple"),
        NameError::UnderscoreInLastLabel { .. }
    ));
    assert!(matches!(
        reason(&"a".repeat(64)),
        NameError::LabelTooLong { length: 64, .. }
    ));
    assert!(matches!(
        reason(&["a"; 128].join(".")),
        NameError::TooLong { length: 255 }
    ));
    assert!(matches!(
        reason(&"ü".repeat(5000)),
        NameError::TooLong { length: 5000 }
    ));
    assert!(matches!(
        reason("*.example.com"),
        NameError::Wildcard { .. }
    ));
    for address in [
        "127.0.0.1",
        "1.2.3.4.",
        "[::1]",
        "::1",
        "0x7f000001",
        "2130706433",
        "a.0x1",
        "１２７.0.0.1",
    ] {
        assert!(
            matches!(reason(address), NameError::IpAddress { .. }),
            "{address}"
        );
    }
    // Punycode of nothing, of ASCII, of a letter that UTS 46 would have mapped, and no Punycode at all.
    for text in [
        "xn--.example",
        "xn--example-.com",
        "xn--BCHER-kva\u{fc}.example",
        "xn--99999999.example",
    ] {
        assert!(matches!(reason(text), NameError::Idna { .. }), "{text}");
    }
}

#[test]
fn an_error_shows_text_from_outside_shortened_and_escaped() {
    let error = Hostname::parse(&format!("a\u{1b}[31m\n{}", "b".repeat(300)))
        .unwrap_err()
        .to_string();
    assert!(!error.contains(['\u{1b}', '\n']), "{error}");
    assert!(error.len() < 300, "{error}");
    let error = HostPattern::parse("a.*.b", WildcardMode::OneLabel).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the asterisk in \"a.*.b\" must be the whole first label, as in *.example.com"
    );
}

#[test]
fn a_port_is_only_taken_off_an_authority() {
    assert_eq!(
        Hostname::from_authority("App.example.com:8080"),
        Ok(host("app.example.com"))
    );
    assert_eq!(
        Hostname::from_authority("app.example.com.:"),
        Ok(host("app.example.com"))
    );
    assert!(matches!(
        Hostname::from_authority("app.example.com:x"),
        Err(NameError::Port { .. })
    ));
    assert!(matches!(
        Hostname::from_authority("app.example.com:99999"),
        Err(NameError::Port { .. })
    ));
    assert!(matches!(
        Hostname::from_authority("[::1]:80"),
        Err(NameError::IpAddress { .. })
    ));
    assert!(matches!(
        Hostname::from_authority("fe80::1"),
        Err(NameError::IpAddress { .. })
    ));
}

#[test]
fn under_means_strictly_below_on_a_label_boundary() {
    assert!(host("a.b.c").is_under(&host("b.c")));
    assert!(host("a.b.c").is_under(&host("c")));
    assert!(!host("b.c").is_under(&host("b.c")));
    assert!(!host("ab.c").is_under(&host("b.c")));
    assert!(!host("c").is_under(&host("b.c")));
    assert_eq!(host("a.b.c").parent(), Some(host("b.c")));
    assert_eq!(host("c").parent(), None);
    assert_eq!(
        host("a.b.c").labels().rev().collect::<Vec<_>>(),
        ["c", "b", "a"]
    );
}

#[test]
fn wildcards_match_one_label_or_many_and_never_their_own_suffix() {
    for (text, by_one, by_many) in [
        ("a.foo.com", true, true),
        ("a.b.foo.com", false, true),
        ("foo.com", false, false),
        ("afoo.com", false, false),
        ("a.foo.com.evil.com", false, false),
    ] {
        assert_eq!(one("*.foo.com").matches(&host(text)), by_one, "{text}");
        assert_eq!(many("*.foo.com").matches(&host(text)), by_many, "{text}");
    }
    assert!(one("foo.com").matches(&host("foo.com")));
    assert!(!one("foo.com").matches(&host("a.foo.com")));
}

#[test]
fn malformed_wildcards_are_refused_with_their_reason() {
    let reason = |text: &str| HostPattern::parse(text, WildcardMode::ManyLabels).unwrap_err();
    assert_eq!(reason("*"), NameError::BareWildcard);
    assert_eq!(reason("*."), NameError::BareWildcard);
    for text in ["a.*.b", "*a.b", "a*.b", "*.*.b", "**.b", "a.*", "*b"] {
        assert!(
            matches!(reason(text), NameError::MisplacedAsterisk { .. }),
            "{text}"
        );
    }
    assert!(matches!(reason("*.1.2.3.4"), NameError::IpAddress { .. }));
    assert!(matches!(reason("*..b"), NameError::EmptyLabel { .. }));
    assert_eq!(
        many("*.Bücher.example.").to_string(),
        "*.xn--bcher-kva.example"
    );
}

#[test]
fn specificity_is_exact_then_longer_suffix_then_one_label() {
    let mut patterns = [
        many("*.com"),
        one("*.foo.com"),
        many("*.foo.com"),
        one("b.com"),
        one("a.b.com"),
        one("*.b.foo.com"),
    ];
    patterns.sort_by(HostPattern::specificity);
    let expected = [
        one("a.b.com"),
        one("b.com"),
        one("*.b.foo.com"),
        one("*.foo.com"),
        many("*.foo.com"),
        many("*.com"),
    ];
    assert_eq!(patterns, expected);
}

#[test]
fn serde_takes_and_gives_plain_text() {
    assert_eq!(
        serde_json::to_string(&host("a.example")).unwrap(),
        "\"a.example\""
    );
    assert_eq!(
        serde_json::from_str::<Hostname>("\"A.example.\"").unwrap(),
        host("a.example")
    );
    assert!(
        serde_json::from_str::<Hostname>("\"a..b\"")
            .unwrap_err()
            .to_string()
            .contains("empty label")
    );
    assert_eq!(
        serde_json::to_string(&one("*.a.example")).unwrap(),
        "\"*.a.example\""
    );
}

fn any_host() -> impl Strategy<Value = Hostname> {
    "[ab](\\.[ab]){0,3}".prop_map(|text| host(&text))
}

fn any_pattern() -> impl Strategy<Value = HostPattern> {
    (any_host(), 0..3).prop_map(|(name, kind)| match kind {
        0 => HostPattern::Exact(name),
        1 => HostPattern::Wildcard {
            suffix: name,
            mode: WildcardMode::OneLabel,
        },
        _ => HostPattern::Wildcard {
            suffix: name,
            mode: WildcardMode::ManyLabels,
        },
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn parsing_is_idempotent(text in "\\PC{0,40}") {
        if let Ok(name) = Hostname::parse(&text) {
            prop_assert_eq!(Hostname::parse(name.as_str()), Ok(name.clone()));
            prop_assert_eq!(Hostname::parse(&format!("{name}.")), Ok(name.clone()));
            prop_assert_eq!(Hostname::parse(&name.as_str().to_ascii_uppercase()), Ok(name));
        }
    }

    #[test]
    fn specificity_is_a_total_order(a in any_pattern(), b in any_pattern(), c in any_pattern()) {
        prop_assert_eq!(a.specificity(&b), b.specificity(&a).reverse());
        prop_assert_eq!(a.specificity(&b) == Ordering::Equal, a == b);
        if a.specificity(&b).is_le() && b.specificity(&c).is_le() {
            prop_assert!(a.specificity(&c).is_le());
        }
    }

    #[test]
    fn covering_is_what_matching_says(a in any_pattern(), b in any_pattern(), host in any_host()) {
        if a.covers(&b) && b.matches(&host) {
            prop_assert!(a.matches(&host));
            prop_assert!(b.specificity(&a).is_le(), "what is covered is at least as specific");
        }
        // Hosts one and two labels below tell the patterns of this alphabet apart.
        let below = |depth: usize| host_below(b.name(), depth);
        let samples = [b.name().clone(), below(1), below(2)];
        let all = samples.iter().filter(|sample| b.matches(sample)).all(|sample| a.matches(sample));
        prop_assert_eq!(a.covers(&b), all);
    }

    #[test]
    fn display_reads_back(pattern in any_pattern()) {
        let mode = match &pattern {
            HostPattern::Wildcard { mode, .. } => *mode,
            HostPattern::Exact(_) => WildcardMode::OneLabel,
        };
        prop_assert_eq!(HostPattern::parse(&pattern.to_string(), mode), Ok(pattern));
    }
}

/// A host below `name` with labels that no generated pattern has.
fn host_below(name: &Hostname, depth: usize) -> Hostname {
    host(&format!("{}{name}", "zz.".repeat(depth)))
}
