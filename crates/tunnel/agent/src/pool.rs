//! Kept-alive connections to backends, one pool for each thread. It may not choose a backend.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gatewright_link::BodyError;
use gatewright_routes::BackendProtocol;
use http_body::Body;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Idle connections are not used after this time: backends close theirs after 60 s or more.
const IDLE: Duration = Duration::from_secs(55);
/// Read buffer of a backend's connection, which bounds what a stalled response holds, and the head of
/// a response: what the tunnel's largest frame carries. Larger ones are slower, for the allocator goes
/// round more memory with them than the processor's cache holds.
const READ_BUFFER: usize = 63 * 1024;

/// Why no connection could be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the backend did not accept the connection in time")]
    Timeout,
    #[error("the backend refused the connection")]
    Refused(#[source] std::io::Error),
    #[error("the backend does not speak HTTP")]
    Handshake(#[source] hyper::Error),
}

/// The request bodies that go to backends.
pub(crate) type RequestBody = http_body_util::combinators::UnsyncBoxBody<Bytes, BodyError>;

/// A connection to a backend that was checked out.
pub(crate) enum Sender {
    Http1 {
        sender: http1::SendRequest<RequestBody>,
        idle_since: Option<Instant>,
    },
    Http2(http2::SendRequest<RequestBody>),
}

/// A connection that idles, and since when.
type Idle = (http1::SendRequest<RequestBody>, Instant);

/// The pool.
pub(crate) struct Pool {
    http1: Mutex<HashMap<SocketAddr, Vec<Idle>>>,
    http2: Mutex<HashMap<SocketAddr, http2::SendRequest<RequestBody>>>,
    most_idle: usize,
    connect: Duration,
}

impl Pool {
    pub(crate) fn new(most_idle: usize, connect: Duration) -> Arc<Self> {
        Arc::new(Self {
            http1: Mutex::default(),
            http2: Mutex::default(),
            most_idle,
            connect,
        })
    }

    /// A connection that idles, or a new one.
    pub(crate) async fn check_out(
        &self,
        address: SocketAddr,
        protocol: BackendProtocol,
    ) -> Result<Sender, ConnectError> {
        match protocol {
            BackendProtocol::Http => match self.idle(address) {
                Some((sender, since)) => Ok(Sender::Http1 {
                    sender,
                    idle_since: Some(since),
                }),
                None => self.connect_http1(address).await,
            },
            BackendProtocol::H2c => self.shared_http2(address).await,
        }
    }

    fn idle(&self, address: SocketAddr) -> Option<Idle> {
        let mut pool = self.http1.lock().unwrap_or_else(PoisonError::into_inner);
        let stack = pool.get_mut(&address)?;
        // The newest may not have finished its last exchange yet; it stays for the next request.
        let place = stack
            .iter()
            .rposition(|(sender, since)| sender.is_ready() && since.elapsed() < IDLE)?;
        Some(stack.remove(place))
    }

    /// A new HTTP/1.1 connection.
    pub(crate) async fn connect_http1(&self, address: SocketAddr) -> Result<Sender, ConnectError> {
        let socket = self.dial(address).await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(READ_BUFFER)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(ConnectError::Handshake)?;
        // Ends when the sender is dropped or the backend closes.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a backend's connection ended");
            }
        });
        Ok(Sender::Http1 {
            sender,
            idle_since: None,
        })
    }

    async fn shared_http2(&self, address: SocketAddr) -> Result<Sender, ConnectError> {
        let known = {
            let mut pool = self.http2.lock().unwrap_or_else(PoisonError::into_inner);
            match pool.get(&address) {
                Some(sender) if !sender.is_closed() => Some(sender.clone()),
                Some(_) => {
                    pool.remove(&address);
                    None
                }
                None => None,
            }
        };
        if let Some(sender) = known {
            return Ok(Sender::Http2(sender));
        }
        let socket = self.dial(address).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(1024 * 1024)
            .initial_connection_window_size((1 << 31) - 1)
            .max_send_buf_size(READ_BUFFER)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(ConnectError::Handshake)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a backend's connection ended");
            }
        });
        let mut pool = self.http2.lock().unwrap_or_else(PoisonError::into_inner);
        pool.insert(address, sender.clone());
        Ok(Sender::Http2(sender))
    }

    async fn dial(&self, address: SocketAddr) -> Result<TcpStream, ConnectError> {
        let socket = tokio::time::timeout(self.connect, TcpStream::connect(address))
            .await
            .map_err(|_| ConnectError::Timeout)?
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::TimedOut => ConnectError::Timeout,
                _ => ConnectError::Refused(error),
            })?;
        socket.set_nodelay(true).map_err(ConnectError::Refused)?;
        Ok(socket)
    }

    /// Takes a connection back whose response is over.
    fn check_in(&self, address: SocketAddr, sender: http1::SendRequest<RequestBody>) {
        if sender.is_closed() {
            return;
        }
        let mut pool = self.http1.lock().unwrap_or_else(PoisonError::into_inner);
        let stack = pool.entry(address).or_default();
        if stack.len() < self.most_idle {
            stack.push((sender, Instant::now()));
        }
    }

    /// Forgets connections that have idled too long, and backends without any.
    pub(crate) fn sweep(&self) {
        let mut pool = self.http1.lock().unwrap_or_else(PoisonError::into_inner);
        pool.retain(|_, stack| {
            stack.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < IDLE);
            !stack.is_empty()
        });
    }
}

/// A response body that gives its connection back at its end. hyper must see the end of the body
/// before the connection may carry another request, so only a body read to its end gives it back.
pub(crate) struct PooledBody {
    body: hyper::body::Incoming,
    home: Option<(Arc<Pool>, SocketAddr, http1::SendRequest<RequestBody>)>,
}

impl PooledBody {
    pub(crate) fn new(
        body: hyper::body::Incoming,
        home: Option<(Arc<Pool>, SocketAddr, http1::SendRequest<RequestBody>)>,
    ) -> Self {
        let mut this = Self { body, home };
        if this.body.is_end_stream() {
            this.give_back();
        }
        this
    }

    fn give_back(&mut self) {
        if let Some((pool, address, sender)) = self.home.take() {
            pool.check_in(address, sender);
        }
    }
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, hyper::Error>>> {
        let frame = std::task::ready!(std::pin::Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.give_back(),
            Some(Ok(_)) if self.body.is_end_stream() => self.give_back(),
            Some(Ok(_)) => {}
            Some(Err(_)) => self.home = None,
        }
        std::task::Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
