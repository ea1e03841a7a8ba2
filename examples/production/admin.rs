//! The interface for operators, on a separate address: metrics, probes, a page, and cache
//! statistics in the log.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::get;
use axum::{Json, Router};
use clustered_sessions::SessionStore;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};

use crate::app::UserSession;

#[derive(Clone)]
struct Admin {
    store: SessionStore<UserSession>,
    metrics: PrometheusHandle,
    shutting_down: Arc<AtomicBool>,
}

/// Histogram buckets in seconds, from a fast backend call to the default deadline of an operation.
const SECONDS: [f64; 12] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 3.0];

/// Installs the Prometheus recorder. Metrics recorded before that are lost.
pub(crate) fn recorder() -> Result<PrometheusHandle, Box<dyn Error>> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".to_owned()), &SECONDS)?
        .install_recorder()?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            // Otherwise samples of histograms accumulate in memory while Prometheus does not
            // scrape.
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

pub(crate) fn router(
    store: SessionStore<UserSession>,
    metrics: PrometheusHandle,
    shutting_down: Arc<AtomicBool>,
) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/stats", get(stats))
        .route("/metrics", get(render))
        .route("/livez", get(StatusCode::OK))
        .route("/readyz", get(readyz))
        .with_state(Admin { store, metrics, shutting_down })
}

/// Readiness probe: responds 503 only while the node shuts down.
///
/// Redis does not affect it. All nodes lose Redis at the same time, and each still serves the
/// sessions in its cache: an outage is a matter for alerts, not for the load balancer.
async fn readyz(State(admin): State<Admin>) -> StatusCode {
    if admin.shutting_down.load(Ordering::Relaxed) {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    }
}

/// Serves the metrics to Prometheus.
async fn render(State(admin): State<Admin>) -> String {
    // Cache hits are buffered and flushed with each heartbeat; this call flushes them now.
    let _ = admin.store.cache_stats();
    admin.metrics.render()
}

async fn page() -> Html<&'static str> {
    Html(include_str!("page.html"))
}

/// Returns the statistics that the store keeps itself, without a metrics recorder. The page shows
/// them together with some of the metrics.
async fn stats(State(Admin { store, .. }): State<Admin>) -> Json<Value> {
    let (cache, coordinator, circuit) = (store.cache_stats(), store.coordinator(), store.circuit());
    Json(json!({
        "node_id": coordinator.node_id(),
        "listening": coordinator.is_listening(),
        "disconnects": coordinator.disconnects(),
        "announcements": coordinator.announcements_received(),
        "unreadable_announcements": coordinator.announcements_unreadable(),
        "circuit": circuit.state().as_str(),
        "openings": circuit.openings(),
        "hits": cache.hits,
        "misses": cache.misses,
        "bypasses": cache.bypasses,
        "evictions": cache.evictions,
        "invalidations": cache.invalidations,
        "refused_fills": cache.refused_fills,
        "size": cache.size,
        "degraded_reads": store.degraded_reads(),
        "unreadable_records": store.unreadable_records(),
        "dropped_changes": store.dropped_changes(),
    }))
}

/// Logs the statistics of the local cache, for deployments that do not collect metrics.
pub(crate) async fn log_cache_stats(store: SessionStore<UserSession>, every: Duration) {
    let mut every = tokio::time::interval(every);
    loop {
        every.tick().await;
        let stats = store.cache_stats();
        tracing::info!(
            hits = stats.hits,
            misses = stats.misses,
            bypasses = stats.bypasses,
            evictions = stats.evictions,
            invalidations = stats.invalidations,
            sessions = stats.size,
            "session cache: hit rate {:.1} %",
            stats.hit_rate() * 100.0,
        );
    }
}
