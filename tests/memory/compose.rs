//! The session layer combined with other layers, in nested routers, and applied twice.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::error_handling::HandleErrorLayer;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use clustered_sessions::{
    CookieConfig, MemoryBackend, Session, SessionConfig, SessionError, SessionLayer, StoreError,
    StoreErrorKind,
};
use http::{HeaderName, StatusCode, header};
use http_body_util::{Either, Empty, Full};
use serde::{Deserialize, Serialize};
use support::log::Log;
use tower::{BoxError, Layer as _, Service as _, ServiceBuilder, ServiceExt as _, service_fn};
use tower_http::ServiceBuilderExt as _;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::request_id::MakeRequestUuid;
use tower_http::sensitive_headers::{
    SetSensitiveRequestHeadersLayer, SetSensitiveResponseHeadersLayer,
};
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;

use crate::web::{
    self, Browser, COOKIE, Call, Data, HasBackend as _, Spy, ada, eventually, node, only_data,
    serve, start,
};

const PATIENCE: Duration = Duration::from_secs(30);

async fn count(session: Session<Data>) -> String {
    session.update(|data| data.visits += 1);
    session.data().visits.to_string()
}

async fn who(session: Session<Data>) -> String {
    session.data().user.clone().unwrap_or_default()
}

/// Asserts that two requests of a visitor share one session and set one cookie.
async fn assert_counts(app: &Router) {
    assert_counts_at(app, "/").await;
}

async fn assert_counts_at(app: &Router, path: &str) {
    let mut browser = Browser::new();
    let first = browser.visit_path(app, path).await;
    assert_eq!(
        (first.status, first.body.as_str(), first.set_cookies().len()),
        (StatusCode::OK, "1", 1)
    );
    let second = browser.visit_path(app, path).await;
    assert_eq!((second.body.as_str(), second.set_cookies().len()), ("2", 0));
}

#[tokio::test]
async fn tower_http_layers_work_around_the_session_layer() {
    let sessions = node(&MemoryBackend::new()).await;
    let around = ServiceBuilder::new()
        .layer(SetSensitiveRequestHeadersLayer::new([header::COOKIE]))
        .set_x_request_id(MakeRequestUuid)
        .propagate_x_request_id()
        .layer(TraceLayer::new_for_http())
        .layer(CatchPanicLayer::new())
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, PATIENCE))
        .layer(CompressionLayer::new())
        .layer(SetSensitiveResponseHeadersLayer::new([header::SET_COOKIE]));
    assert_counts(&serve(&sessions, count).layer(around)).await;
}

#[tokio::test]
async fn tower_http_layers_work_inside_the_session_layer() {
    let sessions = node(&MemoryBackend::new()).await;
    let inside = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(CatchPanicLayer::new())
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, PATIENCE))
        .layer(CompressionLayer::new());
    assert_counts(&Router::new().route("/", get(count)).layer(inside).layer(sessions)).await;
}

#[tokio::test]
async fn an_inner_trace_layer_in_the_same_stack_needs_map_response() {
    let sessions = node(&MemoryBackend::new()).await;
    let stack = ServiceBuilder::new()
        .layer(sessions)
        .map_response(IntoResponse::into_response)
        .layer(TraceLayer::new_for_http());
    assert_counts(&Router::new().route("/", get(count)).layer(stack)).await;
}

#[tokio::test]
async fn an_outer_trace_layer_in_the_same_stack_needs_no_adapter() {
    let sessions = node(&MemoryBackend::new()).await;
    let stack = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(CatchPanicLayer::new())
        .layer(sessions);
    assert_counts(&Router::new().route("/", get(count)).layer(stack)).await;
}

