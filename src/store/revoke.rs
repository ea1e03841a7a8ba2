//! Deletes sessions that are judged by their data, wherever they move meanwhile.
//!
//! The holder of a session can regenerate it as fast as the backend answers, and each regeneration
//! changes its id. A deletion that gave up at the first conflict would never end. So a *chase*
//! judges the record that a conflict returns there and then, and follows a tombstone at once. It
//! needs one round trip for each id, and a regeneration three, so it catches up.
//!
//! A revocation visits the ids that were there when it began, once each. That is enough: a session
//! that moves leaves a tombstone under an id that is still to be visited, and tombstones live as
//! long as a revocation may take.

use std::time::Duration;

use futures_util::future::join_all;

use super::SessionStore;
use super::delete::Deletion;
use super::scan::Scan;
use super::tombstone::{FollowedTombstones, TOMBSTONE_TTL};
use crate::backend::{Deleted, OwnerTag};
use crate::error::{StoreError, StoreErrorKind};
use crate::guards::{self, Guard};
use crate::id::SessionId;
use crate::record::{Content, Ended, Record, SessionData};
use crate::resilience::Removal;

/// The result of a [`bulk_delete`](SessionStore::bulk_delete) or a
/// [`delete_all_of`](SessionStore::delete_all_of).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "unreadable sessions were not checked and may have to be deleted"]
pub struct BulkDeletion {
    /// Number of sessions deleted.
    pub deleted: u64,
    /// Number of records that could not be read, and so could not be checked. They still exist, and
    /// are logged by id.
    pub unreadable: u64,
}

/// Time that the deletion of all sessions of one owner may take. Not longer than a tombstone lives:
/// a session that moves meanwhile is then found by the tombstone that it leaves.
const REVOCATION_TIMEOUT: Duration = TOMBSTONE_TTL;

/// Number of versions of one session, all of which were selected, after which the next one is
/// deleted without being judged. Several nodes together can update a session faster than one round
/// trip, so a conditional deletion might never find the version that it expects.
const MAX_CONFLICTS: u32 = 8;

/// A deletion of all sessions that a predicate selects.
pub(super) struct Revocation<'a, T> {
    store: &'a SessionStore<T>,
    judge: &'a (dyn Fn(&Record<T>) -> bool + Sync),
    reason: Ended,
    /// The treatment of a record that cannot be read, and so cannot be judged.
    unreadable: Unreadable,
    /// The tombstones that a chase has followed, to sessions that are visited by that chase.
    ///
    /// An id without a record is not remembered: a session that is being created or regenerated has
    /// its index entry before its record.
    followed: FollowedTombstones,
    total: BulkDeletion,
}

/// The treatment of a record that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It stays, and is counted.
    Keep,
    /// It is deleted.
    Delete,
}

/// Returns [`REVOCATION_TIMEOUT`], unless a test has disabled the guard.
pub(super) fn revocation_timeout() -> Duration {
    if guards::enabled(Guard::RevocationTimeout) {
        REVOCATION_TIMEOUT
    } else {
        REVOCATION_TIMEOUT * 60
    }
}

/// The outcome of a chase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chased {
    Deleted,
    /// There is no session any more, it is not to be deleted, or another chase follows it.
    Done,
    Unreadable,
}

impl<'a, T: SessionData> Revocation<'a, T> {
    pub(super) fn new(
        store: &'a SessionStore<T>,
        judge: &'a (dyn Fn(&Record<T>) -> bool + Sync),
        reason: Ended,
        unreadable: Unreadable,
    ) -> Self {
        let followed = FollowedTombstones::default();
        Revocation { store, judge, reason, unreadable, followed, total: BulkDeletion::default() }
    }

    /// Chases the sessions of one page, all at once.
    pub(super) async fn chase_all(&mut self, page: Vec<SessionId>) -> Result<(), StoreError> {
        let chases = join_all(page.into_iter().map(|id| self.chase(id))).await;
        for chased in chases {
            match chased? {
                Chased::Deleted => self.total.deleted += 1,
                Chased::Unreadable => self.total.unreadable += 1,
                Chased::Done => {}
            }
        }
        Ok(())
    }

    /// From now on, leaves records that cannot be read: they may be anybody's.
    pub(super) fn keep_unreadable(&mut self) {
        self.unreadable = Unreadable::Keep;
    }

