//! Backends of small object sets: ports, protocols, readiness, faults. May not test what Ingresses add.

use super::*;
use crate::manifest::object_from_value;
use serde_json::{Value, json};

fn objects(all: impl IntoIterator<Item = Value>) -> Objects {
    let mut objects = Objects::default();
    for value in all {
        assert!(objects.insert(object_from_value(value).unwrap()));
    }
    objects
}

fn service(spec: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "app" }, "spec": spec })
}

fn slice(name: &str, ports: Value, endpoints: Value) -> Value {
    let metadata = json!({ "name": name, "labels": { SERVICE_NAME: "app" } });
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints })
}

fn resolve(objects: &Objects, backend: Value) -> Result<Backend, Unresolved> {
    let backend = serde_json::from_value(backend).unwrap();
    Services::new(objects).resolve("default", &backend)
}

fn to_port(port: Value) -> Value {
    json!({ "service": { "name": "app", "port": port } })
}

fn addresses(objects: &Objects) -> Vec<String> {
    let backend = resolve(objects, to_port(json!({ "number": 80 }))).unwrap();
    backend
        .endpoints
        .iter()
        .map(|endpoint| endpoint.socket_addr().to_string())
        .collect()
}

#[test]
fn faulty_backends_say_why() {
    let ports =
        json!([{ "port": 80, "name": "web" }, { "port": 90 }, { "port": 53, "protocol": "UDP" }]);
    let app = objects([service(json!({ "ports": ports }))]);
    let bare = objects([service(json!({ "clusterIP": "None" }))]);
    let external = objects([service(
        json!({ "type": "ExternalName", "externalName": "example.test" }),
    )]);
    let secure = objects([service(
        json!({ "ports": [{ "port": 80, "appProtocol": "https" }] }),
    )]);
    let resource =
        json!({ "resource": { "kind": "StorageBucket", "name": "static", "apiGroup": "x.test" } });
    use RefusalReason as R;
    for (objects, backend, reason, message) in [
        (
            &app,
            resource,
            R::ResourceBackend,
            "the resource StorageBucket/static",
        ),
        (&app, json!({}), R::InvalidBackend, "names no Service"),
        (
            &app,
            json!({ "service": { "name": "" } }),
            R::InvalidBackend,
            "has no name",
        ),
        (
            &app,
            json!({ "service": { "name": "app" } }),
            R::InvalidBackend,
            "`service.port` is missing",
        ),
        (
            &app,
            to_port(json!({ "number": 80, "name": "web" })),
            R::InvalidBackend,
            "both a number and a name",
        ),
        (
            &app,
            to_port(json!({ "number": 0 })),
            R::InvalidBackend,
            "port number 0 is not within",
        ),
        (
            &app,
            to_port(json!({ "number": 65536 })),
            R::InvalidBackend,
            "port number 65536 is not within",
        ),
        (
            &app,
            to_port(json!({ "number": -1 })),
            R::InvalidBackend,
            "port number -1 is not within",
        ),
        (
            &app,
            to_port(json!({ "number": 81 })),
            R::ServicePortNotFound,
            "no TCP port 81; its TCP ports: 80 (web), 90",
        ),
        (
            &app,
            to_port(json!({ "number": 53 })),
            R::ServicePortNotFound,
            "no TCP port 53",
        ),
        (
            &app,
            to_port(json!({ "name": "www" })),
            R::ServicePortNotFound,
            "no TCP port named \"www\"",
        ),
        (
            &bare,
            to_port(json!({ "number": 80 })),
            R::ServicePortNotFound,
            "its TCP ports: none",
        ),
        (
            &external,
            to_port(json!({ "number": 80 })),
            R::ExternalName,
            "default/app is of type ExternalName",
        ),
        (
            &secure,
            to_port(json!({ "number": 80 })),
            R::UnsupportedProtocol,
            "has appProtocol https",
        ),
        (
            &Objects::default(),
            to_port(json!({ "number": 80 })),
            R::ServiceNotFound,
            "default/app does not exist",
        ),
    ] {
        let (got, text) = resolve(objects, backend.clone()).unwrap_err();
        assert_eq!(got, reason, "{backend}");
        assert!(text.contains(message), "{text:?} does not hold {message:?}");
    }
}

#[test]
fn ports_by_name_and_number_and_their_protocols() {
    let ports = json!([
        { "port": 80, "name": "web" },
        { "port": 81, "name": "h2", "appProtocol": "kubernetes.io/h2c" },
        { "port": 82, "name": "ws", "appProtocol": "kubernetes.io/ws" },
        { "port": 83, "name": "rpc", "appProtocol": "grpc" },
        { "port": 84, "name": "odd", "appProtocol": "example.test/odd" },
    ]);
    let objects = objects([service(json!({ "ports": ports }))]);
    for (name, number, protocol) in [
        ("web", 80, BackendProtocol::Http),
        ("h2", 81, BackendProtocol::H2c),
        ("ws", 82, BackendProtocol::Http),
        ("rpc", 83, BackendProtocol::H2c),
        ("odd", 84, BackendProtocol::Http),
    ] {
        for port in [json!({ "name": name }), json!({ "number": number })] {
            let backend = resolve(&objects, to_port(port)).unwrap();
            assert_eq!(
                (backend.port, backend.protocol),
                (number, protocol),
                "{name}"
            );
        }
    }
}

