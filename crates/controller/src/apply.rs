//! The one door through which a controller writes: server-side apply of objects and Events. May not
//! decide what to write; it only leaves out what would change nothing and what only the lease's
//! holder may do.

use crate::covers::{covers, strip_nulls};
use crate::error::{Error, Result};
use crate::events::Notice;
use crate::kind::{Kind, is_namespaced};
use crate::lease::Leadership;
use crate::metrics::Metrics;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{GetParams, Patch, PatchParams};
use kube::core::Request;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, Resource};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The annotation with which [`Ctx::ensure`] remembers what it applied: the first 16 hex digits of
/// the SHA-256 of the desired object's JSON.
pub const APPLIED: &str = "gatewright.dev/applied";

/// What a controller needs to write: a client, its name, and whether it is the one to write.
#[derive(Clone)]
pub struct Ctx {
    client: Client,
    controller: Arc<str>,
    manager: Arc<str>,
    events: Recorder,
    leadership: Option<Leadership>,
    writes: Arc<AtomicU64>,
    metrics: Metrics,
}

/// What [`Ctx::ensure`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// Nothing: the object is as desired.
    Unchanged,
    /// The object was applied where none was known.
    Created,
    /// The object was applied over one that differed.
    Changed,
}

impl Ensured {
    /// Whether something was sent.
    #[must_use]
    pub fn is_written(self) -> bool {
        match self {
            Self::Unchanged => false,
            Self::Created | Self::Changed => true,
        }
    }
}

/// An object to write to, and how to speak about it.
pub(crate) struct Target {
    /// Of the collection.
    pub(crate) url: String,
    pub(crate) name: String,
    pub(crate) kind: String,
    /// Verb for metrics.
    pub(crate) verb: &'static str,
    /// What we are doing, for errors: `apply ConfigMap default/web`.
    pub(crate) action: String,
}

impl Target {
    /// `doing` is the beginning of a sentence for people, `verb` a word for metrics.
    pub(crate) fn of<K: Kind>(verb: &'static str, doing: &str, object: &K) -> Result<Self> {
        let meta = object.meta();
        Self::named::<K>(verb, doing, meta.namespace.as_deref(), meta.name.as_deref())
    }

