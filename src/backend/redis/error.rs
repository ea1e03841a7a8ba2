//! What a Redis error means for the one who asked.

use deadpool_redis::redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::error::{StoreError, StoreErrorKind};

/// Whether a command that was given up may have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Idempotent,
    Mutating,
}

impl Effect {
    /// The connection broke, or the answer did not come: the command may have been carried out.
    pub(super) fn unanswered(
        self,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
        timed_out: bool,
    ) -> StoreError {
        let kind = match self {
            Effect::Mutating => StoreErrorKind::OutcomeUnknown,
            Effect::Idempotent if timed_out => StoreErrorKind::Timeout,
            Effect::Idempotent => StoreErrorKind::Unavailable,
        };
        StoreError::from(kind).with_source(cause)
    }

    /// The server has answered with an error, or the connection has failed.
    pub(super) fn failed(self, error: RedisError) -> StoreError {
        match refusal(&error) {
            Some(kind) => StoreError::from(kind).with_source(error),
            None => self.unanswered(error, false),
        }
    }
}

/// Why no connection could be made. Nothing was done.
pub(super) fn unreachable(error: RedisError) -> StoreError {
    let kind = refusal(&error).unwrap_or(StoreErrorKind::Unavailable);
    StoreError::from(kind).with_source(error)
}

/// What it means that the server has refused; `None` if it has not.
fn refusal(error: &RedisError) -> Option<StoreErrorKind> {
    if is_wrong_server(error) || error.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading) {
        // It will serve again, or another one will.
        return Some(StoreErrorKind::Unavailable);
    }
    match error.kind() {
        _ if error.code() == Some("WRONGTYPE") => Some(StoreErrorKind::Corrupt),
        ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed => {
            Some(StoreErrorKind::Refused)
        }
        _ => None,
    }
}

/// Whether the server is one that must not be asked for anything, though it answers: one that takes no writes may have been
/// replaced by another, and know less.
fn is_wrong_server(error: &RedisError) -> bool {
    matches!(
        error.code(),
        Some("READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "NOREPLICAS" | "MISCONF")
    )
}

/// Whether the connection is of no more use.
pub(super) fn breaks_the_connection(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Io
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
        || is_wrong_server(error)
}
