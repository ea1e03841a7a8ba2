//! A node's part in the cluster: one listener, and the node's own announcements.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::cache::LocalCache;
use super::listener::{Listener, ListenerState, ListenerStatus};
use super::message::Announcement;
use crate::clock::Clock;
use crate::cluster::ClusterConfig;
use crate::error::StoreError;
use crate::id::SessionId;
use crate::observe::Metrics;
use crate::resilience::Client;

/// A node's part in the cluster. Got from [`SessionStore::coordinator`](crate::SessionStore::coordinator).
pub struct Coordinator<T> {
    backend: Arc<Client>,
    cache: Arc<LocalCache<T>>,
    status: Arc<ListenerStatus>,
    node_id: Arc<str>,
    clock: Clock,
    config: ClusterConfig,
    task: Mutex<Task>,
}

#[derive(Debug)]
enum Task {
    /// Not spawned yet, because there was no runtime.
    Pending,
    Spawned(JoinHandle<()>),
    /// Stopped for good, or never wanted.
    Off,
}

impl<T: Send + Sync + 'static> Coordinator<T> {
    pub(crate) fn new(
        backend: Arc<Client>,
        cache: Arc<LocalCache<T>>,
        clock: Clock,
        config: ClusterConfig,
        metrics: &Metrics,
    ) -> Self {
        let listens = config.listens();
        Coordinator {
            backend,
            cache,
            status: Arc::new(ListenerStatus::new(metrics, listens)),
            node_id: config.node_id.as_str().into(),
            clock,
            config,
            task: Mutex::new(if listens { Task::Pending } else { Task::Off }),
        }
    }

    /// Whether the listener is running. It may be reconnecting: see [`is_listening`](Coordinator::is_listening).
    ///
    /// `false` where nobody is to listen: with `enabled(false)` or without a local cache.
    pub fn is_running(&self) -> bool {
        *self.status.state.borrow() != ListenerState::Stopped
    }

    /// Whether this node is sure at this moment to hear the others, so that its cache may be used.
    pub fn is_listening(&self) -> bool {
        self.is_running() && self.cache.is_trusted()
    }

    /// The name of this node, as configured.
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    /// The sessions in this node's memory.
    pub fn local_cache(&self) -> &LocalCache<T> {
        &self.cache
    }

    /// Announcements heard since the store was made, this node's own among them.
    pub fn announcements_received(&self) -> u64 {
        self.status.received.get()
    }

    /// Announcements that could not be read. Each cleared the cache.
    pub fn announcements_unreadable(&self) -> u64 {
        self.status.unreadable.get()
    }

    /// How often this node ceased to hear the others.
    pub fn losses(&self) -> u64 {
        self.status.losses.get()
    }

    /// Tells all nodes, this one included, to drop a session from their memory.
    ///
    /// # Errors
    ///
    /// If the announcement could not be made.
    pub async fn publish_invalidation(&self, id: SessionId) -> Result<(), StoreError> {
        self.cache.evict(&id, None);
        self.backend.publish(&self.encode(Announcement::SessionInvalidated(id, None))).await
    }

    /// Tells all nodes, this one included, to drop all sessions from their memory.
    ///
    /// # Errors
    ///
    /// If the announcement could not be made.
    pub async fn publish_cache_clear(&self) -> Result<(), StoreError> {
        self.cache.clear();
        self.backend.publish(&self.encode(Announcement::CacheClear)).await
    }

    pub(crate) fn encode(&self, announcement: Announcement) -> Vec<u8> {
        announcement.encode(&self.node_id, self.clock.wall().as_millis())
    }

    pub(crate) fn cache(&self) -> &Arc<LocalCache<T>> {
        &self.cache
    }

    /// Spawns the listener if it should run and does not: at first, where the layer was made outside a runtime; later, where the
    /// runtime that it ran on has gone.
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
        // Made outside the task: a task that is dropped before it first runs must end in `Stopped`, too.
        let listener = Listener {
            backend: self.backend.clone(),
            cache: self.cache.clone(),
            status: self.status.clone(),
            heartbeat: self.config.heartbeat(),
            max_staleness: self.config.max_staleness,
            node_id: self.node_id.clone(),
            clock: self.clock.clone(),
        };
        *task = Task::Spawned(runtime.spawn(listener.run()));
    }

    /// Waits until the listener hears, if there is to be one.
    pub(crate) async fn wait_until_listening(&self) {
        if matches!(*self.lock_task(), Task::Off) {
            return;
        }
        let mut state = self.status.state.subscribe();
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = state.wait_for(|state| *state == ListenerState::Listening).await;
    }

    /// Ends the listener for good, and with it the lease.
    pub(crate) async fn stop(&self) {
        let task = std::mem::replace(&mut *self.lock_task(), Task::Off);
        if let Task::Spawned(listener) = task {
            listener.abort();
            // Aborted, finished or panicked: it is over.
            let _ = listener.await;
        }
        self.cache.lease().bump();
    }

    fn lock_task(&self) -> std::sync::MutexGuard<'_, Task> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The listener does not outlive the store.
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
