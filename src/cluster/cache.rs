//! The local cache: sessions in memory, returned only while the node can prove that it receives the
//! announcements of changes to them.
//!
//! Three mechanisms keep a stale session from a reader. The *lease* (`lease.rs`) proves that the
//! node receives announcements at all. The *epoch* hides what was cached before a gap in that. The
//! *fence* (`fence.rs`) keeps out a value that a change has overtaken while it was being loaded or
//! written.
//!
//! A hidden entry is still in the map. During an outage of the backend a request may be answered
//! from it for a while, if the application allows it: [`last_known`](LocalCache::last_known). So an
//! entry that this node knows to be stale is removed from the map even while no read can return it.
//!
//! A hit takes one load of the lease, one reading of the clock, one read lock on a shard of the map
//! and one clone of an `Arc`. It allocates nothing.

mod clear;
mod pending;
mod removed;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Weighter};

pub(crate) use self::pending::{FillMark, PendingFill};
use self::removed::{Evictions, Removed};
use super::fence::Fence;
use super::lease::{Epoch, LastHeld, Lease};
use super::stats::{CacheStats, Counters};
use super::watches::Watches;
use crate::clock::{Clock, Millis, millis};
use crate::guards::{self, Guard};
use crate::id::SessionId;
use crate::observe::{self, Gauge, Metrics};
use crate::record::{Absence, Record, Revision};
use crate::sync::AtomicU32;

/// Time for which a node remembers that a session does not exist, in milliseconds.
const ABSENT_TTL: u64 = 1000;
/// Number of ids of absent sessions to remember. Only cookies that verify lead to a lookup, so few
/// are needed.
const ABSENT_MAX: usize = 1024;

/// The sessions in this node's memory.
pub struct LocalCache<T> {
    sessions: Cache<SessionId, Cached<T>, ByLength, DefaultHashBuilder, Evictions>,
    /// Ids of sessions that do not exist. A map of its own, so that they cannot push out sessions.
    absent: Cache<SessionId, (Absence, Validity)>,
    fence: Fence,
    lease: Lease,
    /// Number of times that the cache was cleared. What was cached before the last time is
    /// invisible.
    clears: AtomicU32,
    /// `true` while a thread frees what was cached before the last clear.
    is_freeing: AtomicBool,
    clock: Clock,
    /// Time to live of an entry in milliseconds, counted from the beginning of its backend call.
    ttl: u64,
    /// Those who wait for changes of a session, cached or not.
    watches: Arc<Watches>,
    /// Shared with the map, which counts its evictions.
    counters: Arc<Counters>,
    size: Gauge,
}

/// A cached record.
struct Cached<T> {
    record: Record<T>,
    validity: Validity,
}

/// The limits of a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    pub(crate) sessions: usize,
    /// Of the data, as bytes.
    pub(crate) bytes: u64,
}

/// Weighs an entry by the length of its data as bytes.
///
/// No entry weighs less than its share of the bytes if the cache is full of sessions. So the limit
/// of the weight is also one of the number of sessions.
#[derive(Clone, Copy, Debug)]
struct ByLength {
    minimum: u64,
}

impl<T> Weighter<SessionId, Cached<T>> for ByLength {
    fn weight(&self, _: &SessionId, cached: &Cached<T>) -> u64 {
        u64::from(cached.record.data_len()).max(self.minimum)
    }
}

/// Decides when an entry may be returned: in the epoch in which its backend call began, and for a
/// limited time from that moment on.
#[derive(Clone, Copy, Debug)]
struct Validity {
    epoch: Epoch,
    /// Number of times that the cache had been cleared when the entry was inserted.
    clears: u32,
    /// The beginning of the backend call. What it returned may be that old.
    began: Millis,
}

/// The limit for serving a cached record while the backend is unreachable, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StaleIfError {
    /// Counted from the end of the last lease. A record read in that epoch is as good as the lease
    /// was, however long ago it was read.
    AfterLease(u64),
    /// Counted from the moment at which the record was read. For a node that does not listen and so
    /// has no proof.
    AfterRead(u64),
}

/// The result of a lookup in the cache.
#[derive(Debug)]
pub(crate) enum Lookup<T> {
    /// The session is cached.
    Hit(Record<T>),
    /// There is known to be no session under this id.
    Absent(Absence),
    /// The backend must be queried.
    Miss,
}

