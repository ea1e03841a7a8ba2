//! A Redis that is missing, silent, frozen or refuses the password: operations fail within their
//! timeouts, no visitor is logged out, and everything works again afterwards.
//!
//! Retries are disabled here. They are tested in `resilience/`, and under load in
//! `redis_pileup.rs`.

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use axum::routing::{get, post};
use clustered_sessions::{
    ClusterConfig, RedisConfig, Session, SessionConfigBuilder, SessionError, SessionId,
    SessionLayer, SessionStore, StoreError, StoreErrorKind,
};
use support::proxy::Proxy;
use support::redis::RedisServer;
use support::wait::{DEADLINE, eventually};
use tower::ServiceExt as _;

use crate::nodes::{self, Data, store};
use crate::web::RedisAddress as _;

/// Timeout of a reply. Short, because the tests often wait for it, but long enough for a healthy
/// server.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(200);

fn config() -> SessionConfigBuilder<Data> {
    nodes::config().enable_retry(false)
}

/// An application over Redis, and a visitor with a session.
struct App {
    router: Router,
    store: SessionStore<Data>,
    id: SessionId,
    cookie: HeaderValue,
}

impl App {
    /// Starts the application without a cache, so that each request needs Redis.
    async fn start(redis: RedisConfig) -> Self {
        let cluster = ClusterConfig::new().local_cache_enabled(false);
        let layer = SessionLayer::new(config().cluster(cluster).redis(redis).build().unwrap());
        let store = layer.store().clone();
        let cookie = layer.cookie_for(Data::of("ada")).await.unwrap();
        let [id]: [SessionId; 1] = store.all_session_ids().await.unwrap().try_into().unwrap();
        let router = Router::new()
            .route("/me", get(me))
            .route("/visit", post(visit))
            .route("/login", post(login))
            .route("/logout", post(logout))
            .layer(layer);
        App { router, store, id, cookie }
    }

    async fn request(
        &self,
        method: &str,
        path: &str,
        cookie: Option<&HeaderValue>,
    ) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(cookie) = cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let answer = self.router.clone().oneshot(request.body(Body::empty()).unwrap());
        tokio::time::timeout(DEADLINE, answer)
            .await
            .expect("the timeouts bound each request")
            .unwrap()
    }

    async fn status(&self, method: &str, path: &str) -> StatusCode {
        self.request(method, path, Some(&self.cookie)).await.status()
    }

    /// Checks that operations report the outage, requests fail with 503, and no visitor is logged
    /// out.
    async fn assert_outage(&self) {
        self.store_reports_the_outage().await;
        for (method, path, cookie) in [
            ("GET", "/me", Some(&self.cookie)),
            ("POST", "/visit", Some(&self.cookie)),
            ("POST", "/logout", Some(&self.cookie)),
            ("POST", "/login", None),
        ] {
            let response = self.request(method, path, cookie).await;
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
            assert!(response.headers().contains_key(header::RETRY_AFTER), "{path}");
            assert!(
                !response.headers().contains_key(header::SET_COOKIE),
                "{path}: the response must not change the cookie"
            );
        }
        assert_eq!(
            self.request("GET", "/me", None).await.status(),
            StatusCode::UNAUTHORIZED,
            "a visitor without a cookie"
        );
    }

    /// Checks that every operation fails. The first one uses a broken connection, and the others
    /// cannot open one.
    async fn store_reports_the_outage(&self) {
        let (store, id) = (&self.store, self.id);
        assert_fails_in_time("find", store.find(id)).await;
        assert_fails_in_time("create", store.create(Data::default())).await;
        assert_fails_in_time("update", store.modify(id, |data| data.visits += 1)).await;
        assert_fails_in_time("touch", store.touch(id)).await;
        assert_fails_in_time("delete", store.delete(SessionId::from_bytes([0; 16]))).await;
        assert_fails_in_time("size", store.size()).await;
        assert_fails_in_time("publish", store.coordinator().publish_cache_clear()).await;
        assert!(!store.healthy().await);
    }

    /// Checks that everything works again, also for the visitor from before the outage.
    async fn assert_recovery(&self) {
        eventually(async || self.store.healthy().await, "Redis answers").await;
        assert_eq!(self.status("GET", "/me").await, StatusCode::OK);
        assert_eq!(self.status("POST", "/visit").await, StatusCode::OK);
        let login = self.request("POST", "/login", None).await;
        assert_eq!(login.status(), StatusCode::OK);
        assert!(login.headers().contains_key(header::SET_COOKIE));
        assert_eq!(self.status("POST", "/logout").await, StatusCode::OK);
        assert_eq!(self.status("GET", "/me").await, StatusCode::UNAUTHORIZED);
    }
}

