//! Objects, kubeconfigs and a connection that can be cut, for the tests with an apiserver.

use gatewright_testkit::Cluster;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) fn ingress(namespace: &str, name: &str, hosts: &[&str]) -> Value {
    let rule = |host: &&str| {
        json!({ "host": host, "http": { "paths": [{ "path": "/", "pathType": "Prefix",
            "backend": { "service": { "name": "web", "port": { "number": 80 } } } }] } })
    };
    let rules: Vec<_> = hosts.iter().map(rule).collect();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "rules": rules },
    })
}

pub(crate) fn service(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "ports": [{ "port": 80 }], "selector": { "app": name } },
    })
}

/// `kubectl apply`.
pub(crate) async fn apply<K>(client: &Client, object: Value) -> K
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let text = object.to_string();
    let object: K = serde_json::from_value(object).expect("is an object");
    let api = Api::<K>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let parameters = PatchParams::apply("kubectl").force();
    let applied = api
        .patch(&object.name_any(), &parameters, &Patch::Apply(&object))
        .await;
    applied.unwrap_or_else(|error| panic!("{text} is not applied: {error}"))
}

/// `kubectl apply -f`, for kinds whose plural is regular.
pub(crate) async fn apply_manifests(client: &Client, text: &str) {
    let objects: Vec<DynamicObject> = serde_saphyr::from_multiple(text).expect("is YAML");
    for object in objects {
        let types = object.types.as_ref().expect("has apiVersion and kind");
        let kind = GroupVersionKind::try_from(types).expect("has a version");
        let resource = ApiResource::from_gvk(&kind);
        let api = match object.namespace() {
            Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
            None => Api::<DynamicObject>::all_with(client.clone(), &resource),
        };
        let name = object.name_any();
        let parameters = PatchParams::apply("kubectl").force();
        let applied = api.patch(&name, &parameters, &Patch::Apply(&object)).await;
        applied.unwrap_or_else(|error| panic!("{} {name} is not applied: {error}", kind.kind));
    }
}

/// The cluster's kubeconfig with some of it changed, in a folder that must be kept.
pub(crate) fn kubeconfig(cluster: &Cluster, change: impl FnOnce(&mut Value)) -> (TempDir, PathBuf) {
    let text = std::fs::read_to_string(cluster.kubeconfig()).expect("a kubeconfig");
    let mut config: Value = serde_json::from_str(&text).expect("is JSON");
    change(&mut config);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, config.to_string()).expect("is written");
    (folder, path)
}

/// The same, for whoever holds this token.
pub(crate) fn kubeconfig_with_token(cluster: &Cluster, token: &str) -> (TempDir, PathBuf) {
    kubeconfig(cluster, |config| {
        config["users"][0]["user"] = json!({ "token": token })
    })
}

/// A path to the apiserver that can be cut and mended.
pub(crate) struct ApiserverPath {
    open: watch::Sender<bool>,
    kubeconfig: (TempDir, PathBuf),
}

impl ApiserverPath {
    pub(crate) async fn new(cluster: &Cluster) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let target = cluster.url().replace("https://", "");
        let (open, state) = watch::channel(true);
        tokio::spawn(carry(listener, target, state));
        let server = format!("https://127.0.0.1:{port}");
        let kubeconfig = kubeconfig(cluster, |config| {
            config["clusters"][0]["cluster"]["server"] = server.into();
        });
        Self { open, kubeconfig }
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig.1
    }

    pub(crate) fn cut(&self) {
        self.open.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.open.send_replace(true);
    }
}

async fn carry(listener: TcpListener, target: String, open: watch::Receiver<bool>) {
    loop {
        let Ok((mut near, _)) = listener.accept().await else {
            return;
        };
        let (target, mut open) = (target.clone(), open.clone());
        tokio::spawn(async move {
            if !*open.borrow() {
                return;
            }
            let Ok(mut far) = TcpStream::connect(&target).await else {
                return;
            };
            tokio::select! {
                _ = copy_bidirectional(&mut near, &mut far) => {}
                _ = open.wait_for(|open| !open) => {}
            }
        });
    }
}
