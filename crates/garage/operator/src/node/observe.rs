//! Reads everything that is decided on about one GarageNode. May not write, and has no opinion.

use super::Nodes;
use crate::admin;
use crate::error::{Error, Result};
use crate::home::{Home, layout_at, place};
use crate::operator::Known;
use crate::storage;
use gatewright_garage::admin::{LayoutHistory, UpdateTracker};
use gatewright_garage::api::{self, GarageCluster, GarageNode};
use gatewright_garage::cluster::{self, ClusterKey};
use gatewright_garage::identity::{NodeId, Peer, SlotKeys, slot_entry};
use gatewright_garage::node::{Desired, Kind, Observed, mates};
use gatewright_garage::objects::{SecretKeyRef, names};
use gatewright_garage::secret::Redacted;
use gatewright_garage::tenant;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::ResourceExt as _;
use std::collections::{BTreeMap, BTreeSet};

/// What `apply` needs of what `observe` has read.
pub(super) struct Hands {
    pub(super) home: Home,
    /// The Secret with the node's key.
    pub(super) keys: Option<Secret>,
    pub(super) rpc_secret: Option<Redacted<String>>,
    pub(super) admin_token: Option<Redacted<String>>,
    /// The StatefulSet, the pod and the claims of a node with a pod of our own.
    pub(super) set: Option<StatefulSet>,
    pub(super) pod: Option<Pod>,
    pub(super) claims: BTreeMap<String, PersistentVolumeClaim>,
    /// The layout was read whole, not only remembered.
    pub(super) whole: bool,
}

/// The Secret with the key of a node with a pod of our own.
pub(super) fn keys_secret(node: &str) -> String {
    names::node_keys(&names::node_workload(node))
}

impl Nodes {
    pub(super) async fn observe(
        &self,
        node: &GarageNode,
        desired: &Desired,
        known: &mut Known,
    ) -> Result<(Observed, Hands)> {
        let operator = &self.operator;
        let namespace = &desired.key.namespace;
        let home = operator
            .home("GarageNode", namespace, &desired.cluster, desired.absent)
            .await?;
        let recorded = node
            .status
            .as_ref()
            .and_then(|status| status.node_id.as_deref());
        let mut seen = Observed {
            finalizer: node
                .finalizers()
                .iter()
                .any(|one| one == api::FINALIZER_NODE),
            namespace_ends: desired.absent && operator.ends(namespace).await?,
            home: home.seen.clone(),
            recorded: recorded.and_then(|id| id.parse().ok()),
            ..Observed::default()
        };
        let mut hands = Hands {
            home,
            keys: None,
            rpc_secret: None,
            admin_token: None,
            set: None,
            pod: None,
            claims: BTreeMap::new(),
            whole: false,
        };
        if let Some(cluster) = hands.home.referenced.clone() {
            self.cluster(&cluster, &mut seen, &mut hands).await?;
            self.identity(node, desired, &cluster, &mut seen, &mut hands)
                .await?;
        }
        let id = match &seen.id {
            Some(Ok(id)) => Some(*id),
            Some(Err(_)) | None => seen.recorded,
        };
        seen.kin = known.kin(&id.into_iter().chain(seen.recorded).collect());
        seen.rival = id.and_then(|id| self.rival(node, id, &hands.home));
        if let Some(asked) = &hands.home.asked {
            let (mut facts, whole) = operator.facts(asked, known).await?;
            if let Some(history) = &mut facts.layout.history
                && !history.draining.is_empty()
            {
                let roles = facts.layout.roles.iter();
                let gateways = roles.filter(|(_, role)| role.capacity.is_none());
                let own = id.filter(|_| desired.gateway);
                let gateways: BTreeSet<NodeId> =
                    gateways.map(|(node, _)| *node).chain(own).collect();
                let told = asked.client.get_cluster_layout_history().await?;
                history.behind = behind(&told, &gateways);
                if history.behind.is_empty() {
                    history.draining.clear();
                }
            }
            if seen.pod.as_ref().is_some_and(|pod| pod.outdated) {
                let health = asked.client.get_cluster_health().await?;
                facts.health = Some(cluster::facts::health(&health));
            }
            let mut nodes = asked.status.nodes.iter();
            let own = nodes.find(|node| Some(node.id) == id);
            seen.address = own.and_then(|node| node.addr.clone());
            seen.hostname = own.and_then(|node| node.hostname.clone());
            // Who has its role joins with nobody.
            if id.is_some_and(|id| !facts.layout.roles.contains_key(&id)) {
                let others = self.nodes.all();
                let others = others.iter().map(|other| &**other);
                seen.mates = mates(desired, seen.default_capacity, others, &facts);
            }
            seen.facts = Some(facts);
            hands.whole = whole;
        }
        Ok((seen, hands))
    }

    /// What the cluster says about its nodes, and the secrets that they share.
    async fn cluster(
        &self,
        cluster: &GarageCluster,
        seen: &mut Observed,
        hands: &mut Hands,
    ) -> Result<()> {
        let storage = hands.home.storage.as_ref();
        seen.cluster_ends = storage.is_some_and(|one| one.metadata.deletion_timestamp.is_some());
        let layout = cluster::Desired::parse(storage.unwrap_or(cluster)).ok();
        seen.auto_apply = layout.as_ref().is_none_or(|layout| layout.auto_apply);
        seen.approved = layout.as_ref().and_then(|layout| layout.approved);
        seen.factor = layout
            .as_ref()
            .filter(|_| storage.is_some())
            .map(cluster::Desired::storage_factor);
        seen.default_capacity = layout.and_then(|layout| layout.capacity);
        let ClusterKey { namespace, name } = place(cluster);
        let operator = &self.operator;
        let token = SecretKeyRef::admin_token(&name, &cluster.spec);
        let secret = SecretKeyRef::rpc_secret(&name, &cluster.spec);
        hands.admin_token = operator.secret(&namespace, &token).await?;
        hands.rpc_secret = operator.secret(&namespace, &secret).await?;
        Ok(())
    }

