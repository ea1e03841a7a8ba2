//! Two nodes in one process, with a page that shows a session and the local cache on each.
//!
//! ```sh
//! cargo run --example quickstart
//! ```
//!
//! Open <http://127.0.0.1:3000>, log in, and click "Visit" on either node. The other node's cached
//! copy is invalidated: its "Invalidations" counter goes up and it shows the new number of visits.
//! "Log out" ends the session on both.
//!
//! No server is required: both nodes share a backend in memory. Set
//! `REDIS_URL=redis://127.0.0.1:6379` to share Redis instead. The nodes listen on ports 3000 and
//! 3001, or the next free ones; `PORT` sets the first port to try.
//!
//! Points of interest: [`node`], which does what each process of a cluster does at its start. Every
//! node has its own `SessionLayer`, and with it its own store, cache and listener. Browsers send
//! cookies to all ports of a host, so a browser has the same session on both nodes.

#![allow(clippy::print_stdout, reason = "the example prints its addresses")]

use std::error::Error;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};

use axum::extract::Form;
use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::{get, post};
use axum::{Json, Router};
use clustered_sessions::{
    ClusterConfig, ConfigError, MemoryBackend, RedisConfig, Secret, Session, SessionConfig,
    SessionLayer,
};
use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The data of a session. A visitor without a session gets the default.
#[derive(Clone, Default, Serialize, Deserialize)]
struct User {
    name: Option<String>,
    visits: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let memory = MemoryBackend::new();
    let a = node("node-a", &memory)?;
    let b = node("node-b", &memory)?;

    let port = std::env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let (address_a, listener_a) = listen(port).await?;
    let (address_b, listener_b) = listen(address_a.port().saturating_add(1)).await?;
    // Polled once before the addresses are known to anybody, so that Ctrl-C is caught from now on.
    // And shared: two handlers might be registered one before and one after it.
    let ctrl_c = ctrl_c().shared();
    let _ = ctrl_c.clone().now_or_never();
    println!("node-a: http://{address_a}");
    println!("node-b: http://{address_b}");
    println!("Open one of them in a browser. Press Ctrl-C to stop.");

    tokio::try_join!(
        axum::serve(listener_a, app(&a, &b)).with_graceful_shutdown(ctrl_c.clone()),
        axum::serve(listener_b, app(&b, &a)).with_graceful_shutdown(ctrl_c),
    )?;
    tokio::join!(a.store().shutdown(), b.store().shutdown());
    println!("Stopped.");
    Ok(())
}

/// Builds the session layer of one node.
fn node(id: &str, memory: &MemoryBackend) -> Result<SessionLayer<User>, ConfigError> {
    // The development preset allows plain HTTP, but disables clustering: enable it again.
    let config = SessionConfig::development(Secret::insecure_dev("quickstart"))
        .cluster(ClusterConfig::new().enabled(true).node_id(id));
    let config = match std::env::var_os("REDIS_URL") {
        Some(_) => {
            config.redis(RedisConfig::from_env("REDIS_URL")?.key_prefix("quickstart:session:"))
        }
        None => config.backend(memory.clone()),
    };
    Ok(SessionLayer::new(config.build()?))
}

/// Serves the page, the node's own API under `/api`, and the other node's API under `/peer`.
///
/// The page shows both nodes, but the same-origin policy lets it call only the port that served it.
fn app(own: &SessionLayer<User>, peer: &SessionLayer<User>) -> Router {
    Router::new()
        .route("/", get(async || Html(include_str!("page.html"))))
        .nest("/api", api(own))
        .nest("/peer", api(peer))
}

fn api(sessions: &SessionLayer<User>) -> Router {
    Router::new()
        .route("/session", get(show))
        .route("/login", post(login))
        .route("/visit", post(visit))
        .route("/logout", post(logout))
        .route("/logout-everywhere", post(logout_everywhere))
        .layer(sessions.clone())
}

/// Returns the session as this node sees it, with the node's cache statistics.
async fn show(session: Session<User>) -> Json<Value> {
    let store = session.store();
    let cache = store.cache_stats();
    Json(json!({
        "node": store.coordinator().node_id(),
        "listening": store.coordinator().is_listening(),
        "id": session.id().map(|id| id.to_string()),
        "name": session.data().name,
        "visits": session.data().visits,
        "cache": {
            "hits": cache.hits,
            "misses": cache.misses,
            "invalidations": cache.invalidations,
            "size": cache.size,
            "hit_rate": cache.hit_rate(),
        },
    }))
}

#[derive(Deserialize)]
struct Login {
    name: String,
}

/// Begins a new session under a new token, so that a cookie planted by an attacker is worthless.
///
/// An application would check a password first: see the example `login`.
async fn login(session: Session<User>, Form(login): Form<Login>) -> StatusCode {
    let name = login.name.trim();
    if name.is_empty() {
        return StatusCode::UNPROCESSABLE_ENTITY;
    }
    session.replace(User { name: Some(name.to_owned()), visits: 0 });
    StatusCode::NO_CONTENT
}

/// Commits before it responds, so concurrent visits on both nodes are all counted.
async fn visit(session: Option<Session<User>>) -> axum::response::Result<Json<u64>> {
    let session = session.ok_or(StatusCode::UNAUTHORIZED)?;
    let visits = session
        .modify(|user| {
            user.visits += 1;
            user.visits
        })
        .await?;
    Ok(Json(visits))
}

async fn logout(session: Session<User>) -> StatusCode {
    session.destroy();
    StatusCode::NO_CONTENT
}

/// Ends this user's sessions in all browsers and returns their number.
///
/// This scans all sessions, which is fine for a demonstration. The example `node` uses the owner
/// index instead.
async fn logout_everywhere(session: Option<Session<User>>) -> axum::response::Result<Json<u64>> {
    let session = session.ok_or(StatusCode::UNAUTHORIZED)?;
    let name = session.data().name.clone();
    let ended = session.store().bulk_delete(|other| other.data().name == name).await?;
    session.destroy();
    Ok(Json(ended.deleted))
}

/// Binds the first free port, starting at `first`.
async fn listen(first: u16) -> std::io::Result<(SocketAddr, TcpListener)> {
    let mut port = first;
    loop {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => return Ok((listener.local_addr()?, listener)),
            Err(error) if error.kind() == ErrorKind::AddrInUse && port < u16::MAX => port += 1,
            Err(error) => return Err(error),
        }
    }
}

async fn ctrl_c() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        println!("cannot listen for Ctrl-C: {error}");
    }
}
