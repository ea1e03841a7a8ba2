//! Instruments that do nothing, which replace those in `recorded.rs` if the feature `metrics` is
//! off.

use tokio::time::Instant;

use super::Metric;

#[derive(Clone, Debug)]
pub(crate) struct Metrics;

impl Metrics {
    pub(crate) fn new(_: Option<&str>) -> Self {
        Metrics
    }

    pub(super) fn counter(&self, _: Metric, _: &[(&'static str, &'static str)]) -> Counter {
        Counter
    }

    pub(crate) fn gauge(&self, _: Metric) -> Gauge {
        Gauge
    }

    pub(super) fn durations(&self, _: Metric, _: (&'static str, &'static str)) -> Durations {
        Durations
    }
}

#[derive(Debug)]
pub(super) struct Counter;

impl Counter {
    pub(super) fn increment(&self, _: u64) {}
}

#[derive(Debug)]
pub(crate) struct Gauge;

impl Gauge {
    pub(crate) fn set(&self, _: impl FnOnce() -> f64) {}
}

#[derive(Debug)]
pub(super) struct Durations;

impl Durations {
    pub(super) fn record(&self, _: &Timer) {}
}

#[derive(Debug)]
pub(super) struct Timer;

impl Timer {
    pub(super) fn started(_: Instant) -> Self {
        Timer
    }
}
