//! The Secrets of a cluster: RPC secret, admin token, node keys. Their contents come from the caller.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, SecretKeySelector};
use sha2::{Digest as _, Sha256};

use super::names;
use super::workload::{Owner, Tier};
use crate::api::{GarageClusterSpec, RetentionPolicy};
use crate::identity::SlotKeys;
use crate::secret::Redacted;

/// An entry of a Secret in the workload's own namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    pub name: String,
    /// Name of the entry.
    pub key: String,
}

impl SecretKeyRef {
    /// The entry that a user names, unless its name is empty.
    pub fn given(selector: Option<&SecretKeySelector>) -> Option<SecretKeyRef> {
        let selector = selector.filter(|selector| !selector.name.is_empty())?;
        Some(SecretKeyRef {
            name: selector.name.clone(),
            key: selector.key.clone(),
        })
    }

    /// Where the RPC secret of a cluster is: the user's Secret, else ours (generated for a storage cluster, a copy
    /// of the storage cluster's for gateways with `clusterRef`).
    pub fn rpc_secret(cluster: &str, spec: &GarageClusterSpec) -> SecretKeyRef {
        let network = spec
            .network
            .as_ref()
            .and_then(|network| network.rpc_secret_ref.as_ref());
        let target = spec
            .connect_to
            .as_ref()
            .filter(|target| target.cluster_ref.is_none());
        let target = target.and_then(|target| target.rpc_secret_ref.as_ref());
        SecretKeyRef::given(target)
            .or_else(|| SecretKeyRef::given(network))
            .unwrap_or_else(|| SecretKeyRef {
                name: names::rpc_secret(cluster),
                key: names::RPC_SECRET_KEY.to_owned(),
            })
    }

    /// Where the admin token of a cluster's own nodes is: the user's Secret, else ours.
    pub fn admin_token(cluster: &str, spec: &GarageClusterSpec) -> SecretKeyRef {
        let given = spec
            .admin
            .as_ref()
            .and_then(|admin| admin.admin_token_secret_ref.as_ref());
        SecretKeyRef::given(given).unwrap_or_else(|| SecretKeyRef {
            name: names::admin_token(cluster),
            key: names::ADMIN_TOKEN_KEY.to_owned(),
        })
    }

    pub(super) fn selector(&self) -> SecretKeySelector {
        SecretKeySelector {
            key: self.key.clone(),
            name: self.name.clone(),
            optional: None,
        }
    }
}

/// Whether Garage takes it: 32 bytes as hexadecimal digits.
pub fn is_rpc_secret(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether Garage would recognise it: a static token with a dot is looked up as a dynamic one and never found, and
/// a token has to fit a header.
pub fn is_admin_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'.')
}

/// 64 hex digits that change with any of the contents; what is absent differs from what is empty.
pub fn hash(contents: &[Option<&[u8]>]) -> String {
    let mut hash = Sha256::new();
    for content in contents {
        match content {
            None => hash.update([0]),
            Some(content) => {
                hash.update([1]);
                hash.update((content.len() as u64).to_be_bytes());
                hash.update(content);
            }
        }
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The Secret with an RPC secret: our own for storage, a copy for gateways of a storage cluster that has its own in
/// another Secret or namespace.
pub fn rpc_secret(owner: &Owner, secret: &Redacted<String>) -> Secret {
    text(
        owner,
        names::rpc_secret(&owner.cluster),
        names::RPC_SECRET_KEY,
        secret,
    )
}

/// The Secret with a generated admin token.
pub fn admin_token(owner: &Owner, token: &Redacted<String>) -> Secret {
    text(
        owner,
        names::admin_token(&owner.cluster),
        names::ADMIN_TOKEN_KEY,
        token,
    )
}

/// The Secret with the node keys. `name` is [`names::node_keys`] of the cluster or of a GarageNode's workload.
pub fn node_keys(owner: &Owner, name: String, keys: &SlotKeys) -> Secret {
    opaque(owner, name, keys.data())
}

/// What outlives its cluster together with the volumes: without the RPC secret and the node keys, kept
/// data belongs to nodes that nobody can be any more.
#[must_use]
pub fn kept_with_volumes(mut secret: Secret, spec: &GarageClusterSpec) -> Secret {
    if volumes_outlive(spec) {
        secret.metadata.owner_references = None;
    }
    secret
}

/// Whether the volumes of a cluster are still there when it is gone.
#[must_use]
pub fn volumes_outlive(spec: &GarageClusterSpec) -> bool {
    let retention = spec
        .storage
        .as_ref()
        .and_then(|storage| storage.pvc_retention_policy);
    let when_deleted = retention.unwrap_or_default().when_deleted;
    !spec.gateway && when_deleted == RetentionPolicy::Retain
}

fn text(owner: &Owner, name: String, key: &str, content: &Redacted<String>) -> Secret {
    let content = ByteString(content.expose().as_bytes().to_vec());
    opaque(owner, name, BTreeMap::from([(key.to_owned(), content)]))
}

fn opaque(owner: &Owner, name: String, data: BTreeMap<String, ByteString>) -> Secret {
    Secret {
        metadata: owner.meta(name),
        data: super::filled(data),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// What the RPC secret of this tier is to its Secret: whether ours is a copy.
pub fn is_mirrored(tier: Tier, spec: &GarageClusterSpec) -> bool {
    let by_reference = spec
        .connect_to
        .as_ref()
        .is_some_and(|target| target.cluster_ref.is_some());
    tier == Tier::Gateway && by_reference
}
