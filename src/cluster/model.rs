//! Building blocks of the models of interleavings: one session, a backend, and the cache of one
//! node.
//!
//! The models are in `cache/interleavings.rs` and `store/single_flight/interleavings.rs`.
//! `tests/run.sh` runs them with `RUSTFLAGS="--cfg shuttle" cargo test --lib interleavings`. At
//! each lock and each atomic, [shuttle](https://docs.rs/shuttle) decides which thread continues,
//! and it prints the schedule of a failed run. Locks and atomics are treated as sequentially
//! consistent. Only models run under that flag: outside of a model, shuttle's locks panic.
#![allow(clippy::unwrap_used, reason = "only models run this")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::cache::{LocalCache, Lookup, StaleIfError};
use super::lease::{Epoch, Lease};
use crate::clock::{self, Clock, Millis};
use crate::id::SessionId;
use crate::observe::Metrics;
use crate::record::{Meta, Record, Revision};
use crate::sync::{Mutex, MutexGuard};

/// Number of random schedules to try, of each of two kinds.
const SCHEDULES: usize = 10_000;
/// The second kind changes priorities this many times in a run, which finds errors that need few
/// switches at unlikely places.
const SWITCHES: usize = 3;

/// The version of a session that was deleted. Versions only increase.
pub(crate) const GONE: u32 = u32::MAX;

/// Runs a model under many random schedules.
pub(crate) fn explore(model: fn()) {
    shuttle::check_random(model, SCHEDULES);
    shuttle::check_pct(model, SCHEDULES, SWITCHES);
}

/// Runs a model, which must be tiny, under every possible schedule.
pub(crate) fn explore_all(model: fn()) {
    shuttle::check_dfs(model, None);
}

/// Runs each closure in its own thread and joins all of them.
pub(crate) fn race<S: Send + Sync + 'static, const N: usize>(
    shared: &Arc<S>,
    threads: [fn(&S); N],
) {
    let threads = threads.map(|thread| {
        let shared = shared.clone();
        shuttle::thread::spawn(move || thread(&shared))
    });
    for thread in threads {
        thread.join().unwrap();
    }
}

/// A node's cache, the backend, and the checker's knowledge of what a read may return.
pub(crate) struct Model {
    pub(crate) cache: Arc<LocalCache<u32>>,
    pub(crate) id: SessionId,
    clock: Clock,
    backend: Mutex<Backend>,
    // The checker's knowledge is not in shuttle's atomics: it must not add interleavings.
    /// The version that the backend acknowledged last.
    acknowledged: AtomicU32,
    /// The oldest version that a read that begins now may return.
    due: AtomicU32,
    /// The same for a read whose load has failed: the version in the backend when the last
    /// heartbeat was sent, or the last one that this node wrote.
    proven: AtomicU32,
}

/// The state of the backend.
struct Backend {
    /// The session. Its data is the number of its version.
    record: Option<Record<u32>>,
    /// Announcements that the node has not received yet. `None` if it is not subscribed.
    pending: Option<VecDeque<ModelEvent>>,
}

/// The counterpart of [`backend::Event`](crate::backend::Event) and the messages in it.
enum ModelEvent {
    /// The version at which the subscription began.
    Connected(u32),
    Changed(u32, Option<Revision>),
    Cleared,
    /// The end of the proven lease, and the version in the backend when the heartbeat was sent.
    Alive(Millis, u32),
}

impl Model {
    /// A session of version 1 that is not cached, on a node that holds the lease for this long.
    pub(crate) fn leased_for(max_staleness: Duration) -> Arc<Self> {
        let clock = Clock::tokio();
        let lease = Lease::new();
        let epoch = lease.bump();
        lease.extend(epoch, clock.now().plus(clock::millis(max_staleness)));
        let model = Model {
            // Small, so that the map, too, has only one lock.
            cache: Arc::new(LocalCache::new(
                lease,
                clock.clone(),
                Duration::from_secs(60),
                4,
                &Metrics::new(None),
            )),
            id: SessionId::from_bytes([1; 16]),
            clock,
            backend: Mutex::new(Backend { record: None, pending: Some(VecDeque::new()) }),
            acknowledged: AtomicU32::new(1),
            due: AtomicU32::new(1),
            proven: AtomicU32::new(1),
        };
        model.backend().record = Some(model.record(1));
        Arc::new(model)
    }

    /// A session of version 1 that is not cached, on a node that holds the lease until it is lost.
    pub(crate) fn cold() -> Arc<Self> {
        Self::leased_for(Duration::MAX)
    }

    /// The same with the session cached.
    pub(crate) fn warm() -> Arc<Self> {
        let model = Self::cold();
        model.load();
        model
    }

    fn record(&self, version: u32) -> Record<u32> {
        let mut revision = [0; 16];
        revision[..4].copy_from_slice(&version.to_be_bytes());
        let now = self.clock.wall();
        let meta = Meta {
            revision: Revision::from_bytes(revision),
            created_at: now,
            deadline: now.saturating_add(Duration::from_secs(3600)),
        };
        Record::new(&self.clock, self.id, meta, Arc::new(version))
    }

    fn backend(&self) -> MutexGuard<'_, Backend> {
        self.backend.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the record in the backend.
    pub(crate) fn stored(&self) -> Option<Record<u32>> {
        self.backend().record.clone()
    }

    /// Loads the session from the backend, from the beginning to the end.
    pub(crate) fn load(&self) {
        self.load_version();
    }

    fn load_version(&self) -> u32 {
        let call = self.cache.begin_load(&self.id);
        let loaded = self.stored();
        call.finish(loaded.as_ref());
        version(loaded.as_ref())
    }

