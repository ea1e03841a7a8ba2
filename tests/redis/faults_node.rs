//! Real nodes that are stopped, deaf or forbidden to speak while a session is revoked.
//!
//! Each trial prints `fault | still answered for | cache used again after`.

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

/// The far node is stopped, something happens, and Eve's session is revoked. It goes on just after its lease has ended.
async fn node_is_stopped(fault: &str, trial: Trial, meanwhile: impl AsyncFnOnce(&Trial)) {
    trial.far.freeze();
    meanwhile(&trial).await;
    let acknowledged = trial.revoke().await;
    let waiting = ask_a_stopped_node(&trial);
    // The fault itself lasts that long.
    tokio::time::sleep(MAX_STALENESS + MARGIN).await;
    trial.far.thaw();
    let thawed = Instant::now();
    for status in join_all(waiting).await {
        assert_ne!(
            status.unwrap(),
            StatusCode::OK,
            "asked after the logout, and answered after max_staleness"
        );
    }
    trial.proxy.heal();
    trial.ends_well(fault, acknowledged, thawed).await;
}

/// Questions about Eve that wait in the far node's sockets: all of them begin to be served when it goes on.
fn ask_a_stopped_node(trial: &Trial) -> Vec<JoinHandle<StatusCode>> {
    let ask = |_| {
        // Each over a connection of its own.
        let (url, mut browser) = (trial.far.url("/me"), Client::new());
        browser.cookie.clone_from(&trial.eve.cookie);
        tokio::spawn(async move { browser.get(&url).await.status })
    };
    (0..16).map(ask).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_stopped_knows_that_it_has_missed_something() {
    let trial = Trial::start().await;
    node_is_stopped("a node is stopped (`SIGSTOP`) and goes on", trial, async |_| ()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_stopped_knows_it_though_nothing_is_to_be_heard() {
    let mut trial = Trial::start().await;
    // Else an answer that is overdue tells the node that something was wrong.
    trial.rest().await;
    // Else the announcement waits in the node's socket, and may be faster than the questions.
    let drop_messages = async |trial: &Trial| trial.proxy.silence(Purpose::Announcements);
    node_is_stopped(
        "a node is stopped, and its subscription goes silent meanwhile",
        trial,
        drop_messages,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_announcements_overran_their_buffer_starts_anew() {
    let trial = Trial::start().await;
    let () =
        trial.redis.command(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 64kb 32kb 1"]);
    let overrun = async |trial: &Trial| {
        let listeners =
            || trial.redis.command::<String>(&["CLIENT", "LIST", "TYPE", "pubsub"]).lines().count();
        assert_eq!(listeners(), 2);
        // In portions that the other node's buffer can hold.
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
    node_is_stopped("its announcements overrun Redis' buffer for it meanwhile", trial, overrun)
        .await;
}

/// The far node's user may do everything, until it is forbidden.
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
    assert_eq!(me(&trial.far, &trial.bob).await, StatusCode::OK, "it asks Redis");
    let () = trial.redis.command(&["ACL", "SETUSER", "app", "allchannels"]);
    trial.ends_well("an ACL takes the channel from a node", acknowledged, Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_may_not_announce_writes_nothing() {
    let mut trial = trial_of_app_user().await;
    trial.rest().await;
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
    assert!(records() == before, "what cannot be announced is not written");
    let acknowledged = trial.revoke().await;
    trial.notices(&trial.far).await;
    trial.answers(&trial.far, &trial.eve, StatusCode::UNAUTHORIZED).await;
    assert_eq!(me(&trial.far, &trial.bob).await, StatusCode::OK, "it asks Redis");
    let () = trial.redis.command(&["ACL", "SETUSER", "app", "+publish"]);
    trial.ends_well("an ACL refuses a node's announcements", acknowledged, Instant::now()).await;
}
