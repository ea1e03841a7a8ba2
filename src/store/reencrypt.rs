//! Re-encryption of records as they are used: of those under an old secret, and of those in plain
//! text while encryption is being introduced.
//!
//! The data stays the same. Otherwise it is a write like any other: it compares revisions, makes a
//! new one and is announced. So it does no harm if several nodes try at once, if one of them fails,
//! or if the session is changed meanwhile.

use super::SessionStore;
use super::write::Written;
use crate::error::StoreError;
use crate::record::{Record, SessionData};

impl<T: SessionData> SessionStore<T> {
    /// Re-encrypts the session's record in the background if its protection is outdated. This is
    /// tried once for each time that the record is loaded.
    ///
    /// Call it only for a session that a request has used: like any write, it extends the session.
    pub(crate) fn reencrypt_if_needed(&self, record: &Record<T>) {
        if !record.take_needs_reencryption() {
            return;
        }
        let (store, record) = (self.clone(), record.clone());
        self.spawn(async move {
            if let Err(error) = store.operation(store.reencrypt(&record)).await {
                tracing::debug!(
                    session = %record.id(),
                    error = &error as &dyn std::error::Error,
                    "a session was not re-encrypted"
                );
            }
        });
    }

    /// Re-encrypts the record, unless the session has been written meanwhile.
    pub(super) async fn reencrypt(&self, record: &Record<T>) -> Result<(), StoreError> {
        let id = record.id();
        let _guard = self.write_lock(id).await;
        let newer = self.inner.cache.peek(&id);
        if newer.is_some_and(|newer| newer.revision() != record.revision()) {
            return Ok(());
        }
        let data = self.inner.codec.encode(record.data())?;
        if let Written::Saved(_) = self.compare_and_set(record, record, data, None).await? {
            self.inner.reencrypted.add_one();
        }
        Ok(())
    }
}
