//! The edge's threads and listeners: one runtime for each worker, each with its own listening
//! socket, so that a connection lives on one core from accept to close. It may not look into
//! requests.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use gatewright_link::Limits;
use http::HeaderValue;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access_log::AccessLog;
use crate::admin::RecentErrors;
use crate::clusters::Clusters;
use crate::config::{EdgeConfig, Timeouts};
use crate::guard::{ConnectionState, Guarded};
use crate::metrics::Metrics;
use crate::{Error, agents, proxy, tls};

/// Connections that the kernel keeps for us to accept.
const BACKLOG: i32 = 4096;
/// How often a worker hands its access log over, at the latest.
const LOG_FLUSH: Duration = Duration::from_millis(200);
/// For answers of the admin listener that are under way when the edge ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// Tasks that run before a worker asks the kernel for events. The default of 61 asks more often
/// than a gateway's short tasks are worth.
const EVENT_INTERVAL: u32 = 128;

/// What the workers share.
pub(crate) struct Shared {
    pub(crate) config: EdgeConfig,
    pub(crate) clusters: Arc<Clusters>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) recent_errors: Arc<RecentErrors>,
    pub(crate) access_log: AccessLog,
    pub(crate) link_limits: Limits,
    pub(crate) edge_id: String,
    /// Takes no new work; what is under way goes on.
    pub(crate) drain: CancellationToken,
    /// Ends everything.
    pub(crate) stop: CancellationToken,
    /// What has to be over before the edge ends by itself.
    pub(crate) tasks: TaskTracker,
    pub(crate) handoffs: Vec<mpsc::UnboundedSender<agents::Arrival>>,
    timeouts: Arc<Timeouts>,
    connections: AtomicUsize,
    next_connection: AtomicU64,
    request_prefix: u64,
    next_request: AtomicU64,
}

impl Shared {
    /// A number for a tunnel connection, unique in this process.
    pub(crate) fn connection_id(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }

    /// A request id: unique among edges by a random half, and never added to HPACK's table.
    pub(crate) fn request_id(&self) -> HeaderValue {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let number = self.next_request.fetch_add(1, Ordering::Relaxed);
        let mut text = [0; 32];
        let bits = (u128::from(self.request_prefix) << 64) | u128::from(number);
        for (place, digit) in text.iter_mut().enumerate() {
            *digit = HEX[(bits >> (4 * (31 - place))) as usize & 0xf];
        }
        let mut value =
            HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("-"));
        value.set_sensitive(true);
        value
    }
}

/// One user's connection.
pub(crate) struct UserConnection {
    pub(crate) edge: Arc<Shared>,
    pub(crate) worker: usize,
    pub(crate) remote: SocketAddr,
    pub(crate) address: HeaderValue,
    pub(crate) address_text: String,
    pub(crate) trusted: bool,
    pub(crate) scheme: &'static str,
    pub(crate) state: Arc<ConnectionState>,
}

impl UserConnection {
    fn new(edge: &Arc<Shared>, worker: usize, remote: SocketAddr) -> Self {
        let address = remote.ip().to_canonical();
        let address_text = address.to_string();
        Self {
            edge: Arc::clone(edge),
            worker,
            remote,
            // An address is made of digits, dots, colons and letters.
            address: HeaderValue::from_str(&address_text)
                .unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            address_text,
            trusted: is_trusted(edge, address),
            scheme: "http",
            state: Arc::new(ConnectionState::default()),
        }
    }
}

fn is_trusted(edge: &Shared, address: IpAddr) -> bool {
    edge.config
        .trusted_proxies
        .iter()
        .any(|block| block.contains(address))
}

/// A running edge.
pub struct Edge {
    shared: Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
    /// On the runtime that started the edge.
    tasks: Vec<tokio::task::JoinHandle<()>>,
    http: SocketAddr,
    tunnel: Option<SocketAddr>,
    admin: SocketAddr,
}

