//! Each backend fulfils the contract of the `Backend` trait.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use clustered_sessions::backend::{
    Backend, Created, Cursor, Deleted, Extension, Page, Revision, Stored, Subscription, Touched,
    Update, Updated,
};
use clustered_sessions::{
    Clock, MemoryBackend, Secret, SessionConfig, SessionId, SessionStore, StoreError,
    StoreErrorKind, testing,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_backend_conforms() {
    testing::conformance(async || MemoryBackend::new()).await;
}

#[tokio::test(start_paused = true)]
async fn the_memory_backend_conforms_under_a_paused_clock() {
    testing::conformance(async || memory()).await;
}

#[tokio::test(start_paused = true)]
async fn a_shared_pointer_to_a_backend_conforms() {
    testing::conformance(async || Arc::new(memory())).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_without_faults_conforms() {
    testing::conformance(async || testing::FaultyBackend::new(memory(), 1).0).await;
}

/// Returns a backend whose records expire by the clock of tokio.
fn memory() -> MemoryBackend {
    MemoryBackend::with_clock(Clock::tokio())
}

/// A backend that implements only the required methods.
struct Minimal(MemoryBackend);

impl Backend for Minimal {
    async fn load(&self, id: &SessionId) -> Result<Option<Stored>, StoreError> {
        self.0.load(id).await
    }

    async fn create(
        &self,
        id: &SessionId,
        stored: &Stored,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        self.0.create(id, stored, ttl).await
    }

    async fn update(&self, update: Update<'_>) -> Result<Updated, StoreError> {
        self.0.update(update).await
    }

    async fn delete(&self, id: &SessionId, announcement: &[u8]) -> Result<Deleted, StoreError> {
        self.0.delete(id, announcement).await
    }

    async fn delete_if(
        &self,
        id: &SessionId,
        revision: Revision,
        announcement: &[u8],
    ) -> Result<Deleted, StoreError> {
        self.0.delete_if(id, revision, announcement).await
    }

    async fn touch(&self, id: &SessionId, extension: Extension) -> Result<Touched, StoreError> {
        self.0.touch(id, extension).await
    }

    async fn clear(&self, announcement: &[u8]) -> Result<u64, StoreError> {
        self.0.clear(announcement).await
    }

    async fn scan(&self, cursor: Option<&Cursor>) -> Result<Page, StoreError> {
        self.0.scan(cursor).await
    }

    async fn publish(&self, announcement: &[u8]) -> Result<(), StoreError> {
        self.0.publish(announcement).await
    }

    async fn subscribe(&self, heartbeat: Duration) -> Result<Subscription, StoreError> {
        self.0.subscribe(heartbeat).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.0.ping().await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

fn minimal() -> Minimal {
    Minimal(memory())
}

#[tokio::test(start_paused = true)]
async fn a_backend_without_the_owner_index_conforms() {
    testing::conformance(async || minimal()).await;
}

/// The session's data is the name of its owner.
#[tokio::test]
async fn an_owner_on_a_backend_without_the_owner_index_is_a_clear_error() {
    let config = SessionConfig::<String>::development(Secret::insecure_dev("tests"))
        .backend(minimal())
        .owner(|name: &String| (!name.is_empty()).then(|| name.clone()))
        .build()
        .unwrap();
    let store = SessionStore::new(config);
    let error = store.create("Ada".to_owned()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NotConfigured);
    let source = error.source().unwrap().to_string();
    assert!(source.contains("`add_to_owner`") && source.contains("without `owner`"), "{source}");
    assert_eq!(store.size().await.unwrap(), 0, "nothing was written");

    let error = store.delete_all_of("Ada").await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NotConfigured);
    let ownerless = store.create(String::new()).await.unwrap();
    assert!(store.find(ownerless.id).await.unwrap().is_some());
}
