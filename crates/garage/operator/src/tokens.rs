//! Admin tokens of storage elsewhere, as they worked last. A namespace that is deleted loses its Secrets at once, and
//! the roles and keys of its objects have to go all the same, also when the operator ends meanwhile: so they are kept
//! in a Secret beside the operator's Lease. May not decide when one is needed.

use crate::error::Result;
use gatewright_controller::{Created, Ctx};
use gatewright_garage::api::{self, GarageCluster};
use gatewright_garage::cluster::ClusterKey;
use gatewright_garage::secret::Redacted;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use std::collections::BTreeMap;
use tokio::sync::Mutex;

/// The Secret that holds them.
pub const KEPT_TOKENS: &str = "gatewright-storage-tokens";
/// How often a write is tried anew when somebody else writes at the same time.
const ATTEMPTS: u32 = 3;

/// The tokens by gateway cluster.
pub(crate) struct Tokens {
    /// The namespace of the Secret; `None` where they are remembered in memory only.
    namespace: Option<String>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    read: bool,
    tokens: BTreeMap<ClusterKey, Redacted<String>>,
    /// The apiserver does not let us read or write the Secret; said once.
    denied: bool,
}

impl Tokens {
    pub(crate) fn new(namespace: Option<String>) -> Self {
        Self {
            namespace,
            kept: Mutex::default(),
        }
    }

    /// The token of a cluster, as it worked last.
    pub(crate) async fn get(
        &self,
        ctx: &Ctx,
        cluster: &ClusterKey,
    ) -> Result<Option<Redacted<String>>> {
        let mut kept = self.kept.lock().await;
        self.read(ctx, &mut kept).await?;
        Ok(kept.tokens.get(cluster).cloned())
    }

    /// Keeps a token that works; one that is kept already is not written.
    pub(crate) async fn keep(
        &self,
        ctx: &Ctx,
        cluster: &ClusterKey,
        token: &Redacted<String>,
    ) -> Result<()> {
        let mut kept = self.kept.lock().await;
        self.read(ctx, &mut kept).await?;
        if kept.tokens.get(cluster) == Some(token) {
            return Ok(());
        }
        let bytes = ByteString(token.expose().as_bytes().to_vec());
        let change = Change::from([(entry(cluster), Some(bytes))]);
        self.write(ctx, &mut kept, &change).await?;
        kept.tokens.insert(cluster.clone(), token.clone());
        Ok(())
    }

    /// Forgets the token of a cluster that is gone.
    pub(crate) async fn forget(&self, ctx: &Ctx, cluster: &ClusterKey) -> Result<()> {
        let mut kept = self.kept.lock().await;
        self.read(ctx, &mut kept).await?;
        if kept.tokens.contains_key(cluster) {
            let change = Change::from([(entry(cluster), None)]);
            self.write(ctx, &mut kept, &change).await?;
            kept.tokens.remove(cluster);
        }
        Ok(())
    }

    /// Reads the Secret, once. Tokens of clusters that went without us are forgotten.
    async fn read(&self, ctx: &Ctx, kept: &mut Kept) -> Result<()> {
        let Some(namespace) = self.namespace.as_deref().filter(|_| !kept.read) else {
            return Ok(());
        };
        let found: Option<Secret> = match ctx.get_opt(Some(namespace), KEPT_TOKENS).await {
            Ok(found) => found,
            Err(error) if error.is_forbidden() => {
                deny(kept, namespace, &error);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let data = found.and_then(|secret| secret.data).unwrap_or_default();
        let mut gone = Change::new();
        for (entry, bytes) in data {
            match (cluster(&entry), String::from_utf8(bytes.0)) {
                (Some(key), Ok(token)) if exists(ctx, &key).await? => {
                    kept.tokens.insert(key, Redacted::new(token));
                }
                (_, _) => drop(gone.insert(entry, None)),
            }
        }
        if !gone.is_empty() {
            self.write(ctx, kept, &gone).await?;
        }
        kept.read = true;
        Ok(())
    }

    async fn write(&self, ctx: &Ctx, kept: &mut Kept, change: &Change) -> Result<()> {
        let Some(namespace) = self.namespace.as_deref().filter(|_| !kept.denied) else {
            return Ok(());
        };
        let mut attempt = 1;
        loop {
            match write(ctx, namespace, change).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_forbidden() => {
                    deny(kept, namespace, &error);
                    return Ok(());
                }
                Err(error)
                    if attempt < ATTEMPTS && (error.is_conflict() || error.is_already_exists()) =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Entries and what they are to be; `None`: not there.
type Change = BTreeMap<String, Option<ByteString>>;

async fn write(ctx: &Ctx, namespace: &str, change: &Change) -> gatewright_controller::Result<()> {
    let present: Option<Secret> = ctx.get_opt(Some(namespace), KEPT_TOKENS).await?;
    if let Some(present) = present {
        let patch = json!({ "data": change });
        return ctx.patch_merge(&present, &patch).await.map(drop);
    }
    let mut secret = Secret::default();
    secret.metadata.namespace = Some(namespace.to_owned());
    secret.metadata.name = Some(KEPT_TOKENS.to_owned());
    let label = (api::LABEL_MANAGED_BY.to_owned(), api::MANAGER.to_owned());
    secret.metadata.labels = Some(BTreeMap::from([label]));
    let new = change.iter();
    let new = new.filter_map(|(entry, bytes)| Some((entry.clone(), bytes.clone()?)));
    secret.data = Some(new.collect());
    match ctx.create(&secret).await? {
        Created::New(_) => Ok(()),
        // Somebody was faster.
        Created::Exists => Box::pin(write(ctx, namespace, change)).await,
    }
}

/// Without the right to the Secret, they are remembered as long as this process lives.
fn deny(kept: &mut Kept, namespace: &str, error: &gatewright_controller::Error) {
    kept.denied = true;
    kept.read = true;
    let error = error as &dyn std::error::Error;
    tracing::warn!(
        namespace,
        secret = KEPT_TOKENS,
        error,
        "admin tokens of storage elsewhere are kept in memory only: the roles of a namespace that is deleted while the \
         operator starts anew stay in that storage's layout"
    );
}

async fn exists(ctx: &Ctx, key: &ClusterKey) -> Result<bool> {
    let found: Option<GarageCluster> = ctx.get_opt(Some(&key.namespace), &key.name).await?;
    Ok(found.is_some())
}

/// The entry of a cluster. Neither name has an underscore.
fn entry(cluster: &ClusterKey) -> String {
    format!("{}_{}", cluster.namespace, cluster.name)
}

fn cluster(entry: &str) -> Option<ClusterKey> {
    let (namespace, name) = entry.split_once('_')?;
    Some(ClusterKey {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_names_its_cluster() {
        let key = ClusterKey {
            namespace: "team-a".to_owned(),
            name: "garage.gateway".to_owned(),
        };
        assert_eq!(cluster(&entry(&key)), Some(key));
        assert_eq!(cluster("none"), None);
    }
}
