//! The sentinels of a service.

use std::fmt;

#[cfg(feature = "tls")]
use super::RedisTls;
use super::{CredentialsSource, RedisAddress, RedisCredentials};

/// The sentinels that know which server is the master of a service, for
/// [`RedisConfig::sentinel`](crate::RedisConfig::sentinel).
///
/// The `Debug` output contains neither user nor password.
///
/// # Permissions
///
/// The application's user of the sentinels needs no other permissions than these:
///
/// ```text
/// user sessions on >password &+switch-master &+promoted-slave
///   +sentinel|master +sentinel|get-master-addr-by-name +subscribe
/// ```
///
/// Without `SUBSCRIBE`, or without one of the channels, the sentinels do not announce a failover to
/// the node. It asks them at each heartbeat, and at least every second. Without another permission,
/// operations fail with an error that names it.
///
/// `deploy/sentinel/` has these permissions, and those that sentinels and replicas need.
///
/// ```
/// use clustered_sessions::{RedisConfig, RedisSentinels};
///
/// let sentinels = RedisSentinels::new("mymaster", [("10.0.0.1", 26379), ("10.0.0.2", 26379)])
///     .password("of the sentinels");
/// let redis = RedisConfig::sentinel(sentinels).password("of the servers");
/// # let _ = redis;
/// ```
#[derive(Clone)]
#[must_use]
pub struct RedisSentinels {
    pub(crate) service: String,
    pub(crate) addresses: Vec<RedisAddress>,
    pub(crate) credentials: RedisCredentials,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<RedisTls>,
}

impl RedisSentinels {
    /// Creates the configuration of a service's sentinels. `service` is the name of the master in
    /// their configuration (`sentinel monitor <name> …`). Name all sentinels, each by an address of
    /// its own: a node that reaches only one of them relies on that one.
    pub fn new<H: Into<String>>(
        service: impl Into<String>,
        sentinels: impl IntoIterator<Item = (H, u16)>,
    ) -> Self {
        let addresses = sentinels.into_iter().map(|(host, port)| RedisAddress::tcp(host, port));
        RedisSentinels {
            service: service.into(),
            addresses: addresses.collect(),
            credentials: RedisCredentials::default(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Sets the user of the sentinels, who need not be that of the servers. Defaults to none.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.credentials = self.credentials.with_user(user.into());
        self
    }

    /// Sets the password of the sentinels, which need not be that of the servers. Defaults to none.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.credentials = self.credentials.with_password(password.into());
        self
    }

    /// Connects to the sentinels over TLS. Defaults to no TLS, whatever the servers use.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: RedisTls) -> Self {
        self.tls = Some(tls);
        self
    }

    pub(crate) fn credentials(&self) -> CredentialsSource {
        CredentialsSource::Fixed(self.credentials.clone())
    }
}

impl fmt::Debug for RedisSentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = self.addresses.iter().map(ToString::to_string);
        f.debug_struct("RedisSentinels")
            .field("service", &self.service)
            .field("addresses", &addresses.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
