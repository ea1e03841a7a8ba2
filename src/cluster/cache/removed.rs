//! What has left the map.

use std::sync::Arc;

use quick_cache::Lifecycle;

use super::{Cached, Counters};
use crate::id::SessionId;

/// Entries that have left the map: replaced, evicted to make room, or removed.
///
/// The map and the fence hand them to their caller, who drops them once the locks are free. The
/// data is the application's. It may take long to drop, and its `Drop` may use the store.
#[must_use]
pub(super) struct Removed<T> {
    /// Without an allocation, since one at most leaves the map as a rule.
    first: Option<Cached<T>>,
    others: Vec<Cached<T>>,
}

impl<T> Removed<T> {
    fn push(&mut self, entry: Cached<T>) {
        match self.first {
            None => self.first = Some(entry),
            Some(_) => self.others.push(entry),
        }
    }
}

impl<T> Default for Removed<T> {
    fn default() -> Self {
        Removed { first: None, others: Vec::new() }
    }
}

impl<T> From<Option<Cached<T>>> for Removed<T> {
    fn from(first: Option<Cached<T>>) -> Self {
        Removed { first, others: Vec::new() }
    }
}

/// Counts the entries that the map evicts to make room, and keeps what leaves it.
#[derive(Clone, Debug)]
pub(super) struct Evictions(pub(super) Arc<Counters>);

impl<T> Lifecycle<SessionId, Cached<T>> for Evictions {
    type RequestState = Removed<T>;

    fn before_evict(&self, _: &mut Removed<T>, _: &SessionId, _: &mut Cached<T>) {
        self.0.evictions.add_one();
    }

    /// Also called for an entry that another one replaces.
    fn on_evict(&self, removed: &mut Removed<T>, _: SessionId, entry: Cached<T>) {
        removed.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Weak, mpsc};
    use std::thread;
    use std::time::Duration;

    use super::super::{Capacity, LocalCache};
    use super::*;
    use crate::clock::{Clock, Millis};
    use crate::cluster::lease::Lease;
    use crate::observe::Metrics;
    use crate::record::{Absence, Meta, Record, Revision};

    type Uses = LocalCache<UsesCacheOnDrop>;

    /// Data that uses the cache when it is dropped, as an application's may.
    struct UsesCacheOnDrop {
        cache: Weak<Uses>,
        id: SessionId,
        /// Receives `true` if the cache answered.
        dropped: mpsc::Sender<bool>,
    }

    impl Drop for UsesCacheOnDrop {
        fn drop(&mut self) {
            let Some(cache) = self.cache.upgrade() else { return };
            let id = self.id;
            // On another thread, since this one would wait for itself for ever.
            let (answer, answered) = mpsc::channel();
            thread::spawn(move || {
                drop(cache.begin_load(&id));
                cache.evict(&id, None);
                let _ = answer.send(());
            });
            let in_time = answered.recv_timeout(Duration::from_secs(10)).is_ok();
            let _ = self.dropped.send(in_time);
        }
    }

    #[test]
    fn data_is_dropped_when_all_locks_are_free() {
        let lease = Lease::new();
        let epoch = lease.bump();
        assert!(lease.extend(epoch, Millis(u64::MAX)));
        let (clock, ttl) = (Clock::tokio(), Duration::from_secs(60));
        let capacity = Capacity { sessions: 4, bytes: 400 };
        let cache = Arc::new(Uses::new(lease, clock.clone(), ttl, capacity, &Metrics::new(None)));
        let (dropped, drops) = mpsc::channel();
        let record = |id: u8| {
            let id = SessionId::from_bytes([id; 16]);
            let meta =
                Meta::new(Revision::first(), clock.wall(), clock.wall().saturating_add(ttl), id);
            let data =
                UsesCacheOnDrop { cache: Arc::downgrade(&cache), id, dropped: dropped.clone() };
            Record::new(clock.moment(), id, meta, data, 100)
        };
        let one = SessionId::from_bytes([1; 16]);
        let fill = |record: Record<_>| cache.begin_load(&record.id()).finish(Ok(&record));
        let write = |record: Record<_>| cache.begin_write(&record.id(), None).saved(&record);
        let steps: [(&str, &dyn Fn()); 7] = [
            ("another version is loaded", &|| fill(record(1))),
            ("another version is written", &|| write(record(1))),
            ("a change is announced", &|| cache.evict(&one, Some(Revision::first()))),
            ("a write fails", &|| drop(cache.begin_write(&one, None))),
            ("the session is gone", &|| cache.begin_load(&one).finish(Err(Absence::Gone))),
            ("the cache is cleared", &|| cache.clear()),
            ("other sessions need the room", &|| (2..10).for_each(|id| fill(record(id)))),
        ];
        for (step, run) in steps {
            fill(record(1));
            drops.try_iter().for_each(drop);
            run();
            let answers: Vec<_> = drops.try_iter().collect();
            assert!(!answers.is_empty() && !answers.contains(&false), "{step}: {answers:?}");
        }
    }
}
