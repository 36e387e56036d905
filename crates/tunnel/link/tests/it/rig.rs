//! What the tests share: two ends joined by a pipe or a socket, bodies that count, and hand-made
//! frames for the ends that behave badly.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use gatewright_link::{
    ControlChannel, Driver, Exchange, Limits, LinkError, RequestBody, SendError, ServerHandle,
    Tunnel, TunnelResponse, Upgraded, accept_raw, accept_websocket, serve_raw, serve_websocket,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

pub(crate) const TOKEN: &str = "Bearer gw_secret";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    WebSocket,
    Raw,
}

pub(crate) const BOTH: [Kind; 2] = [Kind::WebSocket, Kind::Raw];

/// Bytes that a pipe between the ends holds, each way.
pub(crate) const PIPE: usize = 64 * 1024;

/// One connection with both of its ends, each driven by a task.
pub(crate) struct Rig {
    pub(crate) tunnel: Tunnel,
    pub(crate) edge_control: ControlChannel,
    pub(crate) agent_control: ControlChannel,
    pub(crate) handle: ServerHandle,
    pub(crate) edge: JoinHandle<Result<(), LinkError>>,
    pub(crate) agent: JoinHandle<Result<(), LinkError>>,
    pub(crate) exchanges: mpsc::UnboundedReceiver<Exchange>,
}

/// The agent's end, not driven yet.
pub(crate) struct AgentEnd {
    pub(crate) handle: ServerHandle,
    pub(crate) control: ControlChannel,
    pub(crate) driver: Driver,
    pub(crate) exchanges: mpsc::UnboundedReceiver<Exchange>,
}

pub(crate) async fn agent_end<S>(
    kind: Kind,
    socket: S,
    limits: &Limits,
) -> Result<AgentEnd, LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (taken, exchanges) = mpsc::unbounded_channel();
    let on_exchange = move |exchange| drop(taken.send(exchange));
    let (handle, control, driver) = match kind {
        Kind::WebSocket => {
            let upgraded = Upgraded::new(socket, Vec::new());
            serve_websocket(upgraded, limits, on_exchange).await?
        }
        Kind::Raw => serve_raw(socket, authorization(), limits, on_exchange).await?,
    };
    Ok(AgentEnd {
        handle,
        control,
        driver,
        exchanges,
    })
}

pub(crate) async fn edge_end<S>(
    kind: Kind,
    socket: S,
    limits: &Limits,
) -> Result<(Tunnel, ControlChannel, Driver), LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match kind {
        Kind::WebSocket => accept_websocket(socket, Vec::new(), limits).await,
        Kind::Raw => {
            let accepted = accept_raw(socket, limits).await?;
            assert_eq!(accepted.authorization, TOKEN);
            Ok((accepted.tunnel, accepted.control, accepted.driver))
        }
    }
}

/// The agent's side of a WebSocket whose upgrade is over, by another implementation.
pub(crate) async fn client_websocket<S>(socket: S) -> WebSocketStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .write_buffer_size(256 * 1024)
        .max_write_buffer_size(5 * 1024 * 1024)
        .max_message_size(Some(4 * 1024 * 1024))
        .max_frame_size(Some(4 * 1024 * 1024));
    WebSocketStream::from_raw_socket(socket, Role::Client, Some(config)).await
}

pub(crate) fn authorization() -> HeaderValue {
    let mut value = HeaderValue::from_static(TOKEN);
    value.set_sensitive(true);
    value
}

impl Rig {
    pub(crate) async fn new(kind: Kind) -> Self {
        Self::with(kind, PIPE, &Limits::default()).await
    }

    pub(crate) async fn with(kind: Kind, pipe: usize, limits: &Limits) -> Self {
        let (edge, agent) = duplex(pipe);
        Self::over(kind, edge, agent, limits).await
    }

    pub(crate) async fn over<E, A>(kind: Kind, edge: E, agent: A, limits: &Limits) -> Self
    where
        E: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        A: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let serving = async {
            let end = agent_end(kind, agent, limits).await.unwrap();
            (
                end.handle,
                end.control,
                end.exchanges,
                tokio::spawn(end.driver),
            )
        };
        let accepting = async {
            let (tunnel, control, driver) = edge_end(kind, edge, limits).await.unwrap();
            (tunnel, control, tokio::spawn(driver))
        };
        let ((handle, agent_control, exchanges, agent), (tunnel, edge_control, edge)) =
            tokio::join!(serving, accepting);
        Self {
            tunnel,
            edge_control,
            agent_control,
            handle,
            edge,
            agent,
            exchanges,
        }
    }

    pub(crate) async fn tcp(kind: Kind, limits: &Limits) -> Self {
        let (edge, agent) = tcp_pair().await;
        Self::over(kind, edge, agent, limits).await
    }

    /// Opens a request and takes it on the agent's side, unanswered.
    pub(crate) async fn open<B>(
        &mut self,
        body: RequestBody<B>,
    ) -> (JoinHandle<Result<TunnelResponse, SendError>>, Exchange)
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let slot = self.tunnel.reserve().await.unwrap();
        let sending = tokio::spawn(slot.send(post("/"), body, |_| {}));
        (sending, soon(self.exchanges.recv()).await.unwrap())
    }

    /// One small request and its answer; both ends must be alive for it.
    pub(crate) async fn small_request(&mut self) {
        let (sending, exchange) = self.open(RequestBody::<Empty<Bytes>>::Empty).await;
        exchange
            .responder
            .send(Response::new(text("small")))
            .await
            .unwrap();
        let (head, body) = soon(sending).await.unwrap().unwrap().into_parts();
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(soon(body.collect()).await.unwrap().to_bytes(), "small");
    }
}