#[tokio::test]
async fn a_compressed_response_varies_with_encoding_and_cookie() {
    let sessions = node(&MemoryBackend::new()).await;
    let long = async |_: Session<Data>| "long ".repeat(1000);
    let app = serve(&sessions, long).layer(CompressionLayer::new());
    let mut request = Browser::new().request();
    request.headers_mut().insert(header::ACCEPT_ENCODING, "gzip".parse().unwrap());
    let page = web::send(&app, request).await;
    assert_eq!(page.all(header::CONTENT_ENCODING), ["gzip"]);
    assert_eq!(page.all(header::VARY), ["cookie", "accept-encoding"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_a_timeout_cuts_off_commits_nothing_but_a_logout() {
    let sessions = node(&MemoryBackend::new()).await;
    let timeout = || TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, PATIENCE);
    let app = |logout: bool| {
        let handler = async move |session: Session<Data>| {
            session.update(|data| data.visits += 1);
            if logout {
                session.destroy();
            }
            std::future::pending::<()>().await;
        };
        serve(&sessions, handler).layer(timeout())
    };
    let mut browser = Browser::with(&sessions, ada()).await;
    assert_eq!(browser.visit(&app(false)).await.status, StatusCode::REQUEST_TIMEOUT);
    web::settle().await;
    assert_eq!(only_data(&sessions).await, ada());
    assert_eq!(browser.visit(&app(true)).await.status, StatusCode::REQUEST_TIMEOUT);
    eventually(async || sessions.store().size().await.unwrap() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn changes_are_committed_with_the_response_of_an_inner_timeout() {
    let sessions = node(&MemoryBackend::new()).await;
    let slow = async |session: Session<Data>| {
        session.update(|data| data.visits += 1);
        std::future::pending::<()>().await;
    };
    let timeout = TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, PATIENCE);
    let app = Router::new().route("/", get(slow)).layer(timeout).layer(sessions.clone());
    let mut browser = Browser::with(&sessions, ada()).await;
    assert_eq!(browser.visit(&app).await.status, StatusCode::REQUEST_TIMEOUT);
    assert_eq!(only_data(&sessions).await.visits, 1);
}

#[tokio::test]
async fn the_layer_works_around_a_route_a_nested_router_and_a_fallback() {
    let sessions = node(&MemoryBackend::new()).await;
    let route = Router::new().route("/", get(count)).route_layer(sessions.clone());
    assert_counts(&route).await;

    let nested = Router::new().nest("/inner", Router::new().route("/", get(count)));
    assert_counts_at(&nested.layer(sessions.clone()), "/inner").await;

    let inner = Router::new().nest("/inner", serve(&sessions, count));
    assert_counts_at(&inner, "/inner").await;

    let fallback = Router::new().fallback(count).layer(sessions.clone());
    assert_counts_at(&fallback, "/no/such/route").await;

    let service = service_fn(async |request: Request| {
        let session = Session::<Data>::from_extensions(request.extensions()).await.unwrap();
        Ok::<_, Infallible>(Response::new(Body::from(count(session).await)))
    });
    assert_counts_at(&Router::new().fallback_service(service).layer(sessions), "/no/such/route")
        .await;
}

#[tokio::test]
async fn extracting_a_session_outside_the_layer_is_explained_in_a_debug_build_only() {
    let sessions = node(&MemoryBackend::new()).await;
    let app =
        Router::new().route("/inside", get(count)).layer(sessions).route("/outside", get(count));
    let page = Browser::new().visit_path(&app, "/outside").await;
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
    let text = if cfg!(debug_assertions) { "with .layer(…) after the routes" } else { "" };
    assert!(page.body.contains(text) && page.body.is_empty() == text.is_empty(), "{}", page.body);
}

#[tokio::test]
async fn a_setting_that_is_missing_is_logged_and_named_in_a_debug_build() {
    let (sessions, log) = (node(&MemoryBackend::new()).await, Log::default());
    let log_out_everywhere = async |session: Session<Data>| -> Result<(), StoreError> {
        session.store().delete_all_of("Ada").await.map(drop)
    };
    let app = serve(&sessions, log_out_everywhere);
    let page = {
        let _guard = log.capture("clustered_sessions=error");
        Browser::new().visit(&app).await
    };
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
    let text = "no owner is configured: set one with SessionConfigBuilder::owner";
    assert_eq!(page.body, if cfg!(debug_assertions) { text } else { "" });
    assert!(log.text().contains(text), "{}", log.text());
}

#[tokio::test]
async fn an_error_at_run_time_is_never_explained_to_the_visitor() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let app = serve(&sessions, async |session: Session<Data>| session.reload().await);
    spy.fail_next(1, StoreErrorKind::Refused);
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, ""));
}

#[tokio::test]
async fn a_middleware_that_extracts_first_shares_the_handlers_session() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    sessions.store().coordinator().local_cache().clear();
    let before = async |session: Session<Data>, request: Request, next: Next| {
        session.update(|data| data.visits += 10);
        let response = next.run(request).await;
        session.update(|data| data.visits += 100);
        response
    };
    let app = Router::new().route("/", get(count)).layer(from_fn(before)).layer(sessions.clone());
    spy.take_calls();
    assert_eq!(browser.visit(&app).await.body, "11");
    assert_eq!(spy.take_calls(), [Call::Load, Call::Update]);
    assert_eq!(only_data(&sessions).await.visits, 111);
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Basket {
    items: u64,
}

