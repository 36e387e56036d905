//! Where a storage cluster is and how it is asked: its pods, its token, the node that answers. May not
//! change anything.

use crate::admin;
use crate::error::{Error, Result};
use crate::home::place;
use crate::operator::{Known, Layout, Operator, UNDER_WAY};
use gatewright_garage::admin::{ClusterStatus, GarageVersion};
use gatewright_garage::api::{self, GarageCluster, GarageNode, LayoutPolicy};
use gatewright_garage::cluster::{ClusterKey, Facts, facts};
use gatewright_garage::identity::{NodeId, Peer, SlotKeys};
use gatewright_garage::node;
use gatewright_garage::objects::{SecretKeyRef, names};
use gatewright_garage::secret::Redacted;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

/// An Admin API that has answered.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) client: admin::Client,
    pub(crate) node: Option<NodeId>,
    /// All nodes of the cluster that can be asked, this one among them.
    pub(crate) siblings: Vec<admin::Client>,
    pub(crate) status: ClusterStatus,
}

impl Asked {
    /// The version of Garage that answers, if it says one.
    pub(crate) fn version(&self) -> Option<GarageVersion> {
        let node = self
            .status
            .nodes
            .iter()
            .find(|node| Some(node.id) == self.node)?;
        node.garage_version.as_deref()?.parse().ok()
    }
}

impl Operator {
    /// An entry of a Secret as text; `None` if Secret or entry is missing or is no text.
    pub(crate) async fn secret(
        &self,
        namespace: &str,
        entry: &SecretKeyRef,
    ) -> Result<Option<Redacted<String>>> {
        let secret: Option<Secret> = self.ctx.get_opt(Some(namespace), &entry.name).await?;
        let bytes = secret.and_then(|secret| secret.data?.remove(&entry.key));
        let text = bytes.and_then(|bytes| String::from_utf8(bytes.0).ok());
        // A file made by an editor or `echo` ends in a newline, which is no part of a secret.
        Ok(text.map(|text| Redacted::new(text.trim_end_matches(['\n', '\r']).to_owned())))
    }

    /// The pods of a cluster's own workload.
    pub(crate) async fn pods(&self, namespace: &str, name: &str, tier: &str) -> Result<Vec<Pod>> {
        self.nodes(namespace, name, tier, LayoutPolicy::Auto).await
    }

    /// The pods of a cluster's nodes: with the manual layout those of GarageNodes, which have the same
    /// labels as those of a workload, and one more.
    pub(crate) async fn nodes(
        &self,
        namespace: &str,
        name: &str,
        tier: &str,
        policy: LayoutPolicy,
    ) -> Result<Vec<Pod>> {
        let without = match policy {
            LayoutPolicy::Auto => "!",
            LayoutPolicy::Manual => "",
        };
        let selector = format!(
            "{}={},{}={name},{}={tier},{without}{}",
            api::LABEL_NAME,
            api::APP,
            api::LABEL_INSTANCE,
            api::LABEL_COMPONENT,
            names::LABEL_NODE,
        );
        let pods: Api<Pod> = Api::namespaced(self.ctx.client().clone(), namespace);
        let list = pods.list(&ListParams::default().labels(&selector)).await;
        let action = format!("list the pods of GarageCluster {namespace}/{name}");
        let mut pods = list.map_err(|source| Error::read(action, source))?.items;
        pods.sort_by_key(|pod| (ordinal(pod), pod.name_any()));
        Ok(pods)
    }

    /// Where the nodes of a storage cluster are dialled: hints for nodes that start. Those of a cluster
    /// with the manual layout are GarageNodes, inside and outside of Kubernetes.
    pub(crate) async fn peers(&self, storage: &GarageCluster) -> Result<Vec<Peer>> {
        let key = place(storage);
        let network = storage.spec.network.clone().unwrap_or_default();
        let port = u16::try_from(network.rpc_bind_port).unwrap_or_default();
        match storage.spec.layout_policy {
            LayoutPolicy::Auto => {
                let secret = names::node_keys(&key.name);
                let keys: Option<Secret> = self.ctx.get_opt(Some(&key.namespace), &secret).await?;
                let keys = keys.and_then(|secret| secret.data).unwrap_or_default();
                let peer = |(slot, id): (u32, NodeId)| Peer {
                    id,
                    host: names::storage_host(&key.name, &key.namespace, slot),
                    port,
                };
                Ok(SlotKeys::read(&keys).ids().into_iter().map(peer).collect())
            }
            LayoutPolicy::Manual => {
                let nodes: Api<GarageNode> =
                    Api::namespaced(self.ctx.client().clone(), &key.namespace);
                let list = nodes.list(&ListParams::default()).await;
                let action = format!("list the GarageNodes of GarageCluster {key}");
                let list = list.map_err(|source| Error::read(action, source))?;
                let peer = |node: &GarageNode| {
                    let desired = node::Desired::parse(node).ok()?;
                    (desired.cluster == key).then(|| desired.peer(node, port))?
                };
                Ok(list.items.iter().filter_map(peer).collect())
            }
        }
    }

    /// Finds the node of a storage cluster that answers and is the first of those that do: all changes
    /// go to one, because Garage locks buckets and keys on the node that was asked.
    pub(crate) async fn ask_cluster(
        &self,
        storage: &GarageCluster,
    ) -> Result<Result<Asked, String>> {
        let namespace = storage.namespace().unwrap_or_default();
        let name = storage.name_any();
        let entry = SecretKeyRef::admin_token(&name, &storage.spec);
        let Some(token) = self.secret(&namespace, &entry).await? else {
            return Ok(Err(format!(
                "there is no admin token in Secret {namespace}/{}",
                entry.name
            )));
        };
        let (tier, policy) = (api::COMPONENT_STORAGE, storage.spec.layout_policy);
        let pods = self.nodes(&namespace, &name, tier, policy).await?;
        let port = storage.spec.admin.clone().unwrap_or_default().bind_port;
        Ok(self.ask_pods(&pods, port, &token).await)
    }