pub(crate) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (accepted.unwrap().0, dialled.unwrap())
}

pub(crate) fn text(text: &'static str) -> Full<Bytes> {
    Full::new(Bytes::from_static(text.as_bytes()))
}

pub(crate) fn post(path: &str) -> Request<()> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://app.example.test{path}"))
        .body(())
        .unwrap()
}

/// Waits for what must happen; a test that would hang fails instead.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, future)
        .await
        .expect("it should have happened by now")
}

/// Resolves when no task can go on. Only for tests with a paused clock, which moves then alone.
pub(crate) async fn settled() {
    tokio::time::sleep(Duration::from_millis(1)).await; // virtual time
}

/// Repeatable bytes that differ from position to position.
pub(crate) fn pattern(length: usize) -> Bytes {
    (0..length)
        .map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8)
        .collect::<Vec<_>>()
        .into()
}

/// A body of `chunks` equal pieces that counts what was asked of it and whether it still lives.
pub(crate) struct Counting {
    left: usize,
    chunk: Bytes,
    counted: Arc<Counted>,
}

#[derive(Debug, Default)]
pub(crate) struct Counted {
    bytes: AtomicUsize,
    alive: AtomicUsize,
}

impl Counted {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }

    pub(crate) fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }
}

impl Counting {
    pub(crate) fn new(chunks: usize, chunk: usize, counted: &Arc<Counted>) -> Self {
        counted.alive.fetch_add(1, Ordering::SeqCst);
        Self {
            left: chunks,
            chunk: pattern(chunk),
            counted: Arc::clone(counted),
        }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.counted.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Body for Counting {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.counted
            .bytes
            .fetch_add(self.chunk.len(), Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(self.chunk.clone()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A body whose frames a test sends one by one; an `Err` breaks it, dropping the sender ends it.
pub(crate) struct Fed(mpsc::UnboundedReceiver<Result<Frame<Bytes>, std::io::Error>>);

pub(crate) type Feed = mpsc::UnboundedSender<Result<Frame<Bytes>, std::io::Error>>;

pub(crate) fn fed() -> (Feed, Fed) {
    let (feed, frames) = mpsc::unbounded_channel();
    (feed, Fed(frames))
}

impl Body for Fed {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(cx)
    }
}

/// A hand-made HTTP/2 frame (RFC 9113 §4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
/// `:status: 200` in HPACK's static table.
pub(crate) const STATUS_200: &[u8] = &[0x88];

/// Reads one frame: kind, stream and payload. `None` at the end.
pub(crate) async fn read_frame<S: AsyncRead + Unpin>(socket: &mut S) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    socket.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    let mut payload = vec![0; length as usize];
    socket.read_exact(&mut payload).await.ok()?;
    Some((head[3], stream, payload))
}

/// Reads on to the frame of a kind and gives its stream.
pub(crate) async fn read_to<S: AsyncRead + Unpin>(socket: &mut S, kind: u8) -> u32 {
    loop {
        let (got, stream, _) = read_frame(socket).await.expect("the connection goes on");
        if got == kind {
            return stream;
        }
    }
}

/// An edge with a hand-made agent at the other end of a pipe, which has answered the control stream
/// (stream 1), so that requests start at stream 3.
pub(crate) struct HandMade {
    pub(crate) tunnel: Tunnel,
    pub(crate) control: ControlChannel,
    pub(crate) edge: JoinHandle<Result<(), LinkError>>,
    pub(crate) agent: DuplexStream,
}

impl HandMade {
    pub(crate) async fn new(limits: &Limits) -> Self {
        let (edge, mut agent) = duplex(PIPE);
        let answering = async {
            let mut preface = [0; 24];
            agent.read_exact(&mut preface).await.unwrap();
            assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            agent.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
            assert_eq!(read_to(&mut agent, HEADERS).await, 1);
            agent
                .write_all(&frame(HEADERS, END_HEADERS, 1, STATUS_200))
                .await
                .unwrap();
        };
        let (accepted, ()) = tokio::join!(accept_raw(edge, limits), answering);
        let accepted = accepted.unwrap();
        assert_eq!(accepted.authorization, "");
        let edge = tokio::spawn(accepted.driver);
        Self {
            tunnel: accepted.tunnel,
            control: accepted.control,
            edge,
            agent,
        }
    }

    /// Opens a request and waits until its head has arrived.
    pub(crate) async fn open(&mut self) -> (JoinHandle<Result<TunnelResponse, SendError>>, u32) {
        let slot = self.tunnel.reserve().await.unwrap();
        let body = RequestBody::<Empty<Bytes>>::Empty;
        let sending = tokio::spawn(slot.send(post("/"), body, |_| {}));
        (sending, soon(read_to(&mut self.agent, HEADERS)).await)
    }

    /// Opens all windows as wide as they go. The clock is paused.
    pub(crate) async fn grant_everything(&mut self) {
        self.write(&frame(
            SETTINGS,
            0,
            0,
            &[0x00, 0x04, 0x7f, 0xff, 0xff, 0xff],
        ))
        .await;
        let grant = (1_u32 << 31) - 1 - 65_535;
        self.write(&frame(WINDOW_UPDATE, 0, 0, &grant.to_be_bytes()))
            .await;
        settled().await;
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.agent.write_all(bytes).await.unwrap();
    }
}
