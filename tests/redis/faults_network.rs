//! Real nodes whose link to Redis fails partly or completely while a session is revoked.
//!
//! Each trial prints `fault | still served for | cache used again after`.

use std::time::Instant;

use axum::http::StatusCode;
use clustered_sessions::SessionId;
use serde_json::json;
use support::proxy::{Proxy, Purpose};
use support::trial::{MAX_STALENESS, Trial, counter};
use support::wait::eventually;

/// Runs a trial: the far node's link fails, a session is revoked on the near node, and the link is
/// healed once the far node has noticed the fault.
async fn link_fails(fault: &str, fail: impl FnOnce(&Proxy)) {
    let trial = Trial::start().await;
    fail(&trial.proxy);
    let acknowledged = trial.revoke().await;
    // The node serves not even Bob, who is still logged in, so it cannot serve Eve.
    trial.answers(&trial.far, &trial.bob, StatusCode::SERVICE_UNAVAILABLE).await;
    trial.proxy.heal();
    trial.ends_well(fault, acknowledged, Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_swallows_everything() {
    link_fails("a node's link to Redis swallows everything", Proxy::blackhole).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_whose_commands_are_swallowed() {
    let trial = Trial::start().await;
    trial.proxy.silence(Purpose::Commands);
    let acknowledged = trial.revoke().await;
    // The announcement arrives, so Eve is not served. Neither is she refused, since nothing can be
    // read. Whoever is cached is served: the subscription still proves itself.
    trial.answers(&trial.far, &trial.eve, StatusCode::SERVICE_UNAVAILABLE).await;
    trial.answers(&trial.far, &trial.bob, StatusCode::OK).await;
    trial.proxy.heal();
    trial
        .ends_well("only its connection for commands is silent", acknowledged, Instant::now())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_reset() {
    link_fails("its connections are reset, and new ones refused for a while", Proxy::reset).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_whose_announcements_are_swallowed() {
    let trial = Trial::start().await;
    trial.proxy.silence(Purpose::Announcements);
    let acknowledged = trial.revoke().await;
    // The node receives no announcements but can send commands, so it reads from Redis.
    trial.answers(&trial.far, &trial.eve, StatusCode::UNAUTHORIZED).await;
    trial.answers(&trial.far, &trial.bob, StatusCode::OK).await;
    trial.notices(&trial.far).await;
    trial.proxy.heal();
    trial.ends_well("only its subscription is silent", acknowledged, Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_whose_announcements_are_later_than_max_staleness() {
    let mut trial = Trial::start().await;
    // The proxy could not hold the announcements of Ada's visits.
    trial.stop_visits().await;
    let before = counter(&trial.far, "announcements").await;
    // Short enough that the node does not replace the connection.
    trial.proxy.delay(Purpose::Announcements, MAX_STALENESS * 8 / 5);
    let unknown = SessionId::from_bytes([0; 16]);
    let message = json!({"type": "SessionDeleted", "session_id": unknown.to_string()}).to_string();
    let () = trial.redis.command(&["PUBLISH", "session:invalidate", &message]);
    eventually(
        async || counter(&trial.far, "announcements").await > before,
        "the first delayed announcement arrives",
    )
    .await;
    let acknowledged = trial.revoke().await;
    trial.answers(&trial.far, &trial.eve, StatusCode::UNAUTHORIZED).await;
    trial.proxy.heal();
    trial
        .ends_well(
            "its announcements arrive later than `max_staleness`",
            acknowledged,
            Instant::now(),
        )
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_go_silent_for_good() {
    let trial = Trial::start().await;
    trial.proxy.strand();
    let stranded = Instant::now();
    let acknowledged = trial.revoke().await;
    trial.notices(&trial.far).await;
    trial
        .ends_well("its connections go silent for good, new ones work", acknowledged, stranded)
        .await;
}
