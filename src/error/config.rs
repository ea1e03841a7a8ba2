//! The error type of configurations: one variant for each mistake.

use std::fmt;
use std::time::Duration;

/// A mistake in the configuration. Each message says how to fix it.
///
/// No message contains a secret, a password or a URL.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// An environment variable is unset or not Unicode.
    #[non_exhaustive]
    MissingVariable {
        /// The name of the variable.
        variable: String,
    },
    /// A [`Secret`](crate::Secret) is too short to derive keys from.
    #[non_exhaustive]
    SecretTooShort {
        /// The length of the secret in bytes.
        found: usize,
        /// The shortest length accepted, in bytes.
        minimum: usize,
    },
    /// A [`Secret::insecure_dev`](crate::Secret::insecure_dev) is used outside the development
    /// preset.
    InsecureSecret,
    /// The session timeout, or that of `remember_me`, is below one second or longer than
    /// [`MAX_TIMEOUT`](crate::SessionConfigBuilder::MAX_TIMEOUT).
    Timeout(Duration),
    /// The absolute timeout is shorter than the idle one, or longer than
    /// [`MAX_TIMEOUT`](crate::SessionConfigBuilder::MAX_TIMEOUT).
    #[non_exhaustive]
    AbsoluteTimeout {
        /// The absolute timeout.
        absolute: Duration,
        /// The idle timeout.
        idle: Duration,
    },
    /// `touch_after`, the share of the idle timeout after which a read extends a session, is not
    /// above 0 and below 1. At 1 the session would end before any read could extend it.
    TouchAfter,
    /// The cookie's name is empty, too long or has a character that RFC 6265 does not allow.
    CookieName,
    /// The cookie's path does not begin with `/`, or has a control character or a semicolon.
    CookiePath,
    /// The cookie's domain is empty or has a character that is not allowed in a domain.
    CookieDomain,
    /// A `__Host-` cookie has, or had before by
    /// [`CookieConfig::former`](crate::CookieConfig::former), a domain or a path other than `/`.
    /// Browsers would drop it.
    HostPrefix,
    /// The cookie's name begins with `__Host-` or `__Secure-`, but the cookie is not Secure.
    /// Browsers would drop it.
    PrefixWithoutSecure,
    /// The cookie has `SameSite=None` but is not Secure. Browsers would drop it.
    SameSiteNoneWithoutSecure,
    /// The node id is empty or longer than 128 bytes.
    NodeId,
    /// The channel is empty or longer than 256 bytes.
    Channel,
    /// The time to live of cached entries is zero.
    CacheTtlZero,
    /// The time to live of cached entries is longer than the session timeout.
    #[non_exhaustive]
    CacheTtlAboveTimeout {
        /// The configured time to live of a cached entry.
        ttl: Duration,
        /// The session timeout.
        timeout: Duration,
    },
    /// The maximum size of the local cache is zero.
    CacheSizeZero,
    /// `max_staleness` is outside 100 ms to 1 hour.
    MaxStaleness(Duration),
    /// `watch_grace` is shorter than 100 ms, so that any read would end a watch.
    WatchGrace(Duration),
    /// `max_staleness` is shorter than the time that Redis may take to answer a heartbeat.
    #[non_exhaustive]
    MaxStalenessBelowTimeout {
        /// The configured staleness.
        max_staleness: Duration,
        /// The configured response timeout.
        response_timeout: Duration,
    },
    /// [`OutagePolicy::ServeCached`](crate::OutagePolicy::ServeCached) needs the local cache, which
    /// is disabled.
    ServeCachedWithoutCache,
    /// The `max_age` of [`OutagePolicy::ServeCached`](crate::OutagePolicy::ServeCached) is so short
    /// that the policy would have no effect, or is longer than 1 hour.
    #[non_exhaustive]
    ServeCachedMaxAge {
        /// The configured maximum age.
        max_age: Duration,
        /// The duration that it must exceed: `max_staleness`, or `local_cache_ttl` on a node that
        /// does not listen.
        above: Duration,
    },
    /// The Redis URL cannot be parsed.
    RedisUrl,
    /// The Redis URL has a parameter that is not known for its scheme.
    RedisUrlParameter,
    /// The Redis URL has a fragment, such as `#insecure`.
    RedisUrlFragment,
    /// The Redis URL asks for TLS, and the feature `tls` of this crate is disabled.
    RedisTlsDisabled,
    /// The sentinels have no service name, or no address.
    RedisSentinels,
    /// The cluster has no servers.
    RedisClusterServers,
    /// A database is selected in a cluster, which has only one.
    RedisClusterDatabase,
    /// The root certificates for Redis are not PEM, or there is none among them.
    RedisRootCertificates,
    /// The system has no root certificates that could verify the certificate of Redis.
    RedisSystemRoots,
    /// The client certificate for Redis or its key is not PEM, or the two do not belong together.
    RedisClientCertificate,
    /// The server name for TLS, or the host of a server, is neither a DNS name nor an IP address.
    RedisServerName,
    /// The key prefix is too long, does not end in one of `:` `/` `.` `-` `_` `|`, or has a
    /// character that a pattern would treat as special.
    KeyPrefix,
    /// A Redis timeout is zero.
    RedisTimeoutZero,
    /// `max_record_size` is outside 1 KiB to 16 MiB.
    MaxRecordSize(usize),
    /// The compression threshold is not below `max_record_size`, so no record would be compressed.
    #[non_exhaustive]
    CompressionThreshold {
        /// The configured threshold in bytes.
        threshold: usize,
        /// The configured maximum size of a record in bytes.
        maximum: usize,
    },
    /// The maximum number of attempts is zero, so no call would be made.
    RetryAttempts,
    /// The multiplier of the pauses between attempts is below 1 or not a number.
    RetryMultiplier,
    /// The shortest pause between attempts is zero or above the longest, or the longest is above 1
    /// hour.
    #[non_exhaustive]
    RetryDelay {
        /// The configured base delay.
        base: Duration,
        /// The configured longest delay.
        max: Duration,
    },
    /// Retries are enabled, and their first pause alone would be as long as an operation may take,
    /// so that none would be made.
    #[non_exhaustive]
    RetryDelayAboveOperation {
        /// The configured base delay.
        base: Duration,
        /// The timeout of an operation.
        operation: Duration,
    },
    /// The circuit breaker's threshold or number of probes is zero.
    CircuitBreakerZero,
    /// The circuit breaker's reset timeout is outside 1 ms to 1 hour.
    CircuitBreakerReset(Duration),
    /// The timeout of an attempt is zero.
    AttemptTimeoutZero,
    /// The timeout of an attempt is shorter than the time that Redis may take to connect and
    /// answer.
    #[non_exhaustive]
    AttemptTimeoutBelowRedis {
        /// The configured timeout of an attempt.
        attempt: Duration,
        /// The connect and the response timeout together.
        redis: Duration,
    },
    /// The timeout of an operation is shorter than that of one attempt, or longer than 1 hour.
    #[non_exhaustive]
    OperationTimeout {
        /// The timeout of an operation.
        operation: Duration,
        /// The timeout of an attempt.
        attempt: Duration,
    },
    /// The cookie is partitioned but not `Secure`.
    PartitionedWithoutSecure,
    /// A former path and domain of the cookie are its present ones.
    FormerCookie,
    /// The metrics label is empty or longer than 128 bytes.
    MetricsLabel,
    /// The limit of sessions of one owner is zero.
    OwnerLimitZero,
    /// There is a limit of sessions of one owner, and no `owner`.
    OwnerLimitWithoutOwner,
    /// More than one of `redis(…)`, `backend(…)` and `in_memory()` is configured.
    TwoBackends,
    /// The preset is for production, and neither `redis(…)`, `backend(…)` nor `in_memory()` is
    /// configured.
    NoBackend,
}

