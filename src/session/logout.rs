//! The deletion of a request's session, in a commit or after the request.

use super::loaded::Loaded;
use crate::error::StoreError;
use crate::id::SessionId;
use crate::record::{Ended, SessionData};
use crate::store::{Deletion, LastSeen, SessionStore};

/// The sessions that a logout deletes.
pub(super) struct Logout<T> {
    ids: Vec<SessionId>,
    last_seen: Option<LastSeen<T>>,
    reason: Ended,
    /// `true` if the request begins another session.
    is_replaced: bool,
}

impl<T> Logout<T> {
    /// Creates the logout of what was loaded and of the sessions that the request's other cookies
    /// name: the visitor's own session is among them.
    pub(super) fn new(
        loaded: &Loaded<T>,
        named: &[SessionId],
        last_seen: Option<LastSeen<T>>,
        reason: Ended,
    ) -> Self {
        let id = loaded.id();
        let others = named.iter().copied().filter(|named| Some(*named) != id);
        Logout {
            ids: id.into_iter().chain(others).collect(),
            last_seen,
            reason,
            is_replaced: false,
        }
    }

    /// Returns the logout of a request that begins another session.
    pub(super) fn with_another(self) -> Self {
        Logout { is_replaced: true, ..self }
    }

    pub(super) fn ids(&self) -> &[SessionId] {
        &self.ids
    }
}

impl<T: SessionData> Logout<T> {
    /// Deletes the sessions, as a step of an operation, and returns what became of the first of
    /// them. If one cannot be deleted, deletes the others and returns the error.
    pub(super) async fn carry_out(&self, store: &SessionStore<T>) -> Result<Deletion, StoreError> {
        let (mut first, mut result) = (None, Ok(()));
        for id in &self.ids {
            // It says nothing about the sessions that other cookies name.
            let last_seen = self.last_seen.as_ref().filter(|seen| seen.names(id));
            let deleted = if self.is_replaced {
                store.replace_by_another(*id, last_seen, self.reason).await
            } else {
                store.log_out(*id, last_seen, self.reason).await
            };
            match deleted {
                Ok(deletion) => first = first.or(Some(deletion)),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result.map(|()| first.unwrap_or(Deletion::Gone))
    }

    /// Deletes the sessions in a task of its own. An error is logged.
    pub(super) fn carry_out_in_background(self, store: &SessionStore<T>) {
        let Some(id) = self.ids.first().copied() else { return };
        if tokio::runtime::Handle::try_current().is_err() {
            tracing::error!(session = %id, "a logout was not carried out: its runtime has gone");
            return;
        }
        let store_for_task = store.clone();
        store.spawn(async move {
            let logout = self.carry_out(&store_for_task);
            if let Err(error) = store_for_task.operation(logout).await {
                tracing::error!(
                    session = %id,
                    error = &error as &dyn std::error::Error,
                    "a logout was not carried out"
                );
            }
        });
    }
}
