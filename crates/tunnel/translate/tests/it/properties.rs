//! What holds for any objects: order does not matter, routes and backends agree, statuses settle.

use std::collections::BTreeSet;
use std::sync::Arc;

use gatewright_routes::message::WireRoute;
use gatewright_routes::{PathType, Route};
use gatewright_translate::{
    Key, Object, Objects, Options, object_from_value, status_patch, translate,
};
use k8s_openapi::api::networking::v1::Ingress;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

/// Few names, so that the objects get in each other's way.
fn any_name() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "c"])
}

fn any_namespace() -> impl Strategy<Value = &'static str> {
    select(vec!["x", "y"])
}

fn any_backend() -> impl Strategy<Value = Value> {
    let port = select(vec![
        json!({ "number": 80 }),
        json!({ "name": "web" }),
        json!({ "number": 81 }),
        json!({}),
    ]);
    prop_oneof![
        9 => (any_name(), port).prop_map(|(name, port)| json!({ "service": { "name": name, "port": port } })),
        1 => Just(json!({ "resource": { "kind": "Bucket", "name": "b" } })),
    ]
}

fn any_path() -> impl Strategy<Value = Value> {
    let path = option::weighted(
        0.9,
        select(vec![
            "/",
            "/a",
            "/a/",
            "/a/b",
            "/A",
            "/a%20b",
            "a",
            "/a//b",
            "/a/%2e%2e/b",
            "/*",
            "/..;/x",
            "/%zz",
        ]),
    );
    let path_type = select(vec!["Exact", "Prefix", "ImplementationSpecific", ""]);
    (path, path_type, any_backend())
        .prop_map(|(path, path_type, backend)| json!({ "path": path, "pathType": path_type, "backend": backend }))
}

fn any_host() -> impl Strategy<Value = Option<&'static str>> {
    option::weighted(
        0.9,
        select(vec![
            "h.test", "H.test.", "*.h.test", "i.h.test", "10.0.0.1", "*",
        ]),
    )
}

fn any_ingress() -> impl Strategy<Value = Value> {
    let rule = (any_host(), vec(any_path(), 0..3))
        .prop_map(|(host, paths)| json!({ "host": host, "http": { "paths": paths } }));
    let created = option::of(select(vec!["2020-01-01T00:00:00Z", "2026-01-01T00:00:00Z"]));
    let class = option::of(select(vec!["gatewright", "nginx", "none"]));
    let tls = vec(select(vec!["h.test", "*.h.test", "-"]), 0..2);
    let names = (any_namespace(), any_name());
    (
        names,
        created,
        class,
        option::weighted(0.3, any_backend()),
        vec(rule, 0..4),
        tls,
    )
        .prop_map(|((namespace, name), created, class, default, rules, tls)| {
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
                "metadata": { "namespace": namespace, "name": name, "creationTimestamp": created },
                "spec": { "ingressClassName": class, "defaultBackend": default, "rules": rules,
                    "tls": [{ "hosts": tls }] },
            })
        })
}

fn any_service() -> impl Strategy<Value = Value> {
    let kind = select(vec!["ClusterIP", "ClusterIP", "ClusterIP", "ExternalName"]);
    let app = option::of(select(vec![
        "kubernetes.io/h2c",
        "kubernetes.io/ws",
        "https",
    ]));
    (any_namespace(), any_name(), kind, app).prop_map(|(namespace, name, kind, app)| {
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": namespace, "name": name },
            "spec": { "type": kind, "clusterIP": "10.96.0.1",
                "ports": [{ "name": "web", "port": 80, "appProtocol": app, "targetPort": 8080 }] } })
    })
}

fn any_slice() -> impl Strategy<Value = Value> {
    let addresses = vec((1..9u8).prop_map(|last| format!("10.0.0.{last}")), 0..3);
    let endpoint = (addresses, option::of(any::<bool>()), any::<bool>()).prop_map(
        |(addresses, ready, leaving)| {
            let conditions = json!({ "ready": ready, "serving": leaving, "terminating": leaving });
            json!({ "addresses": addresses, "conditions": conditions })
        },
    );
    let service = any_name();
    (any_namespace(), 0..9u8, service, vec(endpoint, 0..3)).prop_map(|(namespace, number, service, endpoints)| {
        let labels = json!({ "kubernetes.io/service-name": service });
        json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "namespace": namespace, "name": format!("s{number}"), "labels": labels },
            "ports": [{ "name": "web", "port": 8080 }], "endpoints": endpoints })
    })
}

fn any_class() -> impl Strategy<Value = Value> {
    let controller = select(vec!["gatewright.dev/ingress", "k8s.io/ingress-nginx"]);
    (select(vec!["gatewright", "nginx"]), controller, any::<bool>()).prop_map(|(name, controller, default)| {
        let annotations = json!({ "ingressclass.kubernetes.io/is-default-class": default.to_string() });
        json!({ "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": { "name": name, "annotations": annotations }, "spec": { "controller": controller } })
    })
}

