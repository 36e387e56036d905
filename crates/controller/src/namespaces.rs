//! Which namespaces a controller looks at, and the watches of all of them as one. May not know any kind.

use crate::kind::Kind;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _, stream};
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::reflector::Store;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use std::collections::{BTreeMap, BTreeSet};

/// Where a controller acts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Namespaces {
    /// In the whole cluster: one watch per kind, and rights by ClusterRole.
    #[default]
    All,
    /// Only in these: one watch per kind and namespace, and rights by Roles.
    Only(BTreeSet<String>),
}

/// How many objects are read at a time when a watch begins: all of them at once would be held in memory
/// together, decoded, and what that takes is not all given back.
const PAGE: u32 = 100;

impl Namespaces {
    /// Those of a list; an empty one means all.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let names: BTreeSet<_> = names.into_iter().collect();
        if names.is_empty() {
            Self::All
        } else {
            Self::Only(names)
        }
    }

    /// Whether objects of this namespace are looked at.
    #[must_use]
    pub fn contains(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(namespace),
        }
    }

    /// One [`Api`] for each watch that is needed.
    pub fn apis<K>(&self, client: &Client) -> Vec<Api<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self {
            Self::All => vec![Api::all(client.clone())],
            Self::Only(names) => names
                .iter()
                .map(|name| Api::namespaced(client.clone(), name))
                .collect(),
        }
    }

    /// The watches of all namespaces as one, which fills `known`.
    pub(crate) fn merged<K>(
        &self,
        client: &Client,
        config: watcher::Config,
        known: Store<K>,
    ) -> BoxStream<'static, Result<Event<K>, watcher::Error>>
    where
        K: Kind + Resource<Scope = NamespaceResourceScope>,
    {
        let names = match self {
            Self::All => return follow(Api::<K>::all(client.clone()), config).boxed(),
            Self::Only(names) => names,
        };
        let mut merge = Merge::new(names, known);
        let watches = self
            .apis::<K>(client)
            .into_iter()
            .enumerate()
            .map(|(place, api)| {
                let events = follow(api, config.clone());
                events.map(move |event| (place, event)).boxed()
            });
        let events = stream::select_all(watches).flat_map(move |(place, event)| {
            let events = match event {
                Ok(event) => merge.step(place, event).into_iter().map(Ok).collect(),
                Err(error) => {
                    let begun = match is_refusal(&error) {
                        true => merge.refused(place),
                        false => Vec::new(),
                    };
                    let begun = begun.into_iter().map(Ok);
                    std::iter::once(Err(error)).chain(begun).collect::<Vec<_>>()
                }
            };
            stream::iter(events)
        });
        events.boxed()
    }

    /// Objects as they change or go, in all namespaces.
    pub(crate) fn related<K>(
        &self,
        client: &Client,
        config: watcher::Config,
    ) -> impl Stream<Item = Result<K, watcher::Error>> + Send + use<K>
    where
        K: Kind + Resource<Scope = NamespaceResourceScope>,
    {
        let apis = self.apis::<K>(client);
        let watches = apis.into_iter().map(|api| {
            let events = follow(api, config.clone());
            events.touched_objects().boxed()
        });
        stream::select_all(watches)
    }
}

/// A watch of objects without their managed fields. Who manages which field is more than half of many
/// objects, and nothing that a controller decides on.
fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = Result<Event<K>, watcher::Error>> + Send
where
    K: Kind,
{
    watcher(api, config.page_size(PAGE))
        .default_backoff()
        .modify(|object| object.meta_mut().managed_fields = None)
}

/// Whether the apiserver said that these objects may not be read.
fn is_refusal(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    let source = match error {
        InitialListFailed(source) | WatchStartFailed(source) | WatchFailed(source) => source,
        _ => return false,
    };
    matches!(source, kube::Error::Api(status) if status.code == 403)
}

/// Makes the events of several watches look like those of one. A store takes a finished list for
/// everything there is, so the lists of all namespaces are first collected, and a list that comes
/// later is told as the changes it means. A namespace that may not be read is not waited for: it would
/// hold up the others until somebody gives the rights.
struct Merge<K: Resource<DynamicType = ()> + Clone + 'static> {
    places: Vec<Place<K>>,
    /// All namespaces have been listed or refused.
    begun: bool,
    /// Where the events end up.
    known: Store<K>,
}

