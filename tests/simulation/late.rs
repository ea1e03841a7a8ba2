//! A backend that carries out what nobody waits for any more, as a server does with what is on its way when its client gives up.

use std::sync::Arc;
use std::time::Duration;

use clustered_sessions::backend::{
    Backend, Created, Cursor, Deleted, OwnerTag, Page, Revision, Stored, Subscription, Touched,
    Updated,
};
use clustered_sessions::{SessionId, StoreError};

pub(crate) struct Late<B>(Arc<B>);

impl<B: Backend> Late<B> {
    pub(crate) fn new(inner: B) -> Self {
        Late(Arc::new(inner))
    }

    async fn write<R, F>(&self, call: impl FnOnce(Arc<B>) -> F) -> Result<R, StoreError>
    where
        F: Future<Output = Result<R, StoreError>> + Send + 'static,
        R: Send + 'static,
    {
        tokio::spawn(call(self.0.clone())).await.expect("no call panics")
    }
}

impl<B: Backend> Backend for Late<B> {
    async fn load(&self, id: &SessionId) -> Result<Option<Stored>, StoreError> {
        self.0.load(id).await
    }

    async fn create(
        &self,
        id: &SessionId,
        stored: &Stored,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        let (id, stored) = (*id, stored.clone());
        self.write(|inner| async move { inner.create(&id, &stored, ttl).await }).await
    }

    async fn update(
        &self,
        id: &SessionId,
        expected: Revision,
        stored: &Stored,
        ttl: Duration,
        announcement: &[u8],
    ) -> Result<Updated, StoreError> {
        let (id, stored, announcement) = (*id, stored.clone(), announcement.to_owned());
        self.write(
            |inner| async move { inner.update(&id, expected, &stored, ttl, &announcement).await },
        )
        .await
    }

    async fn delete(&self, id: &SessionId, announcement: &[u8]) -> Result<Deleted, StoreError> {
        let (id, announcement) = (*id, announcement.to_owned());
        self.write(|inner| async move { inner.delete(&id, &announcement).await }).await
    }

    async fn delete_if(
        &self,
        id: &SessionId,
        revision: Revision,
        announcement: &[u8],
    ) -> Result<Deleted, StoreError> {
        let (id, announcement) = (*id, announcement.to_owned());
        self.write(|inner| async move { inner.delete_if(&id, revision, &announcement).await }).await
    }

    async fn touch(
        &self,
        id: &SessionId,
        deadline: u64,
        ttl: Duration,
    ) -> Result<Touched, StoreError> {
        let id = *id;
        self.write(|inner| async move { inner.touch(&id, deadline, ttl).await }).await
    }

    async fn clear(&self, announcement: &[u8]) -> Result<u64, StoreError> {
        let announcement = announcement.to_owned();
        self.write(|inner| async move { inner.clear(&announcement).await }).await
    }

    async fn scan(&self, cursor: Option<&Cursor>) -> Result<Page, StoreError> {
        self.0.scan(cursor).await
    }

    async fn index(&self, owner: &OwnerTag, id: &SessionId, until: u64) -> Result<(), StoreError> {
        let (owner, id) = (*owner, *id);
        self.write(|inner| async move { inner.index(&owner, &id, until).await }).await
    }

    async fn unindex(&self, owner: &OwnerTag, id: &SessionId) -> Result<(), StoreError> {
        let (owner, id) = (*owner, *id);
        self.write(|inner| async move { inner.unindex(&owner, &id).await }).await
    }

    async fn indexed(&self, owner: &OwnerTag, cursor: Option<&Cursor>) -> Result<Page, StoreError> {
        self.0.indexed(owner, cursor).await
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
