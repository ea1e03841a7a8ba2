//! The counter of the hot path.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Metric, Metrics, recorder};

/// Number of stripes. A power of two, so that a stripe is chosen without a division.
const STRIPES: usize = 16;

/// A counter for the hot path, divided among stripes and exported in batches.
///
/// If all threads counted in one place, they would contend for its cache line at each hit, which
/// costs more than the look-up itself. Exporting each hit at once would do the same with a cache
/// line of the recorder. Differences are exported rather than totals, because stores without a
/// label share one series of the recorder.
#[derive(Debug)]
pub(crate) struct StripedCounter {
    stripes: [Stripe; STRIPES],
    /// The part of the total that has been exported.
    flushed: AtomicU64,
    exported: recorder::Counter,
}

/// A part of the total, alone in its cache lines: processors fetch them in pairs of 64 bytes.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(AtomicU64);

impl StripedCounter {
    pub(crate) fn new(metrics: &Metrics, metric: Metric) -> Self {
        StripedCounter {
            stripes: Default::default(),
            flushed: AtomicU64::new(0),
            exported: metrics.counter(metric, &[]),
        }
    }

    /// Adds one, in the stripe that `byte` selects: a byte of what is counted that is evenly
    /// distributed, so that threads seldom meet in one stripe.
    pub(crate) fn add_one(&self, byte: u8) {
        self.stripes[usize::from(byte) % STRIPES].0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the total. A later call never returns less.
    pub(crate) fn get(&self) -> u64 {
        self.stripes.iter().map(|stripe| stripe.0.load(Ordering::Relaxed)).sum()
    }

    /// Exports what was counted since the last flush. Concurrent calls export nothing twice.
    pub(crate) fn flush(&self) {
        let count = self.get();
        let flushed = self.flushed.fetch_max(count, Ordering::Relaxed);
        self.exported.increment(count.saturating_sub(flushed));
    }
}

#[cfg(test)]
impl StripedCounter {
    pub(crate) fn counts(&self) -> [u64; STRIPES] {
        self.stripes.each_ref().map(|stripe| stripe.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe;

    #[test]
    fn hits_are_counted_in_different_stripes_and_summed() {
        let counter = StripedCounter::new(&Metrics::new(None), observe::CACHE_HITS);
        for byte in 0..=255 {
            counter.add_one(byte);
        }
        assert_eq!(counter.get(), 256);
        assert_eq!(counter.counts(), [16; STRIPES]);
    }
}
