//! How long to wait for a backend, how often to ask it again, and when to stop asking.

use std::time::Duration;

use super::SessionConfigBuilder;
use crate::resilience::{CircuitBreakerConfig, RetryConfig};

impl<T> SessionConfigBuilder<T> {
    /// Whether calls that the backend did not answer are repeated; default `true`, as [`RetryConfig::new`] says.
    pub fn enable_retry(mut self, enabled: bool) -> Self {
        self.resilience.retry = enabled.then(|| self.resilience.retry.unwrap_or_default());
        self
    }

    /// How calls are repeated that the backend did not answer. Turns it on.
    pub fn retry(mut self, retry: RetryConfig) -> Self {
        self.resilience.retry = Some(retry);
        self
    }

    /// Whether a backend that goes on failing is left alone for a while; default `false`, and `true` in the presets for
    /// production. As [`CircuitBreakerConfig::new`] says.
    pub fn circuit_breaker_enabled(mut self, enabled: bool) -> Self {
        self.resilience.breaker = enabled.then(|| self.resilience.breaker.unwrap_or_default());
        self
    }

    /// When a backend that goes on failing is left alone, and for how long. Turns it on.
    pub fn circuit_breaker(mut self, breaker: CircuitBreakerConfig) -> Self {
        self.resilience.breaker = Some(breaker);
        self
    }

    /// How long one attempt at a call to the backend may take, at least 1 ms; default, for Redis, its connect and response timeouts
    /// together, which by default are 1.5 seconds, and 1.5 seconds for other backends.
    ///
    /// # Risk
    ///
    /// A write that is given up may still be carried out.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.resilience.attempt_timeout = Some(timeout);
        self
    }

    /// How long an operation of the store may take in all; default twice the attempt timeout, which for the default Redis
    /// configuration is 3 seconds: one attempt that fails in the worst way, and one that finds the way anew. At least one attempt,
    /// at most 1 hour.
    ///
    /// It bounds everything that a request waits for: repetitions, changes made again after a conflict, waiting for another
    /// writer, loads shared with other requests. When it is up, a read ends with [`Timeout`](crate::StoreErrorKind::Timeout), and so
    /// does a write that was not under way; one that was ends with [`OutcomeUnknown`](crate::StoreErrorKind::OutcomeUnknown). Walks
    /// over all sessions have so much time for each step.
    ///
    /// It has nothing to do with [`max_staleness`](super::ClusterConfig::max_staleness): a write is announced when it is carried
    /// out, however late that is.
    ///
    /// # Risk
    ///
    /// A request may load and then commit, which are two operations: a server that cuts requests off should allow for both.
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.resilience.operation_timeout = Some(timeout);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SessionConfig;
    use crate::error::ConfigError;
    use crate::resilience::ResiliencePolicy;
    use crate::secret::Secret;

    const SECOND: Duration = Duration::from_secs(1);

    fn builder() -> SessionConfigBuilder<()> {
        SessionConfig::builder(Secret::new("x".repeat(32)).unwrap())
    }

    fn built(builder: SessionConfigBuilder<()>) -> ResiliencePolicy {
        builder.build().unwrap().resilience
    }

    #[test]
    fn calls_are_repeated_by_default_and_the_breaker_must_be_asked_for() {
        let default = built(builder());
        assert_eq!((default.retry, default.breaker), (RetryConfig::new(), None));
        assert_eq!(
            (default.attempt_timeout, default.operation_timeout),
            (SECOND * 3 / 2, SECOND * 3)
        );

        assert_eq!(built(builder().enable_retry(false)).retry.max_attempts, 1);
        let twice = RetryConfig::new().max_attempts(2);
        assert_eq!(built(builder().retry(twice).enable_retry(true)).retry, twice, "it is kept");
        assert_eq!(
            built(builder().enable_retry(false).retry(twice)).retry,
            twice,
            "it is turned on"
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
    fn an_attempt_has_as_much_time_as_redis_may_take() {
        use crate::backend::RedisConfig;
        use crate::cluster::ClusterConfig;
        let redis = || {
            RedisConfig::new("localhost", 6379).connect_timeout(SECOND * 2).response_timeout(SECOND)
        };
        let default = built(builder().redis(redis()));
        assert_eq!((default.attempt_timeout, default.operation_timeout), (SECOND * 3, SECOND * 6));
        let expected = ConfigError::AttemptTimeoutBelowRedis { attempt: SECOND, redis: SECOND * 3 };
        assert_eq!(builder().redis(redis()).attempt_timeout(SECOND).build().unwrap_err(), expected);
        assert_eq!(
            ClusterConfig::new().max_staleness,
            SECOND * 2,
            "an operation may take longer than that"
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
        for (attempt, operation) in [(SECOND, Duration::MAX), (Duration::MAX, Duration::MAX)] {
            let too_long = builder().attempt_timeout(attempt).operation_timeout(operation).build();
            assert_eq!(too_long.unwrap_err(), ConfigError::OperationTimeout { operation, attempt });
        }
    }
}
