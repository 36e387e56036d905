//! The byte stream below HTTP/2, shared between the HTTP/2 codec and the driver. HTTP/2 flushes
//! after every little write; here a flush does nothing, and the driver drains once per round, which
//! saves a system call for each frame. It may not look into the bytes.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::LinkError;

/// Bytes that wait before a write drains on its own: a batch and its frame's head just fit a round
/// number, as one large DATA frame does.
pub(crate) const BATCH: usize = 64 * 1024 - 64;

/// Bytes that may wait when HTTP/2 has to answer before it reads on.
const ANSWERS: usize = 4 * BATCH;

/// Pieces from this size on belong to bodies; a whole batch of them is likely to follow.
pub(crate) const LARGE: usize = 4 * 1024;

/// Makes room for a piece. A batch of large pieces gets its room at once: growing step by step would
/// copy each byte once more.
pub(crate) fn make_room(batch: &mut BytesMut, bytes: usize) {
    if bytes >= LARGE && batch.capacity() - batch.len() < bytes {
        batch.reserve(bytes.max(BATCH.saturating_sub(batch.len())));
    }
}

/// A carrier whose writes wait until they are drained.
pub(crate) trait Carrier: AsyncRead + Unpin + Send {
    /// Takes bytes into the batch.
    fn take(&mut self, bytes: &[u8]);
    /// Bytes or messages that wait.
    fn waiting(&self) -> usize;
    /// Sends everything that waits.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Sends everything and ends our direction.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Reads and drops what still comes, until the other end has closed too.
    fn poll_other_end(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// Two handles on one carrier: the HTTP/2 codec's and the driver's. Both live in the same task,
/// so the lock is never waited for.
pub(crate) struct Batched<C>(Arc<Mutex<Inner<C>>>);

struct Inner<C> {
    carrier: C,
    /// HTTP/2 has not yet read everything there is. What it writes now are answers without which
    /// it does not read on; two ends that both waited for room here would never read again.
    answering: bool,
    /// Why reading or writing failed: HTTP/2 would keep only its text.
    failure: Option<io::Error>,
}

impl<C> Clone for Batched<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: Carrier> Batched<C> {
    pub(crate) fn new(carrier: C) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            carrier,
            answering: false,
            failure: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that HTTP/2 is about to be polled, which reads first.
    pub(crate) fn begin_round(&self) {
        self.lock().answering = true;
    }

    pub(crate) fn waiting(&self) -> usize {
        self.lock().carrier.waiting()
    }

    pub(crate) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.lock()
            .carrier
            .poll_drain(cx)
            .map_err(|error| explain(error, "cannot write to the tunnel"))
    }

    /// Ends our direction and waits for the other end to close, or for a failure.
    pub(crate) fn poll_farewell(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        match ready!(inner.carrier.poll_close(cx)) {
            Ok(()) => inner.carrier.poll_other_end(cx),
            Err(_) => Poll::Ready(()),
        }
    }

    /// The reason of an HTTP/2 error, which is the carrier's failure when there was one.
    pub(crate) fn reason(&self, error: h2::Error) -> LinkError {
        match self.lock().failure.take() {
            Some(failure) => explain(failure, "the tunnel's socket failed"),
            None => error.into(),
        }
    }
}

/// Unpacks what the carrier wrapped.
fn explain(error: io::Error, doing: &'static str) -> LinkError {
    error
        .downcast::<LinkError>()
        .unwrap_or_else(|source| LinkError::Io { doing, source })
}

impl<C: Carrier> Inner<C> {
    /// `Pending` only when the batch is full and the socket takes none.
    fn poll_take(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let waiting = self.carrier.waiting();
        if waiting > 0 && waiting + bytes.len() > BATCH {
            match self.carrier.poll_drain(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.failed(error))),
                Poll::Pending if self.answering && self.carrier.waiting() < ANSWERS => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        self.carrier.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// Keeps a failure and gives one of the same kind to HTTP/2.
    fn failed(&mut self, error: io::Error) -> io::Error {
        let kind = error.kind();
        self.failure.get_or_insert(error);
        kind.into()
    }
}

impl<C: Carrier> AsyncRead for Batched<C> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        let read = Pin::new(&mut inner.carrier).poll_read(cx, buf);
        if read.is_pending() {
            inner.answering = false;
        }
        read.map_err(|error| inner.failed(error))
    }
}

impl<C: Carrier> AsyncWrite for Batched<C> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.lock().poll_take(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        let mut taken = 0;
        for slice in slices.iter().filter(|slice| !slice.is_empty()) {
            match inner.poll_take(cx, slice) {
                Poll::Ready(Ok(count)) => taken += count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if taken == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        let closed = inner.carrier.poll_close(cx);
        closed.map_err(|error| inner.failed(error))
    }
}
