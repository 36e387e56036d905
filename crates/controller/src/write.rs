//! Writes other than apply: create once, patch, delete, finalizers. May not decide when; each of
//! them names the version or the object it was decided for, so that it never hits another.

use crate::apply::{Ctx, Target};
use crate::error::{Error, Result};
use crate::kind::Kind;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use serde_json::{Value, json};

/// What [`Ctx::create`] found.
#[derive(Debug, Clone, PartialEq)]
pub enum Created<K> {
    /// It was created, and is now this.
    New(K),
    /// One of that name is there already; it was not touched.
    Exists,
}

/// What [`Ctx::delete`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// The apiserver has accepted it; finalizers may keep the object for a while.
    Accepted,
    /// That object was gone already (there may be another of the same name).
    Gone,
}

/// How often a finalizer is tried anew when others write at the same time.
const ATTEMPTS: u32 = 5;

impl Ctx {
    /// Creates an object that is written once and never changed (a Secret with random content).
    ///
    /// # Errors
    /// [`Error::NotHolder`] without the lease, else what the apiserver says.
    pub async fn create<K: Kind>(&self, object: &K) -> Result<Created<K>> {
        let target = Target::of("create", "create", object)?;
        let body = serde_json::to_vec(object).map_err(|source| Error::Encode {
            action: target.action.clone(),
            source,
        })?;
        let parameters = PostParams {
            field_manager: Some(self.manager().to_owned()),
            ..PostParams::default()
        };
        let request = target.request().create(&parameters, body);
        match self.write_to(&target, self.send(request)).await {
            Ok(created) => Ok(Created::New(created)),
            Err(error) if error.is_already_exists() => Ok(Created::Exists),
            Err(error) => Err(error),
        }
    }

    /// Deletes exactly this object: one that was made anew under its name stays.
    ///
    /// # Errors
    /// [`Error::NotHolder`] without the lease, else what the apiserver says.
    pub async fn delete<K: Kind>(
        &self,
        object: &K,
        propagation: PropagationPolicy,
    ) -> Result<Deleted> {
        let parameters = DeleteParams {
            propagation_policy: Some(propagation),
            ..DeleteParams::default()
        };
        self.delete_exactly(object, parameters).await
    }

    /// The same for a pod, which has so many seconds to end, whatever its spec says. One that ends already
    /// has no more than these left.
    ///
    /// # Errors
    /// Those of [`Self::delete`].
    pub async fn delete_within(&self, pod: &Pod, seconds: u32) -> Result<Deleted> {
        let parameters = DeleteParams::default().grace_period(seconds);
        self.delete_exactly(pod, parameters).await
    }

