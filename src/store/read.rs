//! Reads of one session.

use tracing::Instrument as _;

use super::SessionStore;
use super::single_flight::Freshness;
use crate::cluster::Lookup;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::record::{Absence, Record, SessionData};

impl<T: SessionData> SessionStore<T> {
    /// Returns a session, or `None` if there is none. Reads from the cache where the coherence
    /// guarantee allows it. Does not extend the session.
    ///
    /// # Errors
    ///
    /// Fails with [`Corrupt`](StoreErrorKind::Corrupt) if the record cannot be read, or with the
    /// backend's error. An error is never reported as `None`.
    pub async fn find(&self, id: SessionId) -> Result<Option<Record<T>>, StoreError> {
        Ok(self.read(id, Freshness::Cached).await?.ok())
    }

    /// Returns a session as the backend has it now, or `None` if there is none. Does not extend the
    /// session.
    ///
    /// # Errors
    ///
    /// As [`find`](SessionStore::find).
    pub async fn find_fresh(&self, id: SessionId) -> Result<Option<Record<T>>, StoreError> {
        Ok(self.read(id, Freshness::Fresh).await?.ok())
    }

    /// Returns a session that must exist. Does not extend it.
    ///
    /// # Errors
    ///
    /// Fails with [`NotFound`](StoreErrorKind::NotFound) if there is no such session. Otherwise as
    /// [`find`](SessionStore::find).
    pub async fn get(&self, id: SessionId) -> Result<Record<T>, StoreError> {
        self.find(id)
            .await?
            .ok_or_else(|| StoreError::from(StoreErrorKind::NotFound).with_session_id(&id))
    }

    /// Reads a session. Opens no deadline scope: a cache hit takes no time, and a miss is one wait
    /// for a load, which reads the deadline itself.
    pub(crate) async fn read(
        &self,
        id: SessionId,
        freshness: Freshness,
    ) -> Result<Result<Record<T>, Absence>, StoreError> {
        self.check_open()?;
        if freshness == Freshness::Cached {
            match self.inner.cache.get(&id) {
                Lookup::Hit(record) => return Ok(Ok(record)),
                Lookup::Absent(absence) => return Ok(Err(absence)),
                Lookup::Miss => {}
            }
        }
        // Boxed, so that the future of a cached read does not contain the whole of a load. Handlers
        // keep that future in theirs, which is allocated and moved on each request. A load pays for
        // a round trip, next to which a box costs nothing.
        Box::pin(self.read_from_backend(id, freshness)).await
    }

    async fn read_from_backend(
        &self,
        id: SessionId,
        freshness: Freshness,
    ) -> Result<Result<Record<T>, Absence>, StoreError> {
        self.inner.coordinator.ensure_running();
        let span = tracing::debug_span!("session.load", session = %id);
        self.inner.single_flight.read(self, id, freshness).instrument(span).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SessionConfig;
    use crate::secret::Secret;

    #[test]
    fn the_future_of_a_read_does_not_contain_a_load() {
        let config = SessionConfig::<u64>::development(Secret::insecure_dev("size"));
        let store = SessionStore::new(config.build().unwrap());
        let read = store.find(SessionId::from_bytes([1; 16]));
        let size = size_of_val(&read);
        assert!(size <= 192, "{size} bytes");
    }
}
