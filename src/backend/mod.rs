//! Where records live and how changes are announced.
//!
//! [`Backend`] is the seam: whoever implements it gets the cache, the lease, the codec and the coherence rules without writing
//! any of them. [`MemoryBackend`] is the reference, [`RedisBackend`] the one for production.

mod dynamic;
mod memory;
mod owner;
#[cfg(feature = "redis")]
mod redis;
mod subscription;

use std::future::Future;
use std::time::Duration;

pub(crate) use self::dynamic::{Answer, DynBackend};
pub use self::memory::MemoryBackend;
pub use self::owner::OwnerTag;
#[cfg(feature = "redis")]
pub use self::redis::{RedisBackend, RedisConfig};
#[cfg(all(feature = "redis", any(test, fuzzing)))]
pub(crate) use self::redis::{decode_envelope, encode_envelope};
pub use self::subscription::{Event, Subscription, SubscriptionSender};
use crate::error::StoreError;
use crate::id::SessionId;
pub use crate::record::{Content, Meta, Revision, Stored};

/// Answer to [`Backend::create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The record is there now.
    Created,
    /// There is a record under this id already; nothing was changed.
    Exists,
}

/// Answer to [`Backend::update`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Updated {
    /// The new record is there, from this call or from an earlier attempt at it.
    Saved,
    /// Another revision is there; nothing was changed.
    Conflict(Stored),
    /// Nothing is there; nothing was changed.
    Gone,
}

/// Answer to [`Backend::delete`] and [`Backend::delete_if`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// The record was there and is gone.
    Deleted,
    /// There was none.
    Gone,
    /// A tombstone is there. It stays, and the deletion must go on at the id that it names.
    MovedTo(SessionId),
    /// Another revision is there; nothing was changed. Only [`Backend::delete_if`] answers so.
    Conflict(Stored),
}

/// Answer to [`Backend::touch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// The record lives at least until the deadline.
    Extended,
    /// There is none.
    Gone,
}

/// One page of a walk over all records, or over an owner's index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// A part of what is there.
    Ids {
        /// Some sessions.
        ids: Vec<SessionId>,
        /// The ids that tombstones name. Whether there is a session is not said.
        moved: Vec<SessionId>,
        /// Where to go on; `None` at the end.
        next: Option<Cursor>,
    },
    /// The cursor means nothing any more, since the server has changed: the walk must begin anew.
    Restart,
}

/// Where a walk goes on, opaque to all but the backend that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub String);

/// Where records live and how changes to them are announced.
///
/// # What an implementation promises
///
/// - Each call is atomic, and a write and its announcement are one step: nobody can see the one without the other being done
///   or under way. If the announcement is refused, nothing is written.
/// - `announcement` is to be delivered, byte for byte, to every [`subscribe`](Backend::subscribe)r, in the order of the writes.
/// - Each call ends within a bounded time.
/// - An error means "nothing was done", except that of kind
///   [`OutcomeUnknown`](crate::StoreErrorKind::OutcomeUnknown). *Not found* is an answer and never an error.
/// - A dropped future leaves nothing half done.
///
/// In return each call but `clear` and `subscribe` is given up after
/// [`attempt_timeout`](crate::SessionConfigBuilder::attempt_timeout), and made again after
/// [`Unavailable`](crate::StoreErrorKind::Unavailable), [`Timeout`](crate::StoreErrorKind::Timeout) and
/// [`OutcomeUnknown`](crate::StoreErrorKind::OutcomeUnknown) where that is safe: a backend need not do so itself.
///
/// The suite in [`testing`](crate::testing) (feature `testing`) says whether it keeps them.
pub trait Backend: Send + Sync + 'static {
    /// The record under an id, or nothing.
    fn load(
        &self,
        id: &SessionId,
    ) -> impl Future<Output = Result<Option<Stored>, StoreError>> + Send;

    /// Puts a record where there is none. Not announced: nobody can know the id yet.
    fn create(
        &self,
        id: &SessionId,
        stored: &Stored,
        ttl: Duration,
    ) -> impl Future<Output = Result<Created, StoreError>> + Send;

    /// Replaces the record if it has the expected revision, and announces that. A record that has the new revision already is
    /// [`Updated::Saved`], so that an attempt can be repeated.
    fn update(
        &self,
        id: &SessionId,
        expected: Revision,
        stored: &Stored,
        ttl: Duration,
        announcement: &[u8],
    ) -> impl Future<Output = Result<Updated, StoreError>> + Send;

    /// Removes the record, whatever its revision, but not a tombstone. Announced in any case.
    fn delete(
        &self,
        id: &SessionId,
        announcement: &[u8],
    ) -> impl Future<Output = Result<Deleted, StoreError>> + Send;

    /// Removes the record if it has this revision. Announced unless it answers [`Deleted::Conflict`].
    fn delete_if(
        &self,
        id: &SessionId,
        revision: Revision,
        announcement: &[u8],
    ) -> impl Future<Output = Result<Deleted, StoreError>> + Send;

    /// Moves the deadline and the time to live forward, never back. No new revision, no announcement.
    fn touch(
        &self,
        id: &SessionId,
        deadline: u64,
        ttl: Duration,
    ) -> impl Future<Output = Result<Touched, StoreError>> + Send;

    /// Removes all records and says how many sessions they were. What is deleted in several steps is announced in each, and
    /// at least one announcement is made.
    fn clear(&self, announcement: &[u8]) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// One page of ids. A record that exists during the whole walk is met at least once; one that becomes a tombstone meanwhile is
    /// met as the one or the other.
    fn scan(
        &self,
        cursor: Option<&Cursor>,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// Notes that a session belongs to an owner. The entry lasts at least until a moment in milliseconds since the Unix epoch, by the
    /// backend's own clock, or longer if an earlier call has said so; when it is over, the backend must forget it in time, so that
    /// what an owner leaves behind stays bounded. Whether there is a record under the id does not matter. Not announced.
    ///
    /// Done twice it does no harm, so its failure is never a write of unknown outcome.
    fn index(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
        until: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Forgets an entry that [`index`](Backend::index) has made, if it is there. Nothing else forgets one before its time,
    /// [`clear`](Backend::clear) included: a session that is being created then is in the index already. Not announced, and its
    /// failure is never a write of unknown outcome.
    fn unindex(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// One page of an owner's index. An entry that exists during the whole walk is met at least once, and `moved` is always
    /// empty. What it costs depends on this owner's entries alone.
    fn indexed(
        &self,
        owner: &OwnerTag,
        cursor: Option<&Cursor>,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// Announces something that is no write.
    fn publish(&self, announcement: &[u8]) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Listens to all announcements. See [`Event`] for what the stream must say; `heartbeat` is how often it should say
    /// [`Event::Alive`].
    fn subscribe(
        &self,
        heartbeat: Duration,
    ) -> impl Future<Output = Result<Subscription, StoreError>> + Send;

    /// Whether the backend answers.
    fn ping(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Lets go of all connections. Later calls may answer with an error.
    fn close(&self) -> impl Future<Output = ()> + Send;
}
