//! Events about sessions, for audit logs: what this node has done, passed on to the application's
//! hook by a task of its own.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::id::SessionId;
use crate::observe::{self, Counter, Metrics};
use crate::record::Ended;

/// Number of events that wait for the hook. More are dropped.
const CAPACITY: usize = 1024;
/// Time that the hook has for the events that are left at a shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Something that this node has done to a session, or noticed: see
/// [`on_event`](crate::SessionConfigBuilder::on_event).
///
/// The owner is that of the session's data, if an [`owner`](crate::SessionConfigBuilder::owner) is
/// configured.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// A session was created.
    #[non_exhaustive]
    Created {
        /// The session.
        id: SessionId,
        /// Its owner.
        owner: Option<String>,
    },
    /// A session was given a new token, and with it a new id.
    #[non_exhaustive]
    Regenerated {
        /// The former id.
        old: SessionId,
        /// The new id.
        new: SessionId,
        /// The session's owner.
        owner: Option<String>,
    },
    /// A session that exists was given an owner that it did not have before: a login that keeps the
    /// session. If the session also got a new token, this follows
    /// [`Regenerated`](SessionEvent::Regenerated).
    #[non_exhaustive]
    NewOwner {
        /// The session.
        id: SessionId,
        /// Its new owner.
        owner: String,
    },
    /// A session was deleted, or this node has noticed that it has expired.
    #[non_exhaustive]
    Ended {
        /// The session.
        id: SessionId,
        /// Its owner, if the node had the session in its cache or has judged it.
        owner: Option<String>,
        /// Why it has ended.
        reason: Ended,
    },
    /// A login was refused, because its owner has as many sessions as
    /// [`max_sessions_of_owner`](crate::SessionConfigBuilder::max_sessions_of_owner) allows.
    #[non_exhaustive]
    LimitReached {
        /// The owner.
        owner: String,
    },
    /// All sessions were deleted, by [`SessionStore::clear`](crate::SessionStore::clear).
    #[non_exhaustive]
    Cleared {
        /// How many there were.
        sessions: u64,
    },
    /// A session cookie did not verify. Reported once in ten seconds, since anybody can send one.
    #[non_exhaustive]
    CookieRefused {
        /// How many more there were since the last report.
        suppressed: u64,
    },
}

/// The application's hook.
pub(crate) type EventHook =
    Arc<dyn Fn(SessionEvent) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The way from those who make events to the hook.
pub(crate) struct Events {
    /// `None` if the application has no hook.
    state: Option<Mutex<State>>,
    dropped: Counter,
}

struct State {
    hook: EventHook,
    queue: Queue,
    /// What has happened to sessions whose beginning has not been reported: see [`Unreported`].
    unreported: HashMap<SessionId, Vec<SessionEvent>>,
}

enum Queue {
    /// There is no task. The next event spawns one: a store may be created outside a runtime, and
    /// outlive the one in which the task has run.
    Idle,
    Open(Sender<SessionEvent>, HookTask),
    /// No more events are accepted. The task calls the hook for those that are left, unless it was
    /// never spawned or has been aborted.
    Closed(Option<HookTask>),
}

/// The task that calls the hook.
#[derive(Clone)]
struct HookTask {
    ended: Shared<BoxFuture<'static, ()>>,
    abort: AbortHandle,
}

impl Events {
    pub(crate) fn new(hook: Option<EventHook>, metrics: &Metrics) -> Self {
        let state = |hook| State { hook, queue: Queue::Idle, unreported: HashMap::new() };
        Events {
            state: hook.map(|hook| Mutex::new(state(hook))),
            dropped: Counter::new(metrics, observe::DROPPED_EVENTS),
        }
    }

    /// Passes an event on, without waiting. Drops it if the hook is too slow.
    pub(crate) fn emit(&self, event: impl FnOnce() -> SessionEvent) {
        let Some(state) = &self.state else { return };
        // Before the lock is taken: this calls the application's owner function.
        let event = event();
        let mut state = lock(state);
        match event.session().and_then(|id| state.unreported.get_mut(&id)) {
            Some(held) => held.push(event),
            None => self.pass_on(&mut state, event),
        }
    }

    /// Begins to hold back events about a session, whose record is about to be written.
    pub(crate) fn hold(&self, id: SessionId) -> Unreported<'_> {
        if let Some(state) = &self.state {
            lock(state).unreported.entry(id).or_default();
        }
        Unreported { events: self, id }
    }

    fn pass_on(&self, state: &mut State, event: SessionEvent) {
        if !state.accept(event) {
            self.dropped.add_one();
        }
    }

    /// Returns the number of events that were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Waits until the hook has been called for all events, for a limited time. Later ones are
    /// dropped.
    pub(crate) async fn close(&self) {
        let Some(state) = &self.state else { return };
        let Some(task) = lock(state).close() else { return };
        if timeout(DRAIN_TIMEOUT, task.ended).await.is_err() && lock(state).give_up() {
            tracing::warn!("session events are lost: the event hook has not ended in time");
        }
    }
}

