//! How to reach Redis.

use std::fmt;
use std::time::Duration;

use deadpool_redis::redis::io::tcp::TcpSettings;
use deadpool_redis::redis::{
    ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion,
};

use crate::error::ConfigError;

/// A Redis server (7.0 or later) that is a master of its own.
///
/// `Debug` prints neither user nor password.
///
/// # Permissions
///
/// Give the application a user of its own that can do nothing else. For the default prefix and channel:
///
/// ```text
/// ACL SETUSER sessions on >password ~session:* &session:invalidate*
///   +getex +get +set +getrange +setrange +pexpire +del +unlink +scan +eval +evalsha +publish +subscribe +info +select
/// ```
///
/// And, if the configuration says whose a session is ([`owner`](crate::SessionConfigBuilder::owner)):
///
/// ```text
///   +time +zadd +zrem +zremrangebyscore +zscan +pexpireat
/// ```
///
/// Without the channel, or without `INFO`, a node cannot prove that it hears the others: it serves, but without its cache.
///
/// Keep `replica-read-only` at its default, `yes`. That a replica refuses writes is how a demoted master is told from a master: even
/// reads are sent as a command that the server takes for a write (`GETEX`).
///
/// ```
/// use clustered_sessions::RedisConfig;
///
/// let by_url = RedisConfig::from_url("redis://app:password@redis.example.com:6379/2")?;
/// let by_parts = RedisConfig::new("redis.example.com", 6379).user("app").password("password").database(2);
/// # let _ = (by_url, by_parts);
/// # Ok::<(), clustered_sessions::ConfigError>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct RedisConfig {
    info: ConnectionInfo,
    pub(crate) key_prefix: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
}

