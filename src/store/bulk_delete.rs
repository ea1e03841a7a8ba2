//! Deletion of many sessions.

use super::SessionStore;
use super::scan::{Scan, Tombstones, aborts_scan};
use crate::backend::Deleted;
use crate::cluster::{Announcement, LocalCache};
use crate::error::StoreError;
use crate::record::{Record, SessionData};

/// Maximum number of passes of a bulk deletion. It fails if sessions change faster than it can
/// check them.
pub(super) const MAX_PASSES: u32 = 16;

/// The result of a [`bulk_delete`](SessionStore::bulk_delete) or a
/// [`delete_all_of`](SessionStore::delete_all_of).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "unreadable sessions were not checked and may have to be deleted"]
pub struct BulkDeletion {
    /// Number of sessions deleted.
    pub deleted: u64,
    /// Number of records that could not be read, and so could not be checked. They still exist, and
    /// are logged by id.
    pub unreadable: u64,
}

impl<T: SessionData> SessionStore<T> {
    /// Deletes the sessions for which `predicate` returns `true`, on every node.
    ///
    /// The predicate checks what the backend has, and exactly the version that it has checked is
    /// deleted: a session that changes in between is checked again.
    ///
    /// Repeats full passes until one deletes nothing, so sessions created or regenerated meanwhile
    /// are not missed. The exception: one regenerated during a pass that takes over a minute, the
    /// lifetime of a tombstone.
    ///
    /// # Errors
    ///
    /// Fails with the backend's error; what was deleted by then stays deleted. Fails with
    /// [`Conflict`](crate::StoreErrorKind::Conflict) if after 16 passes there are still new
    /// sessions to delete.
    pub async fn bulk_delete(
        &self,
        predicate: impl Fn(&Record<T>) -> bool + Send,
    ) -> Result<BulkDeletion, StoreError> {
        let mut total = BulkDeletion::default();
        for _ in 0..MAX_PASSES {
            let mut scan = Scan::new(self.clone());
            let mut matched = false;
            total.unreadable = 0;
            // A session that has moved before the scan reaches it is found by its tombstone, unless
            // the scan takes longer than a tombstone lives.
            while let Some(page) = scan.next_sessions(Tombstones::Follow).await {
                for result in page {
                    match result {
                        Ok(record) if predicate(&record) => {
                            matched = true;
                            total.deleted += u64::from(self.delete_if_unchanged(&record).await?);
                        }
                        Ok(_) => {}
                        Err(error) if aborts_scan(&error) => return Err(error),
                        Err(_) => total.unreadable += 1,
                    }
                }
            }
            if !matched {
                return Ok(total);
            }
        }
        Err(StoreError::conflict(MAX_PASSES))
    }

    /// Deletes all sessions on every node and returns how many there were.
    ///
    /// # Risk
    ///
    /// All users are logged out. Sessions created meanwhile may stay. The owner index is left to
    /// expire.
    ///
    /// # Errors
    ///
    /// Fails with the backend's error; what was deleted by then stays deleted.
    pub async fn clear(&self) -> Result<u64, StoreError> {
        self.begin()?;
        // Whatever the outcome, the cached sessions can no longer be trusted.
        let _clear = ClearOnDrop(&self.inner.cache);
        let announcement = self.inner.coordinator.encode(Announcement::CacheClear);
        self.inner.backend.clear(&announcement).await
    }

    /// Deletes a session if the backend still has this version. Returns `true` if it was deleted.
    pub(super) async fn delete_if_unchanged(&self, record: &Record<T>) -> Result<bool, StoreError> {
        let id = record.id();
        let announcement = self.inner.coordinator.encode(Announcement::SessionDeleted(id));
        let call = self.inner.cache.begin_write(&id, None);
        let answer = self.inner.backend.delete_if(&id, record.revision(), &announcement).await;
        drop(call);
        let deleted = answer? == Deleted::Deleted;
        if deleted {
            self.remove_from_index(record).await;
        }
        Ok(deleted)
    }
}

struct ClearOnDrop<'a, T>(&'a LocalCache<T>);

impl<T> Drop for ClearOnDrop<'_, T> {
    fn drop(&mut self) {
        self.0.clear();
    }
}
