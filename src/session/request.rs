//! The session that a request shares with its handler, the middleware and the commit: the locks and
//! awaits around [`RequestState`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;

use super::SessionError;
use super::batch::{Batch, Change, apply_all};
use super::closures::{self, Running};
use super::loaded::Loaded;
use super::logout::Logout;
use super::state::{CookieChange, Rebase, RequestState, Snapshot};
use crate::cookie::{VerifiedCookie, VerifiedCookies};
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::record::{Absence, Record, SessionData};
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
    /// `true` if the request has cookies of several sessions, none of which was used.
    pub(crate) ambiguous: bool,
    pub(crate) cookie: Option<CookieChange>,
    /// Maximum remaining lifetime of the session.
    pub(crate) lifetime: Duration,
    /// `true` if browsers are to keep the cookie when they are closed.
    pub(crate) remembered: bool,
}

impl<T: SessionData> RequestSession<T> {
    pub(crate) fn new(store: SessionStore<T>, verified: VerifiedCookies) -> Self {
        RequestSession {
            state: Mutex::new(RequestState::new(verified.rivals())),
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
        let loaded = match (&before, before.id()) {
            (Loaded::NotYet | Loaded::Ambiguous, _) => self.load_named(freshness).await?,
            (_, Some(id)) => self.load_one(id, before.was_seen(), freshness).await?,
            (_, None) => Loaded::NoSession,
        };
        self.rebase_onto(loaded, None);
        Ok(())
    }

    /// Loads the session that the request's cookies name. Nothing is allocated for a single cookie.
    async fn load_named(&self, freshness: Freshness) -> Result<Loaded<T>, SessionError> {
        match &self.verified {
            VerifiedCookies::None => Ok(Loaded::NoSession),
            VerifiedCookies::One(cookie) => {
                self.load_one(cookie.token.session_id(), false, freshness).await
            }
            VerifiedCookies::Several(cookies) => {
                let named = cookies.iter().map(|cookie| cookie.token.session_id());
                let loads = named.map(|id| self.load_one(id, false, freshness));
                Ok(Loaded::choose(try_join_all(loads).await?))
            }
            VerifiedCookies::TooMany(_) => Ok(Loaded::Ambiguous),
        }
    }

    /// Loads the session with this id. `was_seen` is `true` if it existed earlier in the request.
    async fn load_one(
        &self,
        id: SessionId,
        was_seen: bool,
        freshness: Freshness,
    ) -> Result<Loaded<T>, SessionError> {
        match self.store.read(id, freshness).await {
            Ok(Ok(record)) => Ok(Loaded::Live(record)),
            Ok(Err(_)) if was_seen => Ok(Loaded::EndedMeanwhile(id)),
            Ok(Err(Absence::Gone)) => Ok(Loaded::Missing(id)),
            Ok(Err(Absence::Moved)) => Ok(Loaded::Moved(id)),
            Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                Ok(Loaded::Unreadable(error, id))
            }
            // The outage policy does not apply to callers that want a fresh session.
            Err(error) if freshness == Freshness::Fresh => Err(error.into()),
            Err(error) => match self.store.degraded(&id, &error) {
                Some(Degraded::Default) => Ok(Loaded::Unavailable(error, id)),
                Some(Degraded::Stale(record)) => Ok(Loaded::Stale(error, record)),
                None => Err(error.into()),
            },
        }
    }

    /// Replaces what is loaded, applies the uncommitted changes to it again, and sets the cookie if
    /// there is one.
    pub(super) fn rebase_onto(&self, loaded: Loaded<T>, cookie: Option<CookieChange>) {
        let mut next = {
            let mut state = self.lock();
            if let Some(cookie) = cookie {
                state.set_cookie(cookie);
            }
            state.set_loaded(loaded, self.store.now())
        };
        while let Some(Rebase { version, base, changes }) = next {
            let base = base.unwrap_or_else(|| self.default_data());
            let data = self.apply_all(&base, &changes);
            next = self.lock().finish_rebase(version, data);
        }
    }

    /// Returns the data that the request sees.
    pub(super) fn data(&self) -> Arc<T> {
        self.snapshot().data
    }

    fn snapshot(&self) -> Snapshot<T> {
        loop {
            if let Some(snapshot) = self.lock().snapshot() {
                return snapshot;
            }
            self.default_data();
        }
    }

    /// Returns the default data of this request, which is made when it is first needed.
    fn default_data(&self) -> Arc<T> {
        // Not under the lock: `Default` is the application's code.
        let made = Arc::new(T::default());
        self.lock().provide_default(made).clone()
    }

    /// Takes what a commit has to write. If `with_data`, it includes what the request sees.
    pub(super) fn take_batch(&self, with_data: bool) -> Batch<T> {
        loop {
            {
                let mut state = self.lock();
                if !with_data || state.data().is_some() {
                    return state.take_batch();
                }
            }
            self.default_data();
        }
    }

