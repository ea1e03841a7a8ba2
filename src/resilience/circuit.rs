//! The circuit breaker of a store, for calls and operators.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::breaker::{Breaker, CallOutcome, CircuitState, ProbeTicket};
use crate::error::{StoreError, StoreErrorKind};
use crate::observe::{self, Counter, Gauge, Metrics};
use crate::resilience::CircuitBreakerConfig;

/// The circuit breaker of a store, from [`SessionStore::circuit`](crate::SessionStore::circuit).
///
/// The circuit breaker is disabled by default. Then the circuit is always closed.
///
/// ```
/// # use clustered_sessions::{CircuitState, Secret, SessionConfig, SessionStore};
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let secret = Secret::insecure_dev("dev");
/// let config = SessionConfig::<UserSession>::development(secret)
///     .circuit_breaker_enabled(true)
///     .build()?;
/// let store = SessionStore::new(config);
/// assert_eq!(store.circuit().state(), CircuitState::Closed);
/// assert_eq!(store.circuit().openings(), 0);
/// # Ok(()) }
/// ```
pub struct Circuit {
    breaker: Option<Mutex<Breaker>>,
    state: Gauge,
    openings: Counter,
}

impl Circuit {
    pub(super) fn new(config: Option<CircuitBreakerConfig>, metrics: &Metrics) -> Self {
        Circuit {
            breaker: config.map(|config| Mutex::new(Breaker::new(config))),
            state: metrics.gauge(observe::CIRCUIT_STATE),
            openings: Counter::new(metrics, observe::CIRCUIT_OPENINGS),
        }
    }

    /// Returns the current state. A circuit whose reset timeout has passed stays open until the
    /// next call.
    pub fn state(&self) -> CircuitState {
        self.with(|breaker| breaker.state()).unwrap_or(CircuitState::Closed)
    }

    /// Returns the number of times that the circuit has opened since the store was created.
    pub fn openings(&self) -> u64 {
        self.openings.get()
    }

    /// Closes the circuit now, for operators who know that the backend works again.
    pub fn reset(&self) {
        self.with(Breaker::reset);
    }

    /// Returns a permit for one call that begins now, or fails with `CircuitOpen`.
    pub(super) fn admit(&self, now: Instant) -> Result<Permit<'_>, StoreError> {
        match self.with(|breaker| breaker.admit(now)) {
            None => Ok(Permit { circuit: self, ticket: None }),
            Some(Some(ticket)) => Ok(Permit { circuit: self, ticket: Some(ticket) }),
            Some(None) => Err(StoreErrorKind::CircuitOpen.into()),
        }
    }

    /// Records that the backend answered a ping or a subscription, which the circuit does not count
    /// as calls.
    pub(super) fn seen_alive(&self) {
        self.with(|breaker| breaker.seen_alive(Instant::now()));
    }

    /// Runs `step` on the breaker, and logs and exports a change of its state. Returns `None` if
    /// the breaker is disabled.
    fn with<R>(&self, step: impl FnOnce(&mut Breaker) -> R) -> Option<R> {
        let mut breaker = self.breaker.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let before = breaker.state();
        let result = step(&mut breaker);
        let after = breaker.state();
        if before == after {
            return Some(result);
        }
        // Under the lock, so that the metric ends with the last change.
        self.state.set(|| after.in_metrics());
        if after == CircuitState::Open {
            self.openings.add_one();
        }
        drop(breaker);
        let openings = self.openings.get();
        match after {
            CircuitState::Open => {
                tracing::warn!(
                    openings,
                    "the session backend does not answer: the circuit is open, and calls are refused"
                );
            }
            CircuitState::HalfOpen => {
                tracing::info!(
                    openings,
                    "the circuit is half-open: some calls to the session backend are let through"
                );
            }
            CircuitState::Closed => {
                tracing::info!(openings, "the session backend answers: the circuit is closed");
            }
        }
        Some(result)
    }
}

impl CircuitState {
    /// Returns the name for logs and status pages: `closed`, `open` or `half_open`.
    ///
    /// ```
    /// # use clustered_sessions::CircuitState;
    /// assert_eq!(CircuitState::HalfOpen.as_str(), "half_open");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            CircuitState::Closed => "closed",
            CircuitState::HalfOpen => "half_open",
            CircuitState::Open => "open",
        }
    }

    /// Returns the value of the metric: higher is worse.
    fn in_metrics(self) -> f64 {
        match self {
            CircuitState::Closed => 0.0,
            CircuitState::HalfOpen => 1.0,
            CircuitState::Open => 2.0,
        }
    }
}

impl fmt::Debug for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Circuit")
            .field("state", &self.state())
            .field("openings", &self.openings())
            .finish()
    }
}

/// A call under way. If it is dropped before the call has ended, a probe's place becomes free
/// again.
pub(super) struct Permit<'a> {
    circuit: &'a Circuit,
    /// `None` once the call has ended, and if the breaker is disabled.
    ticket: Option<ProbeTicket>,
}

impl Permit<'_> {
    /// Records the end of the call. Any answer of the backend, even a refusal, counts as an answer.
    /// A call that was not made, because too many are in flight, counts as nothing. A server that
    /// refuses changes alone answers.
    pub(super) fn settle<R>(mut self, answer: &Result<R, StoreError>) {
        self.end(match answer {
            Err(error) if error.is_fault() => CallOutcome::Fault,
            Err(error) if error.kind() == StoreErrorKind::Overloaded => CallOutcome::Dropped,
            Ok(_) | Err(_) => CallOutcome::Answer,
        });
    }

    fn end(&mut self, outcome: CallOutcome) {
        if let Some(ticket) = self.ticket.take() {
            self.circuit.with(|breaker| breaker.settle(&ticket, outcome, Instant::now()));
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.end(CallOutcome::Dropped);
    }
}
