//! Stores on a Redis Cluster whose masters and slots change.

use std::collections::HashSet;
use std::error::Error as _;
use std::time::Duration;

use clustered_sessions::backend::HistoryProof;
use clustered_sessions::{ClusterConfig, RedisConfig, SessionId, SessionStore, StoreErrorKind};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use support::cluster::{Options, RedisCluster};
use support::redis::RedisServer;
use support::wait::eventually;

use crate::nodes::{Data, config, is_cached, key, store};

pub(crate) fn redis(cluster: &RedisCluster) -> RedisConfig {
    RedisConfig::from_url(&cluster.url()).unwrap()
}

async fn start_node(cluster: &RedisCluster) -> SessionStore<Data> {
    store(config().redis(redis(cluster)).owner(|data: &Data| data.user.clone())).await
}

async fn create(store: &SessionStore<Data>, count: u64) -> HashSet<SessionId> {
    let new = async |visits| store.create(Data { user: None, visits }).await.map(|new| new.id);
    stream::iter((0..count).map(new)).buffer_unordered(64).try_collect().await.unwrap()
}

/// Creates a session in a slot of this master's.
async fn create_on(store: &SessionStore<Data>, cluster: &RedisCluster, master: usize) -> SessionId {
    create_of(store, cluster, master, "ada").await
}

/// Creates a session of this user's in a slot of this master's.
async fn create_of(
    store: &SessionStore<Data>,
    cluster: &RedisCluster,
    master: usize,
    user: &str,
) -> SessionId {
    loop {
        let id = store.create(Data::of(user)).await.unwrap().id;
        if cluster.owner(cluster.slot(&key(id))).await == master {
            return id;
        }
    }
}

#[tokio::test]
async fn sessions_are_spread_over_all_masters_and_revoked_on_every_node() {
    let cluster = RedisCluster::start(3, 0).await;
    let (one, other) = (start_node(&cluster).await, start_node(&cluster).await);
    let ids = create(&one, 300).await;
    for (_, server) in cluster.servers() {
        assert!(server.command::<u64>(&["DBSIZE"]) > 50);
    }
    for id in &ids {
        is_cached(&other, *id).await;
        assert!(one.delete(*id).await.unwrap());
        eventually(async || other.find(*id).await.unwrap().is_none(), "it is revoked").await;
    }
    assert_eq!(other.coordinator().disconnects(), 0);
}

#[tokio::test]
async fn walks_and_bulk_deletions_visit_all_masters() {
    let cluster = RedisCluster::start(3, 0).await;
    let store = start_node(&cluster).await;
    let ids = create(&store, 2000).await;
    assert_eq!(store.all_session_ids().await.unwrap().into_iter().collect::<HashSet<_>>(), ids);
    assert_eq!(store.size().await.unwrap(), 2000);
    let done = store.bulk_delete(|record| record.data().visits < 500).await.unwrap();
    assert_eq!(done.deleted, 500);
    assert_eq!(store.clear().await.unwrap(), 1500);
    assert_eq!(store.size().await.unwrap(), 0);
}

