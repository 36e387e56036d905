//! Carries out the steps of a plan for one GarageCluster. May not choose: one `match`, no `if` on what
//! the cluster should be.

use super::{DELETION_COST, Hands};
use crate::error::{Error, Result};
use crate::operator::Operator;
use crate::random;
use futures_util::future::join_all;
use gatewright_controller::Kind;
use gatewright_garage::admin;
use gatewright_garage::api::{self, GarageCluster};
use gatewright_garage::cluster::{Desired, Problem, Step, WorkloadWanted, facts};
use gatewright_garage::config;
use gatewright_garage::identity::{NodeKey, Peer, SlotKeys, slot_entry, slot_public_entry};
use gatewright_garage::objects::{self, Objects, Owner, Resolved, SecretKeyRef, names, secrets};
use gatewright_garage::quantity;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt as _;
use kube::api::PropagationPolicy;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How many pods are changed at a time.
const PODS: usize = 8;

/// How long a pod has to end that hangs. It takes no requests any more; those that it has begun have as long as
/// others have before Garage is told to end, and little more.
const HURRY_SECONDS: u32 = 5;

/// How long Garage may take to dial.
const DIAL: Duration = Duration::from_secs(4);

/// The objects of a cluster, or everything in its fields that cannot be done.
pub(super) fn objects(
    cluster: &GarageCluster,
    wanted: &WorkloadWanted,
    hands: &Hands,
) -> Result<Objects, Vec<Problem>> {
    let inherited = config::Inherited {
        factor: wanted.factor,
        ..hands.inherited.clone()
    };
    let name = cluster.name_any();
    let secret = hands
        .rpc_secret
        .as_ref()
        .map(|secret| secret.expose().as_bytes());
    let token = hands
        .admin_token
        .as_ref()
        .map(|token| token.expose().as_bytes());
    let resolved = Resolved {
        settings: config::from_cluster(cluster, &inherited, &wanted.peers)?,
        image: inherited.image.clone(),
        rpc_secret: SecretKeyRef::rpc_secret(&name, &cluster.spec),
        admin_secret: SecretKeyRef::admin_token(&name, &cluster.spec),
        node_keys_secret: names::node_keys(&name),
        secrets_hash: secrets::hash(&[secret, token]),
        rpc_secret_hash: secrets::hash(&[secret]),
        replicas: wanted.replicas,
    };
    Ok(objects::of_cluster(&objects::Workload::from_cluster(
        cluster, &resolved,
    )?))
}

impl Operator {
    /// Makes the objects be what they should be; what already is so is not written.
    pub(super) async fn ensure_all(&self, objects: &Objects, hands: &Hands) -> Result<()> {
        if let Some(config_map) = &objects.config_map {
            self.ensure(config_map).await?;
        }
        for service in &objects.services {
            let present = hands.services.get(&service.name_any());
            self.ctx.ensure(service, present).await?;
        }
        if let Some(budget) = &objects.budget {
            self.ctx.ensure(budget, hands.budget.as_ref()).await?;
        }
        if let Some(set) = &objects.stateful_set {
            self.ctx.ensure(set, hands.stateful_set.as_ref()).await?;
        }
        if let Some(set) = &objects.deployment {
            self.ctx.ensure(set, hands.deployment.as_ref()).await?;
        }
        Ok(())
    }

    pub(crate) async fn ensure<K: Kind>(&self, desired: &K) -> Result<()> {
        let meta = desired.meta();
        let name = meta.name.as_deref().unwrap_or_default();
        let present: Option<K> = self.ctx.get_opt(meta.namespace.as_deref(), name).await?;
        self.ctx.ensure(desired, present.as_ref()).await?;
        Ok(())
    }

    /// One after the other, until one fails; pods do not wait for each other.
    pub(super) async fn carry_out_all(
        &self,
        cluster: &GarageCluster,
        desired: &Desired,
        steps: &[&Step],
        hands: &Hands,
    ) -> Result<()> {
        let pods = |a: &&Step, b: &&Step| is_about_pod(a) && is_about_pod(b);
        for steps in steps.chunk_by(pods).flat_map(|run| run.chunks(PODS)) {
            let steps = steps.iter();
            let steps = steps.map(|step| self.carry_out(cluster, desired, step, hands));
            let done = join_all(steps).await;
            done.into_iter().collect::<Result<()>>()?;
        }
        Ok(())
    }

