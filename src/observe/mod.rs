//! What is measured: all metrics with their names, units and descriptions. `docs/observability.md` has the same as a table.
//!
//! They go out through the facade of the crate `metrics` (feature `metrics`). Each instrument is made once, when the store is
//! built, so that to count costs no look-up. Without the feature they do nothing, but for the figures that a store tells itself.

mod calls;
mod outcome;
#[cfg(feature = "metrics")]
#[path = "recorded.rs"]
mod recorder;
#[cfg(not(feature = "metrics"))]
#[path = "noop.rs"]
mod recorder;

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use self::calls::{Calls, Commits};
pub(crate) use self::outcome::{Operation, Outcome};
pub(crate) use self::recorder::{Gauge, Metrics};

/// A metric.
#[cfg_attr(not(feature = "metrics"), allow(dead_code, reason = "`metrics` exports it"))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    name: &'static str,
    unit: Unit,
    about: &'static str,
}

#[cfg_attr(not(feature = "metrics"), allow(dead_code, reason = "`metrics` exports it"))]
#[derive(Clone, Copy, Debug)]
enum Unit {
    /// How many; or, of a state, which.
    Count,
    Seconds,
}

macro_rules! metrics {
    ($($id:ident: $name:literal, $unit:ident, $about:literal;)*) => {
        $(pub(crate) const $id: Metric =
            Metric { name: concat!("clustered_sessions_", $name), unit: Unit::$unit, about: $about };)*
    };
}

metrics! {
    CACHE_HITS: "cache_hits_total", Count, "Reads answered from memory";
    CACHE_MISSES: "cache_misses_total", Count, "Reads that asked the backend";
    CACHE_BYPASSES: "cache_bypasses_total", Count, "Misses because the node was not sure to hear the others";
    CACHE_EVICTIONS: "cache_evictions_total", Count, "Sessions dropped from memory to make room for others";
    CACHE_INVALIDATIONS: "cache_invalidations_total", Count, "Sessions dropped from memory because they were changed or deleted";
    CACHE_REFUSED_FILLS: "cache_refused_fills_total", Count, "Loaded sessions not cached because they changed meanwhile";
    CACHE_SESSIONS: "cache_sessions", Count, "Sessions in memory";

    BACKEND_CALLS: "backend_calls_total", Count, "Calls of the backend, each attempt counted, by operation and outcome";
    BACKEND_CALL_DURATION: "backend_call_duration_seconds", Seconds, "How long a call of the backend took, each attempt measured";
    BACKEND_RETRIES: "backend_retries_total", Count, "Calls of the backend made again after one that failed";
    CIRCUIT_STATE: "circuit_state", Count, "The circuit breaker: 0 closed, 1 half-open, 2 open";
    CIRCUIT_OPENINGS: "circuit_openings_total", Count, "How often the circuit breaker has opened";

    LISTENING: "listening", Count, "Whether the node hears the announcements of the others: 1 or 0";
    LAST_PROOF: "last_proof_timestamp_seconds", Seconds, "When the node last proved that it hears, in Unix time";
    SUBSCRIPTIONS: "subscriptions_total", Count, "Subscriptions confirmed; each begins an epoch with an empty cache";
    SUBSCRIPTION_LOSSES: "subscription_losses_total", Count, "How often the node ceased to hear the others";
    ANNOUNCEMENTS_SENT: "announcements_sent_total", Count, "Announcements that the backend has acknowledged";
    ANNOUNCEMENTS_RECEIVED: "announcements_received_total", Count, "Announcements heard, the node's own among them";
    ANNOUNCEMENTS_UNREADABLE: "announcements_unreadable_total", Count, "Announcements that could not be read; each cleared the cache";

    COMMITS: "commits_total", Count, "Commits of requests' changes, by outcome";
    REAPPLIED_CHANGES: "reapplied_changes_total", Count, "Changes made again on top of another node's";
    DROPPED_CHANGES: "dropped_changes_total", Count, "Requests that ended with changes never committed";
    DEGRADED_READS: "degraded_reads_total", Count, "Requests that the outage policy answered";
    UNREADABLE_RECORDS: "unreadable_records_total", Count, "Records that could not be read";
    REENCRYPTED_RECORDS: "reencrypted_records_total", Count, "Records re-encrypted because their protection was outdated";
}

/// A [`Counter`] that is told later: several threads that count the same thing at every moment would wait for each other at each
/// place where it is kept.
#[derive(Debug)]
pub(crate) struct BufferedCounter {
    count: AtomicU64,
    flushed: AtomicU64,
    exported: recorder::Counter,
}

impl BufferedCounter {
    pub(crate) fn new(metrics: &Metrics, metric: Metric) -> Self {
        BufferedCounter {
            count: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            exported: metrics.counter(metric, &[]),
        }
    }

    pub(crate) fn add_one(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Tells what was counted since this was last called.
    pub(crate) fn flush(&self) {
        let count = self.get();
        let flushed = self.flushed.fetch_max(count, Ordering::Relaxed);
        self.exported.increment(count.saturating_sub(flushed));
    }
}

/// A number that only goes up, kept here and told the recorder. Nothing is ordered by it.
#[derive(Debug)]
pub(crate) struct Counter {
    count: AtomicU64,
    exported: recorder::Counter,
}

impl Counter {
    pub(crate) fn new(metrics: &Metrics, metric: Metric) -> Self {
        Counter { count: AtomicU64::new(0), exported: metrics.counter(metric, &[]) }
    }

    pub(crate) fn add_one(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, count: u64) {
        self.count.fetch_add(count, Ordering::Relaxed);
        self.exported.increment(count);
    }

    pub(crate) fn get(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}
