//! The state machine of the circuit breaker. Pure: time comes from outside.
//!
//! | state | calls | end of the state |
//! |---|---|---|
//! | closed | are made | `failure_threshold` faults in a row, or most calls of some seconds: open |
//! | open | are refused | `reset_timeout` has passed, or a ping or subscription succeeded: half-open |
//! | half-open | `half_open_probes` are made, the others are refused | all of them are answered: closed; one fails: open |
//!
//! A probe that has not ended after `reset_timeout` loses its place to another call.
//!
//! Calls that fail together count as one fault. When a connection breaks, all calls under way fail,
//! which says no more about the server than one failure does. So a fault counts only if its call
//! began after the last fault that counted. The share of failed calls is taken by time for the same
//! reason: see `recent.rs`.

use tokio::time::Instant;

use super::recent::RecentCalls;
use crate::resilience::CircuitBreakerConfig;

/// The state of a circuit breaker. The names are those of Nygard, "Release It!".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CircuitState {
    /// Calls are made.
    Closed,
    /// Calls are refused until the reset timeout has passed.
    Open,
    /// Some calls are made to find out if the backend works.
    HalfOpen,
}

/// The circuit breaker.
#[derive(Debug)]
pub(super) struct Breaker {
    config: CircuitBreakerConfig,
    state: BreakerState,
    /// Incremented by each change of the state and each fault that counts, to recognize calls that
    /// began before.
    round: u64,
}

#[derive(Debug)]
enum BreakerState {
    /// `recent` begins with the first call.
    Closed {
        faults: u32,
        recent: Option<RecentCalls>,
    },
    Open {
        until: Instant,
    },
    HalfOpen {
        under_way: u32,
        answered: u32,
        /// When the last probe began.
        probed_at: Instant,
    },
}

impl BreakerState {
    fn closed() -> Self {
        BreakerState::Closed { faults: 0, recent: None }
    }
}

/// A permission to make one call.
#[derive(Debug)]
pub(super) struct ProbeTicket {
    round: u64,
}

/// The end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallOutcome {
    /// The backend answered, perhaps with a refusal.
    Answer,
    /// The backend did not answer.
    Fault,
    /// The caller gave up before the call ended.
    Dropped,
}

impl Breaker {
    pub(super) fn new(config: CircuitBreakerConfig) -> Self {
        Breaker { config, state: BreakerState::closed(), round: 0 }
    }

    pub(super) fn state(&self) -> CircuitState {
        match self.state {
            BreakerState::Closed { .. } => CircuitState::Closed,
            BreakerState::Open { .. } => CircuitState::Open,
            BreakerState::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }

    /// Returns a ticket if a call may be made. Each ticket must be [`settle`](Breaker::settle)d.
    pub(super) fn admit(&mut self, now: Instant) -> Option<ProbeTicket> {
        match self.state {
            BreakerState::Open { until } if until <= now => self.seen_alive(now),
            // The future of a probe may be neither polled nor dropped, and would keep its place.
            BreakerState::HalfOpen { answered, probed_at, .. }
                if probed_at + self.config.reset_timeout <= now =>
            {
                self.enter(BreakerState::HalfOpen { under_way: 0, answered, probed_at });
            }
            _ => {}
        }
        match &mut self.state {
            BreakerState::Closed { .. } => {}
            BreakerState::HalfOpen { under_way, answered, probed_at }
                if *under_way + *answered < self.config.half_open_probes =>
            {
                *under_way += 1;
                *probed_at = now;
            }
            BreakerState::Open { .. } | BreakerState::HalfOpen { .. } => return None,
        }
        Some(ProbeTicket { round: self.round })
    }

    /// Records the end of a call.
    pub(super) fn settle(&mut self, ticket: &ProbeTicket, outcome: CallOutcome, now: Instant) {
        let counts = ticket.round == self.round;
        match (&mut self.state, outcome) {
            (BreakerState::Closed { faults, recent }, CallOutcome::Answer) => {
                *faults = 0;
                recent.get_or_insert_with(|| RecentCalls::new(now)).record(false, now);
            }
            (BreakerState::Closed { faults, recent }, CallOutcome::Fault) => {
                let recent = recent.get_or_insert_with(|| RecentCalls::new(now));
                recent.record(true, now);
                if counts {
                    *faults += 1;
                    self.round += 1;
                }
                if *faults >= self.config.failure_threshold || recent.mostly_failed() {
                    self.open(now);
                }
            }
            (BreakerState::HalfOpen { .. }, CallOutcome::Fault) if counts => self.open(now),
            (BreakerState::HalfOpen { under_way, .. }, CallOutcome::Dropped) if counts => {
                *under_way -= 1;
            }
            (BreakerState::HalfOpen { under_way, answered, .. }, CallOutcome::Answer) if counts => {
                *under_way -= 1;
                *answered += 1;
                if *answered >= self.config.half_open_probes {
                    self.reset();
                }
            }
            _ => {}
        }
    }

    /// Half-opens an open circuit, because its time has passed or the backend answered a ping or a
    /// subscription.
    pub(super) fn seen_alive(&mut self, now: Instant) {
        if matches!(self.state, BreakerState::Open { .. }) {
            self.enter(BreakerState::HalfOpen { under_way: 0, answered: 0, probed_at: now });
        }
    }

    /// Closes the circuit from any state.
    pub(super) fn reset(&mut self) {
        self.enter(BreakerState::closed());
    }

    fn open(&mut self, now: Instant) {
        self.enter(BreakerState::Open { until: now + self.config.reset_timeout });
    }

    fn enter(&mut self, state: BreakerState) {
        self.state = state;
        self.round += 1;
    }
}

#[cfg(test)]
mod tests;
