//! Errors of commands, from the errors of the client and the server.

use std::error::Error;

use redis::{ErrorKind, FromRedisValue, RedisError, RedisResult, Value, from_redis_value};

use super::refusal::Refusal;
use super::transport::is_tls_failure;
use crate::error::{StoreError, StoreErrorKind};

/// The cause of a redirect where none was expected.
const NOT_ALONE: &str = "the server is one of a Redis Cluster, and another one has the key: use \
                         `RedisConfig::cluster`, or `redis-cluster://` in the URL";

/// The cause of any refusal by a server that needs a password.
const NEEDS_PASSWORD: &str = "the server needs a password: put it into the URL, or call \
                              `RedisConfig::password`, or `RedisSentinels::password` for a sentinel";

/// The effect that a command without a reply may have had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// None, or one that is harmless if it happens twice.
    Idempotent,
    /// A write whose outcome is unknown.
    Mutating,
}

impl Effect {
    /// Returns the error of a command without a reply, because the connection broke or the timeout
    /// passed. The server may have carried the command out.
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

    /// Returns the value in a reply.
    pub(super) fn interpret<R: FromRedisValue>(
        self,
        reply: RedisResult<Value>,
    ) -> Result<R, StoreError> {
        let value = reply.map_err(|error| self.failed(error))?;
        from_redis_value(value).map_err(|error| self.failed(error.into()))
    }

    /// Returns the error of a command to which the server replied with an error, or whose
    /// connection failed.
    pub(super) fn failed(self, error: RedisError) -> StoreError {
        if is_redirect(&error) {
            return StoreError::from(StoreErrorKind::Refused).with_source(NOT_ALONE);
        }
        match refusal(&error) {
            Some(kind) => {
                let is_read_only = cannot_save(&error);
                let refused = StoreError::from(kind).with_source(error);
                if is_read_only { refused.read_only() } else { refused }
            }
            None => self.unanswered(error, false),
        }
    }
}

/// Returns the error of an attempt to connect. Nothing was done.
pub(super) fn unreachable(error: RedisError) -> StoreError {
    if needs_password(&error) {
        return StoreError::from(StoreErrorKind::Refused).with_source(NEEDS_PASSWORD);
    }
    match refusal(&error) {
        Some(kind) => StoreError::from(kind).with_source(error),
        None => not_connected(error),
    }
}

/// Returns the error of a stream that could not be opened. A certificate that one side refuses is
/// for an operator to correct.
pub(super) fn not_connected(error: impl Error + Send + Sync + 'static) -> StoreError {
    let is_refused = is_tls_failure(&error);
    let kind = if is_refused { StoreErrorKind::Refused } else { StoreErrorKind::Unavailable };
    StoreError::from(kind).with_source(error)
}

fn refusal(error: &RedisError) -> Option<StoreErrorKind> {
    Refusal::of(error).map(Refusal::kind)
}

/// Returns `true` if the server did not carry out a command because it is not allowed or unknown.
pub(super) fn refuses_the_command(error: &RedisError) -> bool {
    matches!(Refusal::of(error), Some(Refusal::NotAllowed | Refusal::Unexpected))
}

/// Returns `true` if the server carries out nothing before a password is given.
pub(super) fn needs_password(error: &RedisError) -> bool {
    error.code() == Some("NOAUTH")
}

/// Returns `true` if the server must not be used although it answers, and another connection may
/// lead to one that may be.
pub(super) fn is_wrong_server(error: &RedisError) -> bool {
    Refusal::of(error) == Some(Refusal::NotAMaster) && !is_cluster_down(error)
}

/// Returns `true` if the server's cluster is down, as far as it knows. Another connection would
/// lead to the same server, whose next heartbeat shows what has become of it.
pub(super) fn is_cluster_down(error: &RedisError) -> bool {
    error.code() == Some("CLUSTERDOWN")
}

/// Returns `true` if the server is a replica.
pub(super) fn is_read_only(error: &RedisError) -> bool {
    error.code() == Some("READONLY")
}

/// Returns `true` if the server refuses writes because it cannot save its data.
pub(super) fn cannot_save(error: &RedisError) -> bool {
    Refusal::of(error) == Some(Refusal::CannotSave)
}

/// Returns `true` if the server did nothing, and may carry the command out a moment later.
pub(super) fn is_busy(error: &RedisError) -> bool {
    Refusal::of(error) == Some(Refusal::NotNow)
}

/// Returns `true` if the server did nothing because the keys are in several slots.
pub(super) fn is_about_slots(error: &RedisError) -> bool {
    Refusal::of(error) == Some(Refusal::SeveralSlots)
}

/// Returns `true` if the server did nothing because another server of its cluster has the key.
pub(super) fn is_redirect(error: &RedisError) -> bool {
    error.redirect_node().is_some()
}

/// Returns `true` if the connection can no longer be used.
pub(super) fn breaks_the_connection(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Io
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
        || is_wrong_server(error)
}
