//! Presets: the configurations that the documentation recommends, as starting points.

use std::time::Duration;

use super::{SessionConfig, SessionConfigBuilder};
use crate::cluster::{ClusterConfig, MIB};
use crate::codec::Encryption;
use crate::cookie::CookieConfig;
use crate::secret::Secret;

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

impl<T> SessionConfig<T> {
    /// Returns a builder for production: sessions of 24 hours that are encrypted in Redis, a cache
    /// of up to 100 000 sessions and 256 MiB that keeps each for up to a minute, retries, and a
    /// circuit breaker.
    ///
    /// Retries and the circuit breaker are those of [`RetryConfig::new`](crate::RetryConfig::new)
    /// and [`CircuitBreakerConfig::new`](crate::CircuitBreakerConfig::new). Add the Redis server,
    /// without which [`build`](SessionConfigBuilder::build) fails.
    ///
    /// Plain records are refused. If there are sessions that were written without encryption, set
    /// `.encrypt_redis_data(Encryption::Migrating)` until they have expired.
    ///
    /// ```
    /// use clustered_sessions::{ClusterConfig, RedisConfig, Secret, SessionConfig};
    ///
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
    /// let secret = Secret::new("at least thirty-two bytes of secret")?;
    /// let config = SessionConfig::<UserSession>::production(secret)
    ///     .redis(RedisConfig::new("redis.example.com", 6379))
    ///     .cluster(ClusterConfig::new().node_id("web-3"))
    ///     .build()?;
    /// # let _ = config;
    /// # Ok::<(), clustered_sessions::ConfigError>(())
    /// ```
    pub fn production(secret: Secret) -> SessionConfigBuilder<T> {
        Self::builder(secret)
            .needs_backend()
            .timeout(24 * HOUR)
            .cluster(ClusterConfig::production())
            .encrypt_redis_data(Encryption::Required)
            .enable_retry(true)
            .circuit_breaker_enabled(true)
    }

    /// Returns a builder for many visitors: like [`SessionConfig::production`], with a cache of up
    /// to 500 000 sessions and 1 GiB that keeps each for up to two minutes.
    ///
    /// With the feature `compression`, which is on by default, records of more than 256 bytes are
    /// compressed; see the risk at [`compress_data`](SessionConfigBuilder::compress_data).
    pub fn high_traffic(secret: Secret) -> SessionConfigBuilder<T> {
        let builder = Self::production(secret).cluster(ClusterConfig::high_traffic());
        #[cfg(feature = "compression")]
        let builder = builder.compress_data(true).compression_threshold(256);
        builder
    }

    /// Returns a builder like [`SessionConfig::production`], with the timeouts of NIST SP 800-63B-4
    /// (section 2.1.3) for assurance level 1: a login at least every 30 days, and no shorter limit
    /// on idleness.
    ///
    /// A level requires more than timeouts, above all certain kinds of authenticators. Call
    /// [`replace`](crate::Session::replace) at each login: it restarts both timeouts.
    ///
    /// # Risk
    ///
    /// [`regenerate`](crate::Session::regenerate) restarts both timeouts as well, and so does a
    /// change that gives the session another [owner](SessionConfigBuilder::owner). The time between
    /// logins is bounded only if they are used where the user authenticates.
    pub fn aal1(secret: Secret) -> SessionConfigBuilder<T> {
        Self::production(secret).timeout(30 * DAY).absolute_timeout(30 * DAY)
    }

    /// Returns a builder like [`SessionConfig::aal1`], for assurance level 2 (section 2.2.3): a
    /// login at least every 24 hours, and after an hour of idleness. The risk there applies.
    pub fn aal2(secret: Secret) -> SessionConfigBuilder<T> {
        Self::production(secret).timeout(HOUR).absolute_timeout(DAY)
    }