    async fn carry_out(
        &self,
        cluster: &GarageCluster,
        desired: &Desired,
        step: &Step,
        hands: &Hands,
    ) -> Result<()> {
        let ctx = &self.ctx;
        match step {
            Step::AddFinalizer => {
                ctx.add_finalizer(cluster, api::FINALIZER_CLUSTER).await?;
            }
            Step::RemoveFinalizer => {
                // The token goes last: without it nobody could go on here. Left behind, the next operator forgets it.
                ctx.remove_finalizer(cluster, api::FINALIZER_CLUSTER)
                    .await?;
                self.tokens.forget(ctx, &desired.key).await?;
            }
            Step::MintRpcSecret => {
                let secret = random::hex()?;
                let secret = secrets::rpc_secret(&Owner::of(cluster), &secret);
                ctx.create(&secrets::kept_with_volumes(secret, &cluster.spec))
                    .await?;
            }
            Step::MirrorRpcSecret => {
                let action = || format!("copy the RPC secret for {}", desired.key);
                let secret = hands
                    .rpc_secret
                    .as_ref()
                    .ok_or_else(|| Error::Gone { action: action() })?;
                self.ensure(&secrets::rpc_secret(&Owner::of(cluster), secret))
                    .await?;
            }
            Step::MintAdminToken => {
                let token = random::hex()?;
                ctx.create(&secrets::admin_token(&Owner::of(cluster), &token))
                    .await?;
            }
            Step::MintKeys(slots) => self.mint_keys(cluster, slots, hands.keys.as_ref()).await?,
            Step::DropKeys(slots) => self.drop_keys(slots, hands.keys.as_ref()).await?,
            Step::Connect(peers) => self.connect(peers, hands).await?,
            Step::Stage(changes, redundancy) => {
                let change = admin::LayoutChange {
                    roles: changes.iter().map(facts::staged).collect(),
                    parameters: redundancy.map(facts::parameters),
                };
                let client = hands.client("stage a layout")?;
                ctx.guarded("stage a layout", client.update_cluster_layout(&change))
                    .await??;
            }
            Step::Revert => {
                let client = hands.client("revert a staged layout")?;
                ctx.guarded("revert a staged layout", client.revert_cluster_layout())
                    .await??;
            }
            Step::Apply(version) => {
                let client = hands.client("apply a layout")?;
                let applied = ctx
                    .guarded("apply a layout", client.apply_cluster_layout(*version))
                    .await??;
                tracing::info!(cluster = %desired.key, version = applied.layout.version, "a new layout version");
            }
            Step::SkipDead(version) => {
                let skip = admin::SkipDeadNodes {
                    version: *version,
                    allow_missing_data: false,
                };
                let client = hands.client("skip dead nodes")?;
                ctx.guarded(
                    "skip dead nodes",
                    client.cluster_layout_skip_dead_nodes(skip),
                )
                .await??;
            }
            Step::AssignSlot { pod, slot } => self.assign_slot(hands.pod(pod)?, *slot).await?,
            Step::SetSynced { pod, synced } => self.set_synced(hands.pod(pod)?, *synced).await?,
            Step::MarkLeaving { pod } => {
                let annotations = json!({ DELETION_COST: "-1000" });
                let patch = json!({ "metadata": { "annotations": annotations } });
                ctx.patch_merge(hands.pod(pod)?, &patch).await?;
            }
            Step::DeletePod { pod } => {
                ctx.delete(hands.pod(pod)?, PropagationPolicy::Background)
                    .await?;
            }
            Step::HurryPod { pod } => {
                ctx.delete_within(hands.pod(pod)?, HURRY_SECONDS).await?;
            }
            Step::SeeOff { pod, node } => {
                let port = cluster.spec.admin.clone().unwrap_or_default().bind_port;
                self.see_off(hands.pod(pod)?, port, *node, hands.peers());
            }
            Step::OrphanWorkload => {
                let action = || format!("replace the StatefulSet of {}", desired.key);
                let set = hands
                    .stateful_set
                    .as_ref()
                    .ok_or_else(|| Error::Gone { action: action() })?;
                ctx.delete(set, PropagationPolicy::Orphan).await?;
            }
            Step::DropPublicService(slot) => {
                let name = names::public_service(&desired.key.name, *slot);
                if let Some(service) = hands.services.get(&name) {
                    ctx.delete(service, PropagationPolicy::Background).await?;
                }
            }
            Step::DropBudget => {
                if let Some(budget) = &hands.budget {
                    ctx.delete(budget, PropagationPolicy::Background).await?;
                }
            }
            Step::GrowClaim { claim, bytes } => {
                let action = || format!("enlarge the claim {claim}");
                let claim = hands
                    .claims
                    .get(claim)
                    .ok_or_else(|| Error::Gone { action: action() })?;
                let size = quantity::canonical(*bytes);
                let patch = json!({ "spec": { "resources": { "requests": { "storage": size } } } });
                ctx.patch_merge(claim, &patch).await?;
            }
        }
        Ok(())
    }

