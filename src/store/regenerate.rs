//! Replacement of a session's token and id, and of a session by another one.

use std::panic::{AssertUnwindSafe, resume_unwind};

use futures_util::FutureExt as _;

use super::SessionStore;
use super::lifetime::Term;
use super::tombstone::TOMBSTONE_TTL;
use super::write::{MAX_ATTEMPTS, Reapply, Written};
use crate::backend::{Update, Updated};
use crate::error::{StoreError, StoreErrorKind};
use crate::events::SessionEvent;
use crate::id::SessionId;
use crate::record::{
    Content, Ended, Meta, NewSession, Record, Revision, SessionData, Snapshot, Stored,
};

/// A session that was not replaced by a tombstone, as far as is known.
pub(super) struct Unretired<T> {
    pub(super) error: StoreError,
    /// The version that the tombstone was to replace.
    pub(super) base: Record<T>,
    /// The revision of the tombstone, which may be there all the same.
    pub(super) tombstone: Revision,
}

impl<T: SessionData> SessionStore<T> {
    /// Moves a session to a new token and id, with `data`, which was made from `base`. `reapply` is
    /// as for [`write`](Self::write). `remember` is `None` to keep the timeouts as they are.
    ///
    /// The new record is written before a tombstone that names it replaces the old one:
    ///
    /// - A change of the old record between these two steps is a conflict, and is taken over.
    /// - A deletion of the old record before the tombstone is written also removes the new record.
    /// - A deletion after that follows the tombstone.
    pub(crate) async fn regenerate(
        &self,
        base: Record<T>,
        data: Snapshot<T>,
        reapply: Reapply<'_, T>,
        remember: Option<bool>,
    ) -> Result<NewSession<T>, StoreError> {
        let old = base.id();
        let _guard = self.write_lock(old).await;
        let (base, data) = self.rebase(base, data, reapply);
        if self.has_expired(&base) {
            return Err(StoreError::gone(&old));
        }
        // A node without timeouts for remembered sessions gives them the ordinary ones.
        let can_remember = self.inner.lifetimes.can_remember();
        let term = Term::remembered(remember.unwrap_or(base.is_remembered() && can_remember));
        let encoded = self.encode_new(&data, term)?;
        let (mut new, unreported) = self.create_unreported(&encoded, Some(&base), term).await?;
        // The application's closures may panic in it.
        let moved = AssertUnwindSafe(self.move_to(&mut new, base, reapply)).catch_unwind().await;
        match moved {
            Ok(Ok(replaced)) => {
                unreported.report(|| {
                    let owner = self.owner_of(&new.record);
                    let is_new = self.has_new_owner(&replaced, new.record.data());
                    let new_owner = owner.clone().filter(|_| is_new);
                    let regenerated = SessionEvent::Regenerated { old, new: new.id, owner };
                    let new_owner =
                        new_owner.map(|owner| SessionEvent::NewOwner { id: new.id, owner });
                    [regenerated].into_iter().chain(new_owner)
                });
                Ok(new)
            }
            Ok(Err(error)) => {
                self.undo(&new.record, None).await;
                Err(error)
            }
            Err(panic) => {
                self.undo(&new.record, None).await;
                resume_unwind(panic)
            }
        }
    }

    /// Ends a session which another one takes the place of, and leaves a tombstone that leads
    /// nowhere. A request that is late with the old cookie then knows that it is late: it must not
    /// begin a session whose cookie takes away that of the new one.
    ///
    /// The tombstone does not name the new session. Whoever knows the old token may have planted
    /// it, and must neither delete nor watch what comes after a login.
    ///
    /// Returns `false` if the session has moved or cannot be read, or is not there.
    pub(super) async fn retire(
        &self,
        known: &Record<T>,
        reason: Ended,
    ) -> Result<bool, Unretired<T>> {
        let mut base = known.clone();
        let nowhere = base.id().nowhere();
        for attempt in 1..=MAX_ATTEMPTS {
            let tombstone = base.revision().next();
            match self.replace_by_tombstone(&base, nowhere, tombstone, Some(reason)).await {
                Ok(None) => {
                    self.report_end(base.id(), Some(&base), reason);
                    self.remove_from_index_in_background(Some(base));
                    return Ok(true);
                }
                Ok(Some(current)) => base = current,
                Err(error)
                    if matches!(error.kind(), StoreErrorKind::Gone | StoreErrorKind::Corrupt) =>
                {
                    break;
                }
                Err(error) => return Err(Unretired { error, base, tombstone }),
            }
            self.pause_after_conflict(attempt).await;
        }
        Ok(false)
    }

    /// Replaces the old record by a tombstone that names the new one, and takes over what others
    /// change in it meanwhile. Returns the version that was replaced.
    async fn move_to(
        &self,
        new: &mut NewSession<T>,
        mut base: Record<T>,
        reapply: Reapply<'_, T>,
    ) -> Result<Record<T>, StoreError> {
        for attempt in 1..=MAX_ATTEMPTS {
            let tombstone = base.revision().next();
            let replaced = self.replace_by_tombstone(&base, new.id, tombstone, None).await?;
            let Some(current) = replaced else {
                self.expire_index_entry_in_background(&base);
                return Ok(base);
            };
            self.inner.reapplied.add_one();
            new.record = self.rewrite(&new.record, &current, reapply(current.data())).await?;
            base = current;
            self.pause_after_conflict(attempt).await;
        }
        Err(StoreError::conflict(MAX_ATTEMPTS).with_session_id(&base.id()))
    }

    /// Replaces the old record by a tombstone if the backend still has the revision of `base`.
    /// Returns `None` if it was replaced, or the version that the backend has instead. `revision`
    /// is that of the tombstone. `reason` is announced to those who watch the session, if it ends.
    async fn replace_by_tombstone(
        &self,
        base: &Record<T>,
        new: SessionId,
        revision: Revision,
        reason: Option<Ended>,
    ) -> Result<Option<Record<T>>, StoreError> {
        let old = base.id();
        let meta = Meta {
            revision,
            deadline: self.inner.clock.wall().saturating_add(TOMBSTONE_TTL),
            ..base.meta()
        };
        let tombstone = Stored { meta, content: Content::MovedTo(new) };
        let announcement = self.announce_deletion(old, reason);
        let update = Update::new(&old, base.revision(), &tombstone, TOMBSTONE_TTL, &announcement);
        let answer = self.inner.cache.evict_through(&old, self.inner.backend.update(update)).await;
        match answer.map_err(|error| self.report_unreadable(&old, error))? {
            Updated::Saved => Ok(None),
            Updated::Gone => Err(StoreError::gone(&old)),
            Updated::Conflict(current) => self.decode_conflict(&old, current).map(Some),
        }
    }

    /// Replaces the data of a record that no other node knows yet by `data`, which was made from
    /// `current`.
    async fn rewrite(
        &self,
        record: &Record<T>,
        current: &Record<T>,
        data: Snapshot<T>,
    ) -> Result<Record<T>, StoreError> {
        match self.compare_and_set(record, current, self.inner.codec.encode(&*data)?, None).await? {
            Written::Saved(rewritten) => Ok(rewritten),
            Written::Conflict(_) => Err(StoreError::gone(&record.id())),
        }
    }
}
