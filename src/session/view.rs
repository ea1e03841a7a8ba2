//! The data that a request sees, and what it is computed from.

use super::batch::Change;
use crate::record::Snapshot;

/// The data that the request sees.
pub(super) enum View<T> {
    /// That of the loaded record or, if none is loaded, the default data.
    Record,
    /// The default data, whatever is loaded. It may not have been made yet.
    Default,
    /// Either of the two with `changes` applied.
    Changed(Snapshot<T>),
}

/// What the request sees, from which changed data is computed outside the lock.
pub(super) struct Versioned<T> {
    pub(super) version: u64,
    pub(super) data: Snapshot<T>,
}

/// Uncommitted changes and the data to apply them to, outside the lock.
pub(super) struct Rebase<T> {
    pub(super) version: u64,
    /// `None` for default data that has not been made yet.
    pub(super) base: Option<Snapshot<T>>,
    pub(super) changes: Vec<Change<T>>,
}