impl Edge {
    /// Opens the store, binds every socket and starts the workers. The calling runtime serves the
    /// admin listener.
    ///
    /// # Errors
    /// When the store cannot be used or a port is taken; nothing is left running then.
    pub async fn start(config: EdgeConfig) -> Result<Self, Error> {
        let workers = config
            .workers
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
            .max(1);
        let (http, http_listeners) = listen(config.listen.http, workers)?;
        let tunnel = config
            .listen
            .tunnel
            .map(|address| listen(address, 1))
            .transpose()?;
        let acceptor = match (&tunnel, &config.tls) {
            (Some(_), Some(files)) => Some(tls::acceptor(files)?),
            (Some(_), None) => return Err(Error::TunnelWithoutTls),
            (None, _) => None,
        };
        let admin_listener = bind(config.listen.admin)?;
        let admin = admin_listener.local_addr().map_err(|source| Error::Bind {
            address: config.listen.admin,
            source,
        })?;
        let clusters = Clusters::with_limit(&config.store, &config.domain, config.limits.routes)?;
        let mut handoffs = Vec::new();
        let mut arrivals = Vec::new();
        for _ in 0..workers {
            let (sender, receiver) = mpsc::unbounded_channel();
            handoffs.push(sender);
            arrivals.push(receiver);
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| Error::Random)?;
        let request_prefix = u64::from_le_bytes(*random.first_chunk::<8>().unwrap_or(&[0; 8]));
        let metrics = Metrics::new(Arc::clone(&clusters));
        let shared = Arc::new(Shared {
            access_log: AccessLog::open(&config.access_log, metrics.dropped_log_lines())?,
            metrics: Arc::new(metrics),
            recent_errors: Arc::new(RecentErrors::default()),
            link_limits: Limits {
                max_streams: config.limits.tunnel_streams,
                ..Limits::default()
            },
            edge_id: format!("{request_prefix:016x}"),
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            handoffs,
            timeouts: Arc::new(config.timeouts.clone()),
            connections: AtomicUsize::new(0),
            next_connection: AtomicU64::new(1),
            request_prefix,
            next_request: AtomicU64::new(0),
            clusters,
            config,
        });
        let tasks = vec![
            crate::admin::serve(&shared, admin_listener)?,
            agents::watch_revocations(&shared),
        ];
        let mut threads = Vec::new();
        let mut tunnel_listener = tunnel.map(|(address, mut listeners)| (address, listeners.pop()));
        let tunnel_address = tunnel_listener.as_ref().map(|(address, _)| *address);
        for (index, (listener, arrivals)) in http_listeners.into_iter().zip(arrivals).enumerate() {
            let worker = Worker {
                index,
                shared: Arc::clone(&shared),
                http: listener,
                // Raw TLS is accepted by the first worker and spread from there.
                tunnel: tunnel_listener
                    .take()
                    .and_then(|(_, listener)| listener)
                    .zip(acceptor.clone()),
                arrivals,
            };
            let thread = std::thread::Builder::new()
                .name(format!("edge-{index}"))
                .spawn(move || worker.run())
                .map_err(Error::Thread)?;
            threads.push(thread);
        }
        Ok(Self {
            shared,
            threads,
            tasks,
            http,
            tunnel: tunnel_address,
            admin,
        })
    }

    /// Where users and agents connect.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Where agents connect over raw TLS.
    pub fn tunnel_address(&self) -> Option<SocketAddr> {
        self.tunnel
    }

    /// Where the admin API listens.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// The clusters, for a process that runs edge and agent together.
    pub fn clusters(&self) -> &Arc<Clusters> {
        &self.shared.clusters
    }

    /// Takes no new work, waits for what is under way (at most `timeouts.drain`), and ends.
    pub async fn drain(self) {
        self.shared.drain.cancel();
        self.shared.tasks.close();
        let limit = self.shared.config.timeouts.drain;
        if tokio::time::timeout(limit, self.shared.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                seconds = limit.as_secs(),
                "some requests were not over in time; ending them"
            );
        }
        self.shared.stop.cancel();
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A worker that panicked has said so already.
                let _ = thread.join();
            }
        });
        let _ = joined.await;
        // Whoever starts an edge in this one's place needs its ports and its store.
        for mut task in self.tasks {
            if tokio::time::timeout(LAST_ANSWERS, &mut task).await.is_err() {
                task.abort();
            }
        }
        self.shared.access_log.flush();
    }
}

