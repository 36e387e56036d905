//! The task of a connection: polls HTTP/2, drains the batch, sends PINGs and notices the end. It
//! may not touch a stream's content.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep, interval_at, sleep};

use crate::carrier::{Batched, Carrier};
use crate::{Limits, LinkError};

/// Bytes that are drained at once, without waiting for the other ready tasks' writes.
const DRAIN_NOW: usize = 32 * 1024;

/// Owns a connection. It must be polled for the connection to move, and dropping it ends the
/// connection and every stream of it.
pub struct Driver(Pin<Box<dyn Future<Output = Result<(), LinkError>> + Send>>);

impl Driver {
    pub(crate) fn new(
        future: impl Future<Output = Result<(), LinkError>> + Send + 'static,
    ) -> Self {
        Self(Box::pin(future))
    }
}

impl Future for Driver {
    type Output = Result<(), LinkError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

/// The part of HTTP/2 that differs between the two ends.
pub(crate) trait Http2: Unpin + Send {
    /// Moves the connection; `Ready` when it is over.
    fn poll_http2(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>>;
}

pub(crate) struct Drive<H, C> {
    http2: H,
    carrier: Batched<C>,
    keep_alive: KeepAlive,
    /// One more turn was given to the other tasks before draining.
    yielded: bool,
    over: Option<Result<(), h2::Error>>,
}

impl<H: Http2, C: Carrier> Drive<H, C> {
    pub(crate) fn new(
        http2: H,
        carrier: Batched<C>,
        ping: Option<h2::PingPong>,
        limits: &Limits,
    ) -> Self {
        Self {
            http2,
            carrier,
            keep_alive: KeepAlive::new(ping, limits),
            yielded: false,
            over: None,
        }
    }
}

impl<H: Http2, C: Carrier> Future for Drive<H, C> {
    type Output = Result<(), LinkError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.over.is_none() {
            this.keep_alive.poll(cx)?;
            if let Poll::Ready(end) = this.http2.poll_http2(cx) {
                this.over = Some(end);
            }
        }
        let mut carrier = this.carrier.lock();
        if let Some(end) = this.over.take() {
            // What is left (a GOAWAY, say) goes out if the socket takes it now.
            let _ = carrier.poll_close(cx);
            return Poll::Ready(end.map_err(LinkError::from));
        }
        let waiting = carrier.waiting();
        if waiting == 0 {
            this.yielded = false;
            return Poll::Pending;
        }
        if waiting < DRAIN_NOW && !this.yielded {
            // The other tasks that are ready now add their frames to this batch.
            this.yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.yielded = false;
        match carrier.poll_drain(cx) {
            Poll::Ready(Err(source)) => {
                Poll::Ready(Err(LinkError::Io { doing: "cannot write to the tunnel", source }))
            }
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }
}

/// PING every so often; an answer that stays out ends the connection (RFC 9113 §6.7).
struct KeepAlive {
    ping: Option<h2::PingPong>,
    tick: Pin<Box<Interval>>,
    deadline: Option<Pin<Box<Sleep>>>,
    timeout: std::time::Duration,
}

impl KeepAlive {
    fn new(ping: Option<h2::PingPong>, limits: &Limits) -> Self {
        let first = Instant::now() + limits.keep_alive_interval;
        let mut tick = interval_at(first, limits.keep_alive_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ping, tick: Box::pin(tick), deadline: None, timeout: limits.keep_alive_timeout }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), LinkError> {
        let Some(ping) = self.ping.as_mut() else { return Ok(()) };
        loop {
            if let Some(deadline) = self.deadline.as_mut() {
                if let Poll::Ready(pong) = ping.poll_pong(cx) {
                    pong?;
                    self.deadline = None;
                    continue;
                }
                if deadline.as_mut().poll(cx).is_ready() {
                    return Err(LinkError::KeepAlive(self.timeout));
                }
                return Ok(());
            }
            if self.tick.poll_tick(cx).is_pending() {
                return Ok(());
            }
            ping.send_ping(h2::Ping::opaque())?;
            self.deadline = Some(Box::pin(sleep(self.timeout)));
        }
    }
}

/// Waits for a future at most as long as a handshake may take.
pub(crate) async fn within<T>(
    limits: &Limits,
    future: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    tokio::time::timeout(limits.handshake_timeout, future)
        .await
        .unwrap_or(Err(LinkError::HandshakeTimeout(limits.handshake_timeout)))
}

