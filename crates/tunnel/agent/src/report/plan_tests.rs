//! What is said, and that it is said once.

use super::super::{Edges, Report};
use super::*;
use gatewright_routes::message::Refused;
use gatewright_routes::{RefusedReason, RouteId};
use gatewright_translate::{Objects, Options, Translation, translate};
use serde_json::{Value, json};

const OWN: &str = "k3j2.gateway.example";

fn ingress(change: impl FnOnce(&mut Value)) -> Objects {
    let mut ingress = json!({
        "metadata": { "namespace": "shop", "name": "web", "uid": "u1", "resourceVersion": "1" },
        "spec": { "rules": [{ "host": "web.example", "http": { "paths": [
            { "path": "/", "pathType": "Prefix",
              "backend": { "service": { "name": "web", "port": { "number": 80 } } } },
        ] } }] },
    });
    change(&mut ingress);
    let service = json!({
        "metadata": { "namespace": "shop", "name": "web" },
        "spec": { "ports": [{ "port": 80 }], "clusterIP": "10.0.0.1" },
    });
    let key = Key::new("shop", "web");
    let mut objects = Objects::default();
    let ingress: Ingress = serde_json::from_value(ingress).expect("an Ingress");
    objects.ingresses.insert(key.clone(), Arc::new(ingress));
    let service = serde_json::from_value(service).expect("a Service");
    objects.services.insert(key, Arc::new(service));
    objects
}

fn translation(objects: &Objects) -> Translation {
    translate(objects, &Options::default())
}

fn edges() -> Edges {
    Edges {
        publish: vec![OWN.to_owned()],
        refused: BTreeMap::new(),
        settled: true,
        withdrawn: false,
    }
}

fn refusing(translation: &Translation) -> Edges {
    let refuse = |id: &RouteId| {
        let refused = Refused::new(*id, "web.example", "/", RefusedReason::HostNotGranted);
        (*id, refused)
    };
    Edges {
        refused: translation.routes.keys().map(refuse).collect(),
        ..edges()
    }
}

fn report(objects: &Objects, edges: &Edges) -> Report {
    Report::new(objects, &translation(objects), edges)
}

