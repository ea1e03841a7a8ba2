//! The session that a request shares with its handler, the middleware and the commit: the locks and
//! awaits around [`RequestState`].

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::SessionError;
use super::batch::{Change, apply_all};
use super::loaded::Loaded;
use super::logout::Logout;
use super::state::{CookieChange, Rebase, RequestState, Snapshot};
use crate::cookie::VerifiedCookies;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::record::{Record, SessionData};
use crate::store::{Degraded, Freshness, SessionStore};

/// The one session of a request. Shared by all clones of the request's
/// [`Session`](super::Session), the middleware, and the task that commits.
pub(crate) struct RequestSession<T> {
    pub(super) store: SessionStore<T>,
    verified: VerifiedCookies,
    state: Mutex<RequestState<T>>,
    /// Held while the session is loaded or committed, so that these run one at a time.
    pub(super) io_lock: tokio::sync::Mutex<()>,
    /// [`Logout::carry_out_in_background`]. It needs `T: SessionData`, and the drops that call it
    /// must not have that bound, so that types that contain a session need not repeat it.
    carry_out_in_background: fn(Logout<T>, &SessionStore<T>),
}

/// The session's changes to the response head.
#[derive(Debug)]
pub(crate) struct HeadChanges {
    /// `true` if the response may depend on the session.
    pub(crate) extracted: bool,
    pub(crate) cookie: Option<CookieChange>,
    /// Maximum remaining lifetime of the session.
    pub(crate) lifetime: Duration,
}

impl<T: SessionData> RequestSession<T> {
    pub(crate) fn new(store: SessionStore<T>, verified: VerifiedCookies) -> Self {
        RequestSession {
            state: Mutex::new(RequestState::new(store.default_data())),
            store,
            verified,
            io_lock: tokio::sync::Mutex::new(()),
            carry_out_in_background: Logout::carry_out_in_background,
        }
    }

    /// Creates a session that is loaded already, for [`Session::detached`](super::Session).
    pub(super) fn with_record(store: SessionStore<T>, record: Record<T>) -> Self {
        let request = Self::new(store, VerifiedCookies::None);
        request.rebase_onto(Loaded::Live(record), None);
        request
    }

    /// Loads the session unless that was done already.
    pub(super) async fn load(&self) -> Result<(), SessionError> {
        if self.lock().is_loaded() {
            return Ok(());
        }
        let _one_at_a_time = self.io_lock.lock().await;
        if self.lock().is_loaded() {
            // By another extraction, in the meantime.
            return Ok(());
        }
        self.load_again(Loaded::NotYet, Freshness::Cached).await
    }

    /// Loads the session past the cache and applies the uncommitted changes again on top of it.
    pub(super) async fn reload(&self) -> Result<(), SessionError> {
        let _one_at_a_time = self.io_lock.lock().await;
        let before = self.lock().loaded().clone();
        self.load_again(before, Freshness::Fresh).await
    }