/// Objects with different names, in any order.
fn any_objects() -> impl Strategy<Value = Vec<Object>> {
    let kinds = (
        vec(any_ingress(), 0..6),
        vec(any_service(), 0..6),
        vec(any_slice(), 0..8),
        vec(any_class(), 0..3),
    );
    kinds.prop_map(|(ingresses, services, slices, classes)| {
        let mut seen = BTreeSet::new();
        let all = [ingresses, services, slices, classes].concat();
        let new = all
            .into_iter()
            .filter(|value| seen.insert(format!("{} {}", value["kind"], name_of(value))));
        new.map(|value| object_from_value(value).expect("the strategies make valid objects"))
            .collect()
    })
}

fn name_of(value: &Value) -> String {
    format!(
        "{}/{}",
        value["metadata"]["namespace"], value["metadata"]["name"]
    )
}

fn any_options() -> impl Strategy<Value = Options> {
    let classes = option::of(vec(select(vec!["", "nginx", "none"]), 0..2));
    classes.prop_map(|classes| Options {
        classes: classes.map(|all| all.into_iter().map(str::to_owned).collect()),
    })
}

fn collect(all: &[Object]) -> Objects {
    let mut objects = Objects::default();
    for object in all {
        assert!(objects.insert(object.clone()));
    }
    objects
}

proptest! {
    #[test]
    fn the_order_of_objects_and_the_names_of_slices_do_not_matter(
        (all, mixed) in any_objects().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        options in any_options(),
    ) {
        let expected = translate(&collect(&all), &options);
        let mut objects = collect(&mixed);
        prop_assert_eq!(&translate(&objects, &options), &expected);
        let slices = std::mem::take(&mut objects.slices);
        objects.slices = slices
            .into_iter()
            .enumerate()
            .map(|(i, (key, slice))| (Key::new(key.namespace, format!("{}", 99 - i)), slice))
            .collect();
        prop_assert_eq!(&translate(&objects, &options), &expected);
    }

    #[test]
    fn routes_backends_and_verdicts_agree(all in any_objects(), options in any_options()) {
        let translation = translate(&collect(&all), &options);
        let told: Vec<_> = translation.ingresses.values().flat_map(|verdict| verdict.routes.clone()).collect();
        prop_assert_eq!(told.len(), translation.routes.len());
        prop_assert_eq!(translation.routes.len(), translation.backends.len());
        for (key, verdict) in &translation.ingresses {
            for id in &verdict.routes {
                let (route, backend) = (&translation.routes[id], &translation.backends[id]);
                prop_assert!(verdict.taken);
                prop_assert_eq!(&route.source, &format!("Ingress/{key}"));
                prop_assert_eq!(&backend.service, &Key::new(key.namespace.clone(), route.service.clone()));
                prop_assert_eq!((&route.namespace, route.port), (&key.namespace, backend.port));
                prop_assert_eq!(route.protocol, backend.protocol);
                prop_assert!(backend.endpoints.is_sorted());
            }
        }
    }

    #[test]
    fn no_two_routes_claim_the_same_requests(all in any_objects()) {
        let translation = translate(&collect(&all), &Options::default());
        let mut grounds = BTreeSet::new();
        for route in translation.routes.values() {
            let (exact, path) = match route.path_type {
                PathType::Exact => (true, route.path.as_str()),
                PathType::Prefix | PathType::ImplementationSpecific => (false, route.path.trim_end_matches('/')),
            };
            prop_assert!(grounds.insert((route.host.clone(), exact, path)), "{:?} is there twice", route);
        }
    }

    #[test]
    fn every_route_offered_is_one_that_an_edge_can_read(all in any_objects()) {
        for route in translate(&collect(&all), &Options::default()).routes.into_values() {
            prop_assert_eq!(Route::try_from(WireRoute::from(route.clone())), Ok(route));
        }
    }

    #[test]
    fn an_ingress_that_goes_takes_its_own_routes_and_no_others(all in any_objects()) {
        let objects = collect(&all);
        let before = translate(&objects, &Options::default());
        for key in objects.ingresses.keys() {
            let mut left = objects.clone();
            left.ingresses.remove(key);
            let after = translate(&left, &Options::default());
            let source = format!("Ingress/{key}");
            prop_assert!(after.routes.values().all(|route| route.source != source));
            for (id, route) in before.routes.iter().filter(|(_, route)| route.source != source) {
                prop_assert_eq!(after.routes.get(id), Some(route));
            }
        }
    }

    #[test]
    fn a_status_written_once_is_not_written_again(
        all in any_objects(),
        publish in vec(select(vec!["a.edge.test", "b.edge.test", "192.0.2.1"]).prop_map(str::to_owned), 0..3),
        later in vec(select(vec!["c.edge.test"]).prop_map(str::to_owned), 0..2),
    ) {
        let objects = collect(&all);
        let translation = translate(&objects, &Options::default());
        for (key, verdict) in &translation.ingresses {
            let mut ingress: Ingress = Arc::unwrap_or_clone(objects.ingresses[key].clone());
            // First the names of today, then those of tomorrow, when today's are remembered as ours.
            for (publish, ours) in [(&publish, &Vec::new()), (&later, &publish)] {
                if let Some(status) = status_patch(&ingress, verdict, publish, ours) {
                    prop_assert!(!verdict.owned_elsewhere);
                    ingress.status = Some(status);
                }
                prop_assert_eq!(status_patch(&ingress, verdict, publish, ours), None);
            }
        }
    }
}
