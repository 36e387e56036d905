//! The real apiserver asks a webhook that this process serves.

use crate::{PATIENCE, object};
use gatewright_controller::webhook::{
    Certificates, Configuration, Endpoint, FailurePolicy, Server, Settings, Verdict, Webhook, keep,
};
use gatewright_controller::{Ctx, Metrics};
use gatewright_testkit::{Cluster, await_condition};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[expect(
    clippy::disallowed_methods,
    reason = "certificates must be valid for the apiserver's clock"
)]
fn now() -> Timestamp {
    Timestamp::now()
}

fn days(n: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * n)
}

/// So long ago that the authority made then is due, and was due two months ago.
fn long_ago() -> Timestamp {
    now() - days(2500)
}

fn settings(namespace: &str, clock: fn() -> Timestamp) -> Settings {
    Settings {
        namespace: namespace.to_owned(),
        name: "webhook".to_owned(),
        names: vec!["127.0.0.1".to_owned()],
        clock,
    }
}

async fn serve(
    address: SocketAddr,
    certificates: &Certificates,
    cancel: CancellationToken,
) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.expect("can listen");
    let address = listener.local_addr().expect("has an address");
    let server = Server::new(&Metrics::new()).admit("names", |request| async move {
        if request.name == "bad" {
            Verdict::invalid("choose a better name")
        } else {
            Verdict::Allow {
                warnings: vec!["seen".to_owned()],
            }
        }
    });
    let certificates = certificates.clone();
    let task = tokio::spawn(async move {
        server
            .serve(listener, &certificates, cancel)
            .await
            .expect("serves");
    });
    (address, task)
}

fn configuration(namespace: &str, address: SocketAddr) -> Configuration {
    Configuration {
        name: format!("names-{namespace}"),
        labels: [("app".to_owned(), "test".to_owned())].into(),
        endpoint: Endpoint::Address {
            host: "127.0.0.1".to_owned(),
            port: address.port(),
        },
        webhooks: vec![Webhook {
            name: "names.test.gatewright.dev".to_owned(),
            handler: "names".to_owned(),
            rules: vec![object(json!({
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"],
            }))],
            failure_policy: FailurePolicy::Fail,
            equivalent: true,
            timeout: Duration::from_secs(5),
            namespaces: Some(object(
                json!({ "matchLabels": { "kubernetes.io/metadata.name": namespace } }),
            )),
            objects: None,
        }],
    }
}

/// What the apiserver says about a ConfigMap of this name; nothing is stored.
async fn verdict(client: &Client, namespace: &str, name: &str) -> Result<(), String> {
    let map: ConfigMap = object(json!({ "metadata": { "name": name } }));
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    match api.create(&dry, &map).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(format!("{} {}", status.code, status.message)),
        Err(error) => panic!("{error}"),
    }
}

async fn decides(client: &Client, namespace: &str) {
    await_condition("the webhook decides", PATIENCE, || async {
        verdict(client, namespace, "bad")
            .await
            .is_err_and(|text| text.starts_with("422") && text.contains("choose a better name"))
    })
    .await;
    assert_eq!(verdict(client, namespace, "good").await, Ok(()));
}

#[tokio::test]
async fn the_apiserver_asks_and_keeps_trusting_when_certificates_change() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let (client, namespace) = (cluster.client(), cluster.namespace("hook").await);
    let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
    let settings = settings(&namespace, long_ago);
    let certificates = Certificates::start(client.clone(), settings, cancel.clone(), &tasks).await;
    let certificates = certificates.expect("can be made");
    let ctx = Ctx::new(client.clone(), "test", None);
    let first = certificates.bundles().borrow().clone();

    // A second authority joins the first, which still signs.
    certificates
        .refresh(&ctx, now() - days(61))
        .await
        .expect("is renewed");
    let both = certificates.bundles().borrow().clone();
    assert!(
        both.starts_with(&first) && both.len() > first.len(),
        "{both}"
    );

    let serving = cancel.child_token();
    let (address, server) = serve(([127, 0, 0, 1], 0).into(), &certificates, serving.clone()).await;
    let configuration = configuration(&namespace, address);
    let kept = keep(
        ctx.clone(),
        configuration.clone(),
        certificates.bundles(),
        cancel.clone(),
    );
    let keeper = tokio::spawn(kept);
    decides(&client, &namespace).await;
    let written = ctx.writes();
    let bundle = certificates.bundles().borrow().clone();
    configuration
        .apply(&ctx, &bundle)
        .await
        .expect("is compared");
    assert_eq!(ctx.writes(), written, "nothing has changed");

    // From here on the second one signs; the apiserver must shake hands anew.
    certificates.refresh(&ctx, now()).await.expect("is renewed");
    serving.cancel();
    server.await.expect("ends");
    let (_, server) = serve(address, &certificates, cancel.clone()).await;
    decides(&client, &namespace).await;

    // A day later the first one goes, and the configuration follows.
    certificates
        .refresh(&ctx, now() + days(2))
        .await
        .expect("is renewed");
    let second = certificates.bundles().borrow().clone();
    assert_eq!(both, format!("{first}{second}"));
    await_condition("the configuration follows", PATIENCE, || async {
        let present: Option<ValidatingWebhookConfiguration> = ctx
            .get_opt(None, &configuration.name)
            .await
            .expect("is read");
        let hooks = present
            .and_then(|present| present.webhooks)
            .unwrap_or_default();
        hooks.iter().all(|hook| {
            hook.client_config
                .ca_bundle
                .as_ref()
                .is_some_and(|bundle| bundle.0 == second.as_bytes())
        })
    })
    .await;
    decides(&client, &namespace).await;
    cancel.cancel();
    server.await.expect("ends");
    keeper.await.expect("ends");
    tasks.close();
    tasks.wait().await;
    // A dead webhook that must be asked lets nothing through.
    let dead = verdict(&client, &namespace, "good")
        .await
        .expect_err("nobody answers");
    assert!(dead.starts_with("500"), "{dead}");
}

#[tokio::test]
async fn replicas_that_start_together_agree_on_one_authority() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let namespace = cluster.namespace("agree").await;
    let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
    let start = || {
        let settings = settings(&namespace, now);
        Certificates::start(cluster.client(), settings, cancel.clone(), &tasks)
    };
    let (a, b, c) = tokio::join!(start(), start(), start());
    let replicas = [a, b, c].map(|replica| replica.expect("has started"));
    let bundles = replicas
        .each_ref()
        .map(|replica| replica.bundles().borrow().clone());
    assert!(!bundles[0].is_empty());
    assert!(
        bundles.iter().all(|bundle| *bundle == bundles[0]),
        "{bundles:?}"
    );
    let secret = Api::<Secret>::namespaced(cluster.client(), &namespace)
        .get("webhook")
        .await;
    let data = secret.expect("is there").data.expect("has data");
    assert_eq!(data["ca.crt"].0, bundles[0].as_bytes());

    // Replicas that renew at the same time agree, too.
    let ctx = Ctx::new(cluster.client(), "test", None);
    let later = now() + days(61);
    let renewed = replicas
        .each_ref()
        .map(|replica| replica.refresh(&ctx, later));
    let [a, b, c] = renewed;
    let (a, b, c) = tokio::join!(a, b, c);
    for one in [a, b, c] {
        one.expect("is renewed");
    }
    assert!(ctx.writes() >= 1);
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
}
