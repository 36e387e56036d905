//! Tells whether the cluster has a public way in of its own. Judges addresses as written; may not probe them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use serde::Serialize;

use crate::objects::Objects;

/// Whether the Internet reaches the cluster without the tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Network {
    /// It does.
    Public {
        /// The first object, by name, that shows it, and how.
        because: String,
    },
    /// Nothing shows that it does.
    Private,
}

/// Public if any LoadBalancer Service has a globally routable address, whichever controller made it.
pub fn network(objects: &Objects) -> Network {
    for (key, service) in &objects.services {
        if let Some(address) = public_address(service) {
            return Network::Public {
                because: format!("LoadBalancer Service {key} has the public address {address}"),
            };
        }
    }
    Network::Private
}

fn public_address(service: &Service) -> Option<String> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() != Some("LoadBalancer") {
        return None;
    }
    let internal = is_internal(service);
    let entries = service
        .status
        .as_ref()?
        .load_balancer
        .as_ref()?
        .ingress
        .as_deref()?;
    entries
        .iter()
        .find_map(|LoadBalancerIngress { ip, hostname, .. }| {
            let ip = ip
                .as_deref()
                .filter(|ip| ip.parse().is_ok_and(is_globally_routable));
            let hostname = hostname
                .as_deref()
                .filter(|name| !internal && is_public_name(name));
            ip.or(hostname).map(str::to_owned)
        })
}

/// AWS gives internal load balancers names that look public; only these annotations tell.
fn is_internal(service: &Service) -> bool {
    let says = |key: &str, value: &str| {
        service
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(key))
            .is_some_and(|found| found == value)
    };
    says(
        "service.beta.kubernetes.io/aws-load-balancer-scheme",
        "internal",
    ) || says(
        "service.beta.kubernetes.io/aws-load-balancer-internal",
        "true",
    )
}

fn is_public_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if let Ok(ip) = name.parse() {
        return is_globally_routable(ip);
    }
    let local = [
        ".local",
        ".internal",
        ".lan",
        ".localhost",
        ".home.arpa",
        ".test",
    ];
    name.contains('.') && !local.iter().any(|suffix| name.ends_with(suffix))
}

/// Whether an address can be reached from anywhere on the Internet (IANA special-purpose registries, RFC 6890).
pub fn is_globally_routable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_global_v4(ip),
        IpAddr::V6(ip) => ip
            .to_ipv4_mapped()
            .map_or_else(|| is_global_v6(ip), is_global_v4),
    }
}

fn is_global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = a == 0
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || (a == 100 && b & 0xc0 == 64) // carrier-grade NAT, RFC 6598
        || (a == 192 && b == 0 && c == 0) // IETF protocol assignments
        || (a == 198 && b & 0xfe == 18) // benchmarks, RFC 2544
        || a >= 224; // multicast, reserved, broadcast
    !special
}

fn is_global_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    // Global unicast is 2000::/3; loopback, ULA, link-local and multicast lie outside.
    a & 0xe000 == 0x2000
        && !(a == 0x2001 && b == 0xdb8) // documentation
        && !(a == 0x3fff && b & 0xf000 == 0) // documentation, RFC 9637
        && !(a == 0x2001 && (b == 2 || b & 0xfff0 == 0x10 || b & 0xfff0 == 0x20)) // benchmarks, ORCHID
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::object_from_value;
    use serde_json::{Value, json};

    #[test]
    fn addresses() {
        for (text, global) in [
            ("0.1.2.3", false),
            ("1.1.1.1", true),
            ("9.255.255.255", true),
            ("10.0.0.1", false),
            ("11.0.0.0", true),
            ("100.63.255.255", true),
            ("100.64.0.1", false),
            ("100.127.255.255", false),
            ("100.128.0.0", true),
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("172.15.255.255", true),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("172.32.0.0", true),
            ("192.0.0.8", false),
            ("192.0.1.1", true),
            ("192.0.2.1", false),
            ("192.168.7.7", false),
            ("198.17.255.255", true),
            ("198.18.0.1", false),
            ("198.19.255.255", false),
            ("198.51.100.7", false),
            ("203.0.113.7", false),
            ("224.0.0.1", false),
            ("240.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("::ffff:10.0.0.1", false),
            ("::ffff:8.8.8.8", true),
            ("2001:4860:4860::8888", true),
            ("2001:db8::1", false),
            ("2001:2::1", false),
            ("2001:20::1", false),
            ("2606:4700::1111", true),
            ("3fff:fff::1", false),
            ("fc00::1", false),
            ("fd12:3456::1", false),
            ("fe80::1", false),
            ("ff02::1", false),
        ] {
            assert_eq!(
                is_globally_routable(text.parse().unwrap()),
                global,
                "{text}"
            );
        }
    }

    #[test]
    fn names() {
        for (name, public) in [
            ("abc.elb.eu-west-1.amazonaws.com", true),
            ("LB.Example.com.", true),
            ("8.8.8.8", true),
            ("10.0.0.8", false),
            ("localhost", false),
            ("ingress", false),
            ("ingress.local", false),
            ("lb.corp.INTERNAL", false),
            ("nas.lan.", false),
            ("notlocal.com", true),
            ("", false),
        ] {
            assert_eq!(is_public_name(name), public, "{name}");
        }
    }

    fn objects(services: impl IntoIterator<Item = Value>) -> Objects {
        let mut objects = Objects::default();
        for service in services {
            assert!(objects.insert(object_from_value(service).unwrap()));
        }
        objects
    }

    fn service(name: &str, kind: &str, annotations: Value, entry: Value) -> Value {
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "annotations": annotations },
            "spec": { "type": kind }, "status": { "loadBalancer": { "ingress": [entry] } } })
    }

    #[test]
    fn one_public_load_balancer_makes_a_public_cluster() {
        let none = || Value::Null;
        let private = || service("a", "LoadBalancer", none(), json!({ "ip": "10.1.2.3" }));
        let public = |name: &str| service(name, "LoadBalancer", none(), json!({ "ip": "8.8.4.4" }));
        assert_eq!(network(&objects([])), Network::Private);
        assert_eq!(network(&objects([private()])), Network::Private);
        assert_eq!(
            network(&objects([private(), public("z"), public("m")])),
            Network::Public {
                because: "LoadBalancer Service default/m has the public address 8.8.4.4".into()
            }
        );
    }

    #[test]
    fn what_does_not_count_as_public() {
        let aws = json!({ "hostname": "x.elb.eu-west-1.amazonaws.com" });
        let scheme = json!({ "service.beta.kubernetes.io/aws-load-balancer-scheme": "internal" });
        let internal = json!({ "service.beta.kubernetes.io/aws-load-balancer-internal": "true" });
        for (case, private) in [
            (
                service("a", "LoadBalancer", Value::Null, aws.clone()),
                false,
            ),
            (service("a", "LoadBalancer", scheme, aws.clone()), true),
            (service("a", "LoadBalancer", internal, aws), true),
            (
                service("a", "ClusterIP", Value::Null, json!({ "ip": "8.8.8.8" })),
                true,
            ),
            (
                service(
                    "a",
                    "LoadBalancer",
                    Value::Null,
                    json!({ "ip": "not an address" }),
                ),
                true,
            ),
            (service("a", "LoadBalancer", Value::Null, json!({})), true),
        ] {
            assert_eq!(
                network(&objects([case.clone()])) == Network::Private,
                private,
                "{case}"
            );
        }
    }
}
