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
use crate::cluster::{LoadCall, LoadMark, LocalCache};
use crate::error::{StoreError, StoreErrorKind};
use crate::guards::{Guard, stands};
use crate::id::SessionId;
use crate::record::{Record, SessionData};
use crate::sync::{Mutex, MutexGuard};

type Outcome<T> = Result<Option<Record<T>>, StoreError>;
type Promise<T> = Shared<oneshot::Receiver<Outcome<T>>>;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Within the coherence contract.
    Cached,
    /// Not older than the call.
    Fresh,
}

pub(crate) struct Loads<T> {
    flights: Mutex<HashMap<SessionId, Flight<T>>>,
}

/// Where the outcome of a load is to be told.
struct Answer<T> {
    readers: oneshot::Sender<Outcome<T>>,
    /// That of the reader who asked first, and in whose trace the load is. Not of those that the task goes on to serve.
    span: Span,
}

/// The loads of one session: the one that runs, and the one that begins when it has ended.
struct Flight<T> {
    mark: LoadMark,
    running: Promise<T>,
    next: Option<(Answer<T>, Promise<T>)>,
}

/// A load under way.
struct Begun<T> {
    call: LoadCall<T>,
    answer: Answer<T>,
}

impl<T: SessionData> Loads<T> {
    pub(crate) fn new() -> Self {
        Loads { flights: Mutex::default() }
    }

    /// Reads from the backend, alone or with others.
    pub(crate) async fn read(&self, store: &SessionStore<T>, id: SessionId, freshness: Freshness) -> Outcome<T> {
        let (promise, begun) = self.join(store.cache(), id, freshness);
        if let Some(begun) = begun {
            // Made outside the task: one that is dropped before it first runs must not leave its flight behind.
            let abandon = AbandonOnDrop { store: store.clone(), id: Some(id) };
            store.spawn(drive(abandon, id, begun));
        }
        let (kind, cause) = match store.inner.backend.deadline().wait_for(promise).await {
            Some(Ok(outcome)) => return outcome,
            // The load panicked in the application's `Deserialize`, or its runtime has gone.
            Some(Err(_)) => (StoreErrorKind::Unavailable, "the load was abandoned"),
            None => (StoreErrorKind::Timeout, "the load goes on without this reader"),
        };
        Err(StoreError::from(kind).caused_by(cause).about(&id))
    }

    /// The promise of a result that is fresh enough. If no load ran, one has begun, and the caller must see to its end.
    fn join(&self, cache: &Arc<LocalCache<T>>, id: SessionId, freshness: Freshness) -> (Promise<T>, Option<Begun<T>>) {
        let mut flights = self.flights();
        if let Some(flight) = flights.get_mut(&id) {
            let may_share = freshness == Freshness::Cached && cache.may_share(&flight.mark);
            if may_share || !stands(Guard::Sharing) {
                return (flight.running.clone(), None);
            }
            return (flight.next.get_or_insert_with(promise).1.clone(), None);
        }
        let (answer, promise) = promise();
        let call = cache.begin_load(&id);
        flights.insert(id, Flight { mark: call.mark(), running: promise.clone(), next: None });
        (promise, Some(Begun { call, answer }))
    }

    /// Ends the running load. If others wait for the next one, that begins.
    fn end(&self, cache: &Arc<LocalCache<T>>, id: SessionId, ended: Begun<T>, outcome: Outcome<T>) -> Option<Begun<T>> {
        let Begun { call, answer } = ended;
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
        // Before the answer goes out: whoever reads after it must not find this load still running.
        let next = self.advance(cache, id);
        // Nobody may be waiting any more.
        let _ = answer.readers.send(outcome);
        next
    }

    fn advance(&self, cache: &Arc<LocalCache<T>>, id: SessionId) -> Option<Begun<T>> {
        let mut flights = self.flights();
        let flight = flights.get_mut(&id)?;
        let Some((answer, promise)) = flight.next.take() else {
            flights.remove(&id);
            return None;
        };
        let call = cache.begin_load(&id);
        *flight = Flight { mark: call.mark(), running: promise, next: None };
        Some(Begun { call, answer })
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<SessionId, Flight<T>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer to come, and those who may wait for it.
fn promise<T>() -> (Answer<T>, Promise<T>) {
    let (readers, promise) = oneshot::channel();
    (Answer { readers, span: Span::current() }, promise.shared())
}

async fn drive<T: SessionData>(abandon: AbandonOnDrop<T>, id: SessionId, mut begun: Begun<T>) {
    let store = abandon.store.clone();
    loop {
        let outcome = store.load(&id).instrument(begun.answer.span.clone()).await;
        let Some(next) = store.loads().end(store.cache(), id, begun, outcome) else { return abandon.disarm() };
        begun = next;
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
            self.store.loads().flights().remove(&id);
        }
    }
}

impl<T> std::fmt::Debug for Loads<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Loads")
    }
}

/// Handles to the inner parts of a store that loads need.
impl<T: SessionData> SessionStore<T> {
    fn loads(&self) -> &Loads<T> {
        &self.inner.loads
    }

    fn cache(&self) -> &Arc<LocalCache<T>> {
        self.inner.coordinator.cache()
    }
}

#[cfg(all(test, shuttle))]
mod interleavings;
