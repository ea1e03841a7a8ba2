//! Walks over all sessions in a Redis that has keys of other applications, too.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clustered_sessions::backend::{
    Backend as _, Content, Meta, Page, RedisBackend, Revision, Stored, Timestamp, Update,
};
use clustered_sessions::{ClusterConfig, SessionId, SessionStore, StoreErrorKind};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use support::proxy::Proxy;
use support::redis::RedisServer;
use support::wait::eventually;

use crate::nodes::{Data, config, store};
use crate::servers::close_command_connections;
use crate::web::RedisAddress as _;

async fn create(store: &SessionStore<Data>, count: u64) -> HashSet<SessionId> {
    let new = async |visits| store.create(Data { user: None, visits }).await.map(|new| new.id);
    stream::iter((0..count).map(new)).buffer_unordered(64).try_collect().await.unwrap()
}

/// Commands that create foreign keys under the prefix of the store: a name of another length, a
/// value of another type, a value in another format, and a name with as many characters as a
/// session id.
const FOREIGN: [[&str; 3]; 4] = [
    ["SET", "session:settings", "blue"],
    ["SADD", "session:AAAAAAAAAAAAAAAAAAAAAA", "a set"],
    ["SET", "session:BBBBBBBBBBBBBBBBBBBBBA", "not a record"],
    ["SET", "session:feature-flags-2026-nov", "dark mode"],
];

fn add_foreign_keys(server: &RedisServer) {
    for command in &FOREIGN {
        let () = server.command(command);
    }
}

#[tokio::test]
async fn a_walk_yields_every_session_once() {
    let server = RedisServer::start();
    let store = store(config().redis(server.config())).await;
    let created = create(&store, 3000).await;

    let ids = store.all_session_ids().await.unwrap();
    assert_eq!(ids.len(), 3000);
    assert_eq!(ids.into_iter().collect::<HashSet<_>>(), created);
    assert_eq!(store.size().await.unwrap(), 3000);

    let records: Vec<_> = store.each_session().try_collect().await.unwrap();
    assert_eq!(records.iter().map(|record| record.id()).collect::<HashSet<_>>(), created);
    assert_eq!(records.iter().map(|record| record.data().visits).sum::<u64>(), 2999 * 3000 / 2);
}

#[tokio::test]
async fn clear_deletes_all_sessions_and_nothing_else_and_announces_it() {
    let server = RedisServer::start();
    let cluster = || ClusterConfig::new().local_cache_max_size(10_000);
    let (one, other) = (
        store(config().cluster(cluster()).redis(server.config())).await,
        store(config().cluster(cluster()).redis(server.config())).await,
    );
    let ids = create(&one, 5000).await;
    let seen = *ids.iter().next().unwrap();
    eventually(
        async || other.find(seen).await.unwrap().is_some() && other.cache_stats().size == 1,
        "the session is cached",
    )
    .await;
    add_foreign_keys(&server);
    let () = server.command(&["SET", "other", "1"]);

    assert_eq!(
        one.clear().await.unwrap(),
        5001,
        "the string under a valid session id counts as a session"
    );
    assert_eq!(one.size().await.unwrap(), 1, "the set under a valid session id is left");
    assert!(one.find(seen).await.unwrap().is_none());
    eventually(
        async || other.find(seen).await.unwrap().is_none(),
        "the other node receives the announcement",
    )
    .await;
    let keys: HashSet<String> = server.command(&["KEYS", "*"]);
    for key in ["other", FOREIGN[0][1], FOREIGN[1][1], FOREIGN[3][1]] {
        assert!(keys.contains(key), "{key} is not a session");
    }
    assert_eq!(one.clear().await.unwrap(), 0);
}

/// Managed services offer this mode: one shard that has all slots.
#[tokio::test]
async fn a_single_server_in_cluster_mode_is_cleared_and_scanned_like_any_other() {
    let server = RedisServer::in_cluster_mode().await;
    let store = store(config().redis(server.config())).await;
    let mut channel = server.listen(CHANNEL).await;
    let created = create(&store, 50).await;
    assert_eq!(store.all_session_ids().await.unwrap().into_iter().collect::<HashSet<_>>(), created);
    let done = store.bulk_delete(|record| record.data().visits < 10).await.unwrap();
    assert_eq!(done.deleted, 10);
    assert_eq!(store.clear().await.unwrap(), 40);
    assert_eq!(store.size().await.unwrap(), 0);
    // Each session is in a slot of its own, and so is deleted and announced alone.
    let mut announced = (0, 0);
    while announced != (10, 40) {
        let message = String::from_utf8(channel.next().await.to_vec()).unwrap();
        announced.0 += u64::from(message.contains("SessionDeleted"));
        announced.1 += u64::from(message.contains("CacheClear"));
    }
}

