//! The Redis commands of each operation, and the data that operations leave in Redis.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clustered_sessions::{ClusterConfig, SessionId, SessionLayer, SessionStore};
use support::proxy::Proxy;
use support::redis::{Calls, RedisServer};

use crate::nodes::{Data, config, key, store};
use crate::web::RedisAddress as _;

const HOUR: Duration = Duration::from_secs(3600);

/// Disables the listener, whose heartbeats would be counted, too.
fn silent() -> ClusterConfig {
    ClusterConfig::new().enabled(false)
}

fn calls<const N: usize>(expected: [(&str, u64); N]) -> Calls {
    expected.map(|(name, count)| (name.to_owned(), count)).into()
}

/// Performs each operation once, so that the store is connected and the server has cached the
/// scripts.
async fn warm_up(store: &SessionStore<Data>) {
    let id = store.create(Data::default()).await.unwrap().id;
    store.modify(id, |data| data.visits += 1).await.unwrap();
    store.touch(id).await.unwrap();
    store.delete(id).await.unwrap();
}

#[tokio::test]
async fn each_operation_is_one_command() {
    let server = RedisServer::start();
    let store = store(config().cluster(silent()).redis(server.config())).await;
    warm_up(&store).await;

    let (new, made) = server.calls_of(store.create(Data::of("ada"))).await;
    assert_eq!(made, calls([("set", 1)]), "create");
    let id = new.unwrap().id;

    let (found, made) = server.calls_of(store.find_fresh(id)).await;
    assert_eq!(made, calls([("getex", 1)]), "load");
    assert!(found.unwrap().is_some());

    let (cached, made) = server.calls_of(store.find(id)).await;
    assert_eq!(made, calls([]), "a read from the cache");
    assert!(cached.unwrap().is_some());

    // The client sends one command, which runs the script. The script runs the others.
    let (updated, made) = server.calls_of(store.modify(id, |data| data.visits += 1)).await;
    assert_eq!(
        made,
        calls([("evalsha", 1), ("getrange", 1), ("publish", 1), ("set", 1)]),
        "update"
    );
    updated.unwrap();

    // Within the same millisecond, the deadline would not change.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let (touched, made) = server.calls_of(store.touch(id)).await;
    assert_eq!(
        made,
        calls([("evalsha", 1), ("getrange", 1), ("pexpire", 1), ("setrange", 1)]),
        "touch"
    );
    assert!(touched.unwrap());

    let (deleted, made) = server.calls_of(store.delete(id)).await;
    assert_eq!(
        made,
        calls([("del", 1), ("evalsha", 1), ("getrange", 1), ("publish", 1)]),
        "delete"
    );
    assert!(deleted.unwrap());
}

#[tokio::test]
async fn each_operation_is_one_round_trip() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let store = store(config().cluster(silent()).redis(proxy.config())).await;
    warm_up(&store).await;

    macro_rules! round_trips {
        ($operation:expr) => {{
            let (up, down) = proxy.chunks();
            let result = $operation.await.unwrap();
            let (up_after, down_after) = proxy.chunks();
            ((up_after - up, down_after - down), result)
        }};
    }
    let (trips, new) = round_trips!(store.create(Data::of("ada")));
    assert_eq!(trips, (1, 1), "create");
    assert_eq!(round_trips!(store.find_fresh(new.id)).0, (1, 1), "load");
    assert_eq!(round_trips!(store.find(new.id)).0, (0, 0), "read from the cache");
    assert_eq!(round_trips!(store.modify(new.id, |data| data.visits += 1)).0, (1, 1), "update");
    assert_eq!(round_trips!(store.touch(new.id)).0, (1, 1), "touch");
    assert_eq!(round_trips!(store.delete(new.id)).0, (1, 1), "delete");
}