/// One namespace.
struct Place<K> {
    namespace: String,
    /// By name, until all namespaces have been listed.
    objects: BTreeMap<String, K>,
    /// Listed, or refused.
    done: bool,
    /// The names in the list that is being read after that.
    listed: BTreeSet<String>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Merge<K> {
    fn new(namespaces: &BTreeSet<String>, known: Store<K>) -> Self {
        let places = namespaces.iter().map(|namespace| Place {
            namespace: namespace.clone(),
            objects: BTreeMap::new(),
            done: false,
            listed: BTreeSet::new(),
        });
        Self {
            places: places.collect(),
            begun: false,
            known,
        }
    }

    /// Takes an event of one watch; gives the events of the whole.
    fn step(&mut self, place: usize, event: Event<K>) -> Vec<Event<K>> {
        if self.begun {
            return later(&mut self.places[place], &self.known, event);
        }
        let here = &mut self.places[place];
        match event {
            Event::Init => {
                here.objects.clear();
                // Half a list must not pass for one that was refused before.
                here.done = false;
            }
            Event::InitApply(object) | Event::Apply(object) => {
                here.objects.insert(object.name_any(), object);
            }
            Event::Delete(object) => {
                here.objects.remove(&object.name_any());
            }
            Event::InitDone => here.done = true,
        }
        self.begin()
    }

    /// The objects of a namespace may not be read.
    fn refused(&mut self, place: usize) -> Vec<Event<K>> {
        self.places[place].done = true;
        self.begin()
    }

    /// The whole list, once there is nothing left to wait for.
    fn begin(&mut self) -> Vec<Event<K>> {
        if self.begun || !self.places.iter().all(|here| here.done) {
            return Vec::new();
        }
        self.begun = true;
        let objects = self
            .places
            .iter_mut()
            .map(|here| std::mem::take(&mut here.objects));
        let objects: Vec<K> = objects.flat_map(BTreeMap::into_values).collect();
        std::iter::once(Event::Init)
            .chain(objects.into_iter().map(Event::InitApply))
            .chain([Event::InitDone])
            .collect()
    }
}

fn later<K>(here: &mut Place<K>, known: &Store<K>, event: Event<K>) -> Vec<Event<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    match event {
        Event::Apply(object) => vec![Event::Apply(object)],
        Event::Delete(object) => vec![Event::Delete(object)],
        Event::Init => {
            here.listed.clear();
            Vec::new()
        }
        Event::InitApply(object) => {
            here.listed.insert(object.name_any());
            vec![Event::Apply(object)]
        }
        Event::InitDone => {
            let listed = std::mem::take(&mut here.listed);
            let gone = known.state_filter(|known| {
                known.namespace().as_deref() == Some(here.namespace.as_str())
                    && !listed.contains(&known.name_any())
            });
            gone.iter()
                .map(|gone| Event::Delete(K::clone(gone)))
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::runtime::reflector::store;
    use kube::runtime::reflector::store::Writer;

    fn map(namespace: &str, name: &str) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.namespace = Some(namespace.to_owned());
        map.metadata.name = Some(name.to_owned());
        map
    }

    /// Both namespaces' watches, and the store they fill.
    struct Rig {
        merge: Merge<ConfigMap>,
        writer: Writer<ConfigMap>,
        reader: Store<ConfigMap>,
    }

    impl Rig {
        fn new() -> Self {
            let (reader, writer) = store();
            let names = ["a", "b"].map(str::to_owned).into();
            let merge = Merge::new(&names, reader.clone());
            Self {
                merge,
                writer,
                reader,
            }
        }

        fn step(&mut self, place: usize, event: Event<ConfigMap>) {
            for event in self.merge.step(place, event) {
                self.writer.apply_watcher_event(&event);
            }
        }

        fn refuse(&mut self, place: usize) {
            for event in self.merge.refused(place) {
                self.writer.apply_watcher_event(&event);
            }
        }

        fn list(&mut self, place: usize, namespace: &str, names: &[&str]) {
            self.step(place, Event::Init);
            for name in names {
                self.step(place, Event::InitApply(map(namespace, name)));
            }
            self.step(place, Event::InitDone);
        }

        fn known(&self) -> Vec<String> {
            let known = self.reader.state();
            let mut known: Vec<_> = known
                .iter()
                .map(|one| format!("{}/{}", one.namespace().expect("has one"), one.name_any()))
                .collect();
            known.sort();
            known
        }

        fn is_ready(&self) -> bool {
            self.reader.wait_until_ready().now_or_never().is_some()
        }
    }

    use futures_util::FutureExt as _;

    #[test]
    fn the_store_is_ready_when_all_namespaces_are_listed() {
        let mut rig = Rig::new();
        rig.list(0, "a", &["1", "2"]);
        assert!(!rig.is_ready());
        // Changes before the others are listed, and a list that was begun anew.
        rig.step(0, Event::Apply(map("a", "3")));
        rig.step(0, Event::Delete(map("a", "1")));
        rig.step(1, Event::Init);
        rig.step(1, Event::InitApply(map("b", "lost")));
        rig.list(1, "b", &["1"]);
        assert!(rig.is_ready());
        assert_eq!(rig.known(), ["a/2", "a/3", "b/1"]);
    }

    #[test]
    fn a_new_list_of_one_namespace_leaves_the_other_alone() {
        let mut rig = Rig::new();
        rig.list(0, "a", &["1", "2"]);
        rig.list(1, "b", &["1", "2"]);
        rig.step(1, Event::Delete(map("b", "2")));
        rig.list(0, "a", &["2", "3"]);
        assert_eq!(rig.known(), ["a/2", "a/3", "b/1"]);
        rig.step(1, Event::Apply(map("b", "4")));
        assert_eq!(rig.known(), ["a/2", "a/3", "b/1", "b/4"]);
    }

    #[test]
    fn a_namespace_that_may_not_be_read_holds_up_no_other() {
        let mut rig = Rig::new();
        rig.step(1, Event::Init);
        rig.refuse(1);
        assert!(!rig.is_ready());
        rig.list(0, "a", &["1"]);
        assert!(rig.is_ready());
        rig.step(1, Event::Init);
        rig.refuse(1);
        assert_eq!(rig.known(), ["a/1"]);
        // Somebody gives the rights.
        rig.list(1, "b", &["1", "2"]);
        assert_eq!(rig.known(), ["a/1", "b/1", "b/2"]);
        // Somebody takes them away: what was known is still so, as far as anybody can tell.
        rig.refuse(1);
        assert_eq!(rig.known(), ["a/1", "b/1", "b/2"]);
    }

    #[test]
    fn half_a_list_is_not_taken_for_a_refusal() {
        let mut rig = Rig::new();
        rig.step(1, Event::Init);
        rig.refuse(1);
        rig.step(1, Event::Init);
        rig.step(1, Event::InitApply(map("b", "1")));
        rig.list(0, "a", &["1"]);
        assert!(!rig.is_ready());
        rig.step(1, Event::InitApply(map("b", "2")));
        rig.step(1, Event::InitDone);
        assert_eq!(rig.known(), ["a/1", "b/1", "b/2"]);
    }

    #[test]
    fn only_a_refusal_by_the_apiserver_is_one() {
        let answer = |code| {
            let status = kube::core::Status::failure("no", "Why").with_code(code);
            watcher::Error::InitialListFailed(kube::Error::Api(status.boxed()))
        };
        assert!(is_refusal(&answer(403)));
        assert!(!is_refusal(&answer(500)));
        assert!(!is_refusal(&answer(401)));
        assert!(!is_refusal(&watcher::Error::NoResourceVersion));
    }

    #[test]
    fn no_names_mean_all() {
        assert_eq!(Namespaces::new([]), Namespaces::All);
        let some = Namespaces::new(["a".to_owned()]);
        assert!(some.contains("a") && !some.contains("b"));
        assert!(Namespaces::All.contains("b"));
    }
}
