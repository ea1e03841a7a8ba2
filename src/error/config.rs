//! What can be wrong with a configuration, one variant a mistake.

use std::fmt;
use std::time::Duration;

/// A mistake in the configuration. Each message says how to mend it.
///
/// No message contains a secret, a password or a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// An environment variable is unset or not Unicode.
    MissingVariable {
        /// Its name.
        variable: String,
    },
    /// A [`Secret`](crate::Secret) is too short to derive keys from.
    SecretTooShort {
        /// Its length in bytes.
        found: usize,
        /// The shortest accepted.
        minimum: usize,
    },
    /// A [`Secret::insecure_dev`](crate::Secret::insecure_dev) outside the development preset.
    InsecureSecret,
    /// The session timeout is zero or longer than [`MAX_TIMEOUT`](crate::SessionConfigBuilder::MAX_TIMEOUT).
    Timeout(Duration),
    /// The absolute timeout is shorter than the idle one, or longer than
    /// [`MAX_TIMEOUT`](crate::SessionConfigBuilder::MAX_TIMEOUT).
    AbsoluteTimeout {
        /// The absolute timeout.
        absolute: Duration,
        /// The idle timeout.
        idle: Duration,
    },
    /// The share of the timeout after which reading extends it is not above 0 and at most 1.
    TouchAfter,
    /// The cookie's name is empty, too long or has a character that RFC 6265 does not allow.
    CookieName,
    /// The cookie's path does not begin with `/`, or has a control character or a semicolon.
    CookiePath,
    /// The cookie's domain is empty or has a character that no domain has.
    CookieDomain,
    /// A `__Host-` cookie with a domain, or a path other than `/`: browsers would drop it.
    HostPrefix,
    /// A cookie that is not Secure but whose name begins with `__Host-` or `__Secure-`: browsers would drop it.
    PrefixWithoutSecure,
    /// `SameSite=None` without Secure: browsers would drop the cookie.
    SameSiteNoneWithoutSecure,
    /// The node id is empty or longer than 128 bytes.
    NodeId,
    /// The channel is empty or longer than 256 bytes.
    Channel,
    /// The local cache holds entries for no time.
    CacheTtlZero,
    /// The local cache would hold entries longer than sessions live.
    CacheTtlAboveTimeout {
        /// The configured time to live of a cached entry.
        ttl: Duration,
        /// The session timeout.
        timeout: Duration,
    },
    /// The local cache has room for nothing.
    CacheSizeZero,
    /// `max_staleness` is outside 100 ms to 1 hour.
    MaxStaleness(Duration),
    /// `max_staleness` is shorter than Redis may take to answer the heartbeat that is to prove it.
    MaxStalenessBelowTimeout {
        /// The configured staleness.
        max_staleness: Duration,
        /// The configured response timeout.
        response_timeout: Duration,
    },
    /// [`OutagePolicy::ServeCached`](crate::OutagePolicy::ServeCached) without a local cache.
    ServeCachedWithoutCache,
    /// The `max_age` of [`OutagePolicy::ServeCached`](crate::OutagePolicy::ServeCached) serves nothing that is not served anyway,
    /// or is longer than 1 hour.
    ServeCachedMaxAge {
        /// The configured age.
        max_age: Duration,
        /// What it must be more than: `max_staleness`, or `local_cache_ttl` where the node does not listen.
        above: Duration,
    },
    /// The Redis URL cannot be parsed.
    RedisUrl,
    /// The Redis URL asks for something that this crate does not support, such as TLS.
    RedisUnsupported {
        /// What it asks for.
        feature: &'static str,
    },
    /// The key prefix is too long, does not end in one of `:` `/` `.` `-` `_` `|`, or has a character that a pattern would treat as special.
    KeyPrefix,
    /// A Redis timeout is zero.
    RedisTimeoutZero,
    /// `max_record_size` is outside 1 KiB to 16 MiB.
    MaxRecordSize(usize),
    /// Only records longer than `max_record_size` would be compressed, and there are none.
    CompressionThreshold {
        /// The configured threshold in bytes.
        threshold: usize,
        /// The configured largest record in bytes.
        maximum: usize,
    },
    /// A call would never be made.
    RetryAttempts,
    /// The pauses between attempts would become shorter, or no number.
    RetryMultiplier,
    /// The shortest pause between attempts is zero or above the longest, or the longest is above 1 hour.
    RetryDelay {
        /// The configured base delay.
        base: Duration,
        /// The configured longest delay.
        max: Duration,
    },
    /// The circuit breaker's threshold or number of probes is zero.
    CircuitBreakerZero,
    /// The circuit breaker's reset timeout is outside 1 ms to 1 hour.
    CircuitBreakerReset(Duration),
    /// The timeout of an attempt is zero.
    AttemptTimeoutZero,
    /// The timeout of an attempt is shorter than Redis may take to connect and answer.
    AttemptTimeoutBelowRedis {
        /// The configured timeout of an attempt.
        attempt: Duration,
        /// The connect and the response timeout together.
        redis: Duration,
    },
    /// An operation has less time than one attempt, or more than 1 hour.
    OperationTimeout {
        /// The timeout of an operation.
        operation: Duration,
        /// The timeout of an attempt.
        attempt: Duration,
    },
    /// The metrics label is empty or longer than 128 bytes.
    MetricsLabel,
    /// Both `redis(…)` and `backend(…)` were given.
    TwoBackends,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingVariable { variable } => {
                write!(f, "the environment variable {variable} is not set to Unicode text: set it")
            }
            Self::SecretTooShort { found, minimum } => write!(
                f,
                "the secret has {found} bytes, at least {minimum} are needed: generate one with `openssl rand -base64 48`"
            ),
            Self::InsecureSecret => f.write_str(
                "Secret::insecure_dev is for SessionConfig::development alone: use Secret::new or Secret::from_env",
            ),
            Self::AbsoluteTimeout { absolute, idle } => write!(
                f,
                "an absolute timeout of {absolute:?} is not between the idle timeout, {idle:?}, and 400 days: set another one with \
                 .absolute_timeout(…)"
            ),
            Self::Timeout(found) => {
                write!(f, "a session timeout of {found:?} is not possible: use 1 second to 400 days")
            }
            Self::TouchAfter => f.write_str("touch_after is a share of the timeout: use a number above 0 and at most 1"),
            Self::CookieName => f.write_str(
                "the cookie name must be 1 to 128 characters of RFC 6265's token, such as `__Host-session`",
            ),
            Self::CookiePath => {
                f.write_str("the cookie path must begin with `/` and have no semicolon or control character")
            }
            Self::CookieDomain => f.write_str("the cookie domain must be a host name such as `example.com`"),
            Self::HostPrefix => f.write_str(
                "a `__Host-` cookie must have no domain and the path `/`: drop them, or choose a name without the prefix",
            ),
            Self::PrefixWithoutSecure => f.write_str(
                "a `__Host-` or `__Secure-` cookie must be Secure: leave secure on, or for plain HTTP choose a name without the prefix",
            ),
            Self::SameSiteNoneWithoutSecure => {
                f.write_str("SameSite=None needs a Secure cookie: leave secure on, or use Lax")
            }
            Self::NodeId => f.write_str("the node id must have 1 to 128 bytes"),
            Self::Channel => f.write_str("the channel must have 1 to 256 bytes, such as `prod:session:invalidate`"),
            Self::CacheTtlZero => f.write_str(
                "local_cache_ttl is zero: give it a duration, or turn the cache off with local_cache_enabled(false)",
            ),
            Self::CacheTtlAboveTimeout { ttl, timeout } => write!(
                f,
                "local_cache_ttl ({ttl:?}) is longer than the session timeout ({timeout:?}): make it shorter"
            ),
            Self::CacheSizeZero => f.write_str(
                "local_cache_max_size is zero: give it room, or turn the cache off with local_cache_enabled(false)",
            ),
            Self::MaxStaleness(found) => {
                write!(f, "a max_staleness of {found:?} is not possible: use 100 ms to 1 hour")
            }
            Self::MaxStalenessBelowTimeout { max_staleness, response_timeout } => write!(
                f,
                "max_staleness ({max_staleness:?}) is shorter than the Redis response timeout ({response_timeout:?}): make the one longer or the other shorter"
            ),
            Self::ServeCachedWithoutCache => f.write_str(
                "OutagePolicy::ServeCached needs the local cache: turn it on with local_cache_enabled(true), or choose another policy",
            ),
            Self::ServeCachedMaxAge { max_age, above } => write!(
                f,
                "OutagePolicy::ServeCached with a max_age of {max_age:?} is not possible: use more than {above:?} (max_staleness, or local_cache_ttl with enabled(false)) and at most 1 hour"
            ),
            Self::RedisUrl => f.write_str(
                "the Redis URL cannot be parsed: it looks like redis://user:password@host:6379/0 or redis+unix:///path/to/socket",
            ),
            Self::RedisUnsupported { feature } => {
                write!(f, "the Redis URL asks for {feature}, which is not supported: leave it out")
            }
            Self::KeyPrefix => f.write_str(
                "the key prefix must have at most 128 bytes, end in one of `: / . - _ |`, and have none of `* ? [ ] { } \\`",
            ),
            Self::RedisTimeoutZero => f.write_str("a Redis timeout is zero: nothing could succeed, use 1 ms or more"),
            Self::MaxRecordSize(found) => {
                write!(f, "a max_record_size of {found} bytes is not possible: use 1024 (1 KiB) to 16777216 (16 MiB)")
            }
            Self::CompressionThreshold { threshold, maximum } => write!(
                f,
                "no record is longer than compression_threshold ({threshold} bytes), since max_record_size is {maximum}: lower the threshold"
            ),
            Self::RetryAttempts => {
                f.write_str("max_attempts is zero: use 1 or more, or turn repetitions off with enable_retry(false)")
            }
            Self::RetryMultiplier => f.write_str("the multiplier of pauses must be a number of at least 1, such as 2"),
            Self::RetryDelay { base, max } => write!(
                f,
                "pauses from {base:?} to {max:?} are not possible: use a base_delay of at least 1 ms and a max_delay from that up to 1 hour"
            ),
            Self::CircuitBreakerZero => f.write_str(
                "the circuit breaker's failure_threshold or half_open_probes is zero: use 1 or more, or turn it off with circuit_breaker_enabled(false)",
            ),
            Self::CircuitBreakerReset(found) => {
                write!(f, "a reset_timeout of {found:?} is not possible: use 1 ms to 1 hour")
            }
            Self::AttemptTimeoutZero => f.write_str("attempt_timeout is zero: nothing could succeed, use 1 ms or more"),
            Self::AttemptTimeoutBelowRedis { attempt, redis } => write!(
                f,
                "attempt_timeout ({attempt:?}) is shorter than Redis' connect and response timeouts together ({redis:?}): make the one longer or the others shorter"
            ),
            Self::OperationTimeout { operation, attempt } => write!(
                f,
                "an operation_timeout of {operation:?} is not possible with an attempt timeout of {attempt:?}: use at least that, and at most 1 hour"
            ),
            Self::MetricsLabel => {
                f.write_str("the metrics label is empty or longer than 128 bytes: give each store of the process a short name of its own")
            }
            Self::TwoBackends => f.write_str("both redis(…) and backend(…) are given: sessions live in one place, drop one"),
        }
    }
}

impl std::error::Error for ConfigError {}
