//! What integration tests share: real Redis servers, a proxy that fails on demand, waiting for a condition.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it says what it has measured")]

pub(crate) mod http;
pub(crate) mod node;
mod process;
#[cfg(feature = "redis")]
pub(crate) mod proxy;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(feature = "redis")]
pub(crate) mod trial;
pub(crate) mod wait;

use clustered_sessions::{
    ClusterConfig, Secret, SessionConfig, SessionConfigBuilder, SessionStore,
};
use serde::{Deserialize, Serialize};

use self::wait::DEADLINE;

/// The session of these tests.
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

/// For plain HTTP and one secret for all, with the cluster as in production.
pub(crate) fn config() -> SessionConfigBuilder<Data> {
    SessionConfig::development(Secret::insecure_dev("tests")).cluster(ClusterConfig::new())
}

/// A store that hears the others.
pub(crate) async fn store(config: SessionConfigBuilder<Data>) -> SessionStore<Data> {
    let store = SessionStore::new(config.build().unwrap());
    store.wait_until_ready(DEADLINE).await.unwrap();
    store
}
