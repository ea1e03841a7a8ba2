//! What stays of a session that has moved to a new id.

use std::time::Duration;

use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;

/// How long a tombstone is kept: longer than any request that still carries the old cookie.
pub(super) const TOMBSTONE_TTL: Duration = Duration::from_secs(60);
/// How many tombstones in a row are followed. One is made per regeneration, and none lives longer than a minute.
pub(super) const MAX_MOVES: usize = 64;

pub(super) fn too_many_tombstones(id: &SessionId) -> StoreError {
    StoreError::from(StoreErrorKind::Corrupt)
        .with_source("the trail of tombstones has no end")
        .with_session_id(id)
}
