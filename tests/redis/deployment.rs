//! The files in `deploy/` configure Redis as the crate requires.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clustered_sessions::backend::HistoryProof;
use clustered_sessions::{SessionId, SessionStore};
use redis::Value;
use support::redis::RedisServer;
use support::wait::eventually;

use crate::nodes::{Data, config, store};
use crate::web::RedisAddress as _;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

/// Returns the ACL rule of the user `sessions`.
fn rule() -> String {
    let users = std::fs::read_to_string(file("users.acl")).unwrap();
    users.lines().find_map(|line| line.strip_prefix("user sessions ")).unwrap().to_owned()
}

/// Adds an entry that has expired to the index of each owner.
const EXPIRED_ENTRIES: &str = "redis.call('SELECT', 1)
for _, key in ipairs(redis.call('KEYS', 'session:owner:*')) do
  redis.call('ZADD', key, 1, 'AAAAAAAAAAAAAAAAAAAAAA')
end";
const DEADLINE: Duration = Duration::from_secs(1);

/// Creates the user `sessions`, without one of its permissions.
fn set_user(server: &RedisServer, missing: Option<&str>) {
    let rule = rule();
    let permissions = rule.split(' ').filter(|permission| Some(*permission) != missing);
    let user = ["ACL", "SETUSER", "sessions", "reset"].into_iter().chain(permissions);
    let () = server.command(&user.collect::<Vec<_>>());
}

/// Makes a store with an owner, in another database than the first.
fn store_of(server: &RedisServer) -> SessionStore<Data> {
    let redis = server.config().user("sessions").password("change-me").database(1);
    let config = config().enable_retry(false).circuit_breaker_enabled(false).redis(redis);
    SessionStore::new(config.owner(|data: &Data| data.user.clone()).build().unwrap())
}

/// Returns the texts of an error and its sources.
pub(crate) fn with_sources(error: &dyn Error) -> String {
    let source = error.source().map(with_sources).unwrap_or_default();
    format!("{error}: {source}")
}

/// Performs each operation, and returns the errors, each with its sources.
async fn errors_of_all_operations(server: &RedisServer, store: &SessionStore<Data>) -> Vec<String> {
    let mut errors = Vec::new();
    macro_rules! perform {
        ($($operation:expr),* $(,)?) => {$(
            if let Err(error) = $operation.await {
                errors.push(with_sources(&error));
            }
        )*};
    }
    let id = SessionId::from_bytes([1; 16]);
    perform!(
        store.wait_until_ready(DEADLINE),
        store.create(Data::of("ada")),
        store.create(Data::default()),
    );
    for id in store.all_session_ids().await.unwrap_or_default() {
        perform!(store.find_fresh(id), store.modify(id, |data| data.visits += 1));
        // Within the same millisecond, the deadline would not change.
        let written = Instant::now();
        let has_passed = async || written.elapsed() >= Duration::from_millis(1);
        eventually(has_passed, "the clock moves").await;
        perform!(store.touch(id), store.delete(id));
    }
    let _ = store.create(Data::of("ada")).await;
    // The next session of the owner removes what has expired in the index.
    let () = server.command(&["EVAL", EXPIRED_ENTRIES, "0"]);
    perform!(
        store.create(Data::of("ada")),
        store.all_session_ids(),
        store.find_fresh(id),
        store.touch(id),
        store.delete(id),
        store.sessions_of("ada"),
        store.delete_all_of("ada"),
        store.coordinator().publish_invalidation(id),
    );
    let _ = store.create(Data::default()).await;
    perform!(store.bulk_delete(|record| record.data().visits > 0), store.clear());
    errors
}

/// Each permission in turn is taken away.
#[tokio::test]
async fn without_one_of_the_permissions_the_error_names_it_or_the_node_does_without() {
    let server = RedisServer::start();
    let rule = rule();
    set_user(&server, None);
    assert_eq!(errors_of_all_operations(&server, &store_of(&server)).await, [""; 0]);

    let permissions: Vec<_> = rule.split(' ').filter(|word| word.starts_with('+')).collect();
    assert!(permissions.len() > 15, "{permissions:?}");
    for permission in permissions {
        let () = server.command(&["SCRIPT", "FLUSH"]);
        let () = server.command(&["FLUSHALL"]);
        set_user(&server, Some(permission));
        let store = store_of(&server);
        let errors = errors_of_all_operations(&server, &store).await;
        let command = &permission[1..];
        if command == "info" {
            assert_eq!(errors, [""; 0]);
            let info = store.backend_info().servers.remove(0);
            assert_eq!(info.history, HistoryProof::HeartbeatsAlone);
            assert_eq!(info.refused, ["INFO"]);
            continue;
        }
        assert!(!errors.is_empty(), "{permission} is not needed");
        for error in errors {
            let mut words = error.split(|c: char| !c.is_ascii_alphanumeric());
            let named = words.any(|word| word.eq_ignore_ascii_case(command));
            // The client library says it in other words.
            let is_about_database = command == "select" && error.contains("switch database");
            assert!(named || is_about_database, "without {permission}: {error}");
        }
    }
}

#[tokio::test]
async fn without_the_keys_or_the_channel_the_error_says_so() {
    let server = RedisServer::start();
    for (permission, says) in [("~session:*", " key"), ("&session:invalidate*", "channel")] {
        set_user(&server, Some(permission));
        let errors = errors_of_all_operations(&server, &store_of(&server)).await;
        assert!(!errors.is_empty(), "{permission} is not needed");
        for error in errors {
            assert!(error.contains(says), "without {permission}: {error}");
        }
    }
}

#[tokio::test]
async fn the_deployed_settings_and_user_permit_every_operation() {
    let settings = file("redis.conf");
    let server = RedisServer::with_args(&["--include", settings.to_str().unwrap()]);
    let policy: Vec<String> = server.command(&["CONFIG", "GET", "maxmemory-policy"]);
    assert_eq!(policy[1], "noeviction", "the server has read the file");
    set_user(&server, None);

    let redis = server.config().user("sessions").password("change-me").database(1);
    let store = store(config().redis(redis).owner(|data: &Data| data.user.clone())).await;
    let id = store.create(Data::of("ada")).await.unwrap().id;
    store.modify(id, |data| data.visits += 1).await.unwrap();
    assert!(store.find_fresh(id).await.unwrap().is_some());
    assert!(store.touch(id).await.unwrap());
    assert_eq!(store.all_session_ids().await.unwrap(), [id]);
    store.coordinator().publish_invalidation(id).await.unwrap();
    assert_eq!(store.bulk_delete(|_| true).await.unwrap().deleted, 1);
    let _ = store.create(Data::of("ada")).await.unwrap();
    assert_eq!(store.sessions_of("ada").await.unwrap().len(), 1);
    assert_eq!(store.delete_all_of("ada").await.unwrap().deleted, 1);
    let _ = store.create(Data::default()).await.unwrap();
    assert_eq!(store.clear().await.unwrap(), 1);
    assert!(store.healthy().await);
    let denied: Vec<Value> = server.command(&["ACL", "LOG"]);
    assert!(denied.is_empty(), "{denied:?}");
}

#[test]
fn the_documentation_lists_the_deployed_permissions() {
    let documented = std::fs::read_to_string(file("../src/backend/redis/config.rs"))
        .unwrap()
        .replace("///   ", "");
    for permission in rule().split(' ').filter(|word| word.starts_with('+')) {
        assert!(
            documented.contains(permission),
            "the docs of `RedisConfig` do not mention {permission}"
        );
    }
}
