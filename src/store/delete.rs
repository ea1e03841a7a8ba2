//! Deleting a session, under whatever id it has by then.

use super::SessionStore;
use super::tombstone::{MAX_MOVES, TOMBSTONE_TTL, too_many_tombstones};
use crate::backend::{Backend as _, Deleted};
use crate::clock::millis;
use crate::cluster::Announcement;
use crate::error::{StoreError, StoreErrorKind};
use crate::guards::{self, Guard};
use crate::id::SessionId;
use crate::record::SessionData;

impl<T: SessionData> SessionStore<T> {
    /// Deletes a session on every node: whether there was one. If an answer was lost and a repetition finds nothing, there was.
    ///
    /// # Errors
    ///
    /// If the backend does not say that the session is gone.
    pub async fn delete(&self, id: SessionId) -> Result<bool, StoreError> {
        self.begin()?;
        self.delete_wherever_it_moved(id).await
    }

    pub(crate) async fn delete_wherever_it_moved(&self, id: SessionId) -> Result<bool, StoreError> {
        self.in_time(self.follow_and_delete(id)).await
    }

    async fn follow_and_delete(&self, id: SessionId) -> Result<bool, StoreError> {
        let (mut id, began) = (id, self.inner.clock.now());
        for _ in 0..MAX_MOVES {
            let announcement = self.inner.coordinator.encode(Announcement::SessionDeleted(id));
            let known = self.inner.cache.peek(&id);
            let call = self.inner.cache.begin_write(&id, None);
            let answer = self.inner.backend.delete(&id, &announcement).await;
            drop(call);
            if self.inner.clock.now().0 - began.0 >= millis(TOMBSTONE_TTL) {
                // The session may have moved meanwhile, and left no trail any more.
                return Err(StoreError::from(StoreErrorKind::OutcomeUnknown).with_session_id(&id));
            }
            match answer? {
                Deleted::Deleted => {
                    self.unindex_later(known);
                    return Ok(true);
                }
                Deleted::Gone => return Ok(false),
                Deleted::MovedTo(new) if guards::enabled(Guard::Tombstone) => id = new,
                Deleted::MovedTo(_) => return Ok(false),
                Deleted::Conflict(_) => break,
            }
        }
        Err(too_many_tombstones(&id))
    }
}
