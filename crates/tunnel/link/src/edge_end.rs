//! The edge's end of a connection: opens a stream for each request. It may not choose between
//! connections, and knows nothing of what a request means.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use h2::client::{Connection, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

use crate::agent_end::StreamIo;
use crate::body::{BodyError, BodyOf, RecvBody, send_body};
use crate::carrier::{Batched, Carrier};
use crate::control::{ControlChannel, ControlPipe, MAX_MESSAGE, check_length, pair};
use crate::driver::{Drive, Driver, Http2, within};
use crate::frames::Role;
use crate::limits::{CONNECTION_WINDOW, REMEMBERED_RESETS, RESET_MEMORY};
use crate::raw::Raw;
use crate::websocket::Ws;
use crate::{Limits, LinkError};

/// Target of the control stream on the raw carrier. Users' requests never have this scheme.
const CONTROL_URI: &str = "gatewright://control/";
/// The scheme of [`CONTROL_URI`].
pub(crate) const CONTROL_SCHEME: &str = "gatewright";

/// Why a request did not get through.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No byte of it left: another connection may be tried.
    #[error("the tunnel takes no more requests")]
    NotSent(#[source] Option<h2::Error>),
    /// The stream ended before a response head came.
    #[error("the tunnel lost the request")]
    Lost(#[source] h2::Error),
}

/// What a request carries.
pub enum RequestBody<B> {
    /// Nothing.
    Empty,
    /// A body, sent by a task of its own while the response already comes back.
    Stream(B),
    /// An upgrade: the stream stays open both ways.
    Upgrade,
}

/// A connection to one agent, as the edge uses it. Clones share the connection.
#[derive(Clone)]
pub struct Tunnel {
    send: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    in_flight: AtomicUsize,
    draining: AtomicBool,
    closed: AtomicBool,
    max_streams: usize,
}

impl Tunnel {
    fn new(send: SendRequest<Bytes>, limits: &Limits) -> Self {
        let shared = Shared {
            in_flight: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            max_streams: limits.max_streams as usize,
        };
        Self {
            send,
            shared: Arc::new(shared),
        }
    }

    /// Requests whose responses are not over.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// Whether a new request may be given to this connection.
    pub fn is_usable(&self) -> bool {
        !self.shared.closed.load(Ordering::Relaxed) && !self.shared.draining.load(Ordering::Relaxed)
    }

    /// Whether every stream that the other end allows is taken.
    pub fn is_full(&self) -> bool {
        self.in_flight() >= self.shared.max_streams
    }

    /// Takes no more requests; those under way go on.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// Takes a place for one request, or says at once that the connection takes no more.
    ///
    /// # Errors
    /// [`SendError::NotSent`]: nothing left, another connection may be tried.
    pub async fn reserve(&self) -> Result<Slot, SendError> {
        let lease = Lease::take(&self.shared);
        let mut send = self.send.clone();
        poll_fn(|cx| send.poll_ready(cx)).await.map_err(|error| {
            // GOAWAY, or the end: nobody needs to try again.
            self.drain();
            SendError::NotSent(Some(error))
        })?;
        Ok(Slot { send, lease })
    }
}

/// A place for one request on a connection.
pub struct Slot {
    send: SendRequest<Bytes>,
    lease: Lease,
}

impl Slot {
    /// Sends a request and waits for the response head. Informational responses are passed to
    /// `on_informational` as they come.
    ///
    /// # Errors
    /// [`SendError::NotSent`] when the other end refused it unseen, [`SendError::Lost`] when the
    /// request may have reached the backend. Dropping the future resets the stream.
    pub async fn send<B>(
        self,
        request: Request<()>,
        body: RequestBody<B>,
        mut on_informational: impl FnMut(Response<()>),
    ) -> Result<TunnelResponse, SendError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Self { mut send, lease } = self;
        let ends = matches!(body, RequestBody::Empty);
        let (mut response, stream) = send
            .send_request(request, ends)
            .map_err(|error| SendError::NotSent(Some(error)))?;
        let mut upgrade = None;
        let mut upload = None;
        match body {
            RequestBody::Empty => {}
            RequestBody::Stream(body) => {
                upload = Some(AbortOnDrop(tokio::spawn(async move {
                    if let Err(error) = send_body(body, stream).await {
                        tracing::debug!(%error, "request body ended early");
                    }
                })));
            }
            RequestBody::Upgrade => upgrade = Some(stream),
        }
        let head = poll_fn(|cx| {
            while let Poll::Ready(Some(Ok(early))) = response.poll_informational(cx) {
                on_informational(early);
            }
            Pin::new(&mut response).poll(cx)
        })
        .await
        .map_err(|error| {
            // REFUSED_STREAM, and a GOAWAY that names an earlier stream as its last, say that the
            // application saw nothing of it (RFC 9113 §8.7, §6.8).
            let refused = error.reason() == Some(Reason::REFUSED_STREAM) || error.is_go_away();
            if refused && error.is_remote() {
                SendError::NotSent(Some(error))
            } else {
                SendError::Lost(error)
            }
        })?;
        let (head, stream) = head.into_parts();
        let body = RecvBody::new(stream, BodyOf::Response, &head.headers);
        Ok(TunnelResponse {
            head,
            body,
            upgrade,
            upload,
            lease,
        })
    }
}

