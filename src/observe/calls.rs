//! Counts and durations of backend calls and of commits, by outcome.

use tokio::time::Instant;
use tracing::Span;

use super::outcome::{Operation, Outcome};
use super::recorder::{self, Durations, Metrics, Timer};
use super::{ANNOUNCEMENTS_SENT, BACKEND_CALL_DURATION, BACKEND_CALLS, COMMITS, Counter, Metric};

/// A counter for each of some outcomes. The last one also counts all outcomes that have none.
///
/// All counters exist from the start, so that a monitoring system sees the first fault as a rise
/// and not as a new series.
#[derive(Debug)]
struct ByOutcome(Vec<(Outcome, recorder::Counter)>);

impl ByOutcome {
    fn new(
        metrics: &Metrics,
        metric: Metric,
        label: Option<(&'static str, &'static str)>,
        outcomes: &[Outcome],
    ) -> Self {
        let counter = |&outcome: &Outcome| {
            let labels: Vec<_> = label.into_iter().chain([("outcome", outcome.name())]).collect();
            (outcome, metrics.counter(metric, &labels))
        };
        ByOutcome(outcomes.iter().map(counter).collect())
    }

    fn count(&self, outcome: Outcome) {
        let own = self.0.iter().find(|(counted, _)| *counted == outcome);
        if let Some((_, counter)) = own.or(self.0.last()) {
            counter.increment(1);
        }
    }
}

/// The instruments for the backend calls of one store.
#[derive(Debug)]
pub(crate) struct Calls {
    /// Indexed by operation, as `durations` is.
    counts: [ByOutcome; Operation::ALL.len()],
    durations: [Durations; Operation::ALL.len()],
    /// Announcements that the backend has acknowledged.
    announcements: Counter,
}

impl Calls {
    /// The outcomes that a backend call can have.
    const OUTCOMES: [Outcome; 14] = [
        Outcome::Ok,
        Outcome::NotFound,
        Outcome::Gone,
        Outcome::Conflict,
        Outcome::Unavailable,
        Outcome::Timeout,
        Outcome::Unknown,
        Outcome::Refused,
        Outcome::CircuitOpen,
        Outcome::Overloaded,
        Outcome::Corrupt,
        Outcome::Closed,
        Outcome::Cancelled,
        Outcome::Other,
    ];

    pub(crate) fn new(metrics: &Metrics) -> Self {
        let label = |operation: Operation| ("operation", operation.name());
        Calls {
            counts: Operation::ALL.map(|operation| {
                ByOutcome::new(metrics, BACKEND_CALLS, Some(label(operation)), &Self::OUTCOMES)
            }),
            durations: Operation::ALL
                .map(|operation| metrics.durations(BACKEND_CALL_DURATION, label(operation))),
            announcements: Counter::new(metrics, ANNOUNCEMENTS_SENT),
        }
    }

    /// Begins to measure a call that begins now.
    pub(crate) fn begin(&self, operation: Operation, now: Instant) -> Call<'_> {
        let span = tracing::trace_span!(
            "session.backend",
            operation = operation.name(),
            outcome = tracing::field::Empty
        );
        Call {
            calls: self,
            operation,
            timer: Timer::started(now),
            span,
            outcome: Outcome::Cancelled,
        }
    }

    /// Counts a call that was not made because the circuit is open.
    pub(crate) fn refused(&self, operation: Operation) {
        self.counts[operation as usize].count(Outcome::CircuitOpen);
    }
}

/// A call in progress. It is recorded when it is dropped; if that happens before
/// [`end`](Call::end), its outcome is `Cancelled`.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    calls: &'a Calls,
    operation: Operation,
    timer: Timer,
    span: Span,
    outcome: Outcome,
}

impl Call<'_> {
    /// Returns the span in which the call is to run.
    pub(crate) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Ends the call with an outcome.
    pub(crate) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.span.record("outcome", self.outcome.name());
        // A read above the limit is not sent, so it has no duration.
        if self.outcome != Outcome::Overloaded {
            self.calls.durations[self.operation as usize].record(&self.timer);
        }
        self.calls.counts[self.operation as usize].count(self.outcome);
        if self.operation.announces(self.outcome) {
            self.calls.announcements.add_one();
        }
    }
}

/// The counters for the commits of one store's requests.
#[derive(Debug)]
pub(crate) struct Commits(ByOutcome);

impl Commits {
    /// The outcomes that a commit can have.
    const OUTCOMES: [Outcome; 17] = [
        Outcome::Ok,
        Outcome::Gone,
        Outcome::Conflict,
        Outcome::Unavailable,
        Outcome::Timeout,
        Outcome::Unknown,
        Outcome::Refused,
        Outcome::CircuitOpen,
        Outcome::Overloaded,
        Outcome::Corrupt,
        Outcome::Closed,
        Outcome::Encode,
        Outcome::TooLarge,
        Outcome::LimitReached,
        Outcome::HeadSent,
        Outcome::ReadOnly,
        Outcome::Other,
    ];

    pub(crate) fn new(metrics: &Metrics) -> Self {
        Commits(ByOutcome::new(metrics, COMMITS, None, &Self::OUTCOMES))
    }

    pub(crate) fn count(&self, outcome: Outcome) {
        self.0.count(outcome);
    }
}
