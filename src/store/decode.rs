//! Reading the backend: past the cache, and from what it keeps to sessions.

use super::SessionStore;
use super::tombstone::{MAX_MOVES, too_many_tombstones};
use super::write::gone;
use crate::codec::Decoded;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::record::{Content, Record, SessionData, Stored};

impl<T: SessionData> SessionStore<T> {
    /// Reads the backend, past the cache and without filling it.
    pub(super) async fn load(&self, id: &SessionId) -> Result<Option<Record<T>>, StoreError> {
        match self.load_stored(id).await? {
            Some(stored) => self.decode(id, stored),
            None => Ok(None),
        }
    }

    /// The same, wherever the session has moved since its id was met, and though its time may be over.
    pub(super) async fn load_wherever_it_moved(
        &self,
        id: SessionId,
    ) -> Result<Option<Record<T>>, StoreError> {
        let mut id = id;
        for _ in 0..MAX_MOVES {
            match self.load_stored(&id).await? {
                Some(Stored { content: Content::MovedTo(new), .. }) => id = new,
                Some(stored) => return self.decode_expired(&id, stored),
                None => return Ok(None),
            }
        }
        Err(too_many_tombstones(&id))
    }

    async fn load_stored(&self, id: &SessionId) -> Result<Option<Stored>, StoreError> {
        self.inner.backend.load(id).await.map_err(|error| self.note_unreadable(id, error))
    }

    /// What is there instead of what a change was made from.
    pub(super) fn conflicting(
        &self,
        id: &SessionId,
        current: Stored,
    ) -> Result<Option<Record<T>>, StoreError> {
        self.decode(id, current)?.map(Some).ok_or_else(|| gone(id))
    }

    /// `None` for a tombstone, and for a session whose time is over: the setting may be shorter than when it was written.
    fn decode(&self, id: &SessionId, stored: Stored) -> Result<Option<Record<T>>, StoreError> {
        let created_at = stored.meta.created_at;
        if self.inner.lifetime.has_expired(created_at, self.inner.clock.wall()) {
            return Ok(None);
        }
        self.decode_expired(id, stored)
    }

    /// For those who delete: a session whose time is over here may go on on a node with another setting.
    fn decode_expired(
        &self,
        id: &SessionId,
        stored: Stored,
    ) -> Result<Option<Record<T>>, StoreError> {
        let Stored { mut meta, content } = stored;
        let Content::Payload(payload) = content else { return Ok(None) };
        if let Some(end) = self.inner.lifetime.end(meta.created_at) {
            meta.deadline = meta.deadline.min(end);
        }
        let decoded = self.inner.codec.decode(id, &meta, &payload);
        let Decoded { data, needs_reencryption } =
            decoded.map_err(|error| self.note_unreadable(id, error))?;
        let record = Record::new(&self.inner.clock, *id, meta, data);
        Ok(Some(if needs_reencryption { record.needs_reencryption() } else { record }))
    }

    /// Counts and logs a record that cannot be read, be it the backend or the codec that says so.
    pub(super) fn note_unreadable(&self, id: &SessionId, error: StoreError) -> StoreError {
        let error = error.with_session_id(id);
        if error.kind() == StoreErrorKind::Corrupt {
            self.inner.unreadable.add_one();
            tracing::error!(session = %id, error = &error as &dyn std::error::Error, "a session record cannot be read");
        }
        error
    }
}