#[test]
fn only_ready_endpoints_and_the_leaving_ones_when_there_are_none() {
    let endpoint = |address: &str, conditions: Value| json!({ "addresses": [address], "conditions": conditions });
    let ready = || endpoint("10.0.0.1", json!({ "ready": true }));
    let unsaid = || json!({ "addresses": ["10.0.0.2"] });
    let unready = || {
        endpoint(
            "10.0.0.3",
            json!({ "ready": false, "serving": false, "terminating": false }),
        )
    };
    let leaving = || {
        endpoint(
            "10.0.0.4",
            json!({ "ready": false, "serving": true, "terminating": true }),
        )
    };
    let gone = || {
        endpoint(
            "10.0.0.5",
            json!({ "ready": false, "serving": false, "terminating": true }),
        )
    };
    let name = || endpoint("pod.example.test", json!({}));
    for (endpoints, expected) in [
        (
            json!([ready(), unready(), leaving(), gone(), name()]),
            vec!["10.0.0.1:8080"],
        ),
        (json!([unsaid(), leaving()]), vec!["10.0.0.2:8080"]),
        (json!([unready(), leaving(), gone()]), vec!["10.0.0.4:8080"]),
        (json!([unready(), gone()]), vec![]),
        (json!([]), vec![]),
    ] {
        let app = service(json!({ "clusterIP": "10.96.0.1", "ports": [{ "port": 80 }] }));
        let objects = objects([
            app,
            slice("s", json!([{ "port": 8080 }]), endpoints.clone()),
        ]);
        assert_eq!(addresses(&objects), expected, "{endpoints}");
        // Slices that say "nobody is ready" are believed.
        let backend = resolve(&objects, to_port(json!({ "number": 80 }))).unwrap();
        assert_eq!(backend.cluster_ip, None);
    }
}

#[test]
fn several_slices_are_merged_sorted_and_each_address_counts_once() {
    let web = |port: u16| json!([{ "name": "web", "port": port }]);
    let of = |addresses: &[&str]| json!([{ "addresses": addresses }]);
    let mut stranger = slice("e", web(9), of(&["10.0.0.9"]));
    stranger["metadata"]["labels"][SERVICE_NAME] = "other".into();
    let mut elsewhere = slice("f", web(9), of(&["10.0.0.9"]));
    elsewhere["metadata"]["namespace"] = "elsewhere".into();
    let objects = objects([
        service(json!({ "ports": [{ "name": "web", "port": 80, "targetPort": "http" }] })),
        slice("a", web(8081), of(&["10.0.0.2"])),
        slice("b", web(8080), of(&["10.0.0.10", "10.0.0.1"])),
        slice("c", web(8080), of(&["10.0.0.1", "fd00::1"])),
        slice(
            "d",
            json!([{ "name": "admin", "port": 1 }]),
            of(&["10.0.0.3"]),
        ),
        stranger,
        elsewhere,
    ]);
    let expected = [
        "10.0.0.1:8080",
        "10.0.0.2:8081",
        "10.0.0.10:8080",
        "[fd00::1]:8080",
    ];
    assert_eq!(addresses(&objects), expected);
}

#[test]
fn target_ports() {
    //   Service port                                             slice ports                              at
    for (port, ports, expected) in [
        (json!({ "port": 80 }), json!([{ "port": 8080 }]), Some(8080)),
        (
            json!({ "port": 80, "name": "web" }),
            json!([{ "name": "web", "port": 1 }]),
            Some(1),
        ),
        // In a slice written by hand the number of the Service is enough.
        (
            json!({ "port": 80, "name": "web", "targetPort": 8080 }),
            json!([{ "port": 8080 }]),
            Some(8080),
        ),
        (
            json!({ "port": 80, "name": "web", "targetPort": 8080 }),
            json!([{ "port": 8081 }]),
            None,
        ),
        // A named target port is resolved by Kubernetes into the slice, never by guessing from its name.
        (
            json!({ "port": 80, "name": "web", "targetPort": "http" }),
            json!([{ "name": "http", "port": 9 }]),
            None,
        ),
        (
            json!({ "port": 80, "targetPort": 8080 }),
            json!([{}]),
            Some(8080),
        ),
        (
            json!({ "port": 80, "targetPort": "http" }),
            json!([{}]),
            None,
        ),
        (
            json!({ "port": 80 }),
            json!([{ "port": 53, "protocol": "UDP" }]),
            None,
        ),
        (json!({ "port": 80 }), json!([]), None),
        (json!({ "port": 80 }), Value::Null, None),
        (json!({ "port": 80 }), json!([{ "port": 0 }]), None),
    ] {
        let given = format!("given {port} and {ports}");
        let endpoints = json!([{ "addresses": ["10.0.0.1"] }]);
        let objects = objects([
            service(json!({ "ports": [port] })),
            slice("s", ports, endpoints),
        ]);
        let expected: Vec<String> = expected
            .iter()
            .map(|port| format!("10.0.0.1:{port}"))
            .collect();
        assert_eq!(addresses(&objects), expected, "{given}");
    }
}

#[test]
fn the_cluster_ip_stands_in_only_where_no_slice_names_the_service() {
    for (cluster_ip, expected) in [
        (json!("10.96.0.7"), Some(("10.96.0.7".parse().unwrap(), 80))),
        (json!("fd00::7"), Some(("fd00::7".parse().unwrap(), 80))),
        (json!("None"), None),
        (json!(""), None),
        (Value::Null, None),
    ] {
        let app = service(
            json!({ "clusterIP": cluster_ip, "ports": [{ "port": 80, "targetPort": 8080 }] }),
        );
        let backend = resolve(&objects([app]), to_port(json!({ "number": 80 }))).unwrap();
        assert_eq!(backend.cluster_ip, expected, "{cluster_ip}");
        assert_eq!(backend.endpoints, []);
    }
}
