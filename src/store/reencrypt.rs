//! Records under an old secret, or still in plain text while encryption is being turned on, are written anew as they are used.
//!
//! The data stays the same, and in all else it is a write like any other: it compares, has a revision of its own and is announced.
//! So it does no harm that several nodes try at once, that one fails, or that somebody changes the session meanwhile.

use super::SessionStore;
use crate::error::StoreError;
use crate::record::{Record, SessionData};

impl<T: SessionData> SessionStore<T> {
    /// Writes the session anew in the background if the protection of its record is outdated: tried once for each time that it
    /// was loaded.
    ///
    /// Only for a session that a request has used: like any write, it extends the session's life.
    pub(crate) fn reencrypt_if_needed(&self, record: &Record<T>) {
        if !record.take_needs_reencryption() {
            return;
        }
        let (store, record) = (self.clone(), record.clone());
        self.spawn(async move {
            match store.in_time(store.reencrypt(&record)).await {
                Ok(true) => store.inner.reencrypted.add_one(),
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(session = %record.id(), error = &error as &dyn std::error::Error, "a session was not encrypted anew");
                }
            }
        });
    }

    /// Whether it was written, by this call.
    async fn reencrypt(&self, record: &Record<T>) -> Result<bool, StoreError> {
        let id = record.id();
        let _turn = self.write_lock(id).await;
        let newer = self.inner.cache.peek(&id);
        if newer.is_some_and(|newer| newer.revision() != record.revision()) {
            return Ok(false);
        }
        let new = self.next_version(record, record.data().clone())?;
        Ok(self.compare_and_set(record, &new).await?.is_none())
    }
}
