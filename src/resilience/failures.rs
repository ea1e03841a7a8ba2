//! Logs that calls to the backend fail, and that they succeed again: once each, not for each call.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Clock;
use crate::error::{StoreError, StoreErrorKind};
use crate::observe::{LogLimit, Operation};

/// Notices when the calls of one store begin to fail.
#[derive(Debug)]
pub(super) struct Failures {
    /// `true` from a failed call that was logged until one succeeds. Changed under the lock, so
    /// that the two lines alternate.
    failing: AtomicBool,
    limit: Mutex<LogLimit>,
}

impl Failures {
    pub(super) fn new() -> Self {
        Failures { failing: AtomicBool::new(false), limit: Mutex::default() }
    }

    /// Takes note of the outcome of a call.
    pub(super) fn note<R>(
        &self,
        operation: Operation,
        answer: &Result<R, StoreError>,
        clock: &Clock,
    ) {
        match answer {
            Ok(_) if self.failing.load(Ordering::Relaxed) => self.succeeded(),
            Err(error) if error.kind().is_fault() || error.kind() == StoreErrorKind::Refused => {
                self.failed(operation, error, clock);
            }
            _ => {}
        }
    }

    fn failed(&self, operation: Operation, error: &StoreError, clock: &Clock) {
        // Most failures of an outage need no lock.
        if self.failing.load(Ordering::Relaxed) {
            return;
        }
        let mut limit = self.lock();
        if self.failing.load(Ordering::Relaxed) {
            return;
        }
        // If there was a line a moment ago, the next failure asks again: an outage may have begun
        // just after a single failure.
        if let Some(suppressed) = limit.admit(clock.now()) {
            self.failing.store(true, Ordering::Relaxed);
            tracing::warn!(
                operation = operation.name(),
                error = error as &dyn std::error::Error,
                suppressed,
                "a call to the session backend has failed"
            );
        }
    }

    fn succeeded(&self) {
        let _limit = self.lock();
        if self.failing.swap(false, Ordering::Relaxed) {
            tracing::info!("calls to the session backend succeed again");
        }
    }

    fn lock(&self) -> MutexGuard<'_, LogLimit> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_just_after_a_single_failure_is_logged_once_the_limit_allows_it() {
        let (failures, clock) = (Failures::new(), Clock::tokio());
        let failed = || Err::<(), _>(StoreErrorKind::Timeout.into());
        let note = |answer| failures.note(Operation::Load, &answer, &clock);
        let is_logged = || failures.failing.load(Ordering::Relaxed);
        note(failed());
        assert!(is_logged());
        note(Ok(()));
        assert!(!is_logged());
        note(failed());
        assert!(!is_logged(), "there was a line a moment ago");
        advance(Duration::from_secs(10)).await;
        note(failed());
        assert!(is_logged());
    }
}
