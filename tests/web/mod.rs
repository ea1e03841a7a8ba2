//! Helpers for tests over HTTP: nodes, browsers and handlers in the process of the test.
#[cfg(feature = "redis")]
mod redis;
mod spy;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::handler::Handler;
use axum::routing::get;
use clustered_sessions::{
    ClusterConfig, Secret, Session, SessionConfig, SessionConfigBuilder, SessionId, SessionLayer,
};
use http::{Extensions, HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};
use tower::{Service, ServiceExt as _};

#[cfg(feature = "redis")]
pub(crate) use self::redis::RedisAddress;
pub(crate) use self::spy::{Call, HasBackend, Spy};

/// The name of the cookie in the default configuration.
pub(crate) const COOKIE: &str = "__Host-session";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Data {
    pub(crate) user: Option<String>,
    pub(crate) visits: u64,
}

pub(crate) fn ada() -> Data {
    Data { user: Some("Ada".to_owned()), visits: 0 }
}

pub(crate) fn secret() -> Secret {
    Secret::new("a secret for tests, long enough for all").unwrap()
}

/// Returns a configuration for tests. A high `max_staleness` keeps the cache in use on a busy
/// machine. Retries are disabled, so that an injected fault reaches the test.
pub(crate) fn config(backend: &impl HasBackend) -> SessionConfigBuilder<Data> {
    let patient = ClusterConfig::new().max_staleness(Duration::from_secs(60));
    SessionConfig::builder(secret()).backend(backend.backend()).cluster(patient).enable_retry(false)
}

/// Starts a node and waits until it receives announcements.
pub(crate) async fn node(backend: &impl HasBackend) -> SessionLayer<Data> {
    start(config(backend)).await
}

pub(crate) async fn start(config: SessionConfigBuilder<Data>) -> SessionLayer<Data> {
    let sessions = SessionLayer::new(config.build().unwrap());
    sessions.store().wait_until_ready(Duration::from_secs(10)).await.unwrap();
    sessions
}

/// Returns an application with one handler.
pub(crate) fn serve<H, X>(sessions: &SessionLayer<Data>, handler: H) -> Router
where
    H: Handler<X, ()>,
    X: 'static,
{
    Router::new().route("/", get(handler)).layer(sessions.clone())
}

/// Sends a request whose handler does this with the session.
pub(crate) async fn request(
    sessions: &SessionLayer<Data>,
    cookie: HeaderValue,
    change: fn(&Session<Data>),
) {
    let handler = async move |session: Session<Data>| change(&session);
    let request = Request::get("/").header(header::COOKIE, cookie).body(Body::empty()).unwrap();
    let response = serve(sessions, handler).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

/// Returns the id of the only session. Panics if there is not exactly one.
pub(crate) async fn only_id(sessions: &SessionLayer<Data>) -> SessionId {
    let ids = sessions.store().all_session_ids().await.unwrap();
    assert_eq!(ids.len(), 1, "{ids:?}");
    ids[0]
}

/// Returns the data of the only session, as stored in the backend.
pub(crate) async fn only_data(sessions: &SessionLayer<Data>) -> Data {
    let id = only_id(sessions).await;
    let record = sessions.store().find_fresh(id).await.unwrap().unwrap();
    record.data().clone()
}

/// Waits for a condition without advancing a paused clock. Panics after 20 seconds.
pub(crate) async fn eventually(condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < deadline, "the condition was not met in time");
        tokio::task::yield_now().await;
    }
}

/// Yields until every task of a current-thread runtime has made all progress that needs no time to
/// pass. The number of yields is enough for all tests. Used to show that something does not happen,
/// or to let it happen before the clock advances.
pub(crate) async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// A client that keeps cookies from one request to the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Browser {
    cookies: BTreeMap<String, String>,
}

impl Browser {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Creates a browser that has a session with this data.
    pub(crate) async fn with(sessions: &SessionLayer<Data>, data: Data) -> Self {
        let pair = sessions.cookie_for(data).await.unwrap();
        let mut browser = Self::new();
        browser.keep(pair.to_str().unwrap());
        browser
    }

    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        self.cookies.get(name).map(String::as_str)
    }

    pub(crate) fn set_cookie(&mut self, name: &str, value: impl Into<String>) {
        self.cookies.insert(name.to_owned(), value.into());
    }

    pub(crate) fn request(&self) -> Request<Body> {
        let pairs: Vec<_> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut request = Request::new(Body::empty());
        if !pairs.is_empty() {
            request.headers_mut().insert(header::COOKIE, pairs.join("; ").parse().unwrap());
        }
        request
    }

    pub(crate) async fn visit<S, B>(&mut self, app: &S) -> Page
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Debug> + Clone,
        B: HttpBody<Error: Debug>,
    {
        self.visit_path(app, "/").await
    }

    pub(crate) async fn visit_path<S, B>(&mut self, app: &S, path: &str) -> Page
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Debug> + Clone,
        B: HttpBody<Error: Debug>,
    {
        let mut request = self.request();
        *request.uri_mut() = path.parse().unwrap();
        let page = send(app, request).await;
        self.keep_cookies(&page);
        page
    }

    /// Keeps and removes cookies as a response says.
    pub(crate) fn keep_cookies(&mut self, page: &Page) {
        for cookie in page.set_cookies() {
            self.keep(&cookie);
        }
    }

    fn keep(&mut self, set_cookie: &str) {
        let (pair, attributes) = set_cookie.split_once(';').unwrap_or((set_cookie, ""));
        let (name, value) = pair.split_once('=').unwrap();
        if attributes.contains("Max-Age=0") {
            self.cookies.remove(name);
        } else {
            self.set_cookie(name, value);
        }
    }
}

/// A response with its whole body.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) extensions: Extensions,
    pub(crate) body: String,
}

impl Page {
    pub(crate) fn all(&self, name: header::HeaderName) -> Vec<String> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn set_cookies(&self) -> Vec<String> {
        self.all(header::SET_COOKIE)
    }
}

pub(crate) async fn send<S, B>(app: &S, request: Request<Body>) -> Page
where
    S: Service<Request<Body>, Response = Response<B>, Error: Debug> + Clone,
    B: HttpBody<Error: Debug>,
{
    let (parts, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    let Ok(body) = body.collect().await else { panic!("the body ended with an error") };
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Page { status: parts.status, headers: parts.headers, extensions: parts.extensions, body }
}
