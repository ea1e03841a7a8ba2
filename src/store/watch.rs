//! Watching sessions from one change to the next, and to their end.
//!
//! A watch rests on what keeps the cache coherent. While the node holds its lease, whatever happens
//! to a session is announced, and the announcement calls the watch. It is also called when a new
//! epoch begins, again and again while there is no lease, when the cache is cleared, and at the
//! session's deadline, which another node may have extended without an announcement. On a node that
//! does not listen, it is called when a cached record would have to be read again. Each time, it
//! looks at the session as a request would: in the cache, if that is allowed, or in the backend.
//!
//! Nothing is done for a watch in between. One task for each store calls those that are due.

mod doubt;

use std::fmt;
use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval, timeout};

use self::doubt::{Doubt, Reading};
use super::SessionStore;
use super::single_flight::Freshness;
use super::tombstone::MAX_TOMBSTONES;
use crate::clock::Millis;
use crate::cluster::{Lookup, Registration};
use crate::error::StoreError;
use crate::guards::{self, Guard};
use crate::id::SessionId;
use crate::record::{Absence, Ended, Record, Revision, SessionData};

/// A watch on one session: see [`SessionStore::watch`] and [`Session::watch`].
///
/// [`Session::watch`]: crate::Session::watch
#[must_use = "a watch does nothing unless `changed` or `ended` is awaited"]
pub struct SessionWatch<T> {
    store: SessionStore<T>,
    registration: Registration,
    /// The version that the caller has seen.
    seen: Option<Revision>,
    /// The id under which the session was first created, once it has been seen.
    origin: Option<SessionId>,
    /// The last moment at which the session was seen to exist.
    seen_at: Millis,
    /// The deadline that it had then.
    expires: Option<Millis>,
    /// `None` while it is certain that the session exists.
    doubt: Option<Doubt>,
    /// The read of the session that is under way. A call that is dropped leaves it to the next.
    reading: Option<Reading<T>>,
    ended: Option<Ended>,
}

/// The version of a session that a request has seen.
pub(crate) struct Version {
    pub(crate) id: SessionId,
    pub(crate) origin: SessionId,
    pub(crate) revision: Revision,
    /// The moment at which the session was known to exist.
    pub(crate) seen_at: Millis,
}

/// The result of a look at a session.
enum Look<T> {
    /// There is something to tell the caller.
    Answer(Result<Record<T>, Ended>),
    /// The session is as it was.
    Nothing,
    /// The session cannot be read now, so whatever led to the look is still unanswered.
    Unreadable,
    /// The session is now under another id, and is to be looked at there.
    Moved,
}

impl<T: SessionData> SessionStore<T> {
    /// Watches a session, also under the ids that regenerations give it. The first call of
    /// [`changed`](SessionWatch::changed) returns the session as it is then.
    ///
    /// ```
    /// # use clustered_sessions::{Ended, Secret, SessionConfig, SessionStore};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev")).build()?;
    /// # let store = SessionStore::new(config);
    /// # let session = store.create(UserSession).await?;
    /// let ended = store.watch(session.id).ended();
    /// store.delete(session.id).await?;
    /// assert_eq!(ended.await, Ended::Revoked);
    /// # Ok(()) }
    /// ```
    pub fn watch(&self, id: SessionId) -> SessionWatch<T> {
        self.watch_since(id, None, None, self.now())
    }

    /// Watches a session of which the caller has seen this version.
    pub(crate) fn watch_from(&self, version: &Version) -> SessionWatch<T> {
        let Version { id, origin, revision, seen_at } = *version;
        self.watch_since(id, Some(origin), Some(revision), seen_at)
    }

    fn watch_since(
        &self,
        id: SessionId,
        origin: Option<SessionId>,
        seen: Option<Revision>,
        seen_at: Millis,
    ) -> SessionWatch<T> {
        SessionWatch {
            registration: self.inner.cache.watches().register(id),
            origin,
            seen,
            seen_at,
            expires: None,
            doubt: None,
            reading: None,
            ended: None,
            store: self.clone(),
        }
    }