impl<T> LocalCache<T> {
    pub(crate) fn new(
        lease: Lease,
        clock: Clock,
        ttl: Duration,
        capacity: Capacity,
        metrics: &Metrics,
    ) -> Self {
        let counters = Arc::new(Counters::new(metrics));
        let evictions = Evictions(counters.clone());
        // The map admits no entry that takes up all of it, even if there is room for one only.
        let longest = capacity.bytes - capacity.bytes / 32;
        let share = capacity.bytes.div_ceil(capacity.sessions.max(1) as u64);
        LocalCache {
            sessions: Cache::with(
                capacity.sessions,
                capacity.bytes,
                ByLength { minimum: share.min(longest) },
                DefaultHashBuilder::default(),
                evictions,
            ),
            absent: Cache::new(capacity.sessions.min(ABSENT_MAX)),
            fence: Fence::new(),
            lease,
            clears: AtomicU32::new(0),
            is_freeing: AtomicBool::new(false),
            clock,
            ttl: millis(ttl),
            watches: Arc::new(Watches::new()),
            counters,
            size: metrics.gauge(observe::CACHE_SESSIONS),
        }
    }

    /// Returns the number of sessions in the cache, including those that have expired but have not
    /// been replaced yet, and those that were cleared a moment ago.
    pub fn size(&self) -> usize {
        self.sessions.len()
    }

    /// Exports the metrics that would cost too much to export at every change: the hits, and the
    /// size, which is summed over all shards of the map.
    pub(crate) fn flush(&self) {
        self.counters.hits.flush();
        self.size.set(|| self.size() as f64);
    }

