//! What the world sees, and the middleware around it.

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

/// What a session holds.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct UserSession {
    user: Option<String>,
    #[serde(default)]
    visits: u64,
}

/// From the outside in. The session layer is the innermost: what is outside of it sees responses whose sessions have been committed.
pub(crate) fn router(sessions: SessionLayer<UserSession>) -> Router {
    let layers = ServiceBuilder::new()
        // Before anything logs a header.
        .layer(SetSensitiveHeadersLayer::new([
            header::COOKIE,
            header::SET_COOKIE,
            header::AUTHORIZATION,
        ]))
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
        .layer(TraceLayer::new_for_http().make_span_with(span))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        // A panic in a handler is answered with 500; what it had changed in its session is not committed.
        .layer(CatchPanicLayer::new())
        .layer(CompressionLayer::new())
        // Longer than a load and a commit that both take all the time that they have. A request that is cut off before its
        // commit commits nothing but a logout.
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(10)))
        // Other sites cannot act in a visitor's name.
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

/// With the id by which proxies and other services know the request, and without its query, which may be private.
fn span(request: &Request) -> tracing::Span {
    let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    tracing::info_span!("request", method = %request.method(), path = request.uri().path(), id)
}

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

/// Who they say they are. The example `login` asks for a password.
async fn login(session: Session<UserSession>, Query(Login { user }): Query<Login>) -> StatusCode {
    session.update(move |data| *data = UserSession { user: Some(user.clone()), visits: 0 });
    session.regenerate();
    StatusCode::NO_CONTENT
}

/// Committed before it is answered.
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
