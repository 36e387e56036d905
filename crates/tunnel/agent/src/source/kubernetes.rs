//! The Kubernetes API as a source: watches Ingresses, IngressClasses, Services and EndpointSlices.
//! Reads only; may not write to the cluster and may not interpret the objects.

use super::shelf::Shelf;
use super::{KubernetesSource, Problem, Source, SourceError, publish_objects, publish_problems};
use futures_util::StreamExt;
use gatewright_controller::{Access, connect};
use gatewright_translate::{Key, Objects};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, watcher};
use kube::runtime::{WatchStreamExt, watcher::Event};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Changes that come within this time make one new set: a rollout touches many objects at once.
const COALESCE: Duration = Duration::from_millis(20);
/// A watch whose last error is older than this works again: its longest pause is half of it.
const RECOVERED: Duration = Duration::from_secs(75);
/// A watch is renewed after so many seconds: that bounds how long a connection that died without a
/// word goes unnoticed. It resumes where it ended, without a list.
const WATCH_SECONDS: u32 = 90;
/// After so many errors in a row a watch starts over with a list: after a restore of etcd the
/// version it asks for may lie in the future, which the apiserver answers with errors for ever.
const START_OVER: u32 = 6;
/// The field manager whose marks on objects are kept.
pub(crate) const MANAGER: &str = "gatewright/agent";

pub(super) async fn start(
    config: &KubernetesSource,
    cancel: CancellationToken,
    tasks: &TaskTracker,
) -> Result<Source, SourceError> {
    let access = Access {
        kubeconfig: config.kubeconfig.clone(),
        context: config.context.clone(),
    };
    let client = connect(&access).await.map_err(SourceError::Client)?;
    // When the start fails, the watches end with it.
    let watching = cancel.child_token();
    let guard = watching.clone().drop_guard();
    let cluster = Cluster::watch(&client, &config.namespaces, &watching, tasks);
    let (problems_sender, problems) = watch::channel(Vec::new());
    tokio::select! {
        () = cancel.cancelled() => return Err(SourceError::Cancelled),
        ready = cluster.ready(&problems_sender) => ready?,
    }
    let version = timeout(Duration::from_secs(5), client.apiserver_version()).await;
    let version = version.ok().and_then(Result::ok);
    let (objects_sender, objects) = watch::channel(Arc::new(cluster.objects()));
    let watching = guard.disarm();
    tasks.spawn(async move {
        tokio::select! {
            () = watching.cancelled() => {}
            () = cluster.publish(&objects_sender, &problems_sender) => {}
        }
    });
    Ok(Source {
        objects,
        problems,
        kubernetes_version: version.map(|version| version.git_version),
        client: Some(client),
    })
}

/// All watches and what they found.
struct Cluster {
    ingresses: Vec<Held<Ingress>>,
    classes: Vec<Held<IngressClass>>,
    services: Vec<Held<Service>>,
    slices: Vec<Held<EndpointSlice>>,
    watches: Vec<Arc<Watch>>,
    changed: Arc<Notify>,
}

/// The objects of one watch.
type Held<K> = Arc<Mutex<Shelf<K>>>;

/// How one watch is doing.
struct Watch {
    /// `ingresses.networking.k8s.io`
    resource: String,
    /// `in all namespaces`
    scope: String,
    /// Without permission, we do without.
    optional: bool,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// A first list is complete.
    ready: bool,
    trouble: Option<Trouble>,
    /// Objects that cannot be decoded, and why.
    invalid: BTreeMap<Key, String>,
}

struct Trouble {
    error: Box<watcher::Error>,
    at: Instant,
    times: u32,
}

