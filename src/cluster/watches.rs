//! The sessions that are watched on this node, and the wake-up calls for those who watch them. No
//! IO, and no timers.
//!
//! A wake-up call says that something may have happened, and a watcher then looks at the session.
//! So a call too many costs a look, and none may be missing: whoever changes what a watcher relies
//! on, be it the cache, the epoch or the lease, does so first, and then calls. A watcher is
//! registered before it looks. The lock of a shard orders the two, so one of them notices the
//! other.

use std::array;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore};

use crate::clock::Millis;
use crate::guards::{self, Guard};
use crate::id::{SessionId, SessionMap};
use crate::record::Ended;

const SHARDS: usize = 16;
/// Number of watchers that look at their sessions at the same time, after all were woken. So they
/// do not take all the room that the backend has for requests.
const LOOKS_AT_ONCE: usize = 64;

/// The watched sessions of a node.
#[derive(Debug)]
pub(crate) struct Watches {
    shards: [Mutex<SessionMap<Watched>>; SHARDS],
    /// `true` while a task calls those who are due.
    has_pulse: AtomicBool,
    /// Held while a watcher looks at its session.
    looks: Semaphore,
}

/// A session that is watched.
#[derive(Debug)]
struct Watched {
    wake_up: Arc<WakeUp>,
    watchers: usize,
}

/// What the watchers of one session share.
#[derive(Debug)]
pub(crate) struct WakeUp {
    notify: Notify,
    /// The moment from which on the watchers are called even if nothing has happened.
    due: AtomicU64,
    /// Why the session was deleted, if it was.
    deletion: Mutex<Option<Ended>>,
}

impl Watches {
    pub(crate) fn new() -> Self {
        Watches {
            shards: array::from_fn(|_| Mutex::default()),
            has_pulse: AtomicBool::new(false),
            looks: Semaphore::new(LOOKS_AT_ONCE),
        }
    }

    /// Registers a watcher of a session.
    pub(crate) fn register(self: &Arc<Self>, id: SessionId) -> Registration {
        let mut shard = self.shard(&id);
        let watched = shard.entry(id).or_insert_with(|| Watched {
            wake_up: Arc::new(WakeUp {
                notify: Notify::new(),
                due: AtomicU64::new(u64::MAX),
                deletion: Mutex::default(),
            }),
            watchers: 0,
        });
        watched.watchers += 1;
        let wake_up = watched.wake_up.clone();
        drop(shard);
        Registration { watches: self.clone(), id, wake_up }
    }

    /// Notes why a session is deleted, for watchers who then find that it is gone. They are to be
    /// called afterwards.
    pub(crate) fn note(&self, id: &SessionId, reason: Option<Ended>) {
        if let Some(watched) = self.shard(id).get(id) {
            *watched.wake_up.deletion() = reason;
        }
    }

    /// Calls the watchers of a session.
    pub(crate) fn call(&self, id: &SessionId) {
        if let Some(watched) = self.shard(id).get(id)
            && guards::enabled(Guard::WakeUp)
        {
            watched.wake_up.notify.notify_waiters();
        }
    }

    /// Calls all watchers.
    pub(crate) fn call_all(&self) {
        self.call_due(Millis(u64::MAX));
    }

    /// Calls the watchers whose moment has come.
    pub(crate) fn call_due(&self, now: Millis) {
        for shard in &self.shards {
            for watched in lock(shard).values() {
                if watched.wake_up.due.load(Ordering::Relaxed) <= now.0 {
                    watched.wake_up.notify.notify_waiters();
                }
            }
        }
    }

    /// Returns the number of watchers.
    pub(crate) fn len(&self) -> usize {
        let of_shard = |shard: &Mutex<SessionMap<Watched>>| {
            lock(shard).values().map(|watched| watched.watchers).sum::<usize>()
        };
        self.shards.iter().map(of_shard).sum()
    }

    /// Returns `true` if nobody watches any session.
    pub(crate) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| lock(shard).is_empty())
    }

    /// Returns the permission to call those who are due, unless another task has it.
    pub(crate) fn begin_pulse(self: &Arc<Self>) -> Option<Pulse> {
        let is_new = !self.has_pulse.swap(true, Ordering::SeqCst);
        is_new.then(|| Pulse { watches: self.clone(), has_ended: false })
    }

    /// Limits the number of watchers that look at their sessions at the same time.
    pub(crate) fn looks(&self) -> &Semaphore {
        &self.looks
    }

    fn shard(&self, id: &SessionId) -> MutexGuard<'_, SessionMap<Watched>> {
        lock(&self.shards[usize::from(id.as_bytes()[0]) % SHARDS])
    }
}

fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A watcher's place in the register. It is left on drop.
#[derive(Debug)]
pub(crate) struct Registration {
    watches: Arc<Watches>,
    id: SessionId,
    wake_up: Arc<WakeUp>,
}

impl Registration {
    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    /// Returns what the watchers of the session are called by.
    pub(crate) fn wake_up(&self) -> Arc<WakeUp> {
        self.wake_up.clone()
    }

    /// Returns why the session was deleted, as far as it is known.
    pub(crate) fn deletion(&self) -> Option<Ended> {
        *self.wake_up.deletion()
    }

    /// Forgets a deletion that was attempted: the session is there.
    pub(crate) fn is_there(&self) {
        *self.wake_up.deletion() = None;
    }

