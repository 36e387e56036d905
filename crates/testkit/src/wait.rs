//! Waiting for a condition instead of for a time. It may not decide what the condition is.

use std::future::Future;
use std::time::Duration;

/// Polls `check` until it is true, and panics with `what` after `timeout`.
///
/// Polls every 10 ms at first, then ever more slowly up to every 100 ms, on tokio's clock.
pub async fn await_condition<F, Fut>(what: &str, timeout: Duration, mut check: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let met = async {
        let mut pause = Duration::from_millis(10);
        while !check().await {
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_millis(100));
        }
    };
    if tokio::time::timeout(timeout, met).await.is_err() {
        panic!("waited {timeout:?} in vain: {what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn returns_as_soon_as_it_holds() {
        let tries = Cell::new(0);
        let start = tokio::time::Instant::now();
        await_condition("three tries", Duration::from_secs(60), || {
            tries.set(tries.get() + 1);
            let done = tries.get() == 3;
            async move { done }
        })
        .await;
        assert_eq!(tries.get(), 3);
        assert!(start.elapsed() < Duration::from_millis(50));
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "waited 5s in vain: the sun rises at night")]
    async fn says_what_it_waited_for() {
        await_condition("the sun rises at night", Duration::from_secs(5), || async {
            false
        })
        .await;
    }
}
