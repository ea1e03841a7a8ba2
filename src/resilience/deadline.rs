//! The deadline of an operation of the store, shared by all of its steps.
//!
//! It is a task-local and no parameter, so that neither the backend nor the code between an
//! operation and its calls must pass it on. A spawned task has no deadline; its operations set
//! their own.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

tokio::task_local! {
    static DEADLINE: Deadline;
}

/// The moment at which an operation must have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// Returns the deadline of the operation under way, or the end of `timeout` from now, whichever
    /// is earlier. A part of an operation never has more time than the whole.
    pub(crate) fn current_or(timeout: Duration) -> Self {
        Self::current_or_after(Instant::now(), timeout)
    }

    /// Like [`current_or`](Self::current_or), for a caller that has just read the clock.
    pub(super) fn current_or_after(now: Instant, timeout: Duration) -> Self {
        let own = Deadline(now + timeout);
        Self::current().map_or(own, |current| current.min(own))
    }

    /// Returns the end of `timeout` from now.
    pub(crate) fn after(timeout: Duration) -> Self {
        Deadline(Instant::now() + timeout)
    }

    /// Returns the deadline of the operation under way.
    pub(crate) fn current() -> Option<Self> {
        DEADLINE.try_with(|deadline| *deadline).ok()
    }

    /// Runs a step of the operation under this deadline. The step itself is not cut off; the calls
    /// in it are.
    ///
    /// No async function: its future would hold the step twice, and moving it would copy both.
    pub(crate) fn within<F: Future>(self, step: F) -> impl Future<Output = F::Output> {
        DEADLINE.scope(self, step)
    }

    /// Waits for an event in another task. Returns `None` if the deadline passes first.
    pub(crate) async fn wait_for<F: Future>(self, event: F) -> Option<F::Output> {
        tokio::time::timeout_at(self.0, event).await.ok()
    }

    /// Returns the end of a step that begins now and has this timeout, but not later than the
    /// deadline.
    pub(super) fn of_step(self, now: Instant, timeout: Duration) -> Instant {
        self.0.min(now + timeout)
    }

    /// Returns the time left.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// Returns the end of a step that begins now and has this timeout, but not later than the deadline
/// of the operation under way.
pub(crate) fn end_of_step(timeout: Duration) -> Instant {
    Deadline::current_or(timeout).0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_step_of_a_long_operation_has_its_own_deadline() {
        let whole = Deadline::current_or(SECOND * 60);
        let part = whole.within(async { Deadline::current_or(SECOND) }).await;
        assert_eq!(part.left(), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_ends_no_later_than_the_whole_operation() {
        let whole = Deadline::current_or(SECOND);
        whole
            .within(async {
                assert_eq!(Deadline::current_or(SECOND * 5), whole);
                tokio::time::sleep(SECOND / 2).await;
                assert_eq!(Deadline::current_or(SECOND * 5), whole);
                assert_eq!(end_of_step(SECOND * 5), whole.0);
                assert_eq!(end_of_step(SECOND / 4), Instant::now() + SECOND / 4);
                tokio::time::sleep(SECOND).await;
                assert_eq!(whole.left(), Duration::ZERO);
            })
            .await;
        assert_ne!(Deadline::current_or(SECOND), whole, "the next operation has its own deadline");
    }

    #[tokio::test(start_paused = true)]
    async fn a_spawned_task_does_not_inherit_the_deadline() {
        let whole = Deadline::current_or(SECOND);
        let spawned =
            whole.within(async { tokio::spawn(async { Deadline::current() }).await }).await;
        assert_eq!(spawned.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_the_deadline() {
        let (begun, deadline) = (Instant::now(), Deadline::current_or(SECOND));
        assert_eq!(deadline.wait_for(std::future::pending::<()>()).await, None);
        assert_eq!(begun.elapsed(), SECOND);
        assert_eq!(Deadline::current_or(SECOND).wait_for(async { 1 }).await, Some(1));
    }
}