/// No code that may panic runs while one of these is held, so a poisoned one is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// Starts a task per kind and namespace.
    fn watch(
        client: &Client,
        namespaces: &[String],
        cancel: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let mut start = Start {
            client,
            namespaces,
            cancel,
            tasks,
            watches: Vec::new(),
            changed: Arc::default(),
        };
        // Cluster-wide permissions are not to be expected where only some namespaces are watched;
        // without classes, Ingresses are still told apart by the class they name.
        let classes = start.one(Api::all(client.clone()), None, !namespaces.is_empty());
        Self {
            ingresses: start.namespaced(),
            classes: vec![classes],
            services: start.namespaced(),
            slices: start.namespaced(),
            watches: start.watches,
            changed: start.changed,
        }
    }

    /// Resolves when every watch has a complete list.
    async fn ready(&self, problems: &watch::Sender<Vec<Problem>>) -> Result<(), SourceError> {
        loop {
            self.changed.notified().await;
            for watch in &self.watches {
                if let Some(error) = watch.refused() {
                    return Err(error);
                }
            }
            if self.watches.iter().all(|watch| lock(&watch.progress).ready) {
                return Ok(());
            }
            publish_problems(problems, self.problems(Instant::now()));
        }
    }

    fn objects(&self) -> Objects {
        fn merge<K: Resource<DynamicType = ()>>(shelves: &[Held<K>]) -> BTreeMap<Key, Arc<K>> {
            let mut all = BTreeMap::new();
            for shelf in shelves {
                let live = lock(shelf).live().clone();
                all.extend(live);
            }
            all
        }
        let classes = merge(&self.classes).into_iter();
        Objects {
            ingresses: merge(&self.ingresses),
            classes: classes.map(|(key, class)| (key.name, class)).collect(),
            services: merge(&self.services),
            slices: merge(&self.slices),
        }
    }

    async fn publish(
        &self,
        objects: &watch::Sender<Arc<Objects>>,
        problems: &watch::Sender<Vec<Problem>>,
    ) {
        loop {
            publish_objects(objects, self.objects());
            publish_problems(problems, self.problems(Instant::now()));
            let recovery = self
                .watches
                .iter()
                .filter_map(|watch| watch.recovery())
                .min();
            tokio::select! {
                () = self.changed.notified() => sleep(COALESCE).await,
                () = sleep_until(recovery.unwrap_or_else(Instant::now)), if recovery.is_some() => {}
            }
        }
    }

    fn problems(&self, now: Instant) -> Vec<Problem> {
        self.watches
            .iter()
            .flat_map(|watch| watch.problems(now))
            .collect()
    }
}

/// What starting a watch needs.
struct Start<'a> {
    client: &'a Client,
    namespaces: &'a [String],
    cancel: &'a CancellationToken,
    tasks: &'a TaskTracker,
    watches: Vec<Arc<Watch>>,
    changed: Arc<Notify>,
}

impl Start<'_> {
    fn namespaced<K>(&mut self) -> Vec<Held<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        if self.namespaces.is_empty() {
            return vec![self.one(Api::all(self.client.clone()), None, false)];
        }
        let namespaces = self.namespaces.iter();
        namespaces
            .map(|namespace| {
                let api = Api::namespaced(self.client.clone(), namespace);
                self.one(api, Some(namespace), false)
            })
            .collect()
    }

    fn one<K>(
        &mut self,
        api: Api<DeserializeGuard<K>>,
        namespace: Option<&str>,
        optional: bool,
    ) -> Held<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let (plural, group) = (K::plural(&()), K::group(&()));
        let watch = Arc::new(Watch {
            resource: match group.as_ref() {
                "" => plural.into_owned(),
                group => format!("{plural}.{group}"),
            },
            scope: match namespace {
                Some(namespace) => format!("in namespace {namespace}"),
                None => "in all namespaces".to_owned(),
            },
            optional,
            progress: Mutex::default(),
        });
        let shelf = Held::<K>::default();
        self.watches.push(watch.clone());
        let follow = follow(api, watch, shelf.clone(), self.changed.clone());
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = follow => {}
            }
        });
        shelf
    }
}

