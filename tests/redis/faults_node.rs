//! Real nodes that are stopped, or lose the permission to subscribe or to announce, while a session
//! is revoked.
//!
//! Each trial prints `fault | still served for | cache used again after`.

use std::time::Instant;

use axum::http::StatusCode;
use futures_util::future::join_all;
use serde_json::json;
use support::client::Client;
use support::proxy::Purpose;
use support::redis::RedisServer;
use support::trial::{MARGIN, MAX_STALENESS, Trial, me};
use support::wait::eventually;
use tokio::task::JoinHandle;

/// Runs a trial: the far node is stopped, `meanwhile` runs, Eve's session is revoked, and the node
/// is resumed just after its lease has ended.
async fn node_is_stopped(fault: &str, trial: Trial, meanwhile: impl AsyncFnOnce(&Trial)) {
    trial.far.freeze();
    meanwhile(&trial).await;
    let acknowledged = trial.revoke().await;
    let waiting = query_stopped_node(&trial);
    // The node stays stopped for longer than its lease.
    tokio::time::sleep(MAX_STALENESS + MARGIN).await;
    trial.far.thaw();
    let thawed = Instant::now();
    for status in join_all(waiting).await {
        assert_ne!(
            status.unwrap(),
            StatusCode::OK,
            "a session was served that had been revoked for longer than max_staleness"
        );
    }
    trial.proxy.heal();
    trial.ends_well(fault, acknowledged, thawed).await;
}

/// Sends requests with Eve's cookie to the stopped node. They wait in its sockets until it is
/// resumed.
fn query_stopped_node(trial: &Trial) -> Vec<JoinHandle<StatusCode>> {
    let ask = |_| {
        // Each request has its own connection.
        let (url, mut browser) = (trial.far.url("/me"), Client::new());
        browser.cookie.clone_from(&trial.eve.cookie);
        tokio::spawn(async move { browser.get(&url).await.status })
    };
    (0..16).map(ask).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_stopped_does_not_serve_a_session_revoked_meanwhile() {
    let trial = Trial::start().await;
    node_is_stopped("a node is stopped (`SIGSTOP`) and resumed", trial, async |_| ()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_stopped_serves_no_revoked_session_even_if_its_subscription_is_silent() {
    let mut trial = Trial::start().await;
    // Otherwise an overdue reply would show the node that it was stopped.
    trial.stop_visits().await;
    // Otherwise the announcement would wait in the node's socket, and might be received before the
    // requests.
    let drop_messages = async |trial: &Trial| trial.proxy.silence(Purpose::Announcements);
    node_is_stopped(
        "a node is stopped, and its subscription goes silent meanwhile",
        trial,
        drop_messages,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_announcements_overran_the_output_buffer_subscribes_again() {
    let trial = Trial::start().await;
    let () =
        trial.redis.command(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 64kb 32kb 1"]);
    let overrun = async |trial: &Trial| {
        let listeners =
            || trial.redis.command::<String>(&["CLIENT", "LIST", "TYPE", "pubsub"]).lines().count();
        assert_eq!(listeners(), 2);
        // In batches that the output buffer of the other node can hold.
        let flood = "for i = 1, 16 do redis.call('PUBLISH', 'session:invalidate', ARGV[1]) end";
        let id = "AAECAwQFBgcICQoLDA0ODw";
        let message =
            json!({"type": "SessionDeleted", "session_id": id, "padding": "x".repeat(2000)})
                .to_string();
        let is_closed = async || {
            let () = trial.redis.command(&["EVAL", flood, "0", &message]);
            listeners() < 2
        };
        eventually(is_closed, "Redis closes the subscription of the node that does not read").await;
    };
    node_is_stopped("its announcements overrun Redis' output buffer meanwhile", trial, overrun)
        .await;
}

/// Starts a trial whose far node has a Redis user of its own, with all permissions at first.
async fn trial_of_app_user() -> Trial {
    let redis = RedisServer::start();
    let () = redis.command(&["ACL", "SETUSER", "app", "on", ">secret", "+@all", "~*", "&*"]);
    Trial::on(redis, "app:secret@").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_may_not_listen_does_not_use_its_cache() {
    let trial = trial_of_app_user().await;
    let () = trial.redis.command(&["ACL", "SETUSER", "app", "resetchannels"]);
    let acknowledged = trial.revoke().await;
    trial.notices(&trial.far).await;
    trial.answers(&trial.far, &trial.eve, StatusCode::UNAUTHORIZED).await;
    assert_eq!(me(&trial.far, &trial.bob).await, StatusCode::OK, "the node reads from Redis");
    let () = trial.redis.command(&["ACL", "SETUSER", "app", "allchannels"]);
    trial
        .ends_well(
            "an ACL revokes a node's permission for the channel",
            acknowledged,
            Instant::now(),
        )
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_may_not_announce_writes_nothing() {
    let mut trial = trial_of_app_user().await;
    trial.stop_visits().await;
    let sessions: Vec<String> = trial.redis.command(&["KEYS", "session:??????????????????????"]);
    let get_all: Vec<&str> =
        std::iter::once("MGET").chain(sessions.iter().map(String::as_str)).collect();
    let records = || trial.redis.command::<Vec<Option<Vec<u8>>>>(&get_all);
    let () = trial.redis.command(&["ACL", "SETUSER", "app", "-publish"]);
    let before = records();
    let mut bob = trial.bob.clone();
    for path in ["/visit", "/logout", "/login?user=bob", "/logout-everywhere"] {
        assert_eq!(
            bob.post(&trial.far.url(path)).await.status,
            StatusCode::SERVICE_UNAVAILABLE,
            "{path}"
        );
    }
    assert_eq!(bob.cookie, trial.bob.cookie);
    assert!(records() == before, "a change that cannot be announced is not written");
    let acknowledged = trial.revoke().await;
    trial.notices(&trial.far).await;
    trial.answers(&trial.far, &trial.eve, StatusCode::UNAUTHORIZED).await;
    assert_eq!(me(&trial.far, &trial.bob).await, StatusCode::OK, "the node reads from Redis");
    let () = trial.redis.command(&["ACL", "SETUSER", "app", "+publish"]);
    trial.ends_well("an ACL refuses a node's announcements", acknowledged, Instant::now()).await;
}
