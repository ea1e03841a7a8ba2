//! Instruments that tell the recorder of the crate `metrics`: the one that was installed when they were made.

use std::sync::Arc;

pub(super) use metrics::Counter;
use metrics::{Histogram, Key, Label, Level, Metadata, with_recorder};
use tokio::time::Instant;

use super::{Metric, Unit};

const METADATA: Metadata<'static> = Metadata::new("clustered_sessions", Level::INFO, None);

/// Makes the instruments of one store.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    store: Option<Arc<str>>,
}

impl Metrics {
    /// All metrics get the label `store` with this value, if there is one.
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

/// Something that goes up and down.
#[derive(Debug)]
pub(crate) struct Gauge(metrics::Gauge);

impl Gauge {
    pub(crate) fn set(&self, value: impl FnOnce() -> f64) {
        self.0.set(value());
    }
}

/// How long something takes.
#[derive(Debug)]
pub(super) struct Durations(Histogram);

impl Durations {
    pub(super) fn record(&self, since: &Timer) {
        self.0.record(since.0.elapsed());
    }
}

/// A moment.
#[derive(Debug)]
pub(super) struct Timer(Instant);

impl Timer {
    pub(super) fn start() -> Self {
        Timer(Instant::now())
    }
}
