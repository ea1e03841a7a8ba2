//! The session that a request shares with its handler, the middleware and the commit: the locks and
//! awaits around [`RequestState`].
//!
//! Most requests only read a session that is cached. Such a request is *passive*: it keeps the
//! record that was found, and takes no lock to read it. The first step that needs more, such as a
//! change, a commit or the verification of a cookie, makes the request *active*. From then on, its
//! state tells what it sees.

mod active;
mod head;
mod load;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, MutexGuard, OnceLock};

use http::HeaderMap;

use self::active::Active;
use super::SessionError;
use super::batch::{Batch, Change, apply_all};
use super::closures::{self, Running};
use super::head::CookieChange;
use super::layer_state::LayerState;
use super::loaded::{Loaded, Seen};
use super::logout::Logout;
use super::state::RequestState;
use super::view::{Rebase, Versioned};
use crate::clock::Millis;
use crate::cookie::{CookieHeaders, VerifiedCookies};
use crate::error::StoreError;
use crate::id::SessionId;
use crate::record::{Record, SessionData, Snapshot};
use crate::store::{SessionStore, Version};

/// The one session of a request. Shared by all clones of the request's
/// [`Session`](super::Session), the middleware, and the task that commits.
pub(crate) struct RequestSession<T> {
    layer: Arc<LayerState<T>>,
    cookies: CookieHeaders,
    /// The session, if it was cached and its cookie had been verified before.
    cached: OnceLock<CachedRead<T>>,
    active: OnceLock<Box<Active<T>>>,
}

/// A session as it was found in the cache.
struct CachedRead<T> {
    record: Record<T>,
    seen: Seen,
}

impl<T: SessionData> RequestSession<T> {
    pub(crate) fn new(layer: Arc<LayerState<T>>, headers: &HeaderMap) -> Self {
        RequestSession {
            layer,
            cookies: CookieHeaders::of(headers),
            cached: OnceLock::new(),
            active: OnceLock::new(),
        }
    }

    /// Creates a session that is loaded already, for [`Session::detached`](super::Session).
    pub(super) fn with_record(layer: Arc<LayerState<T>>, record: Record<T>) -> Self {
        let request = Self::new(layer, &HeaderMap::new());
        let _ = request.active().verified.set(VerifiedCookies::None);
        request.rebase_onto(Loaded::Live(record), None);
        request
    }

    /// Replaces what is loaded, applies the uncommitted changes to it again, and sets the cookie if
    /// there is one.
    pub(super) fn rebase_onto(&self, loaded: Loaded<T>, cookie: Option<CookieChange>) {
        let rebase = {
            let mut state = self.lock();
            if let Some(cookie) = cookie {
                state.set_cookie(cookie);
            }
            let seen = self.seen(loaded.record(), self.store().now());
            state.set_loaded(loaded, seen)
        };
        self.finish_rebases(rebase);
    }

    /// Returns the time of a read that has ended now.
    pub(super) fn seen(&self, record: Option<&Record<T>>, now: Millis) -> Seen {
        let alive_at = record.map_or(now, |record| self.store().alive_at(record, now));
        Seen { at: now, alive_at }
    }

    fn finish_rebases(&self, mut next: Option<Rebase<T>>) {
        while let Some(Rebase { version, base, changes }) = next {
            let apply = || self.apply_all(&base.unwrap_or_else(|| self.default_data()), &changes);
            let data = catch_unwind(AssertUnwindSafe(apply)).unwrap_or_else(|panic| {
                // What the request sees is not what is loaded, with the changes, and must not be
                // committed.
                self.lock().discard_after(SessionError::ChangesLost);
                resume_unwind(panic)
            });
            next = self.lock().finish_rebase(version, data);
        }
    }

    /// Returns the data that the request sees.
    pub(super) fn data(&self) -> Snapshot<T> {
        match self.passive() {
            Some(cached) => Snapshot::of(&cached.record),
            None => self.versioned().data,
        }
    }

    /// Calls `f` with the data that the request sees.
    pub(super) fn read<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        match self.passive() {
            Some(cached) => f(cached.record.data()),
            None => f(&self.versioned().data),
        }
    }

    fn versioned(&self) -> Versioned<T> {
        loop {
            if let Some(versioned) = self.lock().versioned() {
                return versioned;
            }
            self.default_data();
        }
    }

    /// Returns the default data of this request, which is made when it is first needed.
    fn default_data(&self) -> Snapshot<T> {
        // Not under the lock: `Default` is the application's code.
        let made = Snapshot::default();
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
            let Versioned { version, data } = self.versioned();
            let data = self.apply_all(&data, std::slice::from_ref(change));
            if self.lock().push_change(version, change, data) {
                return;
            }
        }
    }

    /// Applies changes, in order, to a copy of the data.
    pub(super) fn apply_all(&self, base: &T, changes: &[Change<T>]) -> Snapshot<T> {
        let _running = Running::of(self.address());
        apply_all(base, changes)
    }

    /// Begins a new session with this data.
    pub(super) fn replace(&self, data: T) {
        self.forbid_in_closure();
        let data = Snapshot::new(data);
        let given = data.clone();
        let change: Change<T> = Arc::new(move |data: &mut T| data.clone_from(&given));
        self.lock().replace(data, change);
    }
}

