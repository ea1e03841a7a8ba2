//! What a Redis error means for the one who asked.

use deadpool_redis::redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::store::{StoreError, StoreErrorKind};

/// Whether a command that was given up may have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Reads,
    Writes,
}

impl Effect {
    /// The connection broke, or the answer did not come: the command may have been carried out.
    pub(super) fn unanswered(
        self,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
        timed_out: bool,
    ) -> StoreError {
        let kind = match self {
            Effect::Writes => StoreErrorKind::OutcomeUnknown,
            Effect::Reads if timed_out => StoreErrorKind::Timeout,
            Effect::Reads => StoreErrorKind::Unavailable,
        };
        StoreError::from(kind).caused_by(cause)
    }

    /// The server has answered with an error, or the connection has failed.
    pub(super) fn failed(self, error: RedisError) -> StoreError {
        match error.kind() {
            ErrorKind::Io => self.unanswered(error, false),
            ErrorKind::Server(kind) => StoreError::from(refusal(kind)).caused_by(error),
            ErrorKind::AuthenticationFailed => StoreError::from(StoreErrorKind::Refused).caused_by(error),
            _ if error.code() == Some("WRONGTYPE") => StoreError::from(StoreErrorKind::Corrupt).caused_by(error),
            ErrorKind::Extension => StoreError::from(StoreErrorKind::Refused).caused_by(error),
            _ => self.unanswered(error, false),
        }
    }
}

/// Why no connection could be made. Nothing was sent.
pub(super) fn unreachable(error: RedisError) -> StoreError {
    let refused = matches!(error.kind(), ErrorKind::AuthenticationFailed | ErrorKind::Server(_) | ErrorKind::Extension);
    let kind = if refused { StoreErrorKind::Refused } else { StoreErrorKind::Unavailable };
    StoreError::from(kind).caused_by(error)
}

fn refusal(kind: ServerErrorKind) -> StoreErrorKind {
    match kind {
        // It will answer, or another one will.
        ServerErrorKind::BusyLoading
        | ServerErrorKind::ReadOnly
        | ServerErrorKind::MasterDown
        | ServerErrorKind::ClusterDown
        | ServerErrorKind::TryAgain => StoreErrorKind::Unavailable,
        _ => StoreErrorKind::Refused,
    }
}

/// Whether the server is one that must no longer be asked, even though it answers.
pub(super) fn is_wrong_server(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::ClusterDown)
    )
}

/// Whether the connection is of no more use.
pub(super) fn breaks_the_connection(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Io
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
        || is_wrong_server(error)
}
