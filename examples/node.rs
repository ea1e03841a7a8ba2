//! One node of a cluster: a small JSON API whose sessions are shared by all nodes.
//!
//! ```text
//! PORT=3001 NODE_ID=one REDIS_URL=redis://127.0.0.1:6379 cargo run --example node
//! PORT=3002 NODE_ID=two REDIS_URL=redis://127.0.0.1:6379 cargo run --example node
//! curl -c jar -X POST 'http://127.0.0.1:3001/login?user=ada'
//! curl -b jar http://127.0.0.1:3002/me       # logged in here as well
//! curl -b jar -X POST http://127.0.0.1:3001/logout
//! curl -i -b jar http://127.0.0.1:3002/me    # 401
//! curl http://127.0.0.1:3002/stats
//! ```
//!
//! Points of interest: [`config`] for the options, [`login`] for a new token at login, [`visit`]
//! for a change that is committed before the response, and [`main`] for a shutdown that loses no
//! write. The example `production` adds the metrics, probes and middleware that a deployment
//! needs.
//!
//! | variable | meaning |
//! |---|---|
//! | `PORT` | port to listen on; defaults to 3000; 0 picks a free one |
//! | `REDIS_URL` | the Redis that stores the sessions, in any form of `RedisConfig::from_url`; unset: in memory |
//! | `SSL_CERT_FILE` | root certificates for TLS; unset: those of the system |
//! | `NODE_ID` | the node's name in logs and statistics; unset: random |
//! | `SESSION_SECRET` | signs the cookies; unset: an insecure development secret |
//! | `SESSION_TIMEOUT_MS` | idle timeout; unset: the crate's default |
//! | `LOCAL_CACHE_TTL_MS` | longest time that a session is cached; unset: the crate's default |
//! | `MAX_STALENESS_MS` | longest time that a missed announcement can go unnoticed; unset: the crate's default |
//! | `LOCAL_CACHE=off` | disables the local cache |
//! | `CLUSTER=off` | does not receive the announcements of other nodes |
//! | `OPERATION_TIMEOUT_MS` | deadline of a load or a commit, retries included; unset: the crate's default |
//! | `RETRY=off` | disables retries |
//! | `CIRCUIT_BREAKER=on` | enables the circuit breaker |
#![allow(clippy::print_stdout, reason = "the example prints its address")]

use std::env;
use std::error::Error;
use std::net::Ipv4Addr;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use clustered_sessions::{
    ClusterConfig, RedisConfig, Secret, Session, SessionConfig, SessionConfigBuilder, SessionError,
    SessionLayer, SessionStore,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// The data of a session. A visitor without a session gets the default.
#[derive(Clone, Default, Serialize, Deserialize)]
struct UserSession {
    user: Option<String>,
    visits: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let sessions = SessionLayer::new(config()?.build()?);
    let store = sessions.store().clone();

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port()?)).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, router(sessions))
        .with_graceful_shutdown(async move {
            terminate.recv().await;
        })
        .await?;
    // After the last request, so that all sessions are committed.
    store.shutdown().await;
    Ok(())
}

/// Builds on the development preset, which allows plain HTTP, and enables clustering.
fn config() -> Result<SessionConfigBuilder<UserSession>, Box<dyn Error>> {
    let secret = match env::var("SESSION_SECRET") {
        Ok(secret) => Secret::new(secret)?,
        Err(_) => Secret::insecure_dev("development"),
    };
    let mut config = SessionConfig::development(secret)
        .cluster(cluster()?)
        .enable_retry(!is("RETRY", "off"))
        .circuit_breaker_enabled(is("CIRCUIT_BREAKER", "on"))
        .owner(|session: &UserSession| session.user.clone());
    if env::var_os("REDIS_URL").is_some() {
        // To notice an unresponsive Redis within `MAX_STALENESS_MS`, do not wait longer for a
        // reply.
        let timeout =
            millis("MAX_STALENESS_MS")?.unwrap_or(Duration::MAX).min(Duration::from_millis(500));
        config = config.redis(RedisConfig::from_env("REDIS_URL")?.response_timeout(timeout));
    }
    if let Some(timeout) = millis("SESSION_TIMEOUT_MS")? {
        config = config.timeout(timeout);
    }
    if let Some(timeout) = millis("OPERATION_TIMEOUT_MS")? {
        config = config.operation_timeout(timeout);
    }
    Ok(config)
}

fn cluster() -> Result<ClusterConfig, Box<dyn Error>> {
    let mut cluster = ClusterConfig::new()
        .enabled(!is("CLUSTER", "off"))
        .local_cache_enabled(!is("LOCAL_CACHE", "off"));
    if let Ok(node_id) = env::var("NODE_ID") {
        cluster = cluster.node_id(node_id);
    }
    if let Some(ttl) = millis("LOCAL_CACHE_TTL_MS")? {
        cluster = cluster.local_cache_ttl(ttl);
    }
    if let Some(max_staleness) = millis("MAX_STALENESS_MS")? {
        cluster = cluster.max_staleness(max_staleness);
    }
    Ok(cluster)
}

