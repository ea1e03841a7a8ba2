//! The servers of a Redis backend, and how to reach them.

mod address;
mod cluster;
mod credentials;
mod dialers;
mod sentinel;
#[cfg(test)]
mod tests;
#[cfg(feature = "tls")]
mod tls;
mod url;

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

pub use self::address::RedisAddress;
pub use self::cluster::RedisCluster;
pub(super) use self::credentials::CredentialsSource;
pub use self::credentials::RedisCredentials;
pub use self::sentinel::RedisSentinels;
#[cfg(feature = "tls")]
pub use self::tls::RedisTls;
use self::url::RedisUrl;
use super::connector::Connector;
use crate::error::ConfigError;

/// The configuration of the Redis backend: one server (7.0 or later) that is a master, a master
/// that sentinels name, or a cluster.
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
    pub(super) servers: Servers,
    pub(super) credentials: CredentialsSource,
    pub(super) database: u16,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<RedisTls>,
    pub(super) connector: Connector,
    pub(crate) key_prefix: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
}

/// Where the servers are.
#[derive(Clone)]
pub(super) enum Servers {
    Single(RedisAddress),
    Sentinel(RedisSentinels),
    Cluster(RedisCluster),
}

impl RedisConfig {
    /// Creates a configuration for the server at a host and port, without a password, database 0.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self::at(RedisAddress::tcp(host, port))
    }

    /// Creates a configuration for the server at an address, without a password, database 0.
    pub fn at(address: RedisAddress) -> Self {
        Self::with_servers(Servers::Single(address))
    }

    /// Creates a configuration for the master of a service, as its sentinels name it. Without a
    /// password for the servers, database 0.
    ///
    /// The node asks all sentinels at once, prefers the master of the latest failover, and uses a
    /// server only if it reports that it is a master and carries out a write. It asks at least once
    /// a second, and when a sentinel announces a failover. When there is another master, the node
    /// leaves the old one, even if that still answers, and does not use its cache until it
    /// receives announcements from the new one. While no sentinel answers, it keeps using the
    /// master, without its cache.
    ///
    /// # Risk
    ///
    /// A failover can lose acknowledged writes, logouts included, because Redis replicates
    /// asynchronously. Set `min-replicas-to-write` to bound what a master acknowledges after it was
    /// cut off.
    pub fn sentinel(sentinels: RedisSentinels) -> Self {
        Self::with_servers(Servers::Sentinel(sentinels))
    }

    /// Creates a configuration for a Redis Cluster. Without a password.
    ///
    /// The node sends each command to the master that has the key's slot. It receives announcements
    /// from every master, and uses its cache only while all of them prove that they arrive and name
    /// the same masters.
    ///
    /// # Cost
    ///
    /// Two connections to each master, and four heartbeats per
    /// [`max_staleness`](crate::ClusterConfig::max_staleness) over one of them. Each node receives
    /// each announcement once from every master. [`guide::scale`](crate::guide::scale) has figures.
    ///
    /// # Risk
    ///
    /// A failover can lose acknowledged writes, logouts included, because Redis replicates
    /// asynchronously. Set `min-replicas-to-write` to bound what a master acknowledges after it was
    /// cut off.
    pub fn cluster(cluster: RedisCluster) -> Self {
        Self::with_servers(Servers::Cluster(cluster))
    }

    fn with_servers(servers: Servers) -> Self {
        RedisConfig {
            servers,
            credentials: CredentialsSource::Fixed(RedisCredentials::default()),
            database: 0,
            #[cfg(feature = "tls")]
            tls: None,
            connector: Connector::default(),
            key_prefix: "session:".to_owned(),
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_millis(500),
        }
    }

    /// Creates a configuration from a URL:
    ///
    /// | form | connection |
    /// |---|---|
    /// | `redis://[user][:password]@host[:port][/database]` | TCP |
    /// | `rediss://…` | TLS with the root certificates of the system; needs the feature `tls` |
    /// | `redis+unix:///path[?db=0&user=…&pass=…]` | a Unix domain socket |
    /// | `redis-sentinel://[user][:password]@host[:port][/database]?sentinelServiceName=name[&node=host[:port]]…` | the master that the [sentinels](Self::sentinel) name |
    /// | `rediss-sentinel://…` | the same, with TLS to sentinels and servers |
    /// | `redis-cluster://[user][:password]@host[:port][?node=host[:port]]…` | a [cluster](Self::cluster) that these servers belong to |
    /// | `rediss-cluster://…` | the same, with TLS |
    ///
    /// `valkey` for `redis`, and `unix` for `redis+unix`, mean the same. The port defaults to 6379,
    /// that of a sentinel to 26379. The user and password of a sentinel URL are those of the
    /// servers; those of the sentinels are the parameters `sentinelUsername` and
    /// `sentinelPassword`. Special characters in user and password are percent-encoded; a plus sign
    /// stands for itself. A parameter that contradicts another part of the URL is an error.
    ///
    /// # Errors
    ///
    /// [`ConfigError::RedisUrl`] if the URL is malformed, and others for what it asks for. No error
    /// contains a part of the URL.
    pub fn from_url(url: &str) -> Result<Self, ConfigError> {
        let RedisUrl { servers, user, password, database, tls } = RedisUrl::parse(url)?;
        let config = Self::with_servers(servers).user(user).password(password).database(database);
        if tls { config.tls_by_url() } else { Ok(config) }
    }

    #[cfg(feature = "tls")]
    fn tls_by_url(mut self) -> Result<Self, ConfigError> {
        if let Servers::Sentinel(sentinels) = &mut self.servers {
            sentinels.tls = Some(RedisTls::new());
        }
        Ok(self.tls(RedisTls::new()))
    }

    #[cfg(not(feature = "tls"))]
    fn tls_by_url(self) -> Result<Self, ConfigError> {
        Err(ConfigError::RedisTlsDisabled)
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

    /// Sets the ACL user. Defaults to none, which is Redis' `default` user. An empty name means
    /// none. Replaces a [provider](Self::credentials_provider).
    pub fn user(mut self, user: impl Into<String>) -> Self {
        let credentials = self.fixed_credentials().with_user(user.into());
        self.credentials = CredentialsSource::Fixed(credentials);
        self
    }

    /// Sets the password. Defaults to none. An empty password means none, as in a URL. Replaces a
    /// [provider](Self::credentials_provider).
    pub fn password(mut self, password: impl Into<String>) -> Self {
        let credentials = self.fixed_credentials().with_password(password.into());
        self.credentials = CredentialsSource::Fixed(credentials);
        self
    }

    /// Asks for the user and password of each connection to a server when it is made, for passwords
    /// that rotate: tokens of AWS IAM or Microsoft Entra ID, or leases of a vault.
    ///
    /// If the credentials are [valid for a limited time](RedisCredentials::valid_for), the provider
    /// is asked again after three quarters of that time, and each open connection authenticates
    /// again (`AUTH`), without a pause and without losing the lease on the cache. If the provider
    /// or the server fails then, or takes longer than ten seconds and than a quarter of the
    /// remaining time, that is logged and tried again, and the connection stays as it is.
    ///
    /// A node has up to three connections, and makes a new one when the old one is lost. The
    /// provider is asked for each, within [`connect_timeout`](Self::connect_timeout), so it should
    /// keep a token for as long as it is valid.
    ///
    /// ```
    /// use std::time::Duration;
    /// use clustered_sessions::{RedisConfig, RedisCredentials};
    ///
    /// # async fn cached_token() -> std::io::Result<String> { Ok(String::new()) }
    /// let redis = RedisConfig::new("redis.example.com", 6379).credentials_provider(|| async {
    ///     let token = cached_token().await?;
    ///     Ok::<_, std::io::Error>(
    ///         RedisCredentials::new("app", token).valid_for(Duration::from_secs(600)),
    ///     )
    /// });
    /// # let _ = redis;
    /// ```
    pub fn credentials_provider<P, F, E>(mut self, provider: P) -> Self
    where
        P: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<RedisCredentials, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.credentials = CredentialsSource::provider(provider);
        self
    }

    fn fixed_credentials(&self) -> RedisCredentials {
        match &self.credentials {
            CredentialsSource::Fixed(credentials) => credentials.clone(),
            CredentialsSource::Provider(_) => RedisCredentials::default(),
        }
    }

    /// Sets the database number. Defaults to 0.
    pub fn database(mut self, database: u16) -> Self {
        self.database = database;
        self
    }

    /// Connects to the servers over TLS. By default, connections are not encrypted: the password
    /// and all sessions can be read on the network. Sentinels have [their own](RedisSentinels::tls)
    /// options.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: RedisTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Opens byte streams to servers and sentinels by this function instead of by TCP or a Unix
    /// domain socket: for instance through a tunnel or a proxy, or to another address than the one
    /// that sentinels name, behind a NAT. With [`tls`](Self::tls), TLS runs over the stream, and
    /// the certificate must be for the host in the address that the function is given.
    ///
    /// The time that it takes counts towards [`connect_timeout`](Self::connect_timeout). A stream
    /// must belong to one connection alone, and must fail or end when the connection is lost. The
    /// usual function sends TCP keepalives after 60 seconds without traffic; over a network that
    /// forgets idle connections, this one should do so as well.
    ///
    /// ```
    /// use clustered_sessions::{RedisAddress, RedisConfig};
    /// use tokio::net::TcpStream;
    ///
    /// let redis = RedisConfig::new("redis.internal", 6379).connector(|address| async move {
    ///     // A SOCKS5 handshake, a `CONNECT` request, …
    ///     let RedisAddress::Tcp { host, port } = address else { unreachable!() };
    ///     TcpStream::connect((host, port)).await
    /// });
    /// # let _ = redis;
    /// ```
    pub fn connector<C, F, S>(mut self, connect: C) -> Self
    where
        C: Fn(RedisAddress) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.connector = Connector::new(connect);
        self
    }

    /// Sets the prefix of all keys. Defaults to `session:`. Must end in one of `: / . - _ |`, be at
    /// most 128 bytes long, and contain none of `* ? [ ] { } \`.
    ///
    /// # Risk
    ///
    /// Two applications, or two layers of one, with the same prefix in one database can read,
    /// count and clear each other's sessions.
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

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let ends_in_delimiter = self.key_prefix.ends_with([':', '/', '.', '-', '_', '|']);
        let is_literal = !self.key_prefix.contains(['*', '?', '[', ']', '{', '}', '\\']);
        if self.key_prefix.len() > 128 || !ends_in_delimiter || !is_literal {
            return Err(ConfigError::KeyPrefix);
        }
        if let Servers::Sentinel(sentinels) = &self.servers
            && (sentinels.addresses.is_empty() || sentinels.service.is_empty())
        {
            return Err(ConfigError::RedisSentinels);
        }
        if let Servers::Cluster(cluster) = &self.servers {
            if cluster.servers.is_empty() {
                return Err(ConfigError::RedisClusterServers);
            }
            if self.database != 0 {
                return Err(ConfigError::RedisClusterDatabase);
            }
        }
        if self.connect_timeout.as_millis() == 0 || self.response_timeout.as_millis() == 0 {
            return Err(ConfigError::RedisTimeoutZero);
        }
        Ok(())
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Servers::Single(address) => write!(f, "{address}"),
            Servers::Sentinel(sentinels) => sentinels.fmt(f),
            Servers::Cluster(cluster) => cluster.fmt(f),
        }
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("servers", &self.servers)
            .field("database", &self.database)
            .field("key_prefix", &self.key_prefix)
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .finish_non_exhaustive()
    }
}
