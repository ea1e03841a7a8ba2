//! An application as it runs in production, with everything that `docs/deployment.md` recommends.
//!
//! ```text
//! export REDIS_URL=redis://127.0.0.1:6379 SESSION_SECRET=$(openssl rand -base64 48)
//! PLAIN_HTTP=yes cargo run --example production --all-features
//! curl -c jar -b jar -X POST 'http://127.0.0.1:3000/login?user=ada'
//! curl -c jar -b jar -X POST http://127.0.0.1:3000/visit
//! ```
//!
//! Open <http://127.0.0.1:9000> for the node's metrics; <http://127.0.0.1:9000/metrics> has them
//! for Prometheus. `deploy/` runs three nodes of this example with Docker Compose or Kubernetes.
//!
//! Points of interest:
//!
//! - `config.rs` reads the configuration from the environment, including secret rotation.
//! - `app.rs` has the routes and the order of the middleware.
//! - `admin.rs` has what operators use, on a separate address: metrics, probes, a page, and cache
//!   statistics in the log.
//! - [`main`] shuts down gracefully: requests in progress finish and commit their sessions.
//!
//! | variable | meaning |
//! |---|---|
//! | `SESSION_SECRET` | signs cookies and encrypts records; at least 32 bytes, the same on all nodes |
//! | `SESSION_SECRET_NEXT`, `SESSION_SECRET_PREVIOUS` | the other secret during a rotation |
//! | `REDIS_URL` | the Redis server that stores the sessions |
//! | `SSL_CERT_FILE` | root certificates for a `REDIS_URL` with TLS; unset: those of the system |
//! | `NODE_ID` | the node's name in logs and announcements; unset: random |
//! | `LISTEN` | address of the application; defaults to 127.0.0.1:3000 |
//! | `ADMIN_LISTEN` | address of metrics and probes, not to be exposed publicly; defaults to 127.0.0.1:9000 |
//! | `LOG_STATS_SECONDS` | interval at which cache statistics are logged; defaults to 60; 0 disables |
//! | `PLAIN_HTTP=yes` | allows cookies without TLS, for use on a local machine |
//! | `RUST_LOG` | log filter; defaults to `info` |
#![allow(clippy::print_stdout, reason = "the example prints its addresses")]

mod admin;
mod app;
mod config;

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clustered_sessions::SessionLayer;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// Maximum time for requests in progress to finish at shutdown. Less than the 30 seconds that
/// orchestrators wait by default before they kill the process.
const GRACE: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    // Before the layer: a store reports to the recorder that is installed when it is created.
    let metrics = admin::recorder()?;
    let sessions = SessionLayer::new(config::sessions()?);
    let store = sessions.store().clone();
    if let Some(every) = config::log_stats_interval()? {
        tokio::spawn(admin::log_cache_stats(store.clone(), every));
    }

    let listener = TcpListener::bind(config::variable("LISTEN", "127.0.0.1:3000")).await?;
    let admin_listener =
        TcpListener::bind(config::variable("ADMIN_LISTEN", "127.0.0.1:9000")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    println!("metrics and probes on http://{}", admin_listener.local_addr()?);

    let shutting_down = Arc::new(AtomicBool::new(false));
    let (stop, stopped) = watch::channel(());
    let admin = admin::router(store.clone(), metrics, shutting_down.clone());
    let admin =
        axum::serve(admin_listener, admin).with_graceful_shutdown(until_dropped(stopped.clone()));
    let admin = tokio::spawn(admin.into_future());

    let (drain, draining) = watch::channel(());
    let app = axum::serve(listener, app::router(sessions))
        .with_graceful_shutdown(until_dropped(draining));
    let app = tokio::spawn(app.into_future());

    termination().await?;
    tracing::info!("shutting down: refusing new connections, finishing requests in progress");
    shutting_down.store(true, Ordering::Relaxed);
    drop(drain);
    if tokio::time::timeout(GRACE, app).await.is_err() {
        tracing::warn!("some requests were still in progress after {GRACE:?}");
    }
    // After the last request, so that all sessions are committed. Probes are still served
    // meanwhile.
    store.shutdown().await;
    drop((stop, stopped));
    // A client that has sent half a request must not delay the exit.
    match tokio::time::timeout(Duration::from_secs(1), admin).await {
        Ok(ended) => Ok(ended??),
        Err(_) => Ok(()),
    }
}

async fn until_dropped(mut channel: watch::Receiver<()>) {
    // `changed` returns an error once the sender has been dropped, which is the signal.
    let _ = channel.changed().await;
}

/// Waits for SIGTERM, which orchestrators send, or Ctrl-C.
fn termination() -> impl Future<Output = std::io::Result<()>> {
    let terminate = signal(SignalKind::terminate());
    async move {
        let mut terminate = terminate?;
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            result = tokio::signal::ctrl_c() => result,
        }
    }
}
