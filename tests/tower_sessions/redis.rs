//! Two nodes over a Redis server.

use std::sync::Arc;
use std::time::Duration;

use clustered_sessions::{KeyValues, RedisConfig, SessionConfig, SessionStore, TowerSessionsStore};
use support::redis::RedisServer;
use tower_sessions_0_15::{Session, SessionStore as _};

use crate::web::{eventually, secret};

async fn node(server: &RedisServer) -> TowerSessionsStore {
    let config = SessionConfig::<KeyValues>::builder(secret())
        .redis(RedisConfig::new("127.0.0.1", server.port()));
    let store = SessionStore::new(config.build().unwrap());
    store.wait_until_ready(Duration::from_secs(10)).await.unwrap();
    TowerSessionsStore::new(store)
}

#[tokio::test]
async fn two_nodes_share_sessions_keep_parallel_changes_and_end_them() {
    let server = RedisServer::start();
    let (here, there) = (node(&server).await, node(&server).await);
    let session = Session::new(None, Arc::new(here.clone()), None);
    session.insert("user", "ada").await.unwrap();
    session.save().await.unwrap();
    let id = session.id().unwrap();

    let one = Session::new(Some(id), Arc::new(here.clone()), None);
    let other = Session::new(Some(id), Arc::new(there.clone()), None);
    one.insert("one", 1).await.unwrap();
    other.insert("other", 2).await.unwrap();
    let (first, second) = tokio::join!(one.save(), other.save());
    first.and(second).unwrap();
    for node in [&here, &there] {
        eventually(async || {
            let data = node.load(&id).await.unwrap().unwrap().data;
            ["user", "one", "other"].iter().all(|key| data.contains_key(*key))
        })
        .await;
    }
    there.delete(&id).await.unwrap();
    eventually(async || here.load(&id).await.unwrap().is_none()).await;
    one.insert("one", 3).await.unwrap();
    one.save().await.unwrap();
    assert!(there.load(&id).await.unwrap().is_none(), "it has ended");
}
