//! What makes connections, from the configuration.

use super::super::dialer::Dialer;
use super::super::transport::Transport;
#[cfg(feature = "tls")]
use super::Servers;
use super::{RedisConfig, RedisSentinels};
use crate::error::ConfigError;

impl RedisConfig {
    /// Returns what makes connections to the servers.
    pub(in super::super) fn dialer(&self) -> Result<Dialer, ConfigError> {
        #[cfg(feature = "tls")]
        let transport = match &self.servers {
            Servers::Single(address) => {
                Transport::new(&self.connector, self.tls.as_ref(), std::slice::from_ref(address))?
            }
            Servers::Sentinel(_) => Transport::new(&self.connector, self.tls.as_ref(), &[])?,
            Servers::Cluster(cluster) => {
                Transport::new(&self.connector, self.tls.as_ref(), &cluster.servers)?
            }
        };
        #[cfg(not(feature = "tls"))]
        let transport = Transport::new(&self.connector);
        Ok(Dialer { transport, credentials: self.credentials.clone(), database: self.database })
    }

    /// Returns what makes connections to the sentinels.
    pub(in super::super) fn sentinel_dialer(
        &self,
        sentinels: &RedisSentinels,
    ) -> Result<Dialer, ConfigError> {
        #[cfg(feature = "tls")]
        let transport =
            Transport::new(&self.connector, sentinels.tls.as_ref(), &sentinels.addresses)?;
        #[cfg(not(feature = "tls"))]
        let transport = Transport::new(&self.connector);
        Ok(Dialer { transport, credentials: sentinels.credentials(), database: 0 })
    }

    /// Returns `true` if the servers are better reached by their names than by their IP addresses.
    pub(in super::super) fn names_servers(&self) -> bool {
        #[cfg(feature = "tls")]
        let is_encrypted = self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let is_encrypted = false;
        is_encrypted
    }
}