#[tokio::test]
async fn scripts_are_sent_again_after_the_server_has_lost_them() {
    let server = RedisServer::start();
    let store = store(config().cluster(silent()).redis(server.config())).await;
    warm_up(&store).await;
    let id = store.create(Data::default()).await.unwrap().id;
    let () = server.command(&["SCRIPT", "FLUSH"]);

    let (first, made) = server.calls_of(store.modify(id, |data| data.visits += 1)).await;
    assert_eq!((made.get("evalsha"), made.get("eval")), (Some(&1), Some(&1)));
    let (second, made) = server.calls_of(store.modify(id, |data| data.visits += 1)).await;
    assert_eq!((made.get("evalsha"), made.get("eval")), (Some(&1), None));
    first.and(second).unwrap();
    assert_eq!(
        store.find_fresh(id).await.unwrap().unwrap().data().visits,
        2,
        "each update is applied once"
    );
}

#[tokio::test]
async fn a_record_has_the_documented_layout() {
    let server = RedisServer::start();
    let store = store(config().timeout(HOUR).redis(server.config())).await;
    let begun = now();
    let id = store.create(Data::of("ada")).await.unwrap().id;
    let key = key(id);
    assert_eq!(id.to_string().len(), 22);
    assert_eq!(server.command::<String>(&["TYPE", &key]), "string");

    let value: Vec<u8> = server.command(&["GET", &key]);
    let created_at = number(&value[18..26]);
    assert_eq!(value[..2], [2, 0], "format and kind");
    assert_eq!(number(&value[2..10]), 1, "the revision's counter");
    // The server's time, as the node has observed it, which is accurate to half a round trip.
    assert!((begun - 1000..=now() + 1000).contains(&created_at), "created at");
    assert_eq!(number(&value[26..34]), created_at + 3_600_000, "deadline");
    assert_eq!(number(&value[34..42]), created_at, "last use");
    assert_eq!(number(&value[42..50]), created_at, "login");
    assert_eq!(value[67..], *b"\0\0{\"user\":\"ada\",\"visits\":0}");

    let left: u64 = server.command(&["PTTL", &key]);
    assert!((3_590_000..=3_600_000).contains(&left), "{left}");

    store.modify(id, |data| data.visits += 1).await.unwrap();
    let updated: Vec<u8> = server.command(&["GET", &key]);
    assert_eq!(number(&updated[2..10]), 2, "the revision's counter");
    assert_eq!(number(&updated[18..26]), created_at, "created at");
    assert!(number(&updated[34..42]) >= created_at, "last use");
    assert_eq!(number(&updated[42..50]), created_at, "login");
    assert_eq!(updated[67..], *b"\0\0{\"user\":\"ada\",\"visits\":1}");
}

