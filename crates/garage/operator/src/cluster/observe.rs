//! Reads everything that is decided on about one GarageCluster. May not write, and has no opinion.

use super::Hands;
use super::belongings::Revision;
use crate::error::Result;
use crate::operator::{Layout, Operator};
use crate::storage::{self, Asked, layout_of};
use futures_util::future::join_all;
use gatewright_controller::Watched;
use gatewright_garage::api::{self, GarageCluster};
use gatewright_garage::cluster::{
    ClusterKey, Desired, External, Facts, Garage, Mode, Observed, Pod, Storage, Target, TargetSeen,
    facts, former, told,
};
use gatewright_garage::config::Inherited;
use gatewright_garage::identity::{NodeId, SlotKeys};
use gatewright_garage::objects::{SecretKeyRef, names, secrets};
use gatewright_garage::secret::Redacted;
use gatewright_garage::tenant;
use k8s_openapi::api::core::v1::{self, Namespace, Secret};
use kube::ResourceExt as _;
use std::sync::Arc;
use std::time::Duration;

/// How long a gateway may take to tell how full its tables are.
const STATISTICS: Duration = Duration::from_secs(4);

/// What a gateway cluster is attached to.
pub(super) struct Found {
    seen: TargetSeen,
    cluster: Option<GarageCluster>,
}

impl Operator {
    /// Whose layout the cluster's roles are in.
    pub(super) fn layout_owner(desired: &Desired) -> Layout {
        match &desired.mode {
            Mode::Storage => layout_of(&desired.key),
            Mode::Gateway(Target::Cluster(key)) => layout_of(key),
            Mode::Gateway(Target::External(External { admin, .. })) => {
                Layout::External(admin.clone())
            }
        }
    }

