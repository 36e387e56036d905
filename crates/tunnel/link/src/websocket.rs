//! The WebSocket carrier (RFC 6455): binary messages are the HTTP/2 byte stream, text messages the
//! control channel. It may not read either.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::error::TrySendError;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::LinkError;
use crate::carrier::{Carrier, make_room};
use crate::control::{ControlPipe, MAX_MESSAGE, check_length};

/// Subprotocol of an agent that speaks reversed HTTP/2 in binary messages.
pub const SUBPROTOCOL_H2R: &str = "gatewright.h2r.v1";
/// Subprotocol of the JSON control messages in text messages.
pub const SUBPROTOCOL_JSON: &str = "gatewright.json.v1";
/// ALPN token of the raw TLS carrier.
pub const ALPN: &[u8] = b"gatewright-h2r/1";

/// Whether an `Upgrade` field value names the WebSocket protocol.
pub fn is_upgrade_token(value: &http::HeaderValue) -> bool {
    value.as_bytes().eq_ignore_ascii_case(b"websocket")
}

/// Settings for both ends: bounded messages, and writes that wait for the drain. The write buffer
/// has room for one control message and a batch; it must have an end, for each PING that comes puts
/// an answer there whether the other end reads them or not.
pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(64 * 1024)
        .write_buffer_size(256 * 1024)
        .max_write_buffer_size(MAX_MESSAGE + 1024 * 1024)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

pub(crate) struct Ws<S> {
    socket: WebSocketStream<S>,
    control: ControlPipe,
    control_open: bool,
    received: Bytes,
    batch: BytesMut,
    unsent: bool,
    /// The other end said that it closes.
    ended: bool,
    /// We said that we close; nothing may follow.
    closing: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Ws<S> {
    pub(crate) fn new(socket: WebSocketStream<S>, control: ControlPipe) -> Self {
        Self {
            socket,
            control,
            control_open: true,
            received: Bytes::new(),
            batch: BytesMut::new(),
            unsent: false,
            ended: false,
            closing: false,
        }
    }

    /// Moves one waiting control text into the WebSocket's write buffer.
    fn take_control(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.control_open && !self.unsent {
            match self.control.outgoing.poll_recv(cx) {
                Poll::Ready(Some(text)) => {
                    check_length(&text).map_err(io::Error::other)?;
                    Pin::new(&mut self.socket)
                        .start_send(Message::text(text))
                        .map_err(to_io)?;
                    self.unsent = true;
                }
                Poll::Ready(None) => self.control_open = false,
                Poll::Pending => return Ok(()),
            }
        }
        Ok(())
    }

    fn hand_over(&self, text: &tungstenite::Utf8Bytes) -> io::Result<()> {
        match self.control.incoming.try_send(text.as_str().to_owned()) {
            Ok(()) => Ok(()),
            // Nobody listens any more: the application is about to end the connection.
            Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(io::Error::other(LinkError::ControlOverflow)),
        }
    }

    fn push_batch(&mut self) -> io::Result<()> {
        if !self.batch.is_empty() {
            let bytes = self.batch.split().freeze();
            Pin::new(&mut self.socket)
                .start_send(Message::Binary(bytes))
                .map_err(to_io)?;
            self.unsent = true;
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> AsyncRead for Ws<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.take_control(cx)?;
        while this.received.is_empty() {
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut this.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.received = bytes,
                Some(Ok(Message::Text(text))) => this.hand_over(&text)?,
                // tungstenite queues the pong by itself; the next drain carries it.
                Some(Ok(Message::Ping(_))) => this.unsent = true,
                Some(Ok(Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => this.ended = true,
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
            }
        }
        let count = buf.remaining().min(this.received.len());
        buf.put_slice(&this.received[..count]);
        this.received.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Carrier for Ws<S> {
    fn take(&mut self, bytes: &[u8]) {
        make_room(&mut self.batch, bytes.len());
        self.batch.extend_from_slice(bytes);
    }

    fn waiting(&self) -> usize {
        self.batch.len() + usize::from(self.unsent)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // What was handed to the WebSocket goes out first, so that its buffer stays bounded
            // beside a peer that does not read.
            if self.unsent {
                ready!(Pin::new(&mut self.socket).poll_flush(cx)).map_err(to_io)?;
                self.unsent = false;
            }
            self.take_control(cx)?;
            self.push_batch()?;
            if !self.unsent {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended && !self.closing {
            ready!(self.poll_drain(cx))?;
        }
        self.closing = true;
        match ready!(Pin::new(&mut self.socket).poll_close(cx)) {
            Ok(())
            | Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => {
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(to_io(error))),
        }
    }

    fn poll_other_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(()),
            }
        }
    }
}

fn to_io(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}