    pub(crate) fn named<K: Kind>(
        verb: &'static str,
        doing: &str,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Result<Self> {
        let kind = K::kind(&()).into_owned();
        let (namespace, name) = match (is_namespaced::<K>(), namespace, name) {
            (true, Some(namespace), Some(name)) => (Some(namespace), name),
            (false, _, Some(name)) => (None, name),
            (true | false, _, _) => {
                let action = format!("{doing} {kind}");
                return Err(Error::Unnamed { action });
            }
        };
        let place = namespace
            .map(|namespace| format!("{namespace}/"))
            .unwrap_or_default();
        Ok(Self {
            action: format!("{doing} {kind} {place}{name}"),
            url: K::url_path(&(), namespace),
            name: name.to_owned(),
            kind,
            verb,
        })
    }

    pub(crate) fn request(&self) -> Request {
        Request::new(self.url.as_str())
    }

    pub(crate) fn encode(&self, object: &impl Serialize) -> Result<Value> {
        serde_json::to_value(object).map_err(|source| Error::Encode {
            action: self.action.clone(),
            source,
        })
    }
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
            controller: controller.into(),
            manager: manager.into(),
            leadership: None,
            writes: Arc::default(),
            metrics: Metrics::new(),
        }
    }

    /// The same, but nothing is written unless the lease is held.
    #[must_use]
    pub fn gated_by(mut self, leadership: Leadership) -> Self {
        self.leadership = Some(leadership);
        self
    }

    /// The same, but its writes are counted among these metrics.
    #[must_use]
    pub fn measured_by(mut self, metrics: &Metrics) -> Self {
        self.metrics = metrics.clone();
        self
    }

    /// The client, for reading.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The controller's short name.
    #[must_use]
    pub fn controller(&self) -> &str {
        &self.controller
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

    /// The metrics among which the writes are counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How many requests that write were sent so far.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Reads an object; `None` if there is none. `namespace` is ignored for a cluster-scoped kind.
    ///
    /// # Errors
    /// What the apiserver says.
    pub async fn get_opt<K: Kind>(&self, namespace: Option<&str>, name: &str) -> Result<Option<K>> {
        let target = Target::named::<K>("get", "read", namespace, Some(name))?;
        let request = target.request().get(name, &GetParams::default());
        match Box::pin(self.send(request)).await {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
            Err(source) => Err(Error::api(&target.action, source)),
        }
    }

    /// Server-side apply of a whole object; fields that others own are taken over.
    ///
    /// # Errors
    /// [`Error::NotHolder`] without the lease, else what the apiserver says.
    pub async fn apply<K: Kind>(&self, object: &K) -> Result<K> {
        let target = Target::of("apply", "apply", object)?;
        self.send_apply(&target, object).await
    }

    /// Server-side apply of a whole object, unless `present` (as it was last seen) already is as
    /// desired. Fields that others own are taken over; a field that an earlier call set and
    /// `desired` lacks is removed.
    ///
    /// What is written carries the annotation [`APPLIED`]. Nothing is written when `present` has
    /// that annotation with the same value and [covers](crate::covers) `desired`: the annotation
    /// tells of changes of ours, the comparison of changes by others. `stringData` of a Secret is
    /// applied as `data`.
    ///
    /// # Errors
    /// [`Error::NotHolder`] without the lease, else what the apiserver says.
    pub async fn ensure<K: Kind>(&self, desired: &K, present: Option<&K>) -> Result<Ensured> {
        let target = Target::of("apply", "apply", desired)?;
        let mut value = target.encode(desired)?;
        prepare(&mut value);
        let done = match present {
            None => Ensured::Created,
            Some(present) if covers(&target.encode(present)?, &value) => {
                return Ok(Ensured::Unchanged);
            }
            Some(_) => Ensured::Changed,
        };
        self.send_apply::<K>(&target, &value).await?;
        Ok(done)
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
        // Events about objects of the whole cluster are kept in the namespace `default`.
        let namespace = about.namespace.as_deref().unwrap_or_default();
        let action = format!("publish an Event about {} {namespace}/{name}", K::kind(&()));
        let event = notice.event();
        let published = Box::pin(self.events.publish(&event, &about));
        self.write("Event", "publish", &action, published).await
    }

    /// Does something outside of Kubernetes that only the lease's holder may do. `action` is a
    /// verb and an object, for instance `create bucket photos`.
    ///
    /// # Errors
    /// [`Error::NotHolder`] without the lease, or when it ran out before `effect` was done; then it
    /// may or may not have happened.
    pub async fn guarded<T>(&self, action: &str, effect: impl Future<Output = T>) -> Result<T> {
        let Some(leadership) = &self.leadership else {
            return Ok(effect.await);
        };
        let done = leadership.while_held(effect).await;
        done.ok_or_else(|| Error::NotHolder {
            action: action.to_owned(),
        })
    }

    /// Server-side apply of a whole object that nobody has seen yet, with [`APPLIED`]. Where another
    /// manager owns a field with another value, nothing is written and the error is a conflict.
    pub(crate) async fn claim<K: Kind>(&self, desired: &K) -> Result<K> {
        let target = Target::of("apply", "apply", desired)?;
        let mut value = target.encode(desired)?;
        prepare(&mut value);
        let parameters = PatchParams::apply(&self.manager);
        self.send_patch(&target, &value, &parameters).await
    }

    /// Gives up every field that an earlier apply of ours has set. Fields that nobody else owns go.
    pub(crate) async fn disown<K: Kind>(&self, namespace: Option<&str>, name: &str) -> Result<K> {
        let target = Target::named::<K>("apply", "disown", namespace, Some(name))?;
        let nothing = json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": { "name": name },
        });
        self.send_apply(&target, &nothing).await
    }

    async fn send_apply<K: Kind>(&self, target: &Target, object: &impl Serialize) -> Result<K> {
        let parameters = PatchParams::apply(&self.manager).force();
        self.send_patch(target, object, &parameters).await
    }

    async fn send_patch<K: Kind>(
        &self,
        target: &Target,
        object: &impl Serialize,
        parameters: &PatchParams,
    ) -> Result<K> {
        let patch = Patch::Apply(object);
        let request = target.request().patch(&target.name, parameters, &patch);
        self.write_to(target, self.send(request)).await
    }

    /// Sends a request that was built by hand, because [`kube::Api`] is made for either scope.
    pub(crate) async fn send<T: serde::de::DeserializeOwned>(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> kube::Result<T> {
        let request = request.map_err(kube::Error::BuildRequest)?;
        self.client.request(request).await
    }

    pub(crate) async fn write_to<T>(
        &self,
        target: &Target,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T> {
        self.write(&target.kind, target.verb, &target.action, request)
            .await
    }

    /// Sends a write, unless another replica is the one to do it.
    async fn write<T>(
        &self,
        kind: &str,
        verb: &'static str,
        action: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T> {
        // Boxed, for the client's futures are large.
        let counted = Box::pin(async {
            self.writes.fetch_add(1, Ordering::Relaxed);
            self.metrics.wrote(&self.controller, kind, verb);
            request.await
        });
        let answer = self.guarded(action, counted).await?;
        answer.map_err(|source| Error::api(action, source))
    }
}

/// The field manager of a controller.
pub(crate) fn field_manager(controller: &str) -> String {
    format!("gatewright/{controller}")
}

/// Makes of an object what is applied: no `null`s, nothing that only the apiserver writes, and the
/// annotation. A `resourceVersion` stays, as a precondition.
fn prepare(object: &mut Value) {
    let mut version = None;
    if let Value::Object(fields) = object {
        if fields.get("kind") == Some(&json!("Secret"))
            && let Some(Value::Object(strings)) = fields.remove("stringData")
        {
            for (key, text) in strings {
                let bytes = ByteString(text.as_str().unwrap_or_default().as_bytes().to_vec());
                fields.entry("data").or_insert_with(|| json!({}))[key] = json!(bytes);
            }
        }
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            version = metadata.remove("resourceVersion");
            metadata.remove("managedFields");
            if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
                annotations.remove(APPLIED);
            }
        }
    }
    strip_nulls(object);
    let mark = fingerprint(object);
    let metadata = &mut object["metadata"];
    if let Some(version) = version {
        metadata["resourceVersion"] = version;
    }
    let annotations = &mut metadata["annotations"];
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[APPLIED] = json!(mark);
}

