//! The outcome of a call, for metrics and spans, by the backend's answer.

use crate::backend::{Created, Deleted, Page, Touched, Updated};
use crate::error::StoreError;
use crate::observe::Outcome;
use crate::record::{Content, Stored};

/// An answer of a backend.
pub(super) trait HasOutcome {
    fn outcome(&self) -> Outcome;
}

impl HasOutcome for Option<Stored> {
    fn outcome(&self) -> Outcome {
        match self.as_ref().map(|stored| &stored.content) {
            Some(Content::Payload(_)) => Outcome::Ok,
            Some(Content::MovedTo(_)) => Outcome::Gone,
            None => Outcome::NotFound,
        }
    }
}

impl HasOutcome for Created {
    fn outcome(&self) -> Outcome {
        match self {
            Created::Created => Outcome::Ok,
            Created::Exists => Outcome::Conflict,
        }
    }
}

impl HasOutcome for Updated {
    fn outcome(&self) -> Outcome {
        match self {
            Updated::Saved => Outcome::Ok,
            Updated::Conflict(_) => Outcome::Conflict,
            Updated::Gone => Outcome::Gone,
        }
    }
}

impl HasOutcome for Deleted {
    fn outcome(&self) -> Outcome {
        match self {
            Deleted::Deleted => Outcome::Ok,
            Deleted::Gone | Deleted::MovedTo(_) => Outcome::Gone,
            Deleted::Conflict(_) => Outcome::Conflict,
        }
    }
}

impl HasOutcome for Touched {
    fn outcome(&self) -> Outcome {
        match self {
            Touched::Extended => Outcome::Ok,
            Touched::Gone => Outcome::Gone,
        }
    }
}

/// Implements [`HasOutcome`] for answers that always mean success.
macro_rules! always_ok {
    ($($answer:ty),*) => {
        $(impl HasOutcome for $answer {
            fn outcome(&self) -> Outcome {
                Outcome::Ok
            }
        })*
    };
}
always_ok!((), u64, Page);

/// Returns the outcome of a call with this result.
pub(super) fn outcome<R: HasOutcome>(answer: &Result<R, StoreError>) -> Outcome {
    answer.as_ref().map_or_else(|error| error.kind().into(), HasOutcome::outcome)
}
