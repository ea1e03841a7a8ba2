//! Writes: compare and set, re-applying the change when another node was faster.

use std::sync::Arc;
use std::time::Duration;

use super::SessionStore;
use super::lifetime::time_to_live;
use super::tombstone::{MAX_MOVES, TOMBSTONE_TTL, too_many_tombstones};
use super::write_locks::WriteGuard;
use crate::backend::{Created, Deleted, MemoryBackend, Update, Updated};
use crate::clock::millis;
use crate::cluster::Announcement;
use crate::error::{StoreError, StoreErrorKind};
use crate::guards::{self, Guard};
use crate::id::{SessionId, SessionToken};
use crate::record::{Content, Meta, NewSession, Record, Revision, SessionData, Stored};
use crate::resilience::end_of_step;

/// How often a change is tried on top of others' changes. The writers of one node take turns, so it is other nodes that a
/// change competes with: at a loss of nine tries in ten, one change in a thousand would be refused.
pub(super) const MAX_ATTEMPTS: u32 = 64;
/// The longest pause between two of them.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// Makes new data out of what another node has written, by applying the change anew.
pub(super) type Reapply<'a, T> = &'a (dyn Fn(&T) -> Arc<T> + Send + Sync);

/// What is `pub` begins with a check that the store is open. What is not serves operations that have begun, and those are
/// finished though the store is being shut down.
impl<T: SessionData> SessionStore<T> {
    /// Creates a session.
    ///
    /// # Errors
    ///
    /// [`Encode`](StoreErrorKind::Encode), [`TooLarge`](StoreErrorKind::TooLarge), or the backend's.
    pub async fn create(&self, data: T) -> Result<NewSession<T>, StoreError> {
        self.begin()?;
        self.create_shared(Arc::new(data)).await
    }

    pub(crate) async fn create_shared(&self, data: Arc<T>) -> Result<NewSession<T>, StoreError> {
        self.in_time(self.create_now(data)).await
    }

    async fn create_now(&self, data: Arc<T>) -> Result<NewSession<T>, StoreError> {
        let mut attempts = self.inner.backend.attempts();
        loop {
            // A new token each time: under the same id, a first attempt that is carried out late could bring back a session that
            // was deleted meanwhile.
            let token = SessionToken::random();
            let id = token.session_id();
            let (meta, ttl) = self.first_meta();
            let record = Record::new(&self.inner.clock, id, meta, data.clone());
            let payload = self.inner.codec.encode(&id, &meta, &*data)?;
            let stored = Stored { meta, content: Content::Payload(payload) };
            // Without an entry there is to be no record. But an earlier attempt may have left one.
            self.index_before_write(None, &record)
                .await
                .map_err(|error| attempts.ended_by(error))?;
            let call = self.inner.coordinator.cache().begin_write(&id, None);
            match self.inner.backend.create(&id, &stored, ttl).await {
                Ok(Created::Created) => {
                    call.saved(&record);
                    return Ok(NewSession { id, token, record });
                }
                Ok(Created::Exists) => {}
                // If this attempt is carried out after all, it leaves a record whose token nobody has, until its time is up.
                Err(error) => self.inner.backend.pause_after(&mut attempts, error).await?,
            }
        }
    }

    /// A session in memory, for callers that cannot wait. The store must be over this memory.
    pub(crate) fn create_in(&self, memory: &MemoryBackend, data: T) -> Record<T> {
        let (meta, ttl) = self.first_meta();
        let record = Record::new(
            &self.inner.clock,
            SessionToken::random().session_id(),
            meta,
            Arc::new(data),
        );
        // Data that cannot be encoded is found out when it is first changed.
        let payload =
            self.inner.codec.encode(&record.id(), &meta, &**record.data()).unwrap_or_default();
        memory.create_now(&record.id(), &Stored { meta, content: Content::Payload(payload) }, ttl);
        record
    }

