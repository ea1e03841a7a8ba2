//! Requests go on coming while Redis is frozen or gone: each is answered in time, and nothing piles
//! up.
//!
//! Each test prints `fault | requests | slowest answer | most tasks | most connections | most under
//! way in the second half`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::routing::{get, post};
use clustered_sessions::{
    CircuitBreakerConfig, CircuitState, ClusterConfig, Session, SessionConfigBuilder, SessionError,
    SessionLayer, SessionStore,
};
use support::proxy::Proxy;
use support::redis::RedisServer;
use support::wait::eventually;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::nodes::{Data, config};
use crate::web::RedisAddress as _;

/// Between one request and the next, answered or not: 250 come in a second.
const PACE: Duration = Duration::from_millis(4);
/// For how long they come while the server is out of order.
const STORM: Duration = Duration::from_secs(4);
/// What an operation may take. Each request fails in its first one.
const OPERATION: Duration = Duration::from_secs(1);
/// On a busy machine an answer may be late, and a timer, too.
const GENEROUS: Duration = OPERATION.saturating_mul(3);

/// Who has a session, each in a visitor's cookie, without a cache: so each request needs Redis.
struct App {
    router: Router,
    store: SessionStore<Data>,
    cookies: Vec<HeaderValue>,
    proxy: Proxy,
    redis: RedisServer,
}

impl App {
    async fn start(
        change: impl FnOnce(SessionConfigBuilder<Data>) -> SessionConfigBuilder<Data>,
    ) -> Self {
        let redis = RedisServer::start();
        let proxy = Proxy::start(redis.port()).await;
        let (answer, connect) = (OPERATION / 5, OPERATION * 3 / 10);
        let server = proxy.config().response_timeout(answer).connect_timeout(connect);
        let cluster = ClusterConfig::new().local_cache_enabled(false);
        let config = change(config().cluster(cluster).redis(server).operation_timeout(OPERATION));
        let layer = SessionLayer::new(config.build().unwrap());
        let store = layer.store().clone();
        let mut cookies = Vec::new();
        for _ in 0..50 {
            cookies.push(layer.cookie_for(Data::of("ada")).await.unwrap());
        }
        let router = Router::new()
            .route("/me", get(me))
            .route("/visit", post(visit))
            .route("/login", post(login))
            .route("/logout", post(logout))
            .layer(layer);
        App { router, store, cookies, proxy, redis }
    }

    /// The request of this number: somebody reads, changes, begins or ends a session.
    async fn request(&self, number: usize) -> StatusCode {
        let (method, path) =
            [("GET", "/me"), ("POST", "/visit"), ("POST", "/login"), ("POST", "/logout")]
                [number % 4];
        let mut request = Request::builder().method(method).uri(path);
        if path != "/login" {
            request = request.header(header::COOKIE, &self.cookies[number % self.cookies.len()]);
        }
        self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
    }

    /// Requests come at their pace and are all refused. How many were under way at the most in the
    /// second half.
    async fn storm(self: &Arc<Self>, fault: &str) -> usize {
        let (slowest, under_way) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
        let (mut most_tasks, mut most_connections, mut most_under_way) = (0, 0, 0);
        let mut requests = JoinSet::new();
        let mut pace = tokio::time::interval(PACE);
        let (begun, mut number) = (Instant::now(), 0);
        while begun.elapsed() < STORM {
            pace.tick().await;
            let (app, slowest, counter) = (self.clone(), slowest.clone(), under_way.clone());
            requests.spawn(async move {
                counter.fetch_add(1, Ordering::SeqCst);
                let asked = Instant::now();
                assert_eq!(app.request(number).await, StatusCode::SERVICE_UNAVAILABLE);
                slowest.fetch_max(asked.elapsed().as_millis() as u64, Ordering::SeqCst);
                counter.fetch_sub(1, Ordering::SeqCst);
            });
            number += 1;
            while let Some(answered) = requests.try_join_next() {
                answered.unwrap();
            }
            most_tasks = most_tasks.max(Handle::current().metrics().num_alive_tasks());
            most_connections = most_connections.max(self.proxy.connections());
            if begun.elapsed() > STORM / 2 {
                most_under_way = most_under_way.max(under_way.load(Ordering::SeqCst));
            }
        }
        while let Some(answered) = requests.join_next().await {
            answered.unwrap();
        }
        let slowest = Duration::from_millis(slowest.load(Ordering::SeqCst));
        println!(
            "{fault} | {number} | {slowest:?} | {most_tasks} | {most_connections} | {most_under_way}"
        );
        assert!(slowest < GENEROUS, "an answer took {slowest:?}");
        let at_a_time = GENEROUS.div_duration_f64(PACE) as usize;
        // The request, and what it waits for: a load, or a commit.
        assert!(most_tasks < 2 * at_a_time, "{most_tasks} tasks were alive");
        // One at a time is made; the one before may not be closed yet.
        assert!(most_connections <= 3, "{most_connections} connections were open");
        most_under_way
    }

    /// Nothing of the storm is left, and all is well.
    async fn recovers(&self, tasks_before: usize) {
        let few = || Handle::current().metrics().num_alive_tasks() <= tasks_before + 10;
        eventually(async || few(), "the tasks of the storm have ended").await;
        eventually(async || self.store.healthy().await, "Redis answers").await;
        eventually(async || self.request(2).await == StatusCode::OK, "logins succeed").await;
        assert!(self.proxy.connections() <= 2);
    }
}

async fn me(session: Session<Data>) -> String {
    session.read(|data| data.user.clone().unwrap_or_default())
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

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_piles_up_before_a_frozen_server() {
    let app = Arc::new(App::start(|config| config).await);
    let before = tasks();
    app.redis.freeze();
    app.storm("frozen").await;
    app.redis.thaw();
    app.recovers(before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_piles_up_while_a_server_is_gone() {
    let mut app = App::start(|config| config).await;
    let before = tasks();
    app.redis.kill();
    let app = Arc::new(app);
    app.storm("killed").await;
    let mut app = Arc::into_inner(app).unwrap();
    app.redis.restart();
    app.recovers(before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_circuit_breaker_nobody_waits_for_a_frozen_server() {
    // Open long before the second half of the storm, and until after it.
    let breaker = CircuitBreakerConfig::new().failure_threshold(3).reset_timeout(STORM);
    let app = Arc::new(App::start(|config| config.circuit_breaker(breaker)).await);
    let before = tasks();
    app.redis.freeze();
    let under_way = app.storm("frozen, with a circuit breaker").await;
    assert_eq!(app.store.circuit().openings(), 1);
    assert!(
        under_way < GENEROUS.div_duration_f64(PACE) as usize / 10,
        "{under_way} requests were under way"
    );
    app.redis.thaw();
    app.recovers(before).await;
    let closed = async || {
        assert_eq!(app.request(2).await, StatusCode::OK);
        app.store.circuit().state() == CircuitState::Closed
    };
    eventually(closed, "a few answers close the circuit").await;
}
