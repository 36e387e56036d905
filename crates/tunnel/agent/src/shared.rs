//! What the agent's parts share: the translation of the newest objects, what edges refused, and the
//! status. It may not dial or forward.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use gatewright_routes::message::Refused;
use gatewright_routes::{Route, RouteId};
use gatewright_translate::{Network, Objects, Options, Translation, network, translate};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{AgentConfig, NetworkMode};
use crate::source::Source;
use crate::table::Targets;
use crate::{Error, link_limits};

/// How long a replica that writes statuses may be silent before another takes over.
#[cfg(feature = "kubernetes")]
const LEASE: std::time::Duration = std::time::Duration::from_secs(15);

/// What the agent offers to every edge.
#[derive(Debug, Clone, Default)]
pub(crate) struct Offer {
    /// Empty while the cluster is public.
    pub(crate) routes: Arc<BTreeMap<RouteId, Route>>,
    pub(crate) is_private: bool,
}

/// One route that is offered, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// The host, or a pattern; empty for the cluster's own name.
    pub host: String,
    /// The path.
    pub path: String,
    /// `namespace/service:port`.
    pub service: String,
}

/// What people and health checks may know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentStatus {
    /// Connections to each edge that are registered.
    pub connections: BTreeMap<String, u32>,
    /// Each edge's name for this cluster's own host.
    pub own_hosts: BTreeMap<String, String>,
    /// Routes that the agent offers.
    pub routes: usize,
    /// Edges that have answered for every route that the agent offers.
    pub in_sync: BTreeMap<String, bool>,
    /// Whether the cluster counts as private.
    pub is_private: bool,
}

impl Offered {
    fn new(route: &Route) -> Self {
        Self {
            host: route
                .host
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            path: route.path.clone(),
            service: format!("{}/{}:{}", route.namespace, route.service, route.port),
        }
    }
}

impl AgentStatus {
    /// Whether requests can come through.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.connections.values().any(|count| *count > 0)
    }
}

/// What each edge refused, by the edge's address.
pub(crate) type Refusals = BTreeMap<String, BTreeMap<RouteId, Refused>>;

/// The agent's shared state.
pub(crate) struct Shared {
    pub(crate) config: AgentConfig,
    pub(crate) agent_id: String,
    pub(crate) generation: u64,
    pub(crate) kubernetes_version: Option<String>,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) limits: gatewright_link::Limits,
    pub(crate) targets: Arc<ArcSwap<Targets>>,
    pub(crate) offer: watch::Sender<Offer>,
    pub(crate) offered: watch::Sender<Vec<Offered>>,
    pub(crate) translation: watch::Sender<Arc<Translation>>,
    pub(crate) refusals: watch::Sender<Refusals>,
    pub(crate) status: watch::Sender<AgentStatus>,
    /// Takes no new streams.
    pub(crate) drain: CancellationToken,
    /// Ends everything.
    pub(crate) cancel: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Shared {
    pub(crate) fn new(
        config: AgentConfig,
        tls: Arc<rustls::ClientConfig>,
        source: &Source,
        cancel: CancellationToken,
        tasks: TaskTracker,
    ) -> Result<Self, Error> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|_| Error::Random)?;
        // 53 bits survive every JSON implementation.
        let generation = u64::from_le_bytes(random) >> 11;
        let name = config.name.clone().unwrap_or_else(host_name);
        Ok(Self {
            agent_id: format!("{name}-{:08x}", generation & 0xffff_ffff),
            generation,
            kubernetes_version: source.kubernetes_version.clone(),
            limits: link_limits(&config),
            config,
            tls,
            targets: Arc::default(),
            offer: watch::Sender::default(),
            offered: watch::Sender::default(),
            translation: watch::Sender::default(),
            refusals: watch::Sender::default(),
            status: watch::Sender::default(),
            drain: CancellationToken::new(),
            cancel,
            tasks,
        })
    }

    /// Translates the newest objects and publishes what changed.
    pub(crate) fn translate(&self, source: &Source) {
        let objects = Arc::clone(&source.objects.borrow());
        self.publish(&objects);
    }

    fn publish(&self, objects: &Objects) {
        let options = Options {
            classes: self.config.ingress_classes.clone(),
        };
        let translation = translate(objects, &options);
        self.log_refusals(&translation);
        let is_private = match (self.config.network, network(objects)) {
            (NetworkMode::Private, _) | (NetworkMode::Auto, Network::Private) => true,
            (NetworkMode::Public, _) => false,
            (NetworkMode::Auto, Network::Public { because }) => {
                if self.offer.borrow().is_private {
                    tracing::info!(because, "the cluster is public: its routes are withdrawn");
                }
                false
            }
        };
        // Requests for a route may come as soon as the edge knows it: targets first.
        self.targets
            .store(Arc::new(Targets::new(&translation.backends)));
        let routes = if is_private {
            translation.routes.clone()
        } else {
            BTreeMap::new()
        };
        self.status.send_if_modified(|status| {
            let changed = status.routes != routes.len() || status.is_private != is_private;
            status.routes = routes.len();
            status.is_private = is_private;
            changed
        });
        self.offer.send_if_modified(|offer| {
            let changed = *offer.routes != routes || offer.is_private != is_private;
            if changed {
                *offer = Offer {
                    routes: Arc::new(routes),
                    is_private,
                };
            }
            changed
        });
        let offered = self
            .offer
            .borrow()
            .routes
            .values()
            .map(Offered::new)
            .collect();
        self.offered.send_if_modified(|before| {
            let changed = *before != offered;
            *before = offered;
            changed
        });
        self.translation.send_replace(Arc::new(translation));
    }
}

