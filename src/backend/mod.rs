//! Storage of records and delivery of announcements.
//!
//! [`Backend`] is the trait to implement for a custom backend. The store adds the cache, the lease,
//! the codec and the coherence rules to any implementation. [`MemoryBackend`] is the reference
//! implementation, [`RedisBackend`] the one for production.

mod arc;
mod call;
mod dynamic;
mod info;
mod memory;
mod owner;
#[cfg(feature = "redis")]
mod redis;
mod subscription;

use std::future::{Future, ready};
use std::time::Duration;

pub use self::call::{Created, Cursor, Deleted, Extension, Page, Touched, Update, Updated};
pub(crate) use self::dynamic::{Answer, DynBackend};
pub use self::info::{BackendInfo, HistoryProof, ServerInfo};
pub use self::memory::MemoryBackend;
pub use self::owner::OwnerTag;
#[cfg(feature = "tls")]
pub use self::redis::RedisTls;
#[cfg(feature = "redis")]
pub use self::redis::{
    RedisAddress, RedisBackend, RedisCluster, RedisConfig, RedisCredentials, RedisSentinels,
};
pub use self::subscription::{Event, Subscription, SubscriptionSender};
pub use crate::clock::Timestamp;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
pub use crate::record::{Content, Lifespan, Meta, Revision, Stored};

