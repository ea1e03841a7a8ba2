//! Changes of existing sessions: compare-and-set, repeated when another node was faster.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::SessionStore;
use super::index::Ownership;
use super::lifetime::time_to_live;
use super::single_flight::Freshness;
use super::write_locks::WriteGuard;
use crate::backend::{Timestamp, Update, Updated};
use crate::cluster::Announcement;
use crate::codec::Encoded;
use crate::error::{StoreError, StoreErrorKind};
use crate::events::SessionEvent;
use crate::id::SessionId;
use crate::record::{Content, Ended, Lifespan, Meta, Record, SessionData, Snapshot, Stored};
use crate::resilience::end_of_step;

/// Maximum number of attempts to write a change on top of concurrent changes.
///
/// The writers of one node take turns, so a change competes with other nodes only. If nine
/// attempts in ten lose, one change in a thousand fails.
pub(super) const MAX_ATTEMPTS: u32 = 64;
/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// Applies a change to data that another node has written meanwhile.
pub(super) type Reapply<'a, T> = &'a (dyn Fn(&T) -> Snapshot<T> + Send + Sync);

/// The outcome of an attempt to write.
pub(super) enum Written<T> {
    /// The backend has this version.
    Saved(Record<T>),
    /// Another writer was faster. The backend has this version instead.
    Conflict(Record<T>),
}

// The `pub` methods check that the store is open and start an `operation`. All others are steps of
// an operation that has been accepted, and run to their end even during a shutdown.
impl<T: SessionData> SessionStore<T> {
    /// Replaces the data of an existing session.
    ///
    /// Concurrent changes are lost: prefer [`modify`](SessionStore::modify).
    ///
    /// # Errors
    ///
    /// Fails with [`NotFound`](StoreErrorKind::NotFound) if the session does not exist, so that a
    /// `put` never brings back a deleted session. Otherwise as [`modify`](SessionStore::modify).
    pub async fn put(&self, id: SessionId, data: T) -> Result<(), StoreError> {
        let data = Snapshot::new(data);
        let put = async {
            let base = self.get(id).await?;
            self.write_as_use(base, data.clone(), &|_| data.clone()).await
        };
        self.operation(put).await.map_err(gone_is_not_found)
    }

    /// Changes a session now, and returns the closure's result once the change is committed.
    ///
    /// If a concurrent change is committed first, the closure is called again with the new data. It
    /// may thus run several times, each time on a fresh copy, but only one run is committed. If it
    /// changes nothing, nothing is written and no other node is told, unless the record is
    /// encrypted under a previous secret, or not yet encrypted.
    ///
    /// # Errors
    ///
    /// Fails with [`NotFound`](StoreErrorKind::NotFound), [`Conflict`](StoreErrorKind::Conflict),
    /// [`OutcomeUnknown`](StoreErrorKind::OutcomeUnknown), [`Encode`](StoreErrorKind::Encode),
    /// [`TooLarge`](StoreErrorKind::TooLarge), [`LimitReached`](StoreErrorKind::LimitReached) if
    /// the change gives the session to an owner who has too many, or with the backend's error.
    ///
    /// ```
    /// # use clustered_sessions::{Secret, SessionConfig, SessionStore};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { visits: u64 }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev")).build()?;
    /// let store = SessionStore::new(config);
    /// let session = store.create(UserSession { visits: 1 }).await?;
    /// let visits = store.modify(session.id, |data| { data.visits += 1; data.visits }).await?;
    /// assert_eq!(visits, 2);
    /// # Ok(()) }
    /// ```
    #[doc(alias = "update")]
    pub async fn modify<R: Send>(
        &self,
        id: SessionId,
        change: impl Fn(&mut T) -> R + Send + Sync,
    ) -> Result<R, StoreError> {
        let result = Mutex::new(None);
        let apply = |data: &T| {
            let mut data = data.clone();
            let returned = change(&mut data);
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(returned);
            Snapshot::new(data)
        };
        let modify = async {
            let base = self.get(id).await?;
            let data = apply(base.data());
            self.write_as_use(base, data, &apply).await
        };
        self.operation(modify).await.map_err(gone_is_not_found)?;
        // Each run replaces the result of the one before, so this is the committed run's.
        let result = result.into_inner().unwrap_or_else(PoisonError::into_inner);
        result.ok_or_else(|| StoreErrorKind::NotFound.into())
    }

