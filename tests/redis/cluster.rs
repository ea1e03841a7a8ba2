//! Three real nodes on one real Redis.

use std::time::Instant;

use axum::http::{StatusCode, header};
use futures_util::future::join_all;
use serde_json::json;
use support::client::Client;
use support::node::Node;
use support::redis::RedisServer;
use support::trial::{counter, stats};
use support::wait::eventually;

struct Cluster {
    nodes: Vec<Node>,
    redis: RedisServer,
}

impl Cluster {
    /// Starts three nodes and waits until they receive each other's announcements.
    async fn start() -> Self {
        let redis = RedisServer::start();
        let url = redis.url();
        let nodes: Vec<_> = ["one", "two", "three"].map(|id| start_node(&url, id)).into();
        for node in &nodes {
            eventually(async || stats(node).await["listening"] == true, "the node listens").await;
        }
        Cluster { nodes, redis }
    }

    async fn login(&self, node: usize, user: &str) -> Client {
        let mut browser = Client::new();
        let answer = browser.post(&self.nodes[node].url(&format!("/login?user={user}"))).await;
        assert_eq!((answer.status, &answer.body), (StatusCode::OK, &json!({"user": user})));
        assert!(browser.cookie.is_some());
        browser
    }

    /// Reads the session on every node until each has it cached.
    async fn warm_up(&self, browser: &Client) {
        for node in &self.nodes {
            let hit = async || {
                let hits = counter(node, "hits").await;
                assert_eq!(me(node, browser).await, StatusCode::OK);
                counter(node, "hits").await > hits
            };
            eventually(hit, "the node answers from its cache").await;
        }
    }

    /// Waits until the session is gone on every node.
    async fn gone_everywhere(&self, browser: &Client) {
        for node in &self.nodes {
            eventually(
                async || me(node, browser).await == StatusCode::UNAUTHORIZED,
                "the session is gone",
            )
            .await;
        }
    }
}

/// Starts a node with a long operation timeout: on a busy machine, a change that conflicts with
/// hundreds of others may take long.
fn start_node(url: &str, id: &str) -> Node {
    Node::start(&[("REDIS_URL", url), ("NODE_ID", id), ("OPERATION_TIMEOUT_MS", "30000")])
}

async fn me(node: &Node, browser: &Client) -> StatusCode {
    browser.clone().get(&node.url("/me")).await.status
}

#[tokio::test]
async fn a_login_on_one_node_is_a_login_on_all() {
    let cluster = Cluster::start().await;
    let mut browser = cluster.login(0, "ada").await;
    for node in &cluster.nodes {
        let answer = browser.get(&node.url("/me")).await;
        assert_eq!(
            (answer.status, answer.body),
            (StatusCode::OK, json!({"user": "ada", "visits": 0}))
        );
        assert_eq!(
            me(node, &Client::new()).await,
            StatusCode::UNAUTHORIZED,
            "a visitor without a cookie"
        );
    }
    for (node, id) in cluster.nodes.iter().zip(["one", "two", "three"]) {
        assert_eq!(stats(node).await["node_id"], id);
    }
}

