//! A node with a cache under more load than its link to Redis can carry. All bounds are counts of
//! reads, and times are generous.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clustered_sessions::{SessionId, SessionStore, StoreErrorKind};
use futures_util::future::join;
use support::proxy::Proxy;
use support::redis::RedisServer;
use support::wait::{eventually, eventually_within};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::nodes::{Data, config, store};
use crate::web::RedisAddress as _;

/// A load that goes on slows the recovery down, and so do other tests on the same processors. A
/// node whose loads are not limited does not recover within this time either.
const RECOVERY: Duration = Duration::from_secs(40);

/// Reads the sessions in turn at a constant rate, however long each read takes. It ends on drop.
struct Load {
    reads: Arc<Reads>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Reads {
    ended: AtomicU64,
    failed: AtomicU64,
}

impl Load {
    /// Begins to make 100 times `batch` reads per second.
    fn start(store: &SessionStore<Data>, ids: Arc<[SessionId]>, batch: usize) -> Self {
        let reads = Arc::<Reads>::default();
        let (store, counts) = (store.clone(), reads.clone());
        let task = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_millis(10));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let mut next = ids.iter().cycle().copied();
            loop {
                ticks.tick().await;
                for id in next.by_ref().take(batch) {
                    let (store, counts) = (store.clone(), counts.clone());
                    tokio::spawn(async move {
                        let failed = store.find(id).await.is_err();
                        counts.ended.fetch_add(1, Ordering::Relaxed);
                        counts.failed.fetch_add(u64::from(failed), Ordering::Relaxed);
                    });
                }
            }
        });
        Load { reads, task }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns `true` if at least 99 of 100 reads of the next second are hits.
async fn uses_its_cache(store: &SessionStore<Data>) -> bool {
    let before = store.cache_stats();
    sleep(Duration::from_secs(1)).await;
    let after = store.cache_stats();
    let (hits, misses) = (after.hits - before.hits, after.misses - before.misses);
    println!("{hits} hits, {misses} misses, listening: {}", store.coordinator().is_listening());
    hits > 99 * misses
}

async fn create_sessions(store: &SessionStore<Data>, count: usize) -> Arc<[SessionId]> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(store.create(Data::of("ada")).await.unwrap().id);
    }
    ids.into()
}

/// Starts a node with an empty cache whose link carries some 400 records per second, and creates
/// 2000 sessions on another one.
async fn node_on_a_slow_link() -> (RedisServer, Proxy, Arc<[SessionId]>, SessionStore<Data>) {
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.port()).await;
    proxy.throttle(60_000);
    let writer = store(config().redis(redis.config())).await;
    let ids = create_sessions(&writer, 2000).await;
    let reader = store(config().redis(proxy.config())).await;
    (redis, proxy, ids, reader)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hits_are_back_after_a_stall_although_the_load_goes_on() {
    let (redis, _proxy, ids, reader) = node_on_a_slow_link().await;
    for id in ids.iter() {
        assert!(reader.find(*id).await.unwrap().is_some());
    }

    let load = Load::start(&reader, ids, 10);
    eventually(async || uses_its_cache(&reader).await, "the node uses its cache").await;
    redis.freeze();
    // Longer than `response_timeout`, and long enough that the lease lapses.
    sleep(Duration::from_millis(2600)).await;
    redis.thaw();
    let uses_its_cache = async || uses_its_cache(&reader).await;
    eventually_within(RECOVERY, uses_its_cache, "the node uses its cache again").await;
    drop(load);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_all_its_entries_fills_its_cache_although_the_load_goes_on() {
    let (_redis, _proxy, ids, reader) = node_on_a_slow_link().await;
    let load = Load::start(&reader, ids, 20);
    let uses_its_cache = async || uses_its_cache(&reader).await;
    eventually_within(RECOVERY, uses_its_cache, "the node fills its cache").await;
    let failed = load.reads.failed.load(Ordering::Relaxed);
    println!("{failed} reads failed meanwhile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_sessions_slow_only_each_other() {
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.port()).await;
    let large = Data { user: Some("x".repeat(500_000)), visits: 0 };
    // Uncompressed, they take an eighth of a second each.
    proxy.throttle(4_000_000);
    let writer = store(config().redis(redis.config())).await;
    let reader = store(config().redis(proxy.config())).await;
    let ids = create_sessions(&writer, 100).await;
    let mut readers = Vec::new();
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..12 {
        let id = writer.create(large.clone()).await.unwrap().id;
        assert!(reader.find_fresh(id).await.unwrap().is_some());
        let (reader, stop) = (reader.clone(), stop.clone());
        readers.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let _ = reader.find_fresh(id).await;
            }
        }));
    }
    for _ in 0..3 {
        for id in ids.iter() {
            match reader.find_fresh(*id).await {
                Ok(found) => assert!(found.is_some()),
                Err(error) => panic!("a read of a small session failed: {error:?}"),
            }
        }
    }
    assert_eq!(reader.coordinator().disconnects(), 0);
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_beyond_the_limit_are_refused_at_once() {
    let redis = RedisServer::start();
    let writer = store(config().redis(redis.config())).await;
    let ids = create_sessions(&writer, 600).await;
    let reader = store(config().redis(redis.config()).enable_retry(false)).await;
    redis.freeze();
    let reads: Vec<_> = ids
        .iter()
        .map(|id| {
            let (reader, id) = (reader.clone(), *id);
            tokio::spawn(async move { reader.find_fresh(id).await.unwrap_err().kind() })
        })
        .collect();
    let mut overloaded = 0;
    for read in reads {
        let kind = read.await.unwrap();
        assert!(matches!(kind, StoreErrorKind::Overloaded | StoreErrorKind::Timeout), "{kind:?}");
        overloaded += u32::from(kind == StoreErrorKind::Overloaded);
    }
    redis.thaw();
    assert_eq!(overloaded, 600 - 512);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_is_late_behind_others_does_not_cost_the_connection() {
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.port()).await;
    let writer = store(config().redis(redis.config())).await;
    let large = writer.create(Data { user: Some("x".repeat(400_000)), visits: 0 }).await.unwrap();
    let small = writer.create(Data::of("ada")).await.unwrap();
    let reader = store(config().enable_retry(false).redis(proxy.config())).await;
    // The large record takes longer than `response_timeout`. Its size is not known yet, so both
    // records have the same connection.
    proxy.throttle(400_000);
    let before = redis.connections_accepted();
    // The small one is late, too, unless it overtakes the other.
    let (large, _) = join(reader.find_fresh(large.id), reader.find_fresh(small.id)).await;
    assert_eq!(large.unwrap_err().kind(), StoreErrorKind::Timeout);
    eventually(
        async || reader.find_fresh(small.id).await.is_ok(),
        "the connection has delivered the large record",
    )
    .await;
    assert_eq!(redis.connections_accepted() - before, 1, "that of this test's own command");
    assert_eq!(reader.coordinator().disconnects(), 0);
}