    /// Like [`modify`](Self::modify), with a closure that may decline: if it returns `None`, what
    /// it has done to the data is dropped.
    ///
    /// It declines on data that is not older than this call, even if a cached session was older.
    ///
    /// # Errors
    ///
    /// As [`modify`](SessionStore::modify).
    pub async fn modify_if<R: Send>(
        &self,
        id: SessionId,
        change: impl Fn(&mut T) -> Option<R> + Send + Sync,
    ) -> Result<Option<R>, StoreError> {
        self.modify(id, |data| unless_declined(data, &change)).await
    }

    /// Returns `true` if both are stored in the same way.
    pub(crate) fn is_same(&self, one: &T, other: &T) -> bool {
        self.inner.codec.is_same(one, other)
    }

    /// Like [`write`](Self::write), and counts as a use of the session, even if nothing is changed.
    /// A record that must be re-encrypted is, and a failure of that is not hidden from the caller.
    async fn write_as_use(
        &self,
        base: Record<T>,
        data: Snapshot<T>,
        reapply: Reapply<'_, T>,
    ) -> Result<(), StoreError> {
        let written = self.write(base, data, reapply).await?;
        if written.needs_reencryption() {
            // This extends it as well.
            return self.reencrypt(&written).await;
        }
        self.touch_if_due(&written, self.now());
        Ok(())
    }

    /// Writes `data`, which was made from `base`. On a conflict, writes what `reapply` makes from
    /// the data of the other version. A write that changes nothing does not extend the session.
    pub(crate) async fn write(
        &self,
        base: Record<T>,
        data: Snapshot<T>,
        reapply: Reapply<'_, T>,
    ) -> Result<Record<T>, StoreError> {
        self.write_version(base, data, None, reapply).await
    }

    /// Like [`write`](Self::write). A session that gets a deadline of its own is written even if
    /// its data does not change.
    pub(super) async fn write_version(
        &self,
        base: Record<T>,
        data: Snapshot<T>,
        until: Option<Timestamp>,
        reapply: Reapply<'_, T>,
    ) -> Result<Record<T>, StoreError> {
        let id = base.id();
        let _guard = self.write_lock(id).await;
        let (mut base, mut data) = self.rebase(base, data, reapply);
        for attempt in 1..=MAX_ATTEMPTS {
            let encoded = self.inner.codec.encode(&*data).map_err(|it| it.with_session_id(&id))?;
            let written = if until.is_none() && encoded.is_same_as(base.data()) {
                self.confirm(&base).await?
            } else {
                self.compare_and_set(&base, &base, encoded, until).await?
            };
            match written {
                Written::Saved(record) => return Ok(record),
                Written::Conflict(current) => {
                    self.inner.reapplied.add_one();
                    data = reapply(current.data());
                    base = current;
                }
            }
            self.pause_after_conflict(attempt).await;
        }
        Err(StoreError::conflict(MAX_ATTEMPTS).with_session_id(&id))
    }

