//! Shared loads: many readers of one session cost the backend one call, or two at the most.
//!
//! A reader may not take just any result. A load that began before the reader came may bring what the session was before a
//! change that the reader has a right to see. It may be shared only if the node held the lease at both moments and has heard
//! nothing about the session since the load began; otherwise the reader shares the next load, of which there is one per session.
//!
//! Loads run in tasks of their own, so a reader that goes away takes nothing from the others.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use futures_util::future::{FutureExt as _, Shared};
use tokio::sync::oneshot;
use tracing::{Instrument as _, Span};

use super::SessionStore;
use crate::cluster::{FillMark, LocalCache, PendingFill};
use crate::error::{StoreError, StoreErrorKind};
use crate::guards::{self, Guard};
use crate::id::SessionId;
use crate::record::{Record, SessionData};
use crate::sync::{Mutex, MutexGuard};

type LoadResult<T> = Result<Option<Record<T>>, StoreError>;
type SharedResult<T> = Shared<oneshot::Receiver<LoadResult<T>>>;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Within the coherence contract.
    Cached,
    /// Not older than the call.
    Fresh,
}

pub(crate) struct SingleFlight<T> {
    flights: Mutex<HashMap<SessionId, Flight<T>>>,
}

/// Where the outcome of a load is reported.
struct Waiters<T> {
    readers: oneshot::Sender<LoadResult<T>>,
    /// That of the reader who asked first, and in whose trace the load is. Not of those that the task goes on to serve.
    span: Span,
}

/// The loads of one session: the one that runs, and the one that begins when it has ended.
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

    /// Reads from the backend, alone or with others.
    pub(crate) async fn read(
        &self,
        store: &SessionStore<T>,
        id: SessionId,
        freshness: Freshness,
    ) -> LoadResult<T> {
        let (result, started) = self.join(store.cache(), id, freshness);
        if let Some(started) = started {
            // Made outside the task: one that is dropped before it first runs must not leave its flight behind.
            let abandon = AbandonOnDrop { store: store.clone(), id: Some(id) };
            store.spawn(drive(abandon, id, started));
        }
        let (kind, cause) = match store.inner.backend.deadline().wait_for(result).await {
            Some(Ok(outcome)) => return outcome,
            // The load panicked in the application's `Deserialize`, or its runtime has gone.
            Some(Err(_)) => (StoreErrorKind::Unavailable, "the load was abandoned"),
            None => (StoreErrorKind::Timeout, "the load goes on without this reader"),
        };
        Err(StoreError::from(kind).with_source(cause).with_session_id(&id))
    }

    /// The result of a load that is fresh enough. If no load ran, one has started, and the caller must see to its end.
    fn join(
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

    /// Ends the running load. If others wait for the next one, that begins.
    fn end(
        &self,
        cache: &Arc<LocalCache<T>>,
        id: SessionId,
        ended: StartedLoad<T>,
        outcome: LoadResult<T>,
    ) -> Option<StartedLoad<T>> {
        let StartedLoad { call, waiters } = ended;
        match &outcome {
            Ok(loaded) => call.finish(loaded.as_ref()),
            Err(error) => {
                drop(call);
                if error.kind() == StoreErrorKind::Corrupt {
                    // Whatever is there, it is not what is cached.
                    cache.evict(&id, None);
                }
            }
        }
        // Before the result goes out: whoever reads after it must not find this load still running.
        let next = self.advance(cache, id);
        // Nobody may be waiting any more.
        let _ = waiters.readers.send(outcome);
        next
    }

    fn advance(&self, cache: &Arc<LocalCache<T>>, id: SessionId) -> Option<StartedLoad<T>> {
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

/// A result to come, and those who may wait for it.
fn result<T>() -> (Waiters<T>, SharedResult<T>) {
    let (readers, result) = oneshot::channel();
    (Waiters { readers, span: Span::current() }, result.shared())
}

async fn drive<T: SessionData>(
    abandon: AbandonOnDrop<T>,
    id: SessionId,
    mut started: StartedLoad<T>,
) {
    let store = abandon.store.clone();
    loop {
        let outcome = store.load(&id).instrument(started.waiters.span.clone()).await;
        let Some(next) = store.single_flight().end(store.cache(), id, started, outcome) else {
            return abandon.disarm();
        };
        started = next;
    }
}

/// A load that panics or is dropped must not leave its readers waiting, nor a flight that nobody drives.
struct AbandonOnDrop<T: SessionData> {
    store: SessionStore<T>,
    /// Taken when the flight has ended.
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
            self.store.single_flight().flights().remove(&id);
        }
    }
}

impl<T> std::fmt::Debug for SingleFlight<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SingleFlight")
    }
}

/// Handles to the inner parts of a store that loads need.
impl<T: SessionData> SessionStore<T> {
    fn single_flight(&self) -> &SingleFlight<T> {
        &self.inner.single_flight
    }

    fn cache(&self) -> &Arc<LocalCache<T>> {
        &self.inner.cache
    }
}

#[cfg(all(test, shuttle))]
mod interleavings;
