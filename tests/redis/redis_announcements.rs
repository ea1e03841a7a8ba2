//! Announcements between nodes on one Redis, and nodes that do not receive them.

use std::time::Duration;

use clustered_sessions::{ClusterConfig, RedisConfig, SessionId, SessionStore, StoreErrorKind};
use serde_json::{Value, json};
use support::proxy::{Proxy, Purpose};
use support::redis::RedisServer;
use support::wait::eventually;

use crate::nodes::{Data, config, is_cached, key, store};
use crate::web::RedisAddress as _;

const CHANNEL: &str = "session:invalidate";

/// Configures a lease that outlasts the test, so that only announcements and the loss of the
/// subscription keep the cache coherent.
fn long_lease() -> ClusterConfig {
    ClusterConfig::new().max_staleness(Duration::from_secs(60))
}

async fn node(server: &RedisServer) -> SessionStore<Data> {
    store(config().cluster(long_lease()).redis(server.config())).await
}

/// Creates a node that has a Redis user of its own, with all permissions at first.
async fn node_of_app_user(server: &RedisServer) -> SessionStore<Data> {
    let () = server.command(&["ACL", "SETUSER", "app", "on", ">secret", "+@all", "~*", "&*"]);
    store(config().cluster(long_lease()).redis(server.config().user("app").password("secret")))
        .await
}

/// To subscribe and to send a heartbeat takes several round trips, and each may take as long as the
/// response timeout allows.
#[tokio::test]
async fn a_node_listens_although_each_answer_of_the_server_takes_long() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    proxy.delay(Purpose::Announcements, Duration::from_millis(300));
    let redis = RedisConfig::new("127.0.0.1", proxy.port());
    let node = store(config().redis(redis.response_timeout(Duration::from_millis(500)))).await;
    assert!(node.coordinator().is_listening());
}

#[tokio::test]
async fn a_session_deleted_on_one_node_is_gone_on_another() {
    let server = RedisServer::start();
    let (one, other) = (node(&server).await, node(&server).await);
    let id = one.create(Data::of("ada")).await.unwrap().id;
    is_cached(&other, id).await;
    assert!(one.delete(id).await.unwrap());
    eventually(
        async || other.find(id).await.unwrap().is_none(),
        "the session is gone on the other node",
    )
    .await;
    assert_eq!(
        other.coordinator().disconnects(),
        0,
        "the announcement evicted it, and not a lost subscription"
    );
}

#[tokio::test]
async fn a_session_changed_on_one_node_is_changed_on_another() {
    let server = RedisServer::start();
    let (one, other) = (node(&server).await, node(&server).await);
    let id = one.create(Data::of("ada")).await.unwrap().id;
    is_cached(&other, id).await;
    one.modify(id, |data| data.visits = 7).await.unwrap();
    eventually(
        async || other.get(id).await.unwrap().data().visits == 7,
        "the other node sees the change",
    )
    .await;
    assert_eq!(
        other.coordinator().disconnects(),
        0,
        "the announcement evicted it, and not a lost subscription"
    );
    // The session is still cached on the writing node, which receives its own announcement, too.
    eventually(
        async || one.coordinator().announcements_received() == 1,
        "the writing node receives its own announcement",
    )
    .await;
    let misses = one.cache_stats().misses;
    assert_eq!(one.get(id).await.unwrap().data().visits, 7);
    assert_eq!(one.cache_stats().misses, misses);
}

#[tokio::test]
async fn nodes_on_other_channels_and_prefixes_are_not_disturbed() {
    let server = RedisServer::start();
    let one = node(&server).await;
    let cluster = long_lease().channel("shop:invalidate");
    let shop = store(config().cluster(cluster).redis(server.config().key_prefix("shop:"))).await;
    let id = shop.create(Data::of("ada")).await.unwrap().id;
    is_cached(&shop, id).await;

    let _ = one.create(Data::of("bob")).await.unwrap();
    assert_eq!(one.clear().await.unwrap(), 1);
    eventually(async || one.coordinator().announcements_received() > 0, "the clear is announced")
        .await;
    // The first announcement that the shop receives is its own.
    shop.coordinator().publish_invalidation(SessionId::from_bytes([0; 16])).await.unwrap();
    eventually(
        async || shop.coordinator().announcements_received() == 1,
        "the shop receives its own announcement",
    )
    .await;
    is_cached(&shop, id).await;
    assert!(shop.find_fresh(id).await.unwrap().is_some());
}

#[tokio::test]
async fn a_killed_subscription_is_renewed_and_counted() {
    let server = RedisServer::start();
    let (one, other) = (node(&server).await, node(&server).await);
    let id = one.create(Data::of("ada")).await.unwrap().id;
    is_cached(&other, id).await;
    assert_eq!(server.command::<u64>(&["CLIENT", "KILL", "TYPE", "pubsub"]), 2);
    let back =
        async || other.coordinator().disconnects() == 1 && other.coordinator().is_listening();
    eventually(back, "the node has subscribed again").await;
    // Entries from before are not served: an announcement may have been missed in between.
    let misses = other.cache_stats().misses;
    other.get(id).await.unwrap();
    assert_eq!(other.cache_stats().misses, misses + 1);
    is_cached(&other, id).await;
    one.delete(id).await.unwrap();
    eventually(
        async || other.find(id).await.unwrap().is_none(),
        "an announcement arrives over the new subscription",
    )
    .await;
    assert_eq!(other.coordinator().disconnects(), 1);
}

