//! One node of a cluster: a small application whose sessions all nodes share.
//!
//! ```text
//! PORT=3001 NODE_ID=one REDIS_URL=redis://127.0.0.1:6379 cargo run --example node
//! PORT=3002 NODE_ID=two REDIS_URL=redis://127.0.0.1:6379 cargo run --example node
//! curl -c jar -X POST 'http://127.0.0.1:3001/login?user=ada'
//! curl -b jar http://127.0.0.1:3002/me
//! ```
//!
//! | variable | meaning |
//! |---|---|
//! | `PORT` | default 3000; 0 picks a free one |
//! | `REDIS_URL` | where sessions live; unset: in memory |
//! | `NODE_ID` | the node's name; unset: a random one |
//! | `SESSION_SECRET` | signs the cookies; unset: one for development |
//! | `SESSION_TIMEOUT_MS`, `LOCAL_CACHE_TTL_MS`, `MAX_STALENESS_MS` | unset: the crate's defaults |
//! | `LOCAL_CACHE=off`, `CLUSTER=off` | without a cache in memory; without listening to the others |
//! | `OPERATION_TIMEOUT_MS` | how long a load or a commit may take in all; unset: the crate's default |
//! | `RETRY=off`, `CIRCUIT_BREAKER=on` | calls are made once; a Redis that fails is left alone for a while |
#![allow(clippy::print_stdout, reason = "it says where it listens")]

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

/// What a session holds. A visitor without one has the default.
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
    // After the last request, so that each can commit its session.
    store.shutdown().await;
    Ok(())
}

/// For development over plain HTTP, but for the cluster, which is as in production.
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
        // A node that is to notice a silent Redis soon must not wait for its answers for long.
        let patience =
            millis("MAX_STALENESS_MS")?.unwrap_or(Duration::MAX).min(Duration::from_millis(500));
        config = config.redis(RedisConfig::from_env("REDIS_URL")?.response_timeout(patience));
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

/// The layer goes on after the routes: it is around those above it.
fn router(sessions: SessionLayer<UserSession>) -> Router {
    Router::new()
        .route("/login", post(login))
        .route("/me", get(me))
        .route("/visit", post(visit))
        .route("/logout", post(logout))
        .route("/logout-everywhere", post(logout_everywhere))
        .route("/stats", get(stats))
        .route("/healthz", get(healthz))
        .with_state(sessions.store().clone())
        .layer(sessions)
}

#[derive(Deserialize)]
struct Login {
    user: String,
}

/// With a new token: a cookie that somebody else has planted is worth nothing after it. A real one would ask for a password.
async fn login(session: Session<UserSession>, Query(Login { user }): Query<Login>) -> Json<Value> {
    let answer = json!({ "user": user });
    session.update(move |data| *data = UserSession { user: Some(user.clone()), visits: 0 });
    session.regenerate();
    Json(answer)
}

/// From memory, as a rule.
async fn me(session: Session<UserSession>) -> Result<Json<Value>, StatusCode> {
    let data = session.data();
    let user = data.user.as_ref().ok_or(StatusCode::UNAUTHORIZED)?;
    Ok(Json(json!({ "user": user, "visits": data.visits })))
}

/// Committed before it answers: each of many visits at the same time, on whatever node, gets a number of its own.
async fn visit(session: Option<Session<UserSession>>) -> Result<Json<Value>, Refusal> {
    let session = session.ok_or(Refusal::LoggedOut)?;
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

/// Ends all sessions of the user on every node, this one among them.
async fn logout_everywhere(session: Session<UserSession>) -> Result<Json<Value>, Refusal> {
    let user = session.read(|data| data.user.clone()).ok_or(Refusal::LoggedOut)?;
    let done = session.store().delete_all_of(&user).await;
    let done = done.map_err(SessionError::from)?;
    Ok(Json(json!({ "deleted": done.deleted })))
}

/// What the node has done so far. For operators: a real one would not answer this to everybody.
async fn stats(State(store): State<SessionStore<UserSession>>) -> Json<Value> {
    let (cache, coordinator) = (store.cache_stats(), store.coordinator());
    Json(json!({
        "node_id": coordinator.node_id(),
        "running": coordinator.is_running(),
        "listening": coordinator.is_listening(),
        "announcements": coordinator.announcements_received(),
        "unreadable_announcements": coordinator.announcements_unreadable(),
        "disconnects": coordinator.disconnects(),
        "circuit": format!("{:?}", store.circuit().state()),
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

/// Whether requests can be served: a load balancer sends them elsewhere while they cannot.
async fn healthz(State(store): State<SessionStore<UserSession>>) -> StatusCode {
    if store.healthy().await { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// Why a request that needs a session is not served.
enum Refusal {
    LoggedOut,
    Failed(SessionError),
}

/// A session that goes during the request was logged out elsewhere: to its visitor that is the same as before the request.
impl From<SessionError> for Refusal {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Gone => Refusal::LoggedOut,
            error => Refusal::Failed(error),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Refusal::LoggedOut => StatusCode::UNAUTHORIZED.into_response(),
            Refusal::Failed(error) => {
                tracing::warn!(%error, "a request is refused");
                error.into_response()
            }
        }
    }
}
