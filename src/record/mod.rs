//! A session as the store returns it: its data and metadata.

mod binary;
mod data;
mod ended;
mod lifespan;
mod revision;
mod snapshot;
mod stored;
mod verified_tag;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

pub use self::data::SessionData;
pub use self::ended::Ended;
pub use self::lifespan::Lifespan;
pub use self::revision::Revision;
pub use self::snapshot::Snapshot;
pub use self::stored::{Content, Meta, Stored};
pub(crate) use self::verified_tag::VerifiedTag;
use crate::clock::{Millis, Moment, Timestamp};
use crate::id::{SessionId, SessionToken};

/// A session's data with its id and times.
///
/// Cheap to clone. The shared data never changes: a change of the session makes a new record.
pub struct Record<T> {
    inner: Arc<RecordInner<T>>,
}

/// In this order, so that what every read of the cache looks at comes first, beside the reference
/// counts. A record of a large cache is in no cache of the processor.
#[repr(C)]
struct RecordInner<T> {
    /// This and the time of the last use are the only metadata that change: a read extends the
    /// session without making a new version. In milliseconds since the Unix epoch.
    deadline: AtomicU64,
    used_at: AtomicU64,
    /// Wall clock minus monotonic clock, in milliseconds, when the record was read. A cached read
    /// needs one clock only because of it.
    wall_offset: u64,
    created_at: Timestamp,
    /// The length of the data as bytes.
    data_len: u32,
    lifespan: Lifespan,
    /// `true` while a task is extending the session.
    touching: AtomicBool,
    /// `true` if the record must be re-encrypted and no task has tried yet.
    needs_reencryption: AtomicBool,
    /// The tag of the visitor's cookie, once it has been verified.
    verified_tag: OnceLock<VerifiedTag>,
    id: SessionId,
    revision: Revision,
    /// `None` for a session that still has the id and the owner with which it was created, as most
    /// have. This spares a cached record 16 bytes.
    past: Option<Box<Past>>,
    data: T,
}

/// What a session has kept from before its last regeneration or change of owner.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Past {
    origin: SessionId,
    logged_in_at: Timestamp,
}

impl<T> Record<T> {
    /// Creates a record that is read or written at the moment `now`. `data_len` is the length of
    /// the data as bytes, by which the cache is limited.
    pub(crate) fn new(now: Moment, id: SessionId, meta: Meta, data: T, data_len: usize) -> Self {
        let Meta { revision, created_at, logged_in_at, used_at, deadline, origin, lifespan } = meta;
        let [deadline, used_at] = [deadline, used_at].map(|time| AtomicU64::new(time.as_millis()));
        let past = Past { origin, logged_in_at };
        let touching = AtomicBool::new(false);
        let needs_reencryption = AtomicBool::new(false);
        Record {
            inner: Arc::new(RecordInner {
                deadline,
                used_at,
                wall_offset: now.wall_offset(),
                verified_tag: OnceLock::new(),
                data_len: u32::try_from(data_len).unwrap_or(u32::MAX),
                lifespan,
                touching,
                needs_reencryption,
                created_at,
                id,
                revision,
                past: (past != Past { origin: id, logged_in_at: created_at })
                    .then(|| Box::new(past)),
                data,
            }),
        }
    }

    /// Marks the record as one that must be re-encrypted.
    pub(crate) fn mark_for_reencryption(self) -> Self {
        self.inner.needs_reencryption.store(true, Ordering::Relaxed);
        self
    }

    /// Returns `true` if the record must be re-encrypted and no task has tried yet.
    pub(crate) fn needs_reencryption(&self) -> bool {
        self.inner.needs_reencryption.load(Ordering::Relaxed)
    }

    /// Returns `true` once if the record must be re-encrypted. The caller must then do that.
    pub(crate) fn take_needs_reencryption(&self) -> bool {
        // Every request reads the flag, and only one writes it.
        self.needs_reencryption() && self.inner.needs_reencryption.swap(false, Ordering::Relaxed)
    }

    /// Remembers the tag of a cookie that names this session and has been verified, unless there is
    /// one already.
    pub(crate) fn remember_tag(&self, tag: VerifiedTag) {
        let _ = self.inner.verified_tag.set(tag);
    }

    /// Returns `true` if this is the tag that has been verified.
    pub(crate) fn has_tag(&self, tag: &VerifiedTag) -> bool {
        self.inner.verified_tag.get() == Some(tag)
    }

    /// Returns the session's id.
    pub fn id(&self) -> SessionId {
        self.inner.id
    }

    /// Returns the id under which the session was first created. Regenerations change the id and
    /// keep the origin, so an audit log can follow a session by it. Like the id, it is not a
    /// credential.
    ///
    /// ```
    /// # use clustered_sessions::{Secret, SessionConfig, SessionStore};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev")).build()?;
    /// # let store = SessionStore::new(config);
    /// let session = store.create(UserSession).await?;
    /// assert_eq!(session.record.origin(), session.id);
    /// # Ok(()) }
    /// ```
    pub fn origin(&self) -> SessionId {
        self.past().origin
    }