    /// Reads the session by the rules of the cache, and checks that the result is not too old.
    pub(crate) fn read(&self) {
        let due = self.due();
        let seen = match self.cache.get(&self.id) {
            Lookup::Hit(record) => version(Some(&record)),
            Lookup::Absent => GONE,
            Lookup::Miss => self.load_version(),
        };
        assert!(seen >= due, "version {seen} was read when {due} was due");
    }

    /// A read whose load has failed. It may return a stale version, but none older than the last
    /// proof.
    pub(crate) fn read_in_outage(&self) {
        let proven = self.proven.load(Ordering::Relaxed);
        if let Some(record) = self.cache.last_known(&self.id, StaleIfError::AfterLease(u64::MAX)) {
            let seen = version(Some(&record));
            assert!(seen >= proven, "version {seen} was served when {proven} was proven");
        }
    }

    pub(crate) fn due(&self) -> u32 {
        self.due.load(Ordering::Relaxed)
    }

    pub(crate) fn acknowledged(&self) -> u32 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// From now on, reads must return this version or a later one.
    pub(crate) fn expect(&self, version: u32) {
        self.due.fetch_max(version, Ordering::Relaxed);
    }

    /// Another node changes the session.
    pub(crate) fn change_elsewhere(&self) {
        let changed = || {
            let base = self.stored().unwrap();
            self.compare_and_set(&base, &self.record(**base.data() + 1))
        };
        while !changed() {}
    }

    /// Another node deletes all sessions.
    pub(crate) fn clear_elsewhere(&self) {
        self.put(&mut self.backend(), None, ModelEvent::Cleared);
    }

    /// This node changes the session, as the store does. Returns `false` if another node was
    /// faster.
    pub(crate) fn change(&self) -> bool {
        let base = self.stored().unwrap();
        let new = self.record(**base.data() + 1);
        let call = self.cache.begin_write(&self.id, Some(base.revision()));
        let saved = self.compare_and_set(&base, &new);
        if saved {
            call.saved(&new);
            self.expect(version(Some(&new)));
            self.proven.fetch_max(version(Some(&new)), Ordering::Relaxed);
        }
        saved
    }

    /// This node deletes the session, as the store does.
    pub(crate) fn delete(&self) {
        let call = self.cache.begin_write(&self.id, None);
        self.put(&mut self.backend(), None, ModelEvent::Changed(GONE, None));
        drop(call);
        self.expect(GONE);
        self.proven.fetch_max(GONE, Ordering::Relaxed);
    }

    fn compare_and_set(&self, base: &Record<u32>, new: &Record<u32>) -> bool {
        let mut backend = self.backend();
        let unchanged =
            backend.record.as_ref().is_some_and(|record| record.revision() == base.revision());
        if unchanged {
            let event = ModelEvent::Changed(version(Some(new)), Some(new.revision()));
            self.put(&mut backend, Some(new.clone()), event);
        }
        unchanged
    }

    /// Writes and announces in one step.
    fn put(&self, backend: &mut Backend, record: Option<Record<u32>>, event: ModelEvent) {
        if let Some(pending) = &mut backend.pending {
            pending.push_back(event);
        }
        self.acknowledged.store(version(record.as_ref()), Ordering::Relaxed);
        backend.record = record;
    }

    /// The subscription breaks, and undelivered announcements are lost with it.
    pub(crate) fn cut(&self) {
        self.backend().pending = None;
    }

    /// A new subscription is confirmed, and its first heartbeat comes back.
    pub(crate) fn subscribe(&self) {
        let mut backend = self.backend();
        let present = version(backend.record.as_ref());
        let alive = ModelEvent::Alive(Millis(u64::MAX), present);
        backend.pending = Some(VecDeque::from([ModelEvent::Connected(present), alive]));
    }

    /// The node notices that the subscription is lost.
    pub(crate) fn disconnect(&self) {
        let acknowledged = self.acknowledged();
        self.cache.lease().bump();
        self.expect(acknowledged);
    }

    /// The listener applies all announcements that have arrived. Only one thread at a time may call
    /// it.
    pub(crate) fn receive(&self) {
        let mut epoch: Option<Epoch> = None;
        while let Some(event) = self.next_event() {
            match event {
                ModelEvent::Connected(present) => {
                    epoch = Some(self.cache.lease().bump());
                    self.expect(present);
                }
                ModelEvent::Changed(version, revision) => {
                    self.cache.evict(&self.id, revision);
                    self.expect(version);
                }
                ModelEvent::Cleared => {
                    self.cache.clear();
                    self.expect(GONE);
                }
                ModelEvent::Alive(until, version) => {
                    self.cache.lease().extend(epoch.unwrap(), until);
                    self.proven.fetch_max(version, Ordering::Relaxed);
                }
            }
        }
    }

    fn next_event(&self) -> Option<ModelEvent> {
        self.backend().pending.as_mut()?.pop_front()
    }

    /// All announcements are applied: if the session is cached, it is what the backend holds.
    pub(crate) fn settle(&self) {
        self.receive();
        if let Some(cached) = self.cached() {
            assert_eq!(
                cached,
                self.acknowledged(),
                "a version is cached that the backend does not have"
            );
        }
        self.read();
    }

    /// Returns the version that is served from the cache.
    pub(crate) fn cached(&self) -> Option<u32> {
        self.cache.peek(&self.id).map(|record| version(Some(&record)))
    }
}

/// Returns the version of a record, [`GONE`] if there is none.
pub(crate) fn version(record: Option<&Record<u32>>) -> u32 {
    record.map_or(GONE, |record| **record.data())
}
