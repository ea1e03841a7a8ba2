//! Cookies that were not accepted: counted, and logged without their values.

use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Clock;
use crate::cookie::CookieRefusal;
use crate::events::{Events, SessionEvent};
use crate::observe::{self, Counter, LogLimit, Metrics};

/// Counts and logs the refused cookies of a layer.
pub(crate) struct RefusedCookies {
    malformed: Counter,
    unknown_key: Counter,
    ambiguous: Counter,
    refused_log: Mutex<LogLimit>,
    ambiguous_log: Mutex<LogLimit>,
    clock: Clock,
    events: Arc<Events>,
}

impl RefusedCookies {
    pub(super) fn new(metrics: &Metrics, clock: Clock, events: Arc<Events>) -> Self {
        let counter =
            |reason| Counter::with_label(metrics, observe::REFUSED_COOKIES, ("reason", reason));
        RefusedCookies {
            malformed: counter(CookieRefusal::Malformed.name()),
            unknown_key: counter(CookieRefusal::UnknownKey.name()),
            ambiguous: counter("ambiguous"),
            refused_log: Mutex::default(),
            ambiguous_log: Mutex::default(),
            clock,
            events,
        }
    }

    /// Reports a cookie that does not verify. Anyone can send such a cookie, so the log is limited.
    pub(super) fn refused(&self, refusal: CookieRefusal) {
        match refusal {
            CookieRefusal::Malformed => self.malformed.add_one(),
            CookieRefusal::UnknownKey => self.unknown_key.add_one(),
        }
        if let Some(suppressed) = self.admits(&self.refused_log) {
            self.events.emit(|| SessionEvent::CookieRefused { suppressed });
            tracing::info!(
                reason = refusal.name(),
                suppressed,
                "a session cookie does not verify: no secret of this node has signed it"
            );
        }
    }

    /// Reports a request with the cookies of several sessions.
    pub(crate) fn ambiguous(&self) {
        self.ambiguous.add_one();
        if let Some(suppressed) = self.admits(&self.ambiguous_log) {
            tracing::warn!(
                suppressed,
                "a request has the cookies of several sessions: it is treated as one without a session, until the visitor logs in or out"
            );
        }
    }

    fn admits(&self, limit: &Mutex<LogLimit>) -> Option<u64> {
        limit.lock().unwrap_or_else(PoisonError::into_inner).admit(self.clock.now())
    }
}