impl<T> RequestSession<T> {
    /// Returns what all requests of the layer share.
    pub(crate) fn layer(&self) -> &LayerState<T> {
        &self.layer
    }

    pub(super) fn store(&self) -> &SessionStore<T> {
        &self.layer.store
    }

    /// Returns what an active request has, and makes the request active.
    fn active(&self) -> &Active<T> {
        self.active.get_or_init(|| Box::new(Active::new()))
    }

    /// Returns the session that a passive request sees.
    fn passive(&self) -> Option<&CachedRead<T>> {
        match self.active.get() {
            None => self.cached.get(),
            Some(_) => None,
        }
    }

    /// Makes the request active, and locks its state.
    pub(super) fn lock(&self) -> MutexGuard<'_, RequestState<T>> {
        let mut state = self.active().lock();
        // Each time, since another extraction may find the session in the cache at any moment.
        if !state.is_loaded()
            && let Some(CachedRead { record, seen }) = self.cached.get()
        {
            state.take_over(record.clone(), *seen);
        }
        state
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

    /// Discards the changes of the response's commit, which failed with this error. A clone of the
    /// session may have made some of them: it gets the error from its next commit.
    pub(crate) fn discard_failed(&self, error: &SessionError) {
        self.lock().discard_after(error.clone());
    }

    /// Returns the session's id, unless the handler has destroyed or replaced the session.
    pub(super) fn id(&self) -> Option<SessionId> {
        match self.passive() {
            Some(cached) => Some(cached.record.id()),
            None => self.lock().record().map(Record::id),
        }
    }

    pub(super) fn record(&self) -> Option<Record<T>> {
        match self.passive() {
            Some(cached) => Some(cached.record.clone()),
            None => self.lock().record().cloned(),
        }
    }

    /// Returns the version that the request has seen, and when the session was known to exist,
    /// unless the handler has destroyed or replaced it. A session that was served during an outage
    /// is known to have existed at the end of the last lease alone.
    pub(super) fn version(&self) -> Option<Version> {
        let version = |record: &Record<T>, seen_at| Version {
            id: record.id(),
            origin: record.origin(),
            revision: record.revision(),
            seen_at,
        };
        if let Some(CachedRead { record, seen }) = self.passive() {
            return Some(version(record, seen.alive_at));
        }
        let state = self.lock();
        Some(version(state.record()?, state.alive_at().unwrap_or(Millis(0))))
    }

    pub(super) fn outage(&self) -> Option<StoreError> {
        self.active.get()?;
        self.lock().loaded().outage().cloned()
    }

    pub(super) fn unreadable(&self) -> Option<StoreError> {
        self.active.get()?;
        self.lock().loaded().unreadable().cloned()
    }

    /// Ends a request that has no response head: it was cancelled, has panicked or has failed.
    ///
    /// A logout is still carried out. Other changes are dropped, unless their commit was requested.
    pub(crate) fn abort(&self) {
        let logout = self.lock().abort();
        self.carry_out(logout);
    }

    /// Withdraws a commit that was requested and has not begun.
    pub(super) fn withdraw_commit(&self) {
        let logout = self.lock().withdraw_commit();
        self.carry_out(logout);
    }

    fn carry_out(&self, logout: Option<Logout<T>>) {
        if let Some(logout) = logout {
            (self.layer.carry_out_in_background)(logout, self.store());
        }
    }
}

/// Carries out a logout that was never committed. Other uncommitted changes, such as those made
/// after the response head was sent, are lost, counted and logged.
impl<T> Drop for RequestSession<T> {
    fn drop(&mut self) {
        let Some(active) = self.active.get_mut() else { return };
        let state = active.state_mut();
        let logout = state.take_logout();
        if state.has_changes() {
            self.layer.store.count_dropped_changes();
            tracing::warn!(
                session = state.loaded().id().map(tracing::field::display),
                "changes to a session were never committed: after the response has begun, call save() or use modify()"
            );
        }
        if let Some(logout) = logout {
            (self.layer.carry_out_in_background)(logout, &self.layer.store);
        }
    }
}

#[cfg(test)]
mod tests;
