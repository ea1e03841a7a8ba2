//! The files in `deploy/` configure Redis as the crate requires.

use std::path::{Path, PathBuf};

use redis::Value;
use support::redis::RedisServer;

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

#[tokio::test]
async fn the_deployed_settings_and_user_permit_every_operation() {
    let settings = file("redis.conf");
    let server = RedisServer::with_args(&["--include", settings.to_str().unwrap()]);
    let policy: Vec<String> = server.command(&["CONFIG", "GET", "maxmemory-policy"]);
    assert_eq!(policy[1], "noeviction", "the server has read the file");
    let user: Vec<String> = ["ACL", "SETUSER", "sessions"]
        .map(str::to_owned)
        .into_iter()
        .chain(rule().split(' ').map(str::to_owned))
        .collect();
    let () = server.command(&user.iter().map(String::as_str).collect::<Vec<_>>());

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
