//! A controller in two namespaces: errors and panics stay with their object.

use crate::{PATIENCE, object};
use gatewright_controller::runner::{self, Settings};
use gatewright_controller::{Ctx, Metrics, Namespaces, Next};
use gatewright_testkit::{Cluster, await_condition};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt;
use kube::api::PropagationPolicy;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[derive(Debug, thiserror::Error)]
#[error("cannot do it")]
struct Broken;

/// How often each object was reconciled.
type Seen = Arc<Mutex<BTreeMap<String, u32>>>;

fn times(seen: &Seen, key: &str) -> u32 {
    seen.lock()
        .expect("is whole")
        .get(key)
        .copied()
        .unwrap_or_default()
}

#[tokio::test]
async fn a_panic_or_an_error_does_not_stop_the_others() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let (a, b) = (
        cluster.namespace("run").await,
        cluster.namespace("run").await,
    );
    let elsewhere = cluster.namespace("run").await;
    let ctx = Ctx::new(cluster.client(), "test", None);
    let map = |namespace: &str, name: &str| -> ConfigMap {
        object(json!({ "metadata": { "name": name, "namespace": namespace } }))
    };
    for (namespace, name) in [
        (&a, "panics"),
        (&a, "fails"),
        (&a, "works"),
        (&b, "works"),
        (&elsewhere, "works"),
    ] {
        ctx.apply(&map(namespace, name)).await.expect("is there");
    }

    let namespaces = Namespaces::new([a.clone(), b.clone()]);
    let config = watcher::Config::default;
    let (secrets, secrets_fed) = namespaces.changes::<Secret>(&ctx, config());
    let (maps, maps_fed) = namespaces.watch::<ConfigMap>(&ctx, config(), |_| {});
    let controller =
        maps.controller()
            .watches_shared_stream(secrets.subscribe(), |secret: Arc<Secret>| {
                let namespace = secret.namespace().unwrap_or_default();
                [ObjectRef::new(&secret.name_any()).within(&namespace)]
            });
    let seen = Seen::default();
    let reconcile = {
        let seen = seen.clone();
        move |map: Arc<ConfigMap>| {
            let seen = seen.clone();
            async move {
                let key = format!("{}/{}", map.namespace().unwrap_or_default(), map.name_any());
                *seen.lock().expect("is whole").entry(key).or_default() += 1;
                match map.name_any().as_str() {
                    "panics" => panic!("as asked"),
                    "fails" => Err(Broken),
                    _ => Ok(Next::Settled),
                }
            }
        }
    };
    let settings = Settings {
        first_retry: Duration::from_millis(50),
        ..Settings::new("test")
    };
    let (metrics, cancel) = (Metrics::new(), CancellationToken::new());
    let fed = tokio::spawn(async { tokio::join!(secrets_fed, maps_fed) });
    let task = tokio::spawn(runner::run(
        controller,
        settings,
        metrics.clone(),
        cancel.clone(),
        |_| "broken",
        reconcile,
    ));

    let key = |namespace: &str, name: &str| format!("{namespace}/{name}");
    await_condition("all are reconciled, some again", PATIENCE, || async {
        times(&seen, &key(&a, "panics")) >= 3
            && times(&seen, &key(&a, "fails")) >= 3
            && times(&seen, &key(&a, "works")) == 1
            && times(&seen, &key(&b, "works")) == 1
    })
    .await;
    // A new object, a changed one, and one whose Secret has come.
    ctx.apply(&map(&b, "later")).await.expect("is there");
    let mut changed = map(&a, "works");
    changed.data = Some([("a".to_owned(), "1".to_owned())].into());
    ctx.apply(&changed).await.expect("is changed");
    let secret: Secret = object(json!({ "metadata": { "name": "works", "namespace": b } }));
    ctx.apply(&secret).await.expect("is there");
    await_condition("changes are seen", PATIENCE, || async {
        times(&seen, &key(&b, "later")) == 1
            && times(&seen, &key(&a, "works")) >= 2
            && times(&seen, &key(&b, "works")) >= 2
    })
    .await;
    assert_eq!(times(&seen, &key(&elsewhere, "works")), 0);
    let text = metrics.encode();
    for part in [
        r#"gatewright_reconcile_errors_total{controller="test",category="panic"}"#,
        r#"gatewright_reconcile_errors_total{controller="test",category="broken"}"#,
        r#"gatewright_reconcile_queue{controller="test",state="failing"} 2"#,
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    for name in ["panics", "fails"] {
        let failing: Option<ConfigMap> = ctx.get_opt(Some(&a), name).await.expect("is read");
        let failing = failing.expect("is there");
        ctx.delete(&failing, PropagationPolicy::Background)
            .await
            .expect("is deleted");
    }
    let forgotten = r#"gatewright_reconcile_queue{controller="test",state="failing"} 0"#;
    await_condition("what is gone is forgotten", PATIENCE, || async {
        metrics.encode().contains(forgotten)
    })
    .await;
    cancel.cancel();
    task.await.expect("ends");
    fed.abort();
}

#[tokio::test]
async fn a_watch_that_fails_is_counted_under_its_kind_and_tried_again() {
    // Nobody listens on the port of a listener that is gone.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let server = format!("http://{address}").parse().expect("an address");
    let client = kube::Client::try_from(kube::Config::new(server)).expect("a client");
    let ctx = Ctx::new(client, "test", None);
    let (maps, fed) = Namespaces::All.watch::<ConfigMap>(&ctx, watcher::Config::default(), |_| {});
    let fed = tokio::spawn(fed);
    await_condition("it is tried twice", PATIENCE, || async {
        let text = ctx.metrics().encode();
        let counted = text.lines().find_map(|line| {
            line.strip_prefix(
                r#"gatewright_reconcile_errors_total{controller="configmap",category="watch"} "#,
            )
        });
        counted.is_some_and(|count| count.parse::<u32>().expect("a count") >= 2)
    })
    .await;
    assert!(maps.all().is_empty());
    fed.abort();
}
