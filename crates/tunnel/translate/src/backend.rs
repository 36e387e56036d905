//! From an Ingress backend to the Service, port and ready addresses behind it. May not connect to any of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gatewright_routes::BackendProtocol;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointPort, EndpointSlice};
use k8s_openapi::api::networking::v1::{IngressBackend, IngressServiceBackend};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;

use crate::objects::{Key, Objects};
use crate::refusal::RefusalReason;

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Where the agent sends a route's requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// The Service.
    pub service: Key,
    /// Port of the Service, not of its pods.
    pub port: u16,
    /// What the pods speak.
    pub protocol: BackendProtocol,
    /// Ready addresses, sorted, each once. Empty: answer 503.
    pub endpoints: Vec<Endpoint>,
    /// The Service's own address, only where no EndpointSlice at all names the Service (a directory of manifests copied
    /// from a cluster, a Service just made). Never beside slices without ready endpoints: those mean 503.
    pub cluster_ip: Option<(IpAddr, u16)>,
}

/// One address of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Endpoint {
    /// IPv4 or IPv6.
    pub address: IpAddr,
    /// Port at that address (the Service's target port).
    pub port: u16,
}

impl Endpoint {
    /// The two as one.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

/// Why a backend cannot be resolved.
pub(crate) type Unresolved = (RefusalReason, String);

/// The Services with the EndpointSlices of each.
pub(crate) struct Services<'a> {
    services: &'a BTreeMap<Key, Arc<Service>>,
    slices: BTreeMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>,
}

impl<'a> Services<'a> {
    pub(crate) fn new(objects: &'a Objects) -> Self {
        let mut slices: BTreeMap<_, Vec<&EndpointSlice>> = BTreeMap::new();
        for (key, slice) in &objects.slices {
            if let Some(service) = slice
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(SERVICE_NAME))
            {
                slices
                    .entry((key.namespace.as_str(), service.as_str()))
                    .or_default()
                    .push(slice);
            }
        }
        Self {
            services: &objects.services,
            slices,
        }
    }

    /// Resolves a backend of an Ingress in `namespace`.
    pub(crate) fn resolve(
        &self,
        namespace: &str,
        backend: &IngressBackend,
    ) -> Result<Backend, Unresolved> {
        let (name, wanted) = wanted(backend)?;
        let key = Key::new(namespace, name);
        let Some(service) = self.services.get(&key) else {
            let message =
                format!("Service {key} does not exist; the rule is served as soon as it does");
            return Err((RefusalReason::ServiceNotFound, message));
        };
        let spec = service.spec.as_ref();
        if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
            let message = format!(
                "Service {key} is of type ExternalName, which would lead out of the cluster; use a Service with endpoints"
            );
            return Err((RefusalReason::ExternalName, message));
        }
        let ports = spec
            .and_then(|spec| spec.ports.as_deref())
            .unwrap_or_default();
        let (found, port) = find_port(&key, ports, wanted)?;
        let protocol = protocol(&key, found)?;
        let slices = self.slices.get(&(namespace, key.name.as_str()));
        let cluster_ip = match slices {
            Some(_) => None,
            None => spec
                .and_then(|spec| spec.cluster_ip.as_deref()?.parse().ok())
                .map(|ip| (ip, port)),
        };
        let endpoints = endpoints(slices.map(Vec::as_slice).unwrap_or_default(), found, port);
        Ok(Backend {
            service: key,
            port,
            protocol,
            endpoints,
            cluster_ip,
        })
    }
}

/// The port as the Ingress names it.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Number(u16),
    Name(&'a str),
}

fn wanted(backend: &IngressBackend) -> Result<(&str, Wanted<'_>), Unresolved> {
    if let Some(resource) = &backend.resource {
        let message = format!(
            "the backend is the resource {}/{}; only Services can be reached, use `backend.service`",
            resource.kind, resource.name
        );
        return Err((RefusalReason::ResourceBackend, message));
    }
    let invalid = |message: &str| (RefusalReason::InvalidBackend, message.to_owned());
    let Some(IngressServiceBackend { name, port }) = &backend.service else {
        return Err(invalid(
            "the backend names no Service; set `backend.service.name` and `.port`",
        ));
    };
    if name.is_empty() {
        return Err(invalid(
            "the backend's Service has no name; set `backend.service.name`",
        ));
    }
    let port = port.as_ref();
    let number = port.and_then(|port| port.number);
    let text = port
        .and_then(|port| port.name.as_deref())
        .filter(|text| !text.is_empty());
    match (number, text) {
        (Some(number), None) => match u16::try_from(number) {
            Ok(number) if number != 0 => Ok((name, Wanted::Number(number))),
            _ => Err(invalid(&format!(
                "port number {number} is not within 1..=65535"
            ))),
        },
        (None, Some(text)) => Ok((name, Wanted::Name(text))),
        (Some(_), Some(_)) => Err(invalid(
            "`service.port` has both a number and a name; keep one of them",
        )),
        (None, None) => Err(invalid(
            "`service.port` is missing; set its number or its name",
        )),
    }
}

