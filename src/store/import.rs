//! Sessions that are taken over from another store, which has them until they are here.

use super::create::Draft;
use super::{SessionStore, Term};
use crate::backend::Deleted;
use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::id::SessionToken;
use crate::record::SessionData;
use crate::resilience::Removal;

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

    pub(crate) async fn import(&self, draft: &Draft<T>) -> Result<(), StoreError> {
        self.create_draft(draft).await
    }

    /// Deletes what [`import`](Self::import) may have created.
    ///
    /// The entry in the owner's index stays until it expires. Its removal, executed late, would
    /// remove the entry of another import of the session.
    pub(crate) async fn undo_import(&self, draft: &Draft<T>, undo: Undo) -> Result<(), StoreError> {
        let (id, imported) = (draft.new.id, draft.new.record.revision());
        let announcement = self.announce_deletion(id, None);
        let backend = &self.inner.backend;
        let delete = async {
            match undo {
                Undo::UnlessChanged => backend.delete_if(&id, imported, &announcement).await,
                Undo::Always => backend.delete(&id, &announcement).await.map(Removal::presumed),
            }
        };
        match self.inner.cache.evict_through(&id, delete).await? {
            Deleted::MovedTo(new) if undo == Undo::Always => {
                self.delete_following_tombstones(new, None, None).await.map(drop)
            }
            Deleted::Deleted | Deleted::Gone | Deleted::Conflict(_) | Deleted::MovedTo(_) => Ok(()),
        }
    }
}
