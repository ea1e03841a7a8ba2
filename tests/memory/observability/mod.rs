//! Metrics, spans and log lines. Each metric changes with the event that it counts, the documents
//! agree with the code, and no output contains secrets.

mod backend;
mod cache;
mod cluster;
mod commits;
mod cookies;
mod documents;
#[cfg(feature = "redis")]
mod on_redis;
mod secrets;
mod spans;
mod watches;

use std::collections::BTreeMap;
use std::time::Duration;

use clustered_sessions::{SessionConfigBuilder, SessionLayer};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use crate::web::Data;

const SECOND: Duration = Duration::from_secs(1);
const PREFIX: &str = "clustered_sessions_";

/// A recorder of metrics. It renders the text that Prometheus would scrape from the stores that
/// were built with it.
struct Scrape(PrometheusRecorder);

/// The value of each series, named without the common prefix. Histograms have only their counts.
type Figures = BTreeMap<String, f64>;

impl Scrape {
    fn new() -> Self {
        Scrape(PrometheusBuilder::new().build_recorder())
    }

    /// Starts a node and waits until it receives announcements.
    async fn start(&self, config: SessionConfigBuilder<Data>) -> SessionLayer<Data> {
        let layer = self.build(config);
        layer.store().wait_until_ready(SECOND * 10).await.unwrap();
        layer
    }

    fn build(&self, config: SessionConfigBuilder<Data>) -> SessionLayer<Data> {
        metrics::with_local_recorder(&self.0, || SessionLayer::new(config.build().unwrap()))
    }

    fn figures(&self) -> Figures {
        let text = self.0.handle().render();
        let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let pairs = samples.map(|line| line.rsplit_once(' ').unwrap());
        let of_interest = pairs
            .filter(|(series, _)| !series.contains("quantile=") && !series.contains("seconds_sum"));
        of_interest
            .map(|(series, value)| {
                (series.strip_prefix(PREFIX).unwrap().to_owned(), value.parse().unwrap())
            })
            .collect()
    }

    fn get(&self, series: &str) -> f64 {
        self.figures()[series]
    }

    /// Returns the increase of each counter during a future. Unchanged counters are left out.
    async fn rises(&self, during: impl Future<Output = ()>) -> Figures {
        let before = self.figures();
        during.await;
        let rise = |(series, value): (String, f64)| {
            let rise = value - before.get(&series).copied().unwrap_or(0.0);
            (rise != 0.0 && is_counter(&series)).then_some((series, rise))
        };
        self.figures().into_iter().filter_map(rise).collect()
    }
}

fn is_counter(series: &str) -> bool {
    let name = series.split('{').next().unwrap();
    name.ends_with("_total") || name.ends_with("_count")
}

fn figures<const N: usize>(expected: [(&str, f64); N]) -> Figures {
    expected.into_iter().map(|(series, value)| (series.to_owned(), value)).collect()
}

/// Returns the expected increases for calls of one operation, given as outcomes with their numbers.
fn calls(operation: &str, outcomes: &[(&str, f64)]) -> Figures {
    let mut figures = Figures::new();
    let mut made = 0.0;
    for (outcome, count) in outcomes {
        figures.insert(
            format!("backend_calls_total{{operation=\"{operation}\",outcome=\"{outcome}\"}}"),
            *count,
        );
        made += if matches!(*outcome, "circuit_open" | "overloaded") { 0.0 } else { *count };
    }
    if made > 0.0 {
        figures.insert(
            format!("backend_call_duration_seconds_count{{operation=\"{operation}\"}}"),
            made,
        );
    }
    figures
}

fn all<const N: usize>(parts: [Figures; N]) -> Figures {
    parts.into_iter().flatten().collect()
}

fn visit(data: &mut Data) {
    data.visits += 1;
}