impl State {
    /// Takes an event, and returns `false` if there is no room.
    fn accept(&mut self, event: SessionEvent) -> bool {
        if let Queue::Open(sender, _) = &self.queue
            && sender.is_closed()
        {
            // The task has ended with its runtime.
            self.queue = Queue::Idle;
        }
        if let (Queue::Idle, Ok(runtime)) = (&self.queue, Handle::try_current()) {
            let (sender, receiver) = channel(CAPACITY);
            let task = runtime.spawn(call(self.hook.clone(), receiver));
            let abort = task.abort_handle();
            let ended = task.map(drop).boxed().shared();
            self.queue = Queue::Open(sender, HookTask { ended, abort });
        }
        match &self.queue {
            Queue::Open(sender, _) => sender.try_send(event).is_ok(),
            Queue::Idle | Queue::Closed(_) => false,
        }
    }

    /// Accepts no more events, and returns the task that handles those that are left.
    fn close(&mut self) -> Option<HookTask> {
        let task = match std::mem::replace(&mut self.queue, Queue::Closed(None)) {
            Queue::Idle => None,
            // The task ends after the events that are left, since the sender is dropped.
            Queue::Open(_, task) => Some(task),
            Queue::Closed(task) => task,
        };
        self.queue = Queue::Closed(task.clone());
        task
    }

    /// Aborts the task after [`close`](Self::close). Returns `false` if that was done before.
    fn give_up(&mut self) -> bool {
        let Queue::Closed(task) = &mut self.queue else { return false };
        task.take().inspect(|task| task.abort.abort()).is_some()
    }
}

/// A session whose record is being written, and whose beginning has not been reported.
///
/// The session can be found, and ended, as soon as its record is written. So that the hook does not
/// learn of the end before the beginning, events about the session are held back until the
/// beginning is reported or, if the creation fails, until this is dropped.
pub(crate) struct Unreported<'a> {
    events: &'a Events,
    id: SessionId,
}

impl Unreported<'_> {
    /// Reports the beginning of the session, and what has happened to it since.
    pub(crate) fn report<I: IntoIterator<Item = SessionEvent>>(
        self,
        beginning: impl FnOnce() -> I,
    ) {
        if self.events.state.is_some() {
            self.release(beginning());
        }
    }

    fn release(&self, beginning: impl IntoIterator<Item = SessionEvent>) {
        let Some(state) = &self.events.state else { return };
        let mut state = lock(state);
        let held = state.unreported.remove(&self.id).unwrap_or_default();
        for event in beginning.into_iter().chain(held) {
            self.events.pass_on(&mut state, event);
        }
    }
}

impl Drop for Unreported<'_> {
    fn drop(&mut self) {
        self.release([]);
    }
}

impl SessionEvent {
    /// Returns the session to which something has happened that another event has begun.
    fn session(&self) -> Option<SessionId> {
        match self {
            SessionEvent::Regenerated { old: id, .. }
            | SessionEvent::NewOwner { id, .. }
            | SessionEvent::Ended { id, .. } => Some(*id),
            SessionEvent::Created { .. }
            | SessionEvent::LimitReached { .. }
            | SessionEvent::Cleared { .. }
            | SessionEvent::CookieRefused { .. } => None,
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls the hook for one event after the other.
async fn call(hook: EventHook, mut events: Receiver<SessionEvent>) {
    while let Some(event) = events.recv().await {
        let called = AssertUnwindSafe(async { hook(event).await }).catch_unwind().await;
        if called.is_err() {
            tracing::error!("the event hook has panicked: an event is lost");
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    #[tokio::test]
    async fn what_is_held_back_about_a_session_is_reported_if_its_creation_fails() {
        let (sender, mut log) = unbounded_channel();
        let hook: EventHook = Arc::new(move |event| {
            let sent = sender.send(event);
            Box::pin(async move { sent.unwrap() })
        });
        let events = Events::new(Some(hook), &Metrics::new(None));
        let id = SessionId::from_bytes([7; 16]);
        let ended = |reason| SessionEvent::Ended { id, owner: None, reason };
        // A token that is used twice. At most one of the creations succeeds.
        let (one, other) = (events.hold(id), events.hold(id));
        events.emit(|| ended(Ended::Revoked));
        tokio::task::yield_now().await;
        assert!(log.is_empty());
        drop((one, other));
        events.emit(|| ended(Ended::LoggedOut));
        assert_eq!(log.recv().await, Some(ended(Ended::Revoked)));
        assert_eq!(log.recv().await, Some(ended(Ended::LoggedOut)));
    }
}
