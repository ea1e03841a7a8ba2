//! The idle timeout and extensions of sessions, and the statistics of the cache.

use std::time::Duration;

use axum::Router;
use clustered_sessions::{
    CacheStats, Clock, ClusterConfig, MemoryBackend, Session, SessionConfigBuilder, SessionLayer,
};
use futures_util::future::join_all;
use tokio::time::advance;

use crate::handles::session_after_the_head;
use crate::web::{
    Browser, Call, Data, Spy, ada, config, eventually, only_id, serve, settle, start,
};

const MINUTE: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(40 * 60);

/// A memory backend whose sessions expire by tokio's clock, and the nodes that share it.
struct Cluster {
    clock: Clock,
    spy: Spy,
}

impl Cluster {
    fn new() -> Self {
        let clock = Clock::tokio();
        let spy = Spy::over(&MemoryBackend::with_clock(clock.clone()));
        Cluster { clock, spy }
    }

    /// Returns a configuration with sessions of 40 minutes that are extended after 10 minutes.
    fn config(&self) -> SessionConfigBuilder<Data> {
        let cluster =
            ClusterConfig::new().local_cache_ttl(TIMEOUT).max_staleness(Duration::from_secs(2));
        config(&self.spy)
            .clock(self.clock.clone())
            .timeout(TIMEOUT)
            .touch_after(0.25)
            .cluster(cluster)
    }

    async fn node(&self) -> SessionLayer<Data> {
        start(self.config()).await
    }
}

fn who(sessions: &SessionLayer<Data>) -> Router {
    serve(sessions, async |session: Session<Data>| session.data().user.clone().unwrap_or_default())
}

