//! Carries out the steps of a plan for one GarageKey, and keeps its Secret as it should be. May not choose.

use super::Keys;
use super::observe::Hands;
use crate::error::{Error, Result};
use crate::random;
use gatewright_garage::admin::ImportKey;
use gatewright_garage::api::{self, GarageCluster, GarageKey};
use gatewright_garage::config::Inherited;
use gatewright_garage::key::secret::{self as secrets, Place};
use gatewright_garage::key::{Desired, Material, Plan, Step, access_key_id};
use gatewright_garage::secret::Redacted;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::PropagationPolicy;

/// How many ids in a row may have been used before.
const USED: u32 = 256;

impl Keys {
    /// All steps that can be done: one bucket that is in the way must not keep the others. The first
    /// failure is returned, else whether the Secret was written.
    pub(super) async fn apply(
        &self,
        key: &GarageKey,
        desired: &Desired,
        plan: &Plan,
        hands: &Hands,
    ) -> Result<bool> {
        let mut failure = None;
        for step in &plan.steps {
            let Err(error) = self.carry_out(key, desired, step, hands).await else {
                continue;
            };
            let go_on = match (&error, step) {
                (Error::Garage(error), Step::Allow(..) | Step::Deny(..)) => !error.is_transient(),
                (_, _) => false,
            };
            if !go_on {
                return Err(error);
            }
            failure.get_or_insert(error);
        }
        let replaced = plan
            .steps
            .iter()
            .any(|step| matches!(step, Step::DeleteSecret(name) if *name == desired.secret.name));
        let written = !replaced && self.publish(key, desired, plan, hands).await?;
        failure.map_or(Ok(written), Err)
    }

    async fn publish(
        &self,
        key: &GarageKey,
        desired: &Desired,
        plan: &Plan,
        hands: &Hands,
    ) -> Result<bool> {
        let Some(published) = &plan.secret else {
            return Ok(false);
        };
        let Some(secret) = hands.materials.get(&published.id) else {
            return Ok(false);
        };
        let material = Material {
            id: published.id.clone(),
            secret: secret.clone(),
        };
        let place = Place {
            endpoint: hands.home.referenced.as_ref().and_then(endpoint),
            region: region(hands),
        };
        let wanted = secrets::secret(key, desired, published, &material, &place);
        let ctx = &self.operator.ctx;
        Ok(ctx
            .ensure(&wanted, hands.secret.as_ref())
            .await?
            .is_written())
    }

    async fn carry_out(
        &self,
        key: &GarageKey,
        desired: &Desired,
        step: &Step,
        hands: &Hands,
    ) -> Result<()> {
        let ctx = &self.operator.ctx;
        let client = || hands.home.client("change the key");
        match step {
            Step::AddFinalizer => {
                ctx.add_finalizer(key, api::FINALIZER_KEY).await?;
            }
            Step::RemoveFinalizer => {
                ctx.remove_finalizer(key, api::FINALIZER_KEY).await?;
            }
            Step::Create { number, known } => self.create(desired, *number, *known, hands).await?,
            Step::Import => {
                let action = || "import the key".to_owned();
                let given = hands
                    .given
                    .as_ref()
                    .ok_or_else(|| Error::Gone { action: action() })?;
                self.import(desired, given, hands).await?;
            }
            Step::Update(id, change) => {
                ctx.guarded("change a key", client()?.update_key(id, change))
                    .await??;
            }
            Step::Allow(id, bucket, rights) => {
                let allow = client()?.allow_bucket_key(bucket, id, *rights);
                ctx.guarded("give rights on a bucket", allow).await??;
            }
            Step::Deny(id, bucket, rights) => {
                let deny = client()?.deny_bucket_key(bucket, id, *rights);
                ctx.guarded("take rights on a bucket", deny).await??;
            }
            // The Secret is written after the steps, whatever it lacks.
            Step::Publish(_) => {}
            Step::DeleteSecret(name) => {
                let own = hands
                    .secret
                    .as_ref()
                    .filter(|secret| secret.name_any() == *name);
                if let Some(secret) = own.or_else(|| hands.stale.get(name)) {
                    ctx.delete(secret, PropagationPolicy::Background).await?;
                }
            }
            Step::Delete(id) => match ctx
                .guarded("delete a key", client()?.delete_key(id))
                .await?
            {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                Ok(()) | Err(_) => {}
            },
        }
        Ok(())
    }

    /// Makes the access key with this number, or with the next whose id was never used.
    async fn create(
        &self,
        desired: &Desired,
        first: u32,
        known: bool,
        hands: &Hands,
    ) -> Result<()> {
        let held = hands.secret.as_ref().filter(|_| known);
        let held = held.and_then(|secret| in_secret(secret, desired));
        for number in first..first.saturating_add(USED) {
            let secret = match held.clone().filter(|_| number == first) {
                Some(secret) => secret,
                None => random::hex()?,
            };
            let material = Material {
                id: access_key_id(&desired.uid, number),
                secret,
            };
            match self.import(desired, &material, hands).await {
                Err(Error::Garage(error)) if error.is_conflict() => {}
                done => return done,
            }
        }
        Err(Error::Gone {
            action: format!(
                "find an access key id for {} that was never used",
                desired.key
            ),
        })
    }

    async fn import(&self, desired: &Desired, material: &Material, hands: &Hands) -> Result<()> {
        let import = ImportKey {
            access_key_id: material.id.clone(),
            secret_access_key: material.secret.clone(),
            name: Some(desired.name.clone()),
        };
        let client = hands.home.client("create the key")?;
        self.operator
            .ctx
            .guarded("create a key", client.import_key(&import))
            .await??;
        Ok(())
    }
}

/// The secret access key in our Secret, if Garage would take it.
fn in_secret(secret: &Secret, desired: &Desired) -> Option<Redacted<String>> {
    let text = secrets::entry(secret, &desired.secret.template.secret_access_key_key)?;
    (text.len() >= 16).then(|| Redacted::new(text))
}

/// Where S3 clients reach the cluster that is named.
fn endpoint(cluster: &GarageCluster) -> Option<String> {
    let told = cluster
        .status
        .as_ref()
        .and_then(|status| status.endpoints.as_ref());
    let s3 = cluster.spec.s3_api.clone().unwrap_or_default();
    let (name, namespace) = (cluster.name_any(), cluster.namespace()?);
    let known = told.and_then(|endpoints| endpoints.s3.clone());
    known.or_else(|| {
        s3.enabled
            .then(|| format!("http://{name}.{namespace}.svc:{}", s3.bind_port))
    })
}

/// The region of the cluster that is named; that of its storage cluster, if it says none itself.
fn region(hands: &Hands) -> Option<String> {
    let referenced = hands.home.referenced.as_ref()?;
    let own = referenced.spec.s3_api.as_ref();
    let storage = hands.home.storage.as_ref().unwrap_or(referenced);
    Some(own.map_or_else(|| Inherited::of(storage, "").region, |s3| s3.region.clone()))
}
