//! Clusters, their credentials and their routes: the one place that joins the store, the pure registry
//! and the table that requests are matched with. What it answers is on the disk. It may not carry
//! requests, and it judges nothing that the registry judges.

mod cluster;
mod state;
mod stats;
mod writer;

use std::sync::{Arc, PoisonError, RwLock, Weak};

use arc_swap::{ArcSwap, Guard};
use gatewright_names::{HostPattern, Hostname};
use gatewright_routes::message::{IngressRoutesAck, Position};
use gatewright_routes::registry::{Explanation, Verdict};
use gatewright_routes::{Change, ClusterId, MAX_ROUTES, Route, RouteTable};
use tokio::sync::{broadcast, mpsc, oneshot};

pub use cluster::Cluster;
pub(crate) use cluster::EdgeRoute;
pub(crate) use stats::ClusterStats;

use crate::config::StoreConfig;
use crate::error::Error;
pub use crate::store::ClusterRecord;
use crate::store::Store;
use crate::token::{Token, TokenId, proves, random_label, random_uuid};
use state::{Batch, State};

/// Events that a slow receiver may be behind before it misses some.
const EVENTS: usize = 1024;
/// Changes that wait for the writer before those who bring more have to wait themselves.
const WAITING_CHANGES: usize = 1024;
/// Longest name of a cluster; with a hyphen and 16 random characters it still fits into a label.
const LONGEST_NAME: usize = 40;
/// Random characters in a cluster's own label: 80 bits that nobody guesses.
const LABEL_RANDOM: usize = 16;

/// All clusters of an edge. Reading takes no disk, and matching requests takes no lock.
pub struct Clusters {
    shared: Arc<Shared>,
    domain: Hostname,
    /// `None` only while this is dropped.
    jobs: Option<mpsc::Sender<writer::Job>>,
    writer: Option<std::thread::JoinHandle<()>>,
}

/// What the writer and the readers share.
struct Shared {
    state: RwLock<State>,
    snapshot: ArcSwap<Snapshot>,
    events: broadcast::Sender<ClusterEvent>,
    /// Deleted clusters of which somebody still holds the last strings.
    departed: RwLock<Vec<Weak<Cluster>>>,
}

/// What requests are matched with. It never changes; a later one replaces it.
pub struct Snapshot {
    /// Host and path to route.
    pub table: RouteTable<Arc<EdgeRoute>>,
}

/// A cluster that an administrator wants.
#[derive(Debug, Clone)]
pub struct NewCluster {
    /// 1 to 40 lower-case letters, digits and hyphens; unique.
    pub name: String,
    /// Whose cluster it is, for people.
    pub tenant: Option<String>,
    /// Granted patterns; an asterisk stands for one label or more.
    pub hosts: Vec<HostPattern>,
}

/// Something that somebody else's doing changed for a cluster.
#[derive(Clone)]
pub enum ClusterEvent {
    /// Some of its routes are served, or refused, that were not before.
    VerdictsChanged {
        /// Whose routes.
        cluster: ClusterId,
        /// What to tell its agents.
        ack: IngressRoutesAck,
    },
    /// A token is no longer valid.
    TokenRevoked {
        /// Whose token.
        cluster: Arc<Cluster>,
        /// Which.
        token: TokenId,
    },
    /// The cluster is no more.
    Deleted(Arc<Cluster>),
}

/// A cluster for people: the record and what belongs to it.
#[derive(Clone)]
pub struct ClusterView {
    /// As an administrator made it.
    pub record: ClusterRecord,
    /// As requests and agents meet it.
    pub cluster: Arc<Cluster>,
    /// Valid tokens, the oldest first, and when each was made (Unix seconds).
    pub tokens: Vec<(TokenId, i64)>,
    /// Routes that are kept, served or not.
    pub routes: usize,
}

impl Clusters {
    /// Opens the store and brings back everything in it, with room for [`MAX_ROUTES`] routes for each
    /// cluster.
    ///
    /// # Errors
    /// When the store cannot be used, is in use, is damaged, or was written by a later version.
    pub fn open(store: &StoreConfig, domain: &Hostname) -> Result<Arc<Self>, Error> {
        Self::with_limit(store, domain, MAX_ROUTES)
    }

