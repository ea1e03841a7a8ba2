//! Building blocks of the models of interleavings: one session, a backend, and the cache of one
//! node.
//!
//! The models are in `cache/interleavings.rs`, and in `shared` and `single_flight` of the store.
//! `tests/run.sh` runs them with `RUSTFLAGS="--cfg shuttle" cargo test --lib interleavings`. At
//! each lock and each atomic, [shuttle](https://docs.rs/shuttle) decides which thread continues,
//! and it prints the schedule of a failed run. Locks and atomics are treated as sequentially
//! consistent. Only models run under that flag: outside of a model, shuttle's locks panic.
#![allow(clippy::unwrap_used, reason = "only models run this")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;

use super::cache::{Capacity, LocalCache, Lookup, StaleIfError};
use super::lease::Lease;
use super::message::Announcement;
use super::reception::Reception;
use crate::clock::{self, Clock, Millis};
use crate::id::SessionId;
use crate::observe::Metrics;
use crate::record::{Absence, Meta, Record, Revision};
use crate::sync::{Mutex, MutexGuard};

/// Number of schedules to try with each of two schedulers.
const SCHEDULES: usize = 10_000;
/// Number of priority changes in a run of the second scheduler, which finds errors that need few
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
    /// The oldest version that a read may return if it begins now.
    due: AtomicU32,
    /// The oldest version that a read may return after a failed load: the version in the backend
    /// when the last heartbeat was sent, or a later one that this node wrote.
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
    /// The version that is due once this has been applied.
    Announced(u32, Announcement),
    /// The end of the proven lease, and the version in the backend when the heartbeat was sent.
    Alive(Millis, u32),
}

