//! Sessions with a deadline of their own: for libraries that choose how long each session lasts.

use super::write::Reapply;
use super::{SessionStore, Term};
use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::record::{NewSession, Record, SessionData, Snapshot};

impl<T: SessionData> SessionStore<T> {
    /// Creates a session that ends at this time, or at its absolute timeout if that is earlier.
    pub(crate) async fn create_until(
        &self,
        data: &T,
        until: Timestamp,
    ) -> Result<NewSession<T>, StoreError> {
        self.create_session(data, Term::Until(until)).await
    }

    /// Like [`write`](Self::write), and makes the session end at this time.
    pub(crate) async fn write_until(
        &self,
        base: Record<T>,
        data: Snapshot<T>,
        until: Timestamp,
        reapply: Reapply<'_, T>,
    ) -> Result<Record<T>, StoreError> {
        self.write_version(base, data, Some(until), reapply).await
    }

    /// Returns `true` if a session whose data stays as it is should be written to end at this time.
    pub(crate) fn should_move(&self, record: &Record<T>, until: Timestamp) -> bool {
        self.inner.lifetimes.should_move(&record.meta(), until, self.inner.clock.wall())
    }

    /// Returns the time by which deadlines are judged.
    pub(crate) fn wall(&self) -> Timestamp {
        self.inner.clock.wall()
    }

    /// Returns `true` if this time has come.
    pub(crate) fn has_passed(&self, time: Timestamp) -> bool {
        time <= self.wall()
    }
}
