//! Deletion of one session, even if it has been regenerated meanwhile.

use tokio::time::timeout;

use super::regenerate::Unretired;
use super::single_flight::Freshness;
use super::tombstone::{MAX_TOMBSTONES, TOMBSTONE_TTL, too_many_tombstones};
use super::{SessionStore, StoreInner};
use crate::backend::Deleted;
use crate::clock::{Millis, millis};
use crate::cluster::Announcement;
use crate::error::{StoreError, StoreErrorKind};
use crate::events::SessionEvent;
use crate::guards::{self, Guard};
use crate::id::SessionId;
use crate::record::{Ended, Record, SessionData};
use crate::resilience::Removal;
use crate::task::join_result;

/// The result of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deletion {
    /// The session existed.
    Deleted,
    /// Another session had taken its place.
    Replaced,
    /// There was none.
    Gone,
}

impl Deletion {
    /// Returns `true` if there was a session to delete.
    pub(crate) fn existed(self) -> bool {
        self == Deletion::Deleted
    }
}

/// What a deletion has found under the present id of a session.
enum Found<T> {
    Deleted(EndOf<T>),
    /// There was no record, and an attempt whose reply was lost may have deleted it.
    Presumed(EndOf<T>),
    Replaced,
    Gone,
}

/// A session that has ended, with a version of it if one is known.
struct EndOf<T> {
    id: SessionId,
    known: Option<Record<T>>,
}

/// The last version of a session that a request has seen.
pub(crate) struct LastSeen<T> {
    record: Record<T>,
    /// The time at which the session was known to exist. `None` if it is not known: the record was
    /// served during an outage.
    at: Option<Millis>,
}

impl<T> LastSeen<T> {
    pub(crate) fn new(record: Record<T>, at: Option<Millis>) -> Self {
        LastSeen { record, at }
    }

    /// Returns `true` if this is the id of the session.
    pub(crate) fn names(&self, id: &SessionId) -> bool {
        self.record.id() == *id
    }

    #[cfg(test)]
    pub(crate) fn at(&self) -> Option<Millis> {
        self.at
    }
}

impl<T> Clone for LastSeen<T> {
    fn clone(&self) -> Self {
        LastSeen { record: self.record.clone(), at: self.at }
    }
}

impl<T: SessionData> SessionStore<T> {
    /// Deletes a session on every node and returns `true` if it existed.
    ///
    /// If a reply is lost and the retry finds no record, the session is reported as having
    /// existed.
    ///
    /// # Errors
    ///
    /// Fails if the backend does not confirm that the session is gone.
    pub async fn delete(&self, id: SessionId) -> Result<bool, StoreError> {
        self.begin()?;
        let delete = self.delete_following_tombstones(id, None, Some(Ended::Revoked));
        Ok(self.operation(delete).await?.existed())
    }

    /// Ends the session that a request has loaded, because another one takes its place.
    ///
    /// # Errors
    ///
    /// As [`log_out`](Self::log_out).
    pub(crate) async fn replace_by_another(
        &self,
        id: SessionId,
        last_seen: Option<&LastSeen<T>>,
        reason: Ended,
    ) -> Result<Deletion, StoreError> {
        let known = match last_seen {
            Some(seen) => Some(seen.record.clone()),
            // A logout must not wait for a read.
            None if reason == Ended::LoggedOut => None,
            None => self.read_in_half_the_time(id).await,
        };
        let retired = match known {
            Some(known) => self.retire(&known, reason).await,
            // What cannot be read is deleted.
            None => Ok(false),
        };
        match retired {
            Ok(true) => Ok(Deletion::Deleted),
            Ok(false) => self.log_out(id, last_seen, reason).await,
            Err(Unretired { error, .. }) if reason != Ended::LoggedOut => Err(error),
            // A deletion needs no memory, and its outcome is known if there is any reply.
            Err(failed) => match self.log_out(id, last_seen, reason).await {
                Ok(Deletion::Replaced) if self.is_retired(&failed).await => {
                    let ended = EndOf { id, known: Some(failed.base) };
                    Ok(self.end(Found::Deleted(ended), Some(reason)))
                }
                Err(_) if failed.error.kind() == StoreErrorKind::OutcomeUnknown => {
                    Err(failed.error)
                }
                deletion => deletion,
            },
        }
    }

    /// Returns `true` if a session was replaced by a tombstone although the reply was lost. One of
    /// another request says that a login elsewhere has replaced the session.
    async fn is_retired(&self, failed: &Unretired<T>) -> bool {
        let stored = self.inner.backend.load(&failed.base.id()).await;
        matches!(stored, Ok(Some(stored)) if stored.meta.revision == failed.tombstone)
    }

