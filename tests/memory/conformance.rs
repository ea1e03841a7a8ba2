//! The memory backend fulfils the contract of `Backend`.

use clustered_sessions::{MemoryBackend, testing};

#[tokio::test]
async fn the_memory_backend_is_a_backend() {
    testing::conformance(async || MemoryBackend::new()).await;
}