impl RedisConfig {
    /// The server at a host and port, without a password, database 0.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        let addr = ConnectionAddr::Tcp(host.into(), port);
        // An address alone always makes a valid connection info; the parser is what can fail.
        match addr.into_connection_info() {
            Ok(info) => Self::with_info(info),
            Err(_) => unreachable!("an address is a connection info"),
        }
    }

    /// The server at `redis://[user][:password]@host[:port][/database]` or `redis+unix:///path?db=0&user=…&pass=…`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::RedisUrl`]; [`ConfigError::RedisUnsupported`] for `rediss:` (TLS). The error does not contain the URL.
    pub fn from_url(url: &str) -> Result<Self, ConfigError> {
        if url.starts_with("rediss:") || url.starts_with("valkeys:") {
            return Err(ConfigError::RedisUnsupported { feature: "TLS" });
        }
        let info = url.into_connection_info().map_err(|_| ConfigError::RedisUrl)?;
        if info.redis_settings().protocol() != ProtocolVersion::RESP2 {
            return Err(ConfigError::RedisUnsupported { feature: "another protocol than RESP2" });
        }
        Ok(Self::with_info(info))
    }

    /// The server whose URL is in an environment variable.
    ///
    /// # Errors
    ///
    /// [`ConfigError::MissingVariable`], and those of [`RedisConfig::from_url`].
    pub fn from_env(variable: &str) -> Result<Self, ConfigError> {
        let url = std::env::var(variable)
            .map_err(|_| ConfigError::MissingVariable { variable: variable.to_owned() })?;
        Self::from_url(&url)
    }

    fn with_info(info: ConnectionInfo) -> Self {
        RedisConfig {
            info,
            key_prefix: "session:".to_owned(),
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_millis(500),
        }
    }

    /// The ACL user; default none, which is Redis' `default` user.
    pub fn user(self, user: impl AsRef<str>) -> Self {
        self.map_settings(|settings| settings.set_username(user))
    }

    /// The password; default none.
    pub fn password(self, password: impl AsRef<str>) -> Self {
        self.map_settings(|settings| settings.set_password(password))
    }

    /// The database number; default 0.
    pub fn database(self, database: u16) -> Self {
        self.map_settings(|settings| settings.set_db(i64::from(database)))
    }

    /// What the keys begin with; default `session:`. It must end in one of `: / . - _ |`.
    ///
    /// # Risk
    ///
    /// Two applications under one prefix in one database see, and clear, each other's sessions.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// How long making a connection may take; default 1 second.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long the server may take to answer a command; default 500 ms. Together with the connect timeout it is what an attempt may
    /// take: see [`attempt_timeout`](crate::SessionConfigBuilder::attempt_timeout).
    ///
    /// # Risk
    ///
    /// A command that is given up may still be carried out.
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout;
        self
    }

    fn map_settings(
        mut self,
        change: impl FnOnce(
            deadpool_redis::redis::RedisConnectionInfo,
        ) -> deadpool_redis::redis::RedisConnectionInfo,
    ) -> Self {
        let settings = change(self.info.redis_settings().clone());
        self.info = self.info.set_redis_settings(settings);
        self
    }

    /// What the client needs, with what it leaves off by default: small packets are sent at once.
    pub(crate) fn connection_info(&self) -> ConnectionInfo {
        let settings = self.info.redis_settings().clone().set_skip_set_lib_name();
        self.info
            .clone()
            .set_redis_settings(settings)
            .set_tcp_settings(TcpSettings::default().set_nodelay(true))
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let ends_in_delimiter = self.key_prefix.ends_with([':', '/', '.', '-', '_', '|']);
        let is_literal = !self.key_prefix.contains(['*', '?', '[', ']', '{', '}', '\\']);
        if self.key_prefix.len() > 128 || !ends_in_delimiter || !is_literal {
            return Err(ConfigError::KeyPrefix);
        }
        if self.connect_timeout.as_millis() == 0 || self.response_timeout.as_millis() == 0 {
            return Err(ConfigError::RedisTimeoutZero);
        }
        Ok(())
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("addr", &self.info.addr().to_string())
            .field("database", &self.info.redis_settings().db())
            .field("key_prefix", &self.key_prefix)
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_and_parts_say_the_same() {
        let url = RedisConfig::from_url("redis://app:hunter2@cache.example.com:6380/3").unwrap();
        let parts =
            RedisConfig::new("cache.example.com", 6380).user("app").password("hunter2").database(3);
        for config in [url, parts] {
            assert_eq!(config.info.addr().to_string(), "cache.example.com:6380");
            assert_eq!(config.info.redis_settings().username(), Some("app"));
            assert_eq!(config.info.redis_settings().password(), Some("hunter2"));
            assert_eq!(config.info.redis_settings().db(), 3);
            assert!(!format!("{config:?}").contains("hunter2"));
        }
    }

    #[test]
    fn each_mistake_has_its_error() {
        for (url, expected) in [
            ("http://localhost", ConfigError::RedisUrl),
            ("redis://", ConfigError::RedisUrl),
            ("", ConfigError::RedisUrl),
            ("redis://localhost/x", ConfigError::RedisUrl),
            ("rediss://localhost", ConfigError::RedisUnsupported { feature: "TLS" }),
            (
                "redis://localhost/?protocol=resp3",
                ConfigError::RedisUnsupported { feature: "another protocol than RESP2" },
            ),
        ] {
            assert_eq!(RedisConfig::from_url(url).unwrap_err(), expected, "{url}");
        }
        let new = || RedisConfig::new("localhost", 6379);
        assert_eq!(new().check(), Ok(()));
        for prefix in ["", "session", "s*:", "s[1]:", "{tag}:", &format!("{}:", "x".repeat(128))] {
            assert_eq!(new().key_prefix(prefix).check(), Err(ConfigError::KeyPrefix), "{prefix}");
        }
        assert_eq!(
            new().connect_timeout(Duration::ZERO).check(),
            Err(ConfigError::RedisTimeoutZero)
        );
        assert_eq!(
            new().response_timeout(Duration::ZERO).check(),
            Err(ConfigError::RedisTimeoutZero)
        );
    }

    #[test]
    fn a_missing_variable_is_named() {
        let error = RedisConfig::from_env("NO_SUCH_REDIS_URL").unwrap_err();
        assert_eq!(error, ConfigError::MissingVariable { variable: "NO_SUCH_REDIS_URL".into() });
    }
}
