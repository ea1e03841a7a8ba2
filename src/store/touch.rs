//! Extension of sessions that are used, up to their absolute timeout.

use std::time::Duration;

use super::SessionStore;
use super::lifetime::time_to_live;
use crate::backend::Touched;
use crate::clock::Millis;
use crate::error::StoreError;
use crate::id::SessionId;
use crate::record::{Record, SessionData};

impl<T: SessionData> SessionStore<T> {
    /// Extends a session as a request that reads it would, and returns `true` if it exists.
    ///
    /// # Errors
    ///
    /// Fails with the backend's error.
    pub async fn touch(&self, id: SessionId) -> Result<bool, StoreError> {
        let touch = async {
            match self.find(id).await? {
                Some(record) => self.extend(&record).await,
                None => Ok(false),
            }
        };
        self.operation(touch).await
    }

    /// Extends the session and returns `true` if it exists.
    async fn extend(&self, record: &Record<T>) -> Result<bool, StoreError> {
        let (id, now) = (record.id(), self.inner.clock.wall());
        let meta = record.meta();
        let deadline = self.inner.lifetimes.of(meta.remembered).deadline(meta.created_at, now);
        self.index_before_touch(&id, deadline).await?;
        match self.inner.backend.touch(&id, deadline, time_to_live(deadline, now)).await? {
            Touched::Extended => {
                record.extend(deadline);
                Ok(true)
            }
            Touched::Gone => {
                self.inner.cache.evict(&id, None);
                Ok(false)
            }
        }
    }

    /// Extends the session in the background if enough of its idle timeout had passed at this
    /// moment. At most one such task runs for a cached record.
    pub(crate) fn touch_if_due(&self, record: &Record<T>, at: Millis) {
        let meta = record.meta();
        if !self.inner.lifetimes.of(meta.remembered).should_touch(
            meta.created_at,
            meta.deadline,
            record.wall(at),
        ) {
            return;
        }
        let Some(touch) = record.begin_touch() else { return };
        let (store, record) = (self.clone(), record.clone());
        self.spawn(async move {
            if let Err(error) = store.operation(store.extend(&record)).await {
                tracing::debug!(
                    session = %record.id(),
                    error = &error as &dyn std::error::Error,
                    "a session was not extended"
                );
            }
            drop(touch);
        });
    }

    /// Returns `true` if the session is past its absolute timeout.
    pub(crate) fn has_expired(&self, record: &Record<T>) -> bool {
        let meta = record.meta();
        let lifetime = self.inner.lifetimes.of(meta.remembered);
        lifetime.has_expired(meta.created_at, self.inner.clock.wall())
    }

    /// Returns the time until the absolute timeout; `Duration::MAX` without one.
    pub(crate) fn remaining_lifetime(&self, record: &Record<T>) -> Duration {
        let meta = record.meta();
        let end = self.inner.lifetimes.of(meta.remembered).absolute_deadline(meta.created_at);
        end.map_or(Duration::MAX, |end| time_to_live(end, record.wall(self.inner.clock.now())))
    }
}