    /// Sets the moment from which on this session's watchers are called even if nothing has
    /// happened. If the one before has come by `now`, they are called.
    pub(crate) fn call_from(&self, due: Millis, now: Millis) {
        if self.wake_up.due.swap(due.0, Ordering::Relaxed) <= now.0 {
            self.wake_up.notify.notify_waiters();
        }
    }
}

impl WakeUp {
    fn deletion(&self) -> MutexGuard<'_, Option<Ended>> {
        self.deletion.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a future that waits for the next call, counted from now and not from its first poll.
    pub(crate) fn next(&self) -> Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut shard = self.watches.shard(&self.id);
        if let Entry::Occupied(mut watched) = shard.entry(self.id) {
            watched.get_mut().watchers -= 1;
            if watched.get().watchers == 0 {
                watched.remove();
            }
        }
    }
}

/// The permission to call those who are due. It is given back on drop, also with the runtime that
/// its task was spawned on.
pub(crate) struct Pulse {
    watches: Arc<Watches>,
    has_ended: bool,
}

impl Pulse {
    /// Gives the permission back if nobody watches any session, and returns `true` then.
    pub(crate) fn ends_if_idle(&mut self) -> bool {
        if !self.watches.is_empty() {
            return false;
        }
        self.watches.has_pulse.store(false, Ordering::SeqCst);
        // A watcher that came just before this line relies on this pulse.
        self.has_ended =
            self.watches.is_empty() || self.watches.has_pulse.swap(true, Ordering::SeqCst);
        self.has_ended
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        if !self.has_ended {
            // The runtime of the task has ended. Those on another one begin another pulse.
            self.watches.has_pulse.store(false, Ordering::SeqCst);
            self.watches.call_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    const ONE: SessionId = SessionId::from_bytes([1; 16]);
    const TWO: SessionId = SessionId::from_bytes([2; 16]);

    #[test]
    fn a_watcher_that_sets_a_later_time_calls_those_whose_time_has_come() {
        let watches = Arc::new(Watches::new());
        let [early, late] = [ONE; 2].map(|id| watches.register(id));
        let wake_up = early.wake_up();
        early.call_from(Millis(10), Millis(0));
        let mut called = pin!(wake_up.next());
        late.call_from(Millis(30), Millis(9));
        assert!(called.as_mut().now_or_never().is_none(), "nothing is due");
        early.call_from(Millis(10), Millis(0));
        late.call_from(Millis(40), Millis(20));
        assert!(called.now_or_never().is_some());
    }

    #[test]
    fn a_call_reaches_all_watchers_of_its_session_and_no_others() {
        let watches = Arc::new(Watches::new());
        let watchers = [ONE, ONE, TWO].map(|id| watches.register(id));
        let calls = watchers.each_ref().map(Registration::wake_up);
        let [one, again, two] = calls.each_ref().map(|call| call.next());
        let (mut one, mut again, mut two) = (pin!(one), pin!(again), pin!(two));
        watches.call(&ONE);
        assert!(one.as_mut().now_or_never().is_some() && again.as_mut().now_or_never().is_some());
        assert!(two.as_mut().now_or_never().is_none());
        watches.call_all();
        assert!(two.now_or_never().is_some());
    }

    #[test]
    fn a_call_before_the_first_poll_is_not_missed() {
        let watches = Arc::new(Watches::new());
        let watcher = watches.register(ONE);
        let call = watcher.wake_up();
        let called = call.next();
        watches.call(&ONE);
        assert!(called.now_or_never().is_some());
        assert!(call.next().now_or_never().is_none(), "each call counts once");
    }

    #[test]
    fn watchers_are_called_when_they_are_due() {
        let watches = Arc::new(Watches::new());
        let watcher = watches.register(ONE);
        let call = watcher.wake_up();
        let mut called = pin!(call.next());
        watcher.call_from(Millis(10), Millis(0));
        watches.call_due(Millis(9));
        assert!(called.as_mut().now_or_never().is_none());
        watches.call_due(Millis(10));
        assert!(called.now_or_never().is_some());
    }

    #[test]
    fn nothing_is_left_of_watchers_that_have_gone() {
        let watches = Arc::new(Watches::new());
        let (one, again) = (watches.register(ONE), watches.register(ONE));
        assert_eq!(watches.len(), 2);
        drop(one);
        assert!(!watches.is_empty());
        assert_eq!(watches.len(), 1);
        drop(again);
        assert!(watches.is_empty());
        assert_eq!(watches.len(), 0);
    }

    #[test]
    fn there_is_one_pulse_at_a_time() {
        let watches = Arc::new(Watches::new());
        let pulse = watches.begin_pulse();
        assert!(pulse.is_some() && watches.begin_pulse().is_none());
        drop(pulse);
        assert!(watches.begin_pulse().is_some());
    }

    #[test]
    fn a_pulse_ends_when_nobody_watches_any_more() {
        let watches = Arc::new(Watches::new());
        let watcher = watches.register(ONE);
        let mut pulse = watches.begin_pulse().unwrap();
        assert!(!pulse.ends_if_idle());
        drop(watcher);
        assert!(pulse.ends_if_idle());
        let next = watches.begin_pulse();
        drop(pulse);
        assert!(next.is_some() && watches.begin_pulse().is_none(), "it has ended only once");
    }
}