    /// Reads a session under the id that it has by now.
    ///
    /// A session keeps its origin. Another one to which a tombstone leads is another session:
    /// whoever can write to the backend can forge a tombstone, but not a record, if encryption is
    /// required.
    async fn read_where_it_is(
        &self,
        id: SessionId,
        origin: Option<SessionId>,
    ) -> Result<Option<Record<T>>, StoreError> {
        let mut id = id;
        for _ in 0..=MAX_TOMBSTONES {
            match self.read(id, Freshness::Cached).await? {
                Ok(record) => {
                    let is_it = origin.is_none_or(|origin| record.origin() == origin);
                    return Ok(is_it.then_some(record));
                }
                Err(Absence::Gone) => break,
                Err(Absence::Moved(new)) => id = new,
            }
        }
        Ok(None)
    }

    /// Returns a session, or that there is none, if the cache says so.
    pub(super) fn known(&self, id: SessionId) -> Option<Option<Record<T>>> {
        match self.inner.cache.get_if_known(&id) {
            Lookup::Hit(record) => Some(Some(record)),
            Lookup::Absent(Absence::Gone) => Some(None),
            Lookup::Absent(Absence::Moved(_)) | Lookup::Miss => None,
        }
    }

    /// Returns up to when a session that was seen at a moment is known to have existed, if nobody
    /// was told of its end: up to the end of the last lease.
    fn certain_until(&self, seen_at: Millis, now: Millis) -> Millis {
        match self.inner.cache.lease().last_held(|| now) {
            Some(held) => seen_at.max(held.until.min(now)),
            None => seen_at,
        }
    }

    /// Calls watches that are due, until there are none. While the node does not hold its lease,
    /// all are due: nobody would tell them of a change.
    fn start_pulse(&self) {
        let watches = self.inner.cache.watches();
        let Some(mut pulse) = watches.begin_pulse() else { return };
        let (watches, store) = (watches.clone(), Arc::downgrade(&self.inner));
        let mut ticks = interval(self.inner.watching.pulse);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::spawn(async move {
            loop {
                ticks.tick().await;
                let Some(store) = store.upgrade() else { return };
                if store.cache.is_trusted() || !guards::enabled(Guard::Doubt) {
                    watches.call_due(store.clock.now());
                } else {
                    watches.call_all();
                }
                store.watching.report(watches.len());
                if pulse.ends_if_idle() {
                    // One may have ended since, or begun.
                    store.watching.report(watches.len());
                    return;
                }
            }
        });
    }
}

impl<T: SessionData> SessionWatch<T> {
    /// Waits for a version of the session that the caller has not seen, and returns it. If there
    /// were several meanwhile, returns the last one.
    ///
    /// Cancel safe: a call that is dropped before it returns has seen nothing.
    ///
    /// # Errors
    ///
    /// Fails with the reason once the session has ended, and from then on.
    ///
    /// A change or an end on another node is noticed when its announcement arrives. If the network
    /// fails silently, it is noticed within [`max_staleness`](crate::ClusterConfig::max_staleness)
    /// and a quarter of it, or if the session cannot be read then, [`Ended::Unknown`] is returned
    /// after [`watch_grace`](crate::ClusterConfig::watch_grace). The expiry is noticed within a
    /// quarter of `max_staleness`. On a node that does not listen
    /// ([`enabled(false)`](crate::ClusterConfig::enabled)), what happens on another node is noticed
    /// after [`local_cache_ttl`](crate::ClusterConfig::local_cache_ttl).
    pub async fn changed(&mut self) -> Result<Record<T>, Ended> {
        if let Some(ended) = self.ended {
            return Err(ended);
        }
        let answer = self.next_answer().await;
        if let Err(ended) = answer {
            self.ended = Some(ended);
            self.store.inner.watching.count(ended);
        }
        answer
    }

