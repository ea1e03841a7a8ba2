//! Creation of sessions.

use std::time::Duration;

use bytes::Bytes;

use super::SessionStore;
use super::lifetime::time_to_live;
use crate::backend::{Created, MemoryBackend};
use crate::codec::Encoded;
use crate::error::{StoreError, StoreErrorKind};
use crate::events::SessionEvent;
use crate::id::{SessionId, SessionToken};
use crate::record::{Content, Meta, NewSession, Record, Revision, SessionData, Stored};

impl<T: SessionData> SessionStore<T> {
    /// Creates a session with a new token and id.
    ///
    /// # Errors
    ///
    /// Fails with [`Encode`](crate::StoreErrorKind::Encode) or
    /// [`TooLarge`](crate::StoreErrorKind::TooLarge) if the data cannot be stored, or with the
    /// backend's error.
    pub async fn create(&self, data: T) -> Result<NewSession<T>, StoreError> {
        self.begin()?;
        self.operation(self.create_session(&data, None, false)).await
    }

    /// Creates a session. `origin` is that of the session which it continues, or `None` for a new
    /// one. A `remembered` session has the timeouts of "remember me".
    pub(crate) async fn create_session(
        &self,
        data: &T,
        origin: Option<SessionId>,
        remembered: bool,
    ) -> Result<NewSession<T>, StoreError> {
        let encoded = self.encode_new(data, remembered)?;
        self.create_encoded(&encoded, origin, remembered).await
    }

    /// Encodes the data of a new session, and checks that it can be created.
    pub(crate) fn encode_new(&self, data: &T, remembered: bool) -> Result<Encoded<T>, StoreError> {
        if remembered && !self.inner.lifetimes.can_remember() {
            let cause = "sessions cannot be remembered: set SessionConfigBuilder::remember_me";
            return Err(StoreError::from(StoreErrorKind::NotConfigured).with_source(cause));
        }
        self.inner.codec.encode(data)
    }

    pub(crate) async fn create_encoded(
        &self,
        encoded: &Encoded<T>,
        origin: Option<SessionId>,
        remembered: bool,
    ) -> Result<NewSession<T>, StoreError> {
        let mut attempts = self.inner.backend.attempts();
        loop {
            // Each attempt has its own token. Under the same id, a delayed first attempt could
            // bring back a session that has been deleted meanwhile.
            let token = SessionToken::random();
            let id = token.session_id();
            let (meta, ttl) = self.new_meta(origin.unwrap_or(id), remembered);
            let data = encoded.data().clone();
            let record = Record::new(&self.inner.clock, id, meta, data, encoded.json_len());
            let payload = self.inner.codec.payload(&id, &meta, encoded.json());
            let stored = Stored { meta, content: Content::Payload(payload) };
            // Without an index entry, no record is written. An earlier attempt may have written
            // one, though.
            self.index_before_write(None, &record)
                .await
                .map_err(|error| attempts.ended_by(error))?;
            let create = self.inner.backend.create(&id, &stored, ttl);
            let created = |answer: &_| matches!(answer, Ok(Created::Created));
            match self.inner.cache.write_through(&record, None, create, created).await {
                Ok(Created::Created) => {
                    if origin.is_none() {
                        self.inner
                            .events
                            .emit(|| SessionEvent::Created { id, owner: self.owner_of(&record) });
                    }
                    return Ok(NewSession { id, token, record });
                }
                Ok(Created::Exists) => {}
                // A failed attempt may still be executed later. It then leaves a record whose
                // token was never given out, and which expires like any other.
                Err(error) => self.inner.backend.pause_after(&mut attempts, error).await?,
            }
        }
    }

    /// Creates a session in memory without waiting. The store must use this backend.
    pub(crate) fn create_in_memory(&self, memory: &MemoryBackend, data: T) -> Record<T> {
        let id = SessionToken::random().session_id();
        let (meta, ttl) = self.new_meta(id, false);
        // The first change of the session reports data that cannot be encoded.
        let encoded = self.inner.codec.encode(&data);
        let json_len = encoded.as_ref().map_or(0, Encoded::json_len);
        let record = Record::new(&self.inner.clock, id, meta, data, json_len);
        let payload = encoded
            .map_or_else(|_| Bytes::new(), |it| self.inner.codec.payload(&id, &meta, it.json()));
        memory.create_now(&id, &Stored { meta, content: Content::Payload(payload) }, ttl);
        record
    }

    /// Returns the metadata of a session created now, and its time to live.
    fn new_meta(&self, origin: SessionId, remembered: bool) -> (Meta, Duration) {
        let now = self.inner.clock.wall();
        let deadline = self.inner.lifetimes.of(remembered).deadline(now, now);
        (
            Meta { revision: Revision::first(), created_at: now, deadline, origin, remembered },
            time_to_live(deadline, now),
        )
    }
}