async fn me(session: Option<Session<Data>>) -> StatusCode {
    if session.is_some() { StatusCode::OK } else { StatusCode::UNAUTHORIZED }
}

async fn visit(session: Session<Data>) -> Result<String, SessionError> {
    session.modify(|data| data.visits += 1).await.map(|()| String::new())
}

async fn login(session: Session<Data>) {
    session.update(|data| data.user = Some("bob".to_owned()));
    session.regenerate();
}

async fn logout(session: Session<Data>) {
    session.destroy();
}

/// Checks that an operation fails within its timeouts, with an error that reports the outage and
/// not a missing session.
async fn assert_fails_in_time<R>(
    what: &str,
    operation: impl Future<Output = Result<R, StoreError>>,
) {
    let result = tokio::time::timeout(DEADLINE, operation).await;
    let kind = result
        .unwrap_or_else(|_| panic!("{what} does not complete"))
        .err()
        .map(|error| error.kind());
    let outage =
        [StoreErrorKind::Unavailable, StoreErrorKind::Timeout, StoreErrorKind::OutcomeUnknown];
    assert!(kind.is_some_and(|kind| outage.contains(&kind)), "{what}: {kind:?}");
}

#[tokio::test]
async fn a_link_that_is_cut_logs_nobody_out() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let app = App::start(proxy.config()).await;
    proxy.cut();
    app.assert_outage().await;
    proxy.heal();
    app.assert_recovery().await;
}

#[tokio::test]
async fn a_link_that_swallows_everything_logs_nobody_out() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let app = App::start(proxy.config().response_timeout(RESPONSE_TIMEOUT)).await;
    proxy.blackhole();
    app.assert_outage().await;
    proxy.heal();
    app.assert_recovery().await;
}

#[tokio::test]
async fn connections_that_have_gone_silent_are_replaced() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let node = store(config().redis(proxy.config().response_timeout(RESPONSE_TIMEOUT))).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    proxy.strand();
    assert_fails_in_time("find", node.find_fresh(id)).await;
    eventually(async || node.find_fresh(id).await.is_ok(), "commands use a new connection").await;
    let subscribed =
        async || node.coordinator().disconnects() == 1 && node.coordinator().is_listening();
    eventually(subscribed, "announcements use a new connection").await;
}

#[tokio::test]
async fn a_connection_closed_by_the_server_is_replaced_without_an_error() {
    let server = RedisServer::start();
    let app = App::start(server.config()).await;
    let _killed: i64 = server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    assert_eq!(app.status("GET", "/me").await, StatusCode::OK);
}

#[tokio::test]
async fn a_frozen_server_logs_nobody_out() {
    let server = RedisServer::start();
    let app = App::start(server.config().response_timeout(RESPONSE_TIMEOUT)).await;
    server.freeze();
    app.assert_outage().await;
    server.thaw();
    app.assert_recovery().await;
}

#[tokio::test]
async fn a_write_into_a_silent_link_has_an_unknown_outcome() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let app = App::start(proxy.config().response_timeout(RESPONSE_TIMEOUT)).await;
    // Makes the server cache the script.
    assert!(!app.store.delete(SessionId::from_bytes([0; 16])).await.unwrap());
    proxy.blackhole();
    let error = app.store.delete(app.id).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::OutcomeUnknown);
    proxy.heal();
    eventually(
        async || app.store.find(app.id).await.is_ok_and(|found| found.is_none()),
        "the write arrives late",
    )
    .await;
}