    /// Returns a builder like [`SessionConfig::aal1`], for assurance level 3 (section 2.3.3): a
    /// login at least every 12 hours, and after 15 minutes of idleness. The risk there applies.
    ///
    /// ```
    /// use clustered_sessions::{Secret, SessionConfig};
    ///
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
    /// let secret = Secret::new("at least thirty-two bytes of secret")?;
    /// # use clustered_sessions::RedisConfig;
    /// let config = SessionConfig::<UserSession>::aal3(secret)
    ///     .redis(RedisConfig::new("redis.example.com", 6379))
    ///     .build()?;
    /// # let _ = config;
    /// # Ok::<(), clustered_sessions::ConfigError>(())
    /// ```
    pub fn aal3(secret: Secret) -> SessionConfigBuilder<T> {
        Self::production(secret).timeout(15 * MINUTE).absolute_timeout(12 * HOUR)
    }

    /// Returns a builder for development over plain HTTP: a cookie named `session` that is not
    /// `Secure`, sessions of an hour, a cache of ten seconds, and no listening to other nodes.
    ///
    /// It is the only preset that accepts [`Secret::insecure_dev`].
    ///
    /// # Risk
    ///
    /// Anyone who listens on the network can take over the sessions. Do not use it in production.
    ///
    /// ```
    /// use clustered_sessions::{Secret, SessionConfig};
    ///
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
    /// let secret = Secret::insecure_dev("dev-secret-not-for-production");
    /// let config = SessionConfig::<UserSession>::development(secret).build()?;
    /// # let _ = config;
    /// # Ok::<(), clustered_sessions::ConfigError>(())
    /// ```
    pub fn development(secret: Secret) -> SessionConfigBuilder<T> {
        Self::builder(secret)
            .for_development()
            .timeout(HOUR)
            .cookie(CookieConfig::development())
            .cluster(ClusterConfig::development())
    }
}

impl CookieConfig {
    /// Creates a configuration for plain HTTP: named `session`, not `Secure`.
    pub fn development() -> Self {
        Self::new().name("session").secure(false)
    }
}

impl ClusterConfig {
    /// Creates the configuration of [`SessionConfig::production`]: 100 000 sessions, for up to a
    /// minute.
    pub fn production() -> Self {
        Self::new()
            .local_cache_ttl(MINUTE)
            .local_cache_max_size(100_000)
            .local_cache_max_bytes(256 * MIB)
    }

    /// Creates the configuration of [`SessionConfig::high_traffic`]: 500 000 sessions, for up to
    /// two minutes.
    pub fn high_traffic() -> Self {
        Self::new()
            .local_cache_ttl(2 * MINUTE)
            .local_cache_max_size(500_000)
            .local_cache_max_bytes(1024 * MIB)
    }

