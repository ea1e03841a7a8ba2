//! Metrics of watches.

use clustered_sessions::testing::FaultyBackend;
use clustered_sessions::{Clock, Ended, MemoryBackend};
use tokio::time::sleep;

use super::{SECOND, Scrape};
use crate::web::{ada, config, settle};

#[tokio::test(start_paused = true)]
async fn watches_are_reported_while_there_are_any() {
    let scrape = Scrape::new();
    let layer = scrape.start(config(&MemoryBackend::new())).await;
    let id = layer.store().create(ada()).await.unwrap().id;
    let mut watches = [layer.store().watch(id), layer.store().watch(id)];
    for watch in &mut watches {
        watch.changed().await.unwrap();
    }
    sleep(SECOND * 16).await;
    assert_eq!(scrape.get("watches"), 2.0);
    drop(watches);
    sleep(SECOND * 16).await;
    assert_eq!(scrape.get("watches"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn no_watches_are_reported_once_their_store_has_gone() {
    let scrape = Scrape::new();
    let layer = scrape.start(config(&MemoryBackend::new())).await;
    let id = layer.store().create(ada()).await.unwrap().id;
    let mut watch = layer.store().watch(id);
    watch.changed().await.unwrap();
    sleep(SECOND * 16).await;
    assert_eq!(scrape.get("watches"), 1.0);
    layer.store().shutdown().await;
    drop((watch, layer));
    settle().await;
    assert_eq!(scrape.get("watches"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn each_watch_that_ends_is_counted_once_by_its_reason() {
    let scrape = Scrape::new();
    let clock = Clock::tokio();
    let (backend, faults) = FaultyBackend::new(MemoryBackend::with_clock(clock.clone()), 1);
    let config = config(&MemoryBackend::new()).backend(backend).clock(clock);
    let layer = scrape.start(config).await;
    let store = layer.store();
    let ended = || {
        ["revoked", "expired", "unknown"]
            .map(|reason| scrape.get(&format!("ended_watches_total{{reason=\"{reason}\"}}")))
    };
    assert_eq!(ended(), [0.0, 0.0, 0.0]);

    let id = store.create(ada()).await.unwrap().id;
    let mut watch = store.watch(id);
    watch.changed().await.unwrap();
    store.delete(id).await.unwrap();
    for _ in 0..2 {
        assert_eq!(watch.changed().await.unwrap_err(), Ended::Revoked);
    }
    assert_eq!(ended(), [1.0, 0.0, 0.0]);

    let watch = store.watch(store.create(ada()).await.unwrap().id);
    assert_eq!(watch.ended().await, Ended::Expired);
    assert_eq!(ended(), [1.0, 1.0, 0.0]);

    let mut watch = store.watch(store.create(ada()).await.unwrap().id);
    watch.changed().await.unwrap();
    faults.cut_subscriptions();
    faults.fail_calls(1.0);
    assert_eq!(watch.ended().await, Ended::Unknown);
    assert_eq!(ended(), [1.0, 1.0, 1.0]);
}