#[tokio::test]
async fn a_missing_server_is_an_outage_and_an_empty_one_is_not() {
    let mut server = RedisServer::start();
    let app = App::start(server.config()).await;
    server.kill();
    app.assert_outage().await;
    server.restart();
    eventually(async || app.store.healthy().await, "Redis answers").await;
    let gone = app.request("GET", "/me", Some(&app.cookie)).await;
    assert_eq!(gone.status(), StatusCode::UNAUTHORIZED);
    // A concurrent request may have just logged in, so only a logout removes a cookie.
    assert!(!gone.headers().contains_key(header::SET_COOKIE));
    assert_eq!(app.request("POST", "/login", None).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_server_that_is_missing_at_startup_is_used_once_it_runs() {
    let mut server = RedisServer::start();
    server.kill();
    let redis = server.config();
    let store = SessionStore::new(config().redis(redis).build().unwrap());
    let error = store.wait_until_ready(Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    server.restart();
    store.wait_until_ready(DEADLINE).await.unwrap();
    assert!(store.create(Data::default()).await.is_ok());
}

#[tokio::test]
async fn a_node_that_is_cut_off_answers_nothing_from_memory() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let cluster = ClusterConfig::new().max_staleness(Duration::from_millis(500));
    let redis = proxy.config().response_timeout(RESPONSE_TIMEOUT);
    let node = store(config().cluster(cluster).redis(redis)).await;
    let other = store(config().redis(server.config())).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    eventually(
        async || node.find(id).await.unwrap().is_some() && node.cache_stats().hits > 0,
        "the session is cached",
    )
    .await;

    // No connection is closed, so only the end of the lease stops the use of the cache.
    proxy.blackhole();
    other.delete(id).await.unwrap();
    eventually(async || node.find(id).await.is_err(), "the lease ends").await;
    assert!(!node.coordinator().is_listening());
    for _ in 0..3 {
        assert_fails_in_time("find", node.find(id)).await;
    }
    proxy.heal();
    let gone = async || node.find(id).await.is_ok_and(|found| found.is_none());
    eventually(gone, "the session is gone").await;
    eventually(async || node.coordinator().is_listening(), "the node holds its lease again").await;
    assert!(node.find(id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_printed() {
    let server = RedisServer::start();
    let () =
        server.command(&["ACL", "SETUSER", "app", "on", ">correct-horse", "+@all", "~*", "&*"]);
    let redis = server.config().user("app").password("battery-staple");
    let store = SessionStore::new(config().redis(redis).build().unwrap());
    let error = store.find(SessionId::from_bytes([0; 16])).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    for error in [
        error,
        store.create(Data::default()).await.unwrap_err(),
        store.wait_until_ready(Duration::ZERO).await.unwrap_err(),
    ] {
        let mut text = format!("{error} {error:?}");
        let mut source = error.source();
        while let Some(cause) = source {
            text += &format!(" {cause} {cause:?}");
            source = cause.source();
        }
        assert!(!text.contains("battery-staple"), "{text}");
    }
}

#[tokio::test]
async fn shutdown_closes_the_connections_and_later_operations_fail() {
    let server = RedisServer::start();
    let store = store(config().redis(server.config())).await;
    let id = store.create(Data::of("ada")).await.unwrap().id;
    eventually(
        async || server.connections() == 2,
        "one connection for commands and one for the subscription are open",
    )
    .await;
    store.shutdown().await;
    eventually(async || server.connections() == 0, "both are closed").await;
    assert_eq!(store.find(id).await.unwrap_err().kind(), StoreErrorKind::Closed);
    assert_eq!(store.create(Data::default()).await.unwrap_err().kind(), StoreErrorKind::Closed);
    assert_eq!(store.delete(id).await.unwrap_err().kind(), StoreErrorKind::Closed);
    assert!(!store.healthy().await);
    assert!(!store.coordinator().is_running());
    eventually(async || server.connections() == 0, "no connection is opened again").await;
}
