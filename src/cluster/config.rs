//! Configuration of the local cache and of the announcements that keep it coherent.

use std::time::Duration;

use super::settings::ClusterSettings;
use crate::error::ConfigError;
use crate::random::random_bytes;

/// Number of bytes in a mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

/// Configuration of a node's local cache, and of how the node receives announcements.
///
/// An option that is not set keeps the value of the [preset](crate::SessionConfig::production) to
/// which this is passed, or has its default.
///
/// ```
/// use std::time::Duration;
/// use clustered_sessions::ClusterConfig;
///
/// let cluster = ClusterConfig::new()
///     .node_id("web-3")
///     .local_cache_ttl(Duration::from_secs(60))
///     .local_cache_max_size(100_000);
/// # let _ = cluster;
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ClusterConfig {
    enabled: Option<bool>,
    node_id: Option<String>,
    channel: Option<String>,
    cache_enabled: Option<bool>,
    cache_ttl: Option<Duration>,
    cache_max_size: Option<usize>,
    cache_max_bytes: Option<u64>,
    max_staleness: Option<Duration>,
    watch_grace: Option<Duration>,
}

impl ClusterConfig {
    /// Creates a configuration in which nothing is set. The defaults: enabled, a random node id, a
    /// channel named after the key prefix, up to 10 000 sessions and 64 MiB cached for up to a
    /// minute, and at most 2 seconds of staleness.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether this node listens to announcements. Defaults to `true`.
    ///
    /// # Risk
    ///
    /// With `false` the node still announces its own changes, since other nodes may listen, but
    /// receives no announcements: it may serve a session from its cache that was changed or deleted
    /// on another node, for up to [`local_cache_ttl`](Self::local_cache_ttl).
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = Some(enabled);
        self
    }

    /// Sets the name of this node in announcements and logs, 1 to 128 bytes. Defaults to 8 random
    /// hexadecimal digits.
    ///
    /// It is only a label. Two nodes that share one by mistake still receive each other's
    /// announcements.
    pub fn node_id(mut self, node_id: impl Into<String>) -> Self {
        self.node_id = Some(node_id.into());
        self
    }

    /// Sets the Pub/Sub channel of the announcements, 1 to 256 bytes. Defaults to the
    /// [key prefix](crate::RedisConfig::key_prefix) followed by `invalidate`, such as
    /// `session:invalidate`: nodes that share sessions then share the channel.
    ///
    /// # Risk
    ///
    /// All nodes that share sessions must use the same channel. One that listens to another hears
    /// of no changes, and cannot notice it: it may serve a session that was revoked on another node
    /// for up to [`local_cache_ttl`](Self::local_cache_ttl).
    ///
    /// Redis channels are not separated by database number. Applications that use the same prefix
    /// in several databases of one server receive each other's announcements, which costs time and
    /// no correctness. Under an ACL the user needs access to this channel and to those that begin
    /// with its name followed by `:`.
    pub fn channel(mut self, channel: impl Into<String>) -> Self {
        self.channel = Some(channel.into());
        self
    }

    /// Sets whether sessions are cached in memory. Defaults to `true`.
    ///
    /// With `false` each read queries the backend, and the node does not listen to announcements.
    pub fn local_cache_enabled(mut self, enabled: bool) -> Self {
        self.cache_enabled = Some(enabled);
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
        self.cache_max_size = Some(sessions);
        self
    }

    /// Sets the maximum total length of the cached sessions in bytes, as encoded. At least 1;
    /// defaults to 64 MiB.
    ///
    /// In memory, a session takes more than its encoded length: some 200 bytes, and what your types
    /// need beyond their text. A session that is longer than a few percent of the limit may not be
    /// cached at all, because the cache consists of several parts, each with its share of it.
    pub fn local_cache_max_bytes(mut self, bytes: u64) -> Self {
        self.cache_max_bytes = Some(bytes);
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
        self.max_staleness = Some(max_staleness);
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
    /// was cut off. The shorter it is, the more sockets a short outage of the backend closes. At
    /// least 100 ms. Half of `max_staleness` counts if that is longer, since a node without a lease
    /// reads a session only four times per `max_staleness`.
    pub fn watch_grace(mut self, grace: Duration) -> Self {
        self.watch_grace = Some(grace);
        self
    }

    /// Returns this configuration, with the options of `preset` where nothing is set.
    pub(crate) fn or(self, preset: Self) -> Self {
        ClusterConfig {
            enabled: self.enabled.or(preset.enabled),
            node_id: self.node_id.or(preset.node_id),
            channel: self.channel.or(preset.channel),
            cache_enabled: self.cache_enabled.or(preset.cache_enabled),
            cache_ttl: self.cache_ttl.or(preset.cache_ttl),
            cache_max_size: self.cache_max_size.or(preset.cache_max_size),
            cache_max_bytes: self.cache_max_bytes.or(preset.cache_max_bytes),
            max_staleness: self.max_staleness.or(preset.max_staleness),
            watch_grace: self.watch_grace.or(preset.watch_grace),
        }
    }

    /// Fills in the defaults and checks every setting, given the session timeout and the prefix of
    /// the keys in the backend.
    pub(crate) fn check(
        self,
        timeout: Duration,
        key_prefix: &str,
    ) -> Result<ClusterSettings, ConfigError> {
        let settings = ClusterSettings {
            enabled: self.enabled.unwrap_or(true),
            node_id: self.node_id.unwrap_or_else(random_node_id),
            channel: self.channel.unwrap_or_else(|| format!("{key_prefix}invalidate")),
            cache_enabled: self.cache_enabled.unwrap_or(true),
            cache_ttl: self.cache_ttl.unwrap_or(Duration::from_secs(60).min(timeout)),
            cache_max_size: self.cache_max_size.unwrap_or(10_000),
            cache_max_bytes: self.cache_max_bytes.unwrap_or(64 * MIB),
            max_staleness: self.max_staleness.unwrap_or(Duration::from_secs(2)),
            watch_grace: self.watch_grace.unwrap_or(Duration::from_secs(10)),
        };
        if settings.node_id.is_empty() || settings.node_id.len() > 128 {
            return Err(ConfigError::NodeId);
        }
        if settings.channel.is_empty() || settings.channel.len() > 256 {
            return Err(ConfigError::Channel);
        }
        let ttl = settings.cache_ttl;
        if ttl.as_millis() == 0 {
            return Err(ConfigError::CacheTtlZero);
        }
        if ttl > timeout {
            return Err(ConfigError::CacheTtlAboveTimeout { ttl, timeout });
        }
        if settings.cache_max_size == 0 || settings.cache_max_bytes == 0 {
            return Err(ConfigError::CacheSizeZero);
        }
        let max_staleness = settings.max_staleness;
        if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&max_staleness) {
            return Err(ConfigError::MaxStaleness(max_staleness));
        }
        if settings.watch_grace < Duration::from_millis(100) {
            return Err(ConfigError::WatchGrace(settings.watch_grace));
        }
        Ok(settings)
    }
}

fn random_node_id() -> String {
    random_bytes::<4>().iter().map(|byte| format!("{byte:02x}")).collect()
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
            (new().watch_grace(Duration::ZERO), Err(ConfigError::WatchGrace(Duration::ZERO))),
        ] {
            assert_eq!(config.check(timeout, "session:").map(drop), expected);
        }
    }

    #[test]
    fn the_default_cache_ttl_gives_way_to_a_short_timeout() {
        let timeout = Duration::from_secs(5);
        assert_eq!(ClusterConfig::new().check(timeout, "").unwrap().cache_ttl, timeout);
    }

    #[test]
    fn nodes_that_share_a_key_prefix_share_the_channel() {
        let channel = |config: ClusterConfig| {
            config.check(Duration::from_secs(600), "shop:session:").unwrap().channel
        };
        assert_eq!(channel(ClusterConfig::new()), "shop:session:invalidate");
        assert_eq!(channel(ClusterConfig::new().channel("other")), "other");
    }

    #[test]
    fn nodes_have_names_of_their_own() {
        let name = || ClusterConfig::new().check(Duration::from_secs(600), "").unwrap().node_id;
        assert_eq!(name().len(), 8);
        assert_ne!(name(), name());
    }
}