    pub(super) async fn observe(
        &self,
        cluster: &GarageCluster,
        desired: &Desired,
        clusters: &Watched<GarageCluster>,
        known: &mut crate::operator::Known,
    ) -> Result<(Observed, Hands)> {
        let ClusterKey { namespace, name } = &desired.key;
        let spec = &cluster.spec;
        let mut seen = Observed {
            finalizer: cluster
                .finalizers()
                .iter()
                .any(|one| one == api::FINALIZER_CLUSTER),
            namespace_ends: desired.absent && self.namespace_ends(namespace).await?,
            former: former(cluster),
            told: told(cluster),
            ..Observed::default()
        };
        let mut hands = Hands::default();

        let keys: Option<Secret> = self
            .ctx
            .get_opt(Some(namespace), &names::node_keys(name))
            .await?;
        if let Some(data) = keys.as_ref().and_then(|secret| secret.data.as_ref()) {
            let read = SlotKeys::read(data);
            seen.keys = read.ids();
            let bad = read
                .malformed
                .iter()
                .map(|(entry, why)| format!("{entry}: {why}"));
            seen.bad_keys = bad.collect();
        }
        hands.keys = keys;
        let own = seen.keys.values().chain(&seen.former).copied().collect();
        seen.kin = known.kin(&own);

        let tier = match desired.mode {
            Mode::Storage => api::COMPONENT_STORAGE,
            Mode::Gateway(_) => api::COMPONENT_GATEWAY,
        };
        let pods = self.pods(namespace, name, tier).await?;
        let revision = self.workload(desired, &mut seen, &mut hands).await?;
        if !desired.absent {
            self.belongings(cluster, &mut seen, &mut hands).await?;
        }
        if desired.mode == Mode::Storage {
            self.claims(desired, &mut seen, &mut hands).await?;
            let users = clusters.all();
            let users = users.iter().filter(|other| uses(other, &desired.key));
            let (staying, going): (Vec<_>, Vec<_>) =
                users.partition(|user| user.metadata.deletion_timestamp.is_none());
            let holds = |user: &&Arc<GarageCluster>| {
                let mut finalizers = user.finalizers().iter();
                finalizers.any(|one| one == api::FINALIZER_CLUSTER)
            };
            seen.attached = staying.into_iter().map(|user| key_of(user)).collect();
            seen.attached.sort();
            let going = going.into_iter().filter(holds);
            seen.departing = going.map(|user| key_of(user)).collect();
            seen.departing.sort();
        }

        let found = self.target(desired, clusters).await?;
        self.secrets(cluster, desired, &found, &mut seen, &mut hands)
            .await?;
        let secret = hands.rpc_secret.as_ref();
        let hash = secret.map(|secret| secrets::hash(&[Some(secret.expose().as_bytes())]));
        seen.pods = pods
            .iter()
            .map(|pod| Pod {
                seen_off: self.farewells.has(pod),
                ..seen_pod(pod, slot(pod, desired), revision.as_ref(), hash.as_deref())
            })
            .collect();
        let asked = match &desired.mode {
            Mode::Storage if desired.manual_layout => self.ask_cluster(cluster).await?,
            Mode::Storage => {
                let port = spec.admin.clone().unwrap_or_default().bind_port;
                match &hands.admin_token {
                    Some(token) => self.ask_pods(&pods, port, token).await,
                    None => Err("it has no admin token yet".to_owned()),
                }
            }
            Mode::Gateway(Target::Cluster(key)) => match &found.cluster {
                Some(storage) => self.ask_cluster(storage).await?,
                None if found.seen == TargetSeen::OutOfReach => Err(tenant::out_of_reach(key)),
                None => Err("there is no storage cluster to ask".to_owned()),
            },
            Mode::Gateway(Target::External(_)) => {
                let asked = self.ask_elsewhere(cluster).await?;
                if let Ok((_, token)) = &asked {
                    self.tokens.keep(&self.ctx, &desired.key, token).await?;
                }
                asked.map(|(asked, _)| asked)
            }
        };
        hands.inherited = match &found.cluster {
            Some(storage) => Inherited::of(storage, &self.options.image),
            None => Inherited::of(cluster, &self.options.image),
        };
        seen.target = found.seen;
        hands.pods = pods.into_iter().map(|pod| (pod.name_any(), pod)).collect();
        let port = spec.admin.clone().unwrap_or_default().bind_port;
        let token = hands.admin_token.clone();
        let own = token.as_ref().map(|token| (token, port));
        if let (Mode::Gateway(_), Some((token, port))) = (&desired.mode, own) {
            let serving = seen
                .pods
                .iter()
                .filter(|pod| pod.running && pod.synced && !pod.terminating);
            let clients = serving.filter_map(|pod| {
                let base = storage::base(pod.ip?, port);
                self.admin(&base, token).ok()
            });
            hands.gateways = clients.take(super::GATEWAYS).collect();
        }
        match asked {
            Err(why) => seen.garage = Garage::Unreachable(why),
            Ok(asked) => match self.garage(desired, &seen, &asked, own, known).await {
                Ok((facts, whole)) => {
                    hands.whole = whole;
                    hands.garage = Some(asked);
                    seen.garage = Garage::Reached(Box::new(facts));
                }
                Err(error) => seen.garage = Garage::Unreachable(error.chain()),
            },
        }
        Ok((seen, hands))
    }