/// Binds one port with as many sockets as there are workers; the kernel spreads connections.
fn listen(
    address: SocketAddr,
    sockets: usize,
) -> Result<(SocketAddr, Vec<std::net::TcpListener>), Error> {
    let failed = |source| Error::Bind { address, source };
    let mut listeners = Vec::new();
    let mut address = address;
    if address.port() == 0 {
        // A port that the kernel chooses is free; the other sockets join the first.
        let first = socket(address, true).map_err(failed)?;
        address = first.local_addr().map_err(failed)?;
        listeners.push(first);
    } else {
        // Sockets that share a port share it with every process of this user: look first whether
        // somebody else has it.
        drop(bind(address)?);
    }
    while listeners.len() < sockets {
        listeners.push(socket(address, true).map_err(failed)?);
    }
    Ok((address, listeners))
}

fn bind(address: SocketAddr) -> Result<std::net::TcpListener, Error> {
    socket(address, false).map_err(|source| Error::Bind { address, source })
}

fn socket(address: SocketAddr, shared: bool) -> std::io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

struct Worker {
    index: usize,
    shared: Arc<Shared>,
    http: std::net::TcpListener,
    tunnel: Option<(std::net::TcpListener, TlsAcceptor)>,
    arrivals: mpsc::UnboundedReceiver<agents::Arrival>,
}

impl Worker {
    fn run(self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .event_interval(EVENT_INTERVAL)
            .build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.serve()),
            Err(error) => tracing::error!(%error, "a worker has no runtime"),
        }
    }

    async fn serve(self) {
        let Self {
            index,
            shared,
            http,
            tunnel,
            mut arrivals,
        } = self;
        let tasks = shared.tasks.clone();
        if let Some((listener, acceptor)) = tunnel {
            tasks.spawn(accept_tunnels(Arc::clone(&shared), listener, acceptor));
        }
        tasks.spawn(accept_users(Arc::clone(&shared), index, http));
        let mut flush = tokio::time::interval(LOG_FLUSH);
        loop {
            tokio::select! {
                () = shared.stop.cancelled() => break,
                Some(arrival) = arrivals.recv() => {
                    // Tunnels outlive the drain: requests under way need them until the stop.
                    tokio::spawn(agents::run(Arc::clone(&shared), index, arrival));
                }
                _ = flush.tick() => shared.access_log.flush(),
            }
        }
        shared.access_log.flush();
    }
}

async fn accept_users(shared: Arc<Shared>, worker: usize, listener: std::net::TcpListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot listen for users"),
    };
    let builder = Arc::new(http_builder());
    loop {
        let accepted = tokio::select! {
            () = shared.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, say: others may end meanwhile.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let taken = shared.connections.fetch_add(1, Ordering::Relaxed);
        if taken >= shared.config.limits.connections {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let user = Arc::new(UserConnection::new(&shared, worker, remote));
        shared
            .tasks
            .spawn(serve_user(Arc::clone(&builder), user, socket));
    }
}

fn http_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // The guard keeps the times; hyper's own timer is one allocation for each request.
        .header_read_timeout(None)
        .max_buf_size(128 * 1024)
        .max_headers(512)
        .half_close(false)
        .auto_date_header(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024)
        .max_concurrent_streams(256)
        .max_send_buf_size(128 * 1024)
        .max_header_list_size(128 * 1024)
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .auto_date_header(false);
    builder
}

struct CountedConnection(Arc<Shared>);

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve_user(
    builder: Arc<auto::Builder<TokioExecutor>>,
    user: Arc<UserConnection>,
    socket: TcpStream,
) {
    let shared = Arc::clone(&user.edge);
    let _counted = CountedConnection(Arc::clone(&shared));
    let _ = socket.set_nodelay(true);
    let guarded = Guarded::new(
        socket,
        Arc::clone(&user.state),
        Arc::clone(&shared.timeouts),
    );
    let service = service_fn(move |request| proxy::handle(Arc::clone(&user), request));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(guarded), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shared.drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = shared.stop.cancelled() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a user's connection ended");
    }
}

async fn accept_tunnels(
    shared: Arc<Shared>,
    listener: std::net::TcpListener,
    acceptor: TlsAcceptor,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot listen for agents"),
    };
    let mut next = 0;
    loop {
        let accepted = tokio::select! {
            () = shared.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(socket, remote)| Ok((socket.into_std()?, remote))) {
            Ok((socket, remote)) => {
                // Before the handshake a socket may still change its runtime.
                let arrival = agents::Arrival::tls(socket, remote, acceptor.clone());
                next = (next + 1) % shared.handoffs.len();
                let _ = shared.handoffs[next].send(arrival);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an agent's connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