    async fn delete_exactly<K: Kind>(
        &self,
        object: &K,
        parameters: DeleteParams,
    ) -> Result<Deleted> {
        let target = Target::of("delete", "delete", object)?;
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: object.meta().uid.clone(),
                resource_version: None,
            }),
            ..parameters
        };
        let request = target.request().delete(&target.name, &parameters);
        // The answer is the object or a Status; neither tells more than that it was accepted.
        match self.write_to(&target, self.send::<Value>(request)).await {
            Ok(_) => Ok(Deleted::Accepted),
            // A conflict with a uid as the only precondition: it is another object.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(Deleted::Gone),
            Err(error) => Err(error),
        }
    }

    /// Merge patch (RFC 7396) on top of exactly the version that `object` is.
    ///
    /// # Errors
    /// One with [`Error::is_conflict`] when the object has changed since, [`Error::NotHolder`]
    /// without the lease, else what the apiserver says.
    pub async fn patch_merge<K: Kind>(&self, object: &K, patch: &Value) -> Result<K> {
        let target = Target::of("patch", "patch", object)?;
        self.send_merge(&target, object, patch).await
    }

    /// Adds a finalizer, and keeps those of others. `None` if it is there already: nothing was
    /// sent.
    ///
    /// # Errors
    /// [`Error::NotHolder`] without the lease, else what the apiserver says; it forbids to add one
    /// to an object that is being deleted.
    pub async fn add_finalizer<K: Kind>(&self, object: &K, finalizer: &str) -> Result<Option<K>> {
        let target = Target::of("patch", "add a finalizer to", object)?;
        let add = |present: &[String]| {
            let mut finalizers = present.to_vec();
            if present.iter().any(|one| one == finalizer) {
                return None;
            }
            finalizers.push(finalizer.to_owned());
            Some(finalizers)
        };
        self.set_finalizers(&target, object, add).await
    }

    /// Removes a finalizer, and keeps those of others. `None` if it is not there, or the object is
    /// gone: nothing is left to do.
    ///
    /// # Errors
    /// [`Error::NotHolder`] without the lease, else what the apiserver says.
    pub async fn remove_finalizer<K: Kind>(
        &self,
        object: &K,
        finalizer: &str,
    ) -> Result<Option<K>> {
        let target = Target::of("patch", "remove a finalizer from", object)?;
        let remove = |present: &[String]| {
            let mut finalizers = present.to_vec();
            finalizers.retain(|one| one != finalizer);
            (finalizers.len() < present.len()).then_some(finalizers)
        };
        match self.set_finalizers(&target, object, remove).await {
            Err(error) if error.is_not_found() => Ok(None),
            answer => answer,
        }
    }

    /// Changes the list of finalizers, provided that nobody else does at the same time; otherwise
    /// looks again. `change` gives the new list, or `None` when nothing is to be done.
    async fn set_finalizers<K: Kind>(
        &self,
        target: &Target,
        object: &K,
        change: impl Fn(&[String]) -> Option<Vec<String>>,
    ) -> Result<Option<K>> {
        let meta = object.meta();
        let mut fresh: Option<K> = None;
        let mut attempt = 1;
        loop {
            let seen = fresh.as_ref().unwrap_or(object);
            let present = seen.meta().finalizers.as_deref().unwrap_or_default();
            let Some(finalizers) = change(present) else {
                return Ok(None);
            };
            let sent = if present.is_empty() {
                // There is no list yet that could be tested; the version stands for it.
                let patch = json!({ "metadata": { "finalizers": finalizers } });
                self.send_merge(target, seen, &patch).await
            } else {
                self.send_list(target, seen, present, &finalizers).await
            };
            match sent {
                // A failed test of a JSON patch is answered with 422.
                Err(error) if attempt < ATTEMPTS && (error.is_conflict() || error.is_invalid()) => {
                    attempt += 1;
                    let (namespace, name) = (meta.namespace.as_deref(), &target.name);
                    let again: Option<K> = self.get_opt(namespace, name).await?;
                    match again.filter(|again| again.meta().uid == meta.uid) {
                        Some(again) => fresh = Some(again),
                        None => return Ok(None),
                    }
                }
                answer => return answer.map(Some),
            }
        }
    }

    async fn send_list<K: Kind>(
        &self,
        target: &Target,
        object: &K,
        present: &[String],
        desired: &[String],
    ) -> Result<K> {
        let patch = json!([
            { "op": "test", "path": "/metadata/uid", "value": object.meta().uid },
            { "op": "test", "path": "/metadata/finalizers", "value": present },
            { "op": "replace", "path": "/metadata/finalizers", "value": desired },
        ]);
        let patch = serde_json::from_value(patch).map_err(|source| Error::Encode {
            action: target.action.clone(),
            source,
        })?;
        let request =
            target
                .request()
                .patch(&target.name, &self.patched(), &Patch::Json::<()>(patch));
        self.write_to(target, self.send(request)).await
    }

    async fn send_merge<K: Kind>(&self, target: &Target, object: &K, patch: &Value) -> Result<K> {
        let mut patch = patch.clone();
        let metadata = &mut patch["metadata"];
        // Both, for a version alone does not tell an object from one made anew in a restored store.
        metadata["resourceVersion"] = json!(object.meta().resource_version);
        metadata["uid"] = json!(object.meta().uid);
        let patch = Patch::Merge(patch);
        let request = target
            .request()
            .patch(&target.name, &self.patched(), &patch);
        self.write_to(target, self.send(request)).await
    }

    fn patched(&self) -> PatchParams {
        PatchParams {
            field_manager: Some(self.manager().to_owned()),
            ..PatchParams::default()
        }
    }
}