/// Keeps a shelf like what the apiserver has, for ever.
async fn follow<K>(
    api: Api<DeserializeGuard<K>>,
    watch: Arc<Watch>,
    shelf: Held<K>,
    changed: Arc<Notify>,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    loop {
        let config = watcher::Config::default().timeout(WATCH_SECONDS);
        let news = watcher(api.clone(), config).default_backoff();
        let mut news = std::pin::pin!(news);
        while let Some(news) = news.next().await {
            match news {
                Ok(event) => {
                    let listed = matches!(event, Event::InitDone);
                    // The list that follows an error says whether it is over, not its beginning.
                    let begins = matches!(event, Event::Init);
                    let mut shelf = lock(&shelf);
                    let complete = shelf.take(event, MANAGER);
                    let mut progress = lock(&watch.progress);
                    progress.ready |= listed;
                    if !begins {
                        progress.trouble = None;
                    }
                    if complete {
                        progress.invalid = shelf.invalid().clone();
                        changed.notify_one();
                    }
                }
                Err(error) => {
                    let times = watch.failed(error);
                    changed.notify_one();
                    if times.is_multiple_of(START_OVER) {
                        break;
                    }
                }
            }
        }
        // The pause that the dropped watch would have made.
        sleep(Duration::from_secs(30)).await;
    }
}

impl Watch {
    /// Notes an error; returns how many there were in a row.
    fn failed(&self, error: watcher::Error) -> u32 {
        let mut progress = lock(&self.progress);
        if matches!(&error, watcher::Error::WatchError(status) if status.code == 410) {
            // The version we watched from is too old; the list that follows is no fault.
            return 1;
        }
        if self.optional && has_code(&error, 403) {
            progress.ready = true;
        }
        let times = progress.trouble.as_ref().map_or(0, |trouble| trouble.times);
        let times = times.saturating_add(1);
        progress.trouble = Some(Trouble {
            error: Box::new(error),
            at: Instant::now(),
            times,
        });
        times
    }

    /// Why there is no use in waiting for the first list.
    fn refused(&self) -> Option<SourceError> {
        let mut progress = lock(&self.progress);
        if progress.ready {
            return None;
        }
        let trouble = progress.trouble.take()?;
        if has_code(&trouble.error, 403) {
            return Some(SourceError::Forbidden {
                resource: self.resource.clone(),
                scope: self.scope.clone(),
                source: trouble.error,
            });
        }
        if has_code(&trouble.error, 401) {
            return Some(SourceError::Unauthorized(trouble.error));
        }
        progress.trouble = Some(trouble);
        None
    }

    /// When the last error will count as over.
    fn recovery(&self) -> Option<Instant> {
        let progress = lock(&self.progress);
        progress
            .trouble
            .as_ref()
            .map(|trouble| trouble.at + RECOVERED)
    }

    fn problems(&self, now: Instant) -> Vec<Problem> {
        let mut progress = lock(&self.progress);
        progress
            .trouble
            .take_if(|trouble| trouble.at + RECOVERED <= now);
        let trouble = progress.trouble.as_ref().map(|trouble| Problem {
            place: format!("{} {}", self.resource, self.scope),
            line: None,
            message: format!(
                "cannot be watched ({}); trying again, what is known stays in use",
                reason(&trouble.error)
            ),
        });
        let invalid = progress.invalid.iter().map(|(key, why)| Problem {
            place: format!("{} {key}", self.resource),
            line: None,
            message: format!("cannot be decoded, its last good state stays in use: {why}"),
        });
        invalid.chain(trouble).collect()
    }
}

/// The apiserver's own words, or the innermost cause.
fn reason(error: &watcher::Error) -> String {
    if let Some(status) = status(error) {
        return status.message.clone();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn status(error: &watcher::Error) -> Option<&kube::core::Status> {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => match error {
            kube::Error::Api(status) => Some(status),
            _ => None,
        },
        watcher::Error::WatchError(status) => Some(status),
        watcher::Error::NoResourceVersion => None,
    }
}

fn has_code(error: &watcher::Error, code: u16) -> bool {
    status(error).is_some_and(|status| status.code == code)
}
