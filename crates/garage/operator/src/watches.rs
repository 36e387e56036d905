//! What the wing watches, each kind once for all its controllers. May not decide.

use crate::home::slim;
use crate::operator::Operator;
use futures_util::future::join_all;
use gatewright_controller::{Changes, Ctx, Feed, Kind, Namespaces, Watched};
use gatewright_garage::api::{
    self, GarageAdminToken, GarageBucket, GarageCluster, GarageKey, GarageNode,
};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Resource;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use tokio_util::sync::CancellationToken;

/// The objects of the wing, and what of others is ours.
pub struct Watches {
    pub(crate) clusters: Watched<GarageCluster>,
    pub(crate) nodes: Watched<GarageNode>,
    pub(crate) buckets: Watched<GarageBucket>,
    pub(crate) keys: Watched<GarageKey>,
    pub(crate) tokens: Watched<GarageAdminToken>,
    pub(crate) stateful_sets: Changes<PartialObjectMeta<StatefulSet>>,
    pub(crate) deployments: Changes<PartialObjectMeta<Deployment>>,
    pub(crate) pods: Changes<PartialObjectMeta<Pod>>,
    pub(crate) secrets: Changes<PartialObjectMeta<Secret>>,
}

impl Watches {
    /// The watches, and what feeds them until `cancel`: to be polled once all controllers have subscribed.
    pub fn new(
        operator: &Operator,
        cancel: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let mut feeds = Feeds {
            namespaces: &operator.options.namespaces,
            ctx: &operator.ctx,
            feeds: Vec::new(),
        };
        let watches = Self {
            clusters: feeds.watch(slim),
            nodes: feeds.watch(|_| {}),
            buckets: feeds.watch(|_| {}),
            keys: feeds.watch(|_| {}),
            tokens: feeds.watch(|_| {}),
            stateful_sets: feeds.ours(),
            deployments: feeds.ours(),
            pods: feeds.ours(),
            secrets: feeds.ours(),
        };
        let feeds = join_all(feeds.feeds);
        let fed = async move {
            cancel.run_until_cancelled(feeds).await;
        };
        (watches, fed)
    }
}

struct Feeds<'a> {
    namespaces: &'a Namespaces,
    ctx: &'a Ctx,
    feeds: Vec<Feed>,
}

impl Feeds<'_> {
    fn watch<K>(&mut self, slim: fn(&mut K)) -> Watched<K>
    where
        K: Kind + Resource<Scope = NamespaceResourceScope>,
    {
        let config = watcher::Config::default();
        let (watched, feed) = self.namespaces.watch(self.ctx, config, slim);
        self.feeds.push(feed);
        watched
    }

    /// The metadata of what we have made.
    fn ours<K>(&mut self) -> Changes<PartialObjectMeta<K>>
    where
        PartialObjectMeta<K>: Kind + Resource<Scope = NamespaceResourceScope>,
    {
        let ours = format!("{}={}", api::LABEL_MANAGED_BY, api::MANAGER);
        let config = watcher::Config::default().labels(&ours);
        let (changes, feed) = self.namespaces.changes(self.ctx, config);
        self.feeds.push(feed);
        changes
    }
}