#[tokio::test]
async fn the_token_is_nowhere_in_redis() {
    let server = RedisServer::start();
    let mut channel = server.listen("session:invalidate").await;
    let layer =
        SessionLayer::new(config().cluster(silent()).redis(server.config()).build().unwrap());
    let cookie = layer.cookie_for(Data::of("ada")).await.unwrap();
    let token = cookie.to_str().unwrap().split(['=', '.']).nth(1).unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
    assert_eq!(bytes.len(), 16);

    let [id]: [SessionId; 1] = layer.store().all_session_ids().await.unwrap().try_into().unwrap();
    let keys: Vec<String> = server.command(&["KEYS", "*"]);
    assert_eq!(keys, [key(id)]);
    let value: Vec<u8> = server.command(&["GET", &keys[0]]);
    layer.store().modify(id, |data| data.visits += 1).await.unwrap();
    let message = channel.next().await;
    for place in [keys[0].as_bytes(), &value, &message] {
        for secret in [token.as_bytes(), &bytes] {
            assert!(
                !place.windows(secret.len()).any(|part| part == secret),
                "the token is in {place:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_configured_prefix_and_database_are_used() {
    let server = RedisServer::start();
    let redis = server.config().key_prefix("shop/").database(3);
    let store = store(config().cluster(silent()).redis(redis)).await;
    let id = store.create(Data::of("ada")).await.unwrap().id;
    assert_eq!(server.command::<Vec<String>>(&["KEYS", "*"]), [""; 0]);
    let in_third = "redis.call('SELECT', 3) return redis.call('KEYS', '*')";
    assert_eq!(server.command::<Vec<String>>(&["EVAL", in_third, "0"]), [format!("shop/{id}")]);
    assert_eq!(store.all_session_ids().await.unwrap(), [id]);
}

#[tokio::test]
async fn a_touch_moves_the_time_to_live_and_the_last_use_and_nothing_else() {
    let server = RedisServer::start();
    let mut channel = server.listen("session:invalidate").await;
    let store = store(config().timeout(HOUR).cluster(silent()).redis(server.config())).await;
    let id = store.create(Data::of("ada")).await.unwrap().id;
    let key = key(id);
    let before: Vec<u8> = server.command(&["GET", &key]);
    let () = server.command(&["PEXPIRE", &key, "60000"]);
    let () = server.command(&["SETRANGE", &key, "34", "an older"]);

    assert!(store.touch(id).await.unwrap());
    let left: u64 = server.command(&["PTTL", &key]);
    assert!((3_590_000..=3_600_000).contains(&left), "{left}");
    let after: Vec<u8> = server.command(&["GET", &key]);
    assert_eq!((&after[..26], &after[42..]), (&before[..26], &before[42..]));
    assert!(number(&after[26..34]) >= number(&before[26..34]), "the deadline moves forward");
    assert_eq!(number(&after[34..42]) + 3_600_000, number(&after[26..34]), "last use");

    // A touch never moves the deadline back: another node with a longer timeout may have set it.
    let later = "\0\0\u{2}\0\0\0\0\0";
    for (ttl, expected) in [("7200000", 7_100_000..=7_200_000), ("60000", 3_590_000..=3_600_000)] {
        let () = server.command(&["PEXPIRE", &key, ttl]);
        let () = server.command(&["SETRANGE", &key, "26", &format!("{later}an older")]);
        assert!(store.touch(id).await.unwrap());
        let left: u64 = server.command(&["PTTL", &key]);
        assert!(expected.contains(&left), "{left}");
        let late: Vec<u8> = server.command(&["GET", &key]);
        assert_eq!(&late[26..34], later.as_bytes(), "the deadline stays");
        assert!(number(&late[34..42]) >= number(&after[34..42]), "the last use is recorded");
    }

    // Another node may have given the session a deadline of its own.
    let () = server.command(&["SETRANGE", &key, "66", "\u{2}"]);
    let () = server.command(&["PEXPIRE", &key, "60000"]);
    assert!(store.touch(id).await.unwrap());
    assert!(server.command::<u64>(&["PTTL", &key]) <= 60_000);

    // The deletion is the first announcement: touches are not announced.
    store.delete(id).await.unwrap();
    let message = channel.next().await;
    assert!(String::from_utf8_lossy(&message).contains("SessionDeleted"), "{message:?}");
    assert!(!store.touch(id).await.unwrap(), "a touch does not recreate a deleted session");
    assert_eq!(server.command::<u64>(&["EXISTS", &key]), 0);
}

#[tokio::test]
async fn without_a_local_cache_each_read_goes_to_redis_and_no_listener_runs() {
    let server = RedisServer::start();
    let cluster = ClusterConfig::new().local_cache_enabled(false);
    let store = store(config().cluster(cluster).redis(server.config())).await;
    let id = store.create(Data::of("ada")).await.unwrap().id;
    for _ in 0..3 {
        let (found, made) = server.calls_of(store.find(id)).await;
        assert_eq!(made, calls([("getex", 1)]));
        assert!(found.unwrap().is_some());
    }
    assert_eq!(subscribers(&server), 0);
    assert!(!store.coordinator().is_running());
}

#[tokio::test]
async fn a_node_without_a_listener_still_announces() {
    let server = RedisServer::start();
    let mut channel = server.listen("session:invalidate").await;
    let store = store(config().cluster(silent()).redis(server.config())).await;
    let id = store.create(Data::of("ada")).await.unwrap().id;
    store.delete(id).await.unwrap();
    let message = channel.next().await;
    assert!(String::from_utf8_lossy(&message).contains(&id.to_string()));
    assert_eq!(subscribers(&server), 1, "only this test is subscribed");
    assert!(!store.coordinator().is_running());
}

fn subscribers(server: &RedisServer) -> u64 {
    let (_, subscribers): (String, u64) =
        server.command(&["PUBSUB", "NUMSUB", "session:invalidate"]);
    subscribers
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().unwrap())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}
