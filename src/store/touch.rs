//! Extension of sessions that are used, up to their absolute timeout.

use std::time::Duration;

use super::SessionStore;
use super::lifetime::time_to_live;
use crate::backend::{Extension, Touched};
use crate::clock::Millis;
use crate::error::StoreError;
use crate::id::SessionId;
use crate::record::{Lifespan, Record, SessionData};

impl<T: SessionData> SessionStore<T> {
    /// Returns a session as [`find`](SessionStore::find) does, and extends it as a request that
    /// uses it would: in the background, and only once a part of its idle timeout has passed
    /// ([`touch_after`](crate::SessionConfigBuilder::touch_after)).
    ///
    /// For sessions that are used outside requests, such as by a message queue or another protocol.
    /// Between two extensions, it costs a cached read.
    ///
    /// # Errors
    ///
    /// As [`find`](SessionStore::find). An extension that fails is logged, and attempted again by
    /// the next visit.
    ///
    /// ```
    /// # use clustered_sessions::{Secret, SessionConfig, SessionStore};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { name: String }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev")).build()?;
    /// # let store = SessionStore::new(config);
    /// # let id = store.create(UserSession { name: "Ada".into() }).await?.id;
    /// if let Some(session) = store.visit(id).await? {
    ///     println!("a message of {}", session.data().name);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn visit(&self, id: SessionId) -> Result<Option<Record<T>>, StoreError> {
        let found = self.find(id).await?;
        if let Some(record) = &found {
            self.touch_if_due(record, self.now());
        }
        Ok(found)
    }

    /// Extends a session immediately, even if it was extended a moment ago, and returns `true` if
    /// it exists. See [`visit`](SessionStore::visit) for an extension that costs less.
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
        if meta.lifespan == Lifespan::Fixed {
            return Ok(self.find_fresh(id).await?.is_some());
        }
        let deadline = self.inner.lifetimes.deadline(&meta, now);
        self.index_before_touch(&id, deadline).await?;
        let extension = Extension::new(deadline, now, time_to_live(deadline, now));
        match self.inner.backend.touch(&id, extension).await? {
            Touched::Extended => {
                record.extend(deadline, now);
                Ok(true)
            }
            Touched::Gone => {
                self.inner.cache.evict(&id, None);
                Ok(false)
            }
        }
    }

    /// Returns `true` if the session was to be extended at this moment, or must be encrypted again.
    pub(crate) fn is_due(&self, record: &Record<T>, at: Millis) -> bool {
        self.should_touch(record, at) || record.needs_reencryption()
    }

    fn should_touch(&self, record: &Record<T>, at: Millis) -> bool {
        self.inner.lifetimes.should_touch(&record.meta(), record.wall(at))
    }

    /// Extends the session in the background if enough of its idle timeout had passed at this
    /// moment. At most one such task runs for a cached record.
    pub(crate) fn touch_if_due(&self, record: &Record<T>, at: Millis) {
        if !self.should_touch(record, at) {
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
        self.inner.lifetimes.has_expired(&record.meta(), self.inner.clock.wall())
    }

    /// Returns the time until the absolute timeout; `Duration::MAX` without one.
    pub(crate) fn remaining_lifetime(&self, record: &Record<T>) -> Duration {
        let end = self.inner.lifetimes.absolute_deadline(&record.meta());
        end.map_or(Duration::MAX, |end| time_to_live(end, record.wall(self.inner.clock.now())))
    }
}
