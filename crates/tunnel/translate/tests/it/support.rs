//! Manifests in, answers out: the objects of a YAML text and a route table built from their translation. Asserts nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use gatewright_names::{HostPattern, Hostname};
use gatewright_routes::{NoMatch, Route, RouteId, RouteTable};
use gatewright_translate::{Key, Objects, Options, Translation, objects_from_value, translate};
use serde_json::{Value, json};

/// The name under which the table serves routes without a host.
pub(crate) const OWN_NAME: &str = "k3x9.gateway.test";

pub(crate) fn objects(yaml: &str) -> Objects {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("the manifests are YAML");
    let mut objects = Objects::default();
    for document in documents {
        for object in objects_from_value(document).expect("the manifests are Kubernetes objects") {
            objects.insert(object);
        }
    }
    objects
}

/// Adds a Service with port 8080 and one ready endpoint for each name ("name" or "namespace/name").
pub(crate) fn with_services(mut objects: Objects, names: &[&str]) -> Objects {
    for name in names {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        let metadata = json!({ "name": name, "namespace": namespace });
        let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": { "ports": [{ "port": 8080 }] } });
        let labels = json!({ "kubernetes.io/service-name": name });
        let metadata =
            json!({ "name": format!("{name}-1"), "namespace": namespace, "labels": labels });
        let slice = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
            "addressType": "IPv4", "ports": [{ "port": 8080 }], "endpoints": [{ "addresses": ["10.0.0.1"] }] });
        for value in [service, slice] {
            for object in objects_from_value(value).expect("a Service and its slice") {
                objects.insert(object);
            }
        }
    }
    objects
}

pub(crate) fn key(name: &str) -> Key {
    Key::new("default", name)
}

/// An edge's view: what a request would get.
pub(crate) struct Served {
    pub(crate) translation: Translation,
    table: RouteTable<RouteId>,
}

impl Served {
    pub(crate) fn new(objects: &Objects) -> Self {
        Self::with(objects, &Options::default())
    }

    pub(crate) fn with(objects: &Objects, options: &Options) -> Self {
        let translation = translate(objects, options);
        let own = HostPattern::Exact(Hostname::parse(OWN_NAME).expect("a name"));
        let mut by_host: BTreeMap<HostPattern, Vec<(Arc<Route>, RouteId)>> = BTreeMap::new();
        for (id, route) in &translation.routes {
            let host = route.host.clone().unwrap_or_else(|| own.clone());
            by_host
                .entry(host)
                .or_default()
                .push((Arc::new(route.clone()), *id));
        }
        let mut table = RouteTable::new();
        for (host, routes) in by_host {
            table.set_host(&host, routes);
        }
        Self { translation, table }
    }

    /// The Service that answers, or `None` for a 404.
    pub(crate) fn get(&self, host: &str, path: &str) -> Option<&str> {
        match self.table.lookup(host, path) {
            Ok(id) => Some(&self.translation.backends[id].service.name),
            Err(NoMatch::UnknownHost | NoMatch::UnknownPath) => None,
            Err(NoMatch::BadPath(why)) => panic!("{host}{path} is refused: {why}"),
        }
    }

    pub(crate) fn route(&self, host: &str, path: &str) -> &Route {
        let id = self.table.lookup(host, path).expect("a route");
        &self.translation.routes[id]
    }

    /// Refusals as "name rule reason".
    pub(crate) fn refusals(&self) -> Vec<String> {
        let line = |refusal: &gatewright_translate::Refusal| {
            format!(
                "{} {} {}",
                refusal.object.name, refusal.rule, refusal.reason
            )
        };
        self.translation.refusals.iter().map(line).collect()
    }
}
