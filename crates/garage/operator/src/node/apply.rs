//! Carries out the steps of a plan for one GarageNode, and keeps its pod as it should be. May not choose.

use super::Nodes;
use super::observe::{Hands, keys_secret};
use crate::error::{Error, Result};
use crate::operator::Known;
use crate::random;
use gatewright_garage::admin;
use gatewright_garage::api::{self, GarageNode};
use gatewright_garage::cluster::{Problem, facts};
use gatewright_garage::config::{self, Inherited};
use gatewright_garage::identity::{NodeKey, SlotKeys};
use gatewright_garage::node::{Plan, Step};
use gatewright_garage::objects::{self, Objects, Owner, Resolved, SecretKeyRef, secrets};
use gatewright_garage::quantity;
use kube::ResourceExt as _;
use kube::api::PropagationPolicy;
use serde_json::json;

impl Nodes {
    /// The object of a pod of our own, or everything in the fields that cannot be done. Nothing before the
    /// cluster has the secrets that the pod reads.
    pub(super) fn workload(
        &self,
        node: &GarageNode,
        hands: &Hands,
    ) -> Result<Option<Objects>, Vec<Problem>> {
        let Some(cluster) = &hands.home.referenced else {
            return Ok(None);
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
        let image = &self.operator.options.image;
        let inherited = Inherited::of(hands.home.storage.as_ref().unwrap_or(cluster), image);
        let resolved = Resolved {
            settings: config::from_cluster(cluster, &inherited, &[])?,
            image: inherited.image.clone(),
            rpc_secret: SecretKeyRef::rpc_secret(&name, &cluster.spec),
            admin_secret: SecretKeyRef::admin_token(&name, &cluster.spec),
            node_keys_secret: keys_secret(&node.name_any()),
            secrets_hash: secrets::hash(&[secret, token]),
            rpc_secret_hash: secrets::hash(&[secret]),
            replicas: 1,
        };
        let workload = objects::Workload::from_node(node, cluster, &resolved)?;
        let complete = secret.is_some() && token.is_some();
        Ok(complete.then(|| objects::of_node(&workload)))
    }

    pub(super) async fn apply(
        &self,
        node: &GarageNode,
        plan: &Plan,
        hands: &Hands,
        known: &mut Known,
    ) -> Result<()> {
        if plan.workload
            && let Ok(Some(objects)) = self.workload(node, hands)
            && let Some(set) = &objects.stateful_set
            && !plan.steps.contains(&Step::OrphanWorkload)
        {
            self.operator.ctx.ensure(set, hands.set.as_ref()).await?;
        }
        if let (Some(peer), Some(asked)) = (&plan.connect, &hands.home.asked) {
            let peers = [peer.to_string()];
            let connect = asked.client.connect_cluster_nodes(&peers);
            let done = self.operator.ctx.guarded("connect nodes", connect).await?;
            if let Err(error) = done {
                // It may not listen yet; the next round tries again.
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "a node is not connected yet");
            }
        }
        for step in &plan.steps {
            self.carry_out(node, step, hands, known).await?;
        }
        Ok(())
    }

    async fn carry_out(
        &self,
        node: &GarageNode,
        step: &Step,
        hands: &Hands,
        known: &mut Known,
    ) -> Result<()> {
        let ctx = &self.operator.ctx;
        let client = || hands.home.client("change the layout");
        match step {
            Step::AddFinalizer => {
                ctx.add_finalizer(node, api::FINALIZER_NODE).await?;
            }
            Step::RemoveFinalizer => {
                ctx.remove_finalizer(node, api::FINALIZER_NODE).await?;
            }
            Step::MintKey => self.mint_key(node, hands).await?,
            Step::Stage(changes) => {
                let change = admin::LayoutChange {
                    roles: changes.iter().map(facts::staged).collect(),
                    parameters: None,
                };
                known.settled = None;
                let stage = client()?.update_cluster_layout(&change);
                ctx.guarded("stage a layout", stage).await??;
            }
            Step::Revert => {
                known.settled = None;
                let revert = client()?.revert_cluster_layout();
                ctx.guarded("revert a staged layout", revert).await??;
            }
            Step::Apply(version) => {
                known.settled = None;
                let apply = client()?.apply_cluster_layout(*version);
                ctx.guarded("apply a layout", apply).await??;
            }
            Step::DeletePod => {
                let pod = here(hands.pod.as_ref(), "replace the pod")?;
                ctx.delete(pod, PropagationPolicy::Background).await?;
            }
            Step::OrphanWorkload => {
                let set = here(hands.set.as_ref(), "replace the StatefulSet")?;
                ctx.delete(set, PropagationPolicy::Orphan).await?;
            }
            Step::GrowClaim { claim, bytes } => {
                let claim = here(hands.claims.get(claim), "enlarge a claim")?;
                let size = quantity::canonical(*bytes);
                let patch = json!({ "spec": { "resources": { "requests": { "storage": size } } } });
                ctx.patch_merge(claim, &patch).await?;
            }
            Step::SkipDead(version) => {
                known.settled = None;
                let skip = admin::SkipDeadNodes {
                    version: *version,
                    allow_missing_data: false,
                };
                let skip = client()?.cluster_layout_skip_dead_nodes(skip);
                ctx.guarded("skip dead nodes", skip).await??;
            }
        }
        Ok(())
    }

    /// Makes the node's key; one that is there is never replaced.
    async fn mint_key(&self, node: &GarageNode, hands: &Hands) -> Result<()> {
        let key = NodeKey::from_seed(random::seed()?);
        let keys = SlotKeys {
            keys: [(0, key)].into(),
            ..SlotKeys::default()
        };
        let ctx = &self.operator.ctx;
        match &hands.keys {
            Some(secret) => {
                let patch = json!({ "data": keys.data() });
                ctx.patch_merge(secret, &patch).await?;
            }
            None => {
                let name = keys_secret(&node.name_any());
                ctx.create(&secrets::node_keys(&Owner::of_node(node), name, &keys))
                    .await?;
            }
        }
        Ok(())
    }
}

/// What a step is about; plans that have it are made only when it was seen.
fn here<'a, T>(object: Option<&'a T>, action: &str) -> Result<&'a T> {
    let action = || action.to_owned();
    object.ok_or_else(|| Error::Gone { action: action() })
}
