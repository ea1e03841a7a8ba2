//! The options and the metrics of watches.

use std::time::Duration;

use crate::cluster::ClusterSettings;
use crate::observe::{self, Counter, Gauge, Metrics};
use crate::record::Ended;

/// What the watches of a store have in common.
#[derive(Debug)]
pub(super) struct Watching {
    /// Time between two calls of those that are due, and between two looks at a session that cannot
    /// be read.
    pub(super) pulse: Duration,
    /// Time for which a watch goes on while its session is in doubt.
    pub(super) grace: Duration,
    watches: Gauge,
    /// By reason.
    ended: [Counter; Ended::ALL.len()],
}

impl Watching {
    pub(super) fn new(cluster: &ClusterSettings, metrics: &Metrics) -> Self {
        let ended = |reason: Ended| {
            Counter::with_label(metrics, observe::ENDED_WATCHES, ("reason", reason.as_str()))
        };
        Watching {
            pulse: cluster.heartbeat(),
            // A session is read once in a pulse, and must have had the time for it.
            grace: cluster.watch_grace.max(2 * cluster.heartbeat()),
            watches: metrics.gauge(observe::WATCHES),
            ended: Ended::ALL.map(ended),
        }
    }

    /// Reports the number of watches.
    pub(super) fn report(&self, watches: usize) {
        self.watches.set(|| watches as f64);
    }

    /// Counts a watch that has told the end of its session.
    pub(super) fn count(&self, ended: Ended) {
        for (reason, counter) in Ended::ALL.iter().zip(&self.ended) {
            if *reason == ended {
                counter.add_one();
            }
        }
    }
}

/// The watches of a store end before it does, but their last number may not have been reported.
impl Drop for Watching {
    fn drop(&mut self) {
        self.report(0);
    }
}
