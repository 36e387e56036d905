//! A real loopback HTTP backend (HTTP/1.1 and h2c on one port) for end-to-end tests. It may not leave 127.0.0.1.
//!
//! | path | what it does |
//! |---|---|
//! | `/status/NNN` | answers that status at once, the request's body unread; body `status NNN\n` |
//! | `/echo` | JSON [`Echo`]: what arrived, target and header bytes as they came |
//! | `/body` | streams the request's body back as it arrives, with its content type and trailers |
//! | `/sse` | `text/event-stream`: event `1` at once, each further one after [`Backend::release`] |
//! | `/slow-headers` | sends its response head only after [`Backend::release`] |
//! | `/hang` | never answers and never reads the request's body |
//! | `/bytes/N` | N bytes, `Content-Length: N` |
//! | `/chunked/N` | N bytes without a length |
//! | `/sink` | reads the whole body, answers `{"bytes": N}` |
//! | `/reset-mid-body` | promises 1,000,000 bytes, sends 1,000, then breaks off |
//! | `/trailers` | body `body\n`, then the trailers `x-checksum` and `grpc-status` |
//! | `/ws` | a WebSocket that echoes messages and close codes |
//! | anything with `Upgrade` | 101, then echoes raw bytes |
//!
//! What a well-behaved HTTP server cannot send is a [`scripted::Scripted`] backend.

mod body;
mod routes;
pub mod scripted;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::wait::await_condition;

/// What `/echo` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// The method as it arrived.
    pub method: String,
    /// Path and query as they arrived, nothing decoded.
    pub target: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// `:authority` over HTTP/2; over HTTP/1.1 see the `host` header.
    pub authority: Option<String>,
    /// Names in lower case, in the order of arrival; values with invalid UTF-8 replaced.
    pub headers: Vec<(String, String)>,
    /// The body, with invalid UTF-8 replaced.
    pub body: String,
}

impl Echo {
    /// The values of the header `name` (lower case), in order.
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

/// What a [`Backend`] has seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Accepted connections.
    pub connections: u64,
    /// Connections that are open now.
    pub open_connections: u64,
    /// Requests whose head arrived.
    pub requests: u64,
    /// Requests whose answer is not finished.
    pub in_flight: u64,
    /// Requests whose client went before the answer was finished.
    pub aborted: u64,
    /// Bytes of request bodies that `/sink` has read, also of those that never finished.
    pub sunk_bytes: u64,
    /// Bytes of `/bytes` and `/chunked` that were handed out to be sent.
    pub sent_bytes: u64,
}

#[derive(Debug)]
struct Shared {
    connections: AtomicU64,
    open_connections: AtomicU64,
    requests: AtomicU64,
    in_flight: AtomicU64,
    aborted: AtomicU64,
    sunk_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    releases: Semaphore,
}

/// Which HTTP versions a [`Backend`] speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/1.1, and HTTP/2 with prior knowledge.
    Both,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 with prior knowledge only.
    H2c,
}

/// A running backend. Dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    // Aborts its tasks when dropped.
    _server: JoinSet<()>,
}

impl Backend {
    /// Listens on a free port of 127.0.0.1 with both protocols.
    pub async fn start() -> Self {
        Self::start_with(Protocols::Both).await
    }

    /// Listens on a free port of 127.0.0.1.
    pub async fn start_with(protocols: Protocols) -> Self {
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0)), protocols).await
    }

    /// Listens on `address`, so that a backend can come back where it was.
    pub async fn listen(address: SocketAddr, protocols: Protocols) -> Self {
        let listener = TcpListener::bind(address)
            .await
            .unwrap_or_else(|e| panic!("the backend cannot listen on {address}: {e}"));
        let address = listener
            .local_addr()
            .unwrap_or_else(|e| panic!("the backend does not know its address: {e}"));
        let shared = Arc::new(Shared {
            connections: AtomicU64::new(0),
            open_connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            sunk_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            releases: Semaphore::new(0),
        });
        let mut server = JoinSet::new();
        server.spawn(accept(listener, Arc::clone(&shared), protocols));
        Self {
            address,
            shared,
            _server: server,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The counters at this moment.
    pub fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        Counters {
            connections: read(&self.shared.connections),
            open_connections: read(&self.shared.open_connections),
            requests: read(&self.shared.requests),
            in_flight: read(&self.shared.in_flight),
            aborted: read(&self.shared.aborted),
            sunk_bytes: read(&self.shared.sunk_bytes),
            sent_bytes: read(&self.shared.sent_bytes),
        }
    }

    /// Waits up to 10 s until the counters satisfy `check`; panics with `what` and the counters otherwise.
    pub async fn await_counters(&self, what: &str, check: impl Fn(Counters) -> bool) {
        let met = await_condition(what, Duration::from_secs(3600), || async {
            check(self.counters())
        });
        if tokio::time::timeout(Duration::from_secs(10), met)
            .await
            .is_err()
        {
            panic!("the backend never saw {what}: {:?}", self.counters());
        }
    }

    /// Lets one waiting `/sse` send its next event, or one `/slow-headers` answer; it is kept if none waits.
    pub fn release(&self) {
        self.shared.releases.add_permits(1);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, protocols: Protocols) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        // A connection that was reset while it waited is no reason to stop.
        let Ok((stream, _)) = stream else { continue };
        // Each write is its own segment, so that a test sees when bytes were sent.
        let _ = stream.set_nodelay(true);
        shared.connections.fetch_add(1, Ordering::SeqCst);
        connections.spawn(serve(stream, Arc::clone(&shared), protocols));
    }
}

/// Counts a connection as open until the task that serves it ends or is aborted.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open_connections.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(stream: tokio::net::TcpStream, shared: Arc<Shared>, protocols: Protocols) {
    shared.open_connections.fetch_add(1, Ordering::SeqCst);
    let _open = Open(Arc::clone(&shared));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_header_list_size(1 << 20);
    let service = service_fn(move |request| routes::answer(request, Arc::clone(&shared)));
    let io = TokioIo::new(stream);
    // How a connection ends is the tests' business; they see it from the other side and in the counters.
    let _ = match protocols {
        Protocols::Both => builder.serve_connection_with_upgrades(io, service).await,
        Protocols::Http1 => {
            let builder = builder.http1_only();
            builder.serve_connection_with_upgrades(io, service).await
        }
        // The variant with upgrades would speak HTTP/1.1 all the same.
        Protocols::H2c => builder.http2_only().serve_connection(io, service).await,
    };
}