    /// Makes keys for slots that have none; a key that is there is never replaced.
    async fn mint_keys(
        &self,
        cluster: &GarageCluster,
        slots: &BTreeSet<u32>,
        present: Option<&Secret>,
    ) -> Result<()> {
        let mut fresh = BTreeMap::new();
        for slot in slots {
            fresh.insert(*slot, NodeKey::from_seed(random::seed()?));
        }
        let fresh = SlotKeys {
            keys: fresh,
            ..SlotKeys::default()
        };
        match present {
            None => {
                let name = names::node_keys(&cluster.name_any());
                let secret = secrets::node_keys(&Owner::of(cluster), name, &fresh);
                self.ctx
                    .create(&secrets::kept_with_volumes(secret, &cluster.spec))
                    .await?;
            }
            Some(secret) => {
                let held = |entry: &String| {
                    secret
                        .data
                        .as_ref()
                        .is_some_and(|data| data.contains_key(entry))
                };
                let data: BTreeMap<String, ByteString> = fresh
                    .data()
                    .into_iter()
                    .filter(|(entry, _)| !held(entry))
                    .collect();
                self.ctx
                    .patch_merge(secret, &json!({ "data": data }))
                    .await?;
            }
        }
        Ok(())
    }

    async fn drop_keys(&self, slots: &BTreeSet<u32>, present: Option<&Secret>) -> Result<()> {
        let Some(secret) = present else { return Ok(()) };
        let entries = slots
            .iter()
            .flat_map(|slot| [slot_entry(*slot), slot_public_entry(*slot)]);
        let gone: BTreeMap<String, Value> = entries.map(|entry| (entry, Value::Null)).collect();
        self.ctx
            .patch_merge(secret, &json!({ "data": gone }))
            .await?;
        Ok(())
    }

    /// They all dial, so that none waits for its own next try. A node that has just started
    /// may not listen yet, and Garage may hang on one that is gone: the next round tries again.
    async fn connect(&self, peers: &[Peer], hands: &Hands) -> Result<()> {
        let nodes = hands.peers();
        let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
        let dials = nodes.iter().map(|client| {
            let client = client.with_timeout(DIAL);
            let peers = &peers;
            async move { client.connect_cluster_nodes(peers).await }
        });
        for dialled in self.ctx.guarded("connect nodes", join_all(dials)).await? {
            if let Err(error) = dialled {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "nodes are not connected yet");
            }
        }
        Ok(())
    }

    /// One patch: a pod that may start has its slot, and one that has no slot does not start.
    async fn assign_slot(&self, pod: &Pod, slot: u32) -> Result<()> {
        let gates = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.scheduling_gates.clone());
        let others: Vec<_> = gates
            .into_iter()
            .flatten()
            .filter(|gate| gate.name != api::GATE_SLOT)
            .collect();
        let patch = json!({
            "metadata": { "annotations": { api::ANNOTATION_SLOT: slot.to_string() } },
            "spec": { "schedulingGates": others },
        });
        self.ctx.patch_merge(pod, &patch).await?;
        Ok(())
    }

    async fn set_synced(&self, pod: &Pod, synced: bool) -> Result<()> {
        let (status, reason, message) = match synced {
            true => (
                "True",
                "TablesComplete",
                "the node knows every key and bucket",
            ),
            false => (
                "False",
                "Leaving",
                "the node leaves the cluster, or was left behind with a former RPC secret",
            ),
        };
        let condition = json!({
            "type": api::GATE_SYNCED, "status": status, "reason": reason, "message": message,
        });
        self.ctx
            .patch_status(pod, &json!({ "conditions": [condition] }))
            .await?;
        Ok(())
    }
}

fn is_about_pod(step: &Step) -> bool {
    matches!(
        step,
        Step::AssignSlot { .. }
            | Step::SetSynced { .. }
            | Step::MarkLeaving { .. }
            | Step::DeletePod { .. }
            | Step::HurryPod { .. }
    )
}
