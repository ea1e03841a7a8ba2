//! The owner index: for each owner, a list of their sessions, kept beside the records.
//!
//! The record is the authority and the index a hint. The index may name sessions that are gone or
//! have another owner by now. But every session that has an owner is in the index of that owner,
//! for as long as it lives:
//!
//! - The entry is written before the record that makes it true: before a session is created with an
//!   owner, is given another one, or is extended beyond what its entry allows for.
//! - It is removed only when the session has been deleted. Not when the owner changes: a removal
//!   that is executed late would remove the entry that a change back has written. Not when the
//!   session is regenerated: a search during the move must find either the tombstone or the new
//!   entry. Not when a creation under a chosen token is undone, which may be repeated under that
//!   token. And not because there is no record, which may be about to be written.
//! - It outlives the record, since a deadline is not exact: see [`entry_expiry`]. An entry that is
//!   never removed expires then.
//!
//! No step covers index and record at once, so this also works if they are on different servers.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::SessionStore;
use super::tombstone::TOMBSTONE_TTL;
use crate::backend::{OwnerTag, Timestamp};
use crate::config::{OwnerLimit, OwnerOf};
use crate::error::StoreError;
use crate::guards::{self, Guard};
use crate::id::SessionId;
use crate::record::{Record, SessionData};
use crate::secret::KeyRing;

/// The purpose that keys are derived for. Also the first part of what a tag is computed over.
const PURPOSE: &str = "clustered-sessions/owner/v2";
/// One hour in milliseconds. The entry of a session is written at most once per hour, and outlives
/// the session by two hours.
const HOUR: u64 = 3_600_000;

/// The owner function of a store, the keys for the tags of owners, and the limit of an owner's
/// sessions.
pub(super) struct Owners<T> {
    owner_of: OwnerOf<T>,
    limit: Option<OwnerLimit>,
    /// One keyed MAC per secret of the ring, the current secret first.
    macs: Vec<Hmac<Sha256>>,
}

impl<T> Owners<T> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    pub(super) fn new(owner_of: OwnerOf<T>, limit: Option<OwnerLimit>, ring: &KeyRing) -> Self {
        let macs = ring.derive(PURPOSE).map(|key| {
            let mut mac =
                Hmac::<Sha256>::new_from_slice(&key.bytes).expect("HMAC takes keys of any length");
            mac.update(PURPOSE.as_bytes());
            mac.update(&[0]);
            mac
        });
        Owners { owner_of, limit, macs: macs.collect() }
    }

    pub(super) fn limit(&self) -> Option<OwnerLimit> {
        self.limit
    }

    pub(super) fn owner_of(&self, data: &T) -> Option<String> {
        (self.owner_of)(data)
    }

    pub(super) fn is_owner(&self, owner: &str, record: &Record<T>) -> bool {
        self.owner_of(record.data()).is_some_and(|its| its == owner)
    }

    /// Returns an owner's tag under each secret. New entries are written under the first.
    pub(super) fn tags(&self, owner: &str) -> impl Iterator<Item = OwnerTag> + use<'_, T> {
        let owner = owner.to_owned();
        self.macs.iter().map(move |mac| {
            let mac = mac.clone().chain_update(owner.as_bytes());
            OwnerTag::from_bytes(mac.finalize().into_bytes().into())
        })
    }
}

/// The owner of a version of a session that is about to be written.
pub(super) struct Ownership {
    pub(super) owner: String,
    /// `true` if the version before had another owner or none, or there is none: a login.
    pub(super) is_new: bool,
}

/// Returns the expiry of an entry for a session with this deadline: the end of the deadline's hour,
/// so that it need not be written at every extension, plus two hours.
///
/// It depends on the deadline alone. So a node can tell from a record until when its entry lasts,
/// whichever node has written it and whatever timeout that node is configured with.
///
/// Of the two hours, one is for a node whose clock is behind the backend's. The other is for an
/// extension that runs while another node changes the owner: it writes the entry of the wrong
/// owner, and moves the deadline by less than an hour, since it is based on a version that was
/// current less than an hour ago.
fn entry_expiry(deadline: Timestamp) -> Timestamp {
    Timestamp::from_millis((deadline.as_millis() / HOUR + 3).saturating_mul(HOUR))
}

impl<T: SessionData> SessionStore<T> {
    /// Returns the owner of `data`, if it has one. `continues` is the version that the data was
    /// made from.
    pub(super) fn ownership(&self, continues: Option<&Record<T>>, data: &T) -> Option<Ownership> {
        let owners = self.inner.owners.as_ref()?;
        let owner = owners.owner_of(data)?;
        let is_new = !continues.is_some_and(|before| owners.is_owner(&owner, before));
        Some(Ownership { owner, is_new })
    }

    /// Returns `true` if `data`, which was made from `base`, has another owner.
    pub(crate) fn has_new_owner(&self, base: &Record<T>, data: &T) -> bool {
        self.ownership(Some(base), data).is_some_and(|ownership| ownership.is_new)
    }

    /// Adds a session to the index of its owner, as must be done before a version with this
    /// deadline is written. `base` is the version under the same id before.
    pub(super) async fn index_before_write(
        &self,
        ownership: Option<&Ownership>,
        id: &SessionId,
        base: Option<&Record<T>>,
        deadline: Timestamp,
    ) -> Result<(), StoreError> {
        let (Some(owners), Some(ownership)) = (&self.inner.owners, ownership) else {
            return Ok(());
        };
        let base = base.filter(|base| owners.is_owner(&ownership.owner, base));
        let before = base.map_or(Timestamp::from_millis(0), Record::deadline);
        self.add_to_index(owners, &ownership.owner, id, before, deadline).await
    }

