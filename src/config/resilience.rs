//! Setters for timeouts, retries and the circuit breaker.

use std::time::Duration;

use super::SessionConfigBuilder;
use crate::error::ConfigError;
use crate::resilience::{CircuitBreakerConfig, ResiliencePolicy, RetryConfig};

impl<T> SessionConfigBuilder<T> {
    /// Sets whether failed calls to the backend are retried. Defaults to `true`, as configured by
    /// [`RetryConfig::new`].
    #[doc(alias = "retry")]
    pub fn enable_retry(mut self, enabled: bool) -> Self {
        self.resilience.retry = enabled.then(|| self.resilience.retry.unwrap_or_default());
        self
    }

    /// Sets how failed calls to the backend are retried, and enables retries. Their base delay must
    /// be shorter than the [`operation_timeout`](Self::operation_timeout).
    pub fn retry(mut self, retry: RetryConfig) -> Self {
        self.resilience.retry = Some(retry);
        self
    }

    /// Sets whether calls are suspended for a while when the backend keeps failing. Defaults to
    /// `false`, and to `true` in the presets for production, as configured by
    /// [`CircuitBreakerConfig::new`].
    #[doc(alias = "circuit_breaker")]
    pub fn circuit_breaker_enabled(mut self, enabled: bool) -> Self {
        self.resilience.breaker = enabled.then(|| self.resilience.breaker.unwrap_or_default());
        self
    }

    /// Sets when and for how long calls to a failing backend are suspended, and enables the circuit
    /// breaker.
    pub fn circuit_breaker(mut self, breaker: CircuitBreakerConfig) -> Self {
        self.resilience.breaker = Some(breaker);
        self
    }