/// A response head with its body, and with the sending half when the request was an upgrade.
pub struct TunnelResponse {
    /// Status and headers.
    pub head: http::response::Parts,
    body: RecvBody,
    upgrade: Option<SendStream<Bytes>>,
    upload: Option<AbortOnDrop>,
    lease: Lease,
}

impl TunnelResponse {
    /// The head and the body; the body keeps the request's upload and its place alive.
    pub fn into_parts(self) -> (http::response::Parts, ResponseBody) {
        let Self {
            head,
            body,
            upgrade: _,
            upload,
            lease,
        } = self;
        (
            head,
            ResponseBody {
                body,
                _upload: upload,
                _lease: lease,
            },
        )
    }

    /// The head and both directions of an upgraded stream, as one byte stream.
    pub fn into_upgraded(self) -> (http::response::Parts, Option<StreamIo>) {
        let Self {
            head,
            body,
            upgrade,
            upload: _,
            lease,
        } = self;
        let io = upgrade.map(|send| StreamIo::new(body, send, Some(Box::new(lease))));
        (head, io)
    }
}

/// A response body; dropping it before its end resets the stream.
pub struct ResponseBody {
    body: RecvBody,
    _upload: Option<AbortOnDrop>,
    _lease: Lease,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// One request's place among those in flight.
struct Lease(Arc<Shared>);

impl Lease {
    fn take(shared: &Arc<Shared>) -> Self {
        shared.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn builder(limits: &Limits) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(limits.max_frame)
        .max_header_list_size(limits.max_header_list)
        .max_send_buffer_size(limits.send_buffer)
        .initial_max_send_streams(limits.max_streams as usize)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(RESET_MEMORY)
        // A response that is refused (its header block is too long, say) costs its request, however
        // many there have been. An agent cannot cause more of these than we open requests.
        .max_local_error_reset_streams(None)
        .enable_push(false);
    builder
}

impl<C: Carrier> Http2 for Connection<Batched<C>, Bytes> {
    fn poll_http2(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        Pin::new(self).poll(cx)
    }

    fn poll_control(&mut self, _: &mut Context<'_>) -> Poll<LinkError> {
        Poll::Pending
    }
}

async fn start<C: Carrier + 'static>(
    carrier: C,
    limits: &Limits,
) -> Result<(Tunnel, Driver), LinkError> {
    let carrier = Batched::new(carrier);
    let (send, mut connection) = builder(limits)
        .handshake(carrier.clone())
        .await
        .map_err(|error| carrier.reason(error))?;
    let ping = connection.ping_pong();
    let tunnel = Tunnel::new(send, limits);
    let shared = Arc::clone(&tunnel.shared);
    let drive = Drive::new(connection, carrier, ping, limits);
    // Made here, for a driver may be dropped before its first poll.
    let closes = MarkClosed(shared);
    let driver = Driver::new(async move {
        let _closes = closes;
        drive.await
    });
    Ok((tunnel, driver))
}

struct MarkClosed(Arc<Shared>);

impl Drop for MarkClosed {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Relaxed);
    }
}

/// Takes over an upgraded connection on which an agent dialled in, as the HTTP/2 client.
/// `early` are bytes that were read after the upgrade request.
///
/// # Errors
/// When the HTTP/2 preface cannot be exchanged.
pub async fn accept_websocket<S>(
    socket: S,
    early: Vec<u8>,
    limits: &Limits,
) -> Result<(Tunnel, ControlChannel, Driver), LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (channel, pipe) = pair();
    let carrier = Ws::new(socket, early, Role::Server, pipe)?;
    let (tunnel, driver) = start(carrier, limits).await?;
    Ok((tunnel, channel, driver))
}

