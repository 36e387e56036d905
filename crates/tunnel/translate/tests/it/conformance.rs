//! The 25 scenarios of the public Kubernetes ingress-controller conformance features, as tables. May not add rules of ours.

use gatewright_translate::{Options, status_patch};

use crate::support::{OWN_NAME, Served, key, objects, with_services};

struct Scenario {
    says: &'static str,
    host: &'static str,
    path: &'static str,
    answer: Option<&'static str>,
}

fn run(served: &Served, scenarios: &[Scenario]) {
    assert_eq!(served.refusals(), [""; 0]);
    for Scenario {
        says,
        host,
        path,
        answer,
    } in scenarios
    {
        assert_eq!(served.get(host, path), *answer, "{says}: GET {host}{path}");
    }
}

#[test]
fn host_rules() {
    let ingress = objects(
        r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: host-rules }
spec:
  tls: [{ hosts: [foo.bar.com], secretName: conformance-tls }]
  rules:
  - host: "*.foo.com"
    http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: wildcard-foo-com, port: { number: 8080 } } } }] }
  - host: foo.bar.com
    http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: foo-bar-com, port: { number: 8080 } } } }] }
"#,
    );
    let served = Served::new(&with_services(
        ingress,
        &["wildcard-foo-com", "foo-bar-com"],
    ));
    let scenarios = [
        Scenario {
            says: "an exact host matches itself",
            host: "foo.bar.com",
            path: "/",
            answer: Some("foo-bar-com"),
        },
        Scenario {
            says: "an exact host matches no other",
            host: "subdomain.bar.com",
            path: "/",
            answer: None,
        },
        Scenario {
            says: "an exact host matches nothing below it",
            host: "a.foo.bar.com",
            path: "/",
            answer: None,
        },
        Scenario {
            says: "a wildcard matches one label",
            host: "bar.foo.com",
            path: "/",
            answer: Some("wildcard-foo-com"),
        },
        Scenario {
            says: "a wildcard does not match two labels",
            host: "baz.bar.foo.com",
            path: "/",
            answer: None,
        },
        Scenario {
            says: "a wildcard does not match no label",
            host: "foo.com",
            path: "/",
            answer: None,
        },
    ];
    run(&served, &scenarios);
    assert!(served.route("foo.bar.com", "/").tls);
    assert!(!served.route("bar.foo.com", "/").tls);
}

#[test]
fn path_rules() {
    let ingress = objects(
        r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: path-rules }
spec:
  rules:
  - host: exact-path-rules.test
    http:
      paths:
      - { path: /foo, pathType: Exact, backend: { service: { name: foo-exact, port: { number: 8080 } } } }
  - host: prefix-path-rules.test
    http:
      paths:
      - { path: /foo, pathType: Prefix, backend: { service: { name: foo-prefix, port: { number: 8080 } } } }
      - { path: /aaa, pathType: Prefix, backend: { service: { name: aaa-prefix, port: { number: 8080 } } } }
      - { path: /aaa/bbb, pathType: Prefix, backend: { service: { name: aaa-bbb-prefix, port: { number: 8080 } } } }
  - host: mixed-path-rules.test
    http:
      paths:
      - { path: /foo, pathType: Prefix, backend: { service: { name: foo-prefix, port: { number: 8080 } } } }
      - { path: /foo, pathType: Exact, backend: { service: { name: foo-exact, port: { number: 8080 } } } }
  - host: trailing-slash-path-rules.test
    http:
      paths:
      - { path: /aaa/bbb/, pathType: Prefix, backend: { service: { name: aaa-bbb-slash, port: { number: 8080 } } } }
      - { path: /foo/, pathType: Exact, backend: { service: { name: foo-slash-exact, port: { number: 8080 } } } }
"#,
    );
    let services = [
        "foo-exact",
        "foo-prefix",
        "aaa-prefix",
        "aaa-bbb-prefix",
        "aaa-bbb-slash",
        "foo-slash-exact",
    ];
    let served = Served::new(&with_services(ingress, &services));
    const EXACT: &str = "exact-path-rules.test";
    const PREFIX: &str = "prefix-path-rules.test";
    const MIXED: &str = "mixed-path-rules.test";
    const SLASH: &str = "trailing-slash-path-rules.test";
    let scenario = |says, host, path, answer| Scenario {
        says,
        host,
        path,
        answer,
    };
    let scenarios = [
        scenario(
            "an exact path matches itself",
            EXACT,
            "/foo",
            Some("foo-exact"),
        ),
        scenario(
            "an exact path does not match with a slash more",
            EXACT,
            "/foo/",
            None,
        ),
        scenario("an exact path minds case", EXACT, "/FOO", None),
        scenario("an exact path matches no other", EXACT, "/bar", None),
        scenario(
            "a prefix matches itself",
            PREFIX,
            "/foo",
            Some("foo-prefix"),
        ),
        scenario(
            "a prefix matches with a slash more",
            PREFIX,
            "/foo/",
            Some("foo-prefix"),
        ),
        scenario("a prefix minds case", PREFIX, "/FOO", None),
        scenario(
            "the longest prefix wins",
            PREFIX,
            "/aaa/bbb",
            Some("aaa-bbb-prefix"),
        ),
        scenario(
            "the longest prefix wins for subpaths",
            PREFIX,
            "/aaa/bbb/ccc",
            Some("aaa-bbb-prefix"),
        ),
        scenario(
            "the shorter prefix takes the rest",
            PREFIX,
            "/aaa/ccc",
            Some("aaa-prefix"),
        ),
        scenario("a prefix ends with an element", PREFIX, "/aaaccc", None),
        scenario(
            "exact comes before prefix",
            MIXED,
            "/foo",
            Some("foo-exact"),
        ),
        scenario(
            "a prefix's final slash is not needed",
            SLASH,
            "/aaa/bbb",
            Some("aaa-bbb-slash"),
        ),
        scenario(
            "a prefix's final slash may come",
            SLASH,
            "/aaa/bbb/",
            Some("aaa-bbb-slash"),
        ),
        scenario(
            "an exact path's final slash matches itself",
            SLASH,
            "/foo/",
            Some("foo-slash-exact"),
        ),
        scenario("an exact path's final slash is needed", SLASH, "/foo", None),
    ];
    run(&served, &scenarios);
}

