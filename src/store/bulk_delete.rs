//! Deletion of many sessions.

use std::sync::Arc;
use std::time::Duration;

use super::SessionStore;
use super::revoke::{BulkDeletion, Revocation, Unreadable};
use super::tombstone::TOMBSTONE_TTL;
use crate::clock::millis;
use crate::cluster::{Announcement, LocalCache};
use crate::error::{StoreError, StoreErrorKind};
use crate::events::SessionEvent;
use crate::record::{Ended, Record, SessionData};

/// Time that a bulk deletion may take.
const TIMEOUT: Duration = Duration::from_secs(600);

impl<T: SessionData> SessionStore<T> {
    /// Deletes the sessions for which `predicate` returns `true`, on every node.
    ///
    /// The predicate judges what the backend has, and exactly the version that it has judged is
    /// deleted. A session that changes in between is judged again at once, under its new id if it
    /// was regenerated. If eight versions in a row are selected and changed before they can be
    /// deleted, the next one is deleted without being judged.
    ///
    /// On success, every session that existed when this was called, and was selected when it was
    /// judged, is gone. Sessions created meanwhile may or may not be judged. A scan that takes over
    /// a minute, the lifetime of a tombstone, may miss a session that is regenerated meanwhile. It
    /// is repeated until one is faster, or deletes nothing. So if no scan takes less than a minute,
    /// one that was regenerated during the last of them may be left.
    ///
    /// # Risk
    ///
    /// The sessions of another store with the same
    /// [`key_prefix`](crate::RedisConfig::key_prefix) are judged as well, unless they cannot be
    /// read here: they are no `T`, or are encrypted in another realm.
    ///
    /// # Errors
    ///
    /// Fails with the backend's error, and with [`Timeout`](crate::StoreErrorKind::Timeout) after
    /// 10 minutes. What was deleted by then stays deleted, so another call makes progress.
    pub async fn bulk_delete(
        &self,
        predicate: impl Fn(&Record<T>) -> bool + Send + Sync,
    ) -> Result<BulkDeletion, StoreError> {
        self.begin()?;
        self.operation_within(TIMEOUT, self.delete_selected(&predicate)).await
    }

    async fn delete_selected(
        &self,
        predicate: &(dyn Fn(&Record<T>) -> bool + Send + Sync),
    ) -> Result<BulkDeletion, StoreError> {
        let mut deleted = 0;
        loop {
            let began = self.inner.clock.now();
            let mut revocation = Revocation::new(self, predicate, Ended::Revoked, Unreadable::Keep);
            revocation.scan_all().await?;
            let total = revocation.total();
            deleted += total.deleted;
            let took = self.inner.clock.now().0 - began.0;
            if total.deleted == 0 || took < millis(TOMBSTONE_TTL) {
                return Ok(BulkDeletion { deleted, ..total });
            }
        }
    }

    /// Deletes all sessions on every node and returns how many there were.
    ///
    /// # Risk
    ///
    /// All users are logged out, also those of another store with the same
    /// [`key_prefix`](crate::RedisConfig::key_prefix). Sessions created meanwhile may stay. One
    /// that is regenerated meanwhile may stay only if the last walk over all records takes more
    /// than a minute. The owner index is left to expire.
    ///
    /// # Errors
    ///
    /// Fails with the backend's error, and with [`Timeout`](crate::StoreErrorKind::Timeout) if
    /// after 10 minutes each walk has taken more than one and has found sessions. What was deleted
    /// by then stays deleted.
    pub async fn clear(&self) -> Result<u64, StoreError> {
        self.begin()?;
        // Whatever the outcome, the cached sessions can no longer be trusted.
        let _clear = ClearOnDrop(&self.inner.cache);
        let announcement = self.inner.coordinator.encode(Announcement::CacheClear);
        let (first, mut sessions) = (self.inner.clock.now(), 0);
        loop {
            let began = self.inner.clock.now();
            let cleared = self.inner.backend.clear(&announcement).await?;
            sessions += cleared;
            let ended = self.inner.clock.now();
            // A session that was regenerated meanwhile is found by its tombstone, while that lives.
            if cleared == 0 || ended.0 - began.0 < millis(TOMBSTONE_TTL) {
                break;
            }
            if ended.0 - first.0 >= millis(TIMEOUT) {
                return Err(StoreErrorKind::Timeout.into());
            }
        }
        self.inner.events.emit(|| SessionEvent::Cleared { sessions });
        Ok(sessions)
    }
}

struct ClearOnDrop<'a, T: SessionData>(&'a Arc<LocalCache<T>>);

impl<T: SessionData> Drop for ClearOnDrop<'_, T> {
    fn drop(&mut self) {
        self.0.clear_soon();
    }
}
