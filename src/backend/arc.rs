//! [`Backend`] for a shared pointer to a backend.

use std::sync::Arc;
use std::time::Duration;

use super::{
    Backend, BackendInfo, Created, Cursor, Deleted, Extension, OwnerTag, Page, Revision, Stored,
    Subscription, Timestamp, Touched, Update, Updated,
};
use crate::error::StoreError;
use crate::id::SessionId;

/// Forwards each call, so that the application can keep a handle to a backend that it gives to a
/// store.
#[deny(clippy::missing_trait_methods)]
impl<B: Backend> Backend for Arc<B> {
    async fn load(&self, id: &SessionId) -> Result<Option<Stored>, StoreError> {
        B::load(self, id).await
    }

    async fn create(
        &self,
        id: &SessionId,
        stored: &Stored,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        B::create(self, id, stored, ttl).await
    }

    async fn update(&self, update: Update<'_>) -> Result<Updated, StoreError> {
        B::update(self, update).await
    }

    async fn delete(&self, id: &SessionId, announcement: &[u8]) -> Result<Deleted, StoreError> {
        B::delete(self, id, announcement).await
    }

    async fn delete_if(
        &self,
        id: &SessionId,
        revision: Revision,
        announcement: &[u8],
    ) -> Result<Deleted, StoreError> {
        B::delete_if(self, id, revision, announcement).await
    }

    async fn touch(&self, id: &SessionId, extension: Extension) -> Result<Touched, StoreError> {
        B::touch(self, id, extension).await
    }

    async fn clear(&self, announcement: &[u8]) -> Result<u64, StoreError> {
        B::clear(self, announcement).await
    }

    async fn scan(&self, cursor: Option<&Cursor>) -> Result<Page, StoreError> {
        B::scan(self, cursor).await
    }

    async fn publish(&self, announcement: &[u8]) -> Result<(), StoreError> {
        B::publish(self, announcement).await
    }

    async fn subscribe(&self, heartbeat: Duration) -> Result<Subscription, StoreError> {
        B::subscribe(self, heartbeat).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        B::ping(self).await
    }

    async fn close(&self) {
        B::close(self).await;
    }

    fn may_lose_index_entries(&self) -> bool {
        B::may_lose_index_entries(self)
    }

    fn info(&self) -> BackendInfo {
        B::info(self)
    }

    async fn add_to_owner(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        B::add_to_owner(self, owner, id, until).await
    }

    async fn remove_from_owner(&self, owner: &OwnerTag, id: &SessionId) -> Result<(), StoreError> {
        B::remove_from_owner(self, owner, id).await
    }

    async fn expire_in_owner(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        B::expire_in_owner(self, owner, id, ttl).await
    }

    async fn sessions_of_owner(
        &self,
        owner: &OwnerTag,
        cursor: Option<&Cursor>,
    ) -> Result<Page, StoreError> {
        B::sessions_of_owner(self, owner, cursor).await
    }
}