    /// The same, for pods that were listed already.
    pub(crate) async fn ask_pods(
        &self,
        pods: &[Pod],
        port: i32,
        token: &Redacted<String>,
    ) -> Result<Asked, String> {
        let mut why = "none of its pods runs".to_owned();
        let running = pods.iter().filter(|pod| is_running(pod));
        let mut running: Vec<&Pod> = running.collect();
        // Stable: ready pods first, then by ordinal.
        running.sort_by_key(|pod| !is_ready(pod));
        let bases = running
            .into_iter()
            .filter_map(|pod| Some(base(address(pod)?, port)));
        let bases: Vec<String> = bases.collect();
        for base in &bases {
            match self.ask(base, token).await {
                Ok(mut asked) => {
                    let clients = bases.iter().filter_map(|base| self.admin(base, token).ok());
                    asked.siblings = clients.collect();
                    return Ok(asked);
                }
                Err(error) => why = Error::from(error).chain(),
            }
        }
        Err(why)
    }

    /// Asks one Admin API for its status, and for itself.
    pub(crate) async fn ask(
        &self,
        base: &str,
        token: &Redacted<String>,
    ) -> std::result::Result<Asked, admin::Error> {
        let client = self.admin(base, token)?;
        let status = client.get_cluster_status().await?;
        Ok(Asked {
            node: answering(&status, base),
            siblings: vec![client.clone()],
            client,
            status,
        })
    }

    /// The facts about a layout: little is asked while it rests.
    pub(crate) async fn facts(&self, asked: &Asked, known: &mut Known) -> Result<(Facts, bool)> {
        let status = &asked.status;
        let settled = known
            .settled
            .filter(|(version, _)| *version == status.layout_version);
        if let Some((_, redundancy)) = settled {
            let mut layout = facts::settled_layout(status);
            layout.redundancy = redundancy;
            return Ok((facts::facts(status, layout, asked.node), false));
        }
        let layout = asked.client.get_cluster_layout().await?;
        let history = asked.client.get_cluster_layout_history().await?;
        let mut layout = facts::layout(&layout, Some(&history));
        let (stood, abandoned) = known.staged(&layout, self.patience_with_others);
        layout.abandoned = abandoned;
        layout.unmoved = stood >= UNDER_WAY;
        let overdue = known.overdue(&layout);
        if let Some(history) = &mut layout.history {
            history.overdue = overdue;
        }
        if !layout.staged.is_empty() || layout.staged_redundancy.is_some() {
            layout.preview = Some(match asked.client.preview_cluster_layout_changes().await {
                Ok(preview) => Ok(facts::preview(&preview)),
                Err(admin::Error::Layout { message, .. }) => Err(message),
                Err(error) => return Err(error.into()),
            });
        } else if layout
            .history
            .as_ref()
            .is_some_and(|history| history.draining.is_empty())
        {
            known.settled = Some((layout.version, layout.redundancy));
        }
        Ok((facts::facts(status, layout, asked.node), true))
    }
}

/// The Admin API at an address.
pub(crate) fn base(ip: std::net::IpAddr, port: i32) -> String {
    match ip {
        std::net::IpAddr::V4(ip) => format!("http://{ip}:{port}"),
        std::net::IpAddr::V6(ip) => format!("http://[{ip}]:{port}"),
    }
}

/// Which node speaks: the one at the address we dialled.
fn answering(status: &ClusterStatus, base: &str) -> Option<NodeId> {
    let host = base.split("//").nth(1)?.rsplit_once(':')?.0;
    let at = status.nodes.iter().find(|node| {
        let address = node.addr.as_deref().and_then(|addr| addr.rsplit_once(':'));
        address.is_some_and(|(address, _)| address == host)
    });
    // Elsewhere than in a pod's network, addresses differ; a connected storage node serves as well.
    let full = |node: &&gatewright_garage::admin::NodeStatus| {
        node.is_up
            && node
                .role
                .as_ref()
                .is_some_and(|role| role.capacity.is_some())
    };
    at.or_else(|| status.nodes.iter().find(full))
        .map(|node| node.id)
}

/// Whose layout a storage cluster's is.
pub(crate) fn layout_of(key: &ClusterKey) -> Layout {
    Layout::Cluster {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

/// The number at the end of a StatefulSet's pod.
pub(crate) fn ordinal(pod: &Pod) -> Option<u32> {
    let name = pod.metadata.name.as_deref()?;
    name.rsplit_once('-')?.1.parse().ok()
}

/// Its containers run.
pub(crate) fn is_running(pod: &Pod) -> bool {
    let containers = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    containers.is_some_and(|all| {
        !all.is_empty()
            && all.iter().all(|one| {
                one.state
                    .as_ref()
                    .is_some_and(|state| state.running.is_some())
            })
    })
}

/// It takes requests.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready")
}

/// A condition of the pod is true.
pub(crate) fn condition(pod: &Pod, type_: &str) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| {
        all.iter()
            .any(|condition| condition.type_ == type_ && condition.status == "True")
    })
}

/// The pod's address.
pub(crate) fn address(pod: &Pod) -> Option<std::net::IpAddr> {
    pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()
}