    async fn identity(
        &self,
        node: &GarageNode,
        desired: &Desired,
        cluster: &GarageCluster,
        seen: &mut Observed,
        hands: &mut Hands,
    ) -> Result<()> {
        let operator = &self.operator;
        let namespace = &desired.key.namespace;
        let network = cluster.spec.network.clone().unwrap_or_default();
        let port = u16::try_from(network.rpc_bind_port).unwrap_or_default();
        let pod = match &desired.kind {
            Kind::External(peer) => {
                seen.id = Some(Ok(peer.id));
                seen.peer = Some(peer.clone());
                return Ok(());
            }
            Kind::Pod(name) => name.clone(),
            Kind::Own => names::storage_pod(&names::node_workload(&desired.key.name), 0),
        };
        let found: Option<Pod> = operator.ctx.get_opt(Some(namespace), &pod).await?;
        let ip = found.as_ref().and_then(storage::address);
        match &desired.kind {
            Kind::Own => {
                let secret = keys_secret(&desired.key.name);
                hands.keys = operator.ctx.get_opt(Some(namespace), &secret).await?;
                let data = hands.keys.as_ref().and_then(|secret| secret.data.clone());
                let read = SlotKeys::read(&data.unwrap_or_default());
                let id = read.ids().get(&0).copied();
                seen.has_key = id.is_some();
                let bad = read.malformed.get(&slot_entry(0));
                seen.bad_key = bad.map(ToString::to_string);
                seen.id = id.map(Ok);
                if !desired.absent {
                    self.own(node, desired, found.as_ref(), seen, hands).await?;
                }
            }
            Kind::Pod(_) | Kind::External(_) => {
                let port = cluster.spec.admin.clone().unwrap_or_default().bind_port;
                let token = hands.admin_token.as_ref();
                seen.id = Some(match (&found, ip, token) {
                    (None, _, _) => Err(format!("Pod {namespace}/{pod} does not exist")),
                    (Some(_), None, _) => Err(format!("Pod {namespace}/{pod} has no address yet")),
                    (_, _, None) => Err("the cluster has no admin token to ask it with".to_owned()),
                    (Some(_), Some(ip), Some(token)) => self.ask_self(ip, port, token).await,
                });
            }
        }
        let host = ip.map(|ip| ip.to_string());
        if let (Some(Ok(id)), Some(host)) = (&seen.id, host) {
            seen.peer = Some(Peer {
                id: *id,
                host,
                port,
            });
        }
        Ok(())
    }

    /// The node at this address tells its id.
    async fn ask_self(
        &self,
        ip: std::net::IpAddr,
        port: i32,
        token: &Redacted<String>,
    ) -> Result<NodeId, String> {
        let base = match ip {
            std::net::IpAddr::V4(ip) => format!("http://{ip}:{port}"),
            std::net::IpAddr::V6(ip) => format!("http://[{ip}]:{port}"),
        };
        let ask = async {
            let client = self.operator.admin(&base, token)?;
            client.get_node_info(admin::Node::Asked).await
        };
        match ask.await {
            Ok(info) => Ok(info.node_id),
            Err(error) => Err(Error::from(error).chain()),
        }
    }

    /// An older object for the same node.
    fn rival(&self, own: &GarageNode, id: NodeId, home: &Home) -> Option<ClusterKey> {
        let age = |node: &GarageNode| {
            let created = node.metadata.creation_timestamp.clone().map(|time| time.0);
            (created, node.metadata.uid.clone())
        };
        let is = |text: Option<&String>| text.and_then(|text| text.parse().ok()) == Some(id);
        let nodes = self.nodes.all();
        let rival = nodes.iter().find(|other| {
            let at = place(&***other);
            let cluster = tenant::target(&other.spec.cluster_ref, &at.namespace);
            let told = other
                .status
                .as_ref()
                .and_then(|status| status.node_id.as_ref());
            other.metadata.uid != own.metadata.uid
                && (is(told) || is(other.spec.node_id.as_ref()))
                && Some(layout_at(&self.clusters, &cluster)) == home.layout
                && age(other) < age(own)
        });
        rival.map(|rival| place(&**rival))
    }
}

/// The nodes that keep older layouts alive. A node synchronises only once all nodes have acknowledged the
/// newest layout, so while one has not, the others are behind because of it, and not by themselves.
/// Gateways have nothing to synchronise. When all this is done the data is where it should be: that old
/// versions are still listed then means nothing (a single storage node never drops them by itself).
fn behind(history: &LayoutHistory, gateways: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let current = history.current_version;
    let below = |progress: fn(&UpdateTracker) -> u64| -> BTreeSet<NodeId> {
        let trackers = history.update_trackers.iter().flatten();
        let late = trackers.filter(|(_, tracker)| progress(tracker) < current);
        late.map(|(node, _)| *node).collect()
    };
    let unaware = below(|tracker| tracker.ack);
    if !unaware.is_empty() {
        return unaware;
    }
    let incomplete = below(|tracker| tracker.sync);
    incomplete.difference(gateways).copied().collect()
}
