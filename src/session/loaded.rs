//! The result of loading a request's session.

use std::sync::Arc;

use super::change::SessionState;
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
    /// Several cookies verify, so none of their sessions is used. A logout ends all of them.
    Ambiguous(Arc<[SessionId]>),
    /// A cookie verifies, but the session was gone at the first load.
    Missing(SessionId),
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

impl<T> Loaded<T> {
    pub(super) fn kind(&self) -> SessionState {
        match self {
            Loaded::NotYet | Loaded::NoSession => SessionState::NoSession,
            Loaded::Ambiguous(_) | Loaded::Missing(_) => SessionState::Missing,
            Loaded::Live(_) => SessionState::Live,
            Loaded::EndedMeanwhile(_) => SessionState::EndedMeanwhile,
            Loaded::Unreadable(..) => SessionState::Unreadable,
            Loaded::Unavailable(..) | Loaded::Stale(..) => SessionState::Unavailable,
        }
    }

    /// Returns the ids of the sessions that a logout deletes.
    pub(super) fn logout_ids(&self) -> Vec<SessionId> {
        match self {
            Loaded::Ambiguous(ids) => ids.to_vec(),
            _ => self.id().into_iter().collect(),
        }
    }

    /// Returns the id of the session that the cookie names, if it is one.
    pub(super) fn id(&self) -> Option<SessionId> {
        match self {
            Loaded::NotYet | Loaded::NoSession | Loaded::Ambiguous(_) => None,
            Loaded::Live(record) | Loaded::Stale(_, record) => Some(record.id()),
            Loaded::Missing(id)
            | Loaded::EndedMeanwhile(id)
            | Loaded::Unreadable(_, id)
            | Loaded::Unavailable(_, id) => Some(*id),
        }
    }

    /// Returns the record that the request may read, even if it may be stale.
    pub(super) fn record(&self) -> Option<&Record<T>> {
        match self {
            Loaded::Live(record) | Loaded::Stale(_, record) => Some(record),
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
