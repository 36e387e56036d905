//! What the status of an Ingress should say, and whether that is a change. May not write it.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{
    Ingress, IngressLoadBalancerIngress, IngressLoadBalancerStatus, IngressStatus,
};

use crate::translation::IngressVerdict;

/// The desired `status.loadBalancer`: the `publish` names (or addresses), sorted, while the Ingress has a route.
pub fn ingress_status(verdict: &IngressVerdict, publish: &[String]) -> IngressLoadBalancerStatus {
    let mut publish: Vec<&str> = match verdict.taken && !verdict.routes.is_empty() {
        true => publish
            .iter()
            .map(String::as_str)
            .filter(|name| !name.is_empty())
            .collect(),
        false => Vec::new(),
    };
    publish.sort_unstable();
    publish.dedup();
    let entries = publish.into_iter().map(|name| {
        let is_ip = name.parse::<IpAddr>().is_ok();
        IngressLoadBalancerIngress {
            hostname: (!is_ip).then(|| name.to_owned()),
            ip: is_ip.then(|| name.to_owned()),
            ports: None,
        }
    });
    IngressLoadBalancerStatus {
        ingress: Some(entries.collect()),
    }
}

/// The status to write, or `None` when there is nothing to write: it says so already, or it is not ours to write.
///
/// `publish` is what the edges answer to; empty withdraws (no route of the Ingress is accepted any more).
/// `ours` is every name and address this cluster has ever published, which is how entries of ours are told from those of
/// another controller (watches may drop `managedFields`). An Ingress with any other entry is left alone.
pub fn status_patch(
    ingress: &Ingress,
    verdict: &IngressVerdict,
    publish: &[String],
    ours: &[String],
) -> Option<IngressStatus> {
    if verdict.owned_elsewhere {
        return None;
    }
    let present = ingress
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let present = present
        .and_then(|balancer| balancer.ingress.as_deref())
        .unwrap_or_default();
    let known =
        |name: &str| name.is_empty() || publish.iter().chain(ours).any(|known| known == name);
    if !present
        .iter()
        .map(names)
        .all(|(hostname, ip)| known(hostname) && known(ip))
    {
        return None;
    }
    let desired = ingress_status(verdict, publish);
    let same = desired
        .ingress
        .iter()
        .flatten()
        .map(names)
        .eq(present.iter().map(names));
    (!same).then_some(IngressStatus {
        load_balancer: Some(desired),
    })
}

fn names(entry: &IngressLoadBalancerIngress) -> (&str, &str) {
    (
        entry.hostname.as_deref().unwrap_or_default(),
        entry.ip.as_deref().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatewright_routes::RouteId;
    use serde_json::{Value, json};

    fn verdict(taken: bool, owned_elsewhere: bool, routes: usize) -> IngressVerdict {
        let routes = (0..routes as u64).map(RouteId).collect();
        IngressVerdict {
            class: None,
            taken,
            owned_elsewhere,
            routes,
        }
    }

    fn ingress(entries: Value) -> Ingress {
        serde_json::from_value(
            json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": { "name": "app" }, "status": { "loadBalancer": { "ingress": entries } } }),
        )
        .unwrap()
    }

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn what_is_written_and_when() {
        let host = |name: &str| json!({ "hostname": name });
        let served = verdict(true, false, 1);
        //   present                     verdict                        publish         ours          written
        for (present, verdict, publish, ours, written) in [
            (
                json!([]),
                &served,
                vec!["b.test", "a.test"],
                vec![],
                Some(json!([host("a.test"), host("b.test")])),
            ),
            (
                json!([]),
                &served,
                vec!["a.test", "a.test", ""],
                vec![],
                Some(json!([host("a.test")])),
            ),
            (
                json!([]),
                &served,
                vec!["192.0.2.7"],
                vec![],
                Some(json!([{ "ip": "192.0.2.7" }])),
            ),
            (
                json!([host("a.test")]),
                &served,
                vec!["a.test"],
                vec![],
                None,
            ),
            (
                json!([host("old.test")]),
                &served,
                vec!["a.test"],
                vec!["old.test"],
                Some(json!([host("a.test")])),
            ),
            (
                json!([host("a.test")]),
                &served,
                vec![],
                vec!["a.test"],
                Some(json!([])),
            ),
            (json!([]), &served, vec![], vec!["a.test"], None),
            (
                json!([host("a.test")]),
                &verdict(true, false, 0),
                vec!["a.test"],
                vec![],
                Some(json!([])),
            ),
            (
                json!([host("a.test")]),
                &verdict(false, false, 0),
                vec!["a.test"],
                vec![],
                Some(json!([])),
            ),
            // Another controller's, by its class or by what it wrote.
            (
                json!([]),
                &verdict(true, true, 1),
                vec!["a.test"],
                vec![],
                None,
            ),
            (
                json!([host("nginx.test")]),
                &served,
                vec!["a.test"],
                vec!["old.test"],
                None,
            ),
            (
                json!([{ "ip": "10.0.0.9" }]),
                &served,
                vec!["a.test"],
                vec![],
                None,
            ),
            (
                json!([host("a.test"), { "ip": "10.0.0.9" }]),
                &served,
                vec!["b.test"],
                vec!["a.test"],
                None,
            ),
        ] {
            let given = format!("given {present} and {verdict:?}, publish {publish:?}");
            let patch = status_patch(
                &ingress(present),
                verdict,
                &strings(&publish),
                &strings(&ours),
            );
            let got = patch
                .map(|status| serde_json::to_value(status.load_balancer.unwrap().ingress).unwrap());
            assert_eq!(got, written, "{given}");
        }
    }

    #[test]
    fn an_ingress_without_status_is_one_with_an_empty_status() {
        let bare = Ingress::default();
        assert_eq!(
            status_patch(&bare, &verdict(true, false, 0), &strings(&["a.test"]), &[]),
            None
        );
        assert!(
            status_patch(&bare, &verdict(true, false, 1), &strings(&["a.test"]), &[]).is_some()
        );
    }
}
