//! Stores on a Redis server, in the test's process.

use clustered_sessions::{
    CookieConfig, Secret, SessionConfig, SessionConfigBuilder, SessionId, SessionStore,
};
use serde::{Deserialize, Serialize};
use support::wait::{DEADLINE, eventually};

/// The session data of these tests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Data {
    pub(crate) user: Option<String>,
    pub(crate) visits: u64,
}

impl Data {
    pub(crate) fn of(user: &str) -> Self {
        Data { user: Some(user.to_owned()), visits: 0 }
    }
}

/// Returns a configuration for plain HTTP with a fixed secret and the default cluster settings.
pub(crate) fn config() -> SessionConfigBuilder<Data> {
    SessionConfig::builder(Secret::new([1; 32]).unwrap()).cookie(CookieConfig::development())
}

/// Creates a store and waits until it receives announcements.
pub(crate) async fn store(config: SessionConfigBuilder<Data>) -> SessionStore<Data> {
    let store = SessionStore::new(config.build().unwrap());
    store.wait_until_ready(DEADLINE).await.unwrap();
    store
}

/// Reads a session until the node serves it from its cache.
pub(crate) async fn is_cached(store: &SessionStore<Data>, id: SessionId) {
    let hit = async || {
        let before = store.cache_stats().hits;
        store.find(id).await.is_ok_and(|found| found.is_some()) && store.cache_stats().hits > before
    };
    eventually(hit, "the session is served from the cache").await;
}

/// Returns the key of a session's record.
pub(crate) fn key(id: impl std::fmt::Display) -> String {
    format!("session:{id}")
}
