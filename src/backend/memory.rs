//! Sessions in the memory of one process.

mod owners;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use self::owners::OwnerIndex;
use super::{
    Backend, BackendInfo, Content, Created, Cursor, Deleted, Event, Extension, OwnerTag, Page,
    Revision, StoreError, Stored, Subscription, SubscriptionSender, Timestamp, Touched, Update,
    Updated,
};
use crate::clock::{Clock, Millis, millis};
use crate::guards::{self, Guard};
use crate::id::SessionId;
use crate::record::Lifespan;

/// Number of ids on one page of a scan.
const PAGE: usize = 256;
/// Minimum number of records at which expired ones are swept. A sweep is due when there are twice
/// as many as after the last one.
const SWEEP_AT: usize = 1024;

/// Sessions in the memory of one process, which end with it.
///
/// It is for development, tests and single nodes. It has the same atomicity and announcements as
/// Redis, so several layers over clones of one `MemoryBackend` are a cluster inside one process.
///
/// ```
/// use clustered_sessions::{ClusterConfig, MemoryBackend, Secret, SessionConfig};
///
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
/// let memory = MemoryBackend::new();
/// let node = |id: &str| {
///     SessionConfig::<UserSession>::development(Secret::insecure_dev("dev"))
///         .cluster(ClusterConfig::new().enabled(true).node_id(id))
///         .backend(memory.clone())
///         .build()
/// };
/// let (a, b) = (node("a")?, node("b")?);
/// # let _ = (a, b);
/// # Ok::<(), clustered_sessions::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MemoryBackend {
    shared: Arc<MemoryInner>,
}

/// State that all clones share.
#[derive(Debug)]
struct MemoryInner {
    clock: Clock,
    state: Mutex<MemoryState>,
}

#[derive(Debug, Default)]
struct MemoryState {
    records: BTreeMap<SessionId, Entry>,
    owners: OwnerIndex,
    /// Each subscriber with a number, by which its heartbeat task finds it.
    subscribers: Vec<(u64, SubscriptionSender)>,
    next_subscriber: u64,
    /// The number of records at which expired ones are swept.
    sweep_at: usize,
}

/// A record and the time at which it expires.
#[derive(Debug)]
struct Entry {
    stored: Stored,
    expires: Millis,
}

impl MemoryBackend {
    /// Creates an empty backend.
    pub fn new() -> Self {
        Self::with_clock(Clock::system())
    }

    /// Creates an empty backend whose records expire by this clock.
    pub fn with_clock(clock: Clock) -> Self {
        let state = Mutex::new(MemoryState { sweep_at: SWEEP_AT, ..MemoryState::default() });
        MemoryBackend { shared: Arc::new(MemoryInner { clock, state }) }
    }

    /// Removes all records and ends all subscriptions, like a server that restarts without its
    /// data.
    #[cfg(feature = "_guards")]
    #[doc(hidden)]
    pub fn restart_empty(&self) {
        let mut state = self.shared.lock();
        state.records.clear();
        state.owners = OwnerIndex::default();
        state.subscribers.clear();
    }