impl Shared {
    /// Logs rules that cannot be served, each once until that changes.
    fn log_refusals(&self, now: &Translation) {
        let before = self.translation.borrow();
        for refusal in now
            .refusals
            .iter()
            .filter(|refusal| !before.refusals.contains(refusal))
        {
            tracing::warn!(ingress = %refusal.object, rule = refusal.rule, reason = %refusal.reason,
                "a rule is not served: {}", refusal.message);
        }
    }
}

/// Translates whenever the objects change, until the agent ends.
pub(crate) async fn follow(shared: Arc<Shared>, mut objects: watch::Receiver<Arc<Objects>>) {
    loop {
        tokio::select! {
            () = shared.cancel.cancelled() => return,
            changed = objects.changed() => if changed.is_err() { return },
        }
        let newest = Arc::clone(&objects.borrow_and_update());
        shared.publish(&newest);
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "agent".to_owned())
}

/// Keeps statuses and Events in the cluster in step with translation and refusals.
#[cfg(feature = "kubernetes")]
pub(crate) async fn report(
    shared: Arc<Shared>,
    client: kube::Client,
    objects: watch::Receiver<Arc<Objects>>,
) {
    use crate::report::{self, Report};

    let settings = shared.config.source.kubernetes.clone().unwrap_or_default();
    let namespace = settings
        .lease_namespace
        .unwrap_or_else(|| client.default_namespace().to_owned());
    let ctx = report::context(
        client,
        &namespace,
        &shared.agent_id,
        LEASE,
        shared.cancel.clone(),
        &shared.tasks,
    );
    let mut translation = shared.translation.subscribe();
    let mut refusals = shared.refusals.subscribe();
    let mut status = shared.status.subscribe();
    let (sender, reports) = watch::channel(Arc::new(Report::default()));
    shared
        .tasks
        .spawn(report::run(ctx, reports, shared.cancel.clone()));
    loop {
        let edges = edges(&status.borrow_and_update(), &refusals.borrow_and_update());
        let newest = Arc::clone(&translation.borrow_and_update());
        let report = Report::new(&objects.borrow(), &newest, &edges);
        sender.send_if_modified(|before| {
            let changed = **before != report;
            if changed {
                *before = Arc::new(report);
            }
            changed
        });
        tokio::select! {
            changed = translation.changed() => if changed.is_err() { return },
            changed = refusals.changed() => if changed.is_err() { return },
            changed = status.changed() => if changed.is_err() { return },
            () = shared.cancel.cancelled() => return,
        }
    }
}

/// What the edges that are connected say together: a route is refused if every one refuses it.
#[cfg(feature = "kubernetes")]
fn edges(status: &AgentStatus, refusals: &Refusals) -> crate::report::Edges {
    let connected: Vec<&String> = status
        .connections
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(edge, _)| edge)
        .collect();
    let settled = !connected.is_empty()
        && connected
            .iter()
            .all(|edge| status.in_sync.get(*edge) == Some(&true));
    let mut refused: Option<BTreeMap<RouteId, Refused>> = None;
    for edge in &connected {
        let theirs = refusals.get(*edge).cloned().unwrap_or_default();
        refused = Some(match refused {
            None => theirs,
            Some(all) => all
                .into_iter()
                .filter(|(id, _)| theirs.contains_key(id))
                .collect(),
        });
    }
    let mut publish: Vec<String> = connected
        .iter()
        .filter_map(|edge| status.own_hosts.get(*edge))
        .cloned()
        .collect();
    publish.sort();
    publish.dedup();
    crate::report::Edges {
        publish,
        refused: refused.unwrap_or_default(),
        settled,
        withdrawn: !status.is_private,
    }
}

/// Now, for the `timestamp` of control messages.
#[expect(
    clippy::disallowed_methods,
    reason = "the crate's one reading of the wall clock"
)]
pub(crate) fn rfc3339() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}
