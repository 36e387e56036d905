//! Watches that several controllers look at: a kind is read once and held once, however many ask for
//! it. May not know any kind.

use crate::apply::Ctx;
use crate::kind::Kind;
use crate::namespaces::Namespaces;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::Event;
use kube::runtime::{Controller, WatchStreamExt as _, watcher};
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, watch};

/// Reads what a watch tells and passes it on, without end. An error is logged, counted as `watch` under
/// the kind in lower case, and tried again.
pub type Feed = BoxFuture<'static, ()>;

/// The objects of a kind as they change or go, for `watches_shared_stream` and `owns_shared_stream`.
/// Cheap to clone.
#[derive(Debug)]
pub struct Changes<K>(Arc<Mutex<Vec<mpsc::UnboundedSender<Arc<K>>>>>);

impl<K> Clone for Changes<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Default for Changes<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Send + Sync + 'static> Changes<K> {
    /// What is told from now on. Whoever subscribes before the [`Feed`] runs gets every object.
    ///
    /// Nothing is lost when the stream is read slowly: what waits in it are references.
    pub fn subscribe(&self) -> impl Stream<Item = Arc<K>> + Send + use<K> {
        let (tell, told) = mpsc::unbounded_channel();
        self.listeners(|listeners| listeners.push(tell));
        stream::unfold(told, |mut told| async {
            told.recv().await.map(|object| (object, told))
        })
    }

    fn tell(&self, object: &Arc<K>) {
        self.listeners(|listeners| listeners.retain(|one| one.send(object.clone()).is_ok()));
    }

    fn listeners(&self, use_: impl FnOnce(&mut Vec<mpsc::UnboundedSender<Arc<K>>>)) {
        // No code that could panic runs under the lock.
        use_(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// All objects of a kind, as one watch tells them. Cheap to clone.
#[derive(Debug)]
pub struct Watched<K: Resource<DynamicType = ()> + 'static> {
    known: Store<K>,
    changes: Changes<K>,
    /// Of several that wait for a [`Store`], kube 4.2 wakes the last one only, and its controller waits.
    listed: watch::Receiver<bool>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Clone for Watched<K> {
    fn clone(&self) -> Self {
        Self {
            known: self.known.clone(),
            changes: self.changes.clone(),
            listed: self.listed.clone(),
        }
    }
}

impl<K> Watched<K>
where
    K: Kind,
{
    /// A controller of these objects; it begins when all namespaces have been listed or refused. An object
    /// is read anew before [`Ctx::write_status`]: managed fields and what else was taken from it are not here.
    ///
    /// Add what else wakes it with `owns_shared_stream` and `watches_shared_stream`, and run it with
    /// [`crate::runner::run`].
    pub fn controller(&self) -> Controller<K> {
        Controller::for_shared_stream(self.changes.subscribe(), self.known.clone())
    }

    /// These objects as they change or go.
    pub fn changes(&self) -> &Changes<K> {
        &self.changes
    }

    /// Waits until all namespaces have been listed. One that may not be read is not waited for.
    pub async fn ready(&self) {
        // It fails when the feed has ended, and then nobody is to wait for it.
        let _ = self.listed.clone().wait_for(|listed| *listed).await;
    }

    /// All of them, in no order.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.known.state()
    }

    /// One of them.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.known.get(&ObjectRef::new(name).within(namespace))
    }
}

impl Namespaces {
    /// Watches all objects of kind `K`; `slim` takes from each what nobody needs. Nothing happens until
    /// the feed is polled: first let everyone subscribe.
    pub fn watch<K>(
        &self,
        ctx: &Ctx,
        config: watcher::Config,
        slim: fn(&mut K),
    ) -> (Watched<K>, Feed)
    where
        K: Kind + Resource<Scope = NamespaceResourceScope>,
    {
        let (known, writer) = store();
        let (done, listed) = watch::channel(false);
        let events = self.merged(ctx.client(), config, known.clone());
        let watched = Watched {
            known,
            changes: Changes::default(),
            listed,
        };
        let feeder = Feeder {
            watched: watched.clone(),
            writer,
            done,
        };
        let feed = feeder.feed(events.modify(slim).boxed(), ctx.clone());
        (watched, feed.boxed())
    }

    /// Watches objects of kind `K` without keeping them. With `PartialObjectMeta<K>` only their metadata
    /// is read.
    pub fn changes<K>(&self, ctx: &Ctx, config: watcher::Config) -> (Changes<K>, Feed)
    where
        K: Kind + Resource<Scope = NamespaceResourceScope>,
    {
        let touched = self.related(ctx.client(), config);
        let changes = Changes::default();
        let feed = feed(touched, changes.clone(), ctx.clone());
        (changes, feed.boxed())
    }
}

/// What fills a [`Watched`].
struct Feeder<K: Resource<DynamicType = ()> + Clone + 'static> {
    watched: Watched<K>,
    writer: Writer<K>,
    done: watch::Sender<bool>,
}

