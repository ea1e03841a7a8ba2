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

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::poll_immediate;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::SessionStore;
use super::single_flight::Freshness;
use crate::clock::{Millis, millis};
use crate::cluster::{Lookup, Registration};
use crate::error::{StoreError, StoreErrorKind};
use crate::guards::{self, Guard};
use crate::id::SessionId;
use crate::record::{Absence, Ended, Record, Revision, SessionData};
use crate::task::join_result;

/// A watch on one session: see [`SessionStore::watch`] and [`Session::watch`].
///
/// [`Session::watch`]: crate::Session::watch
#[must_use = "a watch does nothing unless `changed` or `ended` is awaited"]
pub struct SessionWatch<T> {
    store: SessionStore<T>,
    registration: Registration,
    /// The version that the caller has seen.
    seen: Option<Revision>,
    /// The last moment at which the session was seen to exist.
    seen_at: Millis,
    /// The deadline that it had then.
    expires: Option<Millis>,
    /// `None` while it is certain that the session exists.
    doubt: Option<Doubt>,
    ended: Option<Ended>,
}

/// The version of a session that a request has seen.
pub(crate) struct Version {
    pub(crate) id: SessionId,
    pub(crate) revision: Revision,
    /// The moment at which the session was known to exist.
    pub(crate) seen_at: Millis,
}

/// The time in which it is in doubt that a session exists.
#[derive(Clone, Copy)]
struct Doubt {
    /// The moment up to which the session is known to have existed.
    since: Millis,
    /// When the last read of the session has ended, if one has.
    tried_at: Option<Millis>,
    /// `true` if a read has had more time than the grace, because nobody had asked before.
    extended: bool,
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
        self.watch_since(id, None, self.now())
    }

    /// Watches a session of which the caller has seen this version.
    pub(crate) fn watch_from(&self, version: &Version) -> SessionWatch<T> {
        self.watch_since(version.id, Some(version.revision), version.seen_at)
    }

    fn watch_since(
        &self,
        id: SessionId,
        seen: Option<Revision>,
        seen_at: Millis,
    ) -> SessionWatch<T> {
        SessionWatch {
            registration: self.inner.cache.watches().register(id),
            seen,
            seen_at,
            expires: None,
            doubt: None,
            ended: None,
            store: self.clone(),
        }
    }

    /// Reads a session under the id that it has by now.
    async fn read_where_it_is(&self, id: SessionId) -> Result<Option<Record<T>>, StoreError> {
        match self.read(id, Freshness::Cached).await? {
            Ok(record) => Ok(Some(record)),
            Err(Absence::Gone) => Ok(None),
            Err(Absence::Moved) => {
                let found = self.operation(self.load_present(id)).await?;
                Ok(found.filter(|record| !self.has_expired(record)))
            }
        }
    }

    /// Returns a session, or that there is none, if the cache says so.
    pub(super) fn known(&self, id: SessionId) -> Option<Option<Record<T>>> {
        match self.inner.cache.get_if_known(&id) {
            Lookup::Hit(record) => Some(Some(record)),
            Lookup::Absent(Absence::Gone) => Some(None),
            Lookup::Absent(Absence::Moved) | Lookup::Miss => None,
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
        self.store.start_pulse();
        loop {
            // From before the look on: what happens meanwhile leads to another one.
            let wake_up = self.registration.wake_up();
            let called = wake_up.next();
            match self.look().await {
                Look::Answer(answer) => return answer,
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
        let found = self.store.read_where_it_is(self.id()).await?;
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
        let found = match self.store.known(id) {
            Some(found) => found,
            None => match self.read(id, now).await {
                Ok(found) => found,
                Err(look) => return look,
            },
        };
        let Some(record) = found else { return Look::Answer(Err(self.end_of_what_is_gone())) };
        self.doubt = None;
        self.registration.is_there();
        (self.seen_at, self.expires) = (now, Some(record.expires()));
        let is_moved = record.id() != id;
        if is_moved {
            self.registration = self.store.inner.cache.watches().register(record.id());
        }
        self.registration.call_from(self.store.inner.cache.look_again_by(&record, now));
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

    /// Reads the session, as long as its existence may stay in doubt. Fails with the result of the
    /// look.
    async fn read(&mut self, id: SessionId, now: Millis) -> Result<Option<Record<T>>, Look<T>> {
        let since = self.store.certain_until(self.seen_at, now);
        let doubt = self.doubt.get_or_insert(Doubt { since, tried_at: None, extended: false });
        let watching = &self.store.inner.watching;
        let end = doubt.since.plus(millis(watching.grace));
        let last = doubt.tried_at.unwrap_or(doubt.since);
        let left = match end.0.saturating_sub(now.0) {
            // Nobody has asked the watch for a while, so it has not tried to read the session.
            0 if !doubt.extended && last.plus(2 * millis(watching.pulse)) < now => {
                doubt.extended = true;
                self.store.inner.backend.deadline().left()
            }
            left => Duration::from_millis(left),
        };
        let found = self.read_within(left, id).await;
        if let Some(doubt) = &mut self.doubt {
            doubt.tried_at = Some(self.store.now());
        }
        match found {
            Some(Ok(found)) => Ok(found),
            // A read that fails at once does not time out.
            Some(Err(error))
                if error.kind() != StoreErrorKind::Closed && self.store.now() < end =>
            {
                Err(Look::Unreadable)
            }
            Some(Err(_)) | None => Err(Look::Answer(Err(Ended::Unknown))),
        }
    }

    /// Reads the session when it is this watch's turn. Returns `None` if that takes too long.
    ///
    /// If there is no answer at once, a task waits for it: a watch may not be polled while its
    /// client is slow. It must not keep its turn from the others then, nor a load.
    async fn read_within(
        &self,
        limit: Duration,
        id: SessionId,
    ) -> Option<Result<Option<Record<T>>, StoreError>> {
        let store = self.store.clone();
        let read = async move {
            // The semaphore is never closed.
            let _turn = store.inner.cache.watches().looks().acquire().await;
            store.read_where_it_is(id).await
        };
        let mut read = Box::pin(timeout(limit, read).in_current_span());
        if let Some(answer) = poll_immediate(&mut read).await {
            return answer.ok();
        }
        join_result(AbortOnDropHandle::new(tokio::spawn(read)).await)?.ok()
    }
}

impl<T> fmt::Debug for SessionWatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionWatch").field("id", &self.registration.id()).finish_non_exhaustive()
    }
}