#[tokio::test]
async fn layers_for_two_types_of_data_work_side_by_side() {
    let sessions = node(&MemoryBackend::new()).await;
    let config = SessionConfig::<Basket>::builder(web::secret())
        .cookie(CookieConfig::new().name("__Host-basket"));
    let baskets = SessionLayer::new(config.build().unwrap());
    let both = async |session: Session<Data>, basket: Session<Basket>| {
        session.update(|data| data.visits += 1);
        basket.update(|basket| basket.items += 2);
        format!("{} {}", session.data().visits, basket.data().items)
    };
    let app = Router::new().route("/", get(both)).layer(sessions).layer(baskets);
    let mut browser = Browser::new();
    let first = browser.visit(&app).await;
    assert_eq!((first.body.as_str(), first.set_cookies().len()), ("1 2", 2));
    assert!(browser.cookie(COOKIE).is_some() && browser.cookie("__Host-basket").is_some());
    assert_eq!(first.all(header::VARY), ["cookie"]);
    assert_eq!(browser.visit(&app).await.body, "2 4");
}

#[tokio::test]
async fn an_outer_layer_that_cannot_commit_keeps_the_cookie_of_an_inner_layer() {
    let sessions = node(&MemoryBackend::new()).await;
    let spy = Spy::new();
    let config = SessionConfig::<Basket>::builder(web::secret())
        .cookie(CookieConfig::new().name("__Host-basket"))
        .enable_retry(false)
        .backend(spy.backend());
    let baskets = SessionLayer::new(config.build().unwrap());
    let both = async |session: Session<Data>, basket: Session<Basket>| {
        session.replace(ada());
        basket.update(|basket| basket.items += 2);
        [(header::CACHE_CONTROL, "public"), (header::SET_COOKIE, "handlers=own")]
    };
    let routes = Router::new().route("/", get(both)).route("/count", get(count));
    let app = routes.layer(sessions).layer(baskets);
    let mut browser = Browser::new();
    spy.fail_next(1, StoreErrorKind::Unavailable);
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::SERVICE_UNAVAILABLE, 1));
    assert_eq!(page.all(header::CACHE_CONTROL), [r#"private, no-cache="set-cookie""#]);
    assert_eq!(browser.visit_path(&app, "/count").await.body, "1", "the session is Ada's");
    assert!(browser.cookie(COOKIE).is_some() && browser.cookie("__Host-basket").is_none());
}

#[tokio::test]
async fn one_layer_applied_twice_has_one_session_and_one_cookie() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let app = Router::new().route("/", get(count)).layer(sessions.clone()).layer(sessions.clone());
    assert_counts(&app).await;
    assert_eq!(spy.take_calls(), [Call::Create, Call::Update]);
}

#[tokio::test]
async fn two_stores_under_one_cookie_name_are_refused() {
    let (one, two) = (node(&MemoryBackend::new()).await, node(&MemoryBackend::new()).await);
    let app = Router::new().route("/", get(count)).layer(one).layer(two);
    let page = Browser::new().visit(&app).await;
    assert_eq!((page.status, page.body.as_str()), (StatusCode::INTERNAL_SERVER_ERROR, ""));
    assert!(matches!(page.extensions.get(), Some(SessionError::ClashingLayers)));
}

