//! A session as the store hands it out: its data and what is known about it.

mod binary;
mod data;
mod revision;
mod stored;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

pub use self::data::SessionData;
pub use self::revision::Revision;
pub use self::stored::{Content, Meta, Stored};
use crate::clock::{Clock, Millis, Timestamp};
use crate::id::{SessionId, SessionToken};

/// A session's data with its id and times. A cheap clone of something shared and never changed: a change makes a new record.
pub struct Record<T> {
    inner: Arc<RecordInner<T>>,
}

struct RecordInner<T> {
    id: SessionId,
    revision: Revision,
    created_at: Timestamp,
    /// The one thing that moves: reading a session extends it without making a new version of it.
    deadline: AtomicU64,
    /// Whether somebody is extending the session at this moment.
    touching: AtomicBool,
    /// Whether it is to be written anew, and nobody has tried yet.
    needs_reencryption: AtomicBool,
    /// Wall clock minus monotonic clock when the record was read, so that a cached read asks one clock only.
    wall_ahead: u64,
    data: Arc<T>,
}

impl<T> Record<T> {
    pub(crate) fn new(clock: &Clock, id: SessionId, meta: Meta, data: Arc<T>) -> Self {
        let wall_ahead = clock.wall().as_millis().wrapping_sub(clock.now().0);
        let Meta { revision, created_at, deadline } = meta;
        let deadline = AtomicU64::new(deadline.as_millis());
        let touching = AtomicBool::new(false);
        let needs_reencryption = AtomicBool::new(false);
        Record {
            inner: Arc::new(RecordInner {
                id,
                revision,
                created_at,
                deadline,
                touching,
                needs_reencryption,
                wall_ahead,
                data,
            }),
        }
    }

    /// The same record, which is to be written anew.
    pub(crate) fn needs_reencryption(self) -> Self {
        self.inner.needs_reencryption.store(true, Ordering::Relaxed);
        self
    }

    /// Whether it is to be written anew, by the caller: `true` once.
    pub(crate) fn take_needs_reencryption(&self) -> bool {
        // Read by every request, written by one.
        self.inner.needs_reencryption.load(Ordering::Relaxed)
            && self.inner.needs_reencryption.swap(false, Ordering::Relaxed)
    }

    /// The session's id.
    pub fn id(&self) -> SessionId {
        self.inner.id
    }

    /// The session's data.
    pub fn data(&self) -> &Arc<T> {
        &self.inner.data
    }

    /// When the session was created, or given its present id by `regenerate`.
    pub fn created_at(&self) -> SystemTime {
        self.inner.created_at.into()
    }

    /// When the session ends if nobody uses it until then.
    pub fn expires_at(&self) -> SystemTime {
        self.deadline().into()
    }

    pub(crate) fn revision(&self) -> Revision {
        self.inner.revision
    }

    pub(crate) fn meta(&self) -> Meta {
        Meta {
            revision: self.inner.revision,
            created_at: self.inner.created_at,
            deadline: self.deadline(),
        }
    }

    pub(crate) fn deadline(&self) -> Timestamp {
        Timestamp::from_millis(self.inner.deadline.load(Ordering::Relaxed))
    }

    /// The deadline on this node's monotonic clock.
    pub(crate) fn expires(&self) -> Millis {
        Millis(self.deadline().as_millis().saturating_sub(self.inner.wall_ahead))
    }

    /// A moment on this node's monotonic clock, on the wall clock.
    pub(crate) fn wall(&self, now: Millis) -> Timestamp {
        Timestamp::from_millis(now.0.wrapping_add(self.inner.wall_ahead))
    }

    /// `Some` if the caller is the one to extend the session now, until it drops this.
    pub(crate) fn begin_touch(&self) -> Option<Touch<T>> {
        (!self.inner.touching.swap(true, Ordering::Relaxed)).then(|| Touch(self.clone()))
    }

    pub(crate) fn extend(&self, deadline: Timestamp) {
        self.inner.deadline.fetch_max(deadline.as_millis(), Ordering::Relaxed);
    }
}

/// An extension of a session's life under way.
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

/// Without the data: it is the application's, and may be private.
impl<T> fmt::Debug for Record<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("id", &self.inner.id)
            .field("revision", &self.inner.revision)
            .finish_non_exhaustive()
    }
}

/// A session that has just been created.
#[must_use = "the token is nowhere else: without it nobody can use the session"]
pub struct NewSession<T> {
    /// The session's id.
    pub id: SessionId,
    /// The credential, to be put into the visitor's cookie.
    pub token: SessionToken,
    /// The session.
    pub record: Record<T>,
}

impl<T> fmt::Debug for NewSession<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSession").field("record", &self.record).finish_non_exhaustive()
    }
}
