//! The tombstones that sessions leave under their old ids: those that were regenerated, and those
//! that a login has replaced.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::SessionStore;
use crate::clock::{Millis, millis};
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;

/// Lifetime of a tombstone. Longer than any request that still carries the old cookie.
pub(super) const TOMBSTONE_TTL: Duration = Duration::from_secs(60);
/// Maximum number of tombstones followed in a row. Each regeneration makes one, and none lives
/// longer than a minute.
pub(super) const MAX_TOMBSTONES: usize = 64;

impl<T> SessionStore<T> {
    pub(crate) fn now(&self) -> Millis {
        self.inner.clock.now()
    }

    /// Returns `true` if a session that existed at this moment, or at an unknown one, may have been
    /// regenerated so long ago that its tombstone has expired.
    ///
    /// The deletion that has found nothing took some time, hence half of a tombstone's.
    pub(crate) fn may_have_moved_since(&self, alive_at: Option<Millis>) -> bool {
        alive_at.is_none_or(|at| self.now() >= at.plus(millis(TOMBSTONE_TTL / 2)))
    }
}

/// Returns the error for a chain of tombstones longer than [`MAX_TOMBSTONES`].
pub(super) fn too_many_tombstones(id: &SessionId) -> StoreError {
    StoreError::from(StoreErrorKind::Corrupt)
        .with_source("too many tombstones in a row")
        .with_session_id(id)
}

/// The ids under which a scan has found a tombstone and has followed it.
///
/// A session that was regenerated many times leaves as many entries and tombstones. Each of them
/// leads to the same session, so each is followed once.
#[derive(Debug, Default)]
pub(super) struct FollowedTombstones(Mutex<HashSet<SessionId>>);

impl FollowedTombstones {
    /// Returns `true` at the first call with this id: the caller must follow the tombstone.
    pub(super) fn insert(&self, id: SessionId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id)
    }
}
