//! The cluster that a bucket, key, token or node lives in: found, allowed, asked. May not decide what follows.

use crate::error::{Error, Result};
use crate::operator::{Layout, Operator};
use crate::storage::{Asked, layout_of};
use gatewright_controller::Watched;
use gatewright_garage::api::{GarageCluster, GarageClusterStatus};
use gatewright_garage::cluster::ClusterKey;
use gatewright_garage::objects::SecretKeyRef;
use gatewright_garage::secret::Redacted;
use gatewright_garage::tenant;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Resource, ResourceExt as _};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The cluster of an object.
pub(crate) struct Home {
    /// Whether it can be asked.
    pub(crate) seen: tenant::Home,
    /// The GarageCluster that is named.
    pub(crate) referenced: Option<GarageCluster>,
    /// The GarageCluster that stores; `None` for storage elsewhere.
    pub(crate) storage: Option<GarageCluster>,
    /// Whose layout, and so whose buckets and keys.
    pub(crate) layout: Option<Layout>,
    /// Its Admin API.
    pub(crate) asked: Option<Asked>,
}

impl Home {
    fn without(seen: tenant::Home, referenced: Option<GarageCluster>) -> Self {
        Self {
            seen,
            referenced,
            storage: None,
            layout: None,
            asked: None,
        }
    }

    /// The Admin API; plans that need it are made only when it has answered.
    pub(crate) fn client(&self, action: &str) -> Result<&crate::admin::Client> {
        let action = || action.to_owned();
        let asked = self.asked.as_ref().map(|asked| &asked.client);
        asked.ok_or_else(|| Error::Gone { action: action() })
    }
}

impl Operator {
    /// Finds the cluster `key` for an object of `kind` in `namespace`, and asks it. An object that ends
    /// (`absent`) needs no grant to be cleaned up.
    pub(crate) async fn home(
        &self,
        kind: &str,
        namespace: &str,
        key: &ClusterKey,
        absent: bool,
    ) -> Result<Home> {
        Box::pin(self.find_home(kind, namespace, key, absent)).await
    }

    async fn find_home(
        &self,
        kind: &str,
        namespace: &str,
        key: &ClusterKey,
        absent: bool,
    ) -> Result<Home> {
        if !self.looks_into(&key.namespace) {
            return Ok(Home::without(tenant::Home::OutOfReach, None));
        }
        let found: Option<GarageCluster> =
            self.ctx.get_opt(Some(&key.namespace), &key.name).await?;
        let Some(cluster) = found else {
            return Ok(Home::without(tenant::Home::Missing, None));
        };
        let elsewhere = key.namespace != namespace;
        if elsewhere && !absent && !self.granted(kind, namespace, key).await? {
            return Ok(Home::without(tenant::Home::NotGranted, Some(cluster)));
        }
        let mut ending = cluster.metadata.deletion_timestamp.is_some();
        let connect = cluster
            .spec
            .connect_to
            .clone()
            .filter(|_| cluster.spec.gateway);
        let (storage, asked) = match connect.map(|connect| connect.cluster_ref.map(|to| (to, ()))) {
            None => (Some(cluster.clone()), self.ask_cluster(&cluster).await?),
            Some(Some((reference, ())))
                if !self.looks_into(&tenant::target(&reference, &key.namespace).namespace) =>
            {
                let to = tenant::target(&reference, &key.namespace);
                (None, Err(tenant::out_of_reach(&to)))
            }
            Some(Some((reference, ()))) => {
                let to = tenant::target(&reference, &key.namespace);
                let storage: Option<GarageCluster> =
                    self.ctx.get_opt(Some(&to.namespace), &to.name).await?;
                let gone = storage
                    .as_ref()
                    .is_none_or(|one| one.metadata.deletion_timestamp.is_some());
                ending |= gone;
                match storage {
                    Some(storage) if !storage.spec.gateway => {
                        let asked = self.ask_cluster(&storage).await?;
                        (Some(storage), asked)
                    }
                    Some(_) => (
                        None,
                        Err(format!("its storage cluster {to} is a gateway cluster")),
                    ),
                    None => (
                        None,
                        Err(format!("its storage cluster {to} does not exist")),
                    ),
                }
            }
            Some(None) => {
                let asked = self.ask_elsewhere(&cluster).await?;
                (None, asked.map(|(asked, _)| asked))
            }
        };
        let layout = Some(lives_in(&cluster));
        let (seen, asked) = match asked {
            Ok(asked) => (tenant::Home::Reached, Some(asked)),
            Err(why) => (tenant::Home::Unreachable { why, ending }, None),
        };
        Ok(Home {
            seen,
            referenced: Some(cluster),
            storage,
            layout,
            asked,
        })
    }

    /// The Admin API of storage that no object here stands for, and the token that it took.
    pub(crate) async fn ask_elsewhere(
        &self,
        cluster: &GarageCluster,
    ) -> Result<Result<(Asked, Redacted<String>), String>> {
        let namespace = cluster.namespace().unwrap_or_default();
        let connect = cluster.spec.connect_to.as_ref();
        let base = connect.and_then(|connect| connect.admin_api_endpoint.as_deref());
        let entry = connect.and_then(|connect| connect.admin_token_secret_ref.as_ref());
        let (Some(base), Some(entry)) = (base, SecretKeyRef::given(entry)) else {
            let why = "spec.connectTo needs adminApiEndpoint and adminTokenSecretRef";
            return Ok(Err(why.to_owned()));
        };
        let mut token = self.secret(&namespace, &entry).await?;
        if token.is_none() && cluster.metadata.deletion_timestamp.is_some() {
            token = self.tokens.get(&self.ctx, &place(cluster)).await?;
        }
        let Some(token) = token else {
            return Ok(Err(format!(
                "Secret {namespace}/{} has no entry {}",
                entry.name, entry.key
            )));
        };
        Ok(match self.ask(base.trim_end_matches('/'), &token).await {
            Ok(asked) => Ok((asked, token)),
            Err(error) => Err(Error::from(error).chain()),
        })
    }