    /// Sets the timeout of one attempt at a backend call, at least 1 ms. Defaults to the sum of the
    /// connect and response timeouts of Redis, 1.5 seconds unless they are changed, and to 1.5
    /// seconds for other backends.
    ///
    /// # Risk
    ///
    /// A write that has timed out may still be carried out.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.resilience.attempt_timeout = Some(timeout);
        self
    }

    /// Sets the timeout of an operation of the store, in total. Defaults to twice the attempt
    /// timeout, 3 seconds in the default Redis configuration, which leaves room for one attempt
    /// that times out and one over a new connection. At least one attempt timeout, at most 1 hour.
    ///
    /// It bounds everything that a request waits for: retries, changes reapplied after a conflict,
    /// another writer, and loads shared with other requests. When it elapses, a read fails with
    /// [`Timeout`](crate::StoreErrorKind::Timeout), and so does a write that has not been sent yet;
    /// a write that has been sent fails with
    /// [`OutcomeUnknown`](crate::StoreErrorKind::OutcomeUnknown). Scans of all sessions have this
    /// time for each step.
    ///
    /// It is unrelated to [`max_staleness`](super::ClusterConfig::max_staleness): a write is
    /// announced when it is carried out, however late that is.
    ///
    /// # Risk
    ///
    /// A request may load and then commit, which are two operations. Allow for both in a server's
    /// request timeout.
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.resilience.operation_timeout = Some(timeout);
        self
    }

    /// Checks and completes the options.
    pub(super) fn resilience_policy(&self) -> Result<ResiliencePolicy, ConfigError> {
        let policy = self.resilience.check(self.attempt_at_backend())?;
        let (base, operation) = (policy.retry.base_delay, policy.operation_timeout);
        if policy.retry.max_attempts > 1 && base >= operation {
            return Err(ConfigError::RetryDelayAboveOperation { base, operation });
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SessionConfig;
    use crate::secret::Secret;

    const SECOND: Duration = Duration::from_secs(1);

    fn builder() -> SessionConfigBuilder<()> {
        SessionConfig::builder(Secret::new("x".repeat(32)).unwrap())
    }

    fn built(builder: SessionConfigBuilder<()>) -> ResiliencePolicy {
        builder.build().unwrap().resilience
    }

    #[test]
    fn retries_are_on_by_default_and_the_breaker_is_off() {
        let default = built(builder());
        assert_eq!((default.retry, default.breaker), (RetryConfig::new(), None));
        assert_eq!(
            (default.attempt_timeout, default.operation_timeout),
            (SECOND * 3 / 2, SECOND * 3)
        );

        assert_eq!(built(builder().enable_retry(false)).retry.max_attempts, 1);
        let twice = RetryConfig::new().max_attempts(2);
        assert_eq!(
            built(builder().retry(twice).enable_retry(true)).retry,
            twice,
            "the configuration is kept"
        );
        assert_eq!(
            built(builder().enable_retry(false).retry(twice)).retry,
            twice,
            "a retry configuration enables retries"
        );

        let breaker = CircuitBreakerConfig::new().failure_threshold(7);
        assert_eq!(
            built(builder().circuit_breaker_enabled(true)).breaker,
            Some(CircuitBreakerConfig::new())
        );
        assert_eq!(built(builder().circuit_breaker(breaker)).breaker, Some(breaker));
        assert_eq!(
            built(builder().circuit_breaker(breaker).circuit_breaker_enabled(false)).breaker,
            None
        );
    }

    #[cfg(feature = "redis")]
    #[test]
    fn the_default_timeouts_leave_redis_its_own_timeouts() {
        use crate::backend::RedisConfig;
        let redis = || {
            RedisConfig::new("localhost", 6379).connect_timeout(SECOND * 2).response_timeout(SECOND)
        };
        let default = built(builder().redis(redis()));
        assert_eq!((default.attempt_timeout, default.operation_timeout), (SECOND * 3, SECOND * 6));
        let expected = ConfigError::AttemptTimeoutBelowRedis { attempt: SECOND, redis: SECOND * 3 };
        assert_eq!(builder().redis(redis()).attempt_timeout(SECOND).build().unwrap_err(), expected);
        assert_eq!(
            builder().build().unwrap().cluster.max_staleness,
            SECOND * 2,
            "the operation timeout may exceed `max_staleness`"
        );
    }

    #[test]
    fn each_mistake_has_its_error() {
        let retry = RetryConfig::new;
        let delay = |base, max| ConfigError::RetryDelay { base, max };
        for (wrong, expected) in [
            (retry().max_attempts(0), ConfigError::RetryAttempts),
            (retry().multiplier(0.9), ConfigError::RetryMultiplier),
            (retry().multiplier(f64::NAN), ConfigError::RetryMultiplier),
            (retry().multiplier(f64::INFINITY), ConfigError::RetryMultiplier),
            (retry().base_delay(Duration::ZERO), delay(Duration::ZERO, SECOND)),
            (retry().base_delay(SECOND * 2), delay(SECOND * 2, SECOND)),
            (retry().max_delay(SECOND * 7200), delay(SECOND / 20, SECOND * 7200)),
        ] {
            assert_eq!(builder().retry(wrong).build().unwrap_err(), expected);
        }
        let breaker = CircuitBreakerConfig::new;
        for (wrong, expected) in [
            (breaker().failure_threshold(0), ConfigError::CircuitBreakerZero),
            (breaker().half_open_probes(0), ConfigError::CircuitBreakerZero),
            (
                breaker().reset_timeout(Duration::ZERO),
                ConfigError::CircuitBreakerReset(Duration::ZERO),
            ),
            (
                breaker().reset_timeout(Duration::MAX),
                ConfigError::CircuitBreakerReset(Duration::MAX),
            ),
        ] {
            assert_eq!(builder().circuit_breaker(wrong).build().unwrap_err(), expected);
        }
        assert_eq!(
            builder().attempt_timeout(Duration::ZERO).build().unwrap_err(),
            ConfigError::AttemptTimeoutZero
        );
        let too_short = builder().attempt_timeout(SECOND).operation_timeout(SECOND / 2).build();
        let expected = ConfigError::OperationTimeout { operation: SECOND / 2, attempt: SECOND };
        assert_eq!(too_short.unwrap_err(), expected);
        let paused = |max_attempts, base| {
            let retry = retry().max_attempts(max_attempts).base_delay(base).max_delay(SECOND * 9);
            builder().retry(retry).build()
        };
        let (base, operation) = (SECOND * 3, SECOND * 3);
        let expected = ConfigError::RetryDelayAboveOperation { base, operation };
        assert_eq!(paused(2, base).unwrap_err(), expected);
        assert!(paused(1, base).is_ok(), "there is no pause");
        assert!(paused(2, SECOND * 2).is_ok());
        for (attempt, operation) in [(SECOND, Duration::MAX), (Duration::MAX, Duration::MAX)] {
            let too_long = builder().attempt_timeout(attempt).operation_timeout(operation).build();
            assert_eq!(too_long.unwrap_err(), ConfigError::OperationTimeout { operation, attempt });
        }
    }
}