    fn past(&self) -> Past {
        let RecordInner { id, created_at, past, .. } = &*self.inner;
        past.as_deref().copied().unwrap_or(Past { origin: *id, logged_in_at: *created_at })
    }

    /// Returns `true` if the session is kept when the browser is closed, with the timeouts of
    /// [`remember_me`](crate::SessionConfigBuilder::remember_me).
    pub fn is_remembered(&self) -> bool {
        self.inner.lifespan == Lifespan::Remembered
    }

    /// Returns the session's data.
    pub fn data(&self) -> &T {
        &self.inner.data
    }

    /// Returns the time at which the session was created or last regenerated.
    pub fn created_at(&self) -> SystemTime {
        self.inner.created_at.into()
    }

    /// Returns the time at which the session began to belong to its present owner: the login. A
    /// regeneration keeps it. For a session without an owner, it is the time at which the session
    /// was first created, or at which its last owner logged in.
    pub fn logged_in_at(&self) -> SystemTime {
        self.past().logged_in_at.into()
    }

    /// Returns the time at which the session was last used, as far as it was recorded: at each
    /// change, and at a read once a part of the idle timeout has passed since
    /// ([`touch_after`](crate::SessionConfigBuilder::touch_after), by default a quarter).
    pub fn last_used_at(&self) -> SystemTime {
        self.meta().used_at.into()
    }

    /// Returns the time at which the session expires unless it is used before.
    pub fn expires_at(&self) -> SystemTime {
        self.deadline().into()
    }

    /// Returns `true` if both come from one read or write.
    pub(crate) fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Returns the length of the data as bytes.
    pub(crate) fn data_len(&self) -> u32 {
        self.inner.data_len
    }

    pub(crate) fn revision(&self) -> Revision {
        self.inner.revision
    }

    pub(crate) fn meta(&self) -> Meta {
        let Past { origin, logged_in_at } = self.past();
        Meta {
            revision: self.inner.revision,
            created_at: self.inner.created_at,
            logged_in_at,
            used_at: Timestamp::from_millis(self.inner.used_at.load(Ordering::Relaxed)),
            deadline: self.deadline(),
            origin,
            lifespan: self.inner.lifespan,
        }
    }

    /// Returns the time at which the session expires unless it is used before.
    pub(crate) fn deadline(&self) -> Timestamp {
        Timestamp::from_millis(self.inner.deadline.load(Ordering::Relaxed))
    }

    /// Returns the deadline on this node's monotonic clock.
    pub(crate) fn expires(&self) -> Millis {
        Millis(self.deadline().as_millis().saturating_sub(self.inner.wall_offset))
    }

    /// Converts a time on this node's monotonic clock to the wall clock.
    pub(crate) fn wall(&self, now: Millis) -> Timestamp {
        Timestamp::from_millis(now.0.wrapping_add(self.inner.wall_offset))
    }

    /// Returns a guard if no other task is extending the session. Until the guard is dropped, no
    /// other task gets one.
    pub(crate) fn begin_touch(&self) -> Option<Touch<T>> {
        (!self.inner.touching.swap(true, Ordering::Relaxed)).then(|| Touch(self.clone()))
    }

    /// Takes over an extension that the backend has carried out.
    pub(crate) fn extend(&self, deadline: Timestamp, used_at: Timestamp) {
        self.inner.deadline.fetch_max(deadline.as_millis(), Ordering::Relaxed);
        self.inner.used_at.fetch_max(used_at.as_millis(), Ordering::Relaxed);
    }
}

/// The guard of a running extension of a session.
pub(crate) struct Touch<T>(Record<T>);

impl<T> Drop for Touch<T> {
    fn drop(&mut self) {
        self.0.inner.touching.store(false, Ordering::Relaxed);
    }
}

impl<T> Clone for Record<T> {
    fn clone(&self) -> Self {
        Record { inner: self.inner.clone() }
    }
}

/// Omits the data, which may be private.
impl<T> fmt::Debug for Record<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("id", &self.inner.id)
            .field("revision", &self.inner.revision)
            .finish_non_exhaustive()
    }
}

/// Why there is no session under an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    /// There is nothing: it never existed, was deleted, or has expired.
    Gone,
    /// There is a tombstone, which names this id: the session was regenerated or replaced a moment
    /// ago. Whoever still has the old id is late.
    Moved(SessionId),
}

/// A session that has just been created.
#[non_exhaustive]
#[must_use = "the token is stored nowhere else, and without it the session cannot be used"]
pub struct NewSession<T> {
    /// The session's id.
    pub id: SessionId,
    /// The session's token: the credential that belongs in the visitor's cookie.
    pub token: SessionToken,
    /// The session's data and metadata.
    pub record: Record<T>,
}

impl<T> fmt::Debug for NewSession<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSession").field("record", &self.record).finish_non_exhaustive()
    }
}
