//! The loads in flight over one connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::limiter::{LoadLimiter, LoadTicket};
use crate::error::{StoreError, StoreErrorKind};

/// The loads in flight over one connection, and their limit.
#[derive(Clone)]
pub(super) struct Loads(Arc<Mutex<LoadLimiter>>);

/// A load in flight. It ends when this is dropped.
pub(super) struct LoadInFlight {
    loads: Loads,
    /// `None` once the load has ended.
    ticket: Option<LoadTicket>,
}

impl Loads {
    pub(super) fn new(max: u32, response_timeout: Duration) -> Self {
        // A load that somebody waits for is late after the timeout, and not forgotten.
        let limiter = LoadLimiter::new(max, response_timeout * 2);
        Loads(Arc::new(Mutex::new(limiter)))
    }

    /// Begins a load now, or fails with `Overloaded`.
    pub(super) fn begin(&self, now: Instant) -> Result<LoadInFlight, StoreError> {
        let ticket = self.limiter().begin(now).ok_or(StoreErrorKind::Overloaded)?;
        Ok(LoadInFlight { loads: self.clone(), ticket: Some(ticket) })
    }

    fn limiter(&self) -> MutexGuard<'_, LoadLimiter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoadInFlight {
    /// Records that the load was not answered in time. It stays in flight.
    pub(super) fn is_late(&mut self) {
        if let Some(ticket) = &mut self.ticket {
            self.loads.limiter().late(ticket, Instant::now());
        }
    }

    /// Ends the load with its result. Only an answer says something about the server's speed.
    pub(super) fn ended_with<R, E>(mut self, result: &Result<R, E>) {
        if result.is_ok()
            && let Some(ticket) = self.ticket.take()
        {
            self.loads.limiter().answered(ticket);
        }
    }
}

impl Drop for LoadInFlight {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.loads.limiter().ended(ticket);
        }
    }
}