#[tokio::test]
#[should_panic(expected = "`ResponseFuture` polled after completion")]
async fn a_refused_response_panics_when_polled_after_completion() {
    let (one, two) = (node(&MemoryBackend::new()).await, node(&MemoryBackend::new()).await);
    let inner = service_fn(async |_: Request| Ok::<_, Infallible>(Response::new(Body::empty())));
    let mut service = two.layer(one.layer(inner));
    let mut response = pin!(service.call(Browser::new().request()));
    let refused = response.as_mut().await.unwrap();
    assert_eq!(refused.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let _ = response.await;
}

#[tokio::test]
async fn an_error_of_the_inner_service_can_be_handled_by_an_outer_layer() {
    let sessions = node(&MemoryBackend::new()).await;
    let handle =
        HandleErrorLayer::new(async |error: BoxError| (StatusCode::BAD_GATEWAY, error.to_string()));
    let broken = service_fn(async |_: Request| Err::<Response, BoxError>("broken".into()));
    let app = ServiceBuilder::new().layer(handle).layer(sessions).service(broken);
    let page = Browser::new().visit(&Router::new().fallback_service(app)).await;
    assert_eq!((page.status, page.body.as_str()), (StatusCode::BAD_GATEWAY, "broken"));
}

/// A body that has no default, as those of some frameworks have none.
fn fixed(text: &'static str) -> Either<Full<Bytes>, Empty<Bytes>> {
    Either::Left(Full::from(text))
}

#[tokio::test]
async fn the_application_shapes_the_response_that_replaces_a_failed_commit() {
    let spy = Spy::new();
    let sessions = node(&spy).await.on_commit_error(|error| {
        let mut response = http::Response::new(fixed("<h1>Sorry</h1>"));
        *response.status_mut() = error.status();
        response.headers_mut().insert("grpc-status", http::HeaderValue::from_static("14"));
        response
    });
    let handler = service_fn(async |request: Request| {
        let session = Session::<Data>::from_extensions(request.extensions()).await.unwrap();
        session.update(|data| data.visits += 1);
        Ok::<_, Infallible>(http::Response::new(fixed("welcome")))
    });
    let app = sessions.layer(handler);
    assert_eq!(Browser::new().visit(&app).await.body, "welcome");
    spy.fail_next(1, StoreErrorKind::Unavailable);
    let page = Browser::new().visit(&app).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((page.body.as_str(), page.set_cookies().len()), ("<h1>Sorry</h1>", 0));
    assert_eq!(page.headers["grpc-status"], "14");
    assert!(matches!(page.extensions.get(), Some(SessionError::Store(_))));
}

#[tokio::test]
async fn the_type_of_a_layer_that_shapes_error_responses_can_be_named() {
    fn status(error: &SessionError) -> Response {
        error.status().into_response()
    }
    let sessions: SessionLayer<Data, fn(&SessionError) -> Response> =
        node(&MemoryBackend::new()).await.on_commit_error(status);
    let app =
        sessions.layer(service_fn(async |_: Request| Ok::<_, Infallible>(Response::default())));
    assert_eq!(Browser::new().visit(&app).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_outer_layer_can_see_why_a_commit_failed() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let explain = async |request: Request, next: Next| {
        let response = next.run(request).await;
        let name = HeaderName::from_static("x-why");
        let why = response.extensions().get::<SessionError>().map(ToString::to_string);
        (why.map(|why| [(name, why)]), response)
    };
    let app = serve(&sessions, count).layer(from_fn(explain));
    spy.fail_next(1, clustered_sessions::StoreErrorKind::Refused);
    let page = Browser::new().visit(&app).await;
    assert_eq!(
        page.all(HeaderName::from_static("x-why")),
        ["the session backend refused the call"]
    );
}

#[tokio::test]
async fn login_and_logout_work_across_two_routers_that_share_a_layer() {
    let sessions = start(web::config(&MemoryBackend::new())).await;
    let login = async |session: Session<Data>| {
        session.regenerate();
        session.overwrite(ada());
    };
    let logout = async |session: Session<Data>| session.destroy();
    let accounts = Router::new()
        .route("/login", get(login))
        .route("/logout", get(logout))
        .layer(sessions.clone());
    let app =
        Router::new().route("/", get(who)).route("/", post(who)).layer(sessions).merge(accounts);
    let mut browser = Browser::new();
    assert_eq!(browser.visit(&app).await.body, "");
    browser.visit_path(&app, "/login").await;
    assert_eq!(browser.visit(&app).await.body, "Ada");
    browser.visit_path(&app, "/logout").await;
    assert_eq!(browser.visit(&app).await.body, "");
}

#[tokio::test]
async fn the_layer_works_around_a_plain_tower_service() {
    let sessions = node(&MemoryBackend::new()).await;
    let app = sessions.layer(service_fn(async |request: http::Request<Body>| {
        let session = Session::<Data>::from_extensions(request.extensions()).await?;
        session.update(|data| data.visits += 1);
        Ok::<_, SessionError>(http::Response::new(session.data().visits.to_string()))
    }));
    let mut browser = Browser::new();
    assert_eq!(browser.visit(&app).await.body, "1");
    assert_eq!(browser.visit(&app).await.body, "2");
    assert_eq!(app.oneshot(Browser::new().request()).await.unwrap().into_body(), "1");
}