    /// Replaces `before`, which was loaded until now. The caller holds `io_lock`.
    async fn load_again(
        &self,
        before: Loaded<T>,
        freshness: Freshness,
    ) -> Result<(), SessionError> {
        let id = match (&before, &self.verified) {
            (Loaded::NotYet, VerifiedCookies::One(cookie)) => Some(cookie.token.session_id()),
            (loaded, _) => loaded.id(),
        };
        let loaded = match (id, &self.verified) {
            (None, VerifiedCookies::Several(ids)) => Loaded::Ambiguous(ids.clone()),
            (None, _) => Loaded::NoSession,
            (Some(id), _) => match self.store.read(id, freshness).await {
                Ok(Some(record)) => Loaded::Live(record),
                Ok(None) => match before {
                    Loaded::Live(_) | Loaded::Stale(..) | Loaded::EndedMeanwhile(_) => {
                        Loaded::EndedMeanwhile(id)
                    }
                    _ => Loaded::Missing(id),
                },
                Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                    Loaded::Unreadable(error, id)
                }
                // The outage policy does not apply to callers that want a fresh session.
                Err(error) if freshness == Freshness::Fresh => return Err(error.into()),
                Err(error) => match self.store.degraded(&id, &error) {
                    Some(Degraded::Default) => Loaded::Unavailable(error, id),
                    Some(Degraded::Stale(record)) => Loaded::Stale(error, record),
                    None => return Err(error.into()),
                },
            },
        };
        self.rebase_onto(loaded, None);
        Ok(())
    }

    /// Replaces what is loaded, applies the uncommitted changes to it again, and sets the cookie if
    /// there is one.
    pub(super) fn rebase_onto(&self, loaded: Loaded<T>, cookie: Option<CookieChange>) {
        let default_data = self.store.default_data();
        let mut next = {
            let mut state = self.lock();
            if let Some(cookie) = cookie {
                state.set_cookie(cookie);
            }
            state.set_loaded(loaded, self.store.now(), default_data)
        };
        while let Some(Rebase { version, base, changes }) = next {
            let data = apply_all(&*base, &changes);
            next = self.lock().finish_rebase(version, data, default_data);
        }
    }

    /// Applies a change to the data that the request sees, and keeps it for the commit.
    ///
    /// The change is applied to a copy, outside the lock, and again if another change comes first.
    pub(super) fn apply(&self, change: &Change<T>) {
        let mut snapshot = self.lock().snapshot();
        loop {
            let Snapshot { version, data } = snapshot;
            let data = apply_all(&*data, std::slice::from_ref(change));
            let pushed = self.lock().push_change(version, change, data);
            match pushed {
                Ok(()) => return,
                Err(newer) => snapshot = newer,
            }
        }
    }

    /// Marks the response head as sent and returns what the session adds to it.
    ///
    /// A session that is due for it is extended or encrypted again, in the background.
    pub(crate) fn send_head(&self) -> HeadChanges {
        let (extracted, cookie, live) = {
            let mut state = self.lock();
            let cookie = state.send_head(self.verified.one());
            (state.is_loaded(), cookie, state.live_record().cloned())
        };
        let mut lifetime = Duration::MAX;
        if let Some(record) = live {
            if matches!(cookie, Some(CookieChange::Set(_))) {
                lifetime = self.store.remaining_lifetime(&record);
            }
            self.store.touch_if_due(&record);
            self.store.reencrypt_if_needed(&record);
        }
        HeadChanges { extracted, cookie, lifetime }
    }
}

impl<T> RequestSession<T> {
    pub(super) fn lock(&self) -> MutexGuard<'_, RequestState<T>> {
        // The application's closures run outside the lock, so no panic leaves a state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn regenerate(&self) {
        self.lock().regenerate();
    }

    pub(super) fn destroy(&self) {
        self.lock().destroy(self.store.default_data());
    }

    pub(crate) fn discard(&self) {
        self.lock().discard(self.store.default_data());
    }

    /// Returns the session's id, unless the handler has destroyed the session.
    pub(super) fn id(&self) -> Option<SessionId> {
        self.lock().record().map(Record::id)
    }

    pub(super) fn outage(&self) -> Option<StoreError> {
        self.lock().loaded().outage().cloned()
    }

    /// Returns `true` if the response must wait for a commit that is planned, pending or running.
    pub(crate) fn needs_commit(&self) -> bool {
        let state = self.lock();
        state.has_work() || self.io_lock.try_lock().is_err()
    }

    /// Ends a request that has no response head: it was cancelled, has panicked or has failed.
    ///
    /// A logout is still carried out. Other changes are dropped, unless their commit was requested.
    pub(crate) fn abort(&self) {
        let logout = self.lock().abort(self.store.default_data());
        if let Some(logout) = logout {
            (self.carry_out_in_background)(logout, &self.store);
        }
    }
}

/// Carries out a logout that was never committed. Other uncommitted changes, such as those made
/// after the response head was sent, are lost, counted and logged.
impl<T> Drop for RequestSession<T> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let logout = state.take_logout();
        if state.has_changes() {
            self.store.count_dropped_changes();
            tracing::warn!(
                session = state.loaded().id().map(tracing::field::display),
                "changes to a session were never committed: after the response has begun, call save() or use modify()"
            );
        }
        if let Some(logout) = logout {
            (self.carry_out_in_background)(logout, &self.store);
        }
    }
}