/// Prints the message, since this is what `main() -> Result<(), Box<dyn Error>>` shows.
impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingVariable { variable } => {
                write!(f, "environment variable {variable} is not set, or not Unicode")
            }
            Self::SecretTooShort { found, minimum } => write!(
                f,
                "the secret has {found} bytes but needs at least {minimum}: generate one with `openssl rand -base64 48`"
            ),
            Self::InsecureSecret => f.write_str(
                "Secret::insecure_dev works only with SessionConfig::development: use Secret::new or Secret::from_env",
            ),
            Self::AbsoluteTimeout { absolute, idle } => write!(
                f,
                "an absolute timeout is {absolute:?} but must be between the idle timeout, {idle:?}, and 400 days"
            ),
            Self::Timeout(found) => {
                write!(f, "a session timeout is {found:?} but must be between 1 second and 400 days")
            }
            Self::TouchAfter => f.write_str("touch_after is a share of the timeout and must be above 0 and below 1"),
            Self::CookieName => f.write_str(
                "cookie name must be 1 to 128 RFC 6265 token characters, such as `__Host-session`",
            ),
            Self::CookiePath => {
                f.write_str("cookie path must begin with `/` and have no semicolon or control character")
            }
            Self::CookieDomain => f.write_str("cookie domain must be a host name such as `example.com`"),
            Self::HostPrefix => f.write_str(
                "a `__Host-` cookie must have no domain and the path `/`, and cannot have had others before: remove `domain`, `path` and `former`, or choose a name without the prefix",
            ),
            Self::PrefixWithoutSecure => f.write_str(
                "a `__Host-` or `__Secure-` cookie must be Secure: leave secure enabled, or for plain HTTP choose a name without the prefix",
            ),
            Self::SameSiteNoneWithoutSecure => {
                f.write_str("SameSite=None needs a Secure cookie: leave secure enabled, or use Lax")
            }
            Self::NodeId => f.write_str("node_id must have 1 to 128 bytes"),
            Self::Channel => f.write_str("channel must have 1 to 256 bytes, such as `prod:session:invalidate`"),
            Self::CacheTtlZero => f.write_str(
                "local_cache_ttl is zero: use a longer one, or disable the cache with local_cache_enabled(false)",
            ),
            Self::CacheTtlAboveTimeout { ttl, timeout } => write!(
                f,
                "local_cache_ttl ({ttl:?}) must not be longer than the session timeout ({timeout:?})"
            ),
            Self::CacheSizeZero => f.write_str(
                "local_cache_max_size or local_cache_max_bytes is zero: use 1 or more, or disable the cache with local_cache_enabled(false)",
            ),
            Self::MaxStaleness(found) => {
                write!(f, "max_staleness is {found:?} but must be between 100 ms and 1 hour")
            }
            Self::WatchGrace(found) => {
                write!(f, "watch_grace is {found:?} but must be at least 100 ms")
            }
            Self::MaxStalenessBelowTimeout { max_staleness, response_timeout } => write!(
                f,
                "max_staleness ({max_staleness:?}) must not be shorter than the Redis response timeout ({response_timeout:?}): raise it or lower the timeout"
            ),
            Self::ServeCachedWithoutCache => f.write_str(
                "OutagePolicy::ServeCached needs the local cache: enable it with local_cache_enabled(true), or choose another policy",
            ),
            Self::ServeCachedMaxAge { max_age, above } => write!(
                f,
                "max_age of OutagePolicy::ServeCached is {max_age:?} but must be more than {above:?} (max_staleness, or local_cache_ttl with enabled(false)) and at most 1 hour"
            ),
            Self::RedisUrl => f.write_str(
                "the Redis URL cannot be parsed: use a form such as redis://user:password@host:6379/0 or redis+unix:///path/to/socket; in a password, write `/` as `%2F`, `#` as `%23`, `@` as `%40`, `:` as `%3A` and `%` as `%25`",
            ),
            Self::RedisUrlParameter => f.write_str(
                "the Redis URL has an unknown parameter: known are `db`, for a Unix socket also `user` and `pass`, for a cluster `node`, for Sentinel also `node`, `sentinelServiceName`, `sentinelUsername` and `sentinelPassword`; `?` in a password must be written as `%3F`",
            ),
            Self::RedisUrlFragment => f.write_str(
                "the Redis URL has a fragment: certificates are always verified, so use RedisTls::root_certificates instead of `#insecure`; `#` in a password must be written as `%23`",
            ),
            Self::RedisTlsDisabled => f.write_str(
                "the Redis URL asks for TLS: enable the feature `tls` of the crate clustered-sessions",
            ),
            Self::RedisSentinels => f.write_str(
                "the sentinels need a service name and at least one address: set RedisSentinels::new, or `sentinelServiceName` in the URL",
            ),
            Self::RedisClusterServers => f.write_str(
                "the cluster has no servers: give RedisCluster::new the address of at least one",
            ),
            Self::RedisClusterDatabase => f.write_str(
                "a Redis Cluster has no databases: leave the number out, and tell applications apart by RedisConfig::key_prefix",
            ),
            Self::RedisRootCertificates => f.write_str(
                "root_certificates has no certificate in PEM, or one that cannot be parsed: give it the text between and including `-----BEGIN CERTIFICATE-----` and `-----END CERTIFICATE-----`",
            ),
            Self::RedisSystemRoots => f.write_str(
                "the system has no root certificates: install them (`ca-certificates`), set SSL_CERT_FILE, or use RedisTls::root_certificates",
            ),
            Self::RedisClientCertificate => f.write_str(
                "the client certificate or its key is not PEM, is encrypted, or the two do not belong together",
            ),
            Self::RedisServerName => f.write_str(
                "the server name for TLS must be a DNS name or an IP address: set RedisTls::server_name, for a Unix socket in any case",
            ),
            Self::KeyPrefix => f.write_str(
                "key prefix must have at most 128 bytes, end in one of `: / . - _ |`, and have none of `* ? [ ] { } \\`",
            ),
            Self::RedisTimeoutZero => f.write_str("a Redis timeout is zero, so no call could succeed: use 1 ms or more"),
            Self::MaxRecordSize(found) => {
                write!(f, "max_record_size is {found} bytes but must be between 1024 (1 KiB) and 16777216 (16 MiB)")
            }
            Self::CompressionThreshold { threshold, maximum } => write!(
                f,
                "compression_threshold ({threshold} bytes) must be below max_record_size ({maximum} bytes): lower the threshold"
            ),
            Self::RetryAttempts => {
                f.write_str("max_attempts is zero: use 1 or more, or disable retries with enable_retry(false)")
            }
            Self::RetryMultiplier => f.write_str("multiplier must be a number of at least 1, such as 2"),
            Self::RetryDelay { base, max } => write!(
                f,
                "retry delays from {base:?} to {max:?} are not possible: use a base_delay of at least 1 ms and a max_delay between that and 1 hour"
            ),
            Self::RetryDelayAboveOperation { base, operation } => write!(
                f,
                "base_delay ({base:?}) must be shorter than operation_timeout ({operation:?}): lower it, or disable retries with enable_retry(false)"
            ),
            Self::CircuitBreakerZero => f.write_str(
                "the circuit breaker's failure_threshold or half_open_probes is zero: use 1 or more, or disable it with circuit_breaker_enabled(false)",
            ),
            Self::CircuitBreakerReset(found) => {
                write!(f, "reset_timeout is {found:?} but must be between 1 ms and 1 hour")
            }
            Self::AttemptTimeoutZero => f.write_str("attempt_timeout is zero, so no call could succeed: use 1 ms or more"),
            Self::AttemptTimeoutBelowRedis { attempt, redis } => write!(
                f,
                "attempt_timeout ({attempt:?}) must not be shorter than the connect and response timeouts of Redis together ({redis:?}): raise it or lower them"
            ),
            Self::OperationTimeout { operation, attempt } => write!(
                f,
                "operation_timeout is {operation:?} but must be between attempt_timeout ({attempt:?}) and 1 hour"
            ),
            Self::PartitionedWithoutSecure => {
                f.write_str("a partitioned cookie must be Secure: browsers drop any other")
            }
            Self::FormerCookie => f.write_str(
                "a former path and domain of the cookie are its present ones: each cookie that is set would be removed",
            ),
            Self::MetricsLabel => {
                f.write_str("metrics label must have 1 to 128 bytes: give each store of the process a short name")
            }
            Self::OwnerLimitZero => {
                f.write_str("max_sessions_of_owner is zero, so nobody could log in: use 1 or more")
            }
            Self::OwnerLimitWithoutOwner => f.write_str(
                "max_sessions_of_owner needs to know the owners: set one with SessionConfigBuilder::owner",
            ),
            Self::TwoBackends => f.write_str(
                "more than one of redis(…), backend(…) and in_memory() is configured: keep one",
            ),
            Self::NoBackend => f.write_str(
                "sessions have no backend: call redis(…), or in_memory() if they may be lost when the process ends",
            ),
        }
    }
}

impl std::error::Error for ConfigError {}
