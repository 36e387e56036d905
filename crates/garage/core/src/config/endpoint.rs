//! What the nodes of a cluster announce as their RPC address. Only what can be known before anything runs.

use super::PublicAddress;
use super::collect::Problems;
use crate::api::{GarageCluster, NetworkSpec, PublicEndpoint, PublicEndpointType};
use crate::identity::split_address;

/// The address by `rpcPublicAddr`, else by `publicEndpoint`.
pub(super) fn public_address(
    cluster: &GarageCluster,
    network: &NetworkSpec,
    problems: &mut Problems,
) -> Option<PublicAddress> {
    let field = "spec.network.rpcPublicAddr";
    if let Some(address) = &network.rpc_public_addr {
        let per_pod = address.contains("$(POD_NAME)") || address.contains("$(POD_INDEX)");
        if per_pod && cluster.spec.gateway {
            problems.add(
                field,
                "gateway pods have no fixed names; write one address or leave the field out",
            );
            return None;
        }
        let sample = address
            .replace("$(POD_NAME)", "pod-0")
            .replace("$(POD_INDEX)", "0");
        if let Err(why) = split_address(&sample) {
            problems.add(field, format!("\"{address}\": {why}; write host:port"));
            return None;
        }
        let address = address.clone();
        return Some(if per_pod {
            PublicAddress::PerPod(address)
        } else {
            PublicAddress::Same(address)
        });
    }
    let PublicEndpoint {
        type_,
        node_port,
        external_ip,
        ..
    } = cluster.spec.public_endpoint.as_ref()?;
    if cluster.spec.gateway {
        let message = "a gateway dials the storage nodes and is not dialled; only storage clusters have public endpoints";
        problems.add("spec.publicEndpoint", message);
        return None;
    }
    let replicas = u16::try_from(cluster.spec.replicas).unwrap_or(u16::MAX);
    match type_ {
        // Where the load balancer is, nobody knows yet; pods announce their own address, as without an endpoint.
        PublicEndpointType::Headless | PublicEndpointType::LoadBalancer => None,
        PublicEndpointType::NodePort => {
            let node_port = node_port.clone().unwrap_or_default();
            let base = node_port
                .base_port
                .and_then(|port| u16::try_from(port).ok())
                .filter(|base| (30_000..=32_767).contains(base));
            let Some(base) = base else {
                let message = "is needed, from 30000 to 32767: the nodes announce this port and those after it";
                problems.add("spec.publicEndpoint.nodePort.basePort", message);
                return None;
            };
            if base.saturating_add(replicas) > 32_768 {
                let message = format!(
                    "{replicas} nodes need the ports from {base} on, and the last one is 32767"
                );
                problems.add("spec.publicEndpoint.nodePort.basePort", message);
            }
            if node_port.external_addresses.is_empty() {
                let message = "is needed: the address of at least one Kubernetes node";
                problems.add("spec.publicEndpoint.nodePort.externalAddresses", message);
                return None;
            }
            Some(PublicAddress::NodePorts {
                hosts: node_port.external_addresses,
                base,
            })
        }
        PublicEndpointType::ExternalIp => {
            let endpoint = external_ip.clone().unwrap_or_default();
            if endpoint.addresses.is_empty() && endpoint.address_template.is_none() {
                problems.add(
                    "spec.publicEndpoint.externalIP",
                    "needs addresses or addressTemplate",
                );
                return None;
            }
            Some(PublicAddress::Named {
                hosts: endpoint.addresses,
                // `{ordinal}` is how earlier versions of this API wrote it.
                template: endpoint
                    .address_template
                    .map(|template| template.replace("{ordinal}", "$(POD_INDEX)")),
                port: u16::try_from(network.rpc_bind_port).unwrap_or_default(),
            })
        }
    }
}