    /// Does the same as [`Backend::create`], for callers that cannot wait.
    pub(crate) fn create_now(&self, id: &SessionId, stored: &Stored, ttl: Duration) -> Created {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        state.sweep(now);
        if state.live(id, now).is_some() {
            return Created::Exists;
        }
        state.put(*id, stored, now, ttl);
        Created::Created
    }
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryInner {
    fn lock(&self) -> MutexGuard<'_, MemoryState> {
        // No code that holds it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryState {
    fn live(&self, id: &SessionId, now: Millis) -> Option<&Stored> {
        self.records.get(id).filter(|kept| kept.expires > now).map(|kept| &kept.stored)
    }

    fn put(&mut self, id: SessionId, stored: &Stored, now: Millis, ttl: Duration) {
        self.records.insert(id, Entry { stored: stored.clone(), expires: now.plus(millis(ttl)) });
    }

    fn announce(&mut self, announcement: &[u8]) {
        let message = Bytes::copy_from_slice(announcement);
        self.subscribers
            .retain_mut(|(_, subscriber)| subscriber.send(Event::Message(message.clone())));
    }

    fn subscribe(&mut self, events: SubscriptionSender) -> u64 {
        self.next_subscriber += 1;
        self.subscribers.push((self.next_subscriber, events));
        self.next_subscriber
    }

    /// Sends [`Event::Alive`] for this moment, since announcements are yielded in the step that
    /// makes them. Returns `false` if the subscriber has gone.
    fn heartbeat(&mut self, number: u64) -> bool {
        let alive = Event::Alive(tokio::time::Instant::now().into_std());
        self.subscribers
            .retain_mut(|(its, subscriber)| *its != number || subscriber.send(alive.clone()));
        self.subscribers.iter().any(|(its, _)| *its == number)
    }

    fn sweep(&mut self, now: Millis) {
        if self.records.len() >= self.sweep_at {
            self.records.retain(|_, kept| kept.expires > now);
            self.sweep_at = (self.records.len() * 2).max(SWEEP_AT);
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl Backend for MemoryBackend {
    async fn load(&self, id: &SessionId) -> Result<Option<Stored>, StoreError> {
        Ok(self.shared.lock().live(id, self.shared.clock.now()).cloned())
    }

    async fn create(
        &self,
        id: &SessionId,
        stored: &Stored,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        Ok(self.create_now(id, stored, ttl))
    }

    async fn update(&self, update: Update<'_>) -> Result<Updated, StoreError> {
        let Update { id, expected, stored, ttl, announcement } = update;
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        match state.live(id, now) {
            None => Ok(Updated::Gone),
            Some(current) if current.meta.revision == stored.meta.revision => Ok(Updated::Saved),
            Some(current)
                if current.meta.revision != expected && guards::enabled(Guard::Comparison) =>
            {
                Ok(Updated::Conflict(current.clone()))
            }
            Some(_) => {
                state.announce(announcement);
                state.put(*id, stored, now, ttl);
                Ok(Updated::Saved)
            }
        }
    }

    async fn delete(&self, id: &SessionId, announcement: &[u8]) -> Result<Deleted, StoreError> {
        let mut state = self.shared.lock();
        state.announce(announcement);
        match state.live(id, self.shared.clock.now()) {
            None => Ok(Deleted::Gone),
            Some(Stored { content: Content::MovedTo(new), .. }) => Ok(Deleted::MovedTo(*new)),
            Some(_) => {
                state.records.remove(id);
                Ok(Deleted::Deleted)
            }
        }
    }

    async fn delete_if(
        &self,
        id: &SessionId,
        revision: Revision,
        announcement: &[u8],
    ) -> Result<Deleted, StoreError> {
        let mut state = self.shared.lock();
        match state.live(id, self.shared.clock.now()) {
            Some(current) if current.meta.revision != revision => {
                Ok(Deleted::Conflict(current.clone()))
            }
            None => {
                state.announce(announcement);
                Ok(Deleted::Gone)
            }
            Some(_) => {
                state.announce(announcement);
                state.records.remove(id);
                Ok(Deleted::Deleted)
            }
        }
    }

    async fn touch(&self, id: &SessionId, extension: Extension) -> Result<Touched, StoreError> {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        let Some(kept) = state.records.get_mut(id).filter(|kept| kept.expires > now) else {
            return Ok(Touched::Gone);
        };
        if matches!(kept.stored.content, Content::MovedTo(_)) {
            return Ok(Touched::Gone);
        }
        if kept.stored.meta.lifespan == Lifespan::Fixed {
            return Ok(Touched::Extended);
        }
        kept.expires = kept.expires.max(now.plus(millis(extension.ttl)));
        let meta = &mut kept.stored.meta;
        meta.deadline = meta.deadline.max(extension.deadline);
        meta.used_at = extension.used_at;
        Ok(Touched::Extended)
    }

    async fn clear(&self, announcement: &[u8]) -> Result<u64, StoreError> {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        state.announce(announcement);
        let is_session = |kept: &&Entry| {
            kept.expires > now && matches!(kept.stored.content, Content::Payload(_))
        };
        let sessions = state.records.values().filter(is_session).count();
        state.records.clear();
        Ok(sessions as u64)
    }

    async fn scan(&self, cursor: Option<&Cursor>) -> Result<Page, StoreError> {
        let now = self.shared.clock.now();
        let state = self.shared.lock();
        let start = match cursor.map(|cursor| cursor.as_str().parse::<SessionId>()) {
            None => Bound::Unbounded,
            Some(Ok(last)) => Bound::Excluded(last),
            Some(Err(_)) => return Ok(Page::Restart),
        };
        let mut after = state.records.range((start, Bound::Unbounded));
        let met: Vec<_> = after.by_ref().take(PAGE).collect();
        let next = after.next().and(met.last()).map(|(id, _)| Cursor::new(id.to_string()));
        let (mut ids, mut moved) = (Vec::new(), Vec::new());
        for (id, kept) in met.into_iter().filter(|(_, kept)| kept.expires > now) {
            match &kept.stored.content {
                Content::Payload(_) => ids.push(*id),
                Content::MovedTo(new) => moved.push(*new),
            }
        }
        Ok(Page::new(ids, moved, next))
    }

    async fn add_to_owner(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        self.shared.lock().owners.add(owner, id, until, self.shared.clock.wall());
        Ok(())
    }

    async fn remove_from_owner(&self, owner: &OwnerTag, id: &SessionId) -> Result<(), StoreError> {
        self.shared.lock().owners.remove(owner, id);
        Ok(())
    }

    async fn expire_in_owner(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let until = self.shared.clock.wall().saturating_add(ttl);
        self.shared.lock().owners.expire(owner, id, until);
        Ok(())
    }

    async fn sessions_of_owner(
        &self,
        owner: &OwnerTag,
        cursor: Option<&Cursor>,
    ) -> Result<Page, StoreError> {
        Ok(self.shared.lock().owners.page(owner, cursor, self.shared.clock.wall()))
    }

    async fn publish(&self, announcement: &[u8]) -> Result<(), StoreError> {
        self.shared.lock().announce(announcement);
        Ok(())
    }

    async fn subscribe(&self, heartbeat: Duration) -> Result<Subscription, StoreError> {
        let (mut events, subscription) = Subscription::channel();
        events.send(Event::Connected);
        let number = self.shared.lock().subscribe(events);
        let weak = Arc::downgrade(&self.shared);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(heartbeat);
            loop {
                ticks.tick().await;
                let Some(shared) = weak.upgrade() else { return };
                if !shared.lock().heartbeat(number) {
                    return;
                }
            }
        });
        Ok(subscription)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Does nothing, because other layers may share this memory.
    async fn close(&self) {}

    fn may_lose_index_entries(&self) -> bool {
        false
    }

    fn info(&self) -> BackendInfo {
        BackendInfo::default()
    }
}