#[test]
fn default_backend() {
    let ingress = objects(
        r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: default-backend }
spec:
  defaultBackend: { service: { name: echo, port: { number: 8080 } } }
"#,
    );
    let served = Served::new(&with_services(ingress, &["echo"]));
    for path in ["/", "/sample-path", "/a/b/c"] {
        let scenarios = [Scenario {
            says: "everything goes to the default",
            host: OWN_NAME,
            path,
            answer: Some("echo"),
        }];
        run(&served, &scenarios);
    }
    // The one departure, on purpose: "every host" means every host of the cluster, never those of its neighbours.
    assert_eq!(served.get("somebody-else.test", "/"), None);
}

#[test]
fn ingress_class() {
    let ingress = objects(
        r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: ingress-class }
spec:
  ingressClassName: some-invalid-class-name
  rules:
  - host: ingress-class.test
    http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: echo, port: { number: 8080 } } } }] }
"#,
    );
    let objects = with_services(ingress, &["echo"]);
    let narrowed = Options {
        classes: Some(vec!["gatewright".to_owned()]),
    };
    let served = Served::with(&objects, &narrowed);
    let scenario = Scenario {
        says: "an Ingress of another class is not served where classes are listed",
        host: "ingress-class.test",
        path: "/",
        answer: None,
    };
    run(&served, &[scenario]);
    let verdict = &served.translation.ingresses[&key("ingress-class")];
    let publish = ["edge.test".to_owned()];
    assert_eq!(
        status_patch(
            &objects.ingresses[&key("ingress-class")],
            verdict,
            &publish,
            &[]
        ),
        None
    );
}

#[test]
fn load_balancer() {
    let mut text = String::from(
        r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: load-balancing }
spec:
  rules:
  - host: load-balancing.test
    http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: echo, port: { number: 80 } } } }] }
---
apiVersion: v1
kind: Service
metadata: { name: echo }
spec: { ports: [{ port: 80, targetPort: 8080 }] }
"#,
    );
    for pod in 1..=10 {
        text += &format!(
            r#"---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: echo-{pod}, labels: {{ kubernetes.io/service-name: echo }} }}
addressType: IPv4
ports: [{{ port: 8080 }}]
endpoints: [{{ addresses: [10.0.0.{pod}], conditions: {{ ready: true }} }}]
"#
        );
    }
    let objects = objects(&text);
    let served = Served::new(&objects);
    let scenario = Scenario {
        says: "the Service answers",
        host: "load-balancing.test",
        path: "/",
        answer: Some("echo"),
    };
    run(&served, &[scenario]);
    let route = served.route("load-balancing.test", "/");
    let endpoints = &served.translation.backends[&route.id].endpoints;
    let found: Vec<String> = endpoints
        .iter()
        .map(|endpoint| endpoint.socket_addr().to_string())
        .collect();
    let expected: Vec<String> = (1..=10).map(|pod| format!("10.0.0.{pod}:8080")).collect();
    assert_eq!(found, expected, "every pod is there to be balanced over");
    // And the status field names the way in.
    let name = key("load-balancing");
    let publish = ["edge.test".to_owned()];
    let patch = status_patch(
        &objects.ingresses[&name],
        &served.translation.ingresses[&name],
        &publish,
        &[],
    );
    let entries = patch
        .and_then(|status| status.load_balancer?.ingress)
        .expect("a status");
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].hostname.as_deref(), Some("edge.test"));
}
