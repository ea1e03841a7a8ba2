//! Counters of the local cache.

use crate::observe::{self, Counter, Metrics, StripedCounter};

/// Metrics of the local cache since the store was created.
///
/// Each read that may be answered from the cache is counted exactly once, as a hit or as a miss,
/// also under concurrency. Reads past the cache, as by [`Fresh`](crate::Fresh), are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Reads answered from the local cache.
    pub hits: u64,
    /// Reads that were to be answered from the cache and queried the backend. A read of an expired
    /// entry is a miss.
    pub misses: u64,
    /// Misses that bypassed the cache because the node could not prove that it receives
    /// announcements.
    pub bypasses: u64,
    /// Sessions evicted to make room for others, and those that are too large to be cached.
    pub evictions: u64,
    /// Sessions evicted because they were changed or deleted, on this node or another.
    pub invalidations: u64,
    /// Loaded records that were not cached because the session changed while it was being loaded.
    pub refused_fills: u64,
    /// Current number of sessions in the cache, including those that have expired but have not been
    /// replaced yet.
    pub size: usize,
}

impl CacheStats {
    /// Returns the share of reads that were answered from the cache, from 0 to 1. It is 0 before
    /// the first read.
    pub fn hit_rate(&self) -> f64 {
        let reads = self.hits + self.misses;
        if reads == 0 { 0.0 } else { self.hits as f64 / reads as f64 }
    }
}

/// The counters behind [`CacheStats`], which are exported as metrics as well.
#[derive(Debug)]
pub(crate) struct Counters {
    /// Striped, because a hit is on the hot path of every request.
    pub(crate) hits: StripedCounter,
    pub(crate) misses: Counter,
    pub(crate) bypasses: Counter,
    pub(crate) evictions: Counter,
    pub(crate) invalidations: Counter,
    pub(crate) refused_fills: Counter,
}

impl Counters {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Counters {
            hits: StripedCounter::new(metrics, observe::CACHE_HITS),
            misses: Counter::new(metrics, observe::CACHE_MISSES),
            bypasses: Counter::new(metrics, observe::CACHE_BYPASSES),
            evictions: Counter::new(metrics, observe::CACHE_EVICTIONS),
            invalidations: Counter::new(metrics, observe::CACHE_INVALIDATIONS),
            refused_fills: Counter::new(metrics, observe::CACHE_REFUSED_FILLS),
        }
    }

    /// Reads all counters. They are not read at the same instant, so their sums may differ by the
    /// reads in flight.
    pub(crate) fn snapshot(&self, size: usize) -> CacheStats {
        CacheStats {
            hits: self.hits.get(),
            misses: self.misses.get(),
            bypasses: self.bypasses.get(),
            evictions: self.evictions.get(),
            invalidations: self.invalidations.get(),
            refused_fills: self.refused_fills.get(),
            size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hit_rate_is_the_share_of_hits() {
        assert_eq!(CacheStats::default().hit_rate(), 0.0);
        let stats = CacheStats { hits: 3, misses: 1, ..CacheStats::default() };
        assert_eq!(stats.hit_rate(), 0.75);
    }
}
