//! Watches that several controllers look at: a kind is read once and held once, however many ask for
//! it. May not know any kind.

use crate::apply::Ctx;
use crate::namespaces::Namespaces;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::runtime::reflector::{ObjectRef, Store, reflector, store};
use kube::runtime::{Controller, WatchStreamExt as _, watcher};
use serde::de::DeserializeOwned;
use std::error::Error;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

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
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Clone for Watched<K> {
    fn clone(&self) -> Self {
        Self {
            known: self.known.clone(),
            changes: self.changes.clone(),
        }
    }
}

impl<K> Watched<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// A controller of these objects; it begins when all namespaces have been listed. An object is read
    /// anew before [`Ctx::write_status`]: managed fields and what else was taken from it are not here.
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

    /// Waits until all namespaces have been listed.
    pub async fn ready(&self) {
        // It fails when the feed is dropped, and with it all that could wait here.
        let _ = self.known.wait_until_ready().await;
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
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let (known, writer) = store();
        let events = self
            .merged(ctx.client(), config, known.clone())
            .modify(slim);
        let changes = Changes::default();
        let touched = reflector(writer, events).touched_objects();
        let feed = feed(touched, changes.clone(), ctx.clone());
        (Watched { known, changes }, feed.boxed())
    }

    /// Watches objects of kind `K` without keeping them. With `PartialObjectMeta<K>` only their metadata
    /// is read.
    pub fn changes<K>(&self, ctx: &Ctx, config: watcher::Config) -> (Changes<K>, Feed)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let touched = self.related(ctx.client(), config);
        let changes = Changes::default();
        let feed = feed(touched, changes.clone(), ctx.clone());
        (changes, feed.boxed())
    }
}

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
            Err(error) => {
                let kind = K::kind(&());
                ctx.metrics().failed(&kind.to_lowercase(), "watch");
                let error = &error as &dyn Error;
                tracing::warn!(%kind, error, "cannot watch objects; trying again");
            }
        }
    }
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
}
