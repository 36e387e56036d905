//! The ConfigMap and the Services of a cluster. Selectors of Services never overlap with those of another cluster.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use k8s_openapi::api::core::v1::{ConfigMap, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::workload::{Owner, Tier, Workload};
use super::{filled, names};
use crate::api::{NodePortEndpoint, PublicEndpoint, PublicEndpointType, ServiceType};
use crate::config::{self, Settings};

/// The configuration: one file, and where nodes announce different addresses one more for each slot.
pub(super) fn config_map(workload: &Workload) -> ConfigMap {
    let settings = &workload.resolved.settings;
    let mut data = BTreeMap::from([(names::CONFIG_KEY.to_owned(), config::render(settings))]);
    if per_pod_config(settings) {
        for slot in 0..workload.resolved.replicas {
            let pod = names::storage_pod(&workload.owner.cluster, slot);
            data.insert(
                names::slot_config_key(slot),
                config::render_for(settings, &pod, slot),
            );
        }
    }
    ConfigMap {
        metadata: workload.owner.meta(workload.config_map.clone()),
        data: Some(data),
        ..ConfigMap::default()
    }
}

/// Whether each pod of the cluster reads a file of its own.
pub(super) fn per_pod_config(settings: &Settings) -> bool {
    settings
        .public_address
        .as_ref()
        .is_some_and(config::PublicAddress::per_pod)
}

/// The ports of a pod by name.
pub(super) fn ports(settings: &Settings) -> Vec<(&'static str, u16)> {
    let port = |name, address: Option<SocketAddr>| Some((name, address?.port()));
    [
        port("s3", Some(settings.s3.bind)),
        port("web", settings.web.as_ref().map(|web| web.bind)),
        port("k2v", settings.k2v),
        port("admin", Some(settings.admin.bind)),
        port("rpc", Some(settings.rpc_bind)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

pub(super) fn services(workload: &Workload) -> Vec<Service> {
    let mut services = vec![api(workload), admin(workload)];
    if workload.owner.tier == Tier::Storage {
        services.push(headless(workload));
        services.extend(public(workload));
    }
    services
}

/// What users talk to: ready pods only.
fn api(workload: &Workload) -> Service {
    let wanted = &workload.service;
    let mut service = Service {
        metadata: workload.owner.meta(workload.owner.cluster.clone()),
        spec: Some(ServiceSpec {
            type_: Some(wanted.type_.as_str().to_owned()),
            external_traffic_policy: wanted.external_traffic_policy.clone(),
            load_balancer_source_ranges: filled(wanted.load_balancer_source_ranges.clone()),
            ..spec(
                &workload.owner,
                service_ports(&workload.resolved.settings, &["s3", "web", "k2v"]),
            )
        }),
        ..Service::default()
    };
    service.metadata.annotations = filled(wanted.annotations.clone());
    if let (Some(spec), ServiceType::LoadBalancer) = (&mut service.spec, wanted.type_) {
        spec.load_balancer_ip.clone_from(&wanted.load_balancer_ip);
    }
    service
}

/// The Admin API and metrics, apart from what users reach.
fn admin(workload: &Workload) -> Service {
    Service {
        metadata: workload
            .owner
            .meta(names::admin_service(&workload.owner.cluster)),
        spec: Some(ServiceSpec {
            type_: Some(ServiceType::ClusterIp.as_str().to_owned()),
            ..spec(
                &workload.owner,
                service_ports(&workload.resolved.settings, &["admin"]),
            )
        }),
        ..Service::default()
    }
}

/// DNS names of the pods, also of those that are not ready: nodes need each other to become ready.
fn headless(workload: &Workload) -> Service {
    Service {
        metadata: workload
            .owner
            .meta(names::headless_service(&workload.owner.cluster)),
        spec: Some(ServiceSpec {
            type_: Some(ServiceType::ClusterIp.as_str().to_owned()),
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            ..spec(
                &workload.owner,
                service_ports(&workload.resolved.settings, &["rpc"]),
            )
        }),
        ..Service::default()
    }
}

/// Whether each node gets a Service by which others reach it under an address of its own. Addresses that
/// exist already (`Headless`, `ExternalIP`) need none.
pub fn has_public_services(endpoint: Option<&PublicEndpoint>) -> bool {
    endpoint.is_some_and(|endpoint| match endpoint.type_ {
        PublicEndpointType::Headless | PublicEndpointType::ExternalIp => false,
        PublicEndpointType::LoadBalancer | PublicEndpointType::NodePort => true,
    })
}

/// One for each node.
fn public(workload: &Workload) -> Vec<Service> {
    let Some(PublicEndpoint {
        type_,
        load_balancer,
        node_port,
        ..
    }) = &workload.public_endpoint
    else {
        return Vec::new();
    };
    let annotations = load_balancer
        .as_ref()
        .map(|balancer| balancer.annotations.clone())
        .unwrap_or_default();
    let base = node_port
        .as_ref()
        .and_then(|NodePortEndpoint { base_port, .. }| *base_port);
    let (type_, annotations, base) = match type_ {
        PublicEndpointType::Headless | PublicEndpointType::ExternalIp => return Vec::new(),
        PublicEndpointType::LoadBalancer => (ServiceType::LoadBalancer, annotations, None),
        PublicEndpointType::NodePort => (ServiceType::NodePort, BTreeMap::new(), base),
    };
    let service = |slot: u32| {
        let mut ports = service_ports(&workload.resolved.settings, &["rpc"]);
        for port in &mut ports {
            port.node_port = base.and_then(|base| base.checked_add_unsigned(slot));
        }
        let mut spec = ServiceSpec {
            type_: Some(type_.as_str().to_owned()),
            publish_not_ready_addresses: Some(true),
            ..spec(&workload.owner, ports)
        };
        let selector = spec.selector.get_or_insert_default();
        selector.insert(names::LABEL_POD_INDEX.to_owned(), slot.to_string());
        let mut service = Service {
            metadata: workload
                .owner
                .meta(names::public_service(&workload.owner.cluster, slot)),
            spec: Some(spec),
            ..Service::default()
        };
        service.metadata.annotations = filled(annotations.clone());
        service
    };
    (0..workload.resolved.replicas).map(service).collect()
}

fn spec(owner: &Owner, ports: Vec<ServicePort>) -> ServiceSpec {
    ServiceSpec {
        selector: Some(owner.tier_selector()),
        ports: Some(ports),
        ..ServiceSpec::default()
    }
}

fn service_ports(settings: &Settings, wanted: &[&str]) -> Vec<ServicePort> {
    let port = |(name, number): (&'static str, u16)| ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(number),
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    };
    ports(settings)
        .into_iter()
        .filter(|(name, _)| wanted.contains(name))
        .map(port)
        .collect()
}
