//! What a request needs to do more than read a cached session, made when it does.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::cookie::VerifiedCookies;
use crate::session::state::RequestState;

/// The part of a [`RequestSession`](super::RequestSession) that an active request has.
pub(super) struct Active<T> {
    /// Of the request's cookies, those that the layer's signer accepts, once they have been
    /// verified. A cached session needs no verification, unless a handler has it read again.
    pub(super) verified: OnceLock<VerifiedCookies>,
    state: Mutex<RequestState<T>>,
    /// Held while the session is loaded or committed, so that these run one at a time.
    pub(super) io_lock: tokio::sync::Mutex<()>,
}

impl<T> Active<T> {
    pub(super) fn new() -> Self {
        Active {
            verified: OnceLock::new(),
            state: Mutex::new(RequestState::new()),
            io_lock: tokio::sync::Mutex::new(()),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, RequestState<T>> {
        // The application's closures run outside the lock, so no panic leaves a state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state_mut(&mut self) -> &mut RequestState<T> {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}