#[tokio::test]
async fn logging_in_again_ends_the_previous_session() {
    let cluster = Cluster::start().await;
    let mut browser = cluster.login(0, "ada").await;
    let before = browser.clone();
    cluster.warm_up(&before).await;
    browser.post(&cluster.nodes[1].url("/login?user=ada")).await;
    assert_ne!(browser.cookie, before.cookie);
    cluster.gone_everywhere(&before).await;
    for node in &cluster.nodes {
        assert_eq!(me(node, &browser).await, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_visit_on_one_node_is_seen_on_all() {
    let cluster = Cluster::start().await;
    let mut browser = cluster.login(0, "ada").await;
    for (visits, node) in (1..).zip(&cluster.nodes) {
        cluster.warm_up(&browser).await;
        let answer = browser.post(&node.url("/visit")).await;
        assert_eq!((answer.status, answer.body), (StatusCode::OK, json!({"visits": visits})));
        assert!(!answer.headers.contains_key(header::SET_COOKIE), "the token does not change");
        for node in &cluster.nodes {
            let seen =
                async || browser.clone().get(&node.url("/me")).await.body["visits"] == visits;
            eventually(seen, "the visit is seen").await;
        }
    }
}

#[tokio::test]
async fn a_logout_on_one_node_is_a_logout_on_all() {
    let cluster = Cluster::start().await;
    let mut browser = cluster.login(0, "ada").await;
    let stolen = browser.clone();
    cluster.warm_up(&stolen).await;

    let answer = browser.post(&cluster.nodes[0].url("/logout")).await;
    let answered = Instant::now();
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    assert_eq!(browser.cookie, None, "the cookie is removed");
    cluster.gone_everywhere(&stolen).await;
    println!("gone on all nodes {:?} after the logout", answered.elapsed());
    for node in &cluster.nodes {
        assert_eq!(stolen.clone().post(&node.url("/visit")).await.status, StatusCode::UNAUTHORIZED);
        assert_eq!(
            counter(node, "disconnects").await,
            0,
            "the announcement evicted it, and not a lost subscription"
        );
    }
}

#[tokio::test]
async fn concurrent_visits_on_several_nodes_get_distinct_numbers() {
    let cluster = Cluster::start().await;
    let browser = cluster.login(0, "ada").await;
    let visits = (0..200).map(async |visit| {
        let node = &cluster.nodes[visit % 3];
        let answer = browser.clone().post(&node.url("/visit")).await;
        assert_eq!(answer.status, StatusCode::OK);
        answer.body["visits"].as_u64().unwrap()
    });
    let mut numbers = join_all(visits).await;
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn logging_out_everywhere_ends_all_sessions_of_the_user_and_no_other() {
    let cluster = Cluster::start().await;
    let mut ada = [
        cluster.login(0, "ada").await,
        cluster.login(1, "ada").await,
        cluster.login(2, "ada").await,
    ];
    let bob = cluster.login(0, "bob").await;
    for browser in ada.iter().chain([&bob]) {
        cluster.warm_up(browser).await;
    }
    let answer = ada[1].post(&cluster.nodes[2].url("/logout-everywhere")).await;
    assert_eq!((answer.status, answer.body), (StatusCode::OK, json!({"deleted": 3})));
    for browser in &ada {
        cluster.gone_everywhere(browser).await;
    }
    for node in &cluster.nodes {
        assert_eq!(me(node, &bob).await, StatusCode::OK);
    }
    let again = ada[1].post(&cluster.nodes[0].url("/logout-everywhere")).await;
    assert_eq!(again.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_node_exits_successfully_on_sigterm() {
    let mut cluster = Cluster::start().await;
    let browser = cluster.login(0, "ada").await;
    cluster.warm_up(&browser).await;
    // The node's connections to this test are open and idle.
    let status = cluster.nodes.remove(0).terminate().await;
    assert_eq!(status.code(), Some(0));
    for node in &cluster.nodes {
        assert_eq!(me(node, &browser).await, StatusCode::OK, "the session outlives the node");
    }
}

#[tokio::test]
async fn nodes_report_a_frozen_redis_and_recover_when_it_resumes() {
    let cluster = Cluster::start().await;
    let browser = cluster.login(0, "ada").await;
    cluster.warm_up(&browser).await;
    let respond = async |expected: StatusCode| {
        for node in &cluster.nodes {
            let health = async || Client::new().get(&node.url("/backend")).await.status == expected;
            eventually(health, "the node reports the state of Redis").await;
            // The node uses its cache until the lease ends.
            eventually(
                async || me(node, &browser).await == expected,
                "requests get the expected status",
            )
            .await;
        }
    };
    respond(StatusCode::OK).await;
    cluster.redis.freeze();
    respond(StatusCode::SERVICE_UNAVAILABLE).await;
    cluster.redis.thaw();
    respond(StatusCode::OK).await;
    for node in &cluster.nodes {
        eventually(async || stats(node).await["listening"] == true, "the node listens again").await;
    }
}
