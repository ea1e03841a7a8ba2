//! Reading one session.

use tracing::Instrument as _;

use super::SessionStore;
use super::single_flight::Freshness;
use crate::cluster::Lookup;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::record::{Record, SessionData};

impl<T: SessionData> SessionStore<T> {
    /// A session, from the cache where the coherence contract allows, or `None`. Does not extend its life.
    ///
    /// # Errors
    ///
    /// The backend's: an error is never "no session". [`Corrupt`](StoreErrorKind::Corrupt) if the record cannot be read.
    pub async fn find(&self, id: SessionId) -> Result<Option<Record<T>>, StoreError> {
        self.read(id, Freshness::Cached).await
    }

    /// A session as the backend has it now, or `None`. Does not extend its life.
    ///
    /// # Errors
    ///
    /// Those of [`find`](SessionStore::find).
    pub async fn find_fresh(&self, id: SessionId) -> Result<Option<Record<T>>, StoreError> {
        self.read(id, Freshness::Fresh).await
    }

    /// A session that must be there. Does not extend its life.
    ///
    /// # Errors
    ///
    /// [`NotFound`](StoreErrorKind::NotFound), and those of [`find`](SessionStore::find).
    pub async fn get(&self, id: SessionId) -> Result<Record<T>, StoreError> {
        self.find(id)
            .await?
            .ok_or_else(|| StoreError::from(StoreErrorKind::NotFound).with_session_id(&id))
    }

    pub(crate) async fn read(
        &self,
        id: SessionId,
        freshness: Freshness,
    ) -> Result<Option<Record<T>>, StoreError> {
        self.check_open()?;
        if freshness == Freshness::Cached {
            match self.inner.cache.get(&id) {
                Lookup::Hit(record) => return Ok(Some(record)),
                Lookup::Absent => return Ok(None),
                Lookup::Miss => {}
            }
        }
        self.inner.coordinator.ensure_running();
        let span = tracing::debug_span!("session.load", session = %id);
        self.inner.single_flight.read(self, id, freshness).instrument(span).await
    }
}
