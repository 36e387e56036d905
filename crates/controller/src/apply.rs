//! The one door through which a controller writes. May not decide what to write; it only leaves
//! out what would change nothing and what only the lease's holder may do.

use crate::error::{Error, Result};
use crate::events::Notice;
use crate::lease::Leadership;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a controller needs to write: a client, its name, and whether it is the one to write.
#[derive(Clone)]
pub struct Ctx {
    client: Client,
    manager: Arc<str>,
    events: Recorder,
    leadership: Option<Leadership>,
    writes: Arc<AtomicU64>,
}

impl Ctx {
    /// `controller` is the short name, `agent`, and becomes the field manager `gatewright/agent`;
    /// `instance` tells replicas apart in events, the Pod's name for instance.
    #[must_use]
    pub fn new(client: Client, controller: &str, instance: Option<String>) -> Self {
        let manager = field_manager(controller);
        let reporter = Reporter {
            controller: manager.clone(),
            instance,
        };
        Self {
            events: Recorder::new(client.clone(), reporter),
            client,
            manager: manager.into(),
            leadership: None,
            writes: Arc::default(),
        }
    }

    /// The same, but nothing is written unless the lease is held.
    #[must_use]
    pub fn gated_by(mut self, leadership: Leadership) -> Self {
        self.leadership = Some(leadership);
        self
    }

    /// The client, for reading.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The field manager of every write.
    #[must_use]
    pub fn manager(&self) -> &str {
        &self.manager
    }

    /// The lease that gates the writes, if one does.
    #[must_use]
    pub fn leadership(&self) -> Option<&Leadership> {
        self.leadership.as_ref()
    }

    /// How many requests that write were sent so far.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Server-side apply of a whole object; fields that others own are taken over.
    ///
    /// # Errors
    /// [`Error::NotHolder`] without the lease, else what the apiserver says.
    pub async fn apply<K>(&self, object: &K) -> Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let (api, name, action) = self.target::<K>("apply", object)?;
        let parameters = PatchParams::apply(&self.manager).force();
        let patch = Patch::Apply(object);
        self.write(&action, api.patch(&name, &parameters, &patch))
            .await
    }

    /// Server-side apply of the status subresource: `status` holds all the fields of it that are
    /// ours, and only those. `None` when the object already says so: nothing was sent.
    ///
    /// A field that an earlier call set and `status` lacks is removed.
    ///
    /// # Errors
    /// [`Error::NotHolder`] without the lease, else what the apiserver says.
    pub async fn apply_status<K>(&self, object: &K, status: &Value) -> Result<Option<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let (api, name, action) = self.target::<K>("apply the status of", object)?;
        let present = serde_json::to_value(object).map_err(|source| Error::Encode {
            action: action.clone(),
            source,
        })?;
        if !status_differs(&present["status"], status) {
            return Ok(None);
        }
        let patch = Patch::Apply(json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            // An object made anew under the same name must not get the old one's status.
            "metadata": { "name": name, "uid": object.meta().uid },
            "status": status,
        }));
        let parameters = PatchParams::apply(&self.manager).force();
        let written = api.patch_status(&name, &parameters, &patch);
        self.write(&action, written).await.map(Some)
    }

    /// Publishes an Event about an object. Repeats within minutes are counted on one Event.
    ///
    /// # Errors
    /// [`Error::NotHolder`] without the lease, else what the apiserver says.
    pub async fn publish<K>(&self, object: &K, notice: &Notice) -> Result<()>
    where
        K: Resource<DynamicType = ()>,
    {
        let about: ObjectReference = object.object_ref(&());
        let name = about.name.as_deref().unwrap_or_default();
        let namespace = about.namespace.as_deref().unwrap_or_default();
        let action = format!("publish an Event about {} {namespace}/{name}", K::kind(&()));
        let event = notice.event();
        let published = Box::pin(self.events.publish(&event, &about));
        self.write(&action, published).await
    }

    fn target<K>(&self, verb: &str, object: &K) -> Result<(Api<K>, String, String)>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let kind = K::kind(&());
        let (Some(name), Some(namespace)) = (&object.meta().name, object.namespace()) else {
            let action = format!("{verb} {kind}");
            return Err(Error::Unnamed { action });
        };
        let action = format!("{verb} {kind} {namespace}/{name}");
        let api = Api::namespaced(self.client.clone(), &namespace);
        Ok((api, name.clone(), action))
    }

    /// Sends a write, unless another replica is the one to do it.
    async fn write<T>(
        &self,
        action: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T> {
        // Boxed, for the client's futures are large.
        let counted = Box::pin(async {
            self.writes.fetch_add(1, Ordering::Relaxed);
            request.await
        });
        let answer = match &self.leadership {
            None => counted.await,
            Some(leadership) => match leadership.while_held(counted).await {
                Some(answer) => answer,
                None => {
                    let action = action.to_owned();
                    return Err(Error::NotHolder { action });
                }
            },
        };
        answer.map_err(|source| Error::api(action, source))
    }
}

/// The field manager of a controller.
pub(crate) fn field_manager(controller: &str) -> String {
    format!("gatewright/{controller}")
}

/// Whether the fields that `desired` names differ from `present`. Absent, `null`, `{}` and `[]` are
/// the same, because the apiserver drops empty fields.
#[must_use]
pub fn status_differs(present: &Value, desired: &Value) -> bool {
    let Value::Object(desired) = desired else {
        return !same(present, desired);
    };
    desired
        .iter()
        .any(|(field, value)| !same(present.get(field).unwrap_or(&Value::Null), value))
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let covered = |a: &serde_json::Map<String, Value>, b: &serde_json::Map<_, _>| {
                a.iter()
                    .all(|(field, value)| same(value, b.get(field).unwrap_or(&Value::Null)))
            };
            covered(a, b) && covered(b, a)
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (a, b) => a == b || (is_empty(a) && is_empty(b)),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_differs_only_in_the_fields_that_are_named() {
        let web = json!({ "ingress": [{ "hostname": "web.example" }] });
        for (present, desired, differs) in [
            (json!(null), json!({ "loadBalancer": web }), true),
            (
                json!({ "loadBalancer": web }),
                json!({ "loadBalancer": web }),
                false,
            ),
            (
                json!({ "loadBalancer": web, "conditions": [1] }),
                json!({ "loadBalancer": web }),
                false,
            ),
            (
                json!({ "loadBalancer": web }),
                json!({ "loadBalancer": {} }),
                true,
            ),
            (
                json!({ "loadBalancer": {} }),
                json!({ "loadBalancer": { "ingress": [] } }),
                false,
            ),
            (json!(null), json!({ "loadBalancer": {} }), false),
            (
                json!({ "loadBalancer": { "ingress": [{ "hostname": "a" }, { "hostname": "b" }] } }),
                json!({ "loadBalancer": { "ingress": [{ "hostname": "b" }, { "hostname": "a" }] } }),
                true,
            ),
        ] {
            assert_eq!(
                status_differs(&present, &desired),
                differs,
                "{present} → {desired}"
            );
        }
    }
}
