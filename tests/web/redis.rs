//! Configurations for the servers and proxies of a test.

use clustered_sessions::RedisConfig;
use support::proxy::Proxy;
use support::redis::RedisServer;

/// The address of a server, reached directly or through a proxy.
pub(crate) trait RedisAddress {
    fn config(&self) -> RedisConfig;
}

impl RedisAddress for RedisServer {
    fn config(&self) -> RedisConfig {
        RedisConfig::new("127.0.0.1", self.port())
    }
}

impl RedisAddress for Proxy {
    fn config(&self) -> RedisConfig {
        RedisConfig::new("127.0.0.1", self.port())
    }
}
