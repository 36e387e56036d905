//! The whole way on a real node: an edge outside, the agent as a pod with its shipped manifest, an app, and the
//! specification's Ingress, unmodified. It may not reach into either program.

mod rig;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gatewright_testkit::await_condition;
use gatewright_testkit::http::{Connection, Response, get};
use rig::{Edge, Node};

const HOST: &str = "my-app.example.com";
const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn an_unmodified_ingress_is_served_through_the_tunnel() {
    let Some(node) = Node::up() else { return };
    // What an earlier run on a cluster that stays may have left; a Deployment that is kept would mount the old token.
    node.kubectl("-n default delete ingress my-app --ignore-not-found");
    node.kubectl("delete namespace gatewright --ignore-not-found");
    let edge = Edge::start(&node.host).await;

    deploy_agent(&node, &edge);
    node.apply(&here("app.yaml"));
    node.apply(&here("tunnel-ingress.yaml"));
    node.kubectl("-n gatewright rollout status deployment/gatewright-agent --timeout=90s");
    node.kubectl("-n default rollout status deployment/my-app --timeout=90s");

    let page = answers(edge.address, "the app's page", |page| page.status() == 200).await;
    assert_eq!(page.text(), "served by a pod of my-app\n");
    let missing = get(edge.address, HOST, "/no-such-page").await;
    assert_eq!(missing.status(), 404);
    // The app's own 404, not one of ours.
    assert_eq!(missing.header("x-gatewright-error"), None);
    let stranger = get(edge.address, "other.example.com", "/").await;
    assert_eq!(stranger.status(), 404);
    assert!(stranger.header("x-gatewright-error").is_some());

    the_ingress_says_where_it_is_served(&node).await;
    the_agent_can_do_what_it_must_and_no_more(&node);
    without_an_agent_the_route_waits(&node, &edge).await;

    node.kubectl("-n default delete ingress my-app");
    answers(edge.address, "the route is gone", |page| {
        page.status() == 404
    })
    .await;
}

/// Applies the shipped manifest, with the edge's address put in as its first lines say.
fn deploy_agent(node: &Node, edge: &Edge) {
    let shipped = "../../deploy/agent.yaml";
    let text = std::fs::read_to_string(shipped).expect("deploy/agent.yaml");
    let placeholder = "wss://gateway.example.com";
    assert_eq!(text.matches(placeholder).count(), 1);
    let manifest = edge.dir.path().join("agent.yaml");
    let text = text.replace(placeholder, &format!("ws://{}", edge.address));
    std::fs::write(&manifest, text).expect("write agent.yaml");
    node.apply(&manifest);
    let token = edge.create_cluster("node", HOST);
    node.kubectl(&format!(
        "-n gatewright create secret generic gatewright-agent --from-file=token={}",
        token.display()
    ));
}

async fn the_ingress_says_where_it_is_served(node: &Node) {
    let status = "-n default get ingress my-app -o jsonpath={.status.loadBalancer.ingress}";
    await_condition("the Ingress has an address", PATIENCE, || async {
        !node.kubectl(status).is_empty()
    })
    .await;
    let address = node.kubectl(status);
    assert!(address.contains("gateway.localhost"), "{address}");
    let managers = node.kubectl(
        "-n default get ingress my-app --show-managed-fields -o jsonpath={.metadata.managedFields[*].manager}",
    );
    assert!(managers.contains("gatewright/"), "{managers}");
}

fn the_agent_can_do_what_it_must_and_no_more(node: &Node) {
    let can = |verb: &str, resource: &str, namespace: &str| {
        let scope = match namespace {
            "" => "--all-namespaces".to_owned(),
            name => format!("--namespace={name}"),
        };
        // kubectl reads `ingresses/status` as the Ingress called "status".
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let answer = node.ask(&format!(
            "auth can-i {verb} {resource} --subresource={subresource} {scope} --as=system:serviceaccount:gatewright:gatewright-agent"
        ));
        // kubectl exits with 1 for "no".
        String::from_utf8_lossy(&answer.stdout).trim() == "yes"
    };
    for (verb, resource, namespace) in [
        ("watch", "ingresses.networking.k8s.io", ""),
        ("list", "endpointslices.discovery.k8s.io", ""),
        ("patch", "ingresses.networking.k8s.io/status", ""),
        ("create", "events.events.k8s.io", ""),
        ("update", "leases.coordination.k8s.io", "gatewright"),
    ] {
        assert!(
            can(verb, resource, namespace),
            "{verb} {resource} {namespace}"
        );
    }
    for (verb, resource, namespace) in [
        ("get", "secrets", ""),
        ("list", "secrets", "gatewright"),
        ("list", "configmaps", ""),
        ("list", "pods", ""),
        ("patch", "ingresses.networking.k8s.io", ""),
        ("update", "ingresses.networking.k8s.io", ""),
        ("delete", "ingresses.networking.k8s.io", ""),
        ("patch", "services", ""),
        ("update", "leases.coordination.k8s.io", "kube-system"),
        ("create", "pods", ""),
        ("impersonate", "users", ""),
    ] {
        assert!(
            !can(verb, resource, namespace),
            "{verb} {resource} {namespace}"
        );
    }

    let exec = "-n gatewright exec deployment/gatewright-agent --";
    assert_eq!(node.kubectl(&format!("{exec} id -u")).trim(), "65532");
    let write = node.ask(&format!("{exec} touch /tmp/x"));
    assert!(
        !write.status.success(),
        "the root file system can be written"
    );
}

/// A known route without a tunnel is 503 with Retry-After, and answers again when the agent is back.
async fn without_an_agent_the_route_waits(node: &Node, edge: &Edge) {
    node.kubectl("-n gatewright scale deployment/gatewright-agent --replicas=0");
    let page = answers(edge.address, "503 without an agent", |page| {
        page.status() == 503
    })
    .await;
    assert!(page.header("retry-after").is_some());
    node.kubectl("-n gatewright scale deployment/gatewright-agent --replicas=1");
    answers(edge.address, "the page again", |page| page.status() == 200).await;
}

/// Asks for the app's page until the answer is as wanted.
async fn answers(edge: SocketAddr, what: &str, wanted: impl Fn(&Response) -> bool) -> Response {
    let last = std::sync::Mutex::new(None);
    await_condition(what, PATIENCE, || async {
        let Ok(page) = try_get(edge).await else {
            return false;
        };
        let met = wanted(&page);
        *last.lock().expect("no panic before") = Some(page);
        met
    })
    .await;
    last.into_inner()
        .expect("no panic before")
        .expect("an answer met the condition")
}

/// A request that meets an edge while its tunnel goes may break off; that is one more try.
async fn try_get(edge: SocketAddr) -> std::io::Result<Response> {
    let mut connection = Connection::connect(edge).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    connection.send(request).await?;
    connection.read_response().await
}

fn here(file: &str) -> PathBuf {
    Path::new("tests/node").join(file)
}
