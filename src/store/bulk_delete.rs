//! Deleting many sessions.

use super::SessionStore;
use super::scan::{Scan, Tombstones, ends_the_scan};
use crate::backend::{Backend as _, Deleted};
use crate::cluster::{Announcement, LocalCache};
use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Record, SessionData};

/// How many passes a bulk deletion makes, before it gives up on sessions that change faster than it can judge them.
pub(super) const MAX_PASSES: u32 = 16;

/// What a [`bulk_delete`](SessionStore::bulk_delete) or a [`delete_all_of`](SessionStore::delete_all_of) has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "sessions that could not be read were not judged, and may have to be"]
pub struct BulkDeletion {
    /// Sessions deleted.
    pub deleted: u64,
    /// Records that could not be read, so that nobody knows whether they should have been deleted. They are still there, and
    /// logged by id.
    pub unreadable: u64,
}

impl<T: SessionData> SessionStore<T> {
    /// Deletes the sessions for which `predicate` says so, on every node.
    ///
    /// It judges what the backend says and deletes exactly what it has judged: a session that changes in between is judged again.
    /// It goes over all sessions until a pass finds nothing more to delete, so that sessions are not missed that were created or
    /// moved while it ran; but for one that moves during a pass that takes longer than a minute, which is how long a trail is kept.
    ///
    /// # Errors
    ///
    /// The backend's; what was deleted by then stays deleted. [`Conflict`](StoreErrorKind::Conflict) if after 16 passes there
    /// are still new sessions to delete.
    pub async fn bulk_delete(
        &self,
        predicate: impl Fn(&Record<T>) -> bool + Send,
    ) -> Result<BulkDeletion, StoreError> {
        let mut total = BulkDeletion::default();
        for _ in 0..MAX_PASSES {
            let mut scan = Scan::new(self.clone());
            let mut matched = false;
            total.unreadable = 0;
            // Where a walk meets a session no more that has moved, it meets its tombstone; unless a walk takes longer than a
            // tombstone is kept.
            while let Some(page) = scan.next_sessions(Tombstones::Follow).await {
                for result in page {
                    match result {
                        Ok(record) if predicate(&record) => {
                            matched = true;
                            total.deleted += u64::from(self.delete_judged(&record).await?);
                        }
                        Ok(_) => {}
                        Err(error) if ends_the_scan(&error) => return Err(error),
                        Err(_) => total.unreadable += 1,
                    }
                }
            }
            if !matched {
                return Ok(total);
            }
        }
        Err(StoreErrorKind::Conflict { attempts: MAX_PASSES }.into())
    }

    /// Deletes all sessions on every node: how many there were.
    ///
    /// # Risk
    ///
    /// Everybody is logged out. Sessions that are created while it runs may stay. The index of owners is left to expire.
    ///
    /// # Errors
    ///
    /// The backend's; what was deleted by then stays deleted.
    pub async fn clear(&self) -> Result<u64, StoreError> {
        self.begin()?;
        // However this ends, what is in memory is no longer to be trusted.
        let _clear = ClearOnDrop(&self.inner.cache);
        let announcement = self.inner.coordinator.encode(Announcement::CacheClear);
        self.inner.backend.clear(&announcement).await
    }

    /// Deletes a session if it still is what was judged.
    pub(super) async fn delete_judged(&self, record: &Record<T>) -> Result<bool, StoreError> {
        let id = record.id();
        let announcement = self.inner.coordinator.encode(Announcement::SessionDeleted(id));
        let call = self.inner.cache.begin_write(&id, None);
        let answer = self.inner.backend.delete_if(&id, record.revision(), &announcement).await;
        drop(call);
        let deleted = answer? == Deleted::Deleted;
        if deleted {
            self.unindex(record).await;
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
