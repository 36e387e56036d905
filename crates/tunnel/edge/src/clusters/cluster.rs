//! One cluster as requests and agents meet it: its identity, tunnels, counters and lease. It may not
//! know its routes or its credentials.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use gatewright_names::Hostname;
use gatewright_routes::message::HeartbeatMetadata;
use gatewright_routes::{ClusterId, Route};

use super::stats::{ClusterStats, Lease};
use crate::connections::ConnectionSet;

/// A cluster. There is one of these for each, from the making or loading of the cluster to its end.
pub struct Cluster {
    /// The cluster's UUID in messages, metrics and logs.
    pub id: ClusterId,
    /// Chosen by the administrator.
    pub name: String,
    /// The cluster's own name; what lies under it is the cluster's too.
    pub own_host: Hostname,
    /// Its tunnels.
    pub connections: ConnectionSet,
    /// Counters of its traffic.
    pub stats: ClusterStats,
    /// When it was last heard of.
    pub lease: Lease,
    heartbeat: ArcSwapOption<HeartbeatMetadata>,
}

impl Cluster {
    pub(crate) fn new(id: ClusterId, name: String, own_host: Hostname) -> Self {
        Self {
            id,
            name,
            own_host,
            connections: ConnectionSet::default(),
            stats: ClusterStats::default(),
            lease: Lease::default(),
            heartbeat: ArcSwapOption::empty(),
        }
    }

    /// Notes that the cluster was heard of at `now`, in Unix milliseconds.
    pub fn touch(&self, now: u64) {
        self.lease.renew(now);
    }

    /// Keeps what the last heartbeat told of the cluster.
    pub fn note_heartbeat(&self, metadata: &HeartbeatMetadata) {
        self.heartbeat.store(Some(Arc::new(metadata.clone())));
    }

    /// What the last heartbeat told; `None` before the first.
    #[must_use]
    pub fn heartbeat(&self) -> Option<Arc<HeartbeatMetadata>> {
        self.heartbeat.load_full()
    }
}

/// What a matched request needs.
pub struct EdgeRoute {
    /// The route.
    pub route: Arc<Route>,
    /// Its id as the value of `x-gatewright-route`.
    pub id_header: http::HeaderValue,
    /// Whose it is.
    pub cluster: Arc<Cluster>,
}
