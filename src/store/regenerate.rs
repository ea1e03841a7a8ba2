//! A new token and id for a session.

use std::sync::Arc;

use super::SessionStore;
use super::tombstone::TOMBSTONE_TTL;
use super::write::{MAX_ATTEMPTS, Reapply, gone};
use crate::backend::{Update, Updated};
use crate::cluster::Announcement;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::record::{Content, Meta, NewSession, Record, SessionData, Stored};

impl<T: SessionData> SessionStore<T> {
    /// Moves a session to a new token and id, with the changes in `first` (made from `base`; `again` as in
    /// [`write`](Self::write)).
    ///
    /// The new record is there before the old one is replaced by a tombstone that names it. So a change that comes between the
    /// two is seen as a conflict and taken over, and a deletion that comes before the tombstone takes the new record with it,
    /// and one that comes after it follows the trail.
    pub(crate) async fn regenerate(
        &self,
        base: Record<T>,
        first: Arc<T>,
        again: Reapply<'_, T>,
    ) -> Result<NewSession<T>, StoreError> {
        self.in_time(self.regenerate_in_turn(base, first, again)).await
    }

    async fn regenerate_in_turn(
        &self,
        base: Record<T>,
        first: Arc<T>,
        again: Reapply<'_, T>,
    ) -> Result<NewSession<T>, StoreError> {
        let old = base.id();
        let _turn = self.write_lock(old).await;
        let (mut base, data) = self.rebase(base, first, again);
        if self.has_expired(&base) {
            return Err(gone(&old));
        }
        let mut new = self.create_shared(data).await?;
        for attempt in 1..=MAX_ATTEMPTS {
            match self.replace_by_tombstone(&base, new.id).await {
                Ok(None) => return Ok(new),
                Ok(Some(current)) => {
                    self.inner.reapplied.add_one();
                    let rewritten = self.rewrite(&new.record, again(current.data())).await;
                    match rewritten {
                        Ok(record) => new.record = record,
                        Err(error) => return Err(self.undo(new.id, error).await),
                    }
                    base = current;
                }
                Err(error) => return Err(self.undo(new.id, error).await),
            }
            self.pause_after(attempt).await;
        }
        let error = StoreError::from(StoreErrorKind::Conflict { attempts: MAX_ATTEMPTS })
            .with_session_id(&old);
        Err(self.undo(new.id, error).await)
    }

    /// One attempt to replace the old record by a tombstone. `None`: it is done. `Some`: another version is there.
    async fn replace_by_tombstone(
        &self,
        base: &Record<T>,
        new: SessionId,
    ) -> Result<Option<Record<T>>, StoreError> {
        let old = base.id();
        let meta = Meta {
            revision: base.revision().next(),
            created_at: base.meta().created_at,
            deadline: self.inner.clock.wall().saturating_add(TOMBSTONE_TTL),
        };
        let tombstone = Stored { meta, content: Content::MovedTo(new) };
        let announcement = self.inner.coordinator.encode(Announcement::SessionDeleted(old));
        // Never finished: whatever the outcome, this node must not answer for the old id from memory.
        let _call = self.inner.coordinator.cache().begin_write(&old, None);
        let update = Update::new(&old, base.revision(), &tombstone, TOMBSTONE_TTL, &announcement);
        let answer = self.inner.backend.update(update).await;
        match answer.map_err(|error| self.note_unreadable(&old, error))? {
            Updated::Saved => Ok(None),
            Updated::Gone => Err(gone(&old)),
            Updated::Conflict(current) => self.conflicting(&old, current),
        }
    }

    /// Replaces the data of a record that nobody else knows yet.
    async fn rewrite(&self, record: &Record<T>, data: Arc<T>) -> Result<Record<T>, StoreError> {
        let meta = Meta { revision: record.revision().next(), ..record.meta() };
        let rewritten = Record::new(&self.inner.clock, record.id(), meta, data);
        match self.compare_and_set(record, &rewritten).await? {
            None => Ok(rewritten),
            Some(_) => Err(gone(&record.id())),
        }
    }

    /// Takes back the new record of a regeneration that failed. Returns the error.
    ///
    /// In a task with a time of its own, as the time of the regeneration may be what has run out. The caller is told when its own
    /// time is up, and the task goes on.
    async fn undo(&self, new: SessionId, error: StoreError) -> StoreError {
        let store = self.clone();
        let undo = self.spawn(async move {
            if let Err(undo) = store.delete_wherever_it_moved(new).await {
                // It takes several attempts to fail. Nobody has its token, and it expires like any other.
                tracing::warn!(session = %new, error = &undo as &dyn std::error::Error, "an unused session record is left behind");
            }
        });
        // Whether it has ended by then changes nothing for the caller.
        let _ = self.inner.backend.deadline().wait_for(undo).await;
        error
    }
}
