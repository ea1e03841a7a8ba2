//! Sessions that are taken over from another store, which has them until they are here.

use super::create::{Draft, DraftError};
use super::{SessionStore, Term};
use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::id::SessionToken;
use crate::record::SessionData;

/// What becomes of a session whose import is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undo {
    /// It is deleted unless it was changed since the import: the other store does not have the
    /// changes, which were acknowledged.
    UnlessChanged,
    /// It is deleted in any case: it may have ended in the other store before it was imported.
    Always,
}

impl<T: SessionData> SessionStore<T> {
    /// Prepares the import of a session that ends at this time, under a token that another library
    /// has chosen: see [`create_with_token`](Self::create_with_token).
    pub(crate) fn draft_import(
        &self,
        token: SessionToken,
        data: &T,
        until: Timestamp,
    ) -> Result<Draft<T>, StoreError> {
        self.draft_under(token, data, Term::Until(until))
    }

    /// Creates a session as it was in another store.
    ///
    /// # Errors
    ///
    /// Fails with [`OutcomeUnknown`](crate::StoreErrorKind::OutcomeUnknown) if the session may have
    /// been created. The caller undoes that, according to what the other store has.
    pub(crate) async fn import(&self, draft: &Draft<T>) -> Result<(), StoreError> {
        self.create_draft(draft).await.map_err(|failed| match failed {
            DraftError::NotWritten(error) => error,
            DraftError::Written(error) => StoreError::outcome_unknown(error),
        })
    }

    /// Deletes what [`import`](Self::import) may have created, and leaves the entry in the owner's
    /// index, as [`delete_under_chosen_token`](Self::delete_under_chosen_token) does.
    pub(crate) async fn undo_import(&self, draft: &Draft<T>, undo: Undo) -> Result<(), StoreError> {
        let (id, imported) = (draft.new.id, draft.new.record.revision());
        match undo {
            Undo::UnlessChanged => {
                let announcement = self.announce_deletion(id, None);
                let delete = self.inner.backend.delete_if(&id, imported, &announcement);
                self.inner.cache.evict_through(&id, delete).await.map(drop)
            }
            Undo::Always => self.delete_under_chosen_token(id).await,
        }
    }
}
