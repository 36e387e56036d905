//! The socket of one user, watched: a head that comes too slowly, a connection that idles, a
//! reader that takes nothing end the connection. It may not know what the requests mean, but for
//! the framing of a head.
//!
//! hyper answers what it cannot parse by itself, with a bare status; the guard knows that no
//! request is under way then, and puts the edge's own error response in its place.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::config::Timeouts;
use crate::framing::Framing;

/// What the guard and the request handler of one connection tell each other.
#[derive(Debug, Default)]
pub(crate) struct ConnectionState {
    /// Requests whose responses are not over.
    active: AtomicU32,
    /// Requests so far.
    served: AtomicU64,
    /// Number of the first request whose head frames its body in two ways; 0 while there is none.
    ambiguous: AtomicU64,
    /// The connection was handed to another protocol.
    upgraded: AtomicBool,
    /// Informational responses wait to be written.
    has_early: AtomicBool,
    early: Mutex<Vec<u8>>,
}

impl ConnectionState {
    /// A request came in; the guard rests until the returned value is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Active {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.served.fetch_add(1, Ordering::Relaxed);
        Active(Arc::clone(self))
    }

    /// Whether the head that was just read frames its body in two ways (RFC 9112 §6.1).
    pub(crate) fn is_ambiguous(&self) -> bool {
        let number = self.ambiguous.load(Ordering::Relaxed);
        number != 0 && number == self.served.load(Ordering::Relaxed)
    }

    /// Puts an informational response (RFC 9110 §15.2) before the final one. hyper writes none by
    /// itself; the guard does, where one message has ended and the next has not begun.
    pub(crate) fn push_early(&self, head: &http::Response<()>) {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        let status = head.status();
        early.extend_from_slice(b"HTTP/1.1 ");
        early.extend_from_slice(status.as_str().as_bytes());
        early.push(b' ');
        early.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        for (name, value) in head.headers() {
            early.extend_from_slice(b"\r\n");
            early.extend_from_slice(name.as_str().as_bytes());
            early.extend_from_slice(b": ");
            early.extend_from_slice(value.as_bytes());
        }
        early.extend_from_slice(b"\r\n\r\n");
        self.has_early.store(true, Ordering::Release);
    }

    /// The bytes are no longer HTTP: only the idle time of upgrades counts.
    pub(crate) fn upgraded(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }
}