#[tokio::test]
async fn all_sessions_of_an_owner_are_ended_on_all_masters() {
    let cluster = RedisCluster::start(3, 0).await;
    let (one, other) = (start_node(&cluster).await, start_node(&cluster).await);
    let mut ids = Vec::new();
    for master in 0..3 {
        ids.push(create_on(&one, &cluster, master).await);
    }
    for id in &ids {
        is_cached(&other, *id).await;
    }
    assert!(one.delete_all_of("ada").await.unwrap().deleted >= 3);
    for id in ids {
        eventually(async || other.find(id).await.unwrap().is_none(), "the session is gone").await;
    }
    assert_eq!(one.sessions_of("ada").await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_session_is_found_and_changed_at_every_step_of_the_migration_of_its_slot() {
    let cluster = RedisCluster::start(3, 0).await;
    let (one, other) = (start_node(&cluster).await, start_node(&cluster).await);
    let id = create_on(&one, &cluster, 0).await;
    let slot = cluster.slot(&key(id));
    let mut visits = 0;
    let mut works = async |step: &str| {
        is_cached(&other, id).await;
        visits += 1;
        one.modify(id, |data| data.visits = visits).await.unwrap();
        let seen = async || other.find(id).await.unwrap().unwrap().data().visits == visits;
        eventually(seen, step).await;
        assert_eq!(one.find_fresh(id).await.unwrap().unwrap().data().visits, visits, "{step}");
        assert!(one.touch(id).await.is_ok(), "{step}");
    };
    works("before").await;
    cluster.begin_migration([slot], 0, 2).await;
    works("the slot is migrating, and the key is still at the source").await;
    cluster.move_keys([slot], 0, 2).await;
    works("the key is at the target, and the source still has the slot").await;
    cluster.end_migration([slot], 0, 2).await;
    works("the target has the slot").await;
    assert_eq!(cluster.owner(slot).await, 2);
    assert!(one.delete(id).await.unwrap());
    eventually(async || other.find(id).await.unwrap().is_none(), "the session is gone").await;
}

#[tokio::test]
async fn a_large_record_is_changed_and_read_while_its_slot_migrates() {
    let cluster = RedisCluster::start(3, 0).await;
    let alone = ClusterConfig::new().enabled(false);
    let node = store(config().redis(redis(&cluster)).cluster(alone)).await;
    let id = create_of(&node, &cluster, 0, &"x".repeat(100_000)).await;
    let slot = cluster.slot(&key(id));
    cluster.begin_migration([slot], 0, 2).await;
    cluster.move_keys([slot], 0, 2).await;
    for visits in 1..=2 {
        node.modify(id, |data| data.visits = visits).await.unwrap();
        assert_eq!(node.find_fresh(id).await.unwrap().unwrap().data().visits, visits);
    }
}

#[tokio::test]
async fn a_walk_misses_no_session_that_moves_to_a_master_that_was_visited_already() {
    let cluster = RedisCluster::start(3, 0).await;
    let store = start_node(&cluster).await;
    let ids = create(&store, 2400).await;
    // Masters are visited in this order.
    let mut order = [0, 1, 2];
    order.sort_by_key(|master| cluster.id(*master));
    let [first, _, last] = order;
    let mut walk = std::pin::pin!(store.each_session());
    let mut found = HashSet::new();
    // The first master has about 800 of them.
    while found.len() < 1200 {
        found.insert(walk.try_next().await.unwrap().expect("there are more sessions").id());
    }
    let begin = u16::try_from(last * 16384 / 3 + 1).unwrap();
    cluster.migrate(begin..=begin + 2000, last, first).await;
    while let Some(session) = walk.try_next().await.unwrap() {
        found.insert(session.id());
    }
    assert_eq!(found, ids);
    // While a slot is on its way, each walk has two rounds.
    cluster.begin_migration([begin], first, last).await;
    assert_eq!(store.size().await.unwrap(), 2400, "a session that is visited twice counts once");
}

#[tokio::test]
async fn a_walk_visits_a_master_that_the_node_has_not_heard_of() {
    let mut cluster = RedisCluster::start(3, 0).await;
    // A node that does not listen asks the cluster only when a request fails.
    let silent = ClusterConfig::new().enabled(false);
    let node = store(config().redis(redis(&cluster)).cluster(silent)).await;
    let ids = create(&node, 300).await;
    let new = cluster.add_master().await;
    cluster.migrate(0..=2000, 0, new).await;
    assert_eq!(node.all_session_ids().await.unwrap().into_iter().collect::<HashSet<_>>(), ids);
}

#[tokio::test]
async fn a_master_without_slots_proves_itself_like_the_others() {
    let mut cluster = RedisCluster::start(3, 0).await;
    let (one, other) = (start_node(&cluster).await, start_node(&cluster).await);
    let id = create_on(&one, &cluster, 0).await;
    is_cached(&other, id).await;
    let new = cluster.add_master().await;
    let heartbeats = || cluster.server(new).calls().get("publish").copied().unwrap_or_default();
    eventually(async || heartbeats() > 8, "the new master carries heartbeats out").await;
    is_cached(&other, id).await;
    // Its first slot.
    let slot = cluster.slot(&key(id));
    cluster.migrate(slot..=slot, 0, new).await;
    is_cached(&other, id).await;
    one.delete(id).await.unwrap();
    eventually(async || other.find(id).await.unwrap().is_none(), "it is revoked").await;
}

#[tokio::test]
async fn without_one_of_its_masters_a_cluster_is_neither_cached_nor_gone() {
    let mut cluster = RedisCluster::start(3, 0).await;
    for (_, server) in cluster.servers() {
        let () = server.command(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
    }
    let node = start_node(&cluster).await;
    let (lost, kept) = (create_on(&node, &cluster, 0).await, create_on(&node, &cluster, 1).await);
    is_cached(&node, kept).await;
    cluster.server_mut(0).kill();
    eventually(async || !node.coordinator().is_listening(), "the node notices").await;
    assert_eq!(node.find(lost).await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    let bypasses = node.cache_stats().bypasses;
    assert!(node.find(kept).await.unwrap().is_some());
    assert_eq!(node.cache_stats().bypasses, bypasses + 1);
    assert!(node.healthy().await, "the other masters answer");
    cluster.server_mut(0).restart();
    eventually(async || node.coordinator().is_listening(), "the node listens again").await;
    is_cached(&node, kept).await;
    assert!(node.find(lost).await.unwrap().is_none(), "the master has lost its data");
}

#[tokio::test]
async fn a_master_that_is_busy_with_a_long_script_ends_no_subscription() {
    let node_timeout = Duration::from_secs(10);
    let cluster = RedisCluster::with(3, 0, Options { node_timeout, ..Options::default() }).await;
    // A heartbeat may be late for as long, beyond `max_staleness`.
    let redis = redis(&cluster).response_timeout(Duration::from_secs(2));
    let node = store(config().redis(redis).enable_retry(false)).await;
    let (on_busy, id) = (create_on(&node, &cluster, 0).await, create_on(&node, &cluster, 1).await);
    is_cached(&node, id).await;
    let busy = cluster.server(0);
    let () = busy.command(&["CONFIG", "SET", "busy-reply-threshold", "50"]);
    let url = busy.url();
    let script = std::thread::spawn(move || {
        let client = redis::Client::open(url).unwrap();
        let mut connection = client.get_connection().unwrap();
        redis::cmd("EVAL").arg("while true do end").arg(0).exec(&mut connection)
    });
    let without_lease = async || {
        let bypasses = node.cache_stats().bypasses;
        assert!(node.find(id).await.unwrap().is_some());
        node.cache_stats().bypasses > bypasses
    };
    eventually(without_lease, "heartbeats are refused").await;
    let () = busy.command(&["SCRIPT", "KILL"]);
    script.join().unwrap().unwrap_err();
    is_cached(&node, id).await;
    is_cached(&node, on_busy).await;
    assert_eq!(node.coordinator().disconnects(), 0);
}

#[tokio::test]
async fn a_node_starts_while_the_first_of_the_named_servers_is_down() {
    let mut cluster = RedisCluster::start(3, 1).await;
    cluster.server_mut(0).kill();
    cluster.has_failed_over(0).await;
    let node = start_node(&cluster).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    is_cached(&node, id).await;
}

#[tokio::test]
async fn each_master_is_described() {
    let cluster = RedisCluster::start(3, 0).await;
    let node = start_node(&cluster).await;
    let info = node.backend_info();
    assert_eq!(info.servers.len(), 3);
    for server in info.servers {
        assert!(server.software.is_some());
        assert_eq!(server.history, HistoryProof::ReplicationIdAndHeartbeats);
        assert_eq!(server.refused, [""; 0]);
    }
}

/// Returns the cause of the error of the first operation of a node.
async fn refusal(redis: RedisConfig) -> String {
    let config = config().redis(redis).enable_retry(false);
    let store: SessionStore<Data> = SessionStore::new(config.build().unwrap());
    // In a cluster, some sessions are in slots of the server.
    loop {
        if let Err(error) = store.create(Data::of("ada")).await {
            assert_eq!(error.kind(), StoreErrorKind::Refused, "{error:?}");
            return error.source().unwrap().to_string();
        }
    }
}

#[tokio::test]
async fn a_server_that_is_taken_for_another_kind_is_refused() {
    let server = RedisServer::start();
    let url = server.url().replace("redis://", "redis-cluster://");
    let cause = refusal(RedisConfig::from_url(&url).unwrap()).await;
    assert!(cause.contains("cluster support disabled"), "{cause}");

    let cluster = RedisCluster::start(3, 0).await;
    let cause = refusal(RedisConfig::from_url(&cluster.server(0).url()).unwrap()).await;
    assert!(cause.contains("RedisConfig::cluster"), "{cause}");
}
