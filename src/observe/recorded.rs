//! Instruments that report to a recorder of the crate `metrics`: the one that is installed when
//! they are created.

use std::sync::Arc;

pub(super) use metrics::Counter;
use metrics::{Histogram, Key, Label, Level, Metadata, with_recorder};
use tokio::time::Instant;

use super::{Metric, Unit};

/// Nothing that a recorder could filter by differs between our metrics.
const METADATA: Metadata<'static> = Metadata::new("clustered_sessions", Level::INFO, None);

/// Creates the instruments of one store.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// The value of the label `store`.
    store: Option<Arc<str>>,
}

impl Metrics {
    /// Creates the instruments with a label `store` of this value, or without such a label.
    pub(crate) fn new(store: Option<&str>) -> Self {
        Metrics { store: store.map(Arc::from) }
    }

    pub(super) fn counter(
        &self,
        metric: Metric,
        labels: &[(&'static str, &'static str)],
    ) -> Counter {
        with_recorder(|recorder| {
            recorder.describe_counter(
                metric.name.into(),
                Some(metric.unit.into()),
                metric.about.into(),
            );
            recorder.register_counter(&self.key(metric, labels), &METADATA)
        })
    }

    pub(crate) fn gauge(&self, metric: Metric) -> Gauge {
        Gauge(with_recorder(|recorder| {
            recorder.describe_gauge(
                metric.name.into(),
                Some(metric.unit.into()),
                metric.about.into(),
            );
            recorder.register_gauge(&self.key(metric, &[]), &METADATA)
        }))
    }

    pub(super) fn durations(
        &self,
        metric: Metric,
        label: (&'static str, &'static str),
    ) -> Durations {
        Durations(with_recorder(|recorder| {
            recorder.describe_histogram(
                metric.name.into(),
                Some(metric.unit.into()),
                metric.about.into(),
            );
            recorder.register_histogram(&self.key(metric, &[label]), &METADATA)
        }))
    }

    /// Returns the name of a series: the metric with its labels.
    fn key(&self, metric: Metric, labels: &[(&'static str, &'static str)]) -> Key {
        let store = self.store.iter().map(|store| Label::new("store", store.clone()));
        let others = labels.iter().map(|&(name, value)| Label::from_static_parts(name, value));
        Key::from_parts(metric.name, others.chain(store).collect::<Vec<_>>())
    }
}

impl From<Unit> for metrics::Unit {
    fn from(unit: Unit) -> Self {
        match unit {
            Unit::Count => metrics::Unit::Count,
            Unit::Seconds => metrics::Unit::Seconds,
        }
    }
}

/// A value that goes up and down.
#[derive(Debug)]
pub(crate) struct Gauge(metrics::Gauge);

impl Gauge {
    /// Sets the value. It is computed only if the feature `metrics` is on.
    pub(crate) fn set(&self, value: impl FnOnce() -> f64) {
        self.0.set(value());
    }
}

/// A histogram of durations.
#[derive(Debug)]
pub(super) struct Durations(Histogram);

impl Durations {
    /// Records the time since the timer was started.
    pub(super) fn record(&self, since: &Timer) {
        self.0.record(since.0.elapsed());
    }
}

/// A started timer. It follows tokio's clock, so that tests can pause it.
#[derive(Debug)]
pub(super) struct Timer(Instant);

impl Timer {
    pub(super) fn started(at: Instant) -> Self {
        Timer(at)
    }
}
