//! What operators and probes see, on an address of its own.

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
    ending: Arc<AtomicBool>,
}

/// Buckets for what takes from a tenth of a millisecond to the longest that an operation may.
const SECONDS: [f64; 12] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 3.0];

pub(crate) fn recorder() -> Result<PrometheusHandle, Box<dyn Error>> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".to_owned()), &SECONDS)?
        .install_recorder()?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

pub(crate) fn router(
    store: SessionStore<UserSession>,
    metrics: PrometheusHandle,
    ending: Arc<AtomicBool>,
) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/figures", get(figures))
        .route("/metrics", get(render))
        .route("/livez", get(StatusCode::OK))
        .route("/readyz", get(readyz))
        .with_state(Admin { store, metrics, ending })
}

/// Not while the node is ending. Without Redis it shows what it knows, and all nodes would be without it at once: that is for
/// alerts, and not for the load balancer.
async fn readyz(State(admin): State<Admin>) -> StatusCode {
    if admin.ending.load(Ordering::Relaxed) {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    }
}

async fn render(State(admin): State<Admin>) -> String {
    // Hits are told to the recorder now and then, and whenever somebody looks at them.
    let _ = admin.store.cache_stats();
    admin.metrics.render()
}

async fn page() -> Html<&'static str> {
    Html(include_str!("page.html"))
}

/// For the page. Prometheus has more.
async fn figures(State(Admin { store, .. }): State<Admin>) -> Json<Value> {
    let (cache, coordinator, circuit) = (store.cache_stats(), store.coordinator(), store.circuit());
    Json(json!({
        "node_id": coordinator.node_id(),
        "listening": coordinator.is_listening(),
        "disconnects": coordinator.disconnects(),
        "announcements": coordinator.announcements_received(),
        "unreadable_announcements": coordinator.announcements_unreadable(),
        "circuit": format!("{:?}", circuit.state()),
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
