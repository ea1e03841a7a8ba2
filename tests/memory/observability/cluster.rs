//! Metrics of the listener: its subscription, heartbeats and announcements.

use std::time::{SystemTime, UNIX_EPOCH};

use clustered_sessions::backend::Backend as _;
use clustered_sessions::testing::FaultyBackend;
use clustered_sessions::{Clock, MemoryBackend};
use tokio::time::sleep;

use super::{SECOND, Scrape, figures};
use crate::web::{ada, config, settle};

#[tokio::test(start_paused = true)]
async fn a_lost_and_a_new_subscription_are_reported() {
    let scrape = Scrape::new();
    let (backend, faults) = FaultyBackend::new(MemoryBackend::new(), 1);
    let layer = scrape.start(config(&MemoryBackend::new()).backend(backend)).await;
    let subscription = || {
        ["listening", "subscriptions_total", "subscription_losses_total"]
            .map(|series| scrape.get(series))
    };
    assert_eq!(subscription(), [1.0, 1.0, 0.0]);
    faults.refuse_subscriptions();
    faults.cut_subscriptions();
    settle().await;
    assert_eq!(subscription(), [0.0, 1.0, 1.0]);
    sleep(SECOND * 5).await;
    assert_eq!(
        subscription(),
        [0.0, 1.0, 1.0],
        "failed attempts to subscribe are not further losses"
    );
    faults.heal();
    sleep(SECOND * 2).await;
    assert_eq!(subscription(), [1.0, 2.0, 1.0]);
    assert_eq!(layer.store().coordinator().disconnects(), 1);
    layer.store().shutdown().await;
    assert_eq!(subscription(), [0.0, 2.0, 1.0]);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_without_heartbeats_is_reported_as_soon_as_the_cache_is_bypassed() {
    let scrape = Scrape::new();
    let (backend, faults) = FaultyBackend::new(MemoryBackend::new(), 1);
    let config = config(&MemoryBackend::new()).backend(backend).clock(Clock::tokio());
    let layer = scrape.start(config).await;
    let reported = || (scrape.get("listening") == 1.0, layer.store().coordinator().is_listening());
    // A timer may be late by a millisecond.
    sleep(SECOND * 120 + SECOND / 100).await;
    assert_eq!(reported(), (true, true));
    faults.stall_subscriptions();
    for _ in 0..120 {
        sleep(SECOND).await;
        let (listening, uses_its_cache) = reported();
        assert_eq!(listening, uses_its_cache);
    }
    assert_eq!(reported(), (false, false));
    faults.heal();
    sleep(SECOND * 60).await;
    assert_eq!(reported(), (true, true));
}

#[tokio::test(start_paused = true)]
async fn the_last_heartbeat_is_reported_in_unix_time_and_ages_without_new_ones() {
    let scrape = Scrape::new();
    let (backend, faults) = FaultyBackend::new(MemoryBackend::new(), 1);
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let config = config(&MemoryBackend::new()).backend(backend).clock(Clock::tokio());
    let _layer = scrape.start(config).await;
    let age = |passed: f64| started + passed - scrape.get("last_heartbeat_timestamp_seconds");
    assert!((-1.0..1.0).contains(&age(0.0)), "{}", age(0.0));
    sleep(SECOND * 151).await;
    assert!(
        (0.0..3.0).contains(&age(151.0)),
        "a heartbeat arrives every 15 seconds: {}",
        age(151.0)
    );
    faults.stall_subscriptions();
    sleep(SECOND * 100).await;
    assert!((99.0..103.0).contains(&age(251.0)), "{}", age(251.0));
}

#[tokio::test(start_paused = true)]
async fn an_announcement_that_cannot_be_read_is_counted_and_clears_the_cache() {
    let scrape = Scrape::new();
    let memory = MemoryBackend::new();
    let layer = scrape.start(config(&memory)).await;
    let _ = layer.store().create(ada()).await.unwrap();
    let nonsense = async {
        memory.publish(b"nonsense").await.unwrap();
        settle().await;
    };
    let rises = figures([
        ("announcements_received_total", 1.0),
        ("announcements_unreadable_total", 1.0),
        ("cache_invalidations_total", 1.0),
    ]);
    assert_eq!(scrape.rises(nonsense).await, rises);
}
