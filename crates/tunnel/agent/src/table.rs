//! The agent's own answer to "where does this route go": route ids to ready endpoints. The edge can
//! name a route, never an address. May not do I/O.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gatewright_routes::{BackendProtocol, RouteId};
use gatewright_translate::Backend;

/// Where the requests of one route go.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) endpoints: Vec<SocketAddr>,
    pub(crate) protocol: BackendProtocol,
    next: AtomicUsize,
}

impl Target {
    /// The endpoint whose turn it is; `None` when none is ready.
    pub(crate) fn pick(&self) -> Option<SocketAddr> {
        match self.endpoints.as_slice() {
            [] => None,
            [only] => Some(*only),
            many => {
                let turn = self.next.fetch_add(1, Ordering::Relaxed);
                Some(many[turn % many.len()])
            }
        }
    }
}

/// All current routes.
#[derive(Debug, Default)]
pub(crate) struct Targets(HashMap<u64, Arc<Target>>);

impl Targets {
    pub(crate) fn new(backends: &BTreeMap<RouteId, Backend>) -> Self {
        Self(
            backends
                .iter()
                .map(|(id, backend)| (id.0, Arc::new(target(backend))))
                .collect(),
        )
    }

    pub(crate) fn get(&self, id: RouteId) -> Option<&Arc<Target>> {
        self.0.get(&id.0)
    }
}

fn target(backend: &Backend) -> Target {
    let mut endpoints: Vec<SocketAddr> = backend
        .endpoints
        .iter()
        .map(|endpoint| SocketAddr::new(endpoint.address, endpoint.port))
        .collect();
    if endpoints.is_empty() {
        endpoints.extend(backend.cluster_ip.map(SocketAddr::from));
    }
    Target {
        endpoints,
        protocol: backend.protocol,
        next: AtomicUsize::new(0),
    }
}
