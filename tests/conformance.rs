//! Both backends keep the promises of the trait.
#![cfg(feature = "testing")]

#[allow(dead_code, reason = "each test uses its part")]
mod support;

use clustered_sessions::{MemoryBackend, testing};

#[tokio::test]
async fn the_memory_backend_is_a_backend() {
    testing::conformance(async || MemoryBackend::new()).await;
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn the_redis_backend_is_a_backend() {
    use clustered_sessions::backend::RedisBackend;

    let server = support::redis::RedisServer::start();
    testing::conformance(async || {
        let () = server.command(&["FLUSHALL"]);
        RedisBackend::new(&server.config(), "announcements").unwrap()
    })
    .await;
}
