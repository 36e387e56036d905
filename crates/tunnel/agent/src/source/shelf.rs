//! The objects of one kind, kept by what its watch says. Pure; may not send requests.

use gatewright_translate::Key;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where `kubectl apply` keeps the manifest: as large as the object itself, and never read here.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// All objects of one kind in one scope.
#[derive(Debug)]
pub(super) struct Shelf<K> {
    /// The objects as of the last complete list and the changes since.
    live: BTreeMap<Key, Arc<K>>,
    /// A list that is under way. It replaces `live` as a whole, so that an object that was deleted
    /// while nobody watched is gone, too.
    incoming: Option<BTreeMap<Key, Arc<K>>>,
    /// Objects that could not be decoded, and why.
    invalid: BTreeMap<Key, String>,
}

impl<K> Default for Shelf<K> {
    fn default() -> Self {
        Self {
            live: BTreeMap::new(),
            incoming: None,
            invalid: BTreeMap::new(),
        }
    }
}

impl<K: Resource<DynamicType = ()>> Shelf<K> {
    /// Takes in one piece of news; `manager` is the field manager whose marks are kept. `true` if
    /// `live` may have changed and is complete.
    pub(super) fn take(&mut self, event: Event<DeserializeGuard<K>>, manager: &str) -> bool {
        match event {
            Event::Init => {
                self.incoming = Some(BTreeMap::new());
                self.invalid.clear();
                false
            }
            Event::InitApply(object) => {
                let (key, object) = self.decoded(object, manager);
                if let (Some(object), Some(incoming)) = (object, &mut self.incoming) {
                    incoming.insert(key, object);
                }
                false
            }
            Event::InitDone => {
                if let Some(incoming) = self.incoming.take() {
                    self.live = incoming;
                }
                true
            }
            Event::Apply(object) => {
                let (key, object) = self.decoded(object, manager);
                if let Some(object) = object {
                    self.live.insert(key, object);
                }
                true
            }
            Event::Delete(object) => {
                let key = Key::of(object.meta());
                self.live.remove(&key);
                self.invalid.remove(&key);
                true
            }
        }
    }

    pub(super) fn live(&self) -> &BTreeMap<Key, Arc<K>> {
        &self.live
    }

    pub(super) fn invalid(&self) -> &BTreeMap<Key, String> {
        &self.invalid
    }

    /// The object to put on the shelf: the one there is if it is the same version, or if the new
    /// one cannot be decoded.
    fn decoded(&mut self, object: DeserializeGuard<K>, manager: &str) -> (Key, Option<Arc<K>>) {
        let key = Key::of(object.meta());
        let before = self.live.get(&key);
        match object.0 {
            Ok(mut object) => {
                self.invalid.remove(&key);
                let version = |object: &K| object.resource_version();
                let same = before.filter(|before| {
                    version(before).is_some() && version(before) == version(&object)
                });
                let object = match same {
                    Some(before) => before.clone(),
                    None => {
                        trim(&mut object, manager);
                        Arc::new(object)
                    }
                };
                (key, Some(object))
            }
            Err(invalid) => {
                let before = before.cloned();
                self.invalid.insert(key.clone(), invalid.error);
                (key, before)
            }
        }
    }
}

