//! A server that is no writable master, or was none for a moment, and one that has no memory left.

use std::time::Duration;

use clustered_sessions::backend::{Backend as _, OwnerTag, RedisBackend, Timestamp};
use clustered_sessions::{ClusterConfig, SessionId, StoreError, StoreErrorKind};
use support::redis::RedisServer;
use support::wait::eventually;

use crate::nodes::{Data, config, store};
use crate::web::RedisAddress as _;

/// A heartbeat every two seconds: what happens just after one and takes less goes unseen by all of them.
fn slow_heartbeat() -> ClusterConfig {
    ClusterConfig::new().max_staleness(Duration::from_secs(8))
}

fn replicate(server: &RedisServer, master: &RedisServer) {
    let () = server.command(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
}

fn promote(server: &RedisServer) {
    let () = server.command(&["REPLICAOF", "NO", "ONE"]);
}

async fn synced(replica: &RedisServer) {
    let up = async || {
        replica.command::<String>(&["INFO", "replication"]).contains("master_link_status:up")
    };
    eventually(up, "the replica has everything").await;
}

/// Master and replica.
async fn pair() -> (RedisServer, RedisServer) {
    let (master, replica) = (RedisServer::start(), RedisServer::start());
    for server in [&master, &replica] {
        // Else it waits for more replicas before it sends its data to one.
        let () = server.command(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    }
    replicate(&replica, &master);
    synced(&replica).await;
    (master, replica)
}

#[tokio::test]
async fn a_master_that_was_demoted_between_two_heartbeats_is_a_lost_channel() {
    let (master, replica) = pair().await;
    let node = store(config().cluster(slow_heartbeat()).redis(master.config())).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    let key = format!("session:{id}");
    eventually(
        async || replica.command::<u64>(&["EXISTS", &key]) == 1,
        "the replica has the session",
    )
    .await;
    assert!(node.find(id).await.unwrap().is_some());
    assert_eq!((node.cache_stats().hits, node.coordinator().disconnects()), (1, 0));

    let beats = || master.calls()["publish"];
    let before = beats();
    eventually(async || beats() > before, "a heartbeat has just been").await;
    // Another is the master for a moment, and the session ends there, unheard.
    promote(&replica);
    let () = replica.command(&["DEL", &key]);
    replicate(&master, &replica);
    synced(&master).await;
    promote(&master);

    eventually(
        async || node.find(id).await.is_ok_and(|found| found.is_none()),
        "the session is known to be gone",
    )
    .await;
    assert!(node.coordinator().disconnects() > 0, "by the loss, and not because it was forgotten");
}

#[tokio::test]
async fn a_demoted_master_is_believed_in_nothing() {
    let (master, other) = (RedisServer::start(), RedisServer::start());
    let cluster = ClusterConfig::new().enabled(false).local_cache_enabled(false);
    let node = store(config().cluster(cluster).redis(master.config())).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    let nobody = SessionId::from_bytes([0; 16]);
    // Has each script known, so that what follows is about running them.
    node.modify(id, |data| data.visits += 1).await.unwrap();
    let _pages = node.all_session_ids().await.unwrap();

    fn refused<R>(what: &str, answer: Result<R, StoreError>) {
        let kind = answer.err().map(|error| error.kind());
        assert_eq!(kind, Some(StoreErrorKind::Unavailable), "{what}");
    }
    // Its data is what it was: it never reaches the master that it is to follow.
    other.freeze();
    replicate(&master, &other);
    refused("find", node.find(id).await);
    refused("find what is not there", node.find(nobody).await);
    refused("create", node.create(Data::default()).await);
    refused("update", node.modify(id, |data| data.visits += 1).await);
    refused("delete", node.delete(id).await);
    refused("delete what is not there", node.delete(nobody).await);
    refused("touch", node.touch(id).await);
    refused("touch what is not there", node.touch(nobody).await);
    refused("clear", node.clear().await);
    refused("walk", node.all_session_ids().await);
    refused("announce", node.coordinator().publish_invalidation(id).await);
    assert!(!node.healthy().await);

    promote(&master);
    assert_eq!(node.get(id).await.unwrap().data().visits, 1);
    assert!(node.healthy().await);
}

#[tokio::test]
async fn a_server_without_memory_refuses_changes_and_still_logs_out() {
    let server = RedisServer::start();
    let node = store(config().redis(server.config())).await;
    let (ada, bob) = (
        node.create(Data::of("ada")).await.unwrap().id,
        node.create(Data::of("bob")).await.unwrap().id,
    );
    let () = server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    // Else a session that has an owner would not be extended.
    let backend = RedisBackend::new(&server.config(), "session:invalidate").unwrap();
    backend
        .add_to_owner(&OwnerTag::from_bytes([1; 32]), &ada, Timestamp::from_millis(u64::MAX / 2))
        .await
        .unwrap();

    for _ in 0..2 {
        let error = node.modify(ada, |data| data.visits += 1).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Refused);
    }
    assert_eq!(node.create(Data::default()).await.unwrap_err().kind(), StoreErrorKind::Refused);
    assert!(node.touch(ada).await.unwrap());
    assert!(node.delete(bob).await.unwrap());
    assert_eq!(node.find(bob).await.unwrap().map(|_| ()), None);
    assert_eq!(node.get(ada).await.unwrap().data().visits, 0);
    // What was refused was not announced either.
    eventually(
        async || node.coordinator().announcements_received() == 1,
        "the logout is announced",
    )
    .await;

    // Reading from memory goes on, since hearing is proven without room, too.
    let beats = || server.calls()["publish"];
    let before = beats();
    eventually(async || beats() > before + 1, "heartbeats go on").await;
    assert_eq!(node.coordinator().disconnects(), 0);
    assert!(node.coordinator().is_listening());
}