    /// Creates the configuration of [`SessionConfig::development`]: sessions cached for ten
    /// seconds, and no listening.
    pub fn development() -> Self {
        Self::new().enabled(false).local_cache_ttl(Duration::from_secs(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;
    use crate::cluster::ClusterSettings;
    use crate::error::ConfigError;
    use crate::resilience::{CircuitBreakerConfig, RetryConfig};

    #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    struct Data;

    fn secret() -> Secret {
        Secret::new("x".repeat(32)).unwrap()
    }

    #[test]
    fn the_presets_have_their_documented_values() {
        let production = SessionConfig::<Data>::production(secret()).in_memory().build().unwrap();
        assert_eq!(production.timeout, 24 * HOUR);
        assert!(production.cluster.enabled && production.cluster.cache_enabled);
        assert_eq!(production.cluster.cache_ttl, MINUTE);
        assert_eq!(production.cluster.cache_max_size, 100_000);
        assert_eq!(production.cluster.cache_max_bytes, 256 * MIB);
        assert!(production.cookie.secure);
        assert_eq!(production.codec.encryption, Encryption::Required);
        assert_eq!(production.resilience.retry, RetryConfig::new());
        assert_eq!(production.resilience.breaker, Some(CircuitBreakerConfig::new()));

        let traffic = SessionConfig::<Data>::high_traffic(secret()).in_memory().build().unwrap();
        assert_eq!(traffic.cluster.cache_ttl, 2 * MINUTE);
        assert_eq!(traffic.cluster.cache_max_size, 500_000);
        assert_eq!(traffic.cluster.cache_max_bytes, 1024 * MIB);
        assert_eq!(traffic.codec.encryption, Encryption::Required);
        #[cfg(feature = "compression")]
        assert_eq!((traffic.codec.compress, traffic.codec.compression_threshold), (true, 256));
        assert_eq!(traffic.resilience, production.resilience);

        let development =
            SessionConfig::<Data>::development(Secret::insecure_dev("dev")).build().unwrap();
        assert_eq!(development.timeout, HOUR);
        assert!(!development.cluster.enabled && development.cluster.cache_enabled);
        assert_eq!(development.cluster.cache_ttl, Duration::from_secs(10));
        assert!(!development.cookie.secure);
        assert_eq!(development.resilience.breaker, None);
        assert_eq!(development.codec.encryption, Encryption::Off);
    }

    #[test]
    fn options_of_a_preset_hold_unless_they_are_set() {
        let cluster = ClusterConfig::new().node_id("web-3").local_cache_max_size(5);
        let production = SessionConfig::<Data>::production(secret()).in_memory().cluster(cluster);
        let ClusterSettings { node_id, cache_max_size, cache_max_bytes, .. } =
            production.build().unwrap().cluster;
        assert_eq!((&*node_id, cache_max_size, cache_max_bytes), ("web-3", 5, 256 * MIB));

        let insecure = Secret::insecure_dev("dev");
        let development = SessionConfig::<Data>::development(insecure)
            .cluster(ClusterConfig::new().node_id("one"))
            .cluster(ClusterConfig::new().local_cache_enabled(false));
        let cluster = development.build().unwrap().cluster;
        assert!(!cluster.enabled && !cluster.cache_enabled);
        assert_eq!((&*cluster.node_id, cluster.cache_ttl), ("one", Duration::from_secs(10)));
    }

    #[test]
    fn the_assurance_levels_have_the_timeouts_of_nist() {
        for (builder, idle, absolute) in [
            (SessionConfig::<Data>::aal1(secret()), 30 * DAY, 30 * DAY),
            (SessionConfig::aal2(secret()), HOUR, DAY),
            (SessionConfig::aal3(secret()), 15 * MINUTE, 12 * HOUR),
        ] {
            let config = builder.in_memory().build().unwrap();
            assert_eq!((config.timeout, config.absolute_timeout), (idle, Some(absolute)));
            assert!(config.cookie.secure && !config.cookie.persistent);
        }
    }

    #[test]
    fn the_presets_for_production_need_a_backend() {
        for builder in [
            SessionConfig::<Data>::production(secret()),
            SessionConfig::high_traffic(secret()),
            SessionConfig::aal1(secret()),
            SessionConfig::aal2(secret()),
            SessionConfig::aal3(secret()),
        ] {
            assert_eq!(builder.build().unwrap_err(), ConfigError::NoBackend);
        }
        let custom = SessionConfig::<Data>::production(secret()).backend(MemoryBackend::new());
        assert!(custom.build().is_ok());
    }

    #[test]
    fn only_development_accepts_an_insecure_secret() {
        let insecure = || Secret::insecure_dev("dev");
        assert!(SessionConfig::<Data>::development(insecure()).build().is_ok());
        for builder in
            [SessionConfig::<Data>::builder(insecure()), SessionConfig::production(insecure())]
        {
            assert_eq!(builder.build().unwrap_err(), ConfigError::InsecureSecret);
        }
        let rotated = SessionConfig::<Data>::builder(secret()).previous_secret(insecure());
        assert_eq!(rotated.build().unwrap_err(), ConfigError::InsecureSecret);
    }
}
