//! The agent's end of a connection: the HTTP/2 server on a connection that it dialled. It hands
//! each stream to a handler; it may not know where the handler takes it.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use h2::ext::Protocol;
use h2::server::{Connection, SendResponse};
use h2::{Reason, SendStream};
use http::{HeaderValue, Request, Response};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::body::{BodyError, BodyOf, RecvBody, send_body};
use crate::carrier::{Batched, Carrier};
use crate::control::{ControlChannel, ControlPipe, pair};
use crate::driver::{Drive, Driver, Http2, within};
use crate::edge_end::{CONTROL_SCHEME, control_stream};
use crate::frames::Role;
use crate::limits::{CONNECTION_WINDOW, LOCAL_RESETS, REMEMBERED_RESETS, RESET_MEMORY};
use crate::raw::Raw;
use crate::upgrade::Upgraded;
use crate::websocket::Ws;
use crate::{Limits, LinkError};

/// One request that came through the tunnel.
pub struct Exchange {
    /// Head and body.
    pub request: Request<RecvBody>,
    /// Where the answer goes.
    pub responder: Responder,
}

impl Exchange {
    /// The `:protocol` of an extended CONNECT (RFC 8441), as for a WebSocket.
    pub fn protocol(&self) -> Option<&Protocol> {
        self.request.extensions().get::<Protocol>()
    }
}

/// The answering half of a stream. Dropping it without an answer resets the stream.
pub struct Responder {
    respond: SendResponse<Bytes>,
    place: Option<Place>,
}

/// The requests that are not answered yet, which the control stream of a raw connection outlives.
#[derive(Default)]
struct Unanswered {
    count: AtomicUsize,
    none_left: Notify,
}

/// One request's place among them.
struct Place(Arc<Unanswered>);

impl Unanswered {
    fn take(self: &Arc<Self>) -> Place {
        self.count.fetch_add(1, Ordering::Relaxed);
        Place(Arc::clone(self))
    }

    async fn none_left(&self) {
        while self.count.load(Ordering::Acquire) > 0 {
            self.none_left.notified().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Keeps a permit when nobody waits yet.
            self.0.none_left.notify_one();
        }
    }
}

impl Responder {
    /// Passes an informational (1xx) response on.
    ///
    /// # Errors
    /// When the stream is gone or the status is not 1xx.
    pub fn send_informational(&mut self, response: Response<()>) -> Result<(), BodyError> {
        self.respond
            .send_informational(response)
            .map_err(BodyError::Stream)
    }

    /// Sends the final response with its body, to the body's end.
    ///
    /// # Errors
    /// As [`send_body`].
    pub async fn send<B>(self, response: Response<B>) -> Result<(), BodyError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Self {
            mut respond,
            place: _place,
        } = self;
        let (head, body) = response.into_parts();
        let head = Response::from_parts(head, ());
        if body.is_end_stream() {
            respond
                .send_response(head, true)
                .map_err(BodyError::Stream)?;
            return Ok(());
        }
        let stream = respond
            .send_response(head, false)
            .map_err(BodyError::Stream)?;
        send_body(body, stream).await
    }

    /// Accepts an extended CONNECT; the stream becomes a byte stream.
    ///
    /// # Errors
    /// When the stream is gone.
    pub fn upgrade(mut self, head: Response<()>, body: RecvBody) -> Result<StreamIo, BodyError> {
        let stream = self
            .respond
            .send_response(head, false)
            .map_err(BodyError::Stream)?;
        let keeps = self
            .place
            .map(|place| Box::new(place) as Box<dyn Any + Send + Sync>);
        Ok(StreamIo::new(body, stream, keeps))
    }

    /// Resolves when the other end gives up on the request.
    pub async fn cancelled(&mut self) {
        poll_fn(|cx| self.poll_cancelled(cx)).await;
    }

    /// As [`Responder::cancelled`], for a hand-written future.
    pub fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.respond.poll_reset(cx).map(|_| ())
    }

    /// Resets the stream.
    pub fn reset(mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }
}

/// Both directions of an upgraded stream as one byte stream.
pub struct StreamIo {
    receive: RecvBody,
    send: SendStream<Bytes>,
    received: Bytes,
    write_ended: bool,
    _keeps: Option<Box<dyn Any + Send + Sync>>,
}

