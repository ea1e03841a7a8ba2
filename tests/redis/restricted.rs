//! Servers that refuse some commands, as managed services do: nodes do without them where they can.

use std::time::Duration;

use clustered_sessions::backend::{HistoryProof, ServerInfo};
use clustered_sessions::{RedisConfig, SessionId, SessionStore, StoreErrorKind};
use support::redis::RedisServer;
use support::replication::pair;
use support::wait::eventually;

use crate::nodes::{Data, config, is_cached, key, store};
use crate::servers::{close_command_connections, is_never_trusted};
use crate::web::RedisAddress as _;

/// Creates a user on a server that may run all commands but these.
pub(crate) fn forbid(server: &RedisServer, commands: &[&str]) {
    let user = ["ACL", "SETUSER", "app", "reset", "on", ">secret", "~*", "&*", "+@all"];
    let () = server.command(&[&user, commands].concat());
}

pub(crate) fn as_app(redis: RedisConfig) -> RedisConfig {
    redis.user("app").password("secret")
}

/// Starts a node that may not run `INFO`.
async fn node_without_info(server: &RedisServer) -> SessionStore<Data> {
    forbid(server, &["-info"]);
    store(config().redis(as_app(server.config()))).await
}

async fn gone(node: &SessionStore<Data>, id: SessionId) {
    let gone = async || node.find(id).await.is_ok_and(|found| found.is_none());
    eventually(gone, "the session is gone").await;
}

fn server_info(node: &SessionStore<Data>) -> ServerInfo {
    node.backend_info().servers.remove(0)
}

/// Checks that two nodes receive each other's announcements, and notice a flushed database.
async fn are_coherent(server: &RedisServer, one: SessionStore<Data>, other: SessionStore<Data>) {
    let id = one.create(Data::of("ada")).await.unwrap().id;
    is_cached(&other, id).await;
    assert!(one.delete(id).await.unwrap());
    gone(&other, id).await;
    assert_eq!(
        (one.coordinator().disconnects(), other.coordinator().disconnects()),
        (0, 0),
        "the announcement evicted it, and not a lost subscription"
    );
    let id = one.create(Data::of("ada")).await.unwrap().id;
    is_cached(&other, id).await;
    let () = server.command(&["FLUSHALL"]);
    gone(&other, id).await;
    assert_eq!(other.coordinator().disconnects(), 1);
    eventually(async || other.coordinator().is_listening(), "it listens again").await;
}

#[tokio::test]
async fn a_server_that_refuses_nothing_gives_both_proofs() {
    let server = RedisServer::start();
    let node = store(config().redis(server.config())).await;
    let info = server_info(&node);
    assert_eq!(info.history, HistoryProof::ReplicationIdAndHeartbeats);
    assert_eq!(info.refused, [""; 0]);
    let server = server.info("server");
    // Valkey also has a `redis_version`, with which it is compatible.
    let name = if server.contains("server_name:valkey") { "valkey" } else { "redis" };
    let field = format!("{name}_version:");
    let version = server.lines().find_map(|line| line.strip_prefix(&field)).unwrap();
    assert_eq!(info.software, Some(format!("{name} {version}")));
}

#[tokio::test]
async fn nodes_that_may_not_run_info_are_coherent() {
    let server = RedisServer::start();
    let nodes = (node_without_info(&server).await, node_without_info(&server).await);
    let info = server_info(&nodes.0);
    assert_eq!(info.history, HistoryProof::HeartbeatsAlone);
    assert_eq!((info.software, info.refused), (None, vec!["INFO".to_owned()]));
    are_coherent(&server, nodes.0, nodes.1).await;
}

#[tokio::test]
async fn nodes_are_coherent_on_a_server_that_knows_neither_info_nor_config_nor_time() {
    let server = RedisServer::with_args(&[
        "--rename-command",
        "INFO",
        "INFO-FOR-TESTS",
        "--rename-command",
        "CONFIG",
        "",
        "--rename-command",
        "TIME",
        "",
    ]);
    let nodes = (
        store(config().redis(server.config())).await,
        store(config().redis(server.config())).await,
    );
    let info = server_info(&nodes.0);
    assert_eq!(info.history, HistoryProof::HeartbeatsAlone);
    assert_eq!(info.refused, ["INFO", "TIME"]);
    are_coherent(&server, nodes.0, nodes.1).await;
}

#[tokio::test]
async fn without_info_a_demoted_master_is_noticed() {
    let (master, replica) = pair().await;
    let node = node_without_info(&master).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    is_cached(&node, id).await;
    replica.has_caught_up_with(&master).await;
    replica.promote();
    let () = replica.command(&["DEL", &key(id)]);
    master.replicate(replica.port());
    eventually(async || !node.coordinator().is_listening(), "the lease has ended").await;
    assert_eq!(node.find(id).await.unwrap_err().kind(), StoreErrorKind::Unavailable);

    master.has_caught_up_with(&replica).await;
    master.promote();
    gone(&node, id).await;
    eventually(async || node.coordinator().is_listening(), "it listens again").await;
}

#[tokio::test]
async fn without_info_a_subscription_on_another_server_is_not_trusted() {
    let servers = (RedisServer::start(), RedisServer::start());
    forbid(&servers.0, &["-info"]);
    forbid(&servers.1, &["-info"]);
    is_never_trusted(&servers.0, &servers.1, as_app).await;
}

#[tokio::test]
async fn without_info_a_subscription_on_a_replica_is_not_trusted() {
    let (master, replica) = pair().await;
    forbid(&master, &["-info"]);
    forbid(&replica, &["-info"]);
    is_never_trusted(&master, &replica, as_app).await;
}

/// The new connection may lead to another server, which nothing can rule out.
#[tokio::test]
async fn without_info_a_new_connection_for_commands_ends_the_subscription() {
    let server = RedisServer::start();
    let node = node_without_info(&server).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    close_command_connections(&server);
    let subscribed_again =
        async || node.find_fresh(id).await.is_ok() && node.coordinator().disconnects() == 1;
    eventually(subscribed_again, "the subscription has ended").await;
    is_cached(&node, id).await;
}

#[tokio::test]
async fn a_permission_for_info_that_comes_and_goes_begins_an_epoch_each_time() {
    let server = RedisServer::start();
    forbid(&server, &[]);
    let node = store(config().redis(as_app(server.config()))).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    for (permission, history, disconnects) in [
        ("-info", HistoryProof::HeartbeatsAlone, 1),
        ("+info", HistoryProof::ReplicationIdAndHeartbeats, 2),
    ] {
        is_cached(&node, id).await;
        let () = server.command(&["ACL", "SETUSER", "app", permission]);
        let proven = async || {
            server_info(&node).history == history && node.coordinator().disconnects() == disconnects
        };
        eventually(proven, "the node rests on another proof").await;
        let refused: &[&str] = if permission == "-info" { &["INFO"] } else { &[] };
        assert_eq!(server_info(&node).refused, refused);
    }
    is_cached(&node, id).await;
}

#[tokio::test]
async fn without_info_a_server_that_cannot_save_is_not_read() {
    let server = RedisServer::start();
    let redis = as_app(server.config());
    forbid(&server, &["-info"]);
    let node = store(config().enable_retry(false).redis(redis)).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    server.fail_to_save().await;
    // It cannot show that it is still the master.
    eventually(async || !node.coordinator().is_listening(), "the lease has ended").await;
    assert_eq!(node.find(id).await.unwrap_err().kind(), StoreErrorKind::Refused);
    server.need_not_save();
    node.wait_until_ready(Duration::from_secs(10)).await.unwrap();
    is_cached(&node, id).await;
}