/// Lets background tasks finish, advances the clock, and waits until the node holds the lease.
async fn advance_and_settle(sessions: &SessionLayer<Data>, time: Duration) {
    settle().await;
    advance(time).await;
    eventually(async || sessions.store().coordinator().is_listening()).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_uses_ends() {
    let cluster = Cluster::new();
    let sessions = cluster.node().await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let id = only_id(&sessions).await;
    advance_and_settle(&sessions, TIMEOUT - Duration::from_millis(1)).await;
    assert!(sessions.store().find(id).await.unwrap().is_some());
    advance_and_settle(&sessions, Duration::from_millis(1)).await;
    assert!(sessions.store().find(id).await.unwrap().is_none());
    assert_eq!(browser.visit(&who(&sessions)).await.body, "");
    assert_eq!(sessions.store().size().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn reading_extends_a_session_once_when_it_is_due_and_announces_nothing() {
    let cluster = Cluster::new();
    let sessions = cluster.node().await;
    let browser = Browser::with(&sessions, ada()).await;
    let (app, id) = (who(&sessions), only_id(&sessions).await);
    let many_readers = async || {
        let pages = join_all((0..20).map(|_| async { browser.clone().visit(&app).await })).await;
        settle().await;
        assert!(pages.iter().all(|page| page.body == "Ada" && page.set_cookies().is_empty()));
    };
    cluster.spy.take_calls();
    advance_and_settle(&sessions, 10 * MINUTE).await;
    many_readers().await;
    assert_eq!(cluster.spy.take_calls(), [], "a quarter of the timeout has not passed yet");

    let before = sessions.store().find(id).await.unwrap().unwrap();
    let received = sessions.store().coordinator().announcements_received();
    advance_and_settle(&sessions, Duration::from_millis(1)).await;
    many_readers().await;
    many_readers().await;
    assert_eq!(cluster.spy.take_calls(), [Call::Touch]);
    let after = sessions.store().find_fresh(id).await.unwrap().unwrap();
    assert_eq!(format!("{before:?}"), format!("{after:?}"), "the revision is the same");
    assert_eq!(sessions.store().coordinator().announcements_received(), received);
    assert_eq!(after.expires_at(), after.created_at() + 50 * MINUTE + Duration::from_millis(1));
    assert_eq!(before.expires_at(), after.expires_at(), "the cached record is extended, too");
}

#[tokio::test(start_paused = true)]
async fn a_visitor_who_only_reads_stays_logged_in_on_one_node_and_on_two() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node().await, cluster.node().await);
    for nodes in [[&a, &a], [&a, &b]] {
        let mut browser = Browser::with(&a, ada()).await;
        for round in 0..20 {
            advance_and_settle(nodes[round % 2], 29 * MINUTE).await;
            assert_eq!(browser.visit(&who(nodes[round % 2])).await.body, "Ada", "round {round}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cached_read_extends_without_a_load() {
    let cluster = Cluster::new();
    let sessions = cluster.node().await;
    let mut browser = Browser::with(&sessions, ada()).await;
    cluster.spy.take_calls();
    advance_and_settle(&sessions, 30 * MINUTE).await;
    browser.visit(&who(&sessions)).await;
    settle().await;
    assert_eq!(cluster.spy.take_calls(), [Call::Touch]);
}

#[tokio::test(start_paused = true)]
async fn looking_a_session_up_in_the_store_does_not_extend_it() {
    let cluster = Cluster::new();
    let sessions = cluster.node().await;
    let id = sessions.store().create(ada()).await.unwrap().id;
    cluster.spy.take_calls();
    advance_and_settle(&sessions, 39 * MINUTE).await;
    assert!(sessions.store().find(id).await.unwrap().is_some());
    assert!(sessions.store().find_fresh(id).await.unwrap().is_some());
    settle().await;
    assert_eq!(cluster.spy.take_calls(), [Call::Load]);
    assert!(sessions.store().touch(id).await.unwrap(), "an explicit touch extends it");
    advance_and_settle(&sessions, 39 * MINUTE).await;
    assert!(sessions.store().find(id).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn extending_does_not_bring_back_a_session_that_was_deleted_elsewhere() {
    let cluster = Cluster::new();
    let (isolated, elsewhere) = (cluster.node().await, cluster.node().await);
    let mut browser = Browser::with(&isolated, ada()).await;
    let id = only_id(&isolated).await;
    cluster.spy.drop_messages();
    advance_and_settle(&isolated, 30 * MINUTE).await;
    elsewhere.store().delete(id).await.unwrap();
    assert_eq!(browser.visit(&who(&isolated)).await.body, "Ada", "the announcement was dropped");
    settle().await;
    assert_eq!(
        browser.visit(&who(&isolated)).await.body,
        "",
        "the failed extension has evicted the session"
    );
    assert_eq!(isolated.store().size().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_write_extends_a_session() {
    let cluster = Cluster::new();
    let sessions = cluster.node().await;
    let id = sessions.store().create(ada()).await.unwrap().id;
    advance_and_settle(&sessions, 39 * MINUTE).await;
    sessions.store().modify(id, |data| data.visits += 1).await.unwrap();
    advance_and_settle(&sessions, 39 * MINUTE).await;
    assert_eq!(sessions.store().get(id).await.unwrap().data().visits, 1);
}

#[tokio::test(start_paused = true)]
async fn an_entry_past_the_local_cache_ttl_is_a_miss() {
    let cluster = Cluster::new();
    let config = cluster.config().cluster(ClusterConfig::new().local_cache_ttl(MINUTE));
    let sessions = start(config).await;
    let id = sessions.store().create(ada()).await.unwrap().id;
    let figures = || {
        let CacheStats { hits, misses, size, .. } = sessions.store().cache_stats();
        (hits, misses, size)
    };
    for (time, expected) in [
        (Duration::ZERO, (1, 0, 1)),
        (MINUTE - Duration::from_millis(1), (2, 0, 1)),
        (MINUTE, (2, 1, 1)),
    ] {
        advance_and_settle(&sessions, time).await;
        assert!(sessions.store().find(id).await.unwrap().is_some());
        assert_eq!(figures(), expected);
    }
    sessions.store().find(id).await.unwrap();
    assert_eq!(figures(), (3, 1, 1), "the miss has filled the cache again");
}

#[tokio::test(start_paused = true)]
async fn every_read_without_the_lease_is_a_miss() {
    let cluster = Cluster::new();
    let sessions = cluster.node().await;
    let id = sessions.store().create(ada()).await.unwrap().id;
    assert!(sessions.store().find(id).await.unwrap().is_some());
    advance(Duration::from_secs(3)).await;
    assert!(sessions.store().find(id).await.unwrap().is_some());
    let stats = sessions.store().cache_stats();
    assert_eq!((stats.hits, stats.misses, stats.bypasses), (1, 1, 1));
    assert_eq!(stats.hit_rate(), 0.5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_of_many_concurrent_reads_is_counted_once() {
    let sessions = start(config(&Spy::new())).await;
    let store = sessions.store();
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(store.create(ada()).await.unwrap().id);
    }
    let readers = (0..16).map(|reader| {
        let (store, ids) = (store.clone(), ids.clone());
        tokio::spawn(async move {
            for round in 0..100 {
                let id = ids[(reader + round) % ids.len()];
                if round % 10 == 0 {
                    store.evict_from_cache(id);
                }
                assert!(store.find(id).await.unwrap().is_some());
            }
        })
    });
    assert!(join_all(readers).await.iter().all(Result::is_ok));
    let stats = store.cache_stats();
    assert_eq!(stats.hits + stats.misses, 1600);
    assert!(stats.hits > 0 && stats.misses > 0 && stats.invalidations > 0, "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn the_cache_stays_within_its_size_and_counts_evictions() {
    let small = ClusterConfig::new().local_cache_max_size(50);
    let sessions = start(config(&MemoryBackend::new()).cluster(small)).await;
    for _ in 0..200 {
        let _ = sessions.store().create(ada()).await.unwrap();
        assert!(sessions.store().cache_stats().size <= 50);
    }
    let stats = sessions.store().cache_stats();
    assert_eq!(stats.size, sessions.store().coordinator().local_cache().size());
    assert_eq!(stats.evictions as usize + stats.size, 200);
    assert_eq!(sessions.store().size().await.unwrap(), 200, "no session is lost");
}

#[tokio::test]
async fn sessions_evicted_on_request_are_counted_and_not_deleted() {
    let sessions = start(config(&MemoryBackend::new())).await;
    let store = sessions.store();
    let (one, two) = (store.create(ada()).await.unwrap().id, store.create(ada()).await.unwrap().id);
    store.evict_from_cache(one);
    store.evict_from_cache(one);
    assert_eq!((store.cache_stats().invalidations, store.cache_stats().size), (1, 1));
    store.coordinator().local_cache().clear();
    assert_eq!((store.cache_stats().invalidations, store.cache_stats().size), (2, 0));
    for id in [one, two] {
        assert!(store.find(id).await.unwrap().is_some());
    }
    assert_eq!((store.cache_stats().misses, store.cache_stats().size), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_polls_does_not_keep_its_session_alive() {
    let cluster = Cluster::new();
    let sessions = cluster.node().await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let poll = serve(&sessions, async |session: Session<Data>| {
        session.do_not_extend();
        let _ = session.modify(|data| std::mem::take(&mut data.visits)).await;
        session.data().user.clone().unwrap_or_default()
    });
    cluster.spy.take_calls();
    for _ in 0..3 {
        advance_and_settle(&sessions, 13 * MINUTE).await;
        assert_eq!(browser.visit(&poll).await.body, "Ada");
    }
    assert!(!cluster.spy.take_calls().contains(&Call::Touch));
    advance_and_settle(&sessions, MINUTE).await;
    assert_eq!(browser.visit(&poll).await.body, "");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_changes_nothing_counts_as_a_use() {
    let cluster = Cluster::new();
    let sessions = cluster.node().await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let app = serve(&sessions, async |session: Session<Data>| session.update(|_| ()));
    for _ in 0..5 {
        advance_and_settle(&sessions, 39 * MINUTE).await;
        browser.visit(&app).await;
    }
    assert_eq!(browser.visit(&who(&sessions)).await.body, "Ada");
}

#[tokio::test(start_paused = true)]
async fn a_change_over_an_open_stream_that_changes_nothing_counts_as_a_use() {
    let cluster = Cluster::new();
    let sessions = cluster.node().await;
    let browser = Browser::with(&sessions, ada()).await;
    let socket = session_after_the_head(&sessions, &browser).await;
    for _ in 0..3 {
        advance_and_settle(&sessions, 39 * MINUTE).await;
        socket.modify(|_| ()).await.unwrap();
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_modification_in_the_store_that_changes_nothing_counts_as_a_use() {
    let cluster = Cluster::new();
    let sessions = cluster.node().await;
    let _browser = Browser::with(&sessions, ada()).await;
    let id = only_id(&sessions).await;
    for _ in 0..3 {
        advance_and_settle(&sessions, 39 * MINUTE).await;
        sessions.store().modify(id, |_| ()).await.unwrap();
        settle().await;
    }
    assert!(sessions.store().find_fresh(id).await.unwrap().is_some());
}