    /// Returns a session that the request has not loaded, unless it is absent or takes more than
    /// half of the time that the operation has left.
    async fn read_in_half_the_time(&self, id: SessionId) -> Option<Record<T>> {
        if let Some(found) = self.known(id) {
            return found;
        }
        let half = self.inner.backend.deadline().left() / 2;
        let read = self.inner.single_flight.read(self, id, Freshness::Cached);
        timeout(half, read).await.ok()?.ok()?.ok()
    }

    /// Deletes the session that a request has loaded, under whatever id it has by now.
    ///
    /// The request may be older than the tombstones that lead there, as that of a socket is. Then
    /// the session is looked for among those of its owner.
    ///
    /// # Errors
    ///
    /// [`Gone`](StoreErrorKind::Gone) if the session was not found and may exist under another id.
    /// [`OutcomeUnknown`](StoreErrorKind::OutcomeUnknown) if an attempt whose reply was lost may
    /// have deleted it before.
    pub(crate) async fn log_out(
        &self,
        id: SessionId,
        last_seen: Option<&LastSeen<T>>,
        reason: Ended,
    ) -> Result<Deletion, StoreError> {
        let known = last_seen.map(|seen| &seen.record);
        let found = self.delete_present(id, known, Some(reason)).await?;
        let is_absent = matches!(found, Found::Presumed(_) | Found::Gone);
        let old = last_seen.filter(|seen| is_absent && self.may_have_moved_since(seen.at));
        let Some(old) = old else { return Ok(self.end(found, Some(reason))) };
        let error = match self.delete_by_origin(&old.record, reason).await {
            Ok(true) => return Ok(Deletion::Deleted),
            Ok(false) => StoreError::gone(&id),
            Err(error) => error,
        };
        Err(match found {
            Found::Presumed(_) => StoreError::outcome_unknown(error).with_session_id(&id),
            _ => error,
        })
    }

    /// Returns the moment at which the backend is known to have had a session that was read now.
    pub(crate) fn alive_at(&self, record: &Record<T>, now: Millis) -> Millis {
        let StoreInner { cache, coordinator, .. } = &*self.inner;
        if let Some(loaded_at) = cache.unannounced_since(record) {
            return loaded_at;
        }
        let max_staleness = millis(coordinator.max_staleness());
        match cache.lease().last_held(|| now) {
            // It may come from the cache. What was announced before the node's last proof has
            // arrived.
            Some(held) if now < held.until.plus(max_staleness) => {
                now.min(Millis(held.until.0.saturating_sub(max_staleness)))
            }
            _ => now,
        }
    }

    /// Deletes a session under its present id, which the tombstones of its former ids lead to.
    ///
    /// `known` is a version of the session, if the caller has one. It tells whose index has an
    /// entry, which the cache may not.
    pub(crate) async fn delete_following_tombstones(
        &self,
        id: SessionId,
        known: Option<&Record<T>>,
        reason: Option<Ended>,
    ) -> Result<Deletion, StoreError> {
        Ok(self.end(self.delete_present(id, known, reason).await?, reason))
    }

    /// Like [`delete_following_tombstones`](Self::delete_following_tombstones), but leaves it to
    /// the caller to report the end of the session: see [`end`](Self::end).
    async fn delete_present(
        &self,
        id: SessionId,
        known: Option<&Record<T>>,
        reason: Option<Ended>,
    ) -> Result<Found<T>, StoreError> {
        let (mut id, began) = (id, self.inner.clock.now());
        for _ in 0..MAX_TOMBSTONES {
            let announcement = self.announce_deletion(id, reason);
            let known = known.filter(|known| known.id() == id);
            let known = self.inner.cache.peek(&id).or_else(|| known.cloned());
            let delete = self.inner.backend.delete(&id, &announcement);
            let answer = self.inner.cache.evict_through(&id, delete).await;
            if self.inner.clock.now().0 - began.0 >= millis(TOMBSTONE_TTL) {
                // The session may have been regenerated meanwhile, and its tombstone may have
                // expired already.
                return Err(StoreError::from(StoreErrorKind::OutcomeUnknown).with_session_id(&id));
            }
            let answer = match answer? {
                Removal::Answered(answer) => answer,
                Removal::Presumed => return Ok(Found::Presumed(EndOf { id, known })),
            };
            match answer {
                Deleted::Deleted => return Ok(Found::Deleted(EndOf { id, known })),
                Deleted::Gone => return Ok(Found::Gone),
                Deleted::MovedTo(new) if new == id.nowhere() => return Ok(Found::Replaced),
                Deleted::MovedTo(new) if guards::enabled(Guard::Tombstone) => id = new,
                Deleted::MovedTo(_) => return Ok(Found::Gone),
                Deleted::Conflict(_) => break,
            }
        }
        Err(too_many_tombstones(&id))
    }