    /// Of a session that is created now, and its time to live.
    fn first_meta(&self) -> (Meta, Duration) {
        let now = self.inner.clock.wall();
        let deadline = self.inner.lifetime.deadline(now, now);
        (
            Meta { revision: Revision::first(), created_at: now, deadline },
            time_to_live(deadline, now),
        )
    }

    /// Replaces the data of an existing session. Concurrent changes by others are lost: see [`update`](SessionStore::update).
    ///
    /// # Errors
    ///
    /// [`NotFound`](StoreErrorKind::NotFound): a put must not bring back a session that was deleted. Otherwise those of
    /// [`update`](SessionStore::update).
    pub async fn put(&self, id: SessionId, data: T) -> Result<(), StoreError> {
        let data = Arc::new(data);
        let time = self.inner.backend.deadline();
        let base = time.within(self.get(id)).await?;
        time.within(self.write(base, data.clone(), &|_| data.clone()))
            .await
            .map(drop)
            .map_err(gone_is_not_found)
    }

    /// Changes a session, and returns what the closure returned when the change was committed.
    ///
    /// When another change comes first, the closure is called again on top of that; so it may run several times, each time on a
    /// fresh copy, but counts once.
    ///
    /// # Errors
    ///
    /// [`NotFound`](StoreErrorKind::NotFound), [`Conflict`](StoreErrorKind::Conflict),
    /// [`OutcomeUnknown`](StoreErrorKind::OutcomeUnknown), [`Encode`](StoreErrorKind::Encode),
    /// [`TooLarge`](StoreErrorKind::TooLarge), or the backend's.
    ///
    /// ```
    /// # use clustered_sessions::{Secret, SessionConfig, SessionStore};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { visits: u64 }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev")).build()?;
    /// let store = SessionStore::new(config);
    /// let session = store.create(UserSession { visits: 1 }).await?;
    /// let visits = store.update(session.id, |data| { data.visits += 1; data.visits }).await?;
    /// assert_eq!(visits, 2);
    /// # Ok(()) }
    /// ```
    pub async fn update<R: Send>(
        &self,
        id: SessionId,
        change: impl Fn(&mut T) -> R + Send + Sync,
    ) -> Result<R, StoreError> {
        let time = self.inner.backend.deadline();
        let base = time.within(self.get(id)).await?;
        let result = std::sync::Mutex::new(None);
        let apply = |data: &T| {
            let mut data = data.clone();
            let answer = change(&mut data);
            *result.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(answer);
            Arc::new(data)
        };
        let first = apply(base.data());
        time.within(self.write(base, first, &apply)).await.map_err(gone_is_not_found)?;
        let result = result.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Each application leaves one; the last one is the committed one.
        result.ok_or_else(|| StoreErrorKind::NotFound.into())
    }

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
            let known = self.inner.coordinator.cache().peek(&id);
            let call = self.inner.coordinator.cache().begin_write(&id, None);
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

    /// Writes `first`, which was made from `base`; on a conflict, what `again` makes of the other's version.
    pub(crate) async fn write(
        &self,
        base: Record<T>,
        first: Arc<T>,
        again: Reapply<'_, T>,
    ) -> Result<Record<T>, StoreError> {
        self.in_time(self.write_in_turn(base, first, again)).await
    }

    async fn write_in_turn(
        &self,
        base: Record<T>,
        first: Arc<T>,
        again: Reapply<'_, T>,
    ) -> Result<Record<T>, StoreError> {
        let id = base.id();
        let _turn = self.write_lock(id).await;
        let (mut base, mut data) = self.rebase(base, first, again);
        for attempt in 1..=MAX_ATTEMPTS {
            let record = self.next_version(&base, data)?;
            match self.compare_and_set(&base, &record).await? {
                None => return Ok(record),
                Some(current) => {
                    self.inner.reapplied.add_one();
                    data = again(current.data());
                    base = current;
                }
            }
            self.pause_after(attempt).await;
        }
        Err(StoreError::from(StoreErrorKind::Conflict { attempts: MAX_ATTEMPTS })
            .with_session_id(&id))
    }

