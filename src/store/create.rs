//! Creating sessions.

use std::sync::Arc;
use std::time::Duration;

use super::SessionStore;
use super::lifetime::time_to_live;
use crate::backend::{Backend as _, Created, MemoryBackend};
use crate::error::StoreError;
use crate::id::SessionToken;
use crate::record::{Content, Meta, NewSession, Record, Revision, SessionData, Stored};

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
            let call = self.inner.cache.begin_write(&id, None);
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
}