impl Model {
    /// Creates a session of version 1 that is not cached, on a node that holds the lease for this
    /// long.
    pub(crate) fn leased_for(max_staleness: Duration) -> Arc<Self> {
        let clock = Clock::tokio();
        let lease = Lease::new();
        let epoch = lease.bump();
        lease.extend(epoch, clock.now().plus(clock::millis(max_staleness)));
        let model = Model {
            // A small cache, so that its map has only one lock.
            cache: Arc::new(LocalCache::new(
                lease,
                clock.clone(),
                Duration::from_secs(60),
                Capacity { sessions: 4, bytes: 4 },
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

    /// Creates a session of version 1 that is not cached, on a node that holds the lease until it
    /// is lost.
    pub(crate) fn cold() -> Arc<Self> {
        Self::leased_for(Duration::MAX)
    }

    /// Creates the same as [`cold`](Self::cold), with the session cached.
    pub(crate) fn warm() -> Arc<Self> {
        let model = Self::cold();
        model.load();
        model
    }

    fn record(&self, version: u32) -> Record<u32> {
        let mut revision = [0; 16];
        revision[..4].copy_from_slice(&version.to_be_bytes());
        let now = self.clock.wall();
        let deadline = now.saturating_add(Duration::from_secs(3600));
        let meta = Meta::new(Revision::from_bytes(revision), now, deadline, self.id);
        Record::new(self.clock.moment(), self.id, meta, version, 0)
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
        call.finish(loaded.as_ref().ok_or(Absence::Gone));
        version(loaded.as_ref())
    }

    /// Reads the session by the rules of the cache, and checks that the result is not too old.
    pub(crate) fn read(&self) {
        let due = self.due();
        let seen = match self.cache.get(&self.id) {
            Lookup::Hit(record) => version(Some(&record)),
            Lookup::Absent(_) => GONE,
            Lookup::Miss => self.load_version(),
        };
        assert!(seen >= due, "version {seen} was read when {due} was due");
    }

    /// Reads the session after a failed load. The result may be stale, but not older than the last
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

    /// Requires reads that begin from now on to return this version or a later one.
    pub(crate) fn expect(&self, version: u32) {
        self.due.fetch_max(version, Ordering::Relaxed);
    }

    /// Changes the session on another node.
    pub(crate) fn change_elsewhere(&self) {
        let changed = || {
            let base = self.stored().unwrap();
            self.compare_and_set(&base, &self.record(*base.data() + 1))
        };
        while !changed() {}
    }

    /// Deletes all sessions on another node.
    pub(crate) fn clear_elsewhere(&self) {
        let event = ModelEvent::Announced(GONE, Announcement::CacheClear);
        self.put(&mut self.backend(), None, event);
    }

    /// Changes the session on this node. Returns `false` on a conflict.
    pub(crate) fn change(&self) -> bool {
        let base = self.stored().unwrap();
        let new = self.record(*base.data() + 1);
        let write = async { self.compare_and_set(&base, &new) };
        let base = Some(base.revision());
        let saved = run(self.cache.write_through(&new, base, write, |saved| *saved));
        if saved {
            self.expect(version(Some(&new)));
            self.proven.fetch_max(version(Some(&new)), Ordering::Relaxed);
        }
        saved
    }

    /// Deletes the session on this node.
    pub(crate) fn delete(&self) {
        let announcement = Announcement::SessionDeleted(self.id, None);
        let delete = async {
            self.put(&mut self.backend(), None, ModelEvent::Announced(GONE, announcement));
        };
        run(self.cache.evict_through(&self.id, delete));
        self.expect(GONE);
        self.proven.fetch_max(GONE, Ordering::Relaxed);
    }

    fn compare_and_set(&self, base: &Record<u32>, new: &Record<u32>) -> bool {
        let mut backend = self.backend();
        let unchanged =
            backend.record.as_ref().is_some_and(|record| record.revision() == base.revision());
        if unchanged {
            let announcement = Announcement::SessionInvalidated(self.id, Some(new.revision()));
            let event = ModelEvent::Announced(version(Some(new)), announcement);
            self.put(&mut backend, Some(new.clone()), event);
        }
        unchanged
    }

    /// Writes the record and announces the change in one step.
    fn put(&self, backend: &mut Backend, record: Option<Record<u32>>, event: ModelEvent) {
        if let Some(pending) = &mut backend.pending {
            pending.push_back(event);
        }
        self.acknowledged.store(version(record.as_ref()), Ordering::Relaxed);
        backend.record = record;
    }

    /// Breaks the subscription. Announcements that are not delivered yet are lost.
    pub(crate) fn cut(&self) {
        self.backend().pending = None;
    }

    /// Confirms a new subscription and delivers its first heartbeat.
    pub(crate) fn subscribe(&self) {
        let mut backend = self.backend();
        let present = version(backend.record.as_ref());
        let alive = ModelEvent::Alive(Millis(u64::MAX), present);
        backend.pending = Some(VecDeque::from([ModelEvent::Connected(present), alive]));
    }

    /// Makes the node notice the loss of the subscription.
    pub(crate) fn disconnect(&self) {
        let acknowledged = self.acknowledged();
        self.cache.lease().bump();
        self.expect(acknowledged);
    }

    /// Applies all announcements that have arrived. Only one thread at a time may call it.
    pub(crate) fn receive(&self) {
        let mut reception = Reception::default();
        while let Some(event) = self.next_event() {
            match event {
                ModelEvent::Connected(present) => {
                    reception.connected(self.cache.lease());
                    self.expect(present);
                }
                ModelEvent::Announced(version, announcement) => {
                    let message = announcement.encode("another-node", 0);
                    reception.announced(&self.cache, &message).unwrap();
                    self.expect(version);
                }
                ModelEvent::Alive(until, version) => {
                    assert!(reception.alive(self.cache.lease(), until, Duration::ZERO));
                    self.proven.fetch_max(version, Ordering::Relaxed);
                }
            }
        }
    }

    fn next_event(&self) -> Option<ModelEvent> {
        self.backend().pending.as_mut()?.pop_front()
    }

    /// Applies all announcements, and checks that a cached session is the one in the backend.
    pub(crate) fn settle(&self) {
        self.receive();
        if let Some(cached) = self.cached() {
            assert_eq!(
                cached,
                self.acknowledged(),
                "the cached version is not the one in the backend"
            );
        }
        self.read();
    }

    /// Returns the version that is served from the cache.
    pub(crate) fn cached(&self) -> Option<u32> {
        self.cache.peek(&self.id).map(|record| version(Some(&record)))
    }
}

/// Runs a step of the store. It waits for nothing but locks.
fn run<F: Future>(step: F) -> F::Output {
    step.now_or_never().unwrap()
}

/// Returns the version of a record, or [`GONE`] if there is none.
pub(crate) fn version(record: Option<&Record<u32>>) -> u32 {
    record.map_or(GONE, |record| *record.data())
}
