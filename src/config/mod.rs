//! The configuration: one builder for everything. Each mistake is a [`ConfigError`].

mod backend;
mod events;
mod outage;
mod owners;
mod presets;
mod records;
mod resilience;
mod secrets;
mod timeouts;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use self::outage::OutagePolicy;
pub use self::owners::LimitPolicy;
pub(crate) use self::owners::{OwnerLimit, OwnerOf};
use crate::backend::DynBackend;
#[cfg(feature = "redis")]
use crate::backend::RedisConfig;
use crate::clock::Clock;
use crate::cluster::{ClusterConfig, ClusterSettings};
use crate::codec::CodecConfig;
use crate::cookie::CookieConfig;
use crate::error::ConfigError;
use crate::events::EventHook;
use crate::resilience::{ResilienceOptions, ResiliencePolicy};
use crate::secret::{KeyRing, Secret};

/// A checked configuration.
///
/// Built by [`SessionConfig::builder`] or one of the presets, and passed to
/// [`SessionLayer::new`](crate::SessionLayer::new).
///
/// A clone shares the backend with the original. Stores that are created from the two have the same
/// sessions, even in memory, and a store that is shut down closes the backend for both.
pub struct SessionConfig<T> {
    /// Knows the realm.
    pub(crate) keys: KeyRing,
    pub(crate) timeout: Duration,
    pub(crate) absolute_timeout: Option<Duration>,
    pub(crate) touch_after: f64,
    /// The idle and the absolute timeout of remembered sessions.
    pub(crate) remember_me: Option<(Duration, Duration)>,
    pub(crate) cookie: CookieConfig,
    pub(crate) cluster: ClusterSettings,
    pub(crate) on_outage: OutagePolicy,
    pub(crate) codec: CodecConfig,
    pub(crate) resilience: ResiliencePolicy,
    pub(crate) backend: Arc<dyn DynBackend>,
    pub(crate) clock: Clock,
    /// `None` if sessions have no owner.
    pub(crate) owner: Option<OwnerOf<T>>,
    pub(crate) owner_limit: Option<OwnerLimit>,
    pub(crate) on_event: Option<EventHook>,
    /// Always `None` without the feature `metrics`.
    pub(crate) metrics_label: Option<String>,
}

impl<T> SessionConfig<T> {
    /// Returns a builder with the defaults: sessions in memory with a timeout of 24 hours, a cookie
    /// named `__Host-session`, the cache of [`ClusterConfig::new`], retries as in
    /// [`RetryConfig::new`](crate::RetryConfig::new), and no circuit breaker.
    ///
    /// Name the type of the data, as below. Handlers do not tell the compiler which one it is, and
    /// without it the error is *type annotations needed* (E0283).
    ///
    /// ```
    /// use std::time::Duration;
    /// use clustered_sessions::{Secret, SessionConfig};
    ///
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
    /// let secret = Secret::new("at least thirty-two bytes of secret")?;
    /// let config = SessionConfig::<UserSession>::builder(secret)
    ///     .timeout(Duration::from_secs(3600))
    ///     .build()?;
    /// # let _ = config;
    /// # Ok::<(), clustered_sessions::ConfigError>(())
    /// ```
    pub fn builder(secret: Secret) -> SessionConfigBuilder<T> {
        SessionConfigBuilder {
            keys: KeyRing::new(secret),
            realm: None,
            is_for_development: false,
            needs_backend: false,
            in_memory: false,
            timeout: Duration::from_secs(24 * 3600),
            absolute_timeout: None,
            touch_after: 0.25,
            remember_me: None,
            cookie: CookieConfig::new(),
            cluster: ClusterConfig::new(),
            on_outage: OutagePolicy::Reject,
            codec: CodecConfig::new(),
            resilience: ResilienceOptions::new(),
            backend: None,
            #[cfg(feature = "redis")]
            redis: None,
            clock: Clock::system(),
            owner: None,
            owner_limit: None,
            on_event: None,
            metrics_label: None,
        }
    }
}

// By hand: `derive` would require `T: Clone`, and no field holds a `T`.
impl<T> Clone for SessionConfig<T> {
    fn clone(&self) -> Self {
        SessionConfig {
            keys: self.keys.clone(),
            timeout: self.timeout,
            absolute_timeout: self.absolute_timeout,
            touch_after: self.touch_after,
            remember_me: self.remember_me,
            cookie: self.cookie.clone(),
            cluster: self.cluster.clone(),
            on_outage: self.on_outage,
            codec: self.codec.clone(),
            resilience: self.resilience,
            backend: self.backend.clone(),
            clock: self.clock.clone(),
            owner: self.owner.clone(),
            owner_limit: self.owner_limit,
            on_event: self.on_event.clone(),
            metrics_label: self.metrics_label.clone(),
        }
    }
}

impl<T> fmt::Debug for SessionConfig<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionConfig")
            .field("timeout", &self.timeout)
            .field("cookie", &self.cookie)
            .field("cluster", &self.cluster)
            .field("on_outage", &self.on_outage)
            .field("codec", &self.codec)
            .finish_non_exhaustive()
    }
}

/// Collects the options of a configuration, which [`build`](SessionConfigBuilder::build) checks.
#[must_use = "a builder does nothing until .build() is called"]
pub struct SessionConfigBuilder<T> {
    keys: KeyRing,
    realm: Option<String>,
    /// `true` only for the development preset.
    is_for_development: bool,
    /// `true` for the presets for production.
    needs_backend: bool,
    in_memory: bool,
    timeout: Duration,
    absolute_timeout: Option<Duration>,
    touch_after: f64,
    remember_me: Option<(Duration, Duration)>,
    cookie: CookieConfig,
    cluster: ClusterConfig,
    on_outage: OutagePolicy,
    codec: CodecConfig,
    resilience: ResilienceOptions,
    backend: Option<Arc<dyn DynBackend>>,
    #[cfg(feature = "redis")]
    redis: Option<RedisConfig>,
    clock: Clock,
    owner: Option<OwnerOf<T>>,
    owner_limit: Option<OwnerLimit>,
    on_event: Option<EventHook>,
    metrics_label: Option<String>,
}