    pub(crate) fn stats(&self) -> CacheStats {
        self.counters.snapshot(self.size())
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(crate) fn watches(&self) -> &Arc<Watches> {
        &self.watches
    }

    /// Returns `true` if the cache may be used at this moment.
    pub(crate) fn is_trusted(&self) -> bool {
        self.lease.held(|| self.clock.now()).is_some()
    }

    /// Looks up a session, and counts a hit or a miss. Every read of a request comes through here.
    pub(crate) fn get(&self, id: &SessionId) -> Lookup<T> {
        let Some((epoch, now)) = self.lease.held(|| self.clock.now()) else {
            self.counters.bypasses.add_one();
            self.counters.misses.add_one();
            return Lookup::Miss;
        };
        let found = self.lookup(id, epoch, now);
        match found {
            Lookup::Hit(_) | Lookup::Absent(_) => self.count_hit(id),
            Lookup::Miss => self.counters.misses.add_one(),
        }
        found
    }

    /// As [`get`](Self::get), but counts no miss. For a caller who comes back after one.
    pub(crate) fn get_if_known(&self, id: &SessionId) -> Lookup<T> {
        let Some((epoch, now)) = self.lease.held(|| self.clock.now()) else { return Lookup::Miss };
        let found = self.lookup(id, epoch, now);
        // A caller who finds that a session has moved reads it.
        if !matches!(found, Lookup::Miss | Lookup::Absent(Absence::Moved(_))) {
            self.count_hit(id);
        }
        found
    }

    fn count_hit(&self, id: &SessionId) {
        let [.., last] = *id.as_bytes();
        self.counters.hits.add_one(last);
    }

    #[inline]
    fn lookup(&self, id: &SessionId, epoch: Epoch, now: Millis) -> Lookup<T> {
        if let Some(record) = self.visible(id, epoch, now, self.ttl) {
            return Lookup::Hit(record);
        }
        match self.absent.get(id) {
            Some((absence, validity))
                if self.covers(&validity, epoch, now, self.ttl.min(ABSENT_TTL)) =>
            {
                Lookup::Absent(absence)
            }
            _ => Lookup::Miss,
        }
    }

    /// Looks up a session that meets a condition, and counts a hit if there is one. Returns it with
    /// the present moment.
    pub(crate) fn get_if(
        &self,
        id: &SessionId,
        condition: impl FnOnce(&Record<T>) -> bool,
    ) -> Option<(Record<T>, Millis)> {
        let (epoch, now) = self.lease.held(|| self.clock.now())?;
        let record = self.visible(id, epoch, now, self.ttl).filter(condition)?;
        self.count_hit(id);
        Some((record, now))
    }

    /// Returns the record that [`get`](Self::get) would return, without counting.
    pub(crate) fn peek(&self, id: &SessionId) -> Option<Record<T>> {
        let (epoch, now) = self.lease.held(|| self.clock.now())?;
        self.visible(id, epoch, now, self.ttl)
    }

    /// Returns the moment at which a record was read from the backend, if it is cached on a node
    /// that is told nothing of what has happened since.
    pub(crate) fn unannounced_since(&self, record: &Record<T>) -> Option<Millis> {
        if !self.lease.is_permanent() {
            return None;
        }
        let cached = self.sessions.peek(&record.id())?;
        (cached.record.revision() == record.revision()).then_some(cached.validity.began)
    }

    /// Returns the moment by which a session that has been read now must be looked at again, though
    /// nobody announces anything: its deadline, or the end of its time in a cache that no
    /// announcement reaches.
    pub(crate) fn look_again_by(&self, record: &Record<T>, now: Millis) -> Millis {
        let expires = record.expires();
        if !self.lease.is_permanent() {
            return expires;
        }
        expires.min(self.unannounced_since(record).unwrap_or(now).plus(self.ttl))
    }

    /// Returns a record whose deadline has passed, and of which no announcement has said otherwise.
    pub(crate) fn expired(&self, id: &SessionId) -> Option<Record<T>> {
        let (epoch, now) = self.lease.held(|| self.clock.now())?;
        let cached = self.sessions.peek(id)?;
        (self.covers(&cached.validity, epoch, now, u64::MAX) && cached.record.expires() <= now)
            .then_some(cached.record)
    }

    /// Returns the last known version of a session whose load has failed. It may be stale: it may
    /// be displayed, but nothing may be written on top of it.
    ///
    /// It is the record that was cached in the last epoch in which the lease was held, provided
    /// that no announcement about it has arrived since and this node has not changed or deleted it.
    /// Its time to live is ignored; its deadline is not. A session that was known not to exist may
    /// exist by now, so that is no answer.
    pub(crate) fn last_known(&self, id: &SessionId, grace: StaleIfError) -> Option<Record<T>> {
        let LastHeld { epoch, until, now } = self.lease.last_held(|| self.clock.now())?;
        let ttl = match grace {
            StaleIfError::AfterLease(grace)
                if now < until.plus(grace) || !guards::enabled(Guard::MaxAge) =>
            {
                u64::MAX
            }
            StaleIfError::AfterLease(_) => return None,
            StaleIfError::AfterRead(max_age) => max_age,
        };
        self.visible(id, epoch, now, ttl)
    }

    /// Returns a cached record if it may be seen. Every read of the map that returns a record goes
    /// through this check.
    fn visible(&self, id: &SessionId, epoch: Epoch, now: Millis, ttl: u64) -> Option<Record<T>> {
        let cached = self.sessions.get(id)?;
        self.shows(&cached, epoch, now, ttl).then_some(cached.record)
    }

    fn shows(&self, cached: &Cached<T>, epoch: Epoch, now: Millis, ttl: u64) -> bool {
        self.covers(&cached.validity, epoch, now, ttl) && now < cached.record.expires()
    }

    /// Returns `true` if an entry may be seen at this moment, given its time to live in
    /// milliseconds.
    fn covers(&self, validity: &Validity, epoch: Epoch, now: Millis, ttl: u64) -> bool {
        validity.epoch == epoch
            && validity.clears == self.clears.load(Ordering::Acquire)
            && now < validity.began.plus(ttl)
    }

    /// Evicts a session that was changed or deleted, unless the cached revision is the announced
    /// one.
    pub(crate) fn evict(&self, id: &SessionId, announced: Option<Revision>) {
        let removed = self.fence.invalidate(id, announced, || self.remove(id, announced));
        self.watches.call(id);
        drop(removed);
    }

    /// Removes a session from the map unless its revision is `keep`. Called under the fence's lock
    /// for the session, so that no fill can come in between.
    fn remove(&self, id: &SessionId, keep: Option<Revision>) -> Removed<T> {
        self.remove_if(id, |cached| Some(cached.record.revision()) != keep)
    }

    fn remove_if(&self, id: &SessionId, condition: impl FnOnce(&Cached<T>) -> bool) -> Removed<T> {
        self.absent.remove(id);
        let removed = self.sessions.remove_if(id, condition).map(|(_, cached)| cached);
        if removed.is_some() {
            self.counters.invalidations.add_one();
        }
        removed.into()
    }

    /// Removes a hidden entry for the session of a loaded record that may not be cached.
    ///
    /// Any such entry may be stale, and [`last_known`](Self::last_known) must not serve it during
    /// an outage. A visible entry is left alone: lease, epoch and fence vouch for it.
    fn remove_hidden(&self, record: &Record<T>) -> Removed<T> {
        let held = self.lease.held(|| self.clock.now());
        // Not cloned: the clone might be dropped here, under the fence's lock, as the last one.
        self.remove_if(&record.id(), |cached| {
            let is_visible =
                held.is_some_and(|(epoch, now)| self.shows(cached, epoch, now, self.ttl));
            !is_visible && cached.record.revision() != record.revision()
        })
    }

    /// Caches a record. Called under the fence's lock for the session.
    fn insert(&self, record: &Record<T>, validity: Validity) -> Removed<T> {
        self.absent.remove(&record.id());
        let mut removed = Removed::default();
        let cached = Cached { record: record.clone(), validity };
        self.sessions.insert_with_lifecycle(record.id(), cached, &mut removed);
        if self.lease.is_permanent() {
            // On a node that listens, the listener does this with every heartbeat.
            self.flush();
        }
        removed
    }
}

impl<T> fmt::Debug for LocalCache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCache").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl<T> Clone for Cached<T> {
    fn clone(&self) -> Self {
        Cached { record: self.record.clone(), validity: self.validity }
    }
}

#[cfg(test)]
mod clear_tests;
#[cfg(all(test, shuttle))]
mod interleavings;
#[cfg(test)]
mod outage_tests;
#[cfg(test)]
mod tests;
