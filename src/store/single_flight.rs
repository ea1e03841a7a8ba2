//! Shared loads: many readers of one session cost the backend one call, or two at the most.
//!
//! A reader may not take just any result. A load that began before the reader came may return the
//! session as it was before a change that the reader has a right to see. It may be shared only if
//! the node held the lease at both moments and has received no announcement about the session since
//! the load began. Otherwise the reader shares the next load, of which there is one per session.
//!
//! The readers of a load carry it out themselves, so that one that nobody else waits for needs no
//! task: whichever of them is woken first goes on with it, and one that is not polled holds up no
//! other. If the reader that has started a load is cancelled, a task takes its place. So a reader
//! that goes away takes nothing from the others, and a load that has begun always ends. The next
//! load has a task of its own, because no reader of the one before waits for it.

use std::collections::hash_map::Entry;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError};

use futures_util::future::FutureExt as _;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::{Instrument as _, Span};

use super::shared::{Shared, WeakShared, Work};
use super::{SessionStore, StoreInner};
use crate::cluster::{FillMark, LocalCache, PendingFill};
use crate::error::{StoreError, StoreErrorKind};
use crate::guards::{self, Guard};
use crate::id::{SessionId, SessionMap};
use crate::record::{Absence, Record, SessionData};
use crate::resilience::Deadline;
use crate::sync::{Mutex, MutexGuard};

type LoadResult<T> = Result<Result<Record<T>, Absence>, StoreError>;
/// A load, or the wait for one that a task carries out.
type Load<T> = Work<LoadResult<T>>;
type SharedLoad<T> = Shared<LoadResult<T>>;

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
    flights: Mutex<SessionMap<Flight<T>>>,
}

/// The loads of one session: the running one, and the one that starts after it.
struct Flight<T> {
    mark: FillMark,
    /// Weak, so that a load is dropped if nobody can continue it, because its runtime has shut
    /// down. It then removes the flight.
    running: WeakShared<LoadResult<T>>,
    next: Option<NextLoad<T>>,
}

/// A load that starts when the running one has ended.
struct NextLoad<T> {
    waiters: Waiters<T>,
    /// Weak, because it continues the running load.
    result: WeakShared<LoadResult<T>>,
}

/// The readers that wait for a load that a task carries out.
struct Waiters<T> {
    readers: oneshot::Sender<LoadResult<T>>,
    /// The span of the first of them, which the load is traced in.
    span: Span,
}

/// How a reader gets its result.
enum Joined<T> {
    /// By a load that it has just started.
    Started(SharedLoad<T>),
    /// By the load of another reader.
    Shared(SharedLoad<T>),
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
        let start = |call| start_load(store.clone(), id, call);
        let result = match self.join_or_start(&store.inner.cache, id, freshness, start) {
            Joined::Started(load) => {
                let mut own = OwnLoad { store, load };
                match Deadline::current() {
                    Some(deadline) => deadline.wait_for(&mut own.load).await,
                    // The load has the deadline that this reader would have, so its own timers
                    // suffice.
                    None => Some((&mut own.load).await),
                }
            }
            Joined::Shared(load) => store.inner.backend.deadline().wait_for(load).await,
        };
        let outcome = result.unwrap_or_else(|| {
            let cause = "the load did not end in time for this reader";
            Err(StoreError::from(StoreErrorKind::Timeout).with_source(cause))
        });
        outcome.map_err(|error| error.with_session_id(&id))
    }

    /// Joins a load that is fresh enough. If none is running, starts one.
    ///
    /// `start` returns the load of a call that begins now, which must [`complete`](Self::complete).
    fn join_or_start(
        &self,
        cache: &Arc<LocalCache<T>>,
        id: SessionId,
        freshness: Freshness,
        start: impl FnOnce(PendingFill<T>) -> Load<T>,
    ) -> Joined<T> {
        let mut flights = self.flights();
        match flights.entry(id) {
            Entry::Occupied(mut flight) => Joined::Shared(flight.get_mut().join(cache, freshness)),
            Entry::Vacant(vacant) => {
                let call = cache.begin_load(&id);
                let mark = call.mark();
                let load = Shared::new(start(call));
                vacant.insert(Flight { mark, running: load.downgrade(), next: None });
                Joined::Started(load)
            }
        }
    }

    /// Completes the running load and returns the next one if readers wait for it.
    fn complete(
        &self,
        cache: &Arc<LocalCache<T>>,
        id: SessionId,
        call: PendingFill<T>,
        outcome: &LoadResult<T>,
    ) -> Option<(PendingFill<T>, Waiters<T>)> {
        match outcome {
            Ok(loaded) => call.finish(loaded.as_ref().map_err(|absence| *absence)),
            Err(error) => {
                drop(call);
                if error.kind() == StoreErrorKind::Corrupt {
                    // The cached version is not what the backend has.
                    cache.evict(&id, None);
                }
            }
        }
        // Before anybody has the result: a read that begins after it must not find this load
        // running.
        self.start_next(cache, id)
    }

    /// Ends the running flight and starts the next load, if readers wait for one.
    fn start_next(
        &self,
        cache: &Arc<LocalCache<T>>,
        id: SessionId,
    ) -> Option<(PendingFill<T>, Waiters<T>)> {
        let mut flights = self.flights();
        let Entry::Occupied(mut flight) = flights.entry(id) else { return None };
        let Some(NextLoad { waiters, result }) = flight.get_mut().next.take() else {
            flight.remove();
            return None;
        };
        let call = cache.begin_load(&id);
        flight.insert(Flight { mark: call.mark(), running: result, next: None });
        Some((call, waiters))
    }

    fn flights(&self) -> MutexGuard<'_, SessionMap<Flight<T>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: SessionData> Flight<T> {
    /// Joins the running load if it is fresh enough for the reader, and otherwise the next one.
    fn join(&mut self, cache: &Arc<LocalCache<T>>, freshness: Freshness) -> SharedLoad<T> {
        let may_share = freshness == Freshness::Cached && cache.may_share(&self.mark);
        if (may_share || !guards::enabled(Guard::Sharing))
            && let Some(running) = self.running.upgrade()
        {
            return running;
        }
        self.join_next()
    }

    /// Joins the next load.
    fn join_next(&mut self) -> SharedLoad<T> {
        let result = self.next.as_ref().and_then(|next| next.result.upgrade());
        result.unwrap_or_else(|| {
            let (readers, sent) = oneshot::channel();
            let running = self.running.upgrade();
            let result: Load<T> = Box::pin(async move {
                // The next load starts when the running one ends, whose own readers may not be
                // polled meanwhile.
                if let Some(running) = running {
                    drop(running.await);
                }
                sent.await.unwrap_or_else(|_| abandoned())
            });
            let result = Shared::new(result);
            let waiters = Waiters { readers, span: Span::current() };
            self.next = Some(NextLoad { waiters, result: result.downgrade() });
            result
        })
    }
}

