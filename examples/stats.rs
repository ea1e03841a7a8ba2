//! Logs what the local cache does, and shuts the store down when the server is done.
//!
//! ```sh
//! STATS_EVERY_MS=2000 cargo run --example stats
//! curl -c jar -b jar localhost:3000    # again and again: the hit rate rises
//! ```
//!
//! Without `STATS_EVERY_MS` it logs once a minute. Ctrl-C stops it.

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use clustered_sessions::{Secret, Session, SessionConfig, SessionLayer, SessionStore};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::time::interval;

#[derive(Clone, Default, Serialize, Deserialize)]
struct Visitor {
    visits: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let every = std::env::var("STATS_EVERY_MS").map_or(Ok(60_000), |millis| millis.parse())?;

    let config = SessionConfig::<Visitor>::development(Secret::insecure_dev("stats")).build()?;
    let sessions = SessionLayer::new(config);
    let store = sessions.store().clone();
    let monitor = tokio::spawn(log_stats(store.clone(), Duration::from_millis(every)));

    let app = Router::new().route("/", get(visits)).layer(sessions);
    let listener = TcpListener::bind(("127.0.0.1", 3000)).await?;
    tracing::info!("http://{}", listener.local_addr()?);
    axum::serve(listener, app).with_graceful_shutdown(ctrl_c()).await?;

    // In this order: the last requests still need the store.
    monitor.abort();
    store.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

async fn visits(session: Session<Visitor>) -> String {
    session.update(|visitor| visitor.visits += 1);
    session.read(|visitor| format!("visit {}\n", visitor.visits))
}

async fn log_stats(store: SessionStore<Visitor>, every: Duration) {
    let mut every = interval(every);
    loop {
        every.tick().await;
        let stats = store.cache_stats();
        tracing::info!(
            hits = stats.hits,
            misses = stats.misses,
            bypasses = stats.bypasses,
            evictions = stats.evictions,
            invalidations = stats.invalidations,
            "session cache: {} entries, {:.1}% hit rate",
            stats.size,
            stats.hit_rate() * 100.0,
        );
    }
}

async fn ctrl_c() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        tracing::error!(%error, "Ctrl-C cannot be heard");
    }
}
