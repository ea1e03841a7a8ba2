//! Commands and subscriptions that lead to different servers, as with a name that resolves to
//! several addresses.

use std::time::Duration;

use clustered_sessions::{ClusterConfig, RedisConfig, SessionStore, StoreErrorKind};
use support::proxy::Proxy;
use support::redis::RedisServer;
use support::replication::pair;
use support::wait::{DEADLINE, eventually};

use crate::nodes::{Data, config, store};
use crate::web::RedisAddress as _;

fn subscribers(server: &RedisServer) -> u64 {
    let (_, count): (String, u64) = server.command(&["PUBSUB", "NUMSUB", "session:invalidate"]);
    count
}

/// Returns the ids of the connections to a server that are not in use by a subscription, the oldest
/// first.
fn command_connections(server: &RedisServer) -> Vec<u64> {
    let clients: String = server.command(&["CLIENT", "LIST"]);
    let field = |client: &str, name: &str| {
        client.split(' ').find_map(|field| field.strip_prefix(name)?.parse::<u64>().ok()).unwrap()
    };
    let clients = clients.lines().filter(|client| !client.contains("cmd=client|list"));
    let mut ids: Vec<_> = clients
        .filter(|client| field(client, "sub=") == 0)
        .map(|client| field(client, "id="))
        .collect();
    ids.sort_unstable();
    ids
}

fn close_connection(server: &RedisServer, id: u64) {
    let _: u64 = server.command(&["CLIENT", "KILL", "ID", &id.to_string()]);
}

/// Closes the connections to a server that are not in use by a subscription.
pub(crate) fn close_command_connections(server: &RedisServer) {
    for id in command_connections(server) {
        close_connection(server, id);
    }
}

#[tokio::test]
async fn a_subscription_ends_when_commands_go_to_another_server() {
    let (first, second) = (RedisServer::start(), RedisServer::start());
    let proxy = Proxy::start(first.port()).await;
    let node = store(config().redis(proxy.config())).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    assert!(node.find(id).await.unwrap().is_some());
    assert_eq!(node.cache_stats().hits, 1);

    proxy.redirect(second.port());
    close_command_connections(&first);
    // The subscription to the first server still works, and proves nothing about the second.
    eventually(
        async || node.find_fresh(id).await.is_ok_and(|found| found.is_none()),
        "commands go to the second server",
    )
    .await;
    eventually(async || subscribers(&second) == 1, "so does the subscription").await;
    eventually(async || subscribers(&first) == 0, "the first server has no subscriber").await;
    assert_eq!(node.coordinator().disconnects(), 1);
    assert!(node.find(id).await.unwrap().is_none());
}

/// Starts a node whose commands go to one server and whose subscriptions go to another, and checks
/// that it never uses its cache. Then both go to the first.
pub(crate) async fn is_never_trusted(
    commands: &RedisServer,
    subscriptions: &RedisServer,
    configure: impl Fn(RedisConfig) -> RedisConfig,
) {
    let proxy = Proxy::start(commands.port()).await;
    // The first connection is that for commands.
    proxy.redirect_after_next(subscriptions.port());
    let node = SessionStore::new(config().redis(configure(proxy.config())).build().unwrap());
    let id = node.create(Data::of("ada")).await.unwrap().id;
    let error = node.wait_until_ready(Duration::from_secs(3)).await.unwrap_err();
    assert!(
        matches!(error.kind(), StoreErrorKind::Unavailable | StoreErrorKind::Timeout),
        "{error:?}"
    );
    for _ in 0..10 {
        assert!(node.find(id).await.unwrap().is_some());
    }
    assert!(!node.coordinator().is_listening());
    assert_eq!(node.coordinator().disconnects(), 0, "there never was a subscription");
    assert_eq!(node.cache_stats().hits, 0);

    proxy.redirect(commands.port());
    node.wait_until_ready(DEADLINE).await.unwrap();
    node.find(id).await.unwrap();
    node.find(id).await.unwrap();
    assert_eq!(node.cache_stats().hits, 1);
}

#[tokio::test]
async fn a_subscription_on_another_server_is_not_trusted() {
    is_never_trusted(&RedisServer::start(), &RedisServer::start(), |redis| redis).await;
}

#[tokio::test]
async fn a_subscription_on_a_replica_is_not_trusted() {
    let (master, replica) = pair().await;
    is_never_trusted(&master, &replica, |redis| redis).await;
}

/// The connection for large records stays when the other one has moved to another server.
#[tokio::test]
async fn a_large_record_is_not_read_from_another_server_than_all_others() {
    let (first, second) = (RedisServer::start(), RedisServer::start());
    let proxy = Proxy::start(first.port()).await;
    let alone = ClusterConfig::new().enabled(false);
    let config = config().cluster(alone).enable_retry(false).redis(proxy.config());
    let node = SessionStore::new(config.build().unwrap());
    let small = node.create(Data::of("ada")).await.unwrap().id;
    let large = node.create(Data::of(&"x".repeat(100_000))).await.unwrap().id;
    for _ in 0..2 {
        assert!(node.find_fresh(large).await.unwrap().is_some());
    }
    let connections = command_connections(&first);
    assert_eq!(connections.len(), 2, "one of them is for large records");

    proxy.redirect(second.port());
    close_connection(&first, connections[0]);
    let is_gone = async || node.find_fresh(small).await.is_ok_and(|found| found.is_none());
    eventually(is_gone, "commands go to the second server").await;
    assert_eq!(command_connections(&first), connections[1..], "large records had not moved yet");
    for _ in 0..10 {
        let found = node.find_fresh(large).await;
        assert!(!matches!(found, Ok(Some(_))), "a record was read from the first server");
    }
    let is_gone = async || node.find_fresh(large).await.is_ok_and(|found| found.is_none());
    eventually(is_gone, "large records go to the second server, too").await;
}

#[tokio::test]
async fn a_new_connection_to_the_same_server_keeps_the_cache() {
    let redis = RedisServer::start();
    let cluster = ClusterConfig::new().max_staleness(Duration::from_secs(60));
    let node = store(config().cluster(cluster).redis(redis.config())).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    close_command_connections(&redis);
    eventually(async || redis.connections() == 1, "only the subscription is left").await;
    assert!(node.find_fresh(id).await.unwrap().is_some());
    assert!(node.find(id).await.unwrap().is_some());
    assert_eq!((node.cache_stats().hits, node.coordinator().disconnects()), (1, 0));
}

/// An operator flushes the database: no announcement is made, and the connections stay. Entries
/// live for a minute, which is longer than the test waits.
#[tokio::test]
async fn a_flushed_database_is_noticed_within_max_staleness() {
    for command in ["FLUSHALL", "FLUSHDB"] {
        let server = RedisServer::start();
        let node = store(config().redis(server.config())).await;
        let id = node.create(Data::of("ada")).await.unwrap().id;
        assert!(node.find(id).await.unwrap().is_some());
        let () = server.command(&[command]);
        eventually(async || node.find(id).await.is_ok_and(|found| found.is_none()), "it is gone")
            .await;
        assert_eq!(node.coordinator().disconnects(), 1);
        eventually(async || node.coordinator().is_listening(), "it listens again").await;
    }
}