/// One request under way.
#[derive(Debug)]
pub(crate) struct Active(Arc<ConnectionState>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A user's socket with its watch.
pub(crate) struct Guarded<S> {
    socket: S,
    state: Arc<ConnectionState>,
    timeouts: Arc<Timeouts>,
    watch: Pin<Box<Sleep>>,
    /// Requests served when the current head's first byte came, and when that was.
    head_since: Option<(u64, Instant)>,
    /// Last byte in or out.
    moved: Instant,
    /// The socket has taken nothing since then.
    blocked_since: Option<Instant>,
    framing: Framing,
    /// The connection speaks HTTP/2, which has no heads to wait for.
    http2: bool,
    replacement: Option<Vec<u8>>,
    /// Everything that hyper wrote is out: a message has ended here.
    between: bool,
    early: Vec<u8>,
}

/// How often the watch looks at its times; they are that exact.
const LOOK: Duration = Duration::from_secs(1);

impl<S> Guarded<S> {
    pub(crate) fn new(socket: S, state: Arc<ConnectionState>, timeouts: Arc<Timeouts>) -> Self {
        let now = Instant::now();
        let first = timeouts.header.min(LOOK * 5);
        Self {
            socket,
            state,
            timeouts,
            watch: Box::pin(tokio::time::sleep_until(now + first)),
            head_since: None,
            moved: now,
            blocked_since: None,
            framing: Framing::default(),
            http2: false,
            replacement: None,
            between: true,
            early: Vec::new(),
        }
    }

    /// The socket without its watch, for another protocol.
    pub(crate) fn into_inner(self) -> S {
        self.socket
    }

    /// Looks at the times when the watch is due.
    fn look(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.watch.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if let Some(why) = self.verdict(now) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            self.watch.as_mut().reset(now + LOOK);
        }
        Ok(())
    }

    fn verdict(&self, now: Instant) -> Option<&'static str> {
        let longer = |since: Instant, limit: Duration| now.duration_since(since) >= limit;
        if self.state.upgraded.load(Ordering::Relaxed) {
            return longer(self.moved, self.timeouts.upgrade_idle).then_some("upgrade idle");
        }
        if let Some(since) = self.blocked_since {
            return longer(since, self.timeouts.write_idle).then_some("the reader takes nothing");
        }
        if self.state.active.load(Ordering::Relaxed) > 0 {
            return None;
        }
        match self.head_since {
            Some((served, since)) if served == self.state.served.load(Ordering::Relaxed) => {
                longer(since, self.timeouts.header).then_some("the head comes too slowly")
            }
            _ => longer(self.moved, self.timeouts.keep_alive).then_some("idle"),
        }
    }

    fn note_read(&mut self, bytes: &[u8]) {
        let now = Instant::now();
        self.moved = now;
        if self.head_since.is_none() && bytes.starts_with(b"PRI * ") {
            self.http2 = true;
        }
        if self.http2 || self.state.upgraded.load(Ordering::Relaxed) {
            return;
        }
        if let Some(number) = self.framing.feed(bytes) {
            self.state.ambiguous.store(number, Ordering::Relaxed);
        }
        if self.state.active.load(Ordering::Relaxed) > 0 {
            return;
        }
        let served = self.state.served.load(Ordering::Relaxed);
        if self.head_since.is_none_or(|(at, _)| at != served) {
            self.head_since = Some((served, now));
        }
    }

    /// hyper's own answer to an unreadable head, made into ours.
    fn own_error(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let status = bytes.strip_prefix(b"HTTP/1.1 4")?.first_chunk::<2>()?;
        // A head that the handler has seen is the handler's to answer.
        let served = self.state.served.load(Ordering::Relaxed);
        let unseen = self.head_since.is_some_and(|(at, _)| at == served);
        unseen.then(|| crate::respond::unreadable(status))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        match Pin::new(&mut this.socket).poll_read(cx, buf) {
            Poll::Pending => {
                this.look(cx)?;
                Poll::Pending
            }
            Poll::Ready(Ok(())) => {
                if buf.filled().len() > before {
                    this.note_read(&buf.filled()[before..]);
                }
                Poll::Ready(Ok(()))
            }
            failed => failed,
        }
    }
}

impl<S: AsyncWrite + Unpin> Guarded<S> {
    fn note_written(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => {
                let now = Instant::now();
                self.blocked_since.get_or_insert(now);
                self.look(cx)?;
            }
            Poll::Ready(Ok(_)) => {
                self.blocked_since = None;
                self.moved = Instant::now();
            }
            Poll::Ready(Err(_)) => {}
        }
        written
    }

    /// Writes informational responses if this is a place for them.
    fn poll_early(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.has_early.load(Ordering::Acquire) {
            let mut waiting = self
                .state
                .early
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            self.state.has_early.store(false, Ordering::Relaxed);
            if self.between {
                self.early.append(&mut waiting);
            } else {
                // Too late: the final response has begun.
                waiting.clear();
            }
        }
        while !self.early.is_empty() {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.early))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.early.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_replacement(
        &mut self,
        cx: &mut Context<'_>,
        claimed: usize,
    ) -> Poll<io::Result<usize>> {
        while let Some(left) = self.replacement.as_mut().filter(|left| !left.is_empty()) {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, left))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            left.drain(..sent);
        }
        self.replacement = None;
        Poll::Ready(Ok(claimed))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.replacement.is_none() {
            this.replacement = this.own_error(bytes);
        }
        if this.replacement.is_some() {
            return this.poll_replacement(cx, bytes.len());
        }
        ready!(this.poll_early(cx))?;
        this.between = false;
        let written = Pin::new(&mut this.socket).poll_write(cx, bytes);
        this.note_written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Some(first) = slices.first() {
            if this.replacement.is_none() {
                this.replacement = this.own_error(first);
            }
            if this.replacement.is_some() {
                return this.poll_replacement(cx, slices.iter().map(|slice| slice.len()).sum());
            }
        }
        ready!(this.poll_early(cx))?;
        this.between = false;
        let written = Pin::new(&mut this.socket).poll_write_vectored(cx, slices);
        this.note_written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes the socket only when its own buffer is empty.
        self.between = true;
        ready!(self.poll_early(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