impl<T> SessionConfigBuilder<T> {
    /// Sets the options of the session cookie. Defaults to [`CookieConfig::new`].
    pub fn cookie(mut self, cookie: CookieConfig) -> Self {
        self.cookie = cookie;
        self
    }

    /// Sets the options of the local cache and of the announcements.
    ///
    /// Those that `cluster` leaves out keep their values: those of a preset, of a call before, or
    /// the defaults of [`ClusterConfig::new`].
    pub fn cluster(mut self, cluster: ClusterConfig) -> Self {
        self.cluster = cluster.or(self.cluster);
        self
    }

    /// Sets how a request is answered whose session cannot be loaded. Defaults to
    /// [`OutagePolicy::Reject`].
    pub fn on_outage(mut self, policy: OutagePolicy) -> Self {
        self.on_outage = policy;
        self
    }

    /// Sets the source of time. Defaults to [`Clock::system`]. Tests under paused time should use
    /// [`Clock::tokio`].
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the value of a label `store` on all metrics of this store, 1 to 128 bytes, for a
    /// process that has several stores. By default there is no such label.
    ///
    /// See [`guide::observability`](crate::guide::observability) for the metrics and how to export
    /// them.
    ///
    /// ```
    /// # use clustered_sessions::{ConfigError, Secret, SessionConfig};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct Shopper;
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct Admin;
    /// # fn secrets() -> Result<(Secret, Secret), ConfigError> {
    /// #     Ok((Secret::new([1; 32])?, Secret::new([2; 32])?))
    /// # }
    /// # let (one, two) = secrets()?;
    /// let shop = SessionConfig::<Shopper>::builder(one).metrics_label("shop").build()?;
    /// let admin = SessionConfig::<Admin>::builder(two).metrics_label("admin").build()?;
    /// # let _ = (shop, admin);
    /// # Ok::<(), ConfigError>(())
    /// ```
    #[cfg(feature = "metrics")]
    pub fn metrics_label(mut self, store: impl AsRef<str>) -> Self {
        self.metrics_label = Some(store.as_ref().to_owned());
        self
    }

    /// Accepts [`Secret::insecure_dev`], and sessions in memory without a warning.
    pub(super) fn for_development(mut self) -> Self {
        self.is_for_development = true;
        self
    }

    /// Refuses to store sessions in memory unless that is asked for.
    pub(super) fn needs_backend(mut self) -> Self {
        self.needs_backend = true;
        self
    }

    /// Checks all options and builds the configuration. Does not connect to anything.
    ///
    /// # Errors
    ///
    /// The first mistake found.
    pub fn build(mut self) -> Result<SessionConfig<T>, ConfigError> {
        if self.keys.has_insecure() && !self.is_for_development {
            return Err(ConfigError::InsecureSecret);
        }
        self.check_timeouts()?;
        self.check_owner_limit()?;
        self.cookie.check()?;
        let options = std::mem::take(&mut self.cluster);
        let cluster = options.check(self.timeout, self.key_prefix().unwrap_or("session:"))?;
        self.on_outage.check(&cluster)?;
        self.codec.check()?;
        if self.metrics_label.as_ref().is_some_and(|label| label.is_empty() || label.len() > 128) {
            return Err(ConfigError::MetricsLabel);
        }
        let realm = self.realm.take().unwrap_or_else(|| self.default_realm());
        self.keys.set_realm(realm);
        self.warn_of_weak_secrets();
        let backend = self.choose_backend(&cluster)?;
        let resilience = self.resilience_policy()?;
        Ok(SessionConfig {
            keys: self.keys,
            timeout: self.timeout,
            absolute_timeout: self.absolute_timeout,
            touch_after: self.touch_after,
            remember_me: self.remember_me,
            cookie: self.cookie,
            cluster,
            on_outage: self.on_outage,
            codec: self.codec,
            resilience,
            backend,
            clock: self.clock,
            owner: self.owner,
            owner_limit: self.owner_limit,
            on_event: self.on_event,
            metrics_label: self.metrics_label,
        })
    }

    /// Returns what tells this application's cookies and keys in the backend from those of others.
    fn default_realm(&self) -> String {
        match self.key_prefix() {
            Some(prefix) => format!("{}@{prefix}", self.cookie.name),
            None => self.cookie.name.clone(),
        }
    }

    /// Returns the prefix of the keys in Redis, if sessions are stored there.
    fn key_prefix(&self) -> Option<&str> {
        #[cfg(feature = "redis")]
        return self.redis.as_ref().map(|redis| &*redis.key_prefix);
        #[cfg(not(feature = "redis"))]
        return None;
    }

    /// Warns if a secret that can be guessed protects sessions in Redis. In memory, it protects
    /// nothing that outlives a test.
    fn warn_of_weak_secrets(&self) {
        #[cfg(feature = "redis")]
        if self.redis.is_some() && self.keys.has_weak() {
            tracing::warn!(
                "sessions in Redis are protected by a secret that can be guessed: use a random one"
            );
        }
    }
}

impl<T> fmt::Debug for SessionConfigBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionConfigBuilder")
            .field("timeout", &self.timeout)
            .field("cookie", &self.cookie)
            .field("cluster", &self.cluster)
            .field("on_outage", &self.on_outage)
            .field("codec", &self.codec)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