    /// Applies a change to the data that the request sees, and keeps it for the commit.
    ///
    /// The change is applied to a copy, outside the lock, and again if another change comes first.
    pub(super) fn apply(&self, change: &Change<T>) {
        self.forbid_in_closure();
        loop {
            let Snapshot { version, data } = self.snapshot();
            let data = self.apply_all(&data, std::slice::from_ref(change));
            if self.lock().push_change(version, change, data) {
                return;
            }
        }
    }

    /// Applies changes, in order, to a copy of the data.
    pub(super) fn apply_all(&self, base: &T, changes: &[Change<T>]) -> Arc<T> {
        let _running = Running::of(self.address());
        apply_all(base, changes)
    }

    /// Begins a new session with this data.
    pub(super) fn replace(&self, data: T) {
        self.forbid_in_closure();
        let data = Arc::new(data);
        let given = data.clone();
        let change: Change<T> = Arc::new(move |data: &mut T| data.clone_from(&given));
        self.lock().replace(data, change);
    }

    /// Returns the cookie that must be signed again, with the current secret, if the session which
    /// it names is the one that is loaded.
    fn outdated_cookie(&self, record: &Record<T>) -> Option<&VerifiedCookie> {
        self.verified.naming(record.id()).filter(|cookie| cookie.needs_resigning)
    }

    /// Returns a cookie that must be signed again and whose session has to be looked up for that:
    /// the node has no cache that would tell whether the session has got a new token meanwhile.
    pub(super) fn cookie_to_confirm(&self, loaded: &Loaded<T>) -> Option<&VerifiedCookie> {
        match loaded {
            Loaded::Live(record) if !self.store.caches() => self.outdated_cookie(record),
            _ => None,
        }
    }

    /// Returns `true` if the response must wait for a commit that is planned, pending or running.
    pub(crate) fn needs_commit(&self) -> bool {
        let state = self.lock();
        state.has_work()
            || self.io_lock.try_lock().is_err()
            || self.cookie_to_confirm(state.loaded()).is_some()
    }

    /// Marks the response head as sent and returns what the session adds to it.
    ///
    /// A session that is due for it is extended or encrypted again, in the background. A cookie
    /// that is signed with a previous secret is signed again, but only if the session is still
    /// cached: a request that has outlived a login must not undo it by sending the old token.
    pub(crate) fn send_head(&self) -> HeadChanges {
        let (extracted, ambiguous, extends, mut cookie, live) = {
            let mut state = self.lock();
            let cookie = state.send_head();
            let ambiguous = matches!(state.loaded(), Loaded::Ambiguous);
            let live = state.live_record().cloned();
            (state.is_loaded(), ambiguous, state.extends(), cookie, live)
        };
        let (mut lifetime, mut remembered) = (Duration::MAX, false);
        if let Some(record) = live {
            if cookie.is_none()
                && let Some(outdated) = self.outdated_cookie(&record)
                && self.store.is_cached(&record.id())
            {
                cookie = Some(CookieChange::Set(outdated.token.clone()));
            }
            if matches!(cookie, Some(CookieChange::Set(_))) {
                lifetime = self.store.remaining_lifetime(&record);
                remembered = record.is_remembered();
            }
            if extends {
                self.store.touch_if_due(&record);
                self.store.reencrypt_if_needed(&record);
            }
        }
        HeadChanges { extracted, ambiguous, cookie, lifetime, remembered }
    }
}

impl<T> RequestSession<T> {
    pub(super) fn lock(&self) -> MutexGuard<'_, RequestState<T>> {
        // The application's closures run outside the lock, so no panic leaves a state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Panics if it is called by a closure that changes this session.
    #[track_caller]
    fn forbid_in_closure(&self) {
        closures::forbid_within(self.address());
    }

    /// Returns an address that identifies the request.
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    pub(super) fn regenerate(&self) {
        self.forbid_in_closure();
        self.lock().regenerate();
    }

    pub(super) fn destroy(&self) {
        self.forbid_in_closure();
        self.lock().destroy();
    }

    pub(super) fn discard(&self) {
        self.forbid_in_closure();
        self.lock().discard();
    }

    /// Discards the changes of a commit that has failed.
    pub(crate) fn discard_failed(&self) {
        self.lock().discard();
    }

    /// Returns the session's id, unless the handler has destroyed or replaced the session.
    pub(super) fn id(&self) -> Option<SessionId> {
        self.lock().record().map(Record::id)
    }

    pub(super) fn outage(&self) -> Option<StoreError> {
        self.lock().loaded().outage().cloned()
    }

    /// Ends a request that has no response head: it was cancelled, has panicked or has failed.
    ///
    /// A logout is still carried out. Other changes are dropped, unless their commit was requested.
    pub(crate) fn abort(&self) {
        let logout = self.lock().abort();
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
