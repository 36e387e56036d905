//! The objects a translation reads, and their keys. Holds them as they came; may not interpret them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Serialize, Serializer};

use crate::manifest::Object;

/// Names a namespaced object; written and serialized as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace; `default` for a manifest that names none.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
}

impl Key {
    /// Puts the two parts together.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of an object; an absent namespace is `default`, as `kubectl apply` takes it.
    pub fn of(metadata: &ObjectMeta) -> Self {
        let namespace = metadata
            .namespace
            .as_deref()
            .filter(|namespace| !namespace.is_empty());
        Self::new(
            namespace.unwrap_or("default"),
            metadata.name.as_deref().unwrap_or_default(),
        )
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Everything the agent watches. A clone shares the objects.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Ingresses of every watched namespace.
    pub ingresses: BTreeMap<Key, Arc<Ingress>>,
    /// IngressClasses by name; they have no namespace.
    pub classes: BTreeMap<String, Arc<IngressClass>>,
    /// Services of every watched namespace.
    pub services: BTreeMap<Key, Arc<Service>>,
    /// EndpointSlices by their own name; their Service is named by a label.
    pub slices: BTreeMap<Key, Arc<EndpointSlice>>,
}

impl Objects {
    /// Adds or replaces one object; `false` if it is of a kind that takes no part in routing.
    pub fn insert(&mut self, object: Object) -> bool {
        match object {
            Object::Ingress(ingress) => {
                self.ingresses
                    .insert(Key::of(&ingress.metadata), Arc::new(*ingress));
            }
            Object::IngressClass(class) => {
                self.classes.insert(
                    class.metadata.name.clone().unwrap_or_default(),
                    Arc::new(*class),
                );
            }
            Object::Service(service) => {
                self.services
                    .insert(Key::of(&service.metadata), Arc::new(*service));
            }
            Object::EndpointSlice(slice) => {
                self.slices
                    .insert(Key::of(&slice.metadata), Arc::new(*slice));
            }
            Object::Other { .. } => return false,
        }
        true
    }
}
