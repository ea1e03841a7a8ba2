//! Stores on a Redis Cluster whose masters, slots and links change.

use std::collections::HashSet;

use clustered_sessions::{RedisConfig, SessionId, SessionStore};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use support::cluster::RedisCluster;
use support::wait::eventually;

use crate::nodes::{Data, config, store};

fn redis(cluster: &RedisCluster) -> RedisConfig {
    RedisConfig::from_url(&cluster.url()).unwrap()
}

async fn create(store: &SessionStore<Data>, count: u64) -> HashSet<SessionId> {
    let new = async |visits| store.create(Data { user: None, visits }).await.map(|new| new.id);
    stream::iter((0..count).map(new)).buffer_unordered(64).try_collect().await.unwrap()
}

/// Returns the number of keys of each master.
fn sizes(cluster: &RedisCluster) -> Vec<u64> {
    cluster.servers().map(|(_, server)| server.command(&["DBSIZE"])).collect()
}

#[tokio::test]
async fn sessions_are_spread_over_all_masters_and_found_on_every_node() {
    let cluster = RedisCluster::start(3, 0).await;
    let (one, other) = (
        store(config().redis(redis(&cluster))).await,
        store(config().redis(redis(&cluster))).await,
    );
    let ids = create(&one, 300).await;
    for size in sizes(&cluster) {
        assert!(size > 50, "{:?}", sizes(&cluster));
    }
    for id in &ids {
        assert!(other.find(*id).await.unwrap().is_some());
    }
    for id in &ids {
        let before = other.cache_stats().hits;
        assert!(other.find(*id).await.unwrap().is_some());
        assert_eq!(other.cache_stats().hits, before + 1, "the session is cached");
        one.delete(*id).await.unwrap();
        eventually(async || other.find(*id).await.unwrap().is_none(), "the deletion is heard")
            .await;
    }
    assert_eq!(other.coordinator().disconnects(), 0);
}

#[tokio::test]
async fn walks_and_clear_visit_all_masters() {
    let cluster = RedisCluster::start(3, 0).await;
    let store = store(config().redis(redis(&cluster))).await;
    let ids = create(&store, 2000).await;
    assert_eq!(store.all_session_ids().await.unwrap().into_iter().collect::<HashSet<_>>(), ids);
    assert_eq!(store.size().await.unwrap(), 2000);
    let done = store.bulk_delete(|record| record.data().visits < 500).await.unwrap();
    assert_eq!(done.deleted, 500);
    assert_eq!(store.clear().await.unwrap(), 1500);
    assert_eq!(store.size().await.unwrap(), 0);
}
