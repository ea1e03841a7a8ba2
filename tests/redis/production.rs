//! Runs the example `production` as real processes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use support::client::Client;
use support::node::Node;
use support::redis::RedisServer;
use support::wait::eventually;

struct Production {
    node: Node,
    admin: String,
}

impl Production {
    async fn start(redis: &RedisServer, node_id: &str) -> Self {
        let url = redis.url();
        let mut node = Node::start_example(
            "production",
            &[
                ("REDIS_URL", &url),
                ("NODE_ID", node_id),
                ("SESSION_SECRET", "a secret for tests, long enough for all"),
                ("SESSION_SECRET_PREVIOUS", ""),
                ("LISTEN", "127.0.0.1:0"),
                ("ADMIN_LISTEN", "127.0.0.1:0"),
                ("PLAIN_HTTP", "yes"),
            ],
        );
        let production = Production { admin: node.read_line("metrics and probes on "), node };
        assert_eq!(production.status("/readyz").await, StatusCode::OK);
        eventually(async || production.stat("listening").await == true, "the node listens").await;
        production
    }

    async fn status(&self, path: &str) -> StatusCode {
        Client::new().get(&format!("{}{path}", self.admin)).await.status
    }

    async fn stat(&self, name: &str) -> serde_json::Value {
        Client::new().get(&format!("{}/stats", self.admin)).await.body[name].clone()
    }

    async fn login(&self, user: &str) -> Client {
        let mut browser = Client::new();
        let answer = browser.post(&self.node.url(&format!("/login?user={user}"))).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
        browser
    }
}

/// The number of visits made by many clients.
#[derive(Default)]
struct Tally {
    acknowledged: AtomicU64,
    /// Visits without a response, which may or may not have been counted.
    unknown: AtomicU64,
}

/// Sends visits until the node no longer responds.
async fn visit_until_the_end(node: &str, browser: &Client, tally: &Tally) {
    let mut browser = browser.clone();
    while let Some(answer) = browser.try_send("POST", node).await {
        if answer.status == StatusCode::OK {
            tally.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
    tally.unknown.fetch_add(1, Ordering::Relaxed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_terminated_under_load_loses_no_acknowledged_write() {
    let redis = RedisServer::start();
    let (ending, staying) =
        (Production::start(&redis, "ending").await, Production::start(&redis, "staying").await);
    let ada = ending.login("ada").await;
    let (tally, url) = (Tally::default(), ending.node.url("/visit"));
    let clients = join_all((0..16).map(|_| visit_until_the_end(&url, &ada, &tally)));
    let end = async {
        let under_load = async || tally.acknowledged.load(Ordering::Relaxed) >= 100;
        eventually(under_load, "the node is under load").await;
        assert!(ending.node.terminate().await.success());
    };
    tokio::join!(clients, end);

    let (acknowledged, unknown) = (tally.acknowledged.into_inner(), tally.unknown.into_inner());
    let visits = ada.clone().get(&staying.node.url("/")).await.body["visits"].as_u64().unwrap();
    assert!(
        (acknowledged..=acknowledged + unknown).contains(&visits),
        "{visits} visits were counted, {acknowledged} acknowledged, {unknown} unknown"
    );
}

#[tokio::test]
async fn a_node_without_redis_stays_ready_and_serves_cached_sessions_read_only() {
    let mut redis = RedisServer::start();
    let node = Production::start(&redis, "one").await;
    let mut ada = node.login("ada").await;
    assert_eq!(ada.get(&node.node.url("/")).await.body["read_only"], false);
    redis.kill();
    eventually(
        async || node.stat("listening").await == false,
        "the node notices that announcements no longer arrive",
    )
    .await;
    for probe in ["/livez", "/readyz"] {
        assert_eq!(node.status(probe).await, StatusCode::OK);
    }
    let shown = async || ada.clone().get(&node.node.url("/")).await.body["read_only"] == true;
    eventually(shown, "the session is shown read-only").await;
    let visit = ada.post(&node.node.url("/visit")).await;
    assert_eq!(visit.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(ada.cookie.is_some(), "an outage logs nobody out");
}

#[tokio::test]
async fn a_cross_site_request_is_rejected() {
    let redis = RedisServer::start();
    let node = Production::start(&redis, "one").await;
    let ada = node.login("ada").await;
    let request = http::Request::post(node.node.url("/visit"))
        .header("cookie", ada.cookie.clone().unwrap())
        .header("origin", "https://evil.example")
        .header("sec-fetch-site", "cross-site")
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http();
    let answer = tokio::time::timeout(Duration::from_secs(10), client.request(request))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(ada.clone().get(&node.node.url("/")).await.body["visits"], 0);
}
