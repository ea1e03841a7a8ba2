//! The local cache and the announcements that keep it right.

use std::time::Duration;

use crate::error::ConfigError;
use crate::random::random_bytes;

/// The local cache of a node, and how it hears from the others.
///
/// ```
/// use std::time::Duration;
/// use clustered_sessions::ClusterConfig;
///
/// let cluster = ClusterConfig::new()
///     .node_id("web-3")
///     .channel("prod:session:invalidate")
///     .local_cache_ttl(Duration::from_secs(60))
///     .local_cache_max_size(100_000);
/// # let _ = cluster;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ClusterConfig {
    pub(crate) enabled: bool,
    pub(crate) node_id: String,
    pub(crate) channel: String,
    pub(crate) cache_enabled: bool,
    pub(crate) cache_ttl: Option<Duration>,
    pub(crate) cache_max_size: usize,
    pub(crate) max_staleness: Duration,
}

impl ClusterConfig {
    /// Enabled, a random node id, the channel `session:invalidate`, up to 10 000 sessions cached for up to a minute, at most
    /// 2 seconds of staleness.
    pub fn new() -> Self {
        ClusterConfig {
            enabled: true,
            node_id: random_bytes::<4>().iter().map(|byte| format!("{byte:02x}")).collect(),
            channel: "session:invalidate".to_owned(),
            cache_enabled: true,
            cache_ttl: None,
            cache_max_size: 10_000,
            max_staleness: Duration::from_secs(2),
        }
    }

    /// Whether this node listens to the others' announcements; default `true`.
    ///
    /// # Risk
    ///
    /// With `false` the node still announces its own changes, since others may listen, but hears nothing: it may answer from its
    /// cache for a session that was changed or deleted on another node, for up to the cache's time to live.
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// The name of this node in announcements and logs; default 8 random hexadecimal digits.
    ///
    /// It is a label and nothing depends on it: two nodes that share one by mistake still hear each other.
    pub fn node_id(mut self, node_id: impl Into<String>) -> Self {
        self.node_id = node_id.into();
        self
    }

    /// The Pub/Sub channel of the announcements; default `session:invalidate`. All nodes of a cluster must use the same one.
    ///
    /// # Risk
    ///
    /// Redis channels are not separated by database number: give each deployment on a shared server its own. Under an ACL the
    /// user needs this channel and those that begin with it followed by `:`.
    pub fn channel(mut self, channel: impl Into<String>) -> Self {
        self.channel = channel.into();
        self
    }

    /// Whether sessions are cached in memory; default `true`. With `false` each read asks the backend, and nobody needs to listen.
    pub fn local_cache_enabled(mut self, enabled: bool) -> Self {
        self.cache_enabled = enabled;
        self
    }

    /// How long a session may be answered from memory before it is read again; default one minute, or the session timeout if
    /// that is shorter. Counted from the moment the read began.
    ///
    /// It is no measure of staleness: a change on any node evicts the session at once.
    pub fn local_cache_ttl(mut self, ttl: Duration) -> Self {
        self.cache_ttl = Some(ttl);
        self
    }

    /// How many sessions are kept in memory; default 10 000. Two to three times the users active at a time are a good size.
    /// When it is full, sessions that are read less make room.
    pub fn local_cache_max_size(mut self, sessions: usize) -> Self {
        self.cache_max_size = sessions;
        self
    }

    /// The longest time for which a change on another node may go unseen while its announcement is held up; default 2 seconds.
    ///
    /// The node proves several times within it that it hears the others. While it cannot, it reads from the backend instead of
    /// the cache.
    ///
    /// # Risk
    ///
    /// The longer it is, the longer a session revoked elsewhere may be answered when the network fails silently. A short one
    /// costs four small messages per span and node, and loses the cache whenever a message is late by that much. It must not be
    /// shorter than [`RedisConfig::response_timeout`](crate::RedisConfig::response_timeout).
    pub fn max_staleness(mut self, max_staleness: Duration) -> Self {
        self.max_staleness = max_staleness;
        self
    }

    /// Whether a listener is wanted: a node without a cache has nothing to evict from.
    pub(crate) fn listens(&self) -> bool {
        self.enabled && self.cache_enabled
    }

    /// How often the listener proves that it hears.
    pub(crate) fn heartbeat(&self) -> Duration {
        self.max_staleness / 4
    }

    /// The cache's time to live, never above the session timeout.
    pub(crate) fn effective_cache_ttl(&self, timeout: Duration) -> Duration {
        self.cache_ttl.unwrap_or_else(|| Duration::from_secs(60).min(timeout))
    }

    pub(crate) fn check(&self, timeout: Duration) -> Result<(), ConfigError> {
        if self.node_id.is_empty() || self.node_id.len() > 128 {
            return Err(ConfigError::NodeId);
        }
        if self.channel.is_empty() || self.channel.len() > 256 {
            return Err(ConfigError::Channel);
        }
        let ttl = self.effective_cache_ttl(timeout);
        if ttl.as_millis() == 0 {
            return Err(ConfigError::CacheTtlZero);
        }
        if ttl > timeout {
            return Err(ConfigError::CacheTtlAboveTimeout { ttl, timeout });
        }
        if self.cache_max_size == 0 {
            return Err(ConfigError::CacheSizeZero);
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&self.max_staleness) {
            return Err(ConfigError::MaxStaleness(self.max_staleness));
        }
        Ok(())
    }
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_has_its_error() {
        let timeout = Duration::from_secs(600);
        let new = ClusterConfig::new;
        let second = Duration::from_secs(1);
        for (config, expected) in [
            (new(), Ok(())),
            (new().node_id(""), Err(ConfigError::NodeId)),
            (new().node_id("n".repeat(129)), Err(ConfigError::NodeId)),
            (new().channel(""), Err(ConfigError::Channel)),
            (new().local_cache_ttl(Duration::ZERO), Err(ConfigError::CacheTtlZero)),
            (
                new().local_cache_ttl(timeout + second),
                Err(ConfigError::CacheTtlAboveTimeout { ttl: timeout + second, timeout }),
            ),
            (new().local_cache_max_size(0), Err(ConfigError::CacheSizeZero)),
            (new().max_staleness(Duration::ZERO), Err(ConfigError::MaxStaleness(Duration::ZERO))),
            (new().max_staleness(second * 3601), Err(ConfigError::MaxStaleness(second * 3601))),
        ] {
            assert_eq!(config.check(timeout), expected);
        }
    }

    #[test]
    fn the_default_cache_ttl_gives_way_to_a_short_timeout() {
        let timeout = Duration::from_secs(5);
        assert_eq!(ClusterConfig::new().effective_cache_ttl(timeout), timeout);
        assert_eq!(ClusterConfig::new().check(timeout), Ok(()));
    }
}
