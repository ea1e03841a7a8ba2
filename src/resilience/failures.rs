//! Logs that calls to the backend fail, and that they succeed again: once each, not for each call.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::clock::Clock;
use crate::error::{StoreError, StoreErrorKind};
use crate::observe::{LogLimit, Operation};

/// Notices when the calls of one store begin to fail.
#[derive(Debug)]
pub(super) struct Failures {
    /// `true` from a failed call that was logged until one succeeds.
    failing: AtomicBool,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    limit: LogLimit,
    /// `true` if the present failure has been logged.
    is_logged: bool,
}

impl Failures {
    pub(super) fn new() -> Self {
        Failures { failing: AtomicBool::new(false), log: Mutex::default() }
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
        if self.failing.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(suppressed) = log.limit.admit(clock.now()) {
            log.is_logged = true;
            tracing::warn!(
                operation = operation.name(),
                error = error as &dyn std::error::Error,
                suppressed,
                "a call to the session backend has failed"
            );
        } else {
            // The next failure asks again: an outage may have begun just after a single failure.
            self.failing.store(false, Ordering::Relaxed);
        }
    }

    fn succeeded(&self) {
        if !self.failing.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut log.is_logged) {
            tracing::info!("calls to the session backend succeed again");
        }
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
        let is_logged = || failures.log.lock().unwrap().is_logged;
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
