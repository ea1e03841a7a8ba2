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
    let logged = async || log.text().contains("cannot listen");
    eventually(logged, "the listener logs that it has no subscription").await;
    drop(guard);
    assert_eq!(scrape.get("backend_calls_total{operation=\"create\",outcome=\"refused\"}"), 1.0);
    assert!(!log.text().contains(password), "{}", log.text());
}

/// Returns the lines of a log at `info` and above that contain this text.
fn lines(log: &Log, text: &str) -> Vec<String> {
    log.text().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_node_that_cannot_reach_redis_from_the_start_says_so_once_and_says_when_it_can() {
    let mut server = RedisServer::start();
    server.kill();
    let (log, scrape) = (Log::default(), Scrape::new());
    let guard = log.capture("info");
    let layer = scrape.build(SessionConfig::<Data>::builder(secret()).redis(server.config()));
    for _ in 0..3 {
        layer.store().create(ada()).await.unwrap_err();
    }
    let listener = async || lines(&log, "cannot listen to session announcements").len() == 1;
    eventually(listener, "the listener says that it has no subscription").await;
    for text in ["cannot listen", "a call to the session backend has failed"] {
        let lines = lines(&log, text);
        assert_eq!(lines.len(), 1, "{}", log.text());
        assert!(lines[0].contains("WARN") && lines[0].contains("refused"), "{lines:?}");
    }
    server.restart();
    layer.store().wait_until_ready(Duration::from_secs(10)).await.unwrap();
    let recovered = lines(&log, "calls to the session backend succeed again");
    assert_eq!(recovered.len(), 1, "{}", log.text());
    drop(guard);
}

#[tokio::test]
async fn a_missing_permission_is_named_in_the_log_and_by_the_readiness_check() {
    let server = RedisServer::start();
    let () = server.command(&["ACL", "SETUSER", "app", "on", ">app", "+@all", "~*", "-subscribe"]);
    let () = server.command(&["ACL", "SETUSER", "app", "&*"]);
    let (log, scrape) = (Log::default(), Scrape::new());
    let guard = log.capture("info");
    let redis = server.config().user("app").password("app");
    let layer = scrape.build(SessionConfig::<Data>::builder(secret()).redis(redis));
    let error = layer.store().wait_until_ready(Duration::from_secs(2)).await.unwrap_err();
    drop(guard);
    assert_eq!(error.kind(), StoreErrorKind::Timeout);
    let mut cause = std::error::Error::source(&error);
    let mut text = String::new();
    while let Some(error) = cause {
        text += &error.to_string();
        cause = error.source();
    }
    assert!(text.contains("subscribe"), "{text}");
    let warnings = lines(&log, "cannot listen to session announcements");
    assert_eq!(warnings.len(), 1, "{}", log.text());
    assert!(warnings[0].contains("no permissions to run the 'subscribe'"), "{warnings:?}");
}

#[tokio::test]
async fn a_command_that_redis_refuses_is_logged_once_and_counted() {
    let server = RedisServer::start();
    let () = server.command(&["ACL", "SETUSER", "app", "on", ">app", "+@all", "~*", "&*"]);
    let (log, scrape) = (Log::default(), Scrape::new());
    let guard = log.capture("info");
    let redis = server.config().user("app").password("app");
    let layer = scrape.start(SessionConfig::<Data>::builder(secret()).redis(redis)).await;
    assert_eq!(scrape.get("backend_refused_commands"), 0.0);
    assert!(lines(&log, "refuses a command").is_empty(), "{}", log.text());

    let () = server.command(&["ACL", "SETUSER", "app", "-info"]);
    let counted = async || scrape.get("backend_refused_commands") == 1.0;
    eventually(counted, "the refusal is counted").await;
    // Each connection asks again.
    let _: u64 = server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    let _: u64 = server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    eventually(async || scrape.get("subscriptions_total") >= 3.0, "the node subscribes again")
        .await;
    layer.store().wait_until_ready(Duration::from_secs(10)).await.unwrap();
    drop(guard);
    let warnings = lines(&log, "the Redis server refuses a command");
    assert_eq!(warnings.len(), 1, "{}", log.text());
    assert!(warnings[0].contains("WARN") && warnings[0].contains("INFO"), "{warnings:?}");
}

#[tokio::test]
async fn the_line_at_the_loss_of_a_subscription_names_the_cause() {
    let mut server = RedisServer::start();
    let (log, scrape) = (Log::default(), Scrape::new());
    let guard = log.capture("info");
    let layer = scrape.start(SessionConfig::<Data>::builder(secret()).redis(server.config())).await;
    server.kill();
    let lost = async || !lines(&log, "no longer listening").is_empty();
    eventually(lost, "the loss is logged").await;
    drop(guard);
    let line = lines(&log, "no longer listening").remove(0);
    assert!(line.contains("the connection of the subscription was closed"), "{line}");
    layer.store().shutdown().await;
}
