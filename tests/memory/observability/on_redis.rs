//! Metrics and logs of a node whose Redis server is killed and restarted, or refuses its password.

use std::time::Duration;

use clustered_sessions::{ClusterConfig, SessionConfig, StoreErrorKind};

use super::{Scrape, visit};
use crate::web::{Data, RedisAddress as _, ada, secret};
use support::log::Log;
use support::redis::RedisServer;
use support::wait::eventually;

#[tokio::test]
async fn metrics_show_that_redis_was_killed_and_restarted() {
    let mut server = RedisServer::start();
    let scrape = Scrape::new();
    let cluster = ClusterConfig::new().max_staleness(Duration::from_millis(500));
    let redis = server.config().response_timeout(Duration::from_millis(200));
    let layer =
        scrape.start(SessionConfig::<Data>::builder(secret()).redis(redis).cluster(cluster)).await;
    let store = layer.store();
    let id = store.create(ada()).await.unwrap().id;
    store.modify(id, visit).await.unwrap();
    let received = async || scrape.get("announcements_received_total") == 1.0;
    eventually(received, "the announcement is received").await;
    assert_eq!(scrape.get("announcements_sent_total"), 1.0);
    assert_eq!(["listening", "subscriptions_total"].map(|series| scrape.get(series)), [1.0, 1.0]);
    assert_eq!(scrape.get("backend_calls_total{operation=\"update\",outcome=\"ok\"}"), 1.0);
    let last_heartbeat = scrape.get("last_heartbeat_timestamp_seconds");
    eventually(
        async || scrape.get("last_heartbeat_timestamp_seconds") > last_heartbeat,
        "heartbeats are reported",
    )
    .await;

    server.kill();
    eventually(async || scrape.get("listening") == 0.0, "the loss is reported").await;
    assert_eq!(scrape.get("subscription_losses_total"), 1.0);
    assert!(store.find(id).await.is_err());
    let failed = |outcome| {
        scrape.get(&format!("backend_calls_total{{operation=\"load\",outcome=\"{outcome}\"}}"))
    };
    assert!(failed("unavailable") + failed("timeout") >= 1.0);
    assert!(scrape.get("backend_retries_total") >= 1.0);

    server.restart();
    eventually(async || scrape.get("listening") == 1.0, "the node receives announcements again")
        .await;
    assert!(scrape.get("subscriptions_total") >= 2.0);
    assert_eq!(scrape.get("subscription_losses_total"), 1.0);
}

#[tokio::test]
async fn a_password_that_redis_refuses_is_not_logged() {
    let server = RedisServer::start();
    let (log, password) = (Log::default(), "a-password-that-nobody-may-see");
    let guard = log.capture("trace");
    let redis = server.config().user("nobody").password(password);
    let scrape = Scrape::new();
    let layer = scrape.build(SessionConfig::<Data>::builder(secret()).redis(redis));
    let error = layer.store().create(ada()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    let logged = async || log.text().contains("not listening");
    eventually(logged, "the listener logs that it has no subscription").await;
    drop(guard);
    assert_eq!(scrape.get("backend_calls_total{operation=\"create\",outcome=\"refused\"}"), 1.0);
    assert!(!log.text().contains(password), "{}", log.text());
}
