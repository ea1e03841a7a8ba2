//! The result of loading a request's session.

use super::change::SessionState;
use crate::clock::Millis;
use crate::error::StoreError;
use crate::id::SessionId;
use crate::record::Record;

/// The result of looking up the session that the request's cookie names.
#[derive(Clone, Debug)]
pub(super) enum Loaded<T> {
    /// The session was not loaded yet.
    NotYet,
    /// There is no cookie that verifies.
    NoSession,
    /// Cookies of several sessions verify, so none of them is used.
    Ambiguous,
    /// A cookie verifies, but the session was gone at the first load.
    Missing(SessionId),
    /// The cookie leads to a tombstone: the session was regenerated or replaced a moment ago.
    Moved(SessionId),
    /// The session exists.
    Live(Record<T>),
    /// The session was loaded, and has been deleted or has expired since.
    EndedMeanwhile(SessionId),
    /// The record exists but cannot be decoded.
    Unreadable(StoreError, SessionId),
    /// The backend is unreachable, and the outage policy treats the visitor as one without a
    /// session.
    Unavailable(StoreError, SessionId),
    /// The backend is unreachable, and this is the last record that this node knew.
    Stale(StoreError, Record<T>),
}

/// The time of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) at: Millis,
    /// The moment at which the read proves that the session existed. It is earlier if the session
    /// was cached by a node that is told nothing of what happens afterwards.
    pub(super) alive_at: Millis,
}

impl<T> Loaded<T> {
    pub(super) fn kind(&self) -> SessionState {
        match self {
            Loaded::NotYet | Loaded::NoSession => SessionState::NoSession,
            Loaded::Ambiguous | Loaded::Missing(_) => SessionState::Missing,
            Loaded::Moved(_) => SessionState::Moved,
            Loaded::Live(_) => SessionState::Live,
            Loaded::EndedMeanwhile(_) => SessionState::EndedMeanwhile,
            Loaded::Unreadable(..) => SessionState::Unreadable,
            Loaded::Unavailable(..) | Loaded::Stale(..) => SessionState::Unavailable,
        }
    }

    /// Chooses among the sessions that several cookies name. If only one of them exists, it is the
    /// visitor's: the other cookies are left over from an earlier path or domain. If several exist,
    /// it is unknown which one the visitor means to use, so none is.
    ///
    /// During an outage, one may exist of which that is not certain. Then the visitor gets no
    /// session and begins none, whose cookie would take the place of the right one.
    pub(super) fn choose(named: Vec<Loaded<T>>) -> Loaded<T> {
        let exists = |loaded: &Loaded<T>| {
            matches!(loaded, Loaded::Live(_) | Loaded::Stale(..) | Loaded::Unavailable(..))
        };
        let uncertain =
            |loaded: &Loaded<T>| Some(Loaded::Unavailable(loaded.outage()?.clone(), loaded.id()?));
        let rank = |loaded: &Loaded<T>| match loaded {
            _ if exists(loaded) => 3,
            Loaded::Unreadable(..) => 2,
            Loaded::Moved(_) => 1,
            _ => 0,
        };
        if named.iter().filter(|loaded| exists(loaded)).count() > 1 {
            return named.iter().find_map(uncertain).unwrap_or(Loaded::Ambiguous);
        }
        named.into_iter().max_by_key(rank).unwrap_or(Loaded::NoSession)
    }

    /// Returns the id of the session that the cookie names, if it is one.
    pub(super) fn id(&self) -> Option<SessionId> {
        match self {
            Loaded::NotYet | Loaded::NoSession | Loaded::Ambiguous => None,
            Loaded::Live(record) | Loaded::Stale(_, record) => Some(record.id()),
            Loaded::Missing(id)
            | Loaded::Moved(id)
            | Loaded::EndedMeanwhile(id)
            | Loaded::Unreadable(_, id)
            | Loaded::Unavailable(_, id) => Some(*id),
        }
    }

    /// Returns `true` if the session existed earlier in the request.
    pub(super) fn was_seen(&self) -> bool {
        matches!(self, Loaded::Live(_) | Loaded::Stale(..) | Loaded::EndedMeanwhile(_))
    }

    /// Returns `true` if there is no session to which the request could belong.
    pub(super) fn is_gone(&self) -> bool {
        matches!(
            self,
            Loaded::NoSession | Loaded::Missing(_) | Loaded::Moved(_) | Loaded::EndedMeanwhile(_)
        )
    }

    /// Returns what is loaded now, after `before`: a session that existed earlier in the request,
    /// and does not any more, has ended meanwhile.
    pub(super) fn after(self, before: &Loaded<T>) -> Loaded<T> {
        match self {
            Loaded::Missing(id) | Loaded::Moved(id)
                if before.was_seen() && before.id() == Some(id) =>
            {
                Loaded::EndedMeanwhile(id)
            }
            loaded => loaded,
        }
    }

    /// Returns the record that the request may read, even if it may be stale.
    pub(super) fn record(&self) -> Option<&Record<T>> {
        match self {
            Loaded::Live(record) | Loaded::Stale(_, record) => Some(record),
            _ => None,
        }
    }

    /// Returns the error with which the record could not be decoded.
    pub(super) fn unreadable(&self) -> Option<&StoreError> {
        match self {
            Loaded::Unreadable(error, _) => Some(error),
            _ => None,
        }
    }

    /// Returns the error that made the session read-only.
    pub(super) fn outage(&self) -> Option<&StoreError> {
        match self {
            Loaded::Unavailable(error, _) | Loaded::Stale(error, _) => Some(error),
            _ => None,
        }
    }
}
