//! Events about sessions, for audit logs: what this node has done, passed on to the application's
//! hook by a task of its own.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
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
    queue: Option<Mutex<Queue>>,
    dropped: Counter,
}

enum Queue {
    /// There was no event yet. The first one spawns the task: a store may be created outside a
    /// runtime.
    Idle(EventHook),
    Open(Sender<SessionEvent>, JoinHandle<()>),
    Closed,
}

impl Events {
    pub(crate) fn new(hook: Option<EventHook>, metrics: &Metrics) -> Self {
        Events {
            queue: hook.map(|hook| Mutex::new(Queue::Idle(hook))),
            dropped: Counter::new(metrics, observe::DROPPED_EVENTS),
        }
    }

    /// Passes an event on, without waiting. Drops it if the hook is too slow.
    pub(crate) fn emit(&self, event: impl FnOnce() -> SessionEvent) {
        let Some(queue) = &self.queue else { return };
        // Before the lock is taken: this calls the application's owner function.
        let event = event();
        if !lock(queue).accept(event) {
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
        let Some(queue) = &self.queue else { return };
        let Queue::Open(sender, mut task) = std::mem::replace(&mut *lock(queue), Queue::Closed)
        else {
            return;
        };
        // The task ends after the events that are left.
        drop(sender);
        if timeout(DRAIN_TIMEOUT, &mut task).await.is_err() {
            task.abort();
            tracing::warn!("session events are lost: the event hook has not ended in time");
        }
    }
}

impl Queue {
    /// Takes an event, and returns `false` if there is no room.
    fn accept(&mut self, event: SessionEvent) -> bool {
        if let (Queue::Idle(hook), Ok(runtime)) = (&*self, Handle::try_current()) {
            let (sender, receiver) = channel(CAPACITY);
            let task = runtime.spawn(call(hook.clone(), receiver));
            *self = Queue::Open(sender, task);
        }
        match self {
            Queue::Open(sender, _) => sender.try_send(event).is_ok(),
            Queue::Idle(_) | Queue::Closed => false,
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
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