/// A raw connection before its credential was seen.
struct PendingRaw {
    tunnel: Tunnel,
    driver: Driver,
}

/// A raw connection with the credential that the agent presented. Nothing may be sent through the
/// tunnel before the credential was checked.
pub struct RawAccepted {
    /// The tunnel.
    pub tunnel: Tunnel,
    /// The control channel.
    pub control: ControlChannel,
    /// The connection's task.
    pub driver: Driver,
    /// The `Authorization` value of the control stream's response; empty when there was none.
    pub authorization: String,
}

/// Takes over a raw (TLS) connection on which an agent dialled in, and opens the control stream.
///
/// # Errors
/// When the handshake fails or takes too long.
pub async fn accept_raw<S>(socket: S, limits: &Limits) -> Result<RawAccepted, LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (tunnel, driver) = start(Raw::new(socket), limits).await?;
    within(limits, PendingRaw { tunnel, driver }.open_control()).await
}

impl PendingRaw {
    async fn open_control(self) -> Result<RawAccepted, LinkError> {
        let Self { tunnel, mut driver } = self;
        let opened = async {
            let mut send = tunnel.send.clone();
            poll_fn(|cx| send.poll_ready(cx)).await?;
            let mut request = Request::new(());
            *request.method_mut() = Method::POST;
            *request.uri_mut() = http::Uri::from_static(CONTROL_URI);
            let (response, stream) = send.send_request(request, false)?;
            Ok::<_, LinkError>((response.await?, stream))
        };
        let (response, stream) = tokio::select! {
            end = &mut driver => {
                end?;
                return Err(LinkError::Io {
                    doing: "the agent closed the connection before it said who it is",
                    source: std::io::ErrorKind::UnexpectedEof.into(),
                });
            }
            opened = opened => opened?,
        };
        let (head, receive) = response.into_parts();
        let authorization = head
            .headers
            .get(http::header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let (control, mut pipe) = pair();
        // Not the tunnel itself: whoever holds that keeps the connection open.
        let shared = Arc::clone(&tunnel.shared);
        let driver = Driver::new(async move {
            tokio::select! {
                end = &mut driver => return end,
                end = control_stream(receive, stream, &mut pipe, std::future::pending()) => end?,
            }
            // The agent leaves; its last streams may still be under way to us, and our control
            // channel ends with the connection.
            shared.draining.store(true, Ordering::Relaxed);
            driver.await
        });
        Ok(RawAccepted {
            tunnel,
            control,
            driver,
            authorization,
        })
    }
}

/// Carries control texts on a stream, each with its length before it (u32, big endian). Returns
/// when the stream is over, and ends it when `until` resolves.
pub(crate) async fn control_stream(
    mut receive: RecvStream,
    mut send: SendStream<Bytes>,
    pipe: &mut ControlPipe,
    until: impl Future<Output = ()>,
) -> Result<(), LinkError> {
    let ControlPipe { outgoing, incoming } = pipe;
    let reading = async {
        let mut waiting = BytesMut::new();
        while let Some(data) = poll_fn(|cx| receive.poll_data(cx)).await {
            let data = data?;
            let _ = receive.flow_control().release_capacity(data.len());
            waiting.extend_from_slice(&data);
            while let Some(length) = waiting.first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if length > MAX_MESSAGE {
                    return Err(LinkError::ControlMessage);
                }
                if waiting.len() < 4 + length {
                    break;
                }
                waiting.advance(4);
                let text = String::from_utf8(waiting.split_to(length).into())
                    .map_err(|_| LinkError::ControlMessage)?;
                if let Err(tokio::sync::mpsc::error::TrySendError::Full(_)) =
                    incoming.try_send(text)
                {
                    return Err(LinkError::ControlOverflow);
                }
            }
        }
        Ok(())
    };
    let writing = async {
        while let Some(text) = outgoing.recv().await {
            check_length(&text)?;
            let length = u32::try_from(text.len()).map_err(|_| LinkError::ControlMessage)?;
            let mut framed = BytesMut::with_capacity(4 + text.len());
            framed.extend_from_slice(&length.to_be_bytes());
            framed.extend_from_slice(text.as_bytes());
            crate::body::send_all(&mut send, framed.freeze()).await?;
        }
        // The application dropped its half; the stream itself stays until the connection ends.
        std::future::pending().await
    };
    tokio::select! {
        end = reading => end,
        end = writing => end,
        () = until => {
            // Fails only when the stream is over already.
            let _ = send.send_data(Bytes::new(), true);
            Ok(())
        }
    }
}
