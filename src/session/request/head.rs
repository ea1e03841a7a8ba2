//! The session's part in the response head.

use std::sync::{Arc, MutexGuard};

use super::{CachedRead, RequestSession};
use crate::cookie::VerifiedCookie;
use crate::record::{Record, SessionData};
use crate::session::head::{CookieChange, HeadChanges};
use crate::session::loaded::Loaded;
use crate::session::state::RequestState;

impl<T: SessionData> RequestSession<T> {
    /// Returns the cookie that must be signed again, with the current secret, if the session which
    /// it names is the one that is loaded.
    pub(in super::super) fn outdated_cookie(&self, record: &Record<T>) -> Option<&VerifiedCookie> {
        self.active
            .get()?
            .verified
            .get()?
            .naming(record.id())
            .filter(|cookie| cookie.needs_resigning)
    }

    /// Returns a cookie that must be signed again and whose session has to be looked up for that:
    /// the node does not have it in its cache, which would tell that the session has got a new
    /// token meanwhile.
    pub(in super::super) fn cookie_to_confirm(
        &self,
        loaded: &Loaded<T>,
    ) -> Option<&VerifiedCookie> {
        let Loaded::Live(record) = loaded else { return None };
        let cookie = self.outdated_cookie(record)?;
        (!self.store().is_known_to_exist(&cookie.id)).then_some(cookie)
    }

    /// Marks the response head as sent and returns what the session adds to it, unless the response
    /// must wait for a commit that is planned, pending or running.
    pub(crate) fn send_head_unless_busy(self: &mut Arc<Self>) -> Option<HeadChanges> {
        if let Some(request) = Arc::get_mut(self)
            && request.active.get().is_none()
        {
            // No handle is left that could do more, so the head need not be marked as sent.
            return Some(request.passive_head());
        }
        let state = self.lock();
        // A session that was not extracted has no handle that could commit it.
        let must_wait = state.is_loaded() && state.has_work()
            || state.has_begun_io() && self.active().io_lock.try_lock().is_err()
            || self.cookie_to_confirm(state.loaded()).is_some();
        (!must_wait).then(|| self.head_changes(state))
    }

    /// Returns what the session of a passive request adds to the response head.
    fn passive_head(&self) -> HeadChanges {
        let Some(CachedRead { record, seen }) = self.cached.get() else {
            return HeadChanges::without_cookie(false);
        };
        self.store().touch_if_due(record, seen.at);
        self.store().reencrypt_if_needed(record);
        HeadChanges::without_cookie(true)
    }

    /// Marks the response head as sent and returns what the session adds to it.
    pub(crate) fn send_head(&self) -> HeadChanges {
        self.head_changes(self.lock())
    }

    /// Marks the response head as sent and returns what the session adds to it.
    ///
    /// A session that is due for it is extended or encrypted again, in the background. A cookie
    /// that is signed with a previous secret is signed again, but only if the session is still
    /// cached: a request that has outlived a login must not undo it by sending the old token.
    fn head_changes(&self, mut state: MutexGuard<'_, RequestState<T>>) -> HeadChanges {
        let mut head = HeadChanges {
            ambiguous: matches!(state.loaded(), Loaded::Ambiguous),
            cookie: state.send_head(),
            ..HeadChanges::without_cookie(state.is_extracted())
        };
        let Some((record, seen_at)) = state.live_record() else { return head };
        // The session was in use when it was loaded: the clock need not be read again.
        let is_due = state.extends() && self.store().is_due(record, seen_at);
        let outdated = self.outdated_cookie(record).filter(|_| head.cookie.is_none());
        if !is_due && outdated.is_none() && head.cookie.is_none() {
            return head;
        }
        let record = record.clone();
        drop(state);
        if let Some(outdated) = outdated
            && self.store().is_known_to_exist(&record.id())
        {
            head.cookie = Some(CookieChange::Resign(outdated.token.clone()));
        }
        if head.cookie.as_ref().is_some_and(CookieChange::is_token) {
            head.lifetime = self.store().remaining_lifetime(&record);
            head.remembered = record.is_remembered();
        }
        if is_due {
            self.store().touch_if_due(&record, seen_at);
            self.store().reencrypt_if_needed(&record);
        }
        head
    }
}
