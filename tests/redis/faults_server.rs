//! Real nodes whose Redis is paused, stopped, killed or emptied while a session is revoked.
//!
//! Each trial prints `fault | still served for | cache used again after`.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use futures_util::future::join;
use support::redis::RedisServer;
use support::trial::{MAX_STALENESS, Trial, counter, start_node, stats};
use support::wait::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_killed_just_before_a_revocation() {
    let trial = Trial::start().await;
    assert_eq!(trial.redis.command::<u64>(&["CLIENT", "KILL", "TYPE", "pubsub"]), 2);
    let killed = Instant::now();
    let acknowledged = trial.revoke().await;
    trial.notices(&trial.near).await;
    trial.notices(&trial.far).await;
    trial.ends_well("`CLIENT KILL TYPE pubsub` just before", acknowledged, killed).await;
}

/// Duration of a pause, longer than `max_staleness`.
const PAUSE: Duration = Duration::from_millis(1500);

/// Pauses the server and returns the time at which the pause ends.
fn pause(trial: &Trial) -> Instant {
    let () = trial.redis.command(&["CLIENT", "PAUSE", &PAUSE.as_millis().to_string(), "ALL"]);
    Instant::now() + PAUSE
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_pauses_just_after_a_revocation() {
    assert!(PAUSE > MAX_STALENESS);
    let trial = Trial::start().await;
    let acknowledged = trial.revoke().await;
    let end = pause(&trial);
    trial.answers(&trial.far, &trial.bob, StatusCode::SERVICE_UNAVAILABLE).await;
    tokio::time::sleep_until(end.into()).await;
    trial.ends_well("`CLIENT PAUSE` just after", acknowledged, end).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_pauses_just_before_a_revocation() {
    let trial = Trial::start().await;
    let end = pause(&trial);
    let acknowledged = trial.revoke().await;
    assert!(Instant::now() > end, "nothing is acknowledged while the server pauses");
    trial.ends_well("`CLIENT PAUSE` just before", acknowledged, end).await;
}

/// Resumes a stopped server once both nodes have noticed the outage, and returns the time.
async fn resume(trial: &Trial) -> Instant {
    for node in [&trial.near, &trial.far] {
        trial.answers(node, &trial.bob, StatusCode::SERVICE_UNAVAILABLE).await;
    }
    trial.redis.thaw();
    Instant::now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_stopped_just_after_a_revocation() {
    let trial = Trial::start().await;
    let acknowledged = trial.revoke().await;
    trial.redis.freeze();
    let thawed = resume(&trial).await;
    trial
        .ends_well("Redis is stopped (`SIGSTOP`) just after and resumed", acknowledged, thawed)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_stopped_just_before_a_revocation() {
    let trial = Trial::start().await;
    trial.redis.freeze();
    let (acknowledged, thawed) = join(trial.revoke(), resume(&trial)).await;
    assert!(acknowledged > thawed, "nothing is acknowledged while the server is stopped");
    trial
        .ends_well("Redis is stopped (`SIGSTOP`) just before and resumed", acknowledged, thawed)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_just_after_a_revocation_and_restarts_with_its_data() {
    let redis = RedisServer::with_args(&["--appendonly", "yes", "--appendfsync", "always"]);
    let mut trial = Trial::on(redis, "").await;
    let acknowledged = trial.revoke().await;
    trial.redis.kill();
    trial.answers(&trial.near, &trial.bob, StatusCode::SERVICE_UNAVAILABLE).await;
    trial.answers(&trial.far, &trial.bob, StatusCode::SERVICE_UNAVAILABLE).await;
    trial.redis.restart();
    trial
        .ends_well("Redis is killed and restarted with its data", acknowledged, Instant::now())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_just_after_a_revocation_and_restarts_empty() {
    let mut trial = Trial::start().await;
    let acknowledged = trial.revoke().await;
    trial.redis.restart();
    let restarted = Instant::now();
    trial.log_in_again().await;
    trial.ends_well("Redis is killed and restarted empty", acknowledged, restarted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_node_subscribes_again_at_the_first_attempt_after_an_outage() {
    let mut redis = RedisServer::start();
    let node = start_node(redis.port(), "", &[]);
    eventually(async || stats(&node).await["listening"] == true, "the node listens").await;
    redis.kill();
    eventually(async || counter(&node, "disconnects").await == 1, "the node notices").await;
    redis.restart();
    eventually(async || stats(&node).await["listening"] == true, "the node listens again").await;
    // One for the shared channel, and one for the node's heartbeats.
    assert_eq!(redis.calls()["subscribe"], 2, "the node has not tried the broken connection first");
}
