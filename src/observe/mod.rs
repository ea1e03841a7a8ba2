//! Metrics: the name, unit and description of each, and the instruments that record them. The table
//! in `docs/observability.md` lists the same ones.
//!
//! They are exported through the facade crate `metrics` (feature `metrics`). Each instrument is
//! created once, when the store is built, so that recording needs no lookup. Without the feature
//! nothing is exported; the counters that the store itself reports still count.

mod calls;
mod log_limit;
mod outcome;
#[cfg(feature = "metrics")]
#[path = "recorded.rs"]
mod recorder;
#[cfg(not(feature = "metrics"))]
#[path = "noop.rs"]
mod recorder;
mod striped;

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use self::calls::{Calls, Commits};
pub(crate) use self::log_limit::LogLimit;
pub(crate) use self::outcome::{Operation, Outcome};
pub(crate) use self::recorder::{Gauge, Metrics};
pub(crate) use self::striped::StripedCounter;

/// The name, unit and description of a metric.
#[cfg_attr(not(feature = "metrics"), allow(dead_code, reason = "`metrics` exports it"))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    /// Follows the conventions of Prometheus: ends in `_total` if it is a counter, and in the unit
    /// if it has one.
    name: &'static str,
    unit: Unit,
    /// The description that a recorder may show, as in Prometheus' `# HELP`.
    about: &'static str,
}

/// The unit of a metric.
#[cfg_attr(not(feature = "metrics"), allow(dead_code, reason = "`metrics` exports it"))]
#[derive(Clone, Copy, Debug)]
enum Unit {
    /// A number of things or, for the state of the circuit, the number of the state.
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
    CACHE_HITS: "cache_hits_total", Count, "Session reads answered from the local cache";
    CACHE_MISSES: "cache_misses_total", Count, "Session reads that the local cache could not answer";
    CACHE_BYPASSES: "cache_bypasses_total", Count, "Cache misses because the node could not prove that it receives announcements";
    CACHE_EVICTIONS: "cache_evictions_total", Count, "Sessions evicted from the local cache to make room for others";
    CACHE_INVALIDATIONS: "cache_invalidations_total", Count, "Sessions evicted from the local cache because they were changed or deleted";
    CACHE_REFUSED_FILLS: "cache_refused_fills_total", Count, "Loaded sessions not cached because they changed while they were being loaded";
    CACHE_SESSIONS: "cache_sessions", Count, "Sessions in the local cache";

    BACKEND_CALLS: "backend_calls_total", Count, "Calls to the session backend, including retries, by operation and outcome";
    BACKEND_CALL_DURATION: "backend_call_duration_seconds", Seconds, "Duration of a call to the session backend, each retry measured separately";
    BACKEND_RETRIES: "backend_retries_total", Count, "Calls to the session backend that repeat a failed one";
    BACKEND_REFUSED_COMMANDS: "backend_refused_commands", Count, "Commands that the servers of the session backend refuse and that it does without";
    CIRCUIT_STATE: "circuit_state", Count, "State of the circuit breaker: 0 closed, 1 half-open, 2 open";
    CIRCUIT_OPENINGS: "circuit_openings_total", Count, "Times the circuit breaker has opened";

    LISTENING: "listening", Count, "1 if the node is proven to receive announcements, 0 if not";
    LAST_HEARTBEAT: "last_heartbeat_timestamp_seconds", Seconds, "Unix time at which the last heartbeat that came back was sent";
    SUBSCRIPTIONS: "subscriptions_total", Count, "Confirmed subscriptions to announcements, each of which starts with an empty cache";
    SUBSCRIPTION_LOSSES: "subscription_losses_total", Count, "Times the subscription to announcements was lost";
    ANNOUNCEMENTS_SENT: "announcements_sent_total", Count, "Announcements sent and acknowledged by the backend";
    ANNOUNCEMENTS_RECEIVED: "announcements_received_total", Count, "Announcements received, including the node's own";
    ANNOUNCEMENTS_UNREADABLE: "announcements_unreadable_total", Count, "Announcements that could not be read, each of which cleared the local cache";

    WATCHES: "watches", Count, "Watches on sessions, such as those of open streams and sockets";
    ENDED_WATCHES: "ended_watches_total", Count, "Watches that have told the end of their session, by reason";

    LIMITED_LOGINS: "limited_logins_total", Count, "Logins of owners who had as many sessions as are allowed";
    DROPPED_EVENTS: "dropped_events_total", Count, "Session events that were dropped because the event hook was too slow";

    REFUSED_COOKIES: "refused_cookies_total", Count, "Session cookies that were not accepted, by reason";
    COMMITS: "commits_total", Count, "Commits of session changes by requests, by outcome";
    REAPPLIED_CHANGES: "reapplied_changes_total", Count, "Session changes applied again after a conflict with another writer";
    DROPPED_CHANGES: "dropped_changes_total", Count, "Requests that ended with uncommitted session changes";
    DEGRADED_READS: "degraded_reads_total", Count, "Requests served by the outage policy because their session could not be loaded";
    UNREADABLE_RECORDS: "unreadable_records_total", Count, "Session records that could not be decoded or decrypted";
    REENCRYPTED_RECORDS: "reencrypted_records_total", Count, "Session records encrypted again because they were plain or under a previous secret";
}

/// A counter that is both readable here and exported at once. No other memory access is ordered by
/// it.
#[derive(Debug)]
pub(crate) struct Counter {
    count: AtomicU64,
    exported: recorder::Counter,
}

impl Counter {
    pub(crate) fn new(metrics: &Metrics, metric: Metric) -> Self {
        Counter { count: AtomicU64::new(0), exported: metrics.counter(metric, &[]) }
    }

    pub(crate) fn with_label(
        metrics: &Metrics,
        metric: Metric,
        label: (&'static str, &'static str),
    ) -> Self {
        Counter { count: AtomicU64::new(0), exported: metrics.counter(metric, &[label]) }
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