impl StreamIo {
    pub(crate) fn new(
        receive: RecvBody,
        send: SendStream<Bytes>,
        keeps: Option<Box<dyn Any + Send + Sync>>,
    ) -> Self {
        Self {
            receive,
            send,
            received: Bytes::new(),
            write_ended: false,
            _keeps: keeps,
        }
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.received.is_empty() {
            match ready!(Pin::new(&mut self.receive).poll_frame(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error)));
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.received = data;
                    }
                }
            }
        }
        let count = buf.remaining().min(self.received.len());
        buf.put_slice(&self.received[..count]);
        self.received.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.send.reserve_capacity(bytes.len());
        if self.send.capacity() == 0 {
            if self.send.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(0)) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error)));
                }
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
        let count = self.send.capacity().min(bytes.len());
        self.send
            .send_data(Bytes::copy_from_slice(&bytes[..count]), false)
            .map_err(|error| io::Error::new(io::ErrorKind::ConnectionReset, error))?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.write_ended {
            self.write_ended = true;
            // Half-close: the other direction goes on.
            let _ = self.send.send_data(Bytes::new(), true);
        }
        Poll::Ready(Ok(()))
    }
}

/// Tells a served connection to stop taking streams.
#[derive(Debug, Clone, Default)]
pub struct ServerHandle(Arc<Notify>);

impl ServerHandle {
    /// Sends GOAWAY: no new streams, those under way go on, then the driver ends.
    pub fn shut_down(&self) {
        self.0.notify_one();
    }
}

/// The server side with the handler that gets each stream.
struct Serving<C, F> {
    connection: Connection<Batched<C>, Bytes>,
    on_exchange: F,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
    shutting_down: bool,
    raw: Option<RawControl>,
}

/// The control stream of the raw carrier.
struct RawControl {
    /// What the edge's opening of it is answered with.
    authorization: HeaderValue,
    /// Until it is open.
    pipe: Option<ControlPipe>,
    /// While it is open.
    stream: Option<BoxFuture<'static, Result<(), LinkError>>>,
    unanswered: Arc<Unanswered>,
    draining: Arc<Notify>,
}

impl RawControl {
    fn new(authorization: HeaderValue, pipe: ControlPipe) -> Self {
        Self {
            authorization,
            pipe: Some(pipe),
            stream: None,
            unanswered: Arc::default(),
            draining: Arc::default(),
        }
    }

    /// Answers the edge's opening. It opens one control stream, once.
    fn open(&mut self, request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>) {
        let Some(mut pipe) = self.pipe.take() else {
            respond.send_reset(Reason::REFUSED_STREAM);
            return;
        };
        let mut head = Response::new(());
        head.headers_mut()
            .insert(http::header::AUTHORIZATION, self.authorization.clone());
        let Ok(send) = respond.send_response(head, false) else {
            return;
        };
        let (unanswered, draining) = (Arc::clone(&self.unanswered), Arc::clone(&self.draining));
        self.stream = Some(Box::pin(async move {
            let answered_all = async {
                draining.notified().await;
                unanswered.none_left().await;
            };
            control_stream(request.into_body(), send, &mut pipe, answered_all).await
        }));
    }
}

// Nothing in it is pinned structurally.
impl<C, F> Unpin for Serving<C, F> {}

