//! The handle to a node's membership in the cluster: it runs the listener and publishes the node's
//! own announcements.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::cache::LocalCache;
use super::listener::{Listener, ListenerState, ListenerStatus};
use super::message::Announcement;
use crate::clock::Clock;
use crate::cluster::ClusterSettings;
use crate::error::StoreError;
use crate::id::SessionId;
use crate::observe::Metrics;
use crate::resilience::Client;

/// A node's membership in the cluster: its listener, its local cache and its announcements.
///
/// Returned by [`SessionStore::coordinator`](crate::SessionStore::coordinator).
pub struct Coordinator<T> {
    /// Publishes announcements, and is what the listener subscribes to.
    backend: Arc<Client>,
    cache: Arc<LocalCache<T>>,
    /// Written by the listener, and kept when the listener is spawned again.
    status: Arc<ListenerStatus>,
    node_id: Arc<str>,
    clock: Clock,
    settings: ClusterSettings,
    /// Held only to check or replace the task, never across an await.
    task: Mutex<Task>,
}

/// The listener's task, if there is one.
#[derive(Debug)]
enum Task {
    /// Not spawned yet, because no runtime was available.
    Pending,
    /// Spawned on some runtime. It may have ended since.
    Spawned(JoinHandle<()>),
    /// Stopped for good, or not configured to run.
    Off,
}

impl<T: Send + Sync + 'static> Coordinator<T> {
    pub(crate) fn new(
        backend: Arc<Client>,
        cache: Arc<LocalCache<T>>,
        clock: Clock,
        settings: ClusterSettings,
        metrics: &Metrics,
    ) -> Self {
        let listens = settings.listens();
        Coordinator {
            backend,
            cache,
            status: Arc::new(ListenerStatus::new(metrics, listens)),
            node_id: settings.node_id.as_str().into(),
            clock,
            settings,
            task: Mutex::new(if listens { Task::Pending } else { Task::Off }),
        }
    }

    /// Returns `true` if the listener's task is running. It may be reconnecting: see
    /// [`is_listening`](Coordinator::is_listening).
    ///
    /// Always `false` on a node that does not listen, that is, with `enabled(false)` or without a
    /// local cache.
    pub fn is_running(&self) -> bool {
        *self.status.state.borrow() != ListenerState::Stopped
    }

    /// Returns `true` if this node can prove at this moment that it receives announcements, so that
    /// its cache may be used.
    pub fn is_listening(&self) -> bool {
        self.is_running() && self.cache.is_trusted()
    }

    /// Returns the configured name of this node.
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    /// Returns the maximum age of what a node with a lease serves from its cache.
    pub(crate) fn max_staleness(&self) -> Duration {
        self.settings.max_staleness
    }

    /// Returns this node's local cache.
    pub fn local_cache(&self) -> &LocalCache<T> {
        &self.cache
    }

    /// Returns the number of announcements received since the store was created, including this
    /// node's own.
    pub fn announcements_received(&self) -> u64 {
        self.status.received.get()
    }

    /// Returns the number of announcements that could not be read. Each of them cleared the cache.
    pub fn announcements_unreadable(&self) -> u64 {
        self.status.unreadable.get()
    }

    /// Returns how often the subscription was lost after it had been proven to work.
    #[doc(alias = "losses")]
    pub fn disconnects(&self) -> u64 {
        self.status.losses.get()
    }

    /// Evicts a session from the caches of all nodes, including this one.
    ///
    /// # Errors
    ///
    /// If the announcement could not be published.
    pub async fn publish_invalidation(&self, id: SessionId) -> Result<(), StoreError> {
        self.cache.evict(&id, None);
        self.backend.publish(&self.encode(Announcement::SessionInvalidated(id, None))).await
    }

    /// Clears the caches of all nodes, including this one.
    ///
    /// # Errors
    ///
    /// If the announcement could not be published.
    pub async fn publish_cache_clear(&self) -> Result<(), StoreError> {
        self.cache.clear_soon();
        self.backend.publish(&self.encode(Announcement::CacheClear)).await
    }

    /// Encodes an announcement in this node's name, stamped with the current time.
    pub(crate) fn encode(&self, announcement: Announcement) -> Vec<u8> {
        announcement.encode(&self.node_id, self.clock.wall().as_millis())
    }

    /// Spawns the listener if it should run and does not.
    ///
    /// That is the case at first, if the layer was created outside a runtime, and later, if the
    /// runtime on which it was spawned has shut down.
    pub(crate) fn ensure_running(&self) {
        if self.is_running() {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let mut task = self.lock_task();
        match &*task {
            Task::Off => return,
            Task::Spawned(listener) if !listener.is_finished() => return,
            Task::Pending | Task::Spawned(_) => {}
        }
        self.status.enter(ListenerState::Connecting);
        // Created outside the task, so that a task that is dropped before its first poll ends in
        // `Stopped`, too.
        let listener = Listener {
            backend: self.backend.clone(),
            cache: self.cache.clone(),
            status: self.status.clone(),
            heartbeat: self.settings.heartbeat(),
            max_staleness: self.settings.max_staleness,
            node_id: self.node_id.clone(),
            clock: self.clock.clone(),
        };
        *task = Task::Spawned(runtime.spawn(listener.run()));
    }

    /// Waits until the listener is proven to receive announcements. Returns at once on a node that
    /// does not listen.
    pub(crate) async fn wait_until_listening(&self) {
        if matches!(*self.lock_task(), Task::Off) {
            return;
        }
        let mut state = self.status.state.subscribe();
        // `self` keeps the sender alive, so the wait cannot fail.
        let _ = state.wait_for(|state| *state == ListenerState::Listening).await;
    }

    /// Returns why this node does not listen, as far as it is known.
    pub(crate) fn listening_cause(&self) -> Option<StoreError> {
        self.status.cause()
    }

    /// Stops the listener for good, and ends the lease.
    pub(crate) async fn stop(&self) {
        let task = std::mem::replace(&mut *self.lock_task(), Task::Off);
        if let Task::Spawned(listener) = task {
            listener.abort();
            // It has ended in any case: aborted, finished or panicked.
            let _ = listener.await;
        }
        self.cache.lease().bump();
        self.cache.watches().call_all();
    }

    fn lock_task(&self) -> std::sync::MutexGuard<'_, Task> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stops the listener when the store is dropped.
impl<T> Drop for Coordinator<T> {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Task::Spawned(listener) = task {
            listener.abort();
        }
    }
}

impl<T> fmt::Debug for Coordinator<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator")
            .field("node_id", &self.node_id)
            .field("state", &*self.status.state.borrow())
            .finish_non_exhaustive()
    }
}