    /// As [`Clusters::open`], with room for `routes` routes for each cluster.
    ///
    /// # Errors
    /// As [`Clusters::open`].
    pub fn with_limit(
        store: &StoreConfig,
        domain: &Hostname,
        routes: usize,
    ) -> Result<Arc<Self>, Error> {
        let mut store = Store::open(store)?;
        let state = State::restore(store.load()?, routes, None);
        let snapshot = Snapshot {
            table: state.table(),
        };
        let shared = Arc::new(Shared {
            state: RwLock::new(state),
            snapshot: ArcSwap::from_pointee(snapshot),
            events: broadcast::channel(EVENTS).0,
            departed: RwLock::default(),
        });
        let (jobs, waiting) = mpsc::channel(WAITING_CHANGES);
        let writer = writer::start(Arc::clone(&shared), store, routes, waiting)?;
        Ok(Arc::new(Self {
            shared,
            domain: domain.clone(),
            jobs: Some(jobs),
            writer: Some(writer),
        }))
    }

    // === For agents ===

    /// The cluster of a presented token, and the token's id; `None` if it is not valid.
    #[must_use]
    pub fn authenticate(&self, presented: &str) -> Option<(Arc<Cluster>, TokenId)> {
        let id = TokenId::of(presented)?;
        let state = self.state();
        let (cluster, sha256) = state.token(&id)?;
        proves(presented, sha256).then(|| (Arc::clone(cluster), id))
    }

    /// Whether a token is valid still. Ask again after a connection has been added to its cluster:
    /// a revocation closes only those it finds there.
    #[must_use]
    pub fn is_valid(&self, token: &TokenId) -> bool {
        self.state().token(token).is_some()
    }

    /// Applies a change of a cluster's routes. It is on the disk, and requests see it, when this
    /// returns. The answers are to be sent all, in this order.
    ///
    /// # Errors
    /// When there is no such cluster or the store cannot be written; nothing has changed then.
    pub async fn apply(
        &self,
        cluster: &ClusterId,
        change: Change,
        position: Option<Position>,
    ) -> Result<Vec<IngressRoutesAck>, Error> {
        let id = cluster.clone();
        self.submit(move |state, batch| state.apply(&id, change, position, batch))
            .await
    }

    /// How far a cluster's agent has come, as far as it is on the disk.
    #[must_use]
    pub fn position(&self, cluster: &ClusterId) -> Option<Position> {
        self.state().position(cluster)
    }

    /// Everything that an agent has to know of refusals, in the order to send.
    #[must_use]
    pub fn full_ack(&self, cluster: &ClusterId) -> Vec<IngressRoutesAck> {
        let (accepted, refused) = self.state().registry().refusals(cluster);
        IngressRoutesAck::all_refusals(accepted, refused)
    }