#[tokio::test]
async fn a_node_without_a_subscription_reads_from_redis_until_it_has_subscribed_again() {
    let server = RedisServer::start();
    let (one, other) = (node(&server).await, node_of_app_user(&server).await);
    let id = one.create(Data::of("ada")).await.unwrap().id;
    is_cached(&other, id).await;

    // Ends the subscription and forbids a new one.
    let () = server.command(&["ACL", "SETUSER", "app", "resetchannels"]);
    eventually(
        async || !other.coordinator().is_listening(),
        "the node notices the loss of its subscription",
    )
    .await;
    for _ in 0..3 {
        let bypasses = other.cache_stats().bypasses;
        other.get(id).await.unwrap();
        assert_eq!(other.cache_stats().bypasses, bypasses + 1);
    }
    one.delete(id).await.unwrap();
    assert!(
        other.find(id).await.unwrap().is_none(),
        "the node reads from Redis, so the deletion is visible immediately"
    );

    let () = server.command(&["ACL", "SETUSER", "app", "allchannels"]);
    eventually(async || other.coordinator().is_listening(), "the node has subscribed again").await;
    let id = one.create(Data::of("bob")).await.unwrap().id;
    is_cached(&other, id).await;
}

#[tokio::test]
async fn a_node_that_may_not_listen_serves_without_its_cache() {
    let server = RedisServer::start();
    let () = server.command(&[
        "ACL",
        "SETUSER",
        "restricted",
        "on",
        ">secret",
        "+@all",
        "~*",
        "resetchannels",
    ]);
    let redis = server.config().user("restricted").password("secret");
    let restricted =
        SessionStore::new(config().cluster(long_lease()).redis(redis).build().unwrap());

    let id = restricted.create(Data::of("ada")).await.unwrap().id;
    for reads in 1..=3 {
        assert_eq!(restricted.get(id).await.unwrap().data().visits, 0);
        assert_eq!(restricted.cache_stats().bypasses, reads);
    }
    // Changes that cannot be announced are refused.
    let error = restricted.modify(id, |data| data.visits += 1).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    let error = restricted.delete(id).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    assert_eq!(restricted.get(id).await.unwrap().data().visits, 0);
    assert!(restricted.coordinator().is_running() && !restricted.coordinator().is_listening());
    let error = restricted.wait_until_ready(Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Timeout);
}

#[tokio::test]
async fn a_message_that_cannot_be_read_clears_the_cache() {
    let server = RedisServer::start();
    let node = node(&server).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    is_cached(&node, id).await;
    for (count, garbage) in
        (1..).zip(["", "garbage", "{}", "{\"type\":\"SessionDeleted\",\"session_id\":\"short\"}"])
    {
        let () = server.command(&["PUBLISH", CHANNEL, garbage]);
        eventually(
            async || node.coordinator().announcements_unreadable() == count,
            "the message is counted",
        )
        .await;
        eventually(async || node.coordinator().local_cache().size() == 0, "the cache is cleared")
            .await;
        is_cached(&node, id).await;
    }
}

#[tokio::test]
async fn announcements_of_other_programs_evict_sessions() {
    let server = RedisServer::start();
    let node = node(&server).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    for message in [
        json!({"type": "SessionDeleted", "session_id": id.to_string(), "node_id": "x", "timestamp": 0}),
        json!({"type": "SessionInvalidated", "session_id": id.to_string(), "node_id": "x", "timestamp": 0}),
        json!({"type": "CacheClear", "node_id": "x", "timestamp": 0}),
        json!({"type": "FromALaterVersion", "session_id": id.to_string()}),
    ] {
        is_cached(&node, id).await;
        let () = server.command(&["PUBLISH", CHANNEL, &message.to_string()]);
        eventually(async || node.coordinator().local_cache().size() == 0, "the session is evicted")
            .await;
    }
    assert_eq!(node.coordinator().announcements_unreadable(), 0);
}

#[tokio::test]
async fn announcements_have_the_documented_form() {
    let server = RedisServer::start();
    let mut channel = server.listen(CHANNEL).await;
    let mut next = async || serde_json::from_slice::<Value>(&channel.next().await).unwrap();
    let node = store(config().cluster(long_lease().node_id("web-3")).redis(server.config())).await;

    // A creation is not announced: no other node can have cached the id yet.
    let id = node.create(Data::of("ada")).await.unwrap().id;
    node.modify(id, |data| data.visits += 1).await.unwrap();
    let message = next().await;
    let value: Vec<u8> = server.command(&["GET", &key(id)]);
    let revision =
        base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, &value[2..18]);
    let timestamp = message["timestamp"].as_u64().unwrap();
    assert!(timestamp > 1_600_000_000_000, "milliseconds since the Unix epoch");
    assert_eq!(
        message,
        json!({"type": "SessionInvalidated", "session_id": id.to_string(), "revision": revision,
               "node_id": "web-3", "timestamp": timestamp})
    );

    let mut expect = async |expected: Value| {
        let mut message = next().await;
        assert!(message.as_object_mut().unwrap().remove("timestamp").unwrap().is_u64());
        assert_eq!(message, expected);
    };
    node.coordinator().publish_invalidation(id).await.unwrap();
    expect(json!({"type": "SessionInvalidated", "session_id": id.to_string(), "node_id": "web-3"}))
        .await;
    node.coordinator().publish_cache_clear().await.unwrap();
    expect(json!({"type": "CacheClear", "node_id": "web-3"})).await;
    for _ in 0..2 {
        node.delete(id).await.unwrap();
        expect(json!({"type": "SessionDeleted", "session_id": id.to_string(), "reason": "revoked",
                      "node_id": "web-3"}))
        .await;
    }
    node.clear().await.unwrap();
    expect(json!({"type": "CacheClear", "node_id": "web-3"})).await;
}
