//! The servers of a cluster.

use std::fmt;
use std::time::Duration;

use super::RedisAddress;

/// A Redis Cluster, for [`RedisConfig::cluster`](crate::RedisConfig::cluster).
///
/// # Permissions
///
/// Beside those at [`RedisConfig`](crate::RedisConfig), the application's user needs
///
/// ```text
///   +cluster|nodes +cluster|info +cluster|slots +asking +ssubscribe +spublish
/// ```
///
/// ```
/// use clustered_sessions::{RedisCluster, RedisConfig};
///
/// let cluster = RedisCluster::new([("10.0.0.1", 6379), ("10.0.0.2", 6379), ("10.0.0.3", 6379)]);
/// let redis = RedisConfig::cluster(cluster).user("app").password("password");
/// # let _ = redis;
/// ```
#[derive(Clone)]
#[must_use]
pub struct RedisCluster {
    pub(crate) servers: Vec<RedisAddress>,
    pub(crate) node_timeout: Duration,
}

impl RedisCluster {
    /// Creates the configuration of a cluster that these servers belong to. The node asks them for
    /// all others. Name several, so that it can start while one of them is down. A service behind
    /// one address has one.
    pub fn new<H: Into<String>>(servers: impl IntoIterator<Item = (H, u16)>) -> Self {
        let servers = servers.into_iter().map(|(host, port)| RedisAddress::tcp(host, port));
        RedisCluster { servers: servers.collect(), node_timeout: Duration::from_secs(15) }
    }

    /// Sets the `cluster-node-timeout` of the servers. Defaults to 15 seconds, as there.
    ///
    /// After an election that has no winner, the cache is not used for three times as long: a
    /// winner that nobody has heard of could accept writes.
    ///
    /// # Risk
    ///
    /// With a shorter time than that of the servers, a node may serve a session that was revoked on
    /// such a winner for longer than [`max_staleness`](crate::ClusterConfig::max_staleness).
    pub fn node_timeout(mut self, timeout: Duration) -> Self {
        self.node_timeout = timeout;
        self
    }
}

impl fmt::Debug for RedisCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = self.servers.iter().map(ToString::to_string);
        f.debug_struct("RedisCluster")
            .field("servers", &servers.collect::<Vec<_>>())
            .field("node_timeout", &self.node_timeout)
            .finish()
    }
}
