//! Tests of the memory that a clear frees.

use std::sync::Arc;
use std::time::Duration;

use super::LocalCache;
use super::clear::Freeing;
use super::tests::{bench, bench_for};

#[tokio::test]
async fn many_sessions_are_invisible_at_once_and_freed_in_the_end() {
    let bench = bench_for(10_000);
    bench.fill_others(5_000);
    bench.fill(&bench.record(1));
    bench.cache.clear_soon();
    assert_eq!(bench.cached(), None);
    freed(&bench.cache).await;
}

async fn freed(cache: &LocalCache<u32>) {
    let freed = async {
        while cache.size() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), freed).await.unwrap();
}

#[tokio::test]
async fn many_clears_in_a_row_are_freed_by_one_thread() {
    let bench = bench_for(10_000);
    bench.fill_others(5_000);
    let users = Arc::strong_count(&bench.cache);
    for _ in 0..500 {
        bench.cache.clear_soon();
        // One frees, and one that has just done so may still be ending.
        assert!(Arc::strong_count(&bench.cache) <= users + 2);
    }
}

#[tokio::test]
async fn what_is_cleared_while_a_thread_frees_is_freed_as_well() {
    let bench = bench_for(10_000);
    for _ in 0..50 {
        for number in [5_000, 1_500] {
            bench.fill_others(number);
            bench.cache.clear_soon();
        }
        freed(&bench.cache).await;
    }
}

#[test]
fn a_clear_frees_although_the_runtime_of_the_one_before_has_freed_nothing() {
    let cache = bench().cache;
    drop(Freeing::begin(&cache).unwrap());
    let freeing = Freeing::begin(&cache).unwrap();
    assert!(Freeing::begin(&cache).is_none(), "one frees already");
    freeing.until_done();
    assert!(Freeing::begin(&cache).is_some());
}