    async fn namespace_ends(&self, name: &str) -> Result<bool> {
        let namespace: Option<Namespace> = self.ctx.get_opt(None, name).await?;
        Ok(namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
    }

    async fn target(&self, desired: &Desired, clusters: &Watched<GarageCluster>) -> Result<Found> {
        let nothing = |seen| Found {
            seen,
            cluster: None,
        };
        let Mode::Gateway(Target::Cluster(key)) = &desired.mode else {
            return Ok(nothing(TargetSeen::None));
        };
        if !self.looks_into(&key.namespace) {
            return Ok(nothing(TargetSeen::OutOfReach));
        }
        let storage: Option<GarageCluster> = match clusters.get(&key.namespace, &key.name) {
            Some(known) => Some((*known).clone()),
            // Newer than the watch.
            None => self.ctx.get_opt(Some(&key.namespace), &key.name).await?,
        };
        let Some(storage) = storage else {
            return Ok(nothing(TargetSeen::Missing));
        };
        if storage.spec.gateway {
            return Ok(nothing(TargetSeen::NotStorage));
        }
        let elsewhere = key.namespace != desired.key.namespace;
        // What was granted once can be cleaned up.
        if elsewhere
            && !desired.absent
            && !self
                .granted("GarageCluster", &desired.key.namespace, key)
                .await?
        {
            return Ok(nothing(TargetSeen::NotGranted));
        }
        let seen = Storage {
            factor: Inherited::of(&storage, &self.options.image).factor,
            peers: self.peers(&storage).await?,
            // Filled in where the secrets are read.
            secrets: false,
            elsewhere,
            deleting: storage.metadata.deletion_timestamp.is_some(),
        };
        Ok(Found {
            seen: TargetSeen::Found(seen),
            cluster: Some(storage),
        })
    }

    /// RPC secret and admin token: those of the cluster, and for gateways the storage cluster's.
    async fn secrets(
        &self,
        cluster: &GarageCluster,
        desired: &Desired,
        found: &Found,
        seen: &mut Observed,
        hands: &mut Hands,
    ) -> Result<()> {
        let ClusterKey { namespace, name } = &desired.key;
        let admin = SecretKeyRef::admin_token(name, &cluster.spec);
        let rpc = SecretKeyRef::rpc_secret(name, &cluster.spec);
        let token = self.secret(namespace, &admin).await?;
        let secret = self.secret(namespace, &rpc).await?;
        let good_token = token
            .as_ref()
            .is_some_and(|text| secrets::is_admin_token(text.expose()));
        let good_secret = secret
            .as_ref()
            .is_some_and(|text| secrets::is_rpc_secret(text.expose()));
        seen.admin_token = good_token;
        let bad = |entry: &SecretKeyRef, present: bool, must: &str| match present {
            false => format!(
                "Secret {namespace}/{} has no entry {}: {must}",
                entry.name, entry.key
            ),
            true => format!(
                "Secret {namespace}/{}, entry {}: {must}",
                entry.name, entry.key
            ),
        };
        if !good_token && (desired.own_admin_token || token.is_some()) {
            let must = "it must be a token of printable characters without a dot";
            seen.bad_secret = Some(bad(&admin, token.is_some(), must));
        }
        let by_reference = matches!(desired.mode, Mode::Gateway(Target::Cluster(_)));
        if by_reference {
            let source = match &found.cluster {
                Some(storage) => {
                    let key = key_of(storage);
                    let entry = SecretKeyRef::rpc_secret(&key.name, &storage.spec);
                    self.secret(&key.namespace, &entry).await?
                }
                None => None,
            };
            let source = source.filter(|text| secrets::is_rpc_secret(text.expose()));
            seen.rpc_secret = source.is_some() && source == secret;
            if let TargetSeen::Found(storage) = &found.seen {
                let storage = Storage {
                    secrets: source.is_some(),
                    ..storage.clone()
                };
                hands.target = Some(storage);
            }
            hands.rpc_secret = source;
        } else {
            seen.rpc_secret = good_secret;
            let named = desired.own_rpc_secret || desired.mode != Mode::Storage;
            if !good_secret && (named || secret.is_some()) {
                let must = "it must be 32 bytes as 64 hexadecimal digits (openssl rand -hex 32)";
                seen.bad_secret = Some(bad(&rpc, secret.is_some(), must));
            }
            hands.rpc_secret = secret;
        }
        hands.admin_token = token;
        Ok(())
    }

    /// What the Admin API says; `true` when the layout was read whole.
    async fn garage(
        &self,
        desired: &Desired,
        seen: &Observed,
        asked: &Asked,
        own: Option<(&Redacted<String>, i32)>,
        known: &mut crate::operator::Known,
    ) -> Result<(Facts, bool)> {
        let (mut facts, whole) = self.facts(asked, known).await?;
        match &desired.mode {
            Mode::Storage => {
                let health = asked.client.get_cluster_health().await?;
                facts.health = Some(facts::health(&health));
            }
            Mode::Gateway(target) => {
                if let Target::External(_) = target {
                    facts.factor = self.factor(asked, known).await?;
                }
                self.tables(seen, asked, own, &mut facts).await?;
            }
        }
        Ok((facts, whole))
    }

    /// The factor of a storage cluster elsewhere: no call gives it but a preview, which changes nothing.
    async fn factor(
        &self,
        asked: &Asked,
        known: &mut crate::operator::Known,
    ) -> Result<Option<u32>> {
        if known.factor.is_none() {
            let preview = asked.client.preview_cluster_layout_changes().await;
            let statistics = match preview {
                Ok(preview) => preview.statistics,
                // It says nothing while something is staged that cannot be applied.
                Err(crate::admin::Error::Layout { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            known.factor = statistics.map(|statistics| statistics.replication_factor);
        }
        Ok(known.factor)
    }

    /// How full the tables are, of nodes that wait to serve and of the one that answers. Gateways are
    /// asked themselves: through a storage node, a connection that died with the former pod would be
    /// waited for. One that does not know the newest layout yet cannot serve, however full it is.
    async fn tables(
        &self,
        seen: &Observed,
        asked: &Asked,
        own: Option<(&Redacted<String>, i32)>,
        facts: &mut Facts,
    ) -> Result<()> {
        let Some((token, port)) = own else {
            return Ok(());
        };
        let version = asked.status.layout_version;
        let waiting = seen
            .pods
            .iter()
            .filter(|pod| pod.running && !pod.synced && !pod.terminating);
        let waiting: Vec<(NodeId, crate::admin::Client)> = waiting
            .filter_map(|pod| Some((*seen.keys.get(&pod.slot?)?, pod.ip?)))
            .filter(|(id, _)| facts.layout.roles.contains_key(id))
            .filter_map(|(id, ip)| {
                let client = self.admin(&storage::base(ip, port), token).ok()?;
                Some((id, client.with_timeout(STATISTICS)))
            })
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let asking = waiting.iter().map(async |(id, client)| {
            let status = client.get_cluster_status().await?;
            let node = crate::admin::Node::Asked;
            let statistics = client.get_node_statistics(node).await?;
            let fill = facts::tables(&statistics).filter(|_| status.layout_version >= version);
            tracing::debug!(node = %id, layout = status.layout_version, ?fill, "a gateway is filling");
            Ok::<_, crate::admin::Error>((*id, fill))
        });
        for answer in join_all(asking).await {
            match answer {
                Ok((id, Some(fill))) => drop(facts.tables.insert(id, fill)),
                Ok((_, None)) => {}
                // It has just started, or has just gone; the next round sees which.
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, "a gateway does not tell how full its tables are");
                }
            }
        }
        if let Some(node) = asked.node {
            let full = asked
                .client
                .get_node_statistics(crate::admin::Node::Asked)
                .await?;
            facts
                .tables
                .extend(facts::tables(&full).map(|fill| (node, fill)));
        }
        Ok(())
    }
}

fn slot(pod: &v1::Pod, desired: &Desired) -> Option<u32> {
    match desired.mode {
        Mode::Storage => storage::ordinal(pod),
        Mode::Gateway(_) => pod
            .annotations()
            .get(api::ANNOTATION_SLOT)
            .and_then(|slot| slot.parse().ok()),
    }
}

/// A pod; `rpc_secret` is the hash of the secret that new pods get.
pub(crate) fn seen_pod(
    pod: &v1::Pod,
    slot: Option<u32>,
    revision: Option<&Revision>,
    rpc_secret: Option<&str>,
) -> Pod {
    let gates = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.scheduling_gates.as_ref());
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let outdated = match revision {
        None => false,
        Some(Revision::Set(hash)) => pod.labels().get("controller-revision-hash") != Some(hash),
        Some(Revision::Template(hash)) => pod.labels().get("pod-template-hash") != Some(hash),
    };
    let started = pod.annotations().get(names::ANNOTATION_RPC_SECRET_HASH);
    let severed = started.zip(rpc_secret);
    Pod {
        name: pod.name_any(),
        slot,
        gated: gates.is_some_and(|gates| gates.iter().any(|gate| gate.name == api::GATE_SLOT)),
        ip: storage::address(pod),
        running: storage::is_running(pod),
        ready: storage::is_ready(pod),
        synced: storage::condition(pod, api::GATE_SYNCED),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        outdated,
        severed: severed.is_some_and(|(started, now)| started != now),
        leaving: pod.annotations().contains_key(super::DELETION_COST),
        seen_off: false,
    }
}

fn key_of(cluster: &GarageCluster) -> ClusterKey {
    ClusterKey {
        namespace: cluster.namespace().unwrap_or_default(),
        name: cluster.name_any(),
    }
}

/// Whether `cluster` is a gateway cluster of the storage cluster `key`.
fn uses(cluster: &GarageCluster, key: &ClusterKey) -> bool {
    let own = cluster.namespace().unwrap_or_default();
    let reference = cluster
        .spec
        .connect_to
        .as_ref()
        .and_then(|connect| connect.cluster_ref.as_ref());
    cluster.spec.gateway
        && reference.is_some_and(|reference| {
            reference.name == key.name
                && reference.namespace.as_ref().unwrap_or(&own) == &key.namespace
        })
}
