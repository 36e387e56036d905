//! Faults of earlier tunnels, each with the test that keeps it out. The numbers are those of the list of such faults.

use std::sync::Arc;

use gatewright_routes::BackendProtocol;
use gatewright_translate::{Key, Objects, Options, status_patch, translate};
use k8s_openapi::api::networking::v1::Ingress;

use crate::support::{Served, key, objects, with_services};

const TWO_HOSTS: &str = r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: app }
spec:
  rules:
  - host: a.test
    http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: one, port: { number: 8080 } } } }] }
  - host: b.test
    http:
      paths:
      - { path: /, pathType: Prefix, backend: { service: { name: one, port: { number: 8080 } } } }
      - { path: /api, pathType: Prefix, backend: { service: { name: two, port: { number: 8080 } } } }
"#;

fn change(objects: &mut Objects, name: &str, change: impl FnOnce(&mut Ingress)) {
    let ingress = objects
        .ingresses
        .get_mut(&key(name))
        .expect("the Ingress is there");
    change(Arc::make_mut(ingress));
}

#[test]
fn flaw_14_update_that_drops_a_host_drops_its_routes() {
    let mut objects = with_services(objects(TWO_HOSTS), &["one", "two"]);
    assert_eq!(Served::new(&objects).get("b.test", "/api"), Some("two"));
    change(&mut objects, "app", |ingress| {
        let rules = ingress
            .spec
            .as_mut()
            .and_then(|spec| spec.rules.as_mut())
            .unwrap();
        rules.retain(|rule| rule.host.as_deref() == Some("a.test"));
    });
    let served = Served::new(&objects);
    assert_eq!(served.get("a.test", "/"), Some("one"));
    assert_eq!(served.get("b.test", "/api"), None);
    assert_eq!(served.translation.routes.len(), 1);
}

#[test]
fn flaw_14_update_to_no_rules_and_no_ingress_at_all_leave_no_routes() {
    let mut objects = with_services(objects(TWO_HOSTS), &["one", "two"]);
    change(&mut objects, "app", |ingress| {
        ingress.spec.as_mut().unwrap().rules = None
    });
    assert_eq!(translate(&objects, &Options::default()).routes.len(), 0);
    change(&mut objects, "app", |ingress| ingress.spec = None);
    assert_eq!(translate(&objects, &Options::default()).routes.len(), 0);
    objects.ingresses.clear();
    assert_eq!(translate(&objects, &Options::default()), Default::default());
}

#[test]
fn flaw_15_deleting_one_ingress_keeps_the_host_for_the_others() {
    let other = r#"
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: other }
spec:
  rules:
  - host: b.test
    http: { paths: [{ path: /other, pathType: Prefix, backend: { service: { name: two, port: { number: 8080 } } } }] }
"#;
    let mut objects = with_services(objects(&format!("{TWO_HOSTS}{other}")), &["one", "two"]);
    objects.ingresses.remove(&key("other"));
    let served = Served::new(&objects);
    assert_eq!(served.get("b.test", "/api"), Some("two"));
    assert_eq!(served.get("b.test", "/other"), Some("one"));
}

#[test]
fn flaw_16_a_delete_needs_no_last_state() {
    // However the deletion came to be known, the object is simply not there any more.
    let mut objects = with_services(objects(TWO_HOSTS), &["one", "two"]);
    let before = translate(&objects, &Options::default());
    objects.ingresses.remove(&key("app"));
    let after = translate(&objects, &Options::default());
    assert_eq!(
        (
            before.routes.len(),
            after.routes.len(),
            after.backends.len()
        ),
        (3, 0, 0)
    );
}

#[test]
fn flaw_17_a_host_has_as_many_paths_as_it_likes_and_wildcards_match() {
    let wildcard = TWO_HOSTS.replace("host: b.test", "host: \"*.w.test\"");
    let served = Served::new(&with_services(objects(&wildcard), &["one", "two"]));
    assert_eq!(served.get("x.w.test", "/"), Some("one"));
    assert_eq!(served.get("x.w.test", "/api"), Some("two"));
}

#[test]
fn flaw_18_tls_is_of_the_rule_s_host() {
    let tls = TWO_HOSTS.replace(
        "spec:",
        "spec:\n  tls: [{ hosts: [b.test], secretName: s }]",
    );
    let served = Served::new(&with_services(objects(&tls), &["one", "two"]));
    assert!(!served.route("a.test", "/").tls);
    assert!(served.route("b.test", "/").tls);
    assert!(served.route("b.test", "/api").tls);
}

#[test]
fn flaw_18_default_backend_resource_backend_and_class_are_not_ignored() {
    let text = r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: app }
