//! Real nodes whose link to Redis fails in part or as a whole while a session is revoked.
//!
//! Each trial prints `fault | still answered for | cache used again after`.

use std::time::Instant;

use axum::http::StatusCode;
use clustered_sessions::SessionId;
use serde_json::json;
use support::proxy::{Proxy, Purpose};
use support::trial::{MAX_STALENESS, Trial, stats};
use support::wait::eventually;

/// The far node's link fails, a session is revoked on the near one, and when the far node has seen that something is wrong, the
/// link is mended.
async fn link_fails(fault: &str, fail: impl FnOnce(&Proxy)) {
    let trial = Trial::start().await;
    fail(&trial.proxy);
    let acknowledged = trial.revoke().await;
    // It does not answer for Bob, who is logged in: so it has nothing to say about Eve either.
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
    let silence = |proxy: &Proxy| proxy.silence(Purpose::Commands);
    link_fails("only its connection for commands is silent", silence).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_reset() {
    link_fails("its connections are reset, and refused for a while", Proxy::reset).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_whose_announcements_are_swallowed() {
    let trial = Trial::start().await;
    trial.proxy.silence(Purpose::Announcements);
    let acknowledged = trial.revoke().await;
    // Deaf, but not mute: it asks Redis.
    trial.answers(&trial.far, &trial.eve, StatusCode::UNAUTHORIZED).await;
    trial.answers(&trial.far, &trial.bob, StatusCode::OK).await;
    trial.notices(&trial.far).await;
    trial.proxy.heal();
    trial.ends_well("only its subscription is silent", acknowledged, Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_whose_announcements_are_later_than_max_staleness() {
    let mut trial = Trial::start().await;
    // Of Ada's visits there would be more than the link holds.
    trial.rest().await;
    let heard = stats(&trial.far).await["announcements"].clone();
    // Soon enough for the node not to look for another connection.
    trial.proxy.delay(Purpose::Announcements, MAX_STALENESS * 8 / 5);
    let nobody = SessionId::from_bytes([0; 16]);
    let message = json!({"type": "SessionDeleted", "session_id": nobody.to_string()}).to_string();
    let () = trial.redis.command(&["PUBLISH", "session:invalidate", &message]);
    eventually(
        async || stats(&trial.far).await["announcements"] != heard,
        "the first one comes late",
    )
    .await;
    let acknowledged = trial.revoke().await;
    trial.answers(&trial.far, &trial.eve, StatusCode::UNAUTHORIZED).await;
    trial.proxy.heal();
    trial
        .ends_well(
            "its announcements come later than `max_staleness`",
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
        .ends_well("its connections go silent for good, new ones are well", acknowledged, stranded)
        .await;
}
