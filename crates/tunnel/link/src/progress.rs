//! How the body of a request comes along, for the time that its answer may take: that time runs while
//! the other end has everything it could have, and not while the sender itself is waited for. It may not
//! change a body.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, timeout_at};

/// What is known of a body that is being sent.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    /// When the last piece was taken, in milliseconds since `began`.
    moved: AtomicU64,
    /// The next piece was asked for and is not there.
    starved: AtomicBool,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            moved: AtomicU64::new(0),
            starved: AtomicBool::new(false),
        }
    }
}

impl Progress {
    /// Notes one look at the body.
    fn note(&self, pending: bool) {
        if !pending {
            let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.moved.store(elapsed, Ordering::Relaxed);
        }
        self.starved.store(pending, Ordering::Relaxed);
    }

    fn deadline(&self, limit: Duration) -> Instant {
        if self.starved.load(Ordering::Relaxed) {
            return Instant::now() + limit;
        }
        self.began + Duration::from_millis(self.moved.load(Ordering::Relaxed)) + limit
    }

    /// Waits for the answer to the request that the body belongs to; `None` when `limit` has passed
    /// since the last piece of the body was taken and the body has another, or is over.
    pub async fn answer_within<F: Future>(&self, limit: Duration, answer: F) -> Option<F::Output> {
        let mut answer = std::pin::pin!(answer);
        let mut deadline = self.deadline(limit);
        loop {
            if let Ok(answer) = timeout_at(deadline, answer.as_mut()).await {
                return Some(answer);
            }
            let later = self.deadline(limit);
            if later <= deadline {
                return None;
            }
            deadline = later;
        }
    }
}

/// A body that tells its [`Progress`] of each piece.
#[derive(Debug)]
pub struct Watched<B> {
    body: B,
    progress: Arc<Progress>,
}

impl<B> Watched<B> {
    /// Watches `body`.
    pub fn new(body: B, progress: Arc<Progress>) -> Self {
        Self { body, progress }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.progress.note(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::time::{advance, sleep};

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn without_progress_the_time_is_over_after_the_limit() {
        let began = Instant::now();
        let progress = Progress::default();
        let answer = progress.answer_within(LIMIT, pending::<()>());
        assert_eq!(answer.await, None);
        assert_eq!(began.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn each_piece_starts_the_time_anew() {
        let progress = Progress::default();
        let moving = async {
            for _ in 0..5 {
                advance(Duration::from_secs(9)).await;
                progress.note(false);
            }
            pending::<()>().await;
        };
        let began = Instant::now();
        tokio::select! {
            answer = progress.answer_within(LIMIT, pending::<()>()) => assert_eq!(answer, None),
            () = moving => {}
        }
        assert_eq!(began.elapsed().as_secs(), 55);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_waited_for_stops_the_time() {
        let progress = Progress::default();
        progress.note(true);
        let answer = progress.answer_within(LIMIT, sleep(Duration::from_secs(1000)));
        assert_eq!(answer.await, Some(()));
    }
}