    /// What others' doing changes for clusters, from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<ClusterEvent> {
        self.shared.events.subscribe()
    }

    /// Ends every connection whose token is no longer valid, for those who have missed events.
    pub fn close_unknown(&self) {
        self.shared.close_unknown();
    }

    // === For requests ===

    /// What to match requests with.
    #[must_use]
    pub fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.shared.snapshot.load()
    }

    // === For administrators ===

    /// Makes a cluster and its first token.
    ///
    /// # Errors
    /// When the name is taken or none, or the store cannot be written.
    pub async fn create(&self, new: NewCluster) -> Result<(ClusterRecord, Token), Error> {
        check_name(&new.name)?;
        let token = Token::draw()?;
        let id = random_uuid()?;
        let label = format!("{}-{}", new.name, random_label(LABEL_RANDOM)?);
        let own_host = format!("{label}.{}", self.domain);
        let record = ClusterRecord {
            id: ClusterId::parse(&id).map_err(|_| Error::Random)?,
            own_host: Hostname::parse(&own_host).map_err(|_| Error::OwnHost {
                domain: self.domain.to_string(),
            })?,
            name: new.name,
            tenant: new.tenant,
            hosts: new.hosts,
            created: crate::clock::unix_seconds(),
        };
        let digest = token.digest();
        let made = record.clone();
        self.submit(move |state, batch| state.create(made, digest, batch))
            .await?;
        Ok((record, token))
    }

    /// Makes a new token for a cluster. The token before it stays valid until the next rotation, or
    /// with `revoke_old` is revoked now, which ends its connections.
    ///
    /// # Errors
    /// When there is no such cluster or the store cannot be written.
    pub async fn rotate_token(&self, name: &str, revoke_old: bool) -> Result<Token, Error> {
        let token = Token::draw()?;
        let (name, digest) = (name.to_owned(), token.digest());
        self.submit(move |state, batch| state.rotate(&name, digest, revoke_old, batch))
            .await?;
        Ok(token)
    }

    /// Removes a cluster with its tokens and routes, and ends its connections.
    ///
    /// # Errors
    /// When there is no such cluster or the store cannot be written.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        self.submit(move |state, batch| state.delete(&name, batch))
            .await
    }

    /// Replaces the granted patterns of a cluster; its routes are judged anew.
    ///
    /// # Errors
    /// When there is no such cluster or the store cannot be written.
    pub async fn set_hosts(
        &self,
        name: &str,
        hosts: Vec<HostPattern>,
    ) -> Result<ClusterRecord, Error> {
        let name = name.to_owned();
        self.submit(move |state, batch| state.set_hosts(&name, hosts, batch))
            .await
    }

    /// All clusters as they were made, by name.
    #[must_use]
    pub fn list(&self) -> Vec<ClusterRecord> {
        self.state().views().map(|view| view.record).collect()
    }

    /// All clusters with what belongs to them, by name.
    #[must_use]
    pub fn views(&self) -> Vec<ClusterView> {
        self.state().views().collect()
    }

    /// One cluster with what belongs to it.
    ///
    /// # Errors
    /// When there is no such cluster.
    pub fn view(&self, name: &str) -> Result<ClusterView, Error> {
        self.state().view(name)
    }

    /// All clusters, by id.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Cluster>> {
        self.state().clusters().cloned().collect()
    }

    /// The routes of a cluster with their verdicts, by host and path.
    #[must_use]
    pub fn routes_of(&self, cluster: &ClusterId) -> Vec<(Arc<Route>, Verdict)> {
        let state = self.state();
        let routes = state.registry().routes_of_cluster(cluster);
        let mut routes: Vec<_> = routes
            .map(|(route, verdict)| (Arc::clone(route), *verdict))
            .collect();
        drop(state);
        routes.sort_by(|(a, _), (b, _)| {
            (&a.host, &a.path, a.path_type, a.id).cmp(&(&b.host, &b.path, b.path_type, b.id))
        });
        routes
    }

    /// What happens to a request for a host and a raw path, and why.
    #[must_use]
    pub fn explain(&self, host: &Hostname, path: &str) -> Explanation {
        self.state().registry().explain(host, path)
    }

    /// Hands a change to the writer and waits until it is on the disk. `change` either makes its
    /// change whole or, when it fails, none.
    async fn submit<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut State, &mut Batch) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let job: writer::Job = Box::new(move |tried| {
            let outcome = tried.and_then(|(state, batch)| change(state, batch));
            Box::new(move |failure| {
                // Nobody listens when the caller has gone; the change stands all the same.
                let _ = reply.send(failure.map_or(outcome, Err));
            })
        });
        let jobs = self.jobs.as_ref().ok_or(Error::StoreClosed)?;
        jobs.send(job).await.map_err(|_| Error::StoreClosed)?;
        answer.await.map_err(|_| Error::StoreClosed)?
    }

    fn state(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.shared
            .state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Clusters {
    /// Waits for the writer, so that the store is closed when this is gone.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has said so already.
            let _ = writer.join();
        }
    }
}

impl Shared {
    fn close_unknown(&self) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        for cluster in state.clusters() {
            cluster
                .connections
                .close_where(|connection| state.token(&connection.token).is_none());
        }
        drop(state);
        let departed = self.departed.read().unwrap_or_else(PoisonError::into_inner);
        for cluster in departed.iter().filter_map(Weak::upgrade) {
            cluster.connections.close_where(|_| true);
        }
    }
}

/// A name becomes a part of a label.
fn check_name(name: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let good = (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(|byte| plain(byte) || byte == b'-')
        && name.bytes().next().is_some_and(plain)
        && name.bytes().last().is_some_and(plain)
        && !name.starts_with("xn--");
    if good {
        Ok(())
    } else {
        Err(Error::ClusterName {
            name: name.chars().take(LONGEST_NAME + 20).collect(),
        })
    }
}