    /// Waits for this node's other writers of a session, for half of the time that the operation has left.
    pub(super) async fn write_lock(&self, id: SessionId) -> WriteGuard<'_> {
        self.inner.write_locks.take(id, self.inner.backend.deadline().left() / 2).await
    }

    /// A version to be written on top of `base`, unless the session's time is over.
    pub(super) fn next_version(
        &self,
        base: &Record<T>,
        data: Arc<T>,
    ) -> Result<Record<T>, StoreError> {
        let (id, created_at, now) = (base.id(), base.meta().created_at, self.inner.clock.wall());
        if self.inner.lifetime.has_expired(created_at, now) {
            return Err(gone(&id));
        }
        let deadline = self.inner.lifetime.deadline(created_at, now);
        let meta = Meta { revision: base.revision().next(), created_at, deadline };
        Ok(Record::new(&self.inner.clock, id, meta, data))
    }

    /// Longer from one attempt to the next, and never alike on two nodes.
    pub(super) async fn pause_after(&self, attempt: u32) {
        let pause = (Duration::from_millis(1) * attempt).min(LONGEST_PAUSE);
        tokio::time::sleep_until(end_of_step(self.inner.clock.jitter(pause))).await;
    }

    /// While the writer waited for its turn, this node may have seen a newer version. To write on top of the old one would only
    /// cost a conflict.
    pub(super) fn rebase(
        &self,
        base: Record<T>,
        first: Arc<T>,
        again: Reapply<'_, T>,
    ) -> (Record<T>, Arc<T>) {
        match self.inner.coordinator.cache().peek(&base.id()) {
            Some(newer) if newer.revision() != base.revision() => {
                let data = again(newer.data());
                (newer, data)
            }
            _ => (base, first),
        }
    }

    /// One attempt. `None`: it is written. `Some`: another version is there.
    pub(super) async fn compare_and_set(
        &self,
        base: &Record<T>,
        new: &Record<T>,
    ) -> Result<Option<Record<T>>, StoreError> {
        let id = base.id();
        let meta = new.meta();
        let payload = self
            .inner
            .codec
            .encode(&id, &meta, &**new.data())
            .map_err(|error| error.with_session_id(&id))?;
        let stored = Stored { meta, content: Content::Payload(payload) };
        self.index_before_write(Some(base), new).await?;
        let revision = new.revision();
        let announcement = Announcement::SessionInvalidated(id, Some(revision));
        let announcement = self.inner.coordinator.encode(announcement);
        let ttl = time_to_live(new.deadline(), self.inner.clock.wall());
        if ttl.is_zero() {
            // Its time has ended while this was prepared.
            return Err(gone(&id));
        }
        let cache = self.inner.coordinator.cache();
        let call = cache.begin_write(&id, Some(base.revision()));
        let update = Update::new(&id, base.revision(), &stored, ttl, &announcement);
        let answer = self.inner.backend.update(update).await;
        match answer.map_err(|error| self.note_unreadable(&id, error))? {
            Updated::Saved => {
                call.saved(new);
                Ok(None)
            }
            Updated::Gone => Err(gone(&id)),
            Updated::Conflict(current) => self.conflicting(&id, current),
        }
    }
}

pub(super) fn gone(id: &SessionId) -> StoreError {
    StoreError::from(StoreErrorKind::Gone).with_session_id(id)
}

/// To a caller who names a session, one that has gone meanwhile is one that is not there.
fn gone_is_not_found(error: StoreError) -> StoreError {
    match error.session_id() {
        Some(id) if error.kind() == StoreErrorKind::Gone => {
            StoreError::from(StoreErrorKind::NotFound).with_session_id(&id)
        }
        _ => error,
    }
}