impl<K> Feeder<K>
where
    K: Kind,
{
    async fn feed(
        mut self,
        mut events: BoxStream<'static, Result<Event<K>, watcher::Error>>,
        ctx: Ctx,
    ) {
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.take(&event),
                Err(error) => failed::<K>(&ctx, &error),
            }
        }
    }

    /// An object is told when it can be found, and what a list no longer has is told like what was
    /// deleted.
    fn take(&mut self, event: &Event<K>) {
        let Watched { known, changes, .. } = &self.watched;
        let before = match event {
            Event::InitDone => known.state(),
            _ => Vec::new(),
        };
        self.writer.apply_watcher_event(event);
        match event {
            Event::Init | Event::InitApply(_) => {}
            Event::InitDone => {
                let gone = before.iter();
                let gone = gone.filter(|one| known.get(&ObjectRef::from_obj(&***one)).is_none());
                gone.for_each(|one| changes.tell(one));
                known.state().iter().for_each(|one| changes.tell(one));
                self.done.send_replace(true);
            }
            Event::Apply(object) => {
                let object = known.get(&ObjectRef::from_obj(object));
                object.iter().for_each(|one| changes.tell(one));
            }
            Event::Delete(object) => changes.tell(&Arc::new(object.clone())),
        }
    }
}

/// Tells what changes of a watch that nothing is kept of.
async fn feed<K>(
    touched: impl Stream<Item = Result<K, watcher::Error>> + Send,
    changes: Changes<K>,
    ctx: Ctx,
) where
    K: Resource<DynamicType = ()> + Send + Sync + 'static,
{
    let mut touched = std::pin::pin!(touched);
    while let Some(touched) = touched.next().await {
        match touched {
            Ok(object) => changes.tell(&Arc::new(object)),
            Err(error) => failed::<K>(&ctx, &error),
        }
    }
}

fn failed<K: Resource<DynamicType = ()>>(ctx: &Ctx, error: &watcher::Error) {
    let kind = K::kind(&());
    ctx.metrics().failed(&kind.to_lowercase(), "watch");
    let error = error as &dyn Error;
    tracing::warn!(%kind, error, "cannot watch objects; trying again");
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::ResourceExt as _;

    fn map(name: &str) -> Arc<ConfigMap> {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(name.to_owned());
        Arc::new(map)
    }

    #[tokio::test]
    async fn everyone_is_told_and_nobody_waits_for_who_has_left() {
        let changes = Changes::default();
        let (first, second) = (changes.subscribe(), changes.subscribe());
        drop(changes.subscribe());
        changes.tell(&map("a"));
        drop(second);
        changes.tell(&map("b"));
        changes.listeners(|listeners| assert_eq!(listeners.len(), 1));
        drop(changes);
        let told: Vec<_> = first.map(|map| map.name_any()).collect().await;
        assert_eq!(told, ["a", "b"]);
    }

    fn fed() -> Feeder<ConfigMap> {
        let (known, writer) = store();
        let (done, listed) = watch::channel(false);
        let watched = Watched {
            known,
            changes: Changes::default(),
            listed,
        };
        Feeder {
            watched,
            writer,
            done,
        }
    }

    /// What has been told since the last time, by name.
    fn told(changes: &mut (impl Stream<Item = Arc<ConfigMap>> + Unpin)) -> Vec<String> {
        let next = || changes.next().now_or_never().flatten();
        let mut told: Vec<_> = std::iter::from_fn(next).map(|map| map.name_any()).collect();
        told.sort();
        told
    }

    #[tokio::test]
    async fn an_object_is_told_when_it_is_found_and_when_a_list_has_lost_it() {
        let mut feeder = fed();
        let watched = feeder.watched.clone();
        let mut changes = std::pin::pin!(watched.changes().subscribe());
        let object = |name: &str| ConfigMap::clone(&map(name));
        for event in [
            Event::Init,
            Event::InitApply(object("a")),
            Event::InitApply(object("b")),
        ] {
            feeder.take(&event);
        }
        assert_eq!(told(&mut changes), [""; 0]);
        feeder.take(&Event::InitDone);
        assert_eq!(told(&mut changes), ["a", "b"]);
        feeder.take(&Event::Apply(object("c")));
        assert_eq!(told(&mut changes), ["c"]);
        feeder.take(&Event::Delete(object("a")));
        assert_eq!(told(&mut changes), ["a"]);
        // The watch broke off, and is begun anew.
        feeder.take(&Event::Init);
        feeder.take(&Event::InitApply(object("c")));
        assert_eq!(watched.all().len(), 2);
        feeder.take(&Event::InitDone);
        assert_eq!(told(&mut changes), ["b", "c"]);
        let known: Vec<_> = watched.all().iter().map(|map| map.name_any()).collect();
        assert_eq!(known, ["c"]);
    }

    #[tokio::test]
    async fn all_who_wait_for_the_first_list_are_woken() {
        let mut feeder = fed();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let watched = feeder.watched.clone();
                tokio::spawn(async move { watched.ready().await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(waiting.iter().all(|one| !one.is_finished()));
        feeder.take(&Event::Init);
        feeder.take(&Event::InitDone);
        for one in waiting {
            one.await.expect("is woken");
        }
        // Who waits for a list that will not come is let go.
        let orphan = fed().watched;
        orphan.ready().await;
    }
}