/// Drops what is large and never read, and keeps the marks of our own writes.
fn trim<K: Resource>(object: &mut K, manager: &str) {
    let metadata = object.meta_mut();
    if let Some(fields) = &mut metadata.managed_fields {
        fields.retain(|field| field.manager.as_deref() == Some(manager));
    }
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::{Value, json};

    const MANAGER: &str = "gatewright/agent";

    fn object(value: Value) -> DeserializeGuard<Service> {
        serde_json::from_value(value).expect("has metadata")
    }

    fn service(name: &str, version: &str) -> DeserializeGuard<Service> {
        object(
            json!({ "metadata": { "namespace": "n", "name": name, "resourceVersion": version } }),
        )
    }

    fn undecodable(name: &str) -> DeserializeGuard<Service> {
        let metadata = json!({ "namespace": "n", "name": name, "resourceVersion": "9" });
        object(json!({ "metadata": metadata, "spec": { "ports": "many" } }))
    }

    fn shelf(events: impl IntoIterator<Item = Event<DeserializeGuard<Service>>>) -> Shelf<Service> {
        let mut shelf = Shelf::default();
        for event in events {
            shelf.take(event, MANAGER);
        }
        shelf
    }

    fn names<T>(map: &BTreeMap<Key, T>) -> Vec<&str> {
        map.keys().map(|key| key.name.as_str()).collect()
    }

    #[test]
    fn flaw_16_an_object_deleted_while_disconnected_is_gone_after_the_next_list() {
        let mut shelf = shelf([
            Event::Init,
            Event::InitApply(service("a", "1")),
            Event::InitApply(service("b", "1")),
            Event::InitDone,
        ]);
        assert_eq!(names(shelf.live()), ["a", "b"]);
        shelf.take(Event::Init, MANAGER);
        assert!(!shelf.take(Event::InitApply(service("b", "1")), MANAGER));
        // Until the list is complete, what is known stays in use.
        assert_eq!(names(shelf.live()), ["a", "b"]);
        assert!(shelf.take(Event::InitDone, MANAGER));
        assert_eq!(names(shelf.live()), ["b"]);
    }

    #[test]
    fn a_list_shares_the_objects_that_did_not_change() {
        let mut shelf = shelf([
            Event::Init,
            Event::InitApply(service("a", "1")),
            Event::InitDone,
        ]);
        let key = Key::new("n", "a");
        let before = shelf.live()[&key].clone();
        for event in [
            Event::Init,
            Event::InitApply(service("a", "1")),
            Event::InitDone,
        ] {
            shelf.take(event, MANAGER);
        }
        assert!(Arc::ptr_eq(&before, &shelf.live()[&key]));
        shelf.take(Event::Apply(service("a", "2")), MANAGER);
        assert!(!Arc::ptr_eq(&before, &shelf.live()[&key]));
    }

    #[test]
    fn an_undecodable_object_stalls_nothing_and_keeps_its_last_good_state() {
        let mut shelf = shelf([
            Event::Init,
            Event::InitApply(service("a", "1")),
            Event::InitApply(undecodable("b")),
            Event::InitDone,
            Event::Apply(undecodable("a")),
            Event::Apply(service("c", "1")),
        ]);
        assert_eq!(names(shelf.live()), ["a", "c"]);
        assert_eq!(names(shelf.invalid()), ["a", "b"]);
        shelf.take(Event::Apply(service("a", "2")), MANAGER);
        shelf.take(Event::Delete(undecodable("b")), MANAGER);
        assert!(shelf.invalid().is_empty());
    }

    #[test]
    fn an_invalid_object_that_is_gone_after_a_list_is_forgotten() {
        let mut shelf = shelf([
            Event::Init,
            Event::InitApply(undecodable("b")),
            Event::InitDone,
        ]);
        assert_eq!(names(shelf.invalid()), ["b"]);
        for event in [Event::Init, Event::InitDone] {
            shelf.take(event, MANAGER);
        }
        assert!(shelf.invalid().is_empty());
    }

    #[test]
    fn what_is_large_and_never_read_is_not_kept() {
        let managed = |manager: &str| json!({ "manager": manager, "operation": "Apply" });
        let shelf = shelf([Event::Apply(object(json!({ "metadata": {
            "namespace": "n", "name": "a",
            "annotations": { LAST_APPLIED: "{}", "keep": "this" },
            "managedFields": [managed("kubectl"), managed(MANAGER)],
        } })))]);
        let metadata = &shelf.live()[&Key::new("n", "a")].metadata;
        let annotations = metadata.annotations.as_ref().expect("has annotations");
        assert_eq!(annotations.keys().collect::<Vec<_>>(), ["keep"]);
        assert_eq!(metadata.managed_fields.as_ref().map(Vec::len), Some(1));
    }
}