    /// Waits for this node's other writers of a session, at most for half of the time that the
    /// operation has left.
    pub(super) async fn write_lock(&self, id: SessionId) -> WriteGuard<'_> {
        self.inner.write_locks.lock(id, || self.inner.backend.deadline().left() / 2).await
    }

    /// Completes a change that changes nothing on top of `base`.
    ///
    /// `base` may come from the cache, and be older than a change that was acknowledged on another
    /// node. On top of that, this one may change something. So the backend is asked what it has.
    async fn confirm(&self, base: &Record<T>) -> Result<Written<T>, StoreError> {
        let id = base.id();
        let current = self.inner.single_flight.read(self, id, Freshness::Fresh).await?;
        let current = current.map_err(|_| StoreError::gone(&id))?;
        if current.revision() != base.revision() {
            return Ok(Written::Conflict(current));
        }
        Ok(Written::Saved(current))
    }

    /// Returns a new version to be written on top of `base`, unless the session has expired. `meta`
    /// is that of `base`, or what it changes to.
    fn next_version(
        &self,
        base: &Record<T>,
        meta: Meta,
        data: T,
        data_len: usize,
    ) -> Result<Record<T>, StoreError> {
        let (id, now) = (base.id(), self.inner.clock.moment());
        let lifetimes = &self.inner.lifetimes;
        if lifetimes.has_expired(&meta, now.wall) {
            return Err(StoreError::gone(&id));
        }
        let deadline = lifetimes.deadline(&meta, now.wall);
        let revision = base.revision().next();
        let meta = Meta { revision, used_at: now.wall, deadline, ..meta };
        Ok(Record::new(now, id, meta, data, data_len))
    }

    /// Pauses after an attempt that lost against another node. The pause grows with the number of
    /// attempts, and is random so that two nodes do not collide again.
    pub(super) async fn pause_after_conflict(&self, attempt: u32) {
        let pause = (Duration::from_millis(1) * attempt).min(MAX_PAUSE);
        tokio::time::sleep_until(end_of_step(self.inner.clock.jitter(pause))).await;
    }

    /// Returns the newest known version with the change applied to it.
    ///
    /// This node may have seen a newer version while the writer waited for the lock. Writing on top
    /// of the old one would only cause a conflict.
    pub(super) fn rebase(
        &self,
        base: Record<T>,
        data: Snapshot<T>,
        reapply: Reapply<'_, T>,
    ) -> (Record<T>, Snapshot<T>) {
        match self.inner.cache.peek(&base.id()) {
            Some(newer) if newer.revision() != base.revision() => {
                let data = reapply(newer.data());
                (newer, data)
            }
            _ => (base, data),
        }
    }

    /// Writes a new version if the backend still has the revision of `base`. The data was made from
    /// `continues`: that is `base` itself, unless this is the new record of a regeneration. `until`
    /// becomes the session's own deadline.
    pub(super) async fn compare_and_set(
        &self,
        base: &Record<T>,
        continues: &Record<T>,
        data: Encoded<T>,
        until: Option<Timestamp>,
    ) -> Result<Written<T>, StoreError> {
        let (bytes, data) = data.into_parts();
        let ownership = self.ownership(Some(continues), &data);
        let ownership = ownership.as_ref();
        let mut meta = Meta { logged_in_at: continues.meta().logged_in_at, ..base.meta() };
        if ownership.is_some_and(|it| it.is_new) {
            self.ensure_place(&data, |other| other.origin() == base.origin()).await?;
            meta.logged_in_at = self.inner.clock.wall();
        }
        if let Some(deadline) = until {
            meta = Meta { lifespan: Lifespan::Fixed, deadline, ..meta };
        }
        let new = self.next_version(base, meta, data, bytes.len())?;
        let (id, meta) = (new.id(), new.meta());
        let payload = self.inner.codec.payload(&id, &meta, &bytes);
        let stored = Stored { meta, content: Content::Payload(payload) };
        self.index_before_write(ownership, &id, Some(base), new.deadline()).await?;
        let revision = new.revision();
        let announcement = Announcement::SessionInvalidated(id, Some(revision));
        let announcement = self.inner.coordinator.encode(announcement);
        let ttl = time_to_live(new.deadline(), self.inner.clock.wall());
        if ttl.is_zero() {
            // The session has expired while the write was being prepared.
            return Err(StoreError::gone(&id));
        }
        let base = base.revision();
        let update = self.inner.backend.update(Update::new(&id, base, &stored, ttl, &announcement));
        let saved = |answer: &_| matches!(answer, Ok(Updated::Saved));
        let answer = self.inner.cache.write_through(&new, Some(base), update, saved).await;
        match answer.map_err(|error| self.report_unreadable(&id, error))? {
            Updated::Saved => {
                // What was there before cannot be brought back: others may have seen the new
                // version already.
                let was_known = new.id() == continues.id();
                if was_known && let Some(Ownership { owner, is_new: true }) = ownership {
                    let event = || SessionEvent::NewOwner { id, owner: owner.clone() };
                    self.inner.events.emit(event);
                }
                let reason = was_known.then_some(Ended::LimitReached);
                self.admit_or_undo(&new, ownership, reason).await?;
                Ok(Written::Saved(new))
            }
            Updated::Gone => Err(StoreError::gone(&id)),
            Updated::Conflict(current) => self.decode_conflict(&id, current).map(Written::Conflict),
        }
    }
}

/// Applies a change that may decline. If it does, the data stays as it was.
pub(crate) fn unless_declined<T: Clone, R>(
    data: &mut T,
    change: impl Fn(&mut T) -> Option<R>,
) -> Option<R> {
    let mut changed = data.clone();
    let answer = change(&mut changed)?;
    *data = changed;
    Some(answer)
}

/// Replaces `Gone` by `NotFound`: to a caller that names a session by its id, they are the same.
fn gone_is_not_found(error: StoreError) -> StoreError {
    match error.session_id() {
        Some(id) if error.kind() == StoreErrorKind::Gone => {
            StoreError::from(StoreErrorKind::NotFound).with_session_id(&id)
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SessionConfig;
    use crate::secret::Secret;

    #[test]
    fn the_future_of_a_write_holds_its_call_once() {
        let config = SessionConfig::<u64>::development(Secret::insecure_dev("size"));
        let store = SessionStore::new(config.build().unwrap());
        let write = store.modify(SessionId::from_bytes([1; 16]), |count| *count += 1);
        let size = size_of_val(&write);
        assert!(size <= 2048, "{size} bytes");
    }
}
