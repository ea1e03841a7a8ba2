//! The checked options of the local cache and of the announcements.

use std::time::Duration;

use super::cache::Capacity;

/// What a [`ClusterConfig`](super::ClusterConfig) amounts to: each option has its value.
#[derive(Clone, Debug)]
pub(crate) struct ClusterSettings {
    pub(crate) enabled: bool,
    pub(crate) node_id: String,
    pub(crate) channel: String,
    pub(crate) cache_enabled: bool,
    pub(crate) cache_ttl: Duration,
    pub(crate) cache_max_size: usize,
    pub(crate) cache_max_bytes: u64,
    pub(crate) max_staleness: Duration,
    pub(crate) watch_grace: Duration,
}

impl ClusterSettings {
    pub(crate) fn cache_capacity(&self) -> Capacity {
        Capacity { sessions: self.cache_max_size, bytes: self.cache_max_bytes }
    }

    /// Returns `true` if the node runs a listener. Without a cache there is nothing to evict.
    pub(crate) fn listens(&self) -> bool {
        self.enabled && self.cache_enabled
    }

    /// Returns the interval between heartbeats. Four per lease, so that some may be late or lost.
    pub(crate) fn heartbeat(&self) -> Duration {
        self.max_staleness / 4
    }
}
