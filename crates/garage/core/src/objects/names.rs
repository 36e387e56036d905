//! The names of objects that belong to a cluster, and of the keys in them. Constants and formats only.

/// Key of the Secret [`rpc_secret`].
pub const RPC_SECRET_KEY: &str = "rpc-secret";
/// Key of the Secret [`admin_token`].
pub const ADMIN_TOKEN_KEY: &str = "admin-token";
/// Key of the ConfigMap [`config`], and the file's name in the pod.
pub const CONFIG_KEY: &str = "garage.toml";
/// Folder of the configuration in the pod.
pub const CONFIG_DIR: &str = "/etc/garage";
/// Label of the pod of a GarageNode: the node's name.
pub const LABEL_NODE: &str = "garage.rajsingh.info/node";
/// Label that a StatefulSet gives its pods: the ordinal.
pub const LABEL_POD_INDEX: &str = "apps.kubernetes.io/pod-index";
/// Annotation of a pod template: hash of the Secrets that the process reads once at its start.
pub const ANNOTATION_SECRETS_HASH: &str = "garage.rajsingh.info/secrets-hash";

/// Annotation of a pod template: hash of the RPC secret alone. Nodes with different ones cannot talk.
pub const ANNOTATION_RPC_SECRET_HASH: &str = "garage.rajsingh.info/rpc-secret-hash";

/// Secret with the RPC secret of a cluster, generated or mirrored.
pub fn rpc_secret(cluster: &str) -> String {
    format!("{cluster}-rpc-secret")
}

/// Secret with the admin token of a cluster.
pub fn admin_token(cluster: &str) -> String {
    format!("{cluster}-admin-token")
}

/// Secret with the node keys of a cluster, or of a GarageNode (by its workload's name).
pub fn node_keys(owner: &str) -> String {
    format!("{owner}-node-keys")
}

/// ConfigMap of a cluster.
pub fn config(cluster: &str) -> String {
    format!("{cluster}-config")
}

/// Key of the file of one slot, where the pods of a cluster do not share one.
pub fn slot_config_key(slot: u32) -> String {
    format!("slot-{slot}.toml")
}

/// Service of the Admin API.
pub fn admin_service(cluster: &str) -> String {
    format!("{cluster}-admin")
}

/// Service that gives storage pods their DNS names.
pub fn headless_service(cluster: &str) -> String {
    format!("{cluster}-headless")
}

/// Service of the RPC port of one storage node, for nodes outside this Kubernetes cluster.
pub fn public_service(cluster: &str, slot: u32) -> String {
    format!("{cluster}-rpc-{slot}")
}

/// The slot of such a Service, by its name.
pub fn public_slot(cluster: &str, service: &str) -> Option<u32> {
    let slot = service.strip_prefix(cluster)?.strip_prefix("-rpc-")?;
    slot.parse().ok()
}

/// StatefulSet of a GarageNode. Not the node's name alone: a cluster of that name may have a StatefulSet too.
pub fn node_workload(node: &str) -> String {
    format!("{node}-node")
}

/// Pod of a storage cluster.
pub fn storage_pod(cluster: &str, slot: u32) -> String {
    format!("{cluster}-{slot}")
}

/// DNS name of a pod of a storage cluster.
pub fn storage_host(cluster: &str, namespace: &str, slot: u32) -> String {
    format!(
        "{}.{}.{namespace}.svc",
        storage_pod(cluster, slot),
        headless_service(cluster)
    )
}
