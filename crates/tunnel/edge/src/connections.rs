//! The tunnels of one cluster: added and removed by agents' sessions, chosen from for requests.
//! Choosing takes no lock. It may not know routes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use gatewright_link::Tunnel;
use tokio_util::sync::CancellationToken;

use crate::token::TokenId;

/// One connection of an agent.
pub struct Connection {
    /// Unique in this process.
    pub id: u64,
    /// The worker whose runtime drives it.
    pub worker: usize,
    /// What the agent calls itself; for people only.
    pub agent_id: String,
    /// The agent's version; for people only.
    pub agent_version: String,
    /// `websocket` or `tls`.
    pub carrier: &'static str,
    /// Where it dialled from.
    pub remote: SocketAddr,
    /// When it registered, Unix seconds.
    pub since: i64,
    /// The credential that it came with.
    pub token: TokenId,
    /// Carries requests.
    pub tunnel: Tunnel,
    /// Ends the connection.
    pub close: CancellationToken,
}

/// What people are told of a connection.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ConnectionInfo {
    /// What the agent calls itself.
    pub agent_id: String,
    /// The agent's version.
    pub agent_version: String,
    /// `websocket` or `tls`.
    pub carrier: &'static str,
    /// Where it dialled from.
    pub remote: SocketAddr,
    /// When it registered, Unix seconds.
    pub since: i64,
    /// Requests under way.
    pub in_flight: usize,
}

/// The connections of a cluster.
#[derive(Default)]
pub struct ConnectionSet {
    list: ArcSwap<Vec<Arc<Connection>>>,
    writing: Mutex<()>,
    /// How many connections each worker drives, or will once they have arrived.
    places: Mutex<Vec<usize>>,
}

/// What choosing a connection came to.
pub enum Pick {
    /// This one.
    Connection(Arc<Connection>),
    /// There is none.
    None,
    /// There are some, and each carries as many requests as it may.
    Full,
}

/// A request prefers its own worker's connections unless another has this many fewer requests:
/// crossing over costs a wake-up of the other thread.
const CROSSING_COST: usize = 32;

impl ConnectionSet {
    /// Adds a connection that registered.
    pub fn add(&self, connection: Arc<Connection>) {
        self.change(|list| list.push(connection));
    }

    /// Removes a connection.
    pub fn remove(&self, id: u64) {
        self.change(|list| list.retain(|connection| connection.id != id));
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Connection>>)) {
        let _one_writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list = Vec::clone(&self.list.load());
        change(&mut list);
        self.list.store(Arc::new(list));
    }

    /// The connection with the fewest requests under way, those of `worker` preferred.
    pub fn pick(&self, worker: usize) -> Pick {
        let list = self.list.load();
        let mut best: Option<(usize, &Arc<Connection>)> = None;
        let mut full = false;
        for connection in list
            .iter()
            .filter(|connection| connection.tunnel.is_usable())
        {
            if connection.tunnel.is_full() {
                full = true;
                continue;
            }
            let crossing = if connection.worker == worker {
                0
            } else {
                CROSSING_COST
            };
            let cost = connection.tunnel.in_flight() + crossing;
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, connection));
            }
        }
        match best {
            Some((_, connection)) => Pick::Connection(Arc::clone(connection)),
            None if full => Pick::Full,
            None => Pick::None,
        }
    }

    /// Takes a place at the worker that has the fewest, `own` rather than another. Places and not
    /// registered connections are counted, for an agent's connections arrive together.
    pub fn take_place(&self, workers: usize, own: usize) -> usize {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() < workers {
            places.resize(workers, 0);
        }
        let worker = (0..workers)
            .min_by_key(|worker| (places[*worker], *worker != own))
            .unwrap_or(own);
        if let Some(count) = places.get_mut(worker) {
            *count += 1;
        }
        worker
    }

    /// Gives a place back.
    pub fn leave_place(&self, worker: usize) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = places.get_mut(worker) {
            *count = count.saturating_sub(1);
        }
    }

    /// All connections.
    pub fn len(&self) -> usize {
        self.list.load().len()
    }

    /// Connections that take requests.
    pub fn usable(&self) -> usize {
        self.list
            .load()
            .iter()
            .filter(|connection| connection.tunnel.is_usable())
            .count()
    }

    /// For people.
    pub fn describe(&self) -> Vec<ConnectionInfo> {
        self.list
            .load()
            .iter()
            .map(|connection| ConnectionInfo {
                agent_id: connection.agent_id.clone(),
                agent_version: connection.agent_version.clone(),
                carrier: connection.carrier,
                remote: connection.remote,
                since: connection.since,
                in_flight: connection.tunnel.in_flight(),
            })
            .collect()
    }

    /// Ends the connections that `condemned` names.
    pub fn close_where(&self, condemned: impl Fn(&Connection) -> bool) {
        for connection in self
            .list
            .load()
            .iter()
            .filter(|connection| condemned(connection))
        {
            connection.close.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_arrive_together_go_to_different_workers() {
        let set = ConnectionSet::default();
        assert_eq!(set.take_place(3, 1), 1);
        assert_eq!(set.take_place(3, 1), 0);
        assert_eq!(set.take_place(3, 1), 2);
        assert_eq!(set.take_place(3, 2), 2);
        set.leave_place(0);
        assert_eq!(set.take_place(3, 2), 0);
        assert_eq!(set.len(), 0);
    }
}
