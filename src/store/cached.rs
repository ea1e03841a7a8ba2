//! Reads that are answered from the cache, or not at all.

use super::SessionStore;
use crate::clock::Millis;
use crate::id::SessionId;
use crate::record::{Record, SessionData, VerifiedTag};

impl<T: SessionData> SessionStore<T> {
    /// Returns a session and the time, if the session is cached, may be used, and remembers that
    /// this tag has been verified. Otherwise the cookie must be verified, and the session read.
    pub(crate) fn read_cached(
        &self,
        id: &SessionId,
        tag: &VerifiedTag,
    ) -> Option<(Record<T>, Millis)> {
        self.check_open().ok()?;
        self.inner.cache.get_if(id, |record| record.has_tag(tag))
    }
}