fn find_port<'a>(
    key: &Key,
    ports: &'a [ServicePort],
    wanted: Wanted<'_>,
) -> Result<(&'a ServicePort, u16), Unresolved> {
    let tcp = || ports.iter().filter(|port| is_tcp(port.protocol.as_deref()));
    let found = tcp().find(|port| match wanted {
        Wanted::Number(number) => port.port == i32::from(number),
        Wanted::Name(name) => port.name.as_deref() == Some(name),
    });
    if let Some(found) = found
        && let Ok(number) = u16::try_from(found.port)
    {
        return Ok((found, number));
    }
    let wanted = match wanted {
        Wanted::Number(number) => number.to_string(),
        Wanted::Name(name) => format!("named {name:?}"),
    };
    let known: Vec<String> = tcp()
        .map(|port| match port.name.as_deref() {
            Some(name) => format!("{} ({name})", port.port),
            None => port.port.to_string(),
        })
        .collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    let message = format!("Service {key} has no TCP port {wanted}; its TCP ports: {known}");
    Err((RefusalReason::ServicePortNotFound, message))
}

/// `appProtocol` per KEP-3726, plus the bare names other controllers take for h2c.
fn protocol(key: &Key, port: &ServicePort) -> Result<BackendProtocol, Unresolved> {
    match port.app_protocol.as_deref() {
        Some("kubernetes.io/h2c" | "h2c" | "grpc") => Ok(BackendProtocol::H2c),
        // Plain bytes to a TLS port would only earn an error from the backend.
        Some(tls @ ("kubernetes.io/wss" | "https" | "HTTPS")) => {
            let message = format!(
                "port {} of Service {key} has appProtocol {tls}; backends are reached without TLS, name a plain port",
                port.port
            );
            Err((RefusalReason::UnsupportedProtocol, message))
        }
        Some(_) | None => Ok(BackendProtocol::Http),
    }
}

/// Ready addresses; where there are none, those that still serve while they terminate (as kube-proxy does).
fn endpoints(slices: &[&EndpointSlice], service_port: &ServicePort, number: u16) -> Vec<Endpoint> {
    let (mut ready, mut leaving) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices {
        let Some(port) = target_port(slice, service_port, number) else {
            continue;
        };
        for endpoint in &slice.endpoints {
            let all = match readiness(endpoint) {
                Readiness::Ready => &mut ready,
                Readiness::Leaving => &mut leaving,
                Readiness::Not => continue,
            };
            // A slice of type FQDN holds names; resolving them is not for a pure crate, and Kubernetes never makes one.
            let addresses = endpoint
                .addresses
                .iter()
                .filter_map(|address| address.parse().ok());
            all.extend(addresses.map(|address| Endpoint { address, port }));
        }
    }
    let chosen = if ready.is_empty() { leaving } else { ready };
    chosen.into_iter().collect()
}

enum Readiness {
    Ready,
    Leaving,
    Not,
}

fn readiness(endpoint: &SliceEndpoint) -> Readiness {
    let Some(conditions) = &endpoint.conditions else {
        return Readiness::Ready;
    };
    // Kubernetes: "unknown" is to be read as ready.
    if conditions.ready.unwrap_or(true) {
        Readiness::Ready
    } else if conditions.serving == Some(true) && conditions.terminating == Some(true) {
        Readiness::Leaving
    } else {
        Readiness::Not
    }
}

/// The pods' port in one slice: the slice port that carries the Service port's name, which is how Kubernetes resolves a
/// named `targetPort`; in a slice written by hand also one with the number the Service says.
fn target_port(slice: &EndpointSlice, service_port: &ServicePort, number: u16) -> Option<u16> {
    let target = match &service_port.target_port {
        Some(IntOrString::Int(target)) => u16::try_from(*target).ok().filter(|target| *target != 0),
        Some(IntOrString::String(target)) => target.parse().ok(),
        None => Some(number),
    };
    let ports = slice.ports.as_deref().unwrap_or_default();
    let tcp = || ports.iter().filter(|port| is_tcp(port.protocol.as_deref()));
    let name = service_port.name.as_deref().unwrap_or_default();
    let by_name = tcp().find(|port| port.name.as_deref().unwrap_or_default() == name);
    let by_number = || tcp().find(|port| target.is_some() && port_number(port) == target);
    let port = by_name.or_else(by_number)?;
    match port.port {
        Some(_) => port_number(port),
        // No number means every port is open.
        None => target,
    }
}

fn port_number(port: &EndpointPort) -> Option<u16> {
    port.port
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol.is_empty() || protocol == "TCP")
}

#[cfg(test)]
mod tests;
