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
    /// Moves what travels beside the requests; `Ready` when the connection must end for it.
    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<LinkError>;
}

pub(crate) struct Drive<H, C> {
    http2: H,
    carrier: Batched<C>,
    keep_alive: KeepAlive,
    /// One more turn was given to the other tasks before draining.
    yielded: bool,
    /// HTTP/2 is over, and by when the other end has to close too.
    farewell: Option<Pin<Box<Sleep>>>,
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
            farewell: None,
        }
    }

    /// Waits until the other end has closed: a socket that is dropped while something still comes
    /// in on it is reset, and what was sent last is lost with it.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        let timeout = self.keep_alive.timeout;
        let deadline = self
            .farewell
            .get_or_insert_with(|| Box::pin(sleep(timeout)));
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.carrier.poll_farewell(cx).map(Ok)
    }
}

impl<H: Http2, C: Carrier> Future for Drive<H, C> {
    type Output = Result<(), LinkError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.farewell.is_some() {
            return this.poll_farewell(cx);
        }
        this.keep_alive.poll(cx)?;
        this.carrier.begin_round();
        match this.http2.poll_http2(cx) {
            Poll::Ready(Ok(())) => return this.poll_farewell(cx),
            Poll::Ready(Err(error)) => {
                let reason = this.carrier.reason(error);
                // What is left (a GOAWAY, say) goes out if the socket takes it now.
                let _ = this.carrier.poll_farewell(cx);
                return Poll::Ready(Err(reason));
            }
            Poll::Pending => {}
        }
        if let Poll::Ready(error) = this.http2.poll_control(cx) {
            return Poll::Ready(Err(error));
        }
        let waiting = this.carrier.waiting();
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
        match this.carrier.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
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
        Self {
            ping,
            tick: Box::pin(tick),
            deadline: None,
            timeout: limits.keep_alive_timeout,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), LinkError> {
        let Some(ping) = self.ping.as_mut() else {
            return Ok(());
        };
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
