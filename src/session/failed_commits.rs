//! Commits that have failed with their response: logged, without a line for each in an outage.

use std::sync::{Mutex, PoisonError};

use super::SessionError;
use crate::clock::Clock;
use crate::error::StoreErrorKind;
use crate::observe::LogLimit;

/// Logs the failed commits of a layer, whose clients got an error instead of their response.
pub(crate) struct FailedCommits {
    outage_log: Mutex<LogLimit>,
    clock: Clock,
}

impl FailedCommits {
    pub(super) fn new(clock: Clock) -> Self {
        FailedCommits { outage_log: Mutex::default(), clock }
    }

    pub(crate) fn log(&self, error: &SessionError) {
        let cause = error as &dyn std::error::Error;
        if let Some(suppressed) = self.admits(error) {
            tracing::error!(error = cause, suppressed, "a session could not be committed");
        } else {
            tracing::debug!(error = cause, "a session could not be committed");
        }
    }

    /// Returns the number of lines that were suppressed before this one, or `None` if this one is
    /// suppressed as well.
    fn admits(&self, error: &SessionError) -> Option<u64> {
        let kind = match error {
            // `Gone` is ordinary: a logout came first. So is `LimitReached`, which is counted.
            // During an outage, every request may fail as `ReadOnly`.
            SessionError::Gone | SessionError::LimitReached | SessionError::ReadOnly(_) => {
                return None;
            }
            SessionError::Store(error) => error.kind(),
            _ => return Some(0),
        };
        match kind {
            // The circuit logs its opening. Under overload, a line per request only adds to it.
            StoreErrorKind::CircuitOpen | StoreErrorKind::Overloaded => None,
            // While the backend does not answer, or refuses commands, every request may fail.
            kind if kind.is_fault() || kind == StoreErrorKind::Refused => {
                let mut limit = self.outage_log.lock().unwrap_or_else(PoisonError::into_inner);
                limit.admit(self.clock.now())
            }
            _ => Some(0),
        }
    }
}
