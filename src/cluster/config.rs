//! Configuration of the local cache and of the announcements that keep it coherent.

use std::time::Duration;

use super::cache::Capacity;
use crate::error::ConfigError;
use crate::random::random_bytes;

/// Number of bytes in a mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

/// Configuration of a node's local cache, and of how the node receives announcements.
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
    /// `None` for the default, which depends on the session timeout.
    pub(crate) cache_ttl: Option<Duration>,
    pub(crate) cache_max_size: usize,
    pub(crate) cache_max_bytes: u64,
    pub(crate) max_staleness: Duration,
    pub(crate) watch_grace: Duration,
}

impl ClusterConfig {
    /// Creates the default configuration: enabled, a random node id, the channel
    /// `session:invalidate`, up to 10 000 sessions and 64 MiB cached for up to a minute, and at
    /// most 2 seconds of staleness.
    pub fn new() -> Self {
        ClusterConfig {
            enabled: true,
            node_id: random_bytes::<4>().iter().map(|byte| format!("{byte:02x}")).collect(),
            channel: "session:invalidate".to_owned(),
            cache_enabled: true,
            cache_ttl: None,
            cache_max_size: 10_000,
            cache_max_bytes: 64 * MIB,
            max_staleness: Duration::from_secs(2),
            watch_grace: Duration::from_secs(10),
        }
    }

    /// Sets whether this node listens to announcements. Defaults to `true`.
    ///
    /// # Risk
    ///
    /// With `false` the node still announces its own changes, since other nodes may listen, but
    /// receives no announcements: it may serve a session from its cache that was changed or deleted
    /// on another node, for up to [`local_cache_ttl`](Self::local_cache_ttl).
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Sets the name of this node in announcements and logs, 1 to 128 bytes. Defaults to 8 random
    /// hexadecimal digits.
    ///
    /// It is only a label. Two nodes that share one by mistake still receive each other's
    /// announcements.
    pub fn node_id(mut self, node_id: impl Into<String>) -> Self {
        self.node_id = node_id.into();
        self
    }

    /// Sets the Pub/Sub channel of the announcements, 1 to 256 bytes. Defaults to
    /// `session:invalidate`. All nodes of a cluster must use the same one.
    ///
    /// # Risk
    ///
    /// Redis channels are not separated by database number: give each deployment on a shared server
    /// its own channel. Under an ACL the user needs access to this channel and to those that begin
    /// with its name followed by `:`.
    pub fn channel(mut self, channel: impl Into<String>) -> Self {
        self.channel = channel.into();
        self
    }

    /// Sets whether sessions are cached in memory. Defaults to `true`.
    ///
    /// With `false` each read queries the backend, and the node does not listen to announcements.
    pub fn local_cache_enabled(mut self, enabled: bool) -> Self {
        self.cache_enabled = enabled;
        self
    }

    /// Sets how long a session may be served from the cache before it is read again. Defaults to
    /// one minute, or to the session timeout if that is shorter.
    ///
    /// It is counted from the moment the read began, must not be zero, and must not exceed the
    /// session timeout. On a node that listens, it does not bound staleness: a change on any node
    /// evicts the session at once. On one that does not ([`enabled(false)`](Self::enabled)), it is
    /// the bound.
    pub fn local_cache_ttl(mut self, ttl: Duration) -> Self {
        self.cache_ttl = Some(ttl);
        self
    }

    /// Sets the maximum number of sessions in the cache, at least 1. Defaults to 10 000.
    ///
    /// Two to three times the number of users that are active at the same time is a good size. When
    /// the cache is full, less frequently read sessions are evicted.
    pub fn local_cache_max_size(mut self, sessions: usize) -> Self {
        self.cache_max_size = sessions;
        self
    }

    /// Sets the maximum total length of the cached sessions in bytes, as encoded. At least 1;
    /// defaults to 64 MiB.
    ///
    /// In memory, a session takes more than its encoded length: some 200 bytes, and what your types
    /// need beyond their text. A session that is longer than a few percent of the limit may not be
    /// cached at all, because the cache consists of several parts, each with its share of it.
    pub fn local_cache_max_bytes(mut self, bytes: u64) -> Self {
        self.cache_max_bytes = bytes;
        self
    }

    /// Sets the maximum time for which a change on another node may go unseen while its
    /// announcement is delayed. Defaults to 2 seconds; at least 100 milliseconds, at most 1 hour.
    ///
    /// The node proves several times within this span that it receives announcements. While it
    /// cannot, it reads from the backend instead of the cache.
    ///
    /// # Risk
    ///
    /// The longer it is, the longer a session that was revoked on another node may still be served
    /// when the network fails silently. The shorter it is, the more heartbeats are sent (four small
    /// messages per span and node), and the more often the cache is bypassed because a heartbeat is
    /// late. It must not be shorter than
    /// [`RedisConfig::response_timeout`](crate::RedisConfig::response_timeout).
    pub fn max_staleness(mut self, max_staleness: Duration) -> Self {
        self.max_staleness = max_staleness;
        self
    }

    /// Sets how long a [`SessionWatch`](crate::SessionWatch) goes on while the node can neither
    /// prove that it receives announcements nor read the session. Defaults to 10 seconds.
    ///
    /// It is counted from the end of the node's last proof, which lasts for
    /// [`max_staleness`](Self::max_staleness). The watch then ends with
    /// [`Ended::Unknown`](crate::Ended::Unknown), so that no open socket outlives a revocation for
    /// long.
    ///
    /// # Risk
    ///
    /// The longer it is, the longer a socket stays open whose session was revoked while its node
    /// was cut off. The shorter it is, the more sockets a short outage of the backend closes.
    pub fn watch_grace(mut self, grace: Duration) -> Self {
        self.watch_grace = grace;
        self
    }

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

    /// Returns the cache's time to live; the default is never above the session timeout.
    pub(crate) fn effective_cache_ttl(&self, timeout: Duration) -> Duration {
        self.cache_ttl.unwrap_or_else(|| Duration::from_secs(60).min(timeout))
    }

    /// Checks every setting, given the session timeout.
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
        if self.cache_max_size == 0 || self.cache_max_bytes == 0 {
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
            (new().local_cache_max_bytes(0), Err(ConfigError::CacheSizeZero)),
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
