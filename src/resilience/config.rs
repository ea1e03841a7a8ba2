//! Options for timeouts, retries and the circuit breaker.

use std::time::Duration;

use crate::error::ConfigError;

/// Upper bound of all timeouts and delays.
const LONGEST: Duration = Duration::from_secs(3600);
/// The time limit of an attempt if neither the application nor the backend sets one.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1500);

/// The number of attempts at a call that the backend did not answer, and the pauses between them.
///
/// Only calls that are safe to retry are retried. The pause after an attempt is a random time from
/// the upper half of the exponential backoff, so that nodes which failed together do not retry
/// together (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015; "equal
/// jitter").
///
/// ```
/// use std::time::Duration;
/// use clustered_sessions::{RetryConfig, Secret, SessionConfig};
///
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
/// let secret = Secret::new("at least thirty-two bytes of secret")?;
/// let config = SessionConfig::<UserSession>::builder(secret)
///     .retry(RetryConfig::new().max_attempts(4).base_delay(Duration::from_millis(20)))
///     .build()?;
/// # let _ = config;
/// # Ok::<(), clustered_sessions::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct RetryConfig {
    pub(crate) max_attempts: u32,
    pub(crate) base_delay: Duration,
    pub(crate) multiplier: f64,
    pub(crate) max_delay: Duration,
}

impl RetryConfig {
    /// Creates the default: up to 3 attempts, with a first pause of 50 ms that doubles each time up
    /// to 1 second.
    pub fn new() -> Self {
        RetryConfig {
            max_attempts: 3,
            base_delay: Duration::from_millis(50),
            multiplier: 2.0,
            max_delay: Duration::from_secs(1),
        }
    }

    /// Sets the maximum number of attempts, including the first. Defaults to 3; 1 disables retries.
    ///
    /// # Risk
    ///
    /// Each attempt adds load to a backend that may be overloaded already. With more than a few,
    /// enable the circuit breaker.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets the longest pause after the first attempt. Defaults to 50 ms; at least 1 ms.
    pub fn base_delay(mut self, delay: Duration) -> Self {
        self.base_delay = delay;
        self
    }

    /// Sets the factor by which the pause grows from one attempt to the next. Defaults to 2; at
    /// least 1.
    pub fn multiplier(mut self, multiplier: f64) -> Self {
        self.multiplier = multiplier;
        self
    }

    /// Sets the upper bound of all pauses. Defaults to 1 second; at least the base delay, at most 1
    /// hour.
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// Returns a policy without retries.
    const fn once() -> Self {
        RetryConfig {
            max_attempts: 1,
            base_delay: Duration::from_millis(1),
            multiplier: 1.0,
            max_delay: Duration::from_millis(1),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.max_attempts == 0 {
            return Err(ConfigError::RetryAttempts);
        }
        if !(self.multiplier.is_finite() && self.multiplier >= 1.0) {
            return Err(ConfigError::RetryMultiplier);
        }
        let (base, max) = (self.base_delay, self.max_delay);
        if base.as_millis() == 0 || base > max || max > LONGEST {
            return Err(ConfigError::RetryDelay { base, max });
        }
        Ok(())
    }
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// The thresholds of the circuit breaker, which stops calling a backend that fails (Nygard,
/// "Release It!", 2nd edition, "Circuit Breaker").
///
/// While the circuit is open, all operations that need the backend, logouts included, fail at once
/// with [`CircuitOpen`](crate::StoreErrorKind::CircuitOpen) instead of waiting for timeouts. Reads
/// that the cache can answer still succeed.
///
/// The circuit opens after [`failure_threshold`](Self::failure_threshold) failures in a row. It
/// also opens when at least half of the calls fail for at least two of five seconds, as they do at
/// a backend that is overloaded.
///
/// Only missing answers count as failures: [`Unavailable`](crate::StoreErrorKind::Unavailable),
/// [`Timeout`](crate::StoreErrorKind::Timeout) and
/// [`OutcomeUnknown`](crate::StoreErrorKind::OutcomeUnknown). *Not found*, a conflict, an
/// unreadable record and a refusal (a wrong password, a full server) are answers. Calls that fail
/// together count as one, since a broken connection fails all calls under way.
///
/// ```
/// use std::time::Duration;
/// use clustered_sessions::{CircuitBreakerConfig, Secret, SessionConfig};
///
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
/// let secret = Secret::new("at least thirty-two bytes of secret")?;
/// let config = SessionConfig::<UserSession>::builder(secret)
///     .circuit_breaker(
///         CircuitBreakerConfig::new()
///             .failure_threshold(10)
///             .reset_timeout(Duration::from_secs(2)),
///     )
///     .build()?;
/// # let _ = config;
/// # Ok::<(), clustered_sessions::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct CircuitBreakerConfig {
    pub(crate) failure_threshold: u32,
    pub(crate) reset_timeout: Duration,
    pub(crate) half_open_probes: u32,
}

impl CircuitBreakerConfig {
    /// Creates the default: opens after 5 failures in a row, is half-open after 5 seconds, and
    /// closes after 3 answered probes.
    pub fn new() -> Self {
        CircuitBreakerConfig {
            failure_threshold: 5,
            reset_timeout: Duration::from_secs(5),
            half_open_probes: 3,
        }
    }

