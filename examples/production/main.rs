//! An application as it runs in production: everything that `docs/deployment.md` speaks of.
//!
//! ```text
//! export REDIS_URL=redis://127.0.0.1:6379 SESSION_SECRET=$(openssl rand -base64 48)
//! PLAIN_HTTP=yes cargo run --example production --all-features
//! ```
//!
//! | variable | meaning |
//! |---|---|
//! | `SESSION_SECRET` | signs cookies and encrypts records; at least 32 bytes, the same on all nodes |
//! | `SESSION_SECRET_NEXT`, `SESSION_SECRET_PREVIOUS` | while it is being rotated |
//! | `REDIS_URL` | where sessions live |
//! | `NODE_ID` | the node's name in logs and announcements; unset: a random one |
//! | `LISTEN` | default 127.0.0.1:3000 |
//! | `ADMIN_LISTEN` | for operators and probes, not for the world; default 127.0.0.1:9000 |
//! | `PLAIN_HTTP=yes` | without TLS in front, on one's own machine |
//! | `RUST_LOG` | default `info` |
#![allow(clippy::print_stdout, reason = "it says where it listens")]

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

/// How long requests under way may take when the node is to end. Orchestrators wait for 30 seconds by default.
const GRACE: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    // Before the layer: what it counts goes to the recorder that it finds.
    let metrics = admin::recorder()?;
    let sessions = SessionLayer::new(config::sessions()?);
    let store = sessions.store().clone();

    let listener = TcpListener::bind(config::variable("LISTEN", "127.0.0.1:3000")).await?;
    let admin_listener =
        TcpListener::bind(config::variable("ADMIN_LISTEN", "127.0.0.1:9000")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    println!("for operators on http://{}", admin_listener.local_addr()?);

    let ending = Arc::new(AtomicBool::new(false));
    let (stop, stopped) = watch::channel(());
    let admin = admin::router(store.clone(), metrics, ending.clone());
    let admin =
        axum::serve(admin_listener, admin).with_graceful_shutdown(until_dropped(stopped.clone()));
    let admin = tokio::spawn(admin.into_future());

    let (drain, draining) = watch::channel(());
    let app = axum::serve(listener, app::router(sessions))
        .with_graceful_shutdown(until_dropped(draining));
    let app = tokio::spawn(app.into_future());

    termination().await?;
    tracing::info!("ending: no new connections, and requests under way are finished");
    ending.store(true, Ordering::Relaxed);
    drop(drain);
    if tokio::time::timeout(GRACE, app).await.is_err() {
        tracing::warn!("some requests were still under way after {GRACE:?}");
    }
    // After the last request, so that each has committed its session; and the probes are answered until then.
    store.shutdown().await;
    drop((stop, stopped));
    // A probe that sends half a request shall not hold it up.
    match tokio::time::timeout(Duration::from_secs(1), admin).await {
        Ok(ended) => Ok(ended??),
        Err(_) => Ok(()),
    }
}

async fn until_dropped(mut channel: watch::Receiver<()>) {
    // An error means that the sender has been dropped, which is what is waited for.
    let _ = channel.changed().await;
}

/// Waits for SIGTERM, which orchestrators send, or Ctrl+C.
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
