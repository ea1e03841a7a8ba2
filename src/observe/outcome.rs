//! What a backend is asked for and how that ends, in the words of metrics and spans.

use crate::error::StoreErrorKind;

/// What a backend is asked for. Listening is measured where it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Load,
    Create,
    Update,
    Delete,
    Touch,
    Clear,
    Scan,
    Index,
    Unindex,
    Indexed,
    Publish,
    Ping,
}

impl Operation {
    /// In the order of their declaration.
    pub(super) const ALL: [Operation; 12] = [
        Operation::Load,
        Operation::Create,
        Operation::Update,
        Operation::Delete,
        Operation::Touch,
        Operation::Clear,
        Operation::Scan,
        Operation::Index,
        Operation::Unindex,
        Operation::Indexed,
        Operation::Publish,
        Operation::Ping,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Operation::Load => "load",
            Operation::Create => "create",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Touch => "touch",
            Operation::Clear => "clear",
            Operation::Scan => "scan",
            Operation::Index => "index",
            Operation::Unindex => "unindex",
            Operation::Indexed => "indexed",
            Operation::Publish => "publish",
            Operation::Ping => "ping",
        }
    }

    /// Whether an answer with this outcome means that an announcement was made.
    pub(super) fn announces(self, outcome: Outcome) -> bool {
        match self {
            Operation::Update | Operation::Publish | Operation::Clear => outcome == Outcome::Ok,
            Operation::Delete => matches!(outcome, Outcome::Ok | Outcome::Gone),
            _ => false,
        }
    }
}

/// How something has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    NotFound,
    Gone,
    Conflict,
    Unavailable,
    Timeout,
    /// It may or may not have been carried out.
    Unknown,
    Refused,
    CircuitOpen,
    Corrupt,
    Closed,
    Encode,
    TooLarge,
    HeadSent,
    ReadOnly,
    /// Nobody waited for the end.
    Cancelled,
    /// In a way of which there is no count of its own.
    Other,
}

impl Outcome {
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
            Outcome::Corrupt => "corrupt",
            Outcome::Closed => "closed",
            Outcome::Encode => "encode",
            Outcome::TooLarge => "too_large",
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
            StoreErrorKind::Conflict { .. } => Outcome::Conflict,
            StoreErrorKind::Unavailable => Outcome::Unavailable,
            StoreErrorKind::Timeout => Outcome::Timeout,
            StoreErrorKind::CircuitOpen => Outcome::CircuitOpen,
            StoreErrorKind::Refused => Outcome::Refused,
            StoreErrorKind::OutcomeUnknown => Outcome::Unknown,
            StoreErrorKind::Corrupt => Outcome::Corrupt,
            StoreErrorKind::Encode => Outcome::Encode,
            StoreErrorKind::TooLarge => Outcome::TooLarge,
            StoreErrorKind::Closed => Outcome::Closed,
            // Either the store did not call the backend, or the backend keeps no owner index.
            StoreErrorKind::NotConfigured => Outcome::Other,
        }
    }
}
