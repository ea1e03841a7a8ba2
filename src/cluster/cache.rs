//! The local cache: sessions in memory, visible only while the node is sure to hear of changes to them.
//!
//! Three things stand between a reader and a stale session. The *lease* (`lease.rs`) says whether the node hears the others at
//! all. The *epoch* makes what was cached before a gap in hearing invisible. The *fence* (`fence.rs`) keeps out what a change has
//! overtaken on its way in.
//!
//! What is invisible is still there. In an outage of the backend a request may be answered from it for a while, if the
//! application has said so: [`last_known`](LocalCache::last_known). So what this node knows to be outdated is taken out of the map
//! even while nobody can see it.
//!
//! A hit takes one load of the lease, one reading of the clock, one read lock on a shard of the map and one clone of an `Arc`; it
//! allocates nothing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, UnitWeighter};

use super::fence::Fence;
use super::lease::{Epoch, LastHeld, Lease};
use super::stats::{CacheStats, Counters};
use crate::clock::{Clock, Millis, millis};
use crate::guards::{self, Guard};
use crate::id::SessionId;
use crate::observe::{self, Gauge, Metrics};
use crate::record::{Record, Revision};

/// For how long, in milliseconds, "there is no such session" is believed.
const ABSENT_TTL: u64 = 1000;
/// How many ids are remembered not to exist. Only cookies that verify get this far, so it need not be large.
const ABSENT_MAX: usize = 1024;

/// The sessions in this node's memory.
pub struct LocalCache<T> {
    sessions: Cache<SessionId, Cached<T>, UnitWeighter, DefaultHashBuilder, CountEvictions>,
    absent: Cache<SessionId, Validity>,
    fence: Fence,
    lease: Lease,
    clock: Clock,
    ttl: u64,
    counters: Arc<Counters>,
    size: Gauge,
}

struct Cached<T> {
    record: Record<T>,
    validity: Validity,
}

/// When an entry may be seen: in the epoch in which its backend call began, and for a time from that moment on.
#[derive(Clone, Copy, Debug)]
struct Validity {
    epoch: Epoch,
    began: Millis,
}

/// How long what is cached may be served while the backend is out of reach, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StaleIfError {
    /// From the end of the last lease on. What was read in that epoch is as good as the lease was, however long ago it was read.
    AfterLease(u64),
    /// From the moment on at which it was read, on a node that does not listen and proves nothing.
    AfterRead(u64),
}

/// What the cache knows about a session.
#[derive(Debug)]
pub(crate) enum Lookup<T> {
    Hit(Record<T>),
    Absent,
    Miss,
}

impl<T> LocalCache<T> {
    pub(crate) fn new(
        lease: Lease,
        clock: Clock,
        ttl: Duration,
        max_size: usize,
        metrics: &Metrics,
    ) -> Self {
        let counters = Arc::new(Counters::new(metrics));
        let evictions = CountEvictions(counters.clone());
        LocalCache {
            sessions: Cache::with(
                max_size,
                max_size as u64,
                UnitWeighter,
                DefaultHashBuilder::default(),
                evictions,
            ),
            absent: Cache::new(max_size.min(ABSENT_MAX)),
            fence: Fence::new(),
            lease,
            clock,
            ttl: millis(ttl),
            counters,
            size: metrics.gauge(observe::CACHE_SESSIONS),
        }
    }

    /// Drops all sessions from this node's memory. Other nodes keep theirs, and nothing is deleted.
    pub fn clear(&self) {
        self.fence.invalidate_all();
        self.counters.invalidations.add(self.sessions.len() as u64);
        self.sessions.clear();
        self.absent.clear();
        self.flush();
    }

    /// Sessions in memory now, those included that have expired but have not been replaced yet.
    pub fn size(&self) -> usize {
        self.sessions.len()
    }

    /// Tells the recorder what would cost too much to tell as it happens: hits, and the size, which is counted over all shards of
    /// the map.
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

    /// Whether the cache may be used at this moment.
    pub(crate) fn is_trusted(&self) -> bool {
        self.lease.held(|| self.clock.now()).is_some()
    }