/// Returns a load that has just begun, and that starts the next one when it ends.
///
/// It is an operation with its own deadline, whatever the deadlines of its readers.
fn start_load<T: SessionData>(
    store: SessionStore<T>,
    id: SessionId,
    call: PendingFill<T>,
) -> Load<T> {
    let abandon = AbandonOnDrop { store, id: Some(id) };
    let load = async move {
        let outcome = load_for_readers(&abandon.store, id).await;
        let StoreInner { single_flight, cache, .. } = &*abandon.store.inner;
        match single_flight.complete(cache, id, call, &outcome) {
            Some((call, waiters)) => {
                let store = abandon.store.clone();
                drop(store.spawn(run_next(abandon, id, call, waiters)));
            }
            None => abandon.disarm(),
        }
        outcome
    };
    // A panic is that of the `Drop` of the application's data. It must not reach a reader that only
    // happens to carry the load out.
    let load = AssertUnwindSafe(load).catch_unwind();
    Box::pin(load.map(|ended| ended.unwrap_or_else(|_| abandoned())).instrument(Span::current()))
}

/// Loads a session, as an operation with its own deadline, and notices if it has expired.
async fn load_for_readers<T: SessionData>(store: &SessionStore<T>, id: SessionId) -> LoadResult<T> {
    // The application's `Deserialize` may panic. The record cannot be read then.
    let load = AssertUnwindSafe(store.load(&id)).catch_unwind();
    let load = load.map(|loaded| loaded.unwrap_or_else(|_| Err(panicked(store, &id))));
    let outcome = store.separate_operation(load).await;
    if let Ok(Err(Absence::Gone)) = &outcome {
        store.report_expiry(id);
    }
    outcome
}

/// Returns the error of a record that the application's `Deserialize` cannot read.
fn panicked<T: SessionData>(store: &SessionStore<T>, id: &SessionId) -> StoreError {
    let cause = "the application's `Deserialize` has panicked";
    store.report_unreadable(id, StoreError::from(StoreErrorKind::Corrupt).with_source(cause))
}

/// Carries out a load that readers wait for, and those that others wait for by then.
async fn run_next<T: SessionData>(
    abandon: AbandonOnDrop<T>,
    id: SessionId,
    mut call: PendingFill<T>,
    mut waiters: Waiters<T>,
) {
    let store = abandon.store.clone();
    loop {
        let outcome = load_for_readers(&store, id).instrument(waiters.span.clone()).await;
        let StoreInner { single_flight, cache, .. } = &*store.inner;
        let next = single_flight.complete(cache, id, call, &outcome);
        // Fails if all readers have been cancelled.
        let _ = waiters.readers.send(outcome);
        let Some(next) = next else { return abandon.disarm() };
        (call, waiters) = next;
    }
}

/// Returns the result of a load that has panicked, or whose runtime was shut down.
fn abandoned<T>() -> LoadResult<T> {
    Err(StoreError::from(StoreErrorKind::Unavailable).with_source("the load was abandoned"))
}

/// The load of the reader that has started it. If the reader goes away, a task takes its place.
struct OwnLoad<'a, T: SessionData> {
    store: &'a SessionStore<T>,
    load: SharedLoad<T>,
}

impl<T: SessionData> Drop for OwnLoad<'_, T> {
    fn drop(&mut self) {
        // Without a runtime, no task can run: other readers continue the load, or it ends here.
        if !self.load.has_ended()
            && let Ok(runtime) = Handle::try_current()
        {
            self.store.inner.tasks.spawn_on(self.load.clone(), &runtime);
        }
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
            let flight = self.store.inner.single_flight.flights().remove(&id);
            // Not under the lock: this wakes readers, or drops their tasks.
            drop(flight);
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
