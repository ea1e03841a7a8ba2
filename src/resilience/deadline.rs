//! How long an operation of the store may take in all, known to each of its steps.
//!
//! It travels with the task and not through signatures: so a backend remains a backend, and what lies between the operation and
//! its calls need not know of it. A task that is spawned on the way has none, and takes a time of its own.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

tokio::task_local! {
    static DEADLINE: Deadline;
}

/// When an operation must have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// That of the operation under way; without one, a new one. A part of an operation has no more time than the whole.
    pub(crate) fn current_or(timeout: Duration) -> Self {
        Self::current().unwrap_or_else(|| Deadline(Instant::now() + timeout))
    }

    fn current() -> Option<Self> {
        DEADLINE.try_with(|deadline| *deadline).ok()
    }

    /// Runs a step of the operation. It is not cut off: what it waits for is.
    pub(crate) async fn within<F: Future>(self, step: F) -> F::Output {
        DEADLINE.scope(self, step).await
    }

    /// Waits for something that goes on without us. `None` when the time is up.
    pub(crate) async fn wait_for<F: Future>(self, event: F) -> Option<F::Output> {
        tokio::time::timeout_at(self.0, event).await.ok()
    }

    /// The end of a step that begins now and may take so long by itself.
    pub(crate) fn of_step(self, timeout: Duration) -> Instant {
        self.0.min(Instant::now() + timeout)
    }

    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// The end of a step that begins now and may take so long by itself, and no longer than the operation that it may be part of.
pub(crate) fn end_of_step(timeout: Duration) -> Instant {
    Deadline::current_or(timeout).of_step(timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_part_has_no_more_time_than_the_whole() {
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
        assert_ne!(Deadline::current_or(SECOND), whole, "the next operation has a time of its own");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_of_its_own_has_a_time_of_its_own() {
        let whole = Deadline::current_or(SECOND);
        let spawned =
            whole.within(async { tokio::spawn(async { Deadline::current() }).await }).await;
        assert_eq!(spawned.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_the_time() {
        let (begun, deadline) = (Instant::now(), Deadline::current_or(SECOND));
        assert_eq!(deadline.wait_for(std::future::pending::<()>()).await, None);
        assert_eq!(begun.elapsed(), SECOND);
        assert_eq!(Deadline::current_or(SECOND).wait_for(async { 1 }).await, Some(1));
    }
}
