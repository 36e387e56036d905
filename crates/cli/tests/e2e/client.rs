//! Users that the raw client cannot play: HTTP/2 with prior knowledge; and a backend that keeps what it was sent. They may not retry or correct anything.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use gatewright_testkit::backend::scripted::Scripted;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// A request body of any kind.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// One HTTP/2 connection of a user.
#[derive(Clone)]
pub(crate) struct H2 {
    sender: http2::SendRequest<Body>,
}

impl H2 {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address)
            .await
            .expect("connect to the edge");
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(256 * 1024)
            .handshake(TokioIo::new(socket))
            .await
            .expect("an HTTP/2 handshake");
        // Its end shows in the requests on it.
        tokio::spawn(connection);
        Self { sender }
    }

    pub(crate) async fn send(
        &self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Incoming>, hyper::Error> {
        self.sender.clone().send_request(request).await
    }

    pub(crate) async fn get(&self, host: &str, target: &str) -> http::Response<Incoming> {
        let request = http::Request::get(format!("http://{host}{target}")).body(empty());
        self.send(request.expect("a request"))
            .await
            .expect("a response")
    }
}

/// A backend that never answers and keeps the bytes of each request's body as they came.
pub(crate) struct Recorder {
    backend: Scripted,
    bodies: mpsc::UnboundedReceiver<Vec<u8>>,
    seen: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Recorder {
    pub(crate) async fn start() -> Self {
        let (sender, bodies) = mpsc::unbounded_channel();
        let seen = Arc::new(AtomicUsize::new(0));
        let ended = Arc::new(AtomicUsize::new(0));
        let counters = (Arc::clone(&seen), Arc::clone(&ended));
        let backend = Scripted::start(move |mut stream| {
            let sender = sender.clone();
            let (seen, ended) = (Arc::clone(&counters.0), Arc::clone(&counters.1));
            async move {
                let mut body = Vec::new();
                if stream
                    .read_buf(&mut body)
                    .await
                    .is_ok_and(|count| count > 0)
                {
                    seen.fetch_add(1, Ordering::SeqCst);
                    // A reset is an end as good as another.
                    while stream
                        .read_buf(&mut body)
                        .await
                        .is_ok_and(|count| count > 0)
                    {}
                }
                let _ = sender.send(body);
                ended.fetch_add(1, Ordering::SeqCst);
            }
        })
        .await;
        Self {
            backend,
            bodies,
            seen,
            ended,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.backend.address()
    }

    /// Requests of which a part of the body has come.
    pub(crate) fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    /// Requests whose connection has ended.
    pub(crate) fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    /// All bodies, when all connections have ended, which is for the caller to see to.
    pub(crate) async fn bodies(mut self) -> Vec<Vec<u8>> {
        let count = self.backend.heads().len();
        let mut bodies = Vec::new();
        while bodies.len() < count {
            bodies.push(self.bodies.recv().await.expect("the backend runs"));
        }
        bodies
    }
}
