//! The loads in flight over one connection.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
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
    fn is_late(&mut self) {
        if let Some(ticket) = &mut self.ticket {
            self.loads.limiter().late(ticket, Instant::now());
        }
    }

    /// Ends the load with its result. Only an answer says something about the server's speed.
    fn ended_with<R, E>(mut self, result: &Result<R, E>) {
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

/// A load that was sent. It is in flight until its reply arrives or the connection ends: if this is
/// dropped before, a task waits for that.
pub(super) struct SentLoad<F: Future + Send + 'static>(Option<(Pin<Box<F>>, LoadInFlight)>);

impl<T, E, F: Future<Output = Result<T, E>> + Send + 'static> Future for SentLoad<F> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some((reply, _)) = &mut self.0 else { return Poll::Pending };
        let reply = ready!(reply.as_mut().poll(cx));
        if let Some((_, load)) = self.0.take() {
            load.ended_with(&reply);
        }
        Poll::Ready(reply)
    }
}

impl<F: Future + Send + 'static> SentLoad<F> {
    pub(super) fn new(reply: Pin<Box<F>>, load: LoadInFlight) -> Self {
        SentLoad(Some((reply, load)))
    }

    /// Records that the load was not answered in time.
    pub(super) fn is_late(&mut self) {
        if let Some((_, load)) = &mut self.0 {
            load.is_late();
        }
    }
}

impl<F: Future + Send + 'static> Drop for SentLoad<F> {
    fn drop(&mut self) {
        if let Some((reply, load)) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move {
                let _ = reply.await;
                drop(load);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_load_that_is_cancelled_is_in_flight_until_its_reply_arrives() {
        let (loads, now) = (Loads::new(1, Duration::from_secs(1)), Instant::now());
        let (server, reply) = oneshot::channel::<()>();
        drop(SentLoad::new(Box::pin(reply), loads.begin(now).unwrap()));
        yield_now().await;
        assert!(loads.begin(now).is_err());
        server.send(()).unwrap();
        yield_now().await;
        assert!(loads.begin(now).is_ok());
    }
}
