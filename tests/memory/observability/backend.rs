//! Metrics of backend calls and of the circuit breaker.

use clustered_sessions::testing::FaultyBackend;
use clustered_sessions::{
    CircuitBreakerConfig, MemoryBackend, SessionId, SessionLayer, StoreErrorKind,
};
use futures_util::future::join;
use tokio::time::{sleep, timeout};

use super::{Figures, SECOND, Scrape, all, calls, figures, visit};
use crate::failing::failing;
use crate::web::{Call, Data, Spy, ada, config, node, settle, start};
use support::log::Log;

/// Returns the increases that an announced write causes besides those of the call.
fn announced() -> Figures {
    figures([("announcements_sent_total", 1.0), ("announcements_received_total", 1.0)])
}

async fn found(layer: &SessionLayer<Data>, id: SessionId) -> bool {
    layer.store().find(id).await.unwrap().is_some()
}

#[tokio::test(start_paused = true)]
async fn each_operation_is_counted_and_measured_by_its_outcome() {
    let scrape = Scrape::new();
    let layer = scrape.start(config(&MemoryBackend::new())).await;
    let store = layer.store();
    let new = async || store.create(ada()).await.unwrap().id;
    let id = new().await;
    let unknown = SessionId::from_bytes([7; 16]);
    settle().await;

    let create = async {
        let _ = new().await;
    };
    assert_eq!(scrape.rises(create).await, calls("create", &[("ok", 1.0)]));
    let hit = figures([("cache_hits_total", 1.0)]);
    let update = async {
        store.modify(id, visit).await.unwrap();
        settle().await;
        store.cache_stats();
    };
    assert_eq!(
        scrape.rises(update).await,
        all([hit.clone(), announced(), calls("update", &[("ok", 1.0)])])
    );
    let touch = async {
        assert!(store.touch(id).await.unwrap());
        store.cache_stats();
    };
    assert_eq!(scrape.rises(touch).await, all([hit, calls("touch", &[("ok", 1.0)])]));
    let delete = async {
        assert!(store.delete(id).await.unwrap());
        settle().await;
    };
    let dropped = figures([("cache_invalidations_total", 1.0)]);
    assert_eq!(
        scrape.rises(delete).await,
        all([announced(), dropped.clone(), calls("delete", &[("ok", 1.0)])])
    );
    let delete = async {
        assert!(!store.delete(unknown).await.unwrap());
        settle().await;
    };
    assert_eq!(scrape.rises(delete).await, all([announced(), calls("delete", &[("gone", 1.0)])]));
    let publish = async {
        store.coordinator().publish_invalidation(unknown).await.unwrap();
        settle().await;
    };
    assert_eq!(scrape.rises(publish).await, all([announced(), calls("publish", &[("ok", 1.0)])]));
    let scan = async { assert_eq!(store.size().await.unwrap(), 1) };
    assert_eq!(scrape.rises(scan).await, calls("scan", &[("ok", 1.0)]));
    let ping = async { assert!(store.healthy().await) };
    assert_eq!(scrape.rises(ping).await, calls("ping", &[("ok", 1.0)]));
    let clear = async {
        assert_eq!(store.clear().await.unwrap(), 1);
        settle().await;
    };
    assert_eq!(
        scrape.rises(clear).await,
        all([announced(), dropped, calls("clear", &[("ok", 1.0)])])
    );
}