    /// Chases the sessions in the index of one owner, except one.
    pub(super) async fn scan_owner(
        &mut self,
        tag: OwnerTag,
        except: Option<SessionId>,
    ) -> Result<(), StoreError> {
        let mut scan = Scan::of_owner(self.store.clone(), tag).into_step();
        while let Some(mut page) = scan.next_page().await? {
            page.ids.retain(|id| Some(*id) != except);
            self.chase_all(page.ids).await?;
        }
        Ok(())
    }

    /// Chases all sessions.
    pub(super) async fn scan_all(&mut self) -> Result<(), StoreError> {
        let mut scan = Scan::new(self.store.clone()).into_step();
        while let Some(mut page) = scan.next_page().await? {
            page.ids.append(&mut page.moved);
            self.chase_all(page.ids).await?;
        }
        Ok(())
    }

    pub(super) fn total(self) -> BulkDeletion {
        self.total
    }

    /// Deletes a session if it is to be deleted, under whatever id it is by now.
    async fn chase(&self, id: SessionId) -> Result<Chased, StoreError> {
        let mut id = id;
        let mut conflicts = 0;
        let mut found = self.store.load_stored(&id).await;
        loop {
            let stored = match found {
                Ok(Some(stored)) => stored,
                Ok(None) => return Ok(Chased::Done),
                Err(error) => return self.cannot_judge(id, error).await,
            };
            if let Content::MovedTo(new) = stored.content {
                if !self.followed.insert(id) {
                    return Ok(Chased::Done);
                }
                id = new;
                found = self.store.load_stored(&id).await;
                continue;
            }
            let record = match self.store.decode_expired(&id, stored) {
                Ok(Some(record)) => record,
                Ok(None) => return Ok(Chased::Done),
                Err(error) => return self.cannot_judge(id, error).await,
            };
            if !(self.judge)(&record) {
                return Ok(Chased::Done);
            }
            let deleted = match self.delete(&record, conflicts >= MAX_CONFLICTS).await {
                Ok(deleted) => deleted,
                // Another version may be there by now that cannot be read.
                Err(error) => return self.cannot_judge(id, error).await,
            };
            found = match deleted {
                Deleted::Deleted => return Ok(Chased::Deleted),
                Deleted::Conflict(current) if guards::enabled(Guard::Chase) => {
                    conflicts += 1;
                    Ok(Some(current))
                }
                Deleted::MovedTo(new) if guards::enabled(Guard::Chase) => {
                    id = new;
                    self.store.load_stored(&id).await
                }
                Deleted::Gone | Deleted::Conflict(_) | Deleted::MovedTo(_) => {
                    return Ok(Chased::Done);
                }
            };
        }
    }

    /// Deletes a session if the backend still has the version that was judged, or in any case.
    async fn delete(
        &self,
        record: &Record<T>,
        unconditionally: bool,
    ) -> Result<Deleted, StoreError> {
        let (store, id) = (self.store, record.id());
        let announcement = store.announce_deletion(id, Some(self.reason));
        let backend = &store.inner.backend;
        let delete = async {
            if unconditionally {
                backend.delete(&id, &announcement).await.map(Removal::presumed)
            } else {
                backend.delete_if(&id, record.revision(), &announcement).await
            }
        };
        let deleted = store.inner.cache.evict_through(&id, delete).await?;
        if deleted == Deleted::Deleted {
            store.report_end(id, Some(record), self.reason);
            store.remove_from_index(record).await;
        }
        Ok(deleted)
    }

    async fn cannot_judge(&self, id: SessionId, error: StoreError) -> Result<Chased, StoreError> {
        if error.kind() != StoreErrorKind::Corrupt {
            return Err(error);
        }
        if self.unreadable == Unreadable::Keep {
            return Ok(Chased::Unreadable);
        }
        match self.store.delete_following_tombstones(id, None, Some(self.reason)).await {
            Ok(Deletion::Deleted) => Ok(Chased::Deleted),
            Ok(Deletion::Gone | Deletion::Replaced) => Ok(Chased::Done),
            // The key holds no record at all.
            Err(error) if error.kind() == StoreErrorKind::Corrupt => Ok(Chased::Unreadable),
            Err(error) => Err(error),
        }
    }
}
