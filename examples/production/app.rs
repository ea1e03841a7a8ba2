//! The application: its routes, and the middleware around them.

use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Query, Request};
use axum::http::{HeaderName, StatusCode, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use clustered_sessions::{Session, SessionError, SessionLayer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::csrf::CsrfLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::sensitive_headers::SetSensitiveHeadersLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The data of a session. A visitor without a session gets the default.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct UserSession {
    user: Option<String>,
    // Added later: records written before that have no such field.
    #[serde(default)]
    visits: u64,
}

/// Lists the layers from the outermost to the innermost. The session layer is the innermost, so the
/// other layers see responses whose sessions have been committed.
pub(crate) fn router(sessions: SessionLayer<UserSession>) -> Router {
    let layers = ServiceBuilder::new()
        // Outermost, so that no layer logs these headers.
        .layer(SetSensitiveHeadersLayer::new([
            header::COOKIE,
            header::SET_COOKIE,
            header::AUTHORIZATION,
        ]))
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
        .layer(TraceLayer::new_for_http().make_span_with(span))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        // A handler that panics gets a 500 response; its session changes are not committed.
        .layer(CatchPanicLayer::new())
        .layer(CompressionLayer::new())
        // Longer than the deadlines of a load and a commit together. A request that times out
        // before its commit commits only a logout.
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(10)))
        // Rejects cross-site requests that change something.
        .layer(CsrfLayer::new())
        .layer(DefaultBodyLimit::max(64 * 1024))
        .layer(sessions);
    Router::new()
        .route("/", get(home))
        .route("/login", post(login))
        .route("/visit", post(visit))
        .route("/logout", post(logout))
        .layer(layers)
}

/// Names the request by the id that proxies and other services log as well. Leaves out the query,
/// which may contain private data.
fn span(request: &Request) -> tracing::Span {
    let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    tracing::info_span!("request", method = %request.method(), path = request.uri().path(), id)
}

/// Returns the session. `read_only` is `true` while Redis is down and a cached copy is shown.
async fn home(session: Session<UserSession>) -> Json<Value> {
    let read_only = session.outage().is_some();
    session.read(|data| {
        Json(json!({ "user": data.user, "visits": data.visits, "read_only": read_only }))
    })
}

#[derive(Deserialize)]
struct Login {
    user: String,
}

/// Logs in without a password, with a new session under a new token. See the example `login` for
/// passwords.
async fn login(session: Session<UserSession>, Query(Login { user }): Query<Login>) -> StatusCode {
    session.replace(UserSession { user: Some(user), visits: 0 });
    StatusCode::NO_CONTENT
}

/// Commits before it responds: `modify` fails if the change cannot be written.
async fn visit(session: Option<Session<UserSession>>) -> Result<Json<Value>, SessionError> {
    let Some(session) = session else { return Ok(Json(json!({ "visits": null }))) };
    let visits = session.modify(|data| {
        data.visits += 1;
        data.visits
    });
    Ok(Json(json!({ "visits": visits.await? })))
}

async fn logout(session: Session<UserSession>) -> StatusCode {
    session.destroy();
    StatusCode::NO_CONTENT
}
