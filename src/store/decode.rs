//! Loads from the backend, and the conversion of stored records to sessions.

use super::SessionStore;
use super::tombstone::{FollowedTombstones, MAX_TOMBSTONES};
use crate::clock::Moment;
use crate::codec::Decoded;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::record::{Absence, Content, Record, SessionData, Stored};

impl<T: SessionData> SessionStore<T> {
    /// Loads a session from the backend. Neither reads nor fills the cache.
    pub(super) async fn load(
        &self,
        id: &SessionId,
    ) -> Result<Result<Record<T>, Absence>, StoreError> {
        let loaded = self.inner.backend.load(id).await;
        match loaded.map_err(|error| self.report_unreadable(id, error))? {
            Some(stored) => self.decode(id, stored),
            None => Ok(Err(Absence::Gone)),
        }
    }

    /// Loads a session under its present id.
    pub(super) async fn load_present(
        &self,
        id: SessionId,
    ) -> Result<Option<Record<T>>, StoreError> {
        self.load_following_tombstones(id, &FollowedTombstones::default()).await
    }

    /// Like [`load`](Self::load), but follows tombstones to the session's present id, and also
    /// returns sessions past their absolute timeout.
    ///
    /// Returns `None` at a tombstone that was followed before, and after [`MAX_TOMBSTONES`]: a
    /// session that was regenerated that often is found by a later entry.
    pub(super) async fn load_following_tombstones(
        &self,
        id: SessionId,
        followed: &FollowedTombstones,
    ) -> Result<Option<Record<T>>, StoreError> {
        let mut id = id;
        for _ in 0..MAX_TOMBSTONES {
            match self.load_stored(&id).await? {
                Some(Stored { content: Content::MovedTo(new), .. }) if followed.insert(id) => {
                    id = new;
                }
                Some(stored) => return self.decode_expired(&id, stored),
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Loads a record for an operation on many sessions.
    pub(super) async fn load_stored(&self, id: &SessionId) -> Result<Option<Stored>, StoreError> {
        let loaded = self.inner.backend.load_with_patience(id).await;
        loaded.map_err(|error| self.report_unreadable(id, error))
    }

    /// Decodes the version that the backend has instead of the expected one. A tombstone or an
    /// expired session is `Gone`.
    pub(super) fn decode_conflict(
        &self,
        id: &SessionId,
        current: Stored,
    ) -> Result<Record<T>, StoreError> {
        self.decode(id, current)?.map_err(|_| StoreError::gone(id))
    }

    /// Decodes a stored record. A session past its absolute timeout is gone; the timeout may be
    /// shorter now than when the record was written.
    fn decode(
        &self,
        id: &SessionId,
        stored: Stored,
    ) -> Result<Result<Record<T>, Absence>, StoreError> {
        if let Content::MovedTo(new) = stored.content {
            return Ok(Err(Absence::Moved(new)));
        }
        let now = self.inner.clock.moment();
        if self.inner.lifetimes.has_expired(&stored.meta, now.wall) {
            return Ok(Err(Absence::Gone));
        }
        Ok(self.decode_at(now, id, stored)?.ok_or(Absence::Gone))
    }

    /// Like [`decode`](Self::decode), but also returns sessions past their absolute timeout:
    /// deletions must reach them, since another node may use a longer one.
    pub(super) fn decode_expired(
        &self,
        id: &SessionId,
        stored: Stored,
    ) -> Result<Option<Record<T>>, StoreError> {
        self.decode_at(self.inner.clock.moment(), id, stored)
    }

    /// Decodes a stored record at this moment, whether or not the session has expired. Returns
    /// `None` for a tombstone.
    fn decode_at(
        &self,
        now: Moment,
        id: &SessionId,
        stored: Stored,
    ) -> Result<Option<Record<T>>, StoreError> {
        let Stored { mut meta, content } = stored;
        let Content::Payload(payload) = content else { return Ok(None) };
        if let Some(end) = self.inner.lifetimes.absolute_deadline(&meta) {
            meta.deadline = meta.deadline.min(end);
        }
        let decoded = self.inner.codec.decode(id, &meta, &payload);
        let Decoded { data, data_len, needs_reencryption } =
            decoded.map_err(|error| self.report_unreadable(id, error))?;
        let record = Record::new(now, *id, meta, data, data_len);
        Ok(Some(if needs_reencryption { record.mark_for_reencryption() } else { record }))
    }

    /// Counts and logs the error if it is about a record that the backend or the codec cannot read.
    /// Returns the error with the session's id.
    pub(super) fn report_unreadable(&self, id: &SessionId, error: StoreError) -> StoreError {
        let error = error.with_session_id(id);
        if error.kind() == StoreErrorKind::Corrupt {
            self.inner.unreadable.add_one();
            tracing::error!(
                session = %id,
                error = &error as &dyn std::error::Error,
                "a session record cannot be read"
            );
        }
        error
    }
}
