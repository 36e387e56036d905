//! The bodies that the backend sends. It may not know paths.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;

use super::Shared;

/// One block of `/bytes`: position-dependent, so that a lost or doubled piece shows in a checksum.
const BLOCK: usize = 64 * 1024;

/// Counts one request as in flight, and as aborted if it goes before its answer is finished.
pub(super) struct InFlight {
    shared: Arc<Shared>,
    finished: bool,
}

impl InFlight {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        shared.requests.fetch_add(1, Ordering::SeqCst);
        shared.in_flight.fetch_add(1, Ordering::SeqCst);
        Self {
            shared,
            finished: false,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.aborted.fetch_add(1, Ordering::SeqCst);
        }
        self.shared.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What is left to send.
pub(super) enum Content {
    Full(Bytes),
    Repeat {
        block: Bytes,
        left: u64,
        sized: bool,
    },
    Streamed(mpsc::Receiver<io::Result<Frame<Bytes>>>),
    Echo(Incoming),
}

impl Content {
    pub(super) fn repeat(left: u64, sized: bool) -> Self {
        let block = (0..BLOCK).map(|i| (i % 251) as u8).collect();
        Self::Repeat { block, left, sized }
    }
}

/// A response's body, tied to its request's [`InFlight`].
pub(super) struct Answer {
    content: Content,
    in_flight: InFlight,
}

impl Answer {
    pub(super) fn new(content: Content, in_flight: InFlight) -> Self {
        let mut answer = Self { content, in_flight };
        // hyper never polls a body that is empty from the start.
        answer.in_flight.finished = answer.is_end_stream();
        answer
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.content {
            Content::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Repeat { left: 0, .. } => Poll::Ready(None),
            Content::Repeat { block, left, .. } => {
                let size = (*left).min(block.len() as u64);
                *left -= size;
                let sent = &self.in_flight.shared.sent_bytes;
                sent.fetch_add(size, Ordering::SeqCst);
                Poll::Ready(Some(Ok(Frame::data(block.slice(..size as usize)))))
            }
            Content::Streamed(frames) => frames.poll_recv(cx),
            Content::Echo(incoming) => Pin::new(incoming)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(io::Error::other))),
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = self.poll_content(cx);
        // hyper drops a body of known length after its last byte without asking for the end.
        self.in_flight.finished = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(_))) => self.is_end_stream(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Full(bytes) => bytes.is_empty(),
            Content::Repeat { left, .. } => *left == 0,
            Content::Streamed(_) => false,
            Content::Echo(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Repeat {
                left, sized: true, ..
            } => SizeHint::with_exact(*left),
            Content::Repeat { sized: false, .. } | Content::Streamed(_) | Content::Echo(_) => {
                SizeHint::default()
            }
        }
    }
}
