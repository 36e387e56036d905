//! Runs something only while this replica leads. May not decide who leads.

use crate::lease::Leadership;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// How long what has begun may take to end after the lease was lost. It cannot write any more.
const GRACE: Duration = Duration::from_secs(10);
/// The pause before something that ended by itself is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts `start` whenever the lease is acquired and cancels its token when the claim is lost or
/// has run out, until `cancel`. At most one is running at a time.
///
/// What was started should end soon after its token is cancelled; otherwise it is dropped after
/// ten seconds. If it ends by itself while we lead, it is started again.
pub async fn leading<F>(
    leadership: &Leadership,
    cancel: CancellationToken,
    mut start: impl FnMut(CancellationToken) -> F,
) where
    F: Future<Output = ()>,
{
    loop {
        // The end comes first, or a replica that leads would begin once more on its way out.
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = held(leadership) => {}
        }
        let token = cancel.child_token();
        let mut work = Box::pin(start(token.clone()));
        let ended = tokio::select! {
            biased;
            () = cancel.cancelled() => false,
            () = lost(leadership) => false,
            () = &mut work => true,
        };
        if ended {
            tracing::warn!(
                "what runs while this replica leads has ended by itself; starting it again"
            );
            tokio::select! {
                () = cancel.cancelled() => return,
                () = sleep(PAUSE) => continue,
            }
        }
        if !cancel.is_cancelled() {
            tracing::info!("this replica no longer leads");
        }
        token.cancel();
        if timeout(GRACE, work).await.is_err() {
            tracing::warn!("what ran while this replica led did not end in time; it was dropped");
        }
    }
}

/// Waits until the lease is ours.
async fn held(leadership: &Leadership) {
    let mut claims = leadership.claims();
    while !leadership.is_held(Instant::now()) {
        if claims.changed().await.is_err() {
            // The election is over and will not be won.
            std::future::pending::<()>().await;
        }
    }
}

/// Waits until the lease is not ours any more, also if nobody tells us.
async fn lost(leadership: &Leadership) {
    let mut claims = leadership.claims();
    loop {
        let expiry = claims.borrow_and_update().expiry;
        if !leadership.is_held(Instant::now()) {
            return;
        }
        tokio::select! {
            changed = claims.changed() => if changed.is_err() {
                // Nobody renews it; it still counts until it runs out.
                sleep_until(expiry).await;
            },
            () = sleep_until(expiry) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Claim;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::watch;

    fn claim(holder: &str, seconds: u64) -> Claim {
        Claim {
            holder: Some(holder.to_owned()),
            expiry: Instant::now() + Duration::from_secs(seconds),
        }
    }

    /// Begun and ended runs.
    #[derive(Default)]
    struct Runs(AtomicU32, AtomicU32);

    impl Runs {
        fn seen(&self) -> (u32, u32) {
            (self.0.load(Ordering::SeqCst), self.1.load(Ordering::SeqCst))
        }
    }

    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_runs_while_the_claim_holds_and_again_when_it_comes_back() {
        let (claims, receiver) = watch::channel(claim("other", 10));
        let leadership = Leadership::fixed("me", receiver);
        let cancel = CancellationToken::new();
        let runs = Arc::new(Runs::default());
        let task = tokio::spawn({
            let (runs, cancel) = (runs.clone(), cancel.clone());
            async move {
                leading(&leadership, cancel, |token| {
                    let runs = runs.clone();
                    async move {
                        runs.0.fetch_add(1, Ordering::SeqCst);
                        token.cancelled().await;
                        runs.1.fetch_add(1, Ordering::SeqCst);
                    }
                })
                .await;
            }
        });
        settle().await;
        assert_eq!(runs.seen(), (0, 0), "another leads");
        claims.send_replace(claim("me", 10));
        settle().await;
        assert_eq!(runs.seen(), (1, 0));
        claims.send_replace(claim("me", 20));
        tokio::time::advance(Duration::from_secs(15)).await;
        settle().await;
        assert_eq!(runs.seen(), (1, 0), "the claim was renewed");
        tokio::time::advance(Duration::from_secs(6)).await;
        settle().await;
        assert_eq!(runs.seen(), (1, 1), "the claim ran out");
        claims.send_replace(claim("me", 10));
        settle().await;
        assert_eq!(runs.seen(), (2, 1));
        claims.send_replace(claim("other", 10));
        settle().await;
        assert_eq!(runs.seen(), (2, 2));
        claims.send_replace(claim("me", 10));
        settle().await;
        cancel.cancel();
        task.await.expect("ends");
        assert_eq!(runs.seen(), (3, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_is_dropped() {
        let (_claims, receiver) = watch::channel(claim("me", 10));
        let leadership = Leadership::fixed("me", receiver);
        let cancel = CancellationToken::new();
        let begun = Instant::now();
        let stopper = cancel.clone();
        let work = leading(&leadership, cancel, |_| {
            stopper.cancel();
            std::future::pending()
        });
        work.await;
        assert_eq!(begun.elapsed(), GRACE);
    }
}