    /// Sets the number of failures in a row, without an answer in between, that open the circuit.
    /// Defaults to 5; at least 1.
    ///
    /// # Risk
    ///
    /// With a low threshold, short disturbances open the circuit. With a high one, that many
    /// timeouts must pass one after the other.
    pub fn failure_threshold(mut self, failures: u32) -> Self {
        self.failure_threshold = failures;
        self
    }

    /// Sets the time for which an open circuit refuses calls. Defaults to 5 seconds; 1 ms to 1
    /// hour.
    ///
    /// On a node with a listener, the circuit becomes half-open sooner: as soon as the listener has
    /// subscribed again.
    pub fn reset_timeout(mut self, timeout: Duration) -> Self {
        self.reset_timeout = timeout;
        self
    }

    /// Sets the number of calls that a half-open circuit lets through. Defaults to 3; at least 1.
    ///
    /// The circuit closes when all of them are answered, and opens again when one fails.
    pub fn half_open_probes(mut self, calls: u32) -> Self {
        self.half_open_probes = calls;
        self
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.failure_threshold == 0 || self.half_open_probes == 0 {
            return Err(ConfigError::CircuitBreakerZero);
        }
        if self.reset_timeout.as_millis() == 0 || self.reset_timeout > LONGEST {
            return Err(ConfigError::CircuitBreakerReset(self.reset_timeout));
        }
        Ok(())
    }
}

impl Default for CircuitBreakerConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// The application's choices, before they are checked and completed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResilienceOptions {
    pub(crate) retry: Option<RetryConfig>,
    pub(crate) breaker: Option<CircuitBreakerConfig>,
    pub(crate) attempt_timeout: Option<Duration>,
    pub(crate) operation_timeout: Option<Duration>,
}

/// The checked and complete settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ResiliencePolicy {
    pub(crate) retry: RetryConfig,
    pub(crate) breaker: Option<CircuitBreakerConfig>,
    pub(crate) attempt_timeout: Duration,
    pub(crate) operation_timeout: Duration,
}

impl ResilienceOptions {
    pub(crate) fn new() -> Self {
        ResilienceOptions {
            retry: Some(RetryConfig::new()),
            breaker: None,
            attempt_timeout: None,
            operation_timeout: None,
        }
    }

    /// Checks and completes the options. `backend` is the backend's own time limit for an attempt,
    /// if it has one.
    pub(crate) fn check(&self, backend: Option<Duration>) -> Result<ResiliencePolicy, ConfigError> {
        let retry = self.retry.unwrap_or(RetryConfig::once());
        retry.check()?;
        if let Some(breaker) = &self.breaker {
            breaker.check()?;
        }
        let attempt = self.attempt_timeout.or(backend).unwrap_or(ATTEMPT_TIMEOUT);
        if attempt.as_millis() == 0 {
            return Err(ConfigError::AttemptTimeoutZero);
        }
        if let Some(redis) = backend.filter(|redis| attempt < *redis) {
            return Err(ConfigError::AttemptTimeoutBelowRedis { attempt, redis });
        }
        let operation = self.operation_timeout.unwrap_or(attempt.saturating_mul(2));
        if operation < attempt || operation > LONGEST {
            return Err(ConfigError::OperationTimeout { operation, attempt });
        }
        Ok(ResiliencePolicy {
            retry,
            breaker: self.breaker,
            attempt_timeout: attempt,
            operation_timeout: operation,
        })
    }
}