#[tokio::test]
async fn a_key_that_is_not_a_record_is_reported_and_does_not_end_a_walk() {
    let server = RedisServer::start();
    let store = store(config().redis(server.config())).await;
    let created = create(&store, 300).await;
    add_foreign_keys(&server);

    let results: Vec<_> = store.each_session().collect().await;
    let (records, errors): (Vec<_>, Vec<_>) =
        results.into_iter().partition(|result| result.is_ok());
    assert_eq!(
        records.into_iter().map(|record| record.unwrap().id()).collect::<HashSet<_>>(),
        created
    );
    let mut unreadable: Vec<_> = errors.into_iter().map(|error| error.unwrap_err()).collect();
    unreadable.sort_by_key(|error| error.session_id());
    let named: Vec<_> =
        unreadable.iter().map(|error| format!("session:{}", error.session_id().unwrap())).collect();
    assert_eq!(named, [FOREIGN[1][1], FOREIGN[2][1]]);
    assert!(unreadable.iter().all(|error| error.kind() == StoreErrorKind::Corrupt));

    assert_eq!(store.unreadable_records(), 2, "each unreadable record is counted");
    let done = store.bulk_delete(|record| record.data().visits < 100).await.unwrap();
    assert_eq!((done.deleted, done.unreadable), (100, 2));
    for [_, key, _] in FOREIGN {
        assert_eq!(server.command::<u64>(&["EXISTS", key]), 1, "{key}");
    }
}

const CHANNEL: &str = "session:invalidate";
const HOUR: Duration = Duration::from_secs(3600);

fn id(number: u8) -> SessionId {
    SessionId::from_bytes([number; 16])
}

fn record(revision: u8, content: Content) -> Stored {
    let time = Timestamp::from_millis(1_700_000_000_000);
    Stored::new(Meta::new(Revision::from_bytes([revision; 16]), time, time, id(0)), content)
}

/// A page is read in two steps: the server's keys, and what they hold.
#[tokio::test]
async fn a_session_that_ends_or_moves_between_the_steps_of_a_scan_is_found_as_what_it_is_then() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let direct = RedisBackend::new(&server.config(), CHANNEL).unwrap();
    let redis = proxy.config().response_timeout(Duration::from_secs(10));
    let scanning = Arc::new(RedisBackend::new(&redis, CHANNEL).unwrap());
    let payload = record(1, Content::Payload(Bytes::from_static(b"payload")));
    for number in 1..=3 {
        direct.create(&id(number), &payload, HOUR).await.unwrap();
    }
    // The server has cached the script, so that the page has two steps.
    scanning.scan(None).await.unwrap();
    let scans = || server.calls()["scan"];

    let before = scans();
    proxy.withhold_replies();
    let scan = tokio::spawn({
        let scanning = scanning.clone();
        async move { scanning.scan(None).await.unwrap() }
    });
    eventually(async || scans() > before, "the server has answered the first step").await;
    direct.delete(&id(1), b"").await.unwrap();
    let tombstone = record(2, Content::MovedTo(id(9)));
    let moved = id(2);
    direct.update(Update::new(&moved, payload.meta.revision, &tombstone, HOUR, b"")).await.unwrap();
    proxy.heal();
    assert_eq!(scan.await.unwrap(), Page::new(vec![id(3)], vec![id(9)], None));

    let before = scans();
    proxy.withhold_replies();
    let clear = tokio::spawn(async move { scanning.clear(b"").await.unwrap() });
    eventually(async || scans() > before, "the server has answered the first step").await;
    direct.delete(&id(3), b"").await.unwrap();
    proxy.heal();
    assert_eq!(clear.await.unwrap(), 0, "what is gone is not counted, nor is a tombstone");
    assert_eq!(server.command::<u64>(&["DBSIZE"]), 0);
}

