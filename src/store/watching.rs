//! The options and the metrics of watches.

use std::time::Duration;

use super::Ended;
use crate::cluster::ClusterConfig;
use crate::observe::{self, Counter, Gauge, Metrics};

/// What the watches of a store have in common.
#[derive(Debug)]
pub(super) struct Watching {
    /// Time between two calls of those that are due, and between two looks at a session that cannot
    /// be read.
    pub(super) pulse: Duration,
    /// Time for which a watch goes on while its session is in doubt.
    pub(super) grace: Duration,
    watches: Gauge,
    deleted: Counter,
    expired: Counter,
    unknown: Counter,
}

impl Watching {
    pub(super) fn new(config: &ClusterConfig, metrics: &Metrics) -> Self {
        let ended =
            |reason| Counter::with_label(metrics, observe::ENDED_WATCHES, ("reason", reason));
        Watching {
            pulse: config.heartbeat(),
            grace: config.watch_grace,
            watches: metrics.gauge(observe::WATCHES),
            deleted: ended("deleted"),
            expired: ended("expired"),
            unknown: ended("unknown"),
        }
    }

    /// Reports the number of watches.
    pub(super) fn report(&self, watches: usize) {
        self.watches.set(|| watches as f64);
    }

    /// Counts a watch that has told the end of its session.
    pub(super) fn count(&self, ended: Ended) {
        match ended {
            Ended::Deleted => self.deleted.add_one(),
            Ended::Expired => self.expired.add_one(),
            Ended::Unknown => self.unknown.add_one(),
        }
    }
}
