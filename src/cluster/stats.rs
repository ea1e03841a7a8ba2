//! What the local cache has done.

use crate::observe::{self, BufferedCounter, Counter, Metrics};

/// Figures of the local cache since the store was made.
///
/// Each read counts once, as a hit or as a miss, whatever happens at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Reads answered from memory.
    pub hits: u64,
    /// Reads that asked the backend. An expired entry is a miss.
    pub misses: u64,
    /// Those of the misses that could not use the cache at all, since the node was not sure to hear the others.
    pub bypasses: u64,
    /// Sessions dropped to make room for others.
    pub evictions: u64,
    /// Sessions dropped because they were changed or deleted, here or on another node.
    pub invalidations: u64,
    /// Results of reads that were not cached, because the session changed while they were under way.
    pub refused_fills: u64,
    /// Sessions in memory now, those included that have expired but have not been replaced yet.
    pub size: usize,
}

impl CacheStats {
    /// The share of reads answered from memory, 0 to 1; 0 before the first read.
    pub fn hit_rate(&self) -> f64 {
        let reads = self.hits + self.misses;
        if reads == 0 { 0.0 } else { self.hits as f64 / reads as f64 }
    }
}

/// The counters behind [`CacheStats`].
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) hits: BufferedCounter,
    pub(crate) misses: Counter,
    pub(crate) bypasses: Counter,
    pub(crate) evictions: Counter,
    pub(crate) invalidations: Counter,
    pub(crate) refused_fills: Counter,
}

impl Counters {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Counters {
            hits: BufferedCounter::new(metrics, observe::CACHE_HITS),
            misses: Counter::new(metrics, observe::CACHE_MISSES),
            bypasses: Counter::new(metrics, observe::CACHE_BYPASSES),
            evictions: Counter::new(metrics, observe::CACHE_EVICTIONS),
            invalidations: Counter::new(metrics, observe::CACHE_INVALIDATIONS),
            refused_fills: Counter::new(metrics, observe::CACHE_REFUSED_FILLS),
        }
    }

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
    fn the_hit_rate_is_a_share() {
        assert_eq!(CacheStats::default().hit_rate(), 0.0);
        let stats = CacheStats { hits: 3, misses: 1, ..CacheStats::default() };
        assert_eq!(stats.hit_rate(), 0.75);
    }
}