    async fn next_answer(&mut self) -> Result<Record<T>, Ended> {
        loop {
            // From before the look on: what happens meanwhile leads to another one. And from before
            // the pulse is seen on: its end calls.
            let wake_up = self.registration.wake_up();
            let called = wake_up.next();
            self.store.start_pulse();
            let is_resumed = self.reading.is_some();
            match self.look().await {
                Look::Answer(answer) => return answer,
                // The session was read before this call, which knows of no earlier wake-up.
                Look::Nothing if is_resumed => {}
                Look::Nothing => called.await,
                // A timer of its own: other watches of the session may have read it.
                Look::Unreadable => {
                    let _ = timeout(self.store.inner.watching.pulse, called).await;
                }
                Look::Moved => {}
            }
        }
    }

    /// Waits until the session has ended, and returns the reason. See
    /// [`changed`](SessionWatch::changed) for how soon it is noticed.
    pub async fn ended(mut self) -> Ended {
        loop {
            if let Err(ended) = self.changed().await {
                return ended;
            }
        }
    }

    /// Extends the session as a request that uses it would: in the background, and only once a part
    /// of its idle timeout has passed
    /// ([`touch_after`](crate::SessionConfigBuilder::touch_after)). Returns `false` if the session
    /// has ended.
    ///
    /// Call it when the user does something over an open stream, which by itself does not extend
    /// the session. In between, it costs a cached read.
    ///
    /// # Errors
    ///
    /// As [`SessionStore::find`].
    ///
    /// ```
    /// # use clustered_sessions::{Ended, Secret, SessionConfig, SessionStore};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev")).build()?;
    /// # let store = SessionStore::new(config);
    /// # let session = store.create(UserSession).await?;
    /// # use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    /// # let (socket, mut client) = tokio::io::duplex(64);
    /// # let mut lines = BufReader::new(socket).lines();
    /// # client.write_all(b"hello\n").await?;
    /// let mut watch = store.watch(session.id);
    /// loop {
    ///     tokio::select! {
    ///         changed = watch.changed() => match changed {
    ///             Ok(session) => { /* show the new version */ }
    ///             Err(ended) => break,
    ///         },
    ///         line = lines.next_line() => {
    ///             assert!(watch.visit().await?);
    ///             /* answer it */
    /// #           break;
    ///         }
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn visit(&self) -> Result<bool, StoreError> {
        let read = self.store.read_where_it_is(self.id(), self.origin);
        let found = self.store.operation(read).await?;
        if let Some(record) = &found {
            self.store.touch_if_due(record, self.store.now());
        }
        Ok(found.is_some())
    }

    /// Returns the session's id as far as it is known. It changes when the session is regenerated.
    pub fn id(&self) -> SessionId {
        self.registration.id()
    }

    /// Looks at the session.
    async fn look(&mut self) -> Look<T> {
        let (id, now) = (self.id(), self.store.now());
        // Of many watchers of a session that has changed, one loads it, and most find it here.
        let (found, seen_at) = match self.store.known(id) {
            Some(found) => (found, now),
            None => match self.read(id, now).await {
                Ok(found) => found,
                Err(look) => return look,
            },
        };
        self.reading = None;
        let Some(record) = found else { return Look::Answer(Err(self.end_of_what_is_gone())) };
        self.doubt = None;
        self.origin = Some(record.origin());
        self.registration.is_there();
        (self.seen_at, self.expires) = (seen_at, Some(record.expires()));
        let is_moved = record.id() != id;
        if is_moved {
            self.registration = self.store.inner.cache.watches().register(record.id());
        }
        let due = self.store.inner.cache.look_again_by(&record, seen_at);
        self.registration.call_from(due, now);
        if self.seen.replace(record.revision()) != Some(record.revision()) {
            Look::Answer(Ok(record))
        } else if is_moved {
            Look::Moved
        } else {
            Look::Nothing
        }
    }

    fn end_of_what_is_gone(&self) -> Ended {
        if self.expires.is_some_and(|expires| self.store.now() >= expires) {
            return Ended::Expired;
        }
        self.registration.deletion().unwrap_or(Ended::Deleted)
    }
}

impl<T> fmt::Debug for SessionWatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionWatch").field("id", &self.registration.id()).finish_non_exhaustive()
    }
}
