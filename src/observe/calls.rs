//! The calls of a backend and the commits of requests, counted and measured by how they end.

use tracing::Span;

use super::outcome::{Operation, Outcome};
use super::recorder::{self, Durations, Metrics, Timer};
use super::{ANNOUNCEMENTS_SENT, BACKEND_CALL_DURATION, BACKEND_CALLS, COMMITS, Counter, Metric};

/// A count for each of some outcomes, the last of which takes all that have none. All are there from the start, so that the first
/// fault is seen as a rise.
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

/// The calls of a store's backend.
#[derive(Debug)]
pub(crate) struct Calls {
    counts: [ByOutcome; Operation::ALL.len()],
    durations: [Durations; Operation::ALL.len()],
    announcements: Counter,
}

impl Calls {
    const OUTCOMES: [Outcome; 13] = [
        Outcome::Ok,
        Outcome::NotFound,
        Outcome::Gone,
        Outcome::Conflict,
        Outcome::Unavailable,
        Outcome::Timeout,
        Outcome::Unknown,
        Outcome::Refused,
        Outcome::CircuitOpen,
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

    /// A call begins.
    pub(crate) fn begin(&self, operation: Operation) -> Call<'_> {
        let span = tracing::trace_span!(
            "session.backend",
            operation = operation.name(),
            outcome = tracing::field::Empty
        );
        Call { calls: self, operation, timer: Timer::start(), span, outcome: Outcome::Cancelled }
    }

    /// A call was not made, since the circuit is open.
    pub(crate) fn refused(&self, operation: Operation) {
        self.counts[operation as usize].count(Outcome::CircuitOpen);
    }
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    calls: &'a Calls,
    operation: Operation,
    timer: Timer,
    span: Span,
    outcome: Outcome,
}

impl Call<'_> {
    pub(crate) fn span(&self) -> Span {
        self.span.clone()
    }

    pub(crate) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.span.record("outcome", self.outcome.name());
        self.calls.durations[self.operation as usize].record(&self.timer);
        self.calls.counts[self.operation as usize].count(self.outcome);
        if self.operation.announces(self.outcome) {
            self.calls.announcements.add_one();
        }
    }
}

/// The commits of a store's requests.
#[derive(Debug)]
pub(crate) struct Commits(ByOutcome);

impl Commits {
    const OUTCOMES: [Outcome; 15] = [
        Outcome::Ok,
        Outcome::Gone,
        Outcome::Conflict,
        Outcome::Unavailable,
        Outcome::Timeout,
        Outcome::Unknown,
        Outcome::Refused,
        Outcome::CircuitOpen,
        Outcome::Corrupt,
        Outcome::Closed,
        Outcome::Encode,
        Outcome::TooLarge,
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
