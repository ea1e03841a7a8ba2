//! A timeout that needs no timer while the step that it limits waits under an earlier one.
//!
//! A call to the backend has a timeout, and so has each command that it sends. A timer is entered
//! into the runtime's timer wheel under a lock, and taken out again, which costs as much as several
//! look-ups in the cache. But a timer that wakes the task before the outer timeout ends is enough
//! for both: whenever the task is polled, the outer timeout sees whether the step still has one.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, Pending, pending};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::task::{Unconstrained, unconstrained};
use tokio::time::Instant;
use tokio::time::error::Elapsed;

thread_local! {
    /// When a timer will wake the task that is being polled, if a timeout has been polled in it
    /// that still waits. `None` is always safe: it costs a further timer.
    static WAKES_AT: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Runs a step until `end`. Fails with `Elapsed` if it has not ended by then.
pub(crate) fn timeout_at<F: Future>(end: Instant, step: F) -> Timeout<F> {
    // Unconstrained: a step that uses up the task's budget at each poll is cut off nevertheless.
    let timer = unconstrained(tokio::time::timeout_at(end, pending()));
    Timeout { step, end, timer }
}

pin_project! {
    /// The future of [`timeout_at`].
    pub(crate) struct Timeout<F> {
        #[pin]
        step: F,
        end: Instant,
        // Started once it is polled.
        #[pin]
        timer: Unconstrained<tokio::time::Timeout<Pending<Infallible>>>,
    }

    /// From now on, the timer does not wake the task, which may go on to wait for something else.
    impl<F> PinnedDrop for Timeout<F> {
        fn drop(_this: Pin<&mut Self>) {
            WAKES_AT.set(None);
        }
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        WAKES_AT.set(None);
        if let Poll::Ready(output) = this.step.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if WAKES_AT.get().is_some_and(|wakes_at| wakes_at <= *this.end) {
            return Poll::Pending;
        }
        match this.timer.poll(cx) {
            Poll::Ready(Ok(never)) => match never {},
            Poll::Ready(Err(elapsed)) => Poll::Ready(Err(elapsed)),
            Poll::Pending => {
                WAKES_AT.set(Some(*this.end));
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn after(seconds: u32) -> Instant {
        Instant::now() + SECOND * seconds
    }

    /// Returns after how many seconds a timeout has cut a step off.
    async fn cut_off_after<F: Future>(seconds: u32, step: F) -> Option<u64> {
        let begun = Instant::now();
        let cut_off = tokio::time::timeout(SECOND * 60, timeout_at(after(seconds), step));
        cut_off.await.expect("the step ends").err()?;
        Some(begun.elapsed().as_secs())
    }

    /// Polls a future once.
    async fn poll_once<F: Future>(mut future: Pin<&mut F>) {
        poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_is_cut_off_at_the_end_and_not_before() {
        assert_eq!(cut_off_after(2, sleep(SECOND)).await, None);
        assert_eq!(cut_off_after(2, sleep(SECOND * 3)).await, Some(2));
        assert_eq!(timeout_at(Instant::now(), async { 7 }).await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_around_an_earlier_one_starts_no_timer() {
        let inner = |seconds| timeout_at(after(seconds), pending::<()>());
        let begun = Instant::now();
        let mut earlier = std::pin::pin!(timeout_at(after(2), inner(1)));
        poll_once(earlier.as_mut()).await;
        assert_eq!(WAKES_AT.get(), Some(begun + SECOND), "that of the inner one");
        let mut later = std::pin::pin!(timeout_at(after(2), inner(3)));
        poll_once(later.as_mut()).await;
        assert_eq!(WAKES_AT.get(), Some(begun + SECOND * 2), "its own");
        let mut twice = std::pin::pin!(timeout_at(after(3), timeout_at(after(2), inner(1))));
        poll_once(twice.as_mut()).await;
        assert_eq!(WAKES_AT.get(), Some(begun + SECOND), "that of the innermost");
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_two_nested_timeouts_ends_the_step() {
        for (outer, inner) in [(2, 5), (5, 2), (2, 2)] {
            let begun = Instant::now();
            let step = timeout_at(after(outer), timeout_at(after(inner), pending::<()>()));
            assert!(step.await.is_ok_and(|inner| inner.is_err()) || outer < inner);
            assert_eq!(begun.elapsed(), SECOND * 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_goes_on_after_an_earlier_timeout_is_cut_off() {
        let step = async {
            timeout_at(after(1), pending::<()>()).await.unwrap_err();
            pending::<()>().await;
        };
        assert_eq!(cut_off_after(2, step).await, Some(2));
        let answered = async {
            timeout_at(after(1), sleep(SECOND / 2)).await.unwrap();
            pending::<()>().await;
        };
        assert_eq!(cut_off_after(2, answered).await, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_drops_an_earlier_timeout_and_waits_on_is_cut_off() {
        let step = async {
            let mut dropped = Box::pin(timeout_at(after(1), pending::<()>()));
            poll_once(dropped.as_mut()).await;
            drop(dropped);
            pending::<()>().await;
        };
        assert_eq!(cut_off_after(2, step).await, Some(2));
        let selected = async {
            tokio::select! {
                biased;
                _ = timeout_at(after(1), pending::<()>()) => unreachable!(),
                () = std::future::ready(()) => {}
            }
            pending::<()>().await;
        };
        assert_eq!(cut_off_after(2, selected).await, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_of_another_task_covers_nothing() {
        let others = tokio::spawn(cut_off_after(1, pending::<()>()));
        let (first, second) =
            tokio::join!(cut_off_after(1, pending::<()>()), cut_off_after(2, pending::<()>()),);
        assert_eq!((first, second), (Some(1), Some(2)));
        assert_eq!(others.await.unwrap(), Some(1));
        // One that waits, in the same poll, under a timeout that does not contain it.
        let mut others = std::pin::pin!(timeout_at(after(1), pending::<()>()));
        let own = cut_off_after(2, poll_fn(|_| Poll::<()>::Pending));
        poll_once(others.as_mut()).await;
        assert_eq!(own.await, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_uses_up_the_budget_of_its_task_is_cut_off() {
        let busy = async {
            for _ in 0..1_000_000 {
                tokio::task::consume_budget().await;
            }
        };
        let busy = tokio::spawn(timeout_at(after(1), busy));
        tokio::time::advance(SECOND * 2).await;
        assert!(busy.await.unwrap().is_err());
    }
}
