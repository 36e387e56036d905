//! `Cluster`: it serves, keeps identities apart, restarts, forgets, and never outlives its test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use gatewright_testkit::scratch::Scratch;
use gatewright_testkit::{Cluster, await_condition};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, ListParams, PostParams, WatchEvent, WatchParams};

use futures_util::StreamExt as _;

fn config_map(name: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    map
}

/// The code of the API's refusal, or 200.
fn code<T>(outcome: Result<T, kube::Error>) -> u16 {
    match outcome {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(e) => panic!("no answer from the API: {e}"),
    }
}

#[tokio::test]
async fn objects_are_kept_and_namespaces_are_fresh() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let one = cluster.namespace("kept").await;
    let two = cluster.namespace("kept").await;
    assert_ne!(one, two);
    let api: Api<ConfigMap> = Api::namespaced(cluster.client(), &one);
    api.create(&PostParams::default(), &config_map("a"))
        .await
        .unwrap();
    assert_eq!(
        api.list(&ListParams::default()).await.unwrap().items.len(),
        1
    );
    let other: Api<ConfigMap> = Api::namespaced(cluster.client(), &two);
    assert_eq!(
        other
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        0
    );
}

#[tokio::test]
async fn rbac_separates_users_and_service_accounts() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let namespace = cluster.namespace("rbac").await;
    let secrets = |client| Api::<Secret>::namespaced(client, &namespace);
    let all = ListParams::default();

    let nobody = cluster.client_as("nobody", &["system:authenticated"]);
    assert_eq!(code(secrets(nobody).list(&all).await), 403);
    let master = cluster.client_as("somebody", &["system:masters"]);
    assert_eq!(code(secrets(master).list(&all).await), 200);

    let account = cluster.service_account_client(&namespace, "reader").await;
    assert_eq!(code(secrets(account.clone()).list(&all).await), 403);
    let binding: RoleBinding = serde_json::from_value(serde_json::json!({
        "metadata": { "name": "reader" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "kind": "ServiceAccount", "name": "reader", "namespace": namespace }],
    }))
    .unwrap();
    Api::namespaced(cluster.client(), &namespace)
        .create(&PostParams::default(), &binding)
        .await
        .unwrap();
    // The authoriser reads bindings from its own watch.
    await_condition(
        "the binding takes effect",
        Duration::from_secs(10),
        || async { code(secrets(account.clone()).list(&all).await) == 200 },
    )
    .await;
}

#[tokio::test]
async fn a_kubeconfig_names_the_same_cluster() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let kubeconfig = kube::config::Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let version = client.apiserver_version().await.unwrap();
    assert_eq!(
        (version.major.as_str(), version.minor.as_str()),
        ("1", "36")
    );
}

#[tokio::test]
async fn a_restart_keeps_the_data_and_expired_watches_answer_410() {
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    let namespace = cluster.namespace("restart").await;
    let api: Api<ConfigMap> = Api::namespaced(cluster.client(), &namespace);
    let first = api
        .create(&PostParams::default(), &config_map("a"))
        .await
        .unwrap();
    let old = first.metadata.resource_version.unwrap();
    for name in ["b", "c"] {
        api.create(&PostParams::default(), &config_map(name))
            .await
            .unwrap();
    }

    cluster.stop_apiserver().await;
    assert!(api.get("a").await.is_err());
    cluster.start_apiserver().await;
    assert_eq!(
        api.list(&ListParams::default()).await.unwrap().items.len(),
        3
    );

    cluster.expire_watches().await;
    let mut events = api
        .watch(&WatchParams::default(), &old)
        .await
        .unwrap()
        .boxed();
    let refused = match events.next().await {
        Some(Ok(WatchEvent::Error(status))) => status.code,
        Some(Err(kube::Error::Api(status))) => status.code,
        other => panic!("expected 410 Gone, got {other:?}"),
    };
    assert_eq!(refused, 410);
}

#[tokio::test]
async fn a_compacted_store_refuses_lists_of_the_past() {
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    let namespace = cluster.namespace("past").await;
    let api: Api<ConfigMap> = Api::namespaced(cluster.client(), &namespace);
    let first = api
        .create(&PostParams::default(), &config_map("a"))
        .await
        .unwrap();
    api.create(&PostParams::default(), &config_map("b"))
        .await
        .unwrap();
    let past = ListParams::default()
        .at(&first.metadata.resource_version.unwrap())
        .matching(kube::api::VersionMatch::Exact)
        .limit(500);
    assert_eq!(code(api.list(&past).await), 200);
    cluster.compact_etcd().await;
    cluster.restart_apiserver().await;
    assert_eq!(code(api.list(&past).await), 410);
}

const HELPER: &str = "TESTKIT_CLUSTER_HELPER";

/// Plays both parts: run by the harness it starts itself a second time, as the process to be killed.
#[tokio::test]
async fn a_killed_test_leaves_no_process_and_no_file() {
    if let Some(report) = std::env::var_os(HELPER) {
        let Some(cluster) = Cluster::start().await else {
            return;
        };
        let part = Path::new(&report).with_extension("part");
        std::fs::write(&part, cluster.kubeconfig().to_str().unwrap()).unwrap();
        std::fs::rename(&part, &report).unwrap();
        return std::future::pending().await;
    }
    gatewright_testkit::skip!("etcd", "kube-apiserver");
    let scratch = Scratch::new("helper");
    let report = scratch.path().join("kubeconfig");
    let mut helper = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "cluster::a_killed_test_leaves_no_process_and_no_file",
        ])
        .env(HELPER, &report)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    await_condition(
        "the helper's cluster is up",
        Duration::from_secs(60),
        || async { report.exists() },
    )
    .await;
    let kubeconfig = PathBuf::from(std::fs::read_to_string(&report).unwrap());
    let folder = kubeconfig.parent().unwrap();
    // etcd, kube-apiserver and the shells beside them.
    assert!(processes_in(folder) >= 2, "{}", processes_in(folder));

    helper.kill().unwrap();
    helper.wait().unwrap();
    await_condition(
        "its processes are gone",
        Duration::from_secs(10),
        || async { processes_in(folder) == 0 },
    )
    .await;
    await_condition("its folder is gone", Duration::from_secs(10), || async {
        !folder.exists()
    })
    .await;
}

/// How many processes have their working directory in `folder`.
fn processes_in(folder: &Path) -> usize {
    std::fs::read_dir("/proc")
        .expect("/proc is readable")
        .filter_map(Result::ok)
        .filter_map(|entry| std::fs::read_link(entry.path().join("cwd")).ok())
        .filter(|cwd| cwd.starts_with(folder))
        .count()
}
