//! Both backends keep the promises of the trait.

use clustered_sessions::{MemoryBackend, testing};

#[tokio::test]
async fn the_memory_backend_is_a_backend() {
    testing::conformance(async || MemoryBackend::new()).await;
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn the_redis_backend_is_a_backend() {
    use clustered_sessions::RedisConfig;
    use clustered_sessions::backend::RedisBackend;
    let config = RedisConfig::from_url("redis://127.0.0.1:7777").unwrap();
    let n = std::sync::atomic::AtomicU64::new(0);
    testing::conformance(async || {
        let n = n.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        RedisBackend::new(&config.clone().key_prefix(format!("{n}:")), &format!("ch{n}")).unwrap()
    })
    .await;
}