fn port() -> Result<u16, Box<dyn Error>> {
    Ok(env::var("PORT").map_or(Ok(3000), |port| port.parse())?)
}

fn millis(variable: &str) -> Result<Option<Duration>, Box<dyn Error>> {
    let Ok(text) = env::var(variable) else { return Ok(None) };
    Ok(Some(Duration::from_millis(text.parse()?)))
}

fn is(variable: &str, expected: &str) -> bool {
    env::var(variable).is_ok_and(|value| value == expected)
}

/// Adds the layer last: a layer applies to the routes added before it.
fn router(sessions: SessionLayer<UserSession>) -> Router {
    Router::new()
        .route("/login", post(login))
        .route("/me", get(me))
        .route("/visit", post(visit))
        .route("/logout", post(logout))
        .route("/logout-everywhere", post(logout_everywhere))
        .route("/stats", get(stats))
        .route("/backend", get(backend))
        .with_state(sessions.store().clone())
        .layer(sessions)
}

#[derive(Deserialize)]
struct Login {
    user: String,
}

/// Begins a new session under a new token, so that a cookie planted by an attacker is worthless.
///
/// An application would check a password first: see the example `login`.
async fn login(session: Session<UserSession>, Query(Login { user }): Query<Login>) -> Json<Value> {
    let body = json!({ "user": user });
    session.replace(UserSession { user: Some(user), visits: 0 });
    Json(body)
}

/// Reads the session, usually from the local cache.
async fn me(session: Session<UserSession>) -> Result<Json<Value>, StatusCode> {
    let data = session.data();
    let user = data.user.as_ref().ok_or(StatusCode::UNAUTHORIZED)?;
    Ok(Json(json!({ "user": user, "visits": data.visits })))
}

/// Commits before it responds, so concurrent visits on any nodes are all counted and get distinct
/// numbers.
async fn visit(session: Option<Session<UserSession>>) -> Result<Json<Value>, Rejection> {
    let session = session.ok_or(Rejection::LoggedOut)?;
    let add_one = |data: &mut UserSession| {
        data.visits += 1;
        data.visits
    };
    let visits = session.modify(add_one).await?;
    Ok(Json(json!({ "visits": visits })))
}

/// Ends the session on every node.
async fn logout(session: Session<UserSession>) -> StatusCode {
    session.destroy();
    StatusCode::NO_CONTENT
}

/// Ends all sessions of the user on every node, including this one.
async fn logout_everywhere(session: Session<UserSession>) -> Result<Json<Value>, Rejection> {
    let user = session.read(|data| data.user.clone()).ok_or(Rejection::LoggedOut)?;
    let done = session.store().delete_all_of(&user).await;
    let done = done.map_err(SessionError::from)?;
    Ok(Json(json!({ "deleted": done.deleted })))
}

/// Returns the node's statistics. An application would not expose them publicly: the example
/// `production` serves them on a separate address.
async fn stats(State(store): State<SessionStore<UserSession>>) -> Json<Value> {
    let (cache, coordinator) = (store.cache_stats(), store.coordinator());
    Json(json!({
        "node_id": coordinator.node_id(),
        "running": coordinator.is_running(),
        "listening": coordinator.is_listening(),
        "announcements": coordinator.announcements_received(),
        "unreadable_announcements": coordinator.announcements_unreadable(),
        "disconnects": coordinator.disconnects(),
        "circuit": store.circuit().state().as_str(),
        "circuit_openings": store.circuit().openings(),
        "hits": cache.hits,
        "misses": cache.misses,
        "bypasses": cache.bypasses,
        "evictions": cache.evictions,
        "invalidations": cache.invalidations,
        "refused_fills": cache.refused_fills,
        "size": cache.size,
        "hit_rate": cache.hit_rate(),
    }))
}

/// Responds 503 while the backend is unavailable. It is no readiness probe: all nodes would become
/// unready together. The example `production` has probes.
async fn backend(State(store): State<SessionStore<UserSession>>) -> StatusCode {
    match store.ping().await {
        Ok(()) => StatusCode::OK,
        Err(error) => {
            tracing::warn!(error = &error as &dyn Error, "the session backend does not answer");
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

/// The reason why a request that requires a session was rejected.
enum Rejection {
    LoggedOut,
    Failed(SessionError),
}

/// A session that ended during the request is reported like one that ended before it.
impl From<SessionError> for Rejection {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Gone => Rejection::LoggedOut,
            error => Rejection::Failed(error),
        }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        match self {
            Rejection::LoggedOut => StatusCode::UNAUTHORIZED.into_response(),
            Rejection::Failed(error) => {
                tracing::warn!(%error, "request rejected: session error");
                error.into_response()
            }
        }
    }
}