    /// Reports the end of a session that is or may have been deleted, and removes it from the index
    /// of its owner.
    fn end(&self, found: Found<T>, reason: Option<Ended>) -> Deletion {
        match found {
            Found::Deleted(EndOf { id, known }) | Found::Presumed(EndOf { id, known }) => {
                if let Some(reason) = reason {
                    self.report_end(id, known.as_ref(), reason);
                }
                self.remove_from_index_in_background(known);
                Deletion::Deleted
            }
            Found::Replaced => Deletion::Replaced,
            Found::Gone => Deletion::Gone,
        }
    }

    /// Deletes a session that must not stay: the new record of a regeneration that has failed, or
    /// that of a login which exceeds the limit of its owner's sessions. `reason` is that of the end
    /// of a session that has existed before.
    ///
    /// Returns `true` if the deletion is confirmed in time: see
    /// [`undo_in_time`](Self::undo_in_time).
    pub(super) async fn undo(&self, new: &Record<T>, reason: Option<Ended>) -> bool {
        let (store, new) = (self.clone(), new.clone());
        self.undo_in_time(async move {
            let delete = store.delete_following_tombstones(new.id(), Some(&new), reason);
            let deleted = store.operation(delete).await;
            match &deleted {
                Err(error) if reason.is_some() => report_left_behind(new.id(), error),
                // Nobody was told that the session exists, and the record expires like any other.
                Err(error) => tracing::warn!(
                    session = %new.id(),
                    error = error as &dyn std::error::Error,
                    "an unused session record is left behind"
                ),
                Ok(_) => {}
            }
            deleted.is_ok()
        })
        .await
    }

    /// Deletes a session whose creation under a token that the application has chosen has failed.
    ///
    /// Returns `true` if the deletion is confirmed in time: see
    /// [`undo_in_time`](Self::undo_in_time).
    pub(super) async fn undo_under_chosen_token(&self, id: SessionId) -> bool {
        let store = self.clone();
        self.undo_in_time(async move {
            let deleted = store.operation(store.delete_under_chosen_token(id)).await;
            if let Err(error) = &deleted {
                report_left_behind(id, error);
            }
            deleted.is_ok()
        })
        .await
    }

    /// Deletes what a creation under a token that the application has chosen may have made.
    ///
    /// The entry in the owner's index stays until it expires. Its removal, executed late, would
    /// remove the entry of another creation under the token.
    pub(super) async fn delete_under_chosen_token(&self, id: SessionId) -> Result<(), StoreError> {
        let announcement = self.announce_deletion(id, None);
        let delete = self.inner.backend.delete(&id, &announcement);
        match self.inner.cache.evict_through(&id, delete).await?.presumed() {
            Deleted::MovedTo(new) => {
                self.delete_following_tombstones(new, None, None).await.map(drop)
            }
            Deleted::Deleted | Deleted::Gone | Deleted::Conflict(_) => Ok(()),
        }
    }

    /// Carries out a deletion, whose future returns `true` if it is confirmed. Returns `false` if
    /// that takes longer than until the caller's deadline.
    ///
    /// The deletion is an operation with its own deadline, in its own task, since the present one
    /// may have failed because its deadline has passed. The caller waits for it no longer than
    /// until its own deadline; the task continues.
    async fn undo_in_time(&self, delete: impl Future<Output = bool> + Send + 'static) -> bool {
        let task = self.spawn(delete);
        let ended = self.inner.backend.deadline().wait_for(task).await;
        ended.and_then(join_result).unwrap_or(false)
    }

    /// Reports the end of a session, with a version of the session if one is known.
    pub(super) fn report_end(&self, id: SessionId, known: Option<&Record<T>>, reason: Ended) {
        self.inner.events.emit(|| SessionEvent::Ended {
            id,
            owner: known.and_then(|record| self.owner_of(record)),
            reason,
        });
    }

    /// Reports the expiry of a session that the backend does not have any more, if this node had it
    /// in its cache until its deadline. Called before that is forgotten, by one load at a time.
    pub(super) fn report_expiry(&self, id: SessionId) {
        if let Some(record) = self.inner.cache.expired(&id) {
            self.report_end(id, Some(&record), Ended::Expired);
        }
    }

    /// Returns the announcement of a deletion. Notes its reason for those who watch the session on
    /// this node, who may find that it is gone before they hear of it.
    pub(super) fn announce_deletion(&self, id: SessionId, reason: Option<Ended>) -> Vec<u8> {
        self.inner.cache.watches().note(&id, reason);
        // `Deleted` is what nodes say that were not told the reason.
        let reason = reason.filter(|reason| *reason != Ended::Deleted);
        self.inner.coordinator.encode(Announcement::SessionDeleted(id, reason))
    }
}

/// Reports that a session which had to end may still be there. Each attempt was retried.
fn report_left_behind(id: SessionId, error: &StoreError) {
    tracing::warn!(
        session = %id,
        error = error as &dyn std::error::Error,
        "a session that must not stay is left behind"
    );
}
