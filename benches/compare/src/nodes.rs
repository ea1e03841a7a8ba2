//! Nodes, as an application would configure them.

use std::time::Duration;

use clustered_sessions::backend::Backend;
use clustered_sessions::{
    ClusterConfig, RedisConfig, Secret, SessionConfig, SessionConfigBuilder, SessionData,
    SessionId, SessionStore,
};
use tokio::runtime::Runtime;

use crate::data::UserSession;

/// No entry expires while it is measured.
const LONG: Duration = Duration::from_secs(12 * 3600);
const READY: Duration = Duration::from_secs(10);

/// Returns the options of a node that caches up to this number of sessions. It listens, so each
/// read checks a lease that heartbeats extend.
pub fn node<T: SessionData>(sessions: usize) -> SessionConfigBuilder<T> {
    let cluster = ClusterConfig::new()
        .local_cache_ttl(LONG)
        .local_cache_max_size(sessions)
        .local_cache_max_bytes(1 << 32);
    let secret = Secret::new([7; 32]).expect("32 bytes are enough");
    SessionConfig::builder(secret).timeout(LONG).absolute_timeout(LONG).cluster(cluster)
}

pub fn over_redis<T: SessionData>(url: &str, sessions: usize) -> SessionConfig<T> {
    let redis = RedisConfig::from_url(url).expect("the server's URL is valid");
    node(sessions).redis(redis).build().expect("the configuration is valid")
}

pub fn over<T: SessionData>(backend: impl Backend, sessions: usize) -> SessionConfig<T> {
    node(sessions).backend(backend).build().expect("the configuration is valid")
}

/// Starts a node on a runtime, and waits until it has a lease.
pub fn start<T: SessionData>(runtime: &Runtime, config: SessionConfig<T>) -> SessionStore<T> {
    runtime.block_on(async {
        let store = SessionStore::new(config);
        store.wait_until_ready(READY).await.expect("the node listens");
        store
    })
}

/// Creates sessions on a node, which caches them.
pub fn fill(
    runtime: &Runtime,
    store: &SessionStore<UserSession>,
    sessions: usize,
) -> Vec<SessionId> {
    runtime.block_on(async {
        let mut ids = Vec::with_capacity(sessions);
        for number in 0..sessions as u64 {
            let session = store.create(UserSession::number(number)).await;
            ids.push(session.expect("the session is created").id);
        }
        ids
    })
}
