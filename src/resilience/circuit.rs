//! The circuit breaker of a store, as calls and operators meet it.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::breaker::{Breaker, CallOutcome, CircuitState, ProbeTicket};
use crate::error::{StoreError, StoreErrorKind};
use crate::observe::{self, Counter, Gauge, Metrics};
use crate::resilience::CircuitBreakerConfig;

/// The circuit breaker of a store. Got from [`SessionStore::circuit`](crate::SessionStore::circuit).
///
/// Without a circuit breaker, which is the default, it is closed for ever.
///
/// ```
/// # use clustered_sessions::{CircuitState, Secret, SessionConfig, SessionStore};
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let secret = Secret::insecure_dev("dev");
/// let config = SessionConfig::<UserSession>::development(secret).circuit_breaker_enabled(true).build()?;
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

    /// What is done with calls at this moment. A circuit whose reset timeout has passed stays open until the next call comes.
    pub fn state(&self) -> CircuitState {
        self.with(|breaker| breaker.state()).unwrap_or(CircuitState::Closed)
    }

    /// How often it has opened since the store was made.
    pub fn openings(&self) -> u64 {
        self.openings.get()
    }

    /// Closes it now, for operators who know that the backend is well again.
    pub fn reset(&self) {
        self.with(Breaker::reset);
    }

    /// The leave to make a call.
    pub(super) fn admit(&self) -> Result<Permit<'_>, StoreError> {
        match self.with(|breaker| breaker.admit(Instant::now())) {
            None => Ok(Permit { circuit: self, pass: None }),
            Some(Some(pass)) => Ok(Permit { circuit: self, pass: Some(pass) }),
            Some(None) => Err(StoreErrorKind::CircuitOpen.into()),
        }
    }

    /// The backend has given a sign of life that is no answer to a call.
    pub(super) fn heard(&self) {
        self.with(Breaker::heard);
    }

    /// `None` without a breaker. One log line for each change.
    fn with<R>(&self, step: impl FnOnce(&mut Breaker) -> R) -> Option<R> {
        let mut breaker = self.breaker.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let before = breaker.state();
        let result = step(&mut breaker);
        let after = breaker.state();
        if before == after {
            return Some(result);
        }
        // Under the lock, so that the last change is told last.
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
                tracing::info!(openings, "the circuit is half-open: the session backend is tried");
            }
            CircuitState::Closed => {
                tracing::info!(openings, "the session backend answers: the circuit is closed");
            }
        }
        Some(result)
    }
}

impl CircuitState {
    /// The worse, the higher.
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

/// A call under way. Dropped before it has ended, it gives its place back.
pub(super) struct Permit<'a> {
    circuit: &'a Circuit,
    /// Taken when it is given back; `None` without a breaker.
    pass: Option<ProbeTicket>,
}

impl Permit<'_> {
    /// What the backend itself answers is an answer, though it be a refusal.
    pub(super) fn settle<R>(mut self, answer: &Result<R, StoreError>) {
        let fault = answer.as_ref().is_err_and(|error| error.kind().is_fault());
        self.end(if fault { CallOutcome::Fault } else { CallOutcome::Answer });
    }

    fn end(&mut self, outcome: CallOutcome) {
        if let Some(pass) = self.pass.take() {
            self.circuit.with(|breaker| breaker.settle(&pass, outcome, Instant::now()));
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.end(CallOutcome::Dropped);
    }
}
