//! The tombstones that regenerated sessions leave under their old ids.

use std::time::Duration;

use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;

/// Lifetime of a tombstone. Longer than any request that still carries the old cookie.
pub(super) const TOMBSTONE_TTL: Duration = Duration::from_secs(60);
/// Maximum number of tombstones followed in a row. Each regeneration makes one, and none lives
/// longer than a minute.
pub(super) const MAX_TOMBSTONES: usize = 64;

/// Returns the error for a chain of tombstones longer than [`MAX_TOMBSTONES`].
pub(super) fn too_many_tombstones(id: &SessionId) -> StoreError {
    StoreError::from(StoreErrorKind::Corrupt)
        .with_source("too many tombstones in a row")
        .with_session_id(id)
}
