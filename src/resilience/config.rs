//! How long to wait for a backend, how often to ask it again, and when to stop asking.

use std::time::Duration;

use crate::error::ConfigError;

/// The longest of all timeouts here.
const LONGEST: Duration = Duration::from_secs(3600);
/// How long an attempt may take, where the backend does not say.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1500);

/// How often, and after what pauses, a call is repeated that the backend did not answer.
///
/// Only what can be repeated is: the README's section "Resilience" has the table. The pause after an attempt is drawn from the upper
/// half of the time that the exponential back-off gives, so that nodes which failed together do not come back together
/// (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015; "equal jitter").
///
/// ```
/// use std::time::Duration;
/// use clustered_sessions::{RetryConfig, Secret, SessionConfig};
///
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
/// let config = SessionConfig::<UserSession>::builder(Secret::new("at least thirty-two bytes of secret")?)
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
    /// Up to 3 attempts, with pauses of 50 ms, twice as long each time, and never above 1 second.
    pub fn new() -> Self {
        RetryConfig {
            max_attempts: 3,
            base_delay: Duration::from_millis(50),
            multiplier: 2.0,
            max_delay: Duration::from_secs(1),
        }
    }

    /// How often a call is made in all, the first time included; default 3, at least 1, which is never again.
    ///
    /// # Risk
    ///
    /// Each attempt is load for a backend that may have too much of it already. With more than a few, turn the circuit breaker on.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// The longest pause after the first attempt; default 50 ms, at least 1 ms.
    pub fn base_delay(mut self, delay: Duration) -> Self {
        self.base_delay = delay;
        self
    }

    /// By how much the pause grows from one attempt to the next; default 2, at least 1.
    pub fn multiplier(mut self, multiplier: f64) -> Self {
        self.multiplier = multiplier;
        self
    }

    /// What no pause exceeds; default 1 second, at least the base delay.
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// Each call is made once.
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

/// When to stop asking a backend that fails, and when to try it again (Nygard, "Release It!", 2nd edition, "Circuit Breaker").
///
/// While the circuit is open, what needs the backend fails at once with
/// [`CircuitOpen`](crate::StoreErrorKind::CircuitOpen) instead of waiting for timeouts, a logout too; what is in the cache and may
/// be used is answered.
///
/// What counts is only that the backend did not answer: [`Unavailable`](crate::StoreErrorKind::Unavailable),
/// [`Timeout`](crate::StoreErrorKind::Timeout) and [`OutcomeUnknown`](crate::StoreErrorKind::OutcomeUnknown). *Not found*, a
/// conflict, a record that cannot be read and a refusal (a wrong password, a full server) are answers. Calls that were under
/// way together count as one, since a connection that breaks takes all of them with it.
///
/// ```
/// use std::time::Duration;
/// use clustered_sessions::{CircuitBreakerConfig, Secret, SessionConfig};
///
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
/// let config = SessionConfig::<UserSession>::builder(Secret::new("at least thirty-two bytes of secret")?)
///     .circuit_breaker(CircuitBreakerConfig::new().failure_threshold(10).reset_timeout(Duration::from_secs(2)))
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
    /// Opens at 5 failures in a row, tries again after 5 seconds, and closes when 3 calls were answered.
    pub fn new() -> Self {
        CircuitBreakerConfig {
            failure_threshold: 5,
            reset_timeout: Duration::from_secs(5),
            half_open_probes: 3,
        }
    }

    /// How many failures in a row, one after the other and with no answer in between, open the circuit; default 5, at least 1.
    ///
    /// # Risk
    ///
    /// A low one opens it at every hiccup, a high one waits for that many timeouts, one after the other.
    pub fn failure_threshold(mut self, failures: u32) -> Self {
        self.failure_threshold = failures;
        self
    }

    /// How long calls are refused before the backend is tried again; default 5 seconds, 1 ms to 1 hour.
    ///
    /// A node that listens tries it sooner: as soon as it hears the others again.
    pub fn reset_timeout(mut self, timeout: Duration) -> Self {
        self.reset_timeout = timeout;
        self
    }

    /// How many calls are made to try the backend, while others are refused; default 3, at least 1. The circuit closes when all of
    /// them were answered, and opens again when one fails.
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

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResilienceOptions {
    pub(crate) retry: Option<RetryConfig>,
    pub(crate) breaker: Option<CircuitBreakerConfig>,
    pub(crate) attempt_timeout: Option<Duration>,
    pub(crate) operation_timeout: Option<Duration>,
}

/// What is to be done.
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

    /// `backend` is how long the backend itself may take for an attempt, if it says so.
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
