//! Arguments and answers of the methods of [`Backend`](super::Backend).

use std::time::Duration;

use crate::clock::Timestamp;
use crate::id::SessionId;
use crate::record::{Revision, Stored};

/// The argument of [`Backend::update`](super::Backend::update).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Update<'a> {
    /// The session to write.
    pub id: &'a SessionId,
    /// The revision that the record must have.
    pub expected: Revision,
    /// The new record.
    pub stored: &'a Stored,
    /// The time to live of the new record, from now on.
    pub ttl: Duration,
    /// The announcement to make in the same step.
    pub announcement: &'a [u8],
}

impl<'a> Update<'a> {
    /// Creates an update that replaces the record with the revision `expected` by `stored`.
    pub fn new(
        id: &'a SessionId,
        expected: Revision,
        stored: &'a Stored,
        ttl: Duration,
        announcement: &'a [u8],
    ) -> Self {
        Update { id, expected, stored, ttl, announcement }
    }
}

/// The argument of [`Backend::touch`](super::Backend::touch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extension {
    /// The new deadline of the record, unless it is later already.
    pub deadline: Timestamp,
    /// The time at which the session was used.
    pub used_at: Timestamp,
    /// The time to live of the record, from now on, unless more of it is left.
    pub ttl: Duration,
}

impl Extension {
    /// Creates the extension of a session that was used at `used_at`.
    pub fn new(deadline: Timestamp, used_at: Timestamp, ttl: Duration) -> Self {
        Extension { deadline, used_at, ttl }
    }
}

/// Answer to [`Backend::create`](super::Backend::create).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Created {
    /// The record was written.
    Created,
    /// There is already a record under this id. Nothing was changed.
    Exists,
}

/// Answer to [`Backend::update`](super::Backend::update).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Updated {
    /// The new record is in place, written by this call or by an earlier attempt at it.
    Saved,
    /// The record has another revision. Nothing was changed.
    Conflict(Stored),
    /// There is no record under this id. Nothing was changed.
    Gone,
}

/// Answer to [`Backend::delete`](super::Backend::delete) and
/// [`Backend::delete_if`](super::Backend::delete_if).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Deleted {
    /// The record was there and has been removed.
    Deleted,
    /// There was no record under this id.
    Gone,
    /// There is a tombstone under this id. It stays, and the store repeats the deletion at the id
    /// that it names. Only [`Backend::delete`](super::Backend::delete) answers this.
    MovedTo(SessionId),
    /// The record has another revision. Nothing was changed. Only
    /// [`Backend::delete_if`](super::Backend::delete_if) answers this.
    Conflict(Stored),
}

/// Answer to [`Backend::touch`](super::Backend::touch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Touched {
    /// The record lives at least until the given deadline, or has [`Lifespan::Fixed`].
    ///
    /// [`Lifespan::Fixed`]: super::Lifespan::Fixed
    Extended,
    /// There is no record under this id, or there is a tombstone.
    Gone,
}

/// One page of a scan over all records or over an owner's index.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Page {
    /// A part of the ids.
    #[non_exhaustive]
    Ids {
        /// The sessions on this page.
        ids: Vec<SessionId>,
        /// The ids that the tombstones on this page name. There may or may not be a session under
        /// such an id.
        moved: Vec<SessionId>,
        /// The cursor of the next page; `None` on the last one.
        next: Option<Cursor>,
        /// `true` if the scan starts again with this page, because some records may have been where
        /// it had been already. It needs no restart: it goes on at `next`.
        again: bool,
    },
    /// The cursor is no longer valid, because the server has changed. The scan must start again.
    Restart,
}

impl Page {
    /// Creates a page of ids. `moved` has the ids that tombstones name; `next` is `None` on the
    /// last page.
    pub fn new(ids: Vec<SessionId>, moved: Vec<SessionId>, next: Option<Cursor>) -> Self {
        Page::Ids { ids, moved, next, again: false }
    }
}

/// The position of a scan. Only the backend that created it knows its meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(String);

impl Cursor {
    /// Creates a cursor from the backend's own notation.
    pub fn new(position: impl Into<String>) -> Self {
        Cursor(position.into())
    }

    /// Returns the backend's own notation.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
