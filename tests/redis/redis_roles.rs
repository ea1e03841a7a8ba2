//! A server that is not a writable master, or was demoted for a moment, and one that is out of
//! memory.

use std::time::Duration;

use clustered_sessions::backend::{Backend as _, OwnerTag, RedisBackend, Timestamp};
use clustered_sessions::{
    ClusterConfig, Session, SessionConfig, SessionId, SessionLayer, StoreError, StoreErrorKind,
};
use http::StatusCode;
use support::redis::RedisServer;
use support::replication::pair;
use support::wait::eventually;

use crate::nodes::{Data, config, key, store};
use crate::web::{self, Browser, RedisAddress as _};

/// Configures a heartbeat every two seconds, so that a demotion fits between two of them.
fn slow_heartbeat() -> ClusterConfig {
    ClusterConfig::new().max_staleness(Duration::from_secs(8))
}

#[tokio::test]
async fn a_demotion_between_two_heartbeats_ends_the_subscription() {
    let (master, replica) = pair().await;
    let node = store(config().cluster(slow_heartbeat()).redis(master.config())).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    let key = key(id);
    eventually(
        async || replica.command::<u64>(&["EXISTS", &key]) == 1,
        "the replica has the session",
    )
    .await;
    assert!(node.find(id).await.unwrap().is_some());
    assert_eq!((node.cache_stats().hits, node.coordinator().disconnects()), (1, 0));

    let beats = || master.calls()["publish"];
    let before = beats();
    eventually(async || beats() > before, "a heartbeat has just been sent").await;
    // The other server is the master for a moment. The session is deleted there without an
    // announcement.
    replica.promote();
    let () = replica.command(&["DEL", &key]);
    master.replicate(replica.port());
    master.has_caught_up_with(&replica).await;
    master.promote();

    eventually(
        async || node.find(id).await.is_ok_and(|found| found.is_none()),
        "the session is gone",
    )
    .await;
    assert!(
        node.coordinator().disconnects() > 0,
        "the loss of the subscription invalidated it, and not an eviction"
    );
}

#[tokio::test]
async fn every_operation_on_a_demoted_master_fails() {
    let (master, other) = (RedisServer::start(), RedisServer::start());
    let cluster = ClusterConfig::new().enabled(false).local_cache_enabled(false);
    let node = store(config().cluster(cluster).redis(master.config())).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    let unknown = SessionId::from_bytes([0; 16]);
    // Makes the server cache each script, so that the errors below come from running them.
    node.modify(id, |data| data.visits += 1).await.unwrap();
    let _pages = node.all_session_ids().await.unwrap();

    fn refused<R>(what: &str, answer: Result<R, StoreError>) {
        let kind = answer.err().map(|error| error.kind());
        assert_eq!(kind, Some(StoreErrorKind::Unavailable), "{what}");
    }
    // The server keeps its data, since it never reaches the master that it should replicate.
    other.freeze();
    master.replicate(other.port());
    refused("find", node.find(id).await);
    refused("find an unknown id", node.find(unknown).await);
    refused("create", node.create(Data::default()).await);
    refused("update", node.modify(id, |data| data.visits += 1).await);
    refused("delete", node.delete(id).await);
    refused("delete an unknown id", node.delete(unknown).await);
    refused("touch", node.touch(id).await);
    refused("touch an unknown id", node.touch(unknown).await);
    refused("clear", node.clear().await);
    refused("walk", node.all_session_ids().await);
    refused("announce", node.coordinator().publish_invalidation(id).await);
    assert!(!node.healthy().await);

    master.promote();
    assert_eq!(node.get(id).await.unwrap().data().visits, 1);
    assert!(node.healthy().await);
}

/// Its replies would be empty pages, which need no script.
#[tokio::test]
async fn a_demoted_master_without_sessions_is_not_scanned() {
    let (master, other) = (RedisServer::start(), RedisServer::start());
    let cluster = ClusterConfig::new().enabled(false).local_cache_enabled(false);
    let node = store(config().cluster(cluster).enable_retry(false).redis(master.config())).await;
    assert_eq!(node.all_session_ids().await.unwrap(), []);
    other.freeze();
    master.replicate(other.port());
    let error = node.all_session_ids().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
}

#[tokio::test]
async fn a_server_without_memory_logs_out_although_no_other_session_can_begin() {
    let server = RedisServer::start();
    let config = SessionConfig::builder(web::secret()).redis(server.config());
    let layer = SessionLayer::new(config.build().unwrap());
    let mut browser = Browser::with(&layer, web::ada()).await;
    let () = server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let app = web::serve(&layer, async |session: Session<web::Data>| {
        session.destroy();
        session.update(|data| data.visits += 1);
    });
    let page = browser.visit(&app).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(browser.cookie(web::COOKIE), None, "its session has ended");
    assert_eq!(layer.store().size().await.unwrap(), 0);
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
    // An index entry can be written without free memory. Otherwise sessions with an owner could
    // not be extended.
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
    // The refused changes were not announced.
    eventually(
        async || node.coordinator().announcements_received() == 1,
        "the deletion is announced",
    )
    .await;

    // The node keeps its lease, since heartbeats need no free memory.
    let beats = || server.calls()["publish"];
    let before = beats();
    eventually(async || beats() > before + 1, "heartbeats continue").await;
    assert_eq!(node.coordinator().disconnects(), 0);
    assert!(node.coordinator().is_listening());
}