#[tokio::test(start_paused = true)]
async fn an_update_of_a_session_deleted_meanwhile_has_the_outcome_gone() {
    let scrape = Scrape::new();
    let memory = MemoryBackend::new();
    let spy = Spy::over(&memory);
    let layer = scrape.start(config(&spy)).await;
    let id = layer.store().create(ada()).await.unwrap().id;
    spy.drop_messages();
    assert!(node(&memory).await.store().delete(id).await.unwrap());
    let update = async { assert!(layer.store().modify(id, visit).await.is_err()) };
    let update = scrape.rises(update).await;
    assert_eq!(update["backend_calls_total{operation=\"update\",outcome=\"gone\"}"], 1.0);
    assert!(!update.contains_key("announcements_sent_total"));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_counted_and_the_change_is_reapplied() {
    let scrape = Scrape::new();
    let memory = MemoryBackend::new();
    let spy = Spy::over(&memory);
    let layer = scrape.start(config(&spy)).await;
    let id = layer.store().create(ada()).await.unwrap().id;
    spy.drop_messages();
    node(&memory).await.store().modify(id, visit).await.unwrap();
    let update = async {
        layer.store().modify(id, visit).await.unwrap();
        layer.store().cache_stats();
    };
    let rises = figures([
        ("cache_hits_total", 1.0),
        ("cache_invalidations_total", 1.0),
        ("reapplied_changes_total", 1.0),
        ("announcements_sent_total", 1.0),
    ]);
    assert_eq!(
        scrape.rises(update).await,
        all([rises, calls("update", &[("conflict", 1.0), ("ok", 1.0)])])
    );
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_failure_has_its_outcome() {
    let scrape = Scrape::new();
    let spy = Spy::new();
    let layer = scrape.start(config(&spy)).await;
    for (kind, outcome) in [
        (StoreErrorKind::Unavailable, "unavailable"),
        (StoreErrorKind::Timeout, "timeout"),
        (StoreErrorKind::OutcomeUnknown, "outcome_unknown"),
        (StoreErrorKind::Refused, "refused"),
        (StoreErrorKind::Corrupt, "corrupt"),
        (StoreErrorKind::Overloaded, "overloaded"),
        (StoreErrorKind::Closed, "closed"),
        (StoreErrorKind::TooLarge, "other"),
    ] {
        spy.fail_next(1, kind);
        let create = async { assert!(layer.store().create(ada()).await.is_err()) };
        assert_eq!(scrape.rises(create).await, calls("create", &[(outcome, 1.0)]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeated_attempt_counts_as_a_retry() {
    let scrape = Scrape::new();
    let spy = Spy::new();
    let layer = scrape.start(config(&spy).enable_retry(true)).await;
    let id = layer.store().create(ada()).await.unwrap().id;
    spy.fail_next(2, StoreErrorKind::Unavailable);
    let read = async { assert!(layer.store().find_fresh(id).await.unwrap().is_some()) };
    let retries = figures([("backend_retries_total", 2.0)]);
    assert_eq!(
        scrape.rises(read).await,
        all([retries, calls("load", &[("unavailable", 2.0), ("ok", 1.0)])])
    );
}

#[tokio::test(start_paused = true)]
async fn the_duration_of_a_call_is_measured_and_a_dropped_call_counts_as_cancelled() {
    let scrape = Scrape::new();
    let (backend, faults) = FaultyBackend::new(MemoryBackend::new(), 1);
    let layer = scrape.start(config(&MemoryBackend::new()).backend(backend)).await;
    let id = layer.store().create(ada()).await.unwrap().id;
    faults.delay_calls_by(SECOND / 2..SECOND / 2);
    let touch = async { assert!(layer.store().touch(id).await.unwrap()) };
    let rises = scrape.rises(touch).await;
    assert_eq!(rises["backend_calls_total{operation=\"touch\",outcome=\"ok\"}"], 1.0);
    let text = scrape.0.handle().render();
    let sum = text
        .lines()
        .find(|line| line.contains("duration_seconds_sum{operation=\"touch\"}"))
        .unwrap();
    let seconds: f64 = sum.rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!((0.5..0.51).contains(&seconds), "{seconds}");

    let given_up = async { assert!(timeout(SECOND / 10, layer.store().touch(id)).await.is_err()) };
    assert_eq!(scrape.rises(given_up).await, calls("touch", &[("cancelled", 1.0)]));
}

#[tokio::test(start_paused = true)]
async fn the_circuit_reports_its_state_its_openings_and_refused_calls() {
    let scrape = Scrape::new();
    let spy = Spy::new();
    let breaker = CircuitBreakerConfig::new()
        .failure_threshold(2)
        .reset_timeout(SECOND * 60)
        .half_open_probes(2);
    let layer = scrape.start(config(&spy).circuit_breaker(breaker)).await;
    let id = layer.store().create(ada()).await.unwrap().id;
    let read = async || layer.store().find_fresh(id).await.is_ok();
    let circuit = || (scrape.get("circuit_state"), scrape.get("circuit_openings_total"));
    assert_eq!(circuit(), (0.0, 0.0));
    spy.fail_next(2, StoreErrorKind::Unavailable);
    assert!(!read().await && !read().await);
    assert_eq!(circuit(), (2.0, 1.0));
    let refused = async { assert!(!read().await) };
    assert_eq!(
        scrape.rises(refused).await,
        calls("load", &[("circuit_open", 1.0)]),
        "no duration is measured"
    );
    sleep(SECOND * 60).await;
    assert!(read().await);
    assert_eq!(circuit(), (1.0, 1.0));
    assert!(read().await);
    assert_eq!(circuit(), (0.0, 1.0));
    assert_eq!(layer.store().circuit().openings(), 1);
}

#[tokio::test(start_paused = true)]
async fn readers_that_share_a_load_count_as_a_miss_each_and_as_one_call() {
    let scrape = Scrape::new();
    let spy = Spy::new();
    let layer = scrape.start(config(&spy)).await;
    let id = layer.store().create(ada()).await.unwrap().id;
    layer.store().evict_from_cache(id);
    spy.take_calls();
    let both = async { assert_eq!(join(found(&layer, id), found(&layer, id)).await, (true, true)) };
    let misses = figures([("cache_misses_total", 2.0)]);
    assert_eq!(scrape.rises(both).await, all([misses, calls("load", &[("ok", 1.0)])]));
    assert_eq!(spy.take_calls(), [Call::Load]);
}

#[tokio::test(start_paused = true)]
async fn a_clear_that_fails_is_logged_like_any_other_call() {
    let (log, memory) = (Log::default(), MemoryBackend::new());
    let layer = start(config(&memory).backend(failing(&memory, Call::Clear))).await;
    let guard = log.capture("clustered_sessions=warn");
    layer.store().clear().await.unwrap_err();
    drop(guard);
    let line = "a call to the session backend has failed operation=\"clear\"";
    assert!(log.text().contains(line), "{}", log.text());
}