impl<C: Carrier + 'static, F: FnMut(Exchange) + Send> Http2 for Serving<C, F> {
    fn poll_http2(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if !self.shutting_down && self.shutdown.as_mut().poll(cx).is_ready() {
            self.shutting_down = true;
            self.connection.graceful_shutdown();
            if let Some(raw) = self.raw.as_ref() {
                raw.draining.notify_one();
            }
        }
        loop {
            match ready!(self.connection.poll_accept(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                Some(Ok((request, respond))) => self.take(request, respond),
            }
        }
    }

    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<LinkError> {
        let Some(raw) = self.raw.as_mut() else {
            return Poll::Pending;
        };
        let Some(stream) = raw.stream.as_mut() else {
            return Poll::Pending;
        };
        let end = ready!(stream.as_mut().poll(cx));
        raw.stream = None;
        match end {
            // The pipe is dropped, which ends the application's half.
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }
}

impl<C, F: FnMut(Exchange)> Serving<C, F> {
    fn take(&mut self, request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>) {
        if request.uri().scheme_str() == Some(CONTROL_SCHEME) {
            match self.raw.as_mut() {
                Some(raw) => raw.open(request, respond),
                None => respond.send_reset(Reason::REFUSED_STREAM),
            }
            return;
        }
        let (head, stream) = request.into_parts();
        let body = RecvBody::new(stream, BodyOf::Request, &head.headers);
        let place = self.raw.as_ref().map(|raw| raw.unanswered.take());
        (self.on_exchange)(Exchange {
            request: Request::from_parts(head, body),
            responder: Responder { respond, place },
        });
    }
}

fn builder(limits: &Limits) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(limits.max_frame)
        .max_header_list_size(limits.max_header_list)
        .max_send_buffer_size(limits.send_buffer)
        .max_concurrent_streams(limits.max_streams)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(RESET_MEMORY)
        .max_local_error_reset_streams(Some(LOCAL_RESETS))
        // A user who opens and aborts requests quickly must not end the connection of the others:
        // a batch can carry that many aborted requests.
        .max_pending_accept_reset_streams(limits.max_streams as usize)
        .enable_connect_protocol();
    builder
}

async fn serve<C, F>(
    carrier: C,
    limits: &Limits,
    raw: Option<RawControl>,
    on_exchange: F,
) -> Result<(ServerHandle, Driver), LinkError>
where
    C: Carrier + 'static,
    F: FnMut(Exchange) + Send + 'static,
{
    let carrier = Batched::new(carrier);
    // The handshake reads the client's preface, for which our SETTINGS need not be out yet; but
    // nobody drains before the driver runs, so both are waited for side by side.
    let handshake = builder(limits).handshake::<_, Bytes>(carrier.clone());
    let mut handshake = std::pin::pin!(handshake);
    let mut connection = within(
        limits,
        poll_fn(|cx| {
            let polled = handshake.as_mut().poll(cx);
            if let Poll::Ready(Err(error)) = carrier.poll_drain(cx) {
                return Poll::Ready(Err(error));
            }
            polled.map_err(|error| carrier.reason(error))
        }),
    )
    .await?;
    let ping = connection.ping_pong();
    let handle = ServerHandle::default();
    let notify = Arc::clone(&handle.0);
    let serving = Serving {
        connection,
        on_exchange,
        shutdown: Box::pin(async move { notify.notified().await }),
        shutting_down: false,
        raw,
    };
    Ok((
        handle,
        Driver::new(Drive::new(serving, carrier, ping, limits)),
    ))
}

/// Serves streams on a WebSocket that was dialled. `on_exchange` must not block: it spawns.
///
/// # Errors
/// When the HTTP/2 preface does not come in time.
pub async fn serve_websocket<S, F>(
    upgraded: Upgraded<S>,
    limits: &Limits,
    on_exchange: F,
) -> Result<(ServerHandle, ControlChannel, Driver), LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: FnMut(Exchange) + Send + 'static,
{
    let (channel, pipe) = pair();
    let Upgraded { socket, early } = upgraded;
    let carrier = Ws::new(socket, early, Role::Client, pipe)?;
    let (handle, driver) = serve(carrier, limits, None, on_exchange).await?;
    Ok((handle, channel, driver))
}

/// Serves streams on a raw connection that was dialled, and presents `authorization` on the
/// control stream that the edge opens first.
///
/// # Errors
/// When the HTTP/2 preface does not come in time.
pub async fn serve_raw<S, F>(
    socket: S,
    authorization: HeaderValue,
    limits: &Limits,
    on_exchange: F,
) -> Result<(ServerHandle, ControlChannel, Driver), LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: FnMut(Exchange) + Send + 'static,
{
    let (channel, pipe) = pair();
    let raw = RawControl::new(authorization, pipe);
    let (handle, driver) = serve(Raw::new(socket), limits, Some(raw), on_exchange).await?;
    Ok((handle, channel, driver))
}
