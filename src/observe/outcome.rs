//! The operations of a backend and their outcomes, as labels of metrics and fields of spans.

use crate::error::StoreErrorKind;

/// A call to the backend. Subscriptions are measured by the listener and have no operation here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Load,
    Create,
    Update,
    Delete,
    Touch,
    Clear,
    Scan,
    /// Adds a session to its owner's index.
    Index,
    /// [`Backend::expire_in_owner`](crate::backend::Backend::expire_in_owner).
    ExpireEntry,
    /// Removes a session from its owner's index.
    Unindex,
    /// Reads a page of an owner's index.
    Indexed,
    Publish,
    Ping,
}

impl Operation {
    /// All operations, in the order of their declaration, which indexes the instruments.
    pub(super) const ALL: [Operation; 13] = [
        Operation::Load,
        Operation::Create,
        Operation::Update,
        Operation::Delete,
        Operation::Touch,
        Operation::Clear,
        Operation::Scan,
        Operation::Index,
        Operation::ExpireEntry,
        Operation::Unindex,
        Operation::Indexed,
        Operation::Publish,
        Operation::Ping,
    ];

    /// Returns the value of the label `operation`: the name of the method of
    /// [`Backend`](crate::backend::Backend).
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Load => "load",
            Operation::Create => "create",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Touch => "touch",
            Operation::Clear => "clear",
            Operation::Scan => "scan",
            Operation::Index => "add_to_owner",
            Operation::ExpireEntry => "expire_in_owner",
            Operation::Unindex => "remove_from_owner",
            Operation::Indexed => "sessions_of_owner",
            Operation::Publish => "publish",
            Operation::Ping => "ping",
        }
    }

    /// Returns `true` if a call with this outcome has made an announcement.
    pub(super) fn announces(self, outcome: Outcome) -> bool {
        match self {
            Operation::Update | Operation::Publish | Operation::Clear => outcome == Outcome::Ok,
            Operation::Delete => matches!(outcome, Outcome::Ok | Outcome::Gone),
            _ => false,
        }
    }
}

/// The outcome of a backend call or of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done, found, or committed.
    Ok,
    /// A load found no record.
    NotFound,
    /// There was nothing to write, delete or extend, or only a tombstone.
    Gone,
    /// Another revision was there; of a commit: on every attempt.
    Conflict,
    /// The backend could not be reached.
    Unavailable,
    /// No reply in time, and nothing was to be changed.
    Timeout,
    /// No reply to a write, which may or may not have been carried out.
    Unknown,
    /// The backend refused: wrong password, missing permission, out of memory.
    Refused,
    /// Not sent, because the circuit breaker is open.
    CircuitOpen,
    /// Not sent, because too many loads are in flight.
    Overloaded,
    /// The record could not be read.
    Corrupt,
    /// The backend or the store was shut down.
    Closed,
    /// The data could not be serialized.
    Encode,
    /// The data exceeds the size limit.
    TooLarge,
    /// The owner has as many sessions as are allowed.
    LimitReached,
    /// A session can no longer be created, because the response head has been sent.
    HeadSent,
    /// The session could not be loaded, and the outage policy allows only reading it.
    ReadOnly,
    /// The caller stopped waiting.
    Cancelled,
    /// An outcome without a counter of its own.
    Other,
}

impl Outcome {
    /// Returns the value of the label `outcome`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::NotFound => "not_found",
            Outcome::Gone => "gone",
            Outcome::Conflict => "conflict",
            Outcome::Unavailable => "unavailable",
            Outcome::Timeout => "timeout",
            Outcome::Unknown => "outcome_unknown",
            Outcome::Refused => "refused",
            Outcome::CircuitOpen => "circuit_open",
            Outcome::Overloaded => "overloaded",
            Outcome::Corrupt => "corrupt",
            Outcome::Closed => "closed",
            Outcome::Encode => "encode",
            Outcome::TooLarge => "too_large",
            Outcome::LimitReached => "limit_reached",
            Outcome::HeadSent => "head_sent",
            Outcome::ReadOnly => "read_only",
            Outcome::Cancelled => "cancelled",
            Outcome::Other => "other",
        }
    }
}

impl From<StoreErrorKind> for Outcome {
    fn from(kind: StoreErrorKind) -> Self {
        match kind {
            StoreErrorKind::NotFound => Outcome::NotFound,
            StoreErrorKind::Gone => Outcome::Gone,
            StoreErrorKind::Conflict => Outcome::Conflict,
            StoreErrorKind::Unavailable => Outcome::Unavailable,
            StoreErrorKind::Timeout => Outcome::Timeout,
            StoreErrorKind::CircuitOpen => Outcome::CircuitOpen,
            StoreErrorKind::Overloaded => Outcome::Overloaded,
            StoreErrorKind::Refused => Outcome::Refused,
            StoreErrorKind::OutcomeUnknown => Outcome::Unknown,
            StoreErrorKind::Corrupt => Outcome::Corrupt,
            StoreErrorKind::Encode => Outcome::Encode,
            StoreErrorKind::TooLarge => Outcome::TooLarge,
            StoreErrorKind::LimitReached => Outcome::LimitReached,
            StoreErrorKind::Closed => Outcome::Closed,
            // No commit ends with the first. For the second, the store did not call the backend, or
            // the backend keeps no owner index.
            StoreErrorKind::AlreadyExists | StoreErrorKind::NotConfigured => Outcome::Other,
        }
    }
}