#[tokio::test]
async fn a_scan_that_began_on_another_server_must_start_again() {
    let (first, second) = (RedisServer::start(), RedisServer::start());
    let proxy = Proxy::start(first.port()).await;
    let direct = RedisBackend::new(&first.config(), CHANNEL).unwrap();
    let scanning = RedisBackend::new(&proxy.config(), CHANNEL).unwrap();
    let payload = record(1, Content::Payload(Bytes::from_static(b"payload")));
    // More than fit on a page.
    for number in 0..2000_u16 {
        let [high, low] = number.to_be_bytes();
        let mut bytes = [high; 16];
        bytes[0] = low;
        direct.create(&SessionId::from_bytes(bytes), &payload, HOUR).await.unwrap();
    }
    let Page::Ids { next: Some(cursor), .. } = scanning.scan(None).await.unwrap() else {
        panic!("there is no next page")
    };
    let next = scanning.scan(Some(&cursor)).await.unwrap();
    assert!(matches!(next, Page::Ids { .. }), "on the same server, the cursor is valid");

    proxy.redirect(second.port());
    close_command_connections(&first);
    eventually(
        async || scanning.ping().await.is_ok() && second.connections() > 0,
        "commands go to the second server",
    )
    .await;
    assert_eq!(scanning.scan(Some(&cursor)).await.unwrap(), Page::Restart);
    assert_eq!(scanning.scan(None).await.unwrap(), Page::new(Vec::new(), Vec::new(), None));
}

#[tokio::test]
async fn clear_deletes_a_session_that_is_regenerated_meanwhile() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let direct = RedisBackend::new(&server.config(), CHANNEL).unwrap();
    let redis = proxy.config().response_timeout(Duration::from_secs(10));
    let clearing = RedisBackend::new(&redis, CHANNEL).unwrap();
    let payload = record(1, Content::Payload(Bytes::from_static(b"payload")));
    direct.create(&id(1), &payload, HOUR).await.unwrap();
    clearing.ping().await.unwrap();

    proxy.withhold_replies();
    let clear = tokio::spawn(async move { clearing.clear(b"").await.unwrap() });
    eventually(
        async || server.calls().contains_key("scan"),
        "the server has said which keys there are",
    )
    .await;
    for (old, new) in [(1, 2), (2, 3)] {
        direct.create(&id(new), &payload, HOUR).await.unwrap();
        let tombstone = record(2, Content::MovedTo(id(new)));
        let old = id(old);
        let update = Update::new(&old, payload.meta.revision, &tombstone, HOUR, b"");
        direct.update(update).await.unwrap();
    }
    proxy.heal();
    assert_eq!(clear.await.unwrap(), 1);
    assert_eq!(server.command::<u64>(&["DBSIZE"]), 0);
}

#[tokio::test]
async fn a_bulk_deletion_is_seen_on_every_node() {
    let server = RedisServer::start();
    let (one, other) = (
        store(config().redis(server.config())).await,
        store(config().redis(server.config())).await,
    );
    let mut ids = Vec::new();
    for user in ["ada", "bob", "ada", "bob"] {
        ids.push(one.create(Data::of(user)).await.unwrap().id);
    }
    for id in &ids {
        assert!(other.find(*id).await.unwrap().is_some());
    }
    let done =
        one.bulk_delete(|record| record.data().user.as_deref() == Some("ada")).await.unwrap();
    assert_eq!((done.deleted, done.unreadable), (2, 0));
    for (id, stays) in ids.into_iter().zip([false, true, false, true]) {
        assert_eq!(one.find(id).await.unwrap().is_some(), stays);
        eventually(
            async || other.find(id).await.unwrap().is_some() == stays,
            "the other node receives the announcement",
        )
        .await;
    }
}

#[tokio::test]
async fn prefixes_that_begin_alike_are_kept_apart() {
    let server = RedisServer::start();
    let short = store(config().redis(server.config().key_prefix("app:"))).await;
    let long = store(config().redis(server.config().key_prefix("app:x:"))).await;
    let short_id = short.create(Data::of("ada")).await.unwrap().id;
    let long_id = long.create(Data::of("bob")).await.unwrap().id;
    assert_eq!(short.all_session_ids().await.unwrap(), [short_id]);
    assert_eq!(short.clear().await.unwrap(), 1);
    assert!(long.find_fresh(long_id).await.unwrap().is_some());
}