spec:
  ingressClassName: nginx
  defaultBackend: { service: { name: one, port: { number: 8080 } } }
  rules:
  - host: a.test
    http:
      paths:
      - { path: /static, pathType: Prefix, backend: { resource: { apiGroup: x.test, kind: Bucket, name: static } } }
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: { name: nginx }
spec: { controller: k8s.io/ingress-nginx }
"#;
    let objects = with_services(objects(text), &["one"]);
    let served = Served::new(&objects);
    assert_eq!(served.get("a.test", "/"), Some("one"));
    assert_eq!(
        served.refusals(),
        ["app spec.rules[0].http.paths[0] ResourceBackend"]
    );
    assert!(served.translation.ingresses[&key("app")].owned_elsewhere);
    let narrowed = Options {
        classes: Some(vec!["gatewright".to_owned()]),
    };
    assert_eq!(Served::with(&objects, &narrowed).get("a.test", "/"), None);
}

#[test]
fn flaw_19_a_late_service_brings_its_route_and_a_port_change_is_seen() {
    let late = Served::new(&objects(TWO_HOSTS));
    assert_eq!(late.translation.routes.len(), 0);
    assert_eq!(late.refusals().len(), 3);
    let mut objects = with_services(objects(TWO_HOSTS), &["one", "two"]);
    let there = Served::new(&objects);
    assert_eq!(
        (there.translation.routes.len(), there.refusals().len()),
        (3, 0)
    );
    // The port goes, the route with it; the route's id would be the same again.
    let service = objects.services.get_mut(&key("two")).unwrap();
    Arc::make_mut(service)
        .spec
        .as_mut()
        .unwrap()
        .ports
        .as_mut()
        .unwrap()[0]
        .port = 9090;
    let moved = Served::new(&objects);
    assert_eq!(
        moved.refusals(),
        ["app spec.rules[1].http.paths[1] ServicePortNotFound"]
    );
    assert_eq!(moved.get("b.test", "/api"), Some("one"));
}

#[test]
fn flaw_19_a_service_without_ready_endpoints_keeps_its_route() {
    let mut objects = with_services(objects(TWO_HOSTS), &["one", "two"]);
    let before = translate(&objects, &Options::default());
    objects
        .slices
        .values_mut()
        .for_each(|slice| Arc::make_mut(slice).endpoints.clear());
    let after = translate(&objects, &Options::default());
    assert_eq!(before.routes, after.routes);
    assert!(
        after
            .backends
            .values()
            .all(|backend| backend.endpoints.is_empty() && backend.cluster_ip.is_none())
    );
}

#[test]
fn flaw_20_the_number_of_routes_is_at_hand() {
    // A heartbeat reads a length; nothing is listed or fetched for it, and it agrees with what the Ingresses say.
    let translation = translate(
        &with_services(objects(TWO_HOSTS), &["one", "two"]),
        &Options::default(),
    );
    let told: usize = translation
        .ingresses
        .values()
        .map(|verdict| verdict.routes.len())
        .sum();
    assert_eq!((translation.routes.len(), told), (3, 3));
}

#[test]
fn flaw_21_what_a_backend_speaks_is_said_by_its_service_not_by_the_client_s_scheme() {
    let tls = TWO_HOSTS.replace("spec:", "spec:\n  tls: [{ hosts: [a.test, b.test] }]");
    let served = Served::new(&with_services(objects(&tls), &["one", "two"]));
    for route in served.translation.routes.values() {
        assert!(route.tls);
        assert_eq!(route.protocol, BackendProtocol::Http);
    }
}

#[test]
fn flaw_27_an_ingress_reaches_services_of_its_own_namespace_only() {
    let mut objects = with_services(
        objects(TWO_HOSTS),
        &["elsewhere/one", "elsewhere/two", "one"],
    );
    let served = Served::new(&objects);
    assert_eq!(served.get("a.test", "/"), Some("one"));
    assert!(
        served
            .translation
            .backends
            .values()
            .all(|backend| backend.service == Key::new("default", "one"))
    );
    objects.services.remove(&key("one"));
    assert_eq!(translate(&objects, &Options::default()).backends.len(), 0);
}

#[test]
fn flaw_29_users_objects_stay_as_they_are() {
    let objects = with_services(objects(TWO_HOSTS), &["one", "two"]);
    let written = |objects: &Objects| {
        let ingresses: Vec<_> = objects
            .ingresses
            .values()
            .map(|ingress| serde_json::to_value(ingress).unwrap())
            .collect();
        let services: Vec<_> = objects
            .services
            .values()
            .map(|service| serde_json::to_value(service).unwrap())
            .collect();
        (ingresses, services)
    };
    let before = written(&objects);
    let translation = translate(&objects, &Options::default());
    let publish = ["edge.test".to_owned()];
    let patch = status_patch(
        &objects.ingresses[&key("app")],
        &translation.ingresses[&key("app")],
        &publish,
        &[],
    );
    assert_eq!(written(&objects), before);
    // All that is ever written to an Ingress.
    let patch = serde_json::to_value(patch).unwrap();
    assert_eq!(
        patch,
        serde_json::json!({ "loadBalancer": { "ingress": [{ "hostname": "edge.test" }] } })
    );
}
