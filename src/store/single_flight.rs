//! Shared loads: many readers of one session cost the backend one call, or two at the most.
//!
//! A reader may not take just any result. A load that began before the reader came may return the
//! session as it was before a change that the reader has a right to see. It may be shared only if
//! the node held the lease at both moments and has received no announcement about the session since
//! the load began. Otherwise the reader shares the next load, of which there is one per session.
//!
//! Each load runs in its own task, so a reader that is cancelled takes nothing from the others.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use futures_util::future::{FutureExt as _, Shared};
use tokio::sync::oneshot;
use tracing::{Instrument as _, Span};

use super::{SessionStore, StoreInner};
use crate::cluster::{FillMark, LocalCache, PendingFill};
use crate::error::{StoreError, StoreErrorKind};
use crate::guards::{self, Guard};
use crate::id::SessionId;
use crate::record::{Absence, Record, SessionData};
use crate::sync::{Mutex, MutexGuard};

type LoadResult<T> = Result<Result<Record<T>, Absence>, StoreError>;
type SharedResult<T> = Shared<oneshot::Receiver<LoadResult<T>>>;

/// The required freshness of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// As the coherence guarantee allows.
    Cached,
    /// No older than the call.
    Fresh,
}

/// The loads in flight, at most one per session.
pub(crate) struct SingleFlight<T> {
    flights: Mutex<HashMap<SessionId, Flight<T>>>,
}

/// The readers that wait for the result of a load.
struct Waiters<T> {
    readers: oneshot::Sender<LoadResult<T>>,
    /// The span of the first of them, which the load is traced in. A task that goes on to another
    /// load uses the span of that load's first reader.
    span: Span,
}

/// The loads of one session: the running one, and the one that starts after it.
struct Flight<T> {
    mark: FillMark,
    running: SharedResult<T>,
    next: Option<(Waiters<T>, SharedResult<T>)>,
}

/// A load under way.
struct StartedLoad<T> {
    call: PendingFill<T>,
    waiters: Waiters<T>,
}

impl<T: SessionData> SingleFlight<T> {
    pub(crate) fn new() -> Self {
        SingleFlight { flights: Mutex::default() }
    }

    /// Reads a session from the backend, sharing a load with other readers where that is allowed.
    ///
    /// Waits no longer than the operation's deadline; the load continues for the other readers.
    pub(crate) async fn read(
        &self,
        store: &SessionStore<T>,
        id: SessionId,
        freshness: Freshness,
    ) -> LoadResult<T> {
        let (result, started) = self.join_or_start(&store.inner.cache, id, freshness);
        if let Some(started) = started {
            // Made outside the task: a task that is dropped before its first poll must not leave
            // its flight behind.
            let abandon = AbandonOnDrop { store: store.clone(), id: Some(id) };
            store.spawn(run_loads(abandon, id, started));
        }
        let (kind, cause) = match store.inner.backend.deadline().wait_for(result).await {
            Some(Ok(outcome)) => return outcome,
            // The load panicked in the application's `Deserialize`, or its runtime was shut down.
            Some(Err(_)) => (StoreErrorKind::Unavailable, "the load was abandoned"),
            None => (StoreErrorKind::Timeout, "the load did not end in time for this reader"),
        };
        Err(StoreError::from(kind).with_source(cause).with_session_id(&id))
    }

    /// Joins a load that is fresh enough. If none was running, returns a new one as well, which the
    /// caller must carry out and [`complete`](Self::complete).
    fn join_or_start(
        &self,
        cache: &Arc<LocalCache<T>>,
        id: SessionId,
        freshness: Freshness,
    ) -> (SharedResult<T>, Option<StartedLoad<T>>) {
        let mut flights = self.flights();
        if let Some(flight) = flights.get_mut(&id) {
            let may_share = freshness == Freshness::Cached && cache.may_share(&flight.mark);
            if may_share || !guards::enabled(Guard::Sharing) {
                return (flight.running.clone(), None);
            }
            return (flight.next.get_or_insert_with(result).1.clone(), None);
        }
        let (waiters, result) = result();
        let call = cache.begin_load(&id);
        flights.insert(id, Flight { mark: call.mark(), running: result.clone(), next: None });
        (result, Some(StartedLoad { call, waiters }))
    }

    /// Completes the running load and returns the next one if readers wait for it.
    fn complete(
        &self,
        cache: &Arc<LocalCache<T>>,
        id: SessionId,
        ended: StartedLoad<T>,
        outcome: LoadResult<T>,
    ) -> Option<StartedLoad<T>> {
        let StartedLoad { call, waiters } = ended;
        match &outcome {
            Ok(loaded) => call.finish(loaded.as_ref().map_err(|absence| *absence)),
            Err(error) => {
                drop(call);
                if error.kind() == StoreErrorKind::Corrupt {
                    // The cached version is not what the backend has.
                    cache.evict(&id, None);
                }
            }
        }
        // Before the result is sent: a read that begins after it must not find this load running.
        let next = self.start_next(cache, id);
        // Fails if all readers have been cancelled.
        let _ = waiters.readers.send(outcome);
        next
    }

    /// Ends the running flight and starts the next load, if readers wait for one.
    fn start_next(&self, cache: &Arc<LocalCache<T>>, id: SessionId) -> Option<StartedLoad<T>> {
        let mut flights = self.flights();
        let flight = flights.get_mut(&id)?;
        let Some((waiters, result)) = flight.next.take() else {
            flights.remove(&id);
            return None;
        };
        let call = cache.begin_load(&id);
        *flight = Flight { mark: call.mark(), running: result, next: None };
        Some(StartedLoad { call, waiters })
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<SessionId, Flight<T>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates a channel for the result of a load.
fn result<T>() -> (Waiters<T>, SharedResult<T>) {
    let (readers, result) = oneshot::channel();
    (Waiters { readers, span: Span::current() }, result.shared())
}

/// Carries out a load, and those that readers wait for by then. Each is an operation with its own
/// deadline, whatever the deadlines of its readers.
async fn run_loads<T: SessionData>(
    abandon: AbandonOnDrop<T>,
    id: SessionId,
    mut started: StartedLoad<T>,
) {
    let store = abandon.store.clone();
    loop {
        let load = store.load(&id).instrument(started.waiters.span.clone());
        let outcome = store.operation(load).await;
        let StoreInner { single_flight, cache, .. } = &*store.inner;
        let Some(next) = single_flight.complete(cache, id, started, outcome) else {
            return abandon.disarm();
        };
        started = next;
    }
}

/// Removes the flight of a load that panics or is dropped, so that its readers do not wait for a
/// result that never comes.
struct AbandonOnDrop<T: SessionData> {
    store: SessionStore<T>,
    /// `None` once the flight has ended.
    id: Option<SessionId>,
}

impl<T: SessionData> AbandonOnDrop<T> {
    fn disarm(mut self) {
        self.id = None;
    }
}

impl<T: SessionData> Drop for AbandonOnDrop<T> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.store.inner.single_flight.flights().remove(&id);
        }
    }
}

impl<T> std::fmt::Debug for SingleFlight<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SingleFlight")
    }
}

#[cfg(all(test, shuttle))]
mod interleavings;