    /// Whether objects of a namespace are to be looked at. Elsewhere the operator may have no rights, and
    /// where it has some it does not use them.
    pub(crate) fn looks_into(&self, namespace: &str) -> bool {
        self.options.namespaces.contains(namespace)
    }

    /// Whether a namespace is being deleted, or is gone.
    pub(crate) async fn ends(&self, namespace: &str) -> Result<bool> {
        let namespace: Option<Namespace> = self.ctx.get_opt(None, namespace).await?;
        Ok(namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
    }

    /// Whether a ReferenceGrant lets objects of `kind` in the namespace `from` use the GarageCluster `to`.
    pub(crate) async fn granted(&self, kind: &str, from: &str, to: &ClusterKey) -> Result<bool> {
        let target = "GarageCluster";
        self.grants.granted(&self.ctx, kind, from, target, to).await
    }

    /// Whether a ReferenceGrant lets GarageKeys in the namespace `from` use the GarageBucket `to`.
    pub(crate) async fn bucket_granted(&self, from: &str, to: &ClusterKey) -> Result<bool> {
        let (kind, target) = ("GarageKey", "GarageBucket");
        self.grants.granted(&self.ctx, kind, from, target, to).await
    }
}

/// Whose buckets and keys those of a cluster are.
pub(crate) fn lives_in(cluster: &GarageCluster) -> Layout {
    let own = ClusterKey {
        namespace: cluster.namespace().unwrap_or_default(),
        name: cluster.name_any(),
    };
    let Some(connect) = cluster
        .spec
        .connect_to
        .as_ref()
        .filter(|_| cluster.spec.gateway)
    else {
        return layout_of(&own);
    };
    match &connect.cluster_ref {
        Some(reference) => layout_of(&tenant::target(reference, &own.namespace)),
        None => {
            let admin = connect.admin_api_endpoint.clone().unwrap_or_default();
            Layout::External(admin)
        }
    }
}

/// What `kubectl apply` remembers: the whole object once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Leaves of a cluster what [`crate::watches::Watches`] are asked for: the phase says whether it is worth a
/// look, and the rest of its status is most of the object.
pub(crate) fn slim(cluster: &mut GarageCluster) {
    if let Some(annotations) = &mut cluster.metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
    cluster.status = cluster.status.take().map(|status| GarageClusterStatus {
        phase: status.phase,
        ..GarageClusterStatus::default()
    });
}

/// Whose buckets and keys those of the cluster `key` are.
pub(crate) fn layout_at(clusters: &Watched<GarageCluster>, key: &ClusterKey) -> Layout {
    let cluster = clusters.get(&key.namespace, &key.name);
    cluster.map_or_else(|| layout_of(key), |cluster| lives_in(&cluster))
}

/// Whether objects that name the cluster `key` are concerned by a change of `changed`.
pub(crate) fn concerns(
    clusters: &Watched<GarageCluster>,
    changed: &GarageCluster,
    key: &ClusterKey,
) -> bool {
    let own = place(changed);
    *key == own || layout_at(clusters, key) == layout_of(&own)
}

/// Where an object is.
pub(crate) fn place<K: Resource<DynamicType = ()>>(object: &K) -> ClusterKey {
    ClusterKey {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

/// Tells changes of clusters that concern everything in them from those that do not: a cluster that forms
/// writes its status often.
#[derive(Default)]
pub(crate) struct Marks(Mutex<BTreeMap<ClusterKey, Mark>>);

/// Generation, whether it is being deleted, and phase.
type Mark = (Option<i64>, bool, Option<String>);

impl Marks {
    pub(crate) fn is_new(&self, cluster: &GarageCluster) -> bool {
        let mark = (
            cluster.metadata.generation,
            cluster.metadata.deletion_timestamp.is_some(),
            cluster
                .status
                .as_ref()
                .and_then(|status| status.phase.clone()),
        );
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks.insert(place(cluster), mark.clone()) != Some(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slim_cluster_keeps_its_wishes_and_its_phase() {
        let whole = serde_json::json!({
            "metadata": { "name": "a", "annotations": { LAST_APPLIED: "{}", "mine": "1" } },
            "spec": { "replicas": 3 },
            "status": { "phase": "Running", "readyReplicas": 3, "totalNodes": 3 },
        });
        let mut cluster: GarageCluster = serde_json::from_value(whole).expect("a cluster");
        let wished = cluster.spec.clone();
        slim(&mut cluster);
        assert_eq!(cluster.spec, wished);
        let annotations = cluster.metadata.annotations.unwrap_or_default();
        assert_eq!(annotations.into_keys().collect::<Vec<_>>(), ["mine"]);
        let status = cluster.status.expect("a status");
        assert_eq!(status.phase.as_deref(), Some("Running"));
        assert_eq!((status.ready_replicas, status.total_nodes), (None, None));
    }
}