/// Storage of records and delivery of announcements.
///
/// The store calls a backend to load and change records. The backend also tells all nodes about
/// each change, so that they can evict their copies. Both must happen in one step, which is why one
/// trait has both.
///
/// # Contract
///
/// - Each call is atomic. A write and its announcement are one step: no other node sees one of them
///   before the other is done or under way. If the announcement fails, nothing is written.
/// - Each announcement is delivered, byte for byte, to every [subscriber](Backend::subscribe).
///   Those about one session come in the order of the writes. An announcement may be delivered
///   again, at any time.
/// - Each call ends within a bounded time.
/// - An error means that nothing was done. The exception is
///   [`OutcomeUnknown`](crate::StoreErrorKind::OutcomeUnknown): the write may or may not have been
///   carried out.
/// - A missing record is an answer and never an error.
/// - A call whose future is dropped leaves nothing half done: either all of it is carried out or
///   nothing.
/// - Records, tombstones and times come back exactly as they were given. A backend that stores
///   bytes can use [`Stored::to_bytes`] and [`Stored::from_bytes`].
/// - A record expires by its time to live alone. A backend does not compare [`Meta::deadline`] with
///   its clock.
///
/// The store gives up each call except `clear` and `subscribe` after
/// [`attempt_timeout`](crate::SessionConfigBuilder::attempt_timeout). It retries after
/// [`Unavailable`](crate::StoreErrorKind::Unavailable), [`Timeout`](crate::StoreErrorKind::Timeout)
/// and [`OutcomeUnknown`](crate::StoreErrorKind::OutcomeUnknown) where that is safe. A backend
/// needs no retries of its own.
///
/// # Required and optional methods
///
/// Methods without a default body are required. The optional methods form groups; a backend
/// implements all methods of a group or none.
///
/// | group | needed for | default bodies |
/// |---|---|---|
/// | [`add_to_owner`](Backend::add_to_owner), [`remove_from_owner`](Backend::remove_from_owner), [`sessions_of_owner`](Backend::sessions_of_owner) | [`SessionConfigBuilder::owner`](crate::SessionConfigBuilder::owner) and all that builds on it | fail with [`NotConfigured`](crate::StoreErrorKind::NotConfigured) |
/// | [`expire_in_owner`](Backend::expire_in_owner) | an owner index that forgets the old ids of regenerated sessions soon | do nothing |
///
/// A backend without the first group supports everything else. If the configuration sets `owner`
/// over such a backend, each write of a session that has an owner fails with `NotConfigured`, and
/// nothing is written.
///
/// # Growth
///
/// New methods always have a default body, so a new version does not break an implementation.
/// Arguments and answers that may grow are `#[non_exhaustive]` and have constructors. A wrapper
/// that forwards calls to another backend must not miss a new method: put
/// `#[deny(clippy::missing_trait_methods)]` on its `impl`, as this crate does, or build it on
/// [`testing::Interposed`](crate::testing::Interposed).
///
/// # Conformance
///
/// [`testing::conformance`](crate::testing::conformance) (feature `testing`) checks this contract.
/// Run it in the tests of each implementation.
pub trait Backend: Send + Sync + 'static {
    /// Returns the record or tombstone under an id, or `None`.
    fn load(
        &self,
        id: &SessionId,
    ) -> impl Future<Output = Result<Option<Stored>, StoreError>> + Send;

    /// Writes a record unless there is one under its id.
    ///
    /// Makes no announcement: no other node can know the id yet.
    fn create(
        &self,
        id: &SessionId,
        stored: &Stored,
        ttl: Duration,
    ) -> impl Future<Output = Result<Created, StoreError>> + Send;

    /// Replaces the record if it has the expected revision, and announces that.
    ///
    /// A record that already has the *new* revision is [`Updated::Saved`], without a second
    /// announcement, so that the store can retry. A tombstone counts as a record.
    fn update(
        &self,
        update: Update<'_>,
    ) -> impl Future<Output = Result<Updated, StoreError>> + Send;

    /// Removes the record, whatever its revision, but not a tombstone.
    ///
    /// Makes the announcement in any case, even if there is no record.
    fn delete(
        &self,
        id: &SessionId,
        announcement: &[u8],
    ) -> impl Future<Output = Result<Deleted, StoreError>> + Send;

    /// Removes the record if it has this revision.
    ///
    /// Makes the announcement unless it answers [`Deleted::Conflict`].
    fn delete_if(
        &self,
        id: &SessionId,
        revision: Revision,
        announcement: &[u8],
    ) -> impl Future<Output = Result<Deleted, StoreError>> + Send;

    /// Moves the deadline and the time to live of a record forward, never back, and records the
    /// time at which it was used.
    ///
    /// The revision stays, and no announcement is made. A tombstone is not extended. A record with
    /// [`Lifespan::Fixed`] stays as it is, and the answer is [`Touched::Extended`].
    fn touch(
        &self,
        id: &SessionId,
        extension: Extension,
    ) -> impl Future<Output = Result<Touched, StoreError>> + Send;

    /// Removes all records and returns the number of sessions among them, without tombstones. A
    /// session that was there when this was called is gone afterwards, even if a tombstone has
    /// taken its place meanwhile, and another id its data.
    ///
    /// A backend that deletes in several steps makes the announcement in each step. At least one
    /// announcement is made.
    fn clear(&self, announcement: &[u8]) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Returns one page of the ids of all records; without a cursor, the first page.
    ///
    /// A record that exists during the whole scan is on at least one page. A record that becomes a
    /// tombstone meanwhile is found as one or the other.
    fn scan(
        &self,
        cursor: Option<&Cursor>,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// Sends an announcement that belongs to no write.
    fn publish(&self, announcement: &[u8]) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Subscribes to all announcements. `heartbeat` is the interval at which the stream should
    /// yield [`Event::Alive`].
    ///
    /// See [`Event`] for the contract of the stream.
    fn subscribe(
        &self,
        heartbeat: Duration,
    ) -> impl Future<Output = Result<Subscription, StoreError>> + Send;

    /// Succeeds if the backend answers.
    fn ping(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Closes all connections. Later calls may fail.
    fn close(&self) -> impl Future<Output = ()> + Send;

    /// Returns `true` if entries of an owner's index may be lost before they expire, for example
    /// because the server evicts keys when it runs out of memory. A deletion by owner then also
    /// looks at all sessions. Returns `false` by default.
    fn may_lose_index_entries(&self) -> bool {
        false
    }

    /// Returns what the backend has found out about its servers. Does no IO. By default, there are
    /// none.
    fn info(&self) -> BackendInfo {
        BackendInfo::default()
    }

    /// Adds a session to an owner's index.
    ///
    /// The entry must live at least until `until`, or until the latest moment that any call has
    /// given for it. It must eventually expire after that moment, by the backend's own clock, so
    /// that the index stays bounded. There may or may not be a record under the id. Makes no
    /// announcement.
    ///
    /// Idempotent: never fails with [`OutcomeUnknown`](crate::StoreErrorKind::OutcomeUnknown).
    fn add_to_owner(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
        until: Timestamp,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = (owner, id, until);
        ready(Err(no_owner_index()))
    }

    /// Removes a session from an owner's index, if it is there.
    ///
    /// Nothing else may remove an entry before it expires. [`clear`](Backend::clear) must not,
    /// either: a session that is being created at that time is already in the index. Makes no
    /// announcement.
    ///
    /// Idempotent: never fails with [`OutcomeUnknown`](crate::StoreErrorKind::OutcomeUnknown).
    fn remove_from_owner(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = (owner, id);
        ready(Err(no_owner_index()))
    }

    /// Lets an entry of an owner's index expire after `ttl`, by the backend's own clock, unless it
    /// expires earlier. Does nothing if there is no entry.
    ///
    /// Called for the old id of a regenerated session. Without it, the index keeps one entry for
    /// each regeneration for as long as the session could have lived.
    ///
    /// Idempotent: never fails with [`OutcomeUnknown`](crate::StoreErrorKind::OutcomeUnknown).
    fn expire_in_owner(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
        ttl: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = (owner, id, ttl);
        ready(Ok(()))
    }

    /// Returns one page of an owner's index; without a cursor, the first page. Its `moved` is
    /// always empty.
    ///
    /// An entry that exists during the whole scan is on at least one page. The cost must depend on
    /// the entries of this owner alone.
    fn sessions_of_owner(
        &self,
        owner: &OwnerTag,
        cursor: Option<&Cursor>,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send {
        let _ = (owner, cursor);
        ready(Err(no_owner_index()))
    }
}

/// The error of a backend that does not implement the methods of the owner index.
fn no_owner_index() -> StoreError {
    StoreError::from(StoreErrorKind::NotConfigured).with_source(
        "this backend keeps no owner index: implement `add_to_owner`, `remove_from_owner` and \
         `sessions_of_owner`, or build the configuration without `owner`",
    )
}