/// The steps as one would tell them, after which they count as done.
fn carry_out(said: &mut Said, report: &Report) -> Vec<String> {
    said.forget_gone(report);
    let steps = said.plan(report);
    let told = steps.iter().map(|step| match step {
        Step::Write { status, .. } => {
            let balancer = status.load_balancer.as_ref();
            let entries = balancer.and_then(|balancer| balancer.ingress.as_ref());
            let entries = entries.into_iter().flatten();
            let names: Vec<_> = entries
                .filter_map(|entry| entry.hostname.as_deref())
                .collect();
            format!("status {names:?}")
        }
        Step::Tell { notice, .. } => format!("{:?} {}", notice.severity, notice.reason),
    });
    let told = told.collect();
    steps.into_iter().for_each(|step| said.done(step));
    told
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_served_ingress_gets_its_status_once() {
    let mut said = Said::default();
    let first = report(&ingress(|_| {}), &edges());
    assert_eq!(carry_out(&mut said, &first), [format!("status [{OWN:?}]")]);
    // The source does not show the write yet.
    assert_eq!(carry_out(&mut said, &first), NOTHING);
    let status = json!({ "loadBalancer": { "ingress": [{ "hostname": OWN }] } });
    let written = ingress(|ingress| {
        ingress["metadata"]["resourceVersion"] = "2".into();
        ingress["status"] = status;
    });
    assert_eq!(carry_out(&mut said, &report(&written, &edges())), NOTHING);
    // Somebody wiped it.
    let wiped = ingress(|ingress| ingress["metadata"]["resourceVersion"] = "3".into());
    let wiped = report(&wiped, &edges());
    assert_eq!(carry_out(&mut said, &wiped), [format!("status [{OWN:?}]")]);
}

#[test]
fn nothing_is_written_before_an_edge_has_answered() {
    let objects = ingress(|_| {});
    for edges in [
        Edges::default(),
        Edges {
            settled: false,
            ..edges()
        },
        Edges {
            publish: Vec::new(),
            ..edges()
        },
    ] {
        assert_eq!(
            carry_out(&mut Said::default(), &report(&objects, &edges)),
            NOTHING
        );
    }
}

#[test]
fn a_refusal_of_the_edge_is_told_once_and_its_end_too() {
    let objects = ingress(|_| {});
    let refusing = refusing(&translation(&objects));
    let mut said = Said::default();
    let refused = report(&objects, &refusing);
    assert_eq!(carry_out(&mut said, &refused), ["Warning HostNotGranted"]);
    assert_eq!(carry_out(&mut said, &refused), NOTHING);
    // A reconnect: the edge has not answered yet, which is neither a refusal nor its end.
    let asking = Edges {
        settled: false,
        ..edges()
    };
    assert_eq!(carry_out(&mut said, &report(&objects, &asking)), NOTHING);
    assert_eq!(carry_out(&mut said, &refused), NOTHING);
    let granted = carry_out(&mut said, &report(&objects, &edges()));
    assert_eq!(
        granted,
        [format!("status [{OWN:?}]"), "Normal Served".to_owned()]
    );
    assert_eq!(carry_out(&mut said, &report(&objects, &edges())), NOTHING);
    assert_eq!(carry_out(&mut said, &refused), ["Warning HostNotGranted"]);
}

#[test]
fn a_changed_message_is_told_again() {
    let objects = ingress(|_| {});
    let mut refusing = refusing(&translation(&objects));
    let mut said = Said::default();
    carry_out(&mut said, &report(&objects, &refusing));
    for refused in refusing.refused.values_mut() {
        refused.message = "something else".to_owned();
    }
    let again = carry_out(&mut said, &report(&objects, &refusing));
    assert_eq!(again, ["Warning HostNotGranted"]);
}

#[test]
fn flaw_19_a_late_service_is_a_warning_then_served() {
    let complete = ingress(|_| {});
    let mut late = complete.clone();
    late.services.clear();
    let mut said = Said::default();
    assert_eq!(
        carry_out(&mut said, &report(&late, &edges())),
        ["Warning ServiceNotFound"]
    );
    let told = carry_out(&mut said, &report(&complete, &edges()));
    assert_eq!(
        told,
        [format!("status [{OWN:?}]"), "Normal Served".to_owned()]
    );
}

#[test]
fn an_ingress_made_anew_under_its_name_is_told_anew() {
    let objects = ingress(|_| {});
    let refusing = refusing(&translation(&objects));
    let mut said = Said::default();
    carry_out(&mut said, &report(&objects, &refusing));
    let anew = ingress(|ingress| ingress["metadata"]["uid"] = "u2".into());
    assert_eq!(
        carry_out(&mut said, &report(&anew, &refusing)),
        ["Warning HostNotGranted"]
    );
    assert_eq!(
        carry_out(&mut said, &report(&Objects::default(), &edges())),
        NOTHING
    );
    assert!(said.ingresses.is_empty());
}

#[test]
fn what_we_published_is_withdrawn_when_nothing_is_served() {
    let published = |name: &str, marked: bool| {
        let mark = json!([{ "manager": "gatewright/agent", "operation": "Apply", "subresource": "status",
            "fieldsV1": { "f:status": { "f:loadBalancer": { "f:ingress": {} } } } }]);
        ingress(|ingress| {
            ingress["status"] = json!({ "loadBalancer": { "ingress": [{ "hostname": name }] } });
            if marked {
                ingress["metadata"]["managedFields"] = mark;
            }
        })
    };
    let public = Edges {
        withdrawn: true,
        ..edges()
    };
    let objects = published(OWN, false);
    assert_eq!(
        carry_out(&mut Said::default(), &report(&objects, &public)),
        ["status []"]
    );
    for (objects, expected) in [
        (
            published(OWN, false),
            vec!["status []", "Warning HostNotGranted"],
        ),
        // A name of ours from before: the mark tells.
        (
            published("old.gateway.example", true),
            vec!["status []", "Warning HostNotGranted"],
        ),
        (
            published("nginx.example", false),
            vec!["Warning HostNotGranted"],
        ),
    ] {
        let refusing = refusing(&translation(&objects));
        assert_eq!(
            carry_out(&mut Said::default(), &report(&objects, &refusing)),
            expected
        );
    }
}

#[test]
fn flaw_29_another_controllers_status_is_left_alone() {
    let objects = ingress(|ingress| {
        ingress["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "203.0.113.7" }] } });
    });
    assert_eq!(
        carry_out(&mut Said::default(), &report(&objects, &edges())),
        NOTHING
    );
}
