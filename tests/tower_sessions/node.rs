//! Nodes with a store for tower-sessions.

use std::time::Duration;

use clustered_sessions::{
    ClusterConfig, KeyValues, SessionConfig, SessionConfigBuilder, SessionStore, TowerSessionsStore,
};

use crate::web::{HasBackend, secret};

/// Returns a configuration in which a session belongs to the user under the key `user`.
pub(crate) fn config(backend: &impl HasBackend) -> SessionConfigBuilder<KeyValues> {
    let patient = ClusterConfig::new().max_staleness(Duration::from_secs(60));
    SessionConfig::<KeyValues>::builder(secret())
        .backend(backend.backend())
        .cluster(patient)
        .enable_retry(false)
        .owner(|values| values.get::<String>("user").ok().flatten())
}

pub(crate) async fn start(config: SessionConfigBuilder<KeyValues>) -> TowerSessionsStore {
    let store = SessionStore::new(config.build().unwrap());
    store.wait_until_ready(Duration::from_secs(10)).await.unwrap();
    TowerSessionsStore::new(store)
}

/// Starts a node and waits until it receives announcements.
pub(crate) async fn node(backend: &impl HasBackend) -> TowerSessionsStore {
    start(config(backend)).await
}
