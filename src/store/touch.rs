//! Sessions that are used live longer, up to their end.

use std::time::Duration;

use super::SessionStore;
use super::lifetime::time_to_live;
use crate::backend::Touched;
use crate::error::StoreError;
use crate::id::SessionId;
use crate::record::{Record, SessionData};

impl<T: SessionData> SessionStore<T> {
    /// Extends a session's life as a request that reads it would: whether there is one.
    ///
    /// # Errors
    ///
    /// The backend's.
    pub async fn touch(&self, id: SessionId) -> Result<bool, StoreError> {
        let touch = async {
            match self.find(id).await? {
                Some(record) => self.extend(&record).await,
                None => Ok(false),
            }
        };
        self.in_time(touch).await
    }

    /// Whether the session is there.
    async fn extend(&self, record: &Record<T>) -> Result<bool, StoreError> {
        let (id, now) = (record.id(), self.inner.clock.wall());
        let deadline = self.inner.lifetime.deadline(record.meta().created_at, now);
        self.index_before_touch(&id, deadline).await?;
        match self.inner.backend.touch(&id, deadline, time_to_live(deadline, now)).await? {
            Touched::Extended => {
                record.extend(deadline);
                Ok(true)
            }
            Touched::Gone => {
                self.inner.coordinator.cache().evict(&id, None);
                Ok(false)
            }
        }
    }

    /// Extends the session in the background if enough of its life has passed. At most one such task runs for a cached record.
    pub(crate) fn touch_if_due(&self, record: &Record<T>) {
        let meta = record.meta();
        if !self.inner.lifetime.should_touch(
            meta.created_at,
            meta.deadline,
            record.wall(self.inner.clock.now()),
        ) {
            return;
        }
        let Some(touch) = record.begin_touch() else { return };
        let (store, record) = (self.clone(), record.clone());
        self.spawn(async move {
            if let Err(error) = store.in_time(store.extend(&record)).await {
                tracing::debug!(session = %record.id(), error = &error as &dyn std::error::Error, "a session was not extended");
            }
            drop(touch);
        });
    }

    /// Whether the session's time is over, however much it is used.
    pub(crate) fn has_expired(&self, record: &Record<T>) -> bool {
        self.inner.lifetime.has_expired(record.meta().created_at, self.inner.clock.wall())
    }

    /// For how long the session can live, however much it is used.
    pub(crate) fn remaining_lifetime(&self, record: &Record<T>) -> Duration {
        let end = self.inner.lifetime.end(record.meta().created_at);
        end.map_or(Duration::MAX, |end| time_to_live(end, record.wall(self.inner.clock.now())))
    }
}
