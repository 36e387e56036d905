//! Manifests as a cluster would hold them, written as JSON, which is YAML. It may not write files.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// Many objects as one file.
pub(crate) fn file(objects: impl IntoIterator<Item = Value>) -> String {
    objects.into_iter().fold(String::new(), |text, object| {
        format!("{text}---\n{object}\n")
    })
}

/// An Ingress with a rule for each host, path prefix and service; an empty host is none.
pub(crate) fn ingress(name: &str, rules: &[(&str, &str, &str)]) -> Value {
    let rules: Vec<Value> = rules
        .iter()
        .map(|(host, path, service)| {
            let backend = json!({"service": {"name": service, "port": {"number": 80}}});
            let paths = json!([{"path": path, "pathType": "Prefix", "backend": backend}]);
            let mut rule = json!({"http": {"paths": paths}});
            if !host.is_empty() {
                rule["host"] = json!(host);
            }
            rule
        })
        .collect();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name}, "spec": {"rules": rules},
    })
}

/// A Service and its ready endpoints.
pub(crate) fn service(name: &str, endpoints: &[SocketAddr]) -> [Value; 2] {
    with_protocol(name, endpoints, None)
}

/// The same for a backend that speaks HTTP/2 in clear text.
pub(crate) fn h2c_service(name: &str, endpoints: &[SocketAddr]) -> [Value; 2] {
    with_protocol(name, endpoints, Some("kubernetes.io/h2c"))
}

fn with_protocol(name: &str, endpoints: &[SocketAddr], protocol: Option<&str>) -> [Value; 2] {
    let target = endpoints.first().map_or(8080, SocketAddr::port);
    let addresses: Vec<Value> = endpoints
        .iter()
        .map(|endpoint| json!({"addresses": [endpoint.ip().to_string()]}))
        .collect();
    let mut port = json!({"port": 80, "targetPort": target});
    if let Some(protocol) = protocol {
        port["appProtocol"] = json!(protocol);
    }
    [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [port]}}),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"port": target}], "endpoints": addresses,
        }),
    ]
}