    /// The one entry point for reads; counts a hit or a miss.
    pub(crate) fn get(&self, id: &SessionId) -> Lookup<T> {
        let Some((epoch, now)) = self.lease.held(|| self.clock.now()) else {
            self.counters.bypasses.add_one();
            self.counters.misses.add_one();
            return Lookup::Miss;
        };
        if let Some(record) = self.visible(id, epoch, now, self.ttl) {
            self.counters.hits.add_one();
            return Lookup::Hit(record);
        }
        if self
            .absent
            .get(id)
            .is_some_and(|validity| validity.shows(epoch, now, self.ttl.min(ABSENT_TTL)))
        {
            self.counters.hits.add_one();
            return Lookup::Absent;
        }
        self.counters.misses.add_one();
        Lookup::Miss
    }

    /// The record that a read would get, without counting.
    pub(crate) fn peek(&self, id: &SessionId) -> Option<Record<T>> {
        let (epoch, now) = self.lease.held(|| self.clock.now())?;
        self.visible(id, epoch, now, self.ttl)
    }

    /// What was last known of a session whose load has failed. Only for showing: it may have changed, and nothing may be written on
    /// top of it.
    ///
    /// It is what was cached in the last epoch that was held, if nothing was heard about it since and nothing was done to it on
    /// this node. Its time to live does not count, its deadline does. What is known not to exist may exist by now, so that is no
    /// answer.
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

    /// The one judge of whether a cached session may be seen.
    fn visible(&self, id: &SessionId, epoch: Epoch, now: Millis, ttl: u64) -> Option<Record<T>> {
        let cached = self.sessions.get(id)?;
        (cached.validity.shows(epoch, now, ttl) && now < cached.record.expires())
            .then_some(cached.record)
    }

    /// Something was heard about a session: evicts it, unless the cached revision is the one announced.
    pub(crate) fn evict(&self, id: &SessionId, announced: Option<Revision>) {
        self.fence.invalidate(id, announced, || self.remove(id, announced));
    }

    fn remove(&self, id: &SessionId, keep: Option<Revision>) {
        self.absent.remove(id);
        let cached = self.sessions.peek(id);
        if cached.is_some_and(|cached| Some(cached.record.revision()) != keep) {
            self.sessions.remove(id);
            self.counters.invalidations.add_one();
        }
    }

    /// This record was loaded and may not be cached. What else is cached where nobody sees it is outdated, or may be: it must not
    /// come to light in an outage.
    fn drop_unseen(&self, record: &Record<T>) {
        if self.peek(&record.id()).is_none() {
            self.remove(&record.id(), Some(record.revision()));
        }
    }

    fn insert(&self, record: &Record<T>, validity: Validity) {
        self.absent.remove(&record.id());
        self.sessions.insert(record.id(), Cached { record: record.clone(), validity });
        if self.lease.is_permanent() {
            // There is no listener to do so now and then.
            self.flush();
        }
    }

    /// A read of the backend begins.
    pub(crate) fn begin_load(self: &Arc<Self>, id: &SessionId) -> PendingFill<T> {
        PendingFill { call: self.begin(id, None) }
    }

    /// A write to the backend begins, which replaces `base`.
    pub(crate) fn begin_write(
        self: &Arc<Self>,
        id: &SessionId,
        base: Option<Revision>,
    ) -> PendingWrite<T> {
        PendingWrite { call: self.begin(id, base) }
    }

    fn begin(self: &Arc<Self>, id: &SessionId, base: Option<Revision>) -> Pending<T> {
        let lease = self.lease.held(|| self.clock.now());
        Pending { cache: self.clone(), id: *id, serial: Some(self.fence.begin(id, base)), lease }
    }

