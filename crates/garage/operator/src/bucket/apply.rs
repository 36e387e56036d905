//! Carries out the steps of a plan for one GarageBucket. May not choose.

use super::Buckets;
use crate::admin::Client;
use crate::error::{Error, Result};
use crate::home::Home;
use gatewright_garage::admin::CreateBucket;
use gatewright_garage::api::{self, GarageBucket};
use gatewright_garage::bucket::{Observed, Plan, Step};

/// Garage would not delete a bucket because it is not empty.
pub(super) fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Garage(error) if error.is_conflict())
}

impl Buckets {
    /// All steps that can be done: one key that Garage does not know must not keep the others from
    /// theirs. The first failure is returned.
    pub(super) async fn apply(
        &self,
        bucket: &GarageBucket,
        plan: &Plan,
        seen: &Observed,
        home: &Home,
    ) -> Result<()> {
        let mut failure = None;
        for step in &plan.steps {
            let Err(error) = self.carry_out(bucket, step, seen, home).await else {
                continue;
            };
            let go_on = match (&error, step) {
                (Error::Garage(error), Step::AddAlias(_) | Step::Allow(..) | Step::Deny(..)) => {
                    !error.is_transient()
                }
                (_, _) => false,
            };
            if !go_on {
                return Err(error);
            }
            failure.get_or_insert(error);
        }
        failure.map_or(Ok(()), Err)
    }

    async fn carry_out(
        &self,
        bucket: &GarageBucket,
        step: &Step,
        seen: &Observed,
        home: &Home,
    ) -> Result<()> {
        let ctx = &self.operator.ctx;
        let known = || -> Result<(&Client, &str)> {
            let action = || "change the bucket".to_owned();
            let id = seen.bucket.as_ref().map(|bucket| bucket.id.as_str());
            let id = id.ok_or_else(|| Error::Gone { action: action() })?;
            Ok((home.client("change the bucket")?, id))
        };
        match step {
            Step::AddFinalizer => {
                ctx.add_finalizer(bucket, api::FINALIZER_BUCKET).await?;
            }
            Step::RemoveFinalizer => {
                ctx.remove_finalizer(bucket, api::FINALIZER_BUCKET).await?;
            }
            Step::Create(alias) => {
                let create = CreateBucket {
                    global_alias: Some(alias.clone()),
                    local_alias: None,
                };
                let client = home.client("create the bucket")?;
                ctx.guarded("create a bucket", client.create_bucket(&create))
                    .await??;
            }
            Step::Record(_) => {}
            Step::AddAlias(alias) => {
                let (client, id) = known()?;
                ctx.guarded("name a bucket", client.add_bucket_alias(id, alias.clone()))
                    .await??;
            }
            Step::RemoveAlias(alias) => {
                let (client, id) = known()?;
                let removal = client.remove_bucket_alias(id, alias.clone());
                ctx.guarded("take a name from a bucket", removal).await??;
            }
            Step::Update(update) => {
                let (client, id) = known()?;
                ctx.guarded("change a bucket", client.update_bucket(id, update))
                    .await??;
            }
            Step::Allow(key, rights) => {
                let (client, id) = known()?;
                let allow = client.allow_bucket_key(id, key, *rights);
                ctx.guarded("give rights on a bucket", allow).await??;
            }
            Step::Deny(key, rights) => {
                let (client, id) = known()?;
                let deny = client.deny_bucket_key(id, key, *rights);
                ctx.guarded("take rights on a bucket", deny).await??;
            }
            Step::Delete => {
                let (client, id) = known()?;
                match ctx
                    .guarded("delete a bucket", client.delete_bucket(id))
                    .await?
                {
                    Err(error) if !error.is_not_found() => return Err(error.into()),
                    Ok(()) | Err(_) => {}
                }
            }
        }
        Ok(())
    }
}
