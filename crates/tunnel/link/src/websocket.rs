//! The WebSocket carrier (RFC 6455): binary messages are the HTTP/2 byte stream, text messages the
//! control channel. It may not read either.
//!
//! Bodies go through here by the gigabyte, so each byte is touched as rarely as can be: a batch is
//! masked while it is collected and sent from where it lies, and what comes in is unmasked where
//! HTTP/2 wanted it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::error::TrySendError;

use crate::LinkError;
use crate::carrier::{BATCH, Carrier, LARGE};
use crate::control::{ControlPipe, check_length};
use crate::frames::{Batch, FrameError, Incoming, Role, push_close, push_pong, push_text};
use crate::masks::Masks;

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

/// Bytes that are read ahead when HTTP/2 asks for few: many small frames come with one system call.
const READ_AHEAD: usize = 32 * 1024;

/// What HTTP/2 asks for from this size on is read where it wants it.
const STRAIGHT: usize = 16 * 1024;

/// A sent batch's memory is kept for the next one when the batch filled this part of it; a
/// connection that has grown quiet keeps none.
const WORTH_KEEPING: usize = 8;

pub(crate) struct Ws<S> {
    socket: S,
    control: ControlPipe,
    control_open: bool,
    masks: Masks,
    incoming: Incoming,
    texts: Vec<String>,
    /// Received with the handshake's last bytes.
    early: Vec<u8>,
    /// Payload that was read ahead, and the part of it that HTTP/2 has not taken.
    ahead: Vec<u8>,
    taken: usize,
    ahead_end: usize,
    /// A read filled all the room that HTTP/2 had, so more is there: HTTP/2 begins each large frame
    /// with little room, and what was read ahead then would be copied.
    in_bulk: bool,
    batch: Batch,
    /// Whole frames on their way out, from `sent` on.
    sending: Vec<u8>,
    sent: usize,
    /// TLS may hold encrypted bytes back although it took everything.
    unflushed: bool,
    /// We said that we close; nothing may follow.
    closing: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Ws<S> {
    /// Takes over a socket whose upgrade is done. `early` are bytes that were read after it.
    pub(crate) fn new(
        socket: S,
        early: Vec<u8>,
        role: Role,
        control: ControlPipe,
    ) -> Result<Self, LinkError> {
        let mut masks = Masks::new(role);
        let mut batch = Batch::default();
        batch.set_key(masks.next().map_err(no_randomness)?);
        Ok(Self {
            socket,
            control,
            control_open: true,
            masks,
            incoming: Incoming::new(role),
            texts: Vec::new(),
            early,
            ahead: Vec::new(),
            taken: 0,
            ahead_end: 0,
            in_bulk: false,
            batch,
            sending: Vec::new(),
            sent: 0,
            unflushed: false,
            closing: false,
        })
    }

    /// Whether something has begun to go out and is not out yet.
    fn is_sending(&self) -> bool {
        !self.sending.is_empty() || self.unflushed
    }

    /// Makes frames of what waits beside the batch: the answer to a PING, and one control text.
    fn take_control(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(payload) = self.incoming.take_ping() {
            push_pong(&mut self.sending, &payload, self.masks.next()?);
        }
        // One at a time: the end that sends waits then, and not the memory here.
        while self.control_open && !self.is_sending() {
            match self.control.outgoing.poll_recv(cx) {
                Poll::Ready(Some(text)) => {
                    check_length(&text).map_err(io::Error::other)?;
                    push_text(&mut self.sending, &text, self.masks.next()?);
                }
                Poll::Ready(None) => self.control_open = false,
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// Sends the whole frames that have been made.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.sending.len() {
            let rest = &self.sending[self.sent..];
            let count = ready!(Pin::new(&mut self.socket).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
            self.unflushed = true;
        }
        let capacity = self.sending.capacity();
        if capacity > READ_AHEAD && self.sending.len() < capacity / WORTH_KEEPING {
            self.sending = Vec::new();
        }
        self.sending.clear();
        self.sent = 0;
        if self.unflushed {
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the batch; only while nothing else goes out, whose memory the next batch takes.
    fn push_batch(&mut self) -> io::Result<()> {
        if self.batch.len() > 0 && !self.is_sending() {
            let spare = std::mem::take(&mut self.sending);
            (self.sending, self.sent) = self.batch.finish(spare);
            self.batch.set_key(self.masks.next()?);
        }
        Ok(())
    }

    /// Gives control texts that have come to the application.
    fn hand_over(&mut self) -> io::Result<()> {
        for text in self.texts.drain(..) {
            match self.control.incoming.try_send(text) {
                Ok(()) => {}
                // Nobody listens any more: the application is about to end the connection.
                Err(TrySendError::Closed(_)) => {}
                Err(TrySendError::Full(_)) => {
                    return Err(io::Error::other(LinkError::ControlOverflow));
                }
            }
        }
        Ok(())
    }

    /// Reads straight into `buf` and says how many bytes came, of which only payload is left there.
    fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        let raw = &mut buf.filled_mut()[before..];
        if raw.is_empty() {
            return Poll::Ready(Err(to_io(FrameError::Cut)));
        }
        let count = raw.len();
        let taken = self.incoming.take(raw, &mut self.texts).map_err(to_io)?;
        buf.set_filled(before + taken);
        self.hand_over()?;
        Poll::Ready(Ok(count))
    }

    /// Reads more than HTTP/2 asks for.
    fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ahead = std::mem::take(&mut self.ahead);
        ahead.resize(READ_AHEAD, 0);
        let mut buf = ReadBuf::new(&mut ahead);
        let read = self.poll_read_into(cx, &mut buf);
        (self.taken, self.ahead_end) = (0, buf.filled().len());
        self.ahead = ahead;
        read.map_ok(drop)
    }

    /// What came with the handshake counts as read ahead.
    fn take_early(&mut self) -> io::Result<()> {
        self.ahead = std::mem::take(&mut self.early);
        let taken = self.incoming.take(&mut self.ahead, &mut self.texts);
        (self.taken, self.ahead_end) = (0, taken.map_err(to_io)?);
        self.hand_over()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> AsyncRead for Ws<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.closing && !this.is_sending() {
            this.take_control(cx)?;
        }
        if !this.early.is_empty() {
            this.take_early()?;
        }
        let before = buf.filled().len();
        loop {
            if this.taken < this.ahead_end {
                let count = buf.remaining().min(this.ahead_end - this.taken);
                buf.put_slice(&this.ahead[this.taken..this.taken + count]);
                this.taken += count;
            }
            // A close frame ends the stream for HTTP/2.
            let is_served = buf.filled().len() > before || buf.remaining() == 0;
            if is_served || this.incoming.close().is_some() {
                return Poll::Ready(Ok(()));
            }
            if this.in_bulk || buf.remaining() >= STRAIGHT {
                this.in_bulk = false;
                let room = buf.remaining();
                this.in_bulk = ready!(this.poll_read_into(cx, buf))? == room;
            } else {
                ready!(this.poll_read_ahead(cx))?;
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Carrier for Ws<S> {
    fn take(&mut self, bytes: &[u8]) {
        // A batch of large pieces gets its room at once: growing step by step would copy each byte
        // once more.
        if bytes.len() >= LARGE && self.batch.room() < bytes.len() {
            let rest = BATCH.saturating_sub(self.batch.len());
            self.batch.reserve(bytes.len().max(rest));
        }
        self.batch.push(bytes);
    }

    fn waiting(&self) -> usize {
        self.batch.len() + usize::from(self.is_sending() || self.incoming.has_ping())
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // Whole frames go out before new ones are made, so that they stay few beside an end
            // that does not read.
            ready!(self.poll_send(cx))?;
            if self.closing {
                return Poll::Ready(Ok(()));
            }
            self.take_control(cx)?;
            self.push_batch()?;
            if !self.is_sending() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            let reason = match self.incoming.close() {
                // The other end waits for nothing but our answer, which repeats its code.
                Some(reason) => reason.get(..2).unwrap_or_default().to_owned(),
                None => {
                    ready!(self.poll_drain(cx))?;
                    Vec::new()
                }
            };
            if let Some(payload) = self.incoming.take_ping() {
                push_pong(&mut self.sending, &payload, self.masks.next()?);
            }
            push_close(&mut self.sending, &reason, self.masks.next()?);
            self.closing = true;
        }
        self.poll_send(cx)
    }

    fn poll_other_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The server closes first (§7.1.1), once both have said that they do.
        while self.masks.role() == Role::Client || self.incoming.close().is_none() {
            if ready!(self.poll_read_ahead(cx)).is_err() {
                break;
            }
        }
        Poll::Ready(())
    }
}

fn to_io(error: FrameError) -> io::Error {
    io::Error::other(LinkError::WebSocket(error))
}

fn no_randomness(source: io::Error) -> LinkError {
    LinkError::Io {
        doing: "cannot make the masks of a WebSocket",
        source,
    }
}