    /// Whether a read that begins now may take the result of one that began earlier.
    pub(crate) fn may_share(&self, earlier: &FillMark) -> bool {
        let held = self.lease.held(|| self.clock.now());
        let same_epoch = held.is_some_and(|(epoch, _)| Some(epoch) == earlier.epoch);
        same_epoch && self.fence.is_clear(&earlier.id, earlier.serial)
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

impl Validity {
    fn shows(&self, epoch: Epoch, now: Millis, ttl: u64) -> bool {
        self.epoch == epoch && now < self.began.plus(ttl)
    }
}

/// A call to the backend whose result may be cached. Its fence ticket is given back in any case.
struct Pending<T> {
    cache: Arc<LocalCache<T>>,
    id: SessionId,
    /// Taken when the ticket is given back.
    serial: Option<u64>,
    /// The epoch and the moment in which the call began. `None` if no lease was held: its result will not be cached.
    lease: Option<(Epoch, Millis)>,
}

impl<T> Pending<T> {
    /// When the result of this call may be seen, if it may be cached: the lease must have been held in one epoch when the call
    /// began and now.
    fn validity(&self) -> Option<Validity> {
        let (epoch, began) = self.lease?;
        let (present, _) = self.cache.lease.held(|| self.cache.clock.now())?;
        (epoch == present).then_some(Validity { epoch, began })
    }
}

/// A read under way. Dropped without a result, it caches nothing.
pub(crate) struct PendingFill<T> {
    call: Pending<T>,
}

/// Names a read under way, for those who may want to share it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FillMark {
    id: SessionId,
    serial: u64,
    epoch: Option<Epoch>,
}

impl<T> PendingFill<T> {
    pub(crate) fn mark(&self) -> FillMark {
        FillMark {
            id: self.call.id,
            // Only finishing and dropping take it.
            serial: self.call.serial.unwrap_or(u64::MAX),
            epoch: self.call.lease.map(|(epoch, _)| epoch),
        }
    }

    /// The read has brought this.
    pub(crate) fn finish(mut self, loaded: Option<&Record<T>>) {
        let Some(serial) = self.call.serial.take() else { return };
        let Pending { cache, id, .. } = &self.call;
        let validity = |admitted| {
            let validity = self.call.validity().filter(|_| admitted);
            if validity.is_none() && self.call.lease.is_some() {
                cache.counters.refused_fills.add_one();
            }
            validity
        };
        match loaded {
            Some(record) => cache.fence.end(id, serial, Some(record.revision()), |admitted| {
                match validity(admitted) {
                    Some(validity) => cache.insert(record, validity),
                    None => cache.drop_unseen(record),
                }
            }),
            // No id is used again, so this is as final as if this node had deleted the session.
            None => cache.fence.end_write(id, serial, None, |admitted| {
                cache.remove(id, None);
                if let Some(validity) = validity(admitted) {
                    cache.absent.insert(*id, validity);
                }
            }),
        }
    }
}

impl<T> Drop for PendingFill<T> {
    fn drop(&mut self) {
        if let Some(serial) = self.call.serial.take() {
            self.call.cache.fence.end(&self.call.id, serial, None, |_| ());
        }
    }
}

/// A write under way. Dropped without a result, because it failed or nobody waited for it, it evicts the session: what the
/// backend has now is unknown.
pub(crate) struct PendingWrite<T> {
    call: Pending<T>,
}

impl<T> PendingWrite<T> {
    /// The write has put this record there: it stays warm, unless news of another change have come meanwhile.
    pub(crate) fn saved(mut self, record: &Record<T>) {
        let Some(serial) = self.call.serial.take() else { return };
        let Pending { cache, id, .. } = &self.call;
        cache.fence.end_write(id, serial, Some(record.revision()), |admitted| {
            match self.call.validity().filter(|_| admitted) {
                Some(validity) => cache.insert(record, validity),
                None => cache.remove(id, None),
            }
        });
    }
}

impl<T> Drop for PendingWrite<T> {
    fn drop(&mut self) {
        if let Some(serial) = self.call.serial.take() {
            let Pending { cache, id, .. } = &self.call;
            cache.fence.end_write(id, serial, None, |_| cache.remove(id, None));
        }
    }
}

/// Counts what the map drops to make room, and nothing else.
#[derive(Clone, Debug)]
struct CountEvictions(Arc<Counters>);

impl<T> Lifecycle<SessionId, Cached<T>> for CountEvictions {
    type RequestState = ();

    fn before_evict(&self, (): &mut (), _: &SessionId, _: &mut Cached<T>) {
        self.0.evictions.add_one();
    }
}

#[cfg(all(test, shuttle))]
mod interleavings;
#[cfg(test)]
mod outage_tests;
#[cfg(test)]
mod tests;
