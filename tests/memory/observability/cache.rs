//! Metrics of the local cache.

use std::pin::pin;

use clustered_sessions::testing::FaultyBackend;
use clustered_sessions::{ClusterConfig, MemoryBackend, SessionId};
use futures_util::future::join;
use tokio::time::sleep;

use super::{SECOND, Scrape, all, calls, figures, visit};
use crate::web::{Spy, ada, config, eventually, node, settle};

#[tokio::test(start_paused = true)]
async fn each_read_counts_as_a_hit_or_a_miss_and_a_hit_makes_no_call() {
    let scrape = Scrape::new();
    let memory = MemoryBackend::new();
    let layer = scrape.start(config(&memory)).await;
    let store = layer.store();
    let id = store.create(ada()).await.unwrap().id;
    store.evict_from_cache(id);
    let read = async || {
        assert!(store.find(id).await.unwrap().is_some());
        store.cache_stats();
    };
    let miss = figures([("cache_misses_total", 1.0)]);
    assert_eq!(scrape.rises(read()).await, all([miss.clone(), calls("load", &[("ok", 1.0)])]));
    assert_eq!(scrape.rises(read()).await, figures([("cache_hits_total", 1.0)]));

    let unknown = SessionId::from_bytes([7; 16]);
    let read = async || {
        assert!(store.find(unknown).await.unwrap().is_none());
        store.cache_stats();
    };
    assert_eq!(scrape.rises(read()).await, all([miss, calls("load", &[("not_found", 1.0)])]));
    assert_eq!(
        scrape.rises(read()).await,
        figures([("cache_hits_total", 1.0)]),
        "the absence of the session was cached"
    );
    let stats = store.cache_stats();
    assert_eq!(scrape.get("cache_hits_total"), stats.hits as f64);
    assert_eq!(scrape.get("cache_misses_total"), stats.misses as f64);
}

#[tokio::test(start_paused = true)]
async fn a_read_without_the_lease_is_a_bypass() {
    let scrape = Scrape::new();
    let (backend, faults) = FaultyBackend::new(MemoryBackend::new(), 1);
    let layer = scrape.start(config(&MemoryBackend::new()).backend(backend)).await;
    let id = layer.store().create(ada()).await.unwrap().id;
    faults.refuse_subscriptions();
    faults.cut_subscriptions();
    settle().await;
    let read = async || drop(layer.store().find(id).await.unwrap());
    let bypass = figures([("cache_misses_total", 1.0), ("cache_bypasses_total", 1.0)]);
    assert_eq!(scrape.rises(read()).await, all([bypass, calls("load", &[("ok", 1.0)])]));
}

#[tokio::test(start_paused = true)]
async fn entries_removed_to_make_room_count_as_evictions() {
    let scrape = Scrape::new();
    let small = ClusterConfig::new().local_cache_max_size(32);
    let layer = scrape.start(config(&MemoryBackend::new()).cluster(small)).await;
    for _ in 0..200 {
        let _ = layer.store().create(ada()).await.unwrap();
    }
    let stats = layer.store().cache_stats();
    assert!(stats.evictions >= 168, "{stats:?}");
    assert_eq!(scrape.get("cache_evictions_total"), stats.evictions as f64);
    assert_eq!(scrape.get("cache_invalidations_total"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_change_on_another_node_counts_as_an_announcement_and_an_invalidation() {
    let (here, there) = (Scrape::new(), Scrape::new());
    let memory = MemoryBackend::new();
    let (layer, other) = (here.start(config(&memory)).await, there.start(config(&memory)).await);
    let id = layer.store().create(ada()).await.unwrap().id;
    other.store().get(id).await.unwrap();
    let change = async {
        other.store().modify(id, visit).await.unwrap();
        settle().await;
        other.store().cache_stats();
    };
    let (before, (rises_there, ())) = (here.figures(), join(there.rises(change), async {}).await);
    let rises = figures([
        ("cache_hits_total", 1.0),
        ("announcements_sent_total", 1.0),
        ("announcements_received_total", 1.0),
    ]);
    assert_eq!(
        rises_there,
        all([rises, calls("update", &[("ok", 1.0)])]),
        "a node does not evict at its own announcement"
    );
    let rise = |series: &str| here.get(series) - before[series];
    assert_eq!(
        (rise("announcements_received_total"), rise("cache_invalidations_total")),
        (1.0, 1.0)
    );
    assert_eq!(rise("announcements_sent_total"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_load_overtaken_by_a_change_counts_as_a_refused_fill() {
    let scrape = Scrape::new();
    let memory = MemoryBackend::new();
    let spy = Spy::over(&memory);
    let layer = scrape.start(config(&spy)).await;
    let id = node(&memory).await.store().create(ada()).await.unwrap().id;
    settle().await;
    let overtaken = async {
        let held = spy.hold().await;
        let meanwhile = async {
            eventually(async || !spy.take_calls().is_empty()).await;
            layer.store().evict_from_cache(id);
            drop(held);
        };
        assert!(join(layer.store().find(id), meanwhile).await.0.unwrap().is_some());
    };
    let refused = figures([("cache_misses_total", 1.0), ("cache_refused_fills_total", 1.0)]);
    assert_eq!(scrape.rises(pin!(overtaken)).await, all([refused, calls("load", &[("ok", 1.0)])]));
}

#[tokio::test(start_paused = true)]
async fn hits_and_the_size_are_reported_at_each_heartbeat_and_when_the_cache_is_cleared() {
    let scrape = Scrape::new();
    let layer = scrape.start(config(&MemoryBackend::new())).await;
    for _ in 0..3 {
        let id = layer.store().create(ada()).await.unwrap().id;
        layer.store().get(id).await.unwrap();
    }
    let reported = || ["cache_hits_total", "cache_sessions"].map(|series| scrape.get(series));
    assert_eq!(reported(), [0.0, 0.0]);
    for _ in 0..2 {
        sleep(SECOND * 15).await;
        settle().await;
        assert_eq!(reported(), [3.0, 3.0], "each hit is reported once");
    }
    layer.store().coordinator().local_cache().clear();
    assert_eq!(scrape.get("cache_sessions"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn the_size_is_reported_at_each_fill_on_a_node_without_a_listener() {
    let scrape = Scrape::new();
    let alone = ClusterConfig::new().enabled(false);
    let layer = scrape.start(config(&MemoryBackend::new()).cluster(alone)).await;
    for size in 1..4 {
        let _ = layer.store().create(ada()).await.unwrap();
        assert_eq!(scrape.get("cache_sessions"), f64::from(size));
    }
    assert!(
        !scrape.figures().contains_key("listening"),
        "a node without a listener does not report `listening`"
    );
}

#[tokio::test(start_paused = true)]
async fn stores_of_one_process_are_told_apart_by_their_labels() {
    let scrape = Scrape::new();
    let memory = MemoryBackend::new();
    let shop = scrape.start(config(&memory).metrics_label("shop")).await;
    let admin = scrape.start(config(&memory).metrics_label("admin")).await;
    let id = shop.store().create(ada()).await.unwrap().id;
    shop.store().get(id).await.unwrap();
    shop.store().cache_stats();
    assert_eq!(scrape.get("cache_hits_total{store=\"shop\"}"), 1.0);
    assert_eq!(scrape.get("cache_hits_total{store=\"admin\"}"), 0.0);
    let unlabelled: Vec<_> =
        scrape.figures().into_keys().filter(|series| !series.contains("store=\"")).collect();
    assert!(unlabelled.is_empty(), "{unlabelled:?}");
    drop(admin);
}