    /// Adds a session to the index of its owner, as must be done before it is extended to a
    /// deadline.
    pub(super) async fn index_before_touch(
        &self,
        id: &SessionId,
        deadline: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(owners) = &self.inner.owners else { return Ok(()) };
        // A node that does not listen may not have heard of the present owner: see `entry_expiry`.
        let now = self.now();
        let is_recent = |record: &Record<T>| {
            let since = self.inner.cache.unannounced_since(record).unwrap_or(now);
            now < since.plus(HOUR / 2)
        };
        let record = match self.inner.cache.peek(id).filter(is_recent) {
            Some(record) => Some(record),
            None => self.load(id).await?.ok(),
        };
        let Some(record) = record else { return Ok(()) };
        let Some(owner) = owners.owner_of(record.data()) else { return Ok(()) };
        self.add_to_index(owners, &owner, id, record.deadline(), deadline).await
    }

    /// Writes an entry for a deadline, unless the one written for the deadline `before` lasts as
    /// long.
    async fn add_to_index(
        &self,
        owners: &Owners<T>,
        owner: &str,
        id: &SessionId,
        before: Timestamp,
        deadline: Timestamp,
    ) -> Result<(), StoreError> {
        let until = entry_expiry(deadline);
        if until <= entry_expiry(before) {
            return Ok(());
        }
        // A key ring is never empty, so there is a tag.
        let Some(tag) = owners.tags(owner).next() else { return Ok(()) };
        if !guards::enabled(Guard::IndexFirst) {
            let (store, id) = (self.clone(), *id);
            drop(
                self.spawn(async move { store.inner.backend.add_to_owner(&tag, &id, until).await }),
            );
            return Ok(());
        }
        // Boxed, because few writes add an entry: the future of each write contains this one.
        let added = Box::pin(self.inner.backend.add_to_owner(&tag, id, until)).await;
        added.map_err(|error| error.with_session_id(id))
    }

    /// Removes a deleted session from its owner's index. A leftover entry does no harm, so an error
    /// is only logged.
    pub(super) async fn remove_from_index(&self, record: &Record<T>) {
        let Some(owners) = &self.inner.owners else { return };
        let Some(owner) = owners.owner_of(record.data()) else { return };
        for tag in owners.tags(&owner) {
            if let Err(error) = self.inner.backend.remove_from_owner(&tag, &record.id()).await {
                tracing::debug!(
                    session = %record.id(),
                    error = &error as &dyn std::error::Error,
                    "an entry was left in the owner index"
                );
            }
        }
    }

    /// Lets the entry of a regenerated session's old id expire soon after its tombstone, in a
    /// background task. Until then, a deletion by owner that began before the regeneration finds
    /// the tombstone by it.
    pub(super) fn expire_index_entry_in_background(&self, old: &Record<T>) {
        let Some(owners) = &self.inner.owners else { return };
        let Some(owner) = owners.owner_of(old.data()) else { return };
        let tags: Vec<_> = owners.tags(&owner).collect();
        let (store, id) = (self.clone(), old.id());
        drop(self.spawn(async move {
            for tag in tags {
                let ttl = TOMBSTONE_TTL * 2;
                if let Err(error) = store.inner.backend.expire_in_owner(&tag, &id, ttl).await {
                    tracing::debug!(
                        session = %id,
                        error = &error as &dyn std::error::Error,
                        "an entry was left in the owner index"
                    );
                }
            }
        }));
    }

    /// Like [`remove_from_index`](Self::remove_from_index), in a background task. Does nothing if
    /// the record is not known.
    pub(super) fn remove_from_index_in_background(&self, record: Option<Record<T>>) {
        let Some(record) = record.filter(|_| self.inner.owners.is_some()) else { return };
        let store = self.clone();
        drop(self.spawn(async move { store.remove_from_index(&record).await }));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::secret::Secret;

    fn owners(secrets: &[&str]) -> Owners<String> {
        let [first, rest @ ..] = secrets else {
            unreachable!("a key ring has at least one secret")
        };
        let mut ring = KeyRing::new(Secret::insecure_dev(first));
        ring.set_realm("shop".to_owned());
        for secret in rest {
            ring.push_previous(Secret::insecure_dev(secret));
        }
        Owners::new(Arc::new(|name: &String| Some(name.clone())), None, &ring)
    }

    #[test]
    fn the_tag_is_frozen() {
        let tag = owners(&["secret"]).tags("ada").next().unwrap();
        assert_eq!(tag.to_string(), "v40IgrwBJnkzhPde-_XxM-WeKqIBee7_xDfr7hiMIBg");
    }

    #[test]
    fn an_owner_has_a_tag_under_each_secret_beginning_with_the_current_one() {
        let tags = |secrets: &[&str]| owners(secrets).tags("ada").collect::<Vec<_>>();
        assert_eq!(tags(&["new", "old"]), [tags(&["new"]), tags(&["old"])].concat());
        assert_ne!(tags(&["new"]), tags(&["old"]));
        assert_ne!(tags(&["new"]), owners(&["new"]).tags("bob").collect::<Vec<_>>());
    }

    #[test]
    fn an_entry_outlasts_the_deadline_by_two_to_three_hours_and_is_the_same_within_an_hour() {
        let expiry = |deadline| entry_expiry(Timestamp::from_millis(deadline)).as_millis();
        for deadline in [0, 1, HOUR - 1, HOUR, 1_700_000_000_000] {
            let more = expiry(deadline) - deadline;
            assert!((2 * HOUR + 1..=3 * HOUR).contains(&more), "{more}");
        }
        assert_eq!(expiry(HOUR), expiry(2 * HOUR - 1));
        assert_eq!(expiry(u64::MAX), u64::MAX, "the largest deadline does not overflow");
    }
}
