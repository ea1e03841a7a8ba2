//! The address, credentials and timeouts of a Redis server.

use std::fmt;
#[cfg(feature = "_guards")]
use std::sync::Arc;
use std::time::Duration;

use redis::{
    ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion, RedisConnectionInfo,
};

use crate::error::ConfigError;

/// The configuration of the Redis backend: one server (7.0 or later) that is a master.
///
/// The `Debug` output contains neither user nor password.
///
/// # Permissions
///
/// Give the application a dedicated user with no other permissions. For the default prefix and
/// channel:
///
/// ```text
/// ACL SETUSER sessions on >password ~session:* &session:invalidate*
///   +getex +get +set +getrange +setrange +pexpire +del +unlink +scan +eval +evalsha +publish +subscribe +info +select
/// ```
///
/// If the configuration sets [`owner`](crate::SessionConfigBuilder::owner), add:
///
/// ```text
///   +time +zadd +zrange +zrem +zscan +pexpireat
/// ```
///
/// Without the channel, a node cannot prove that it receives announcements. It then works without
/// its cache.
///
/// Without `INFO`, which some managed services refuse, it proves less: it does not notice a server
/// that becomes a replica and a master again between two heartbeats, and does not read one that
/// cannot save its data. `TIME` then tells it the server's time.
/// [`SessionStore::backend_info`](crate::SessionStore::backend_info) says what is refused.
///
/// Keep `replica-read-only` at its default, `yes`. The backend recognizes a demoted master by its
/// refusal of writes; even reads are sent as a command that counts as a write (`GETEX`).
///
/// ```
/// use clustered_sessions::RedisConfig;
///
/// let by_url = RedisConfig::from_url("redis://app:password@redis.example.com:6379/2")?;
/// let by_parts = RedisConfig::new("redis.example.com", 6379)
///     .user("app")
///     .password("password")
///     .database(2);
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
    #[cfg(feature = "_guards")]
    pub(crate) dial: Option<Dial>,
}

/// Opens a stream to a simulated server.
#[cfg(feature = "_guards")]
pub(crate) type Dial = Arc<dyn Fn() -> std::io::Result<tokio::io::DuplexStream> + Send + Sync>;

impl RedisConfig {
    /// Creates a configuration for the server at a host and port, without a password, database 0.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        let addr = ConnectionAddr::Tcp(host.into(), port);
        // An address alone always makes a valid connection info; the parser is what can fail.
        match addr.into_connection_info() {
            Ok(info) => Self::with_info(info),
            Err(_) => unreachable!("an address is a connection info"),
        }
    }

    /// Creates a configuration from a URL: `redis://[user][:password]@host[:port][/database]` or
    /// `redis+unix:///path?db=0&user=…&pass=…`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::RedisUrl`] if the URL is malformed. [`ConfigError::RedisUnsupported`] for
    /// `rediss:` (TLS) and for protocols other than RESP2. The error does not contain the URL.
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

    /// Creates a configuration from the URL in an environment variable.
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
            #[cfg(feature = "_guards")]
            dial: None,
        }
    }

    /// Connects to a simulated server instead of an address.
    #[cfg(feature = "_guards")]
    #[doc(hidden)]
    pub fn dial(
        mut self,
        dial: impl Fn() -> std::io::Result<tokio::io::DuplexStream> + Send + Sync + 'static,
    ) -> Self {
        self.dial = Some(Arc::new(dial));
        self
    }

    /// Sets the ACL user. Defaults to none, which is Redis' `default` user. An empty name means
    /// none.
    pub fn user(self, user: impl AsRef<str>) -> Self {
        self.map_settings(|settings| settings.set_username(user))
    }

    /// Sets the password. Defaults to none. An empty password means none, as in a URL.
    pub fn password(self, password: impl AsRef<str>) -> Self {
        self.map_settings(|settings| settings.set_password(password))
    }

    /// Sets the database number. Defaults to 0.
    pub fn database(self, database: u16) -> Self {
        self.map_settings(|settings| settings.set_db(i64::from(database)))
    }

    /// Sets the prefix of all keys. Defaults to `session:`. Must end in one of `: / . - _ |`, be at
    /// most 128 bytes long, and contain none of `* ? [ ] { } \`.
    ///
    /// # Risk
    ///
    /// Two applications with the same prefix in one database can read, and clear, each other's
    /// sessions.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// Sets the time limit for making a connection. Defaults to 1 second; at least 1 ms.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the time limit for the reply to a command. Defaults to 500 ms; at least 1 ms.
    ///
    /// The sum of both timeouts is the default of
    /// [`attempt_timeout`](crate::SessionConfigBuilder::attempt_timeout).
    ///
    /// # Risk
    ///
    /// The server may still carry out a command after the timeout.
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout;
        self
    }

    fn map_settings(
        mut self,
        change: impl FnOnce(RedisConnectionInfo) -> RedisConnectionInfo,
    ) -> Self {
        let settings = change(self.info.redis_settings().clone());
        self.info = self.info.set_redis_settings(settings);
        self
    }

    /// Returns the address, and the user, password and database.
    pub(crate) fn address(&self) -> (ConnectionAddr, RedisConnectionInfo) {
        let settings = without_empty_credentials(self.info.redis_settings());
        (self.info.addr().clone(), settings.set_skip_set_lib_name())
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

/// Removes a user or password that is empty: it would be sent, and refused.
fn without_empty_credentials(settings: &RedisConnectionInfo) -> RedisConnectionInfo {
    let given = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    let (user, password) = (given(settings.username()), given(settings.password()));
    let mut kept =
        RedisConnectionInfo::default().set_db(settings.db()).set_protocol(settings.protocol());
    if let Some(user) = user {
        kept = kept.set_username(user);
    }
    if let Some(password) = password {
        kept = kept.set_password(password);
    }
    kept
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
    fn an_empty_user_or_password_is_none() {
        let by_method = RedisConfig::new("localhost", 6379).user("").password("").database(3);
        let by_url = RedisConfig::from_url("redis://:@localhost:6379/3").unwrap();
        for config in [by_method, by_url] {
            let (_, settings) = config.address();
            assert_eq!((settings.username(), settings.password()), (None, None));
            assert_eq!(settings.db(), 3);
        }
        let config = RedisConfig::new("localhost", 6379).password("hunter2").user("");
        assert_eq!(config.address().1.password(), Some("hunter2"));
    }

    #[test]
    fn url_and_parts_give_the_same_configuration() {
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