/// The first 16 hex digits of the SHA-256 of a value's JSON.
fn fingerprint(value: &Value) -> String {
    let digest = Sha256::digest(value.to_string());
    digest.iter().take(8).fold(String::new(), |mut hex, byte| {
        // Writing into a String does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_applied_carries_the_hash_of_what_is_desired() {
        let desired =
            json!({ "kind": "ConfigMap", "metadata": { "name": "m" }, "data": { "a": "1" } });
        let mut applied = desired.clone();
        prepare(&mut applied);
        let mark = applied["metadata"]["annotations"][APPLIED]
            .as_str()
            .expect("is there")
            .to_owned();
        assert_eq!(
            (mark.len(), mark.as_str()),
            (16, fingerprint(&desired).as_str())
        );
        // The version that it is applied to is no part of what is desired.
        let mut versioned = desired.clone();
        versioned["metadata"]["resourceVersion"] = json!("7");
        prepare(&mut versioned);
        assert_eq!(versioned["metadata"]["annotations"][APPLIED], mark);
        assert_eq!(versioned["metadata"]["resourceVersion"], "7");
        let mut other = desired;
        other["data"] = json!({});
        prepare(&mut other);
        assert!(!covers(&applied, &other), "a removed field is noticed");
    }

    #[test]
    fn string_data_becomes_data() {
        let mut secret = json!({ "kind": "Secret", "metadata": {}, "stringData": { "a": "b" }, "data": { "c": "ZA==" } });
        prepare(&mut secret);
        assert_eq!(secret["data"], json!({ "a": "Yg==", "c": "ZA==" }));
        assert_eq!(secret.get("stringData"), None);
    }
}
