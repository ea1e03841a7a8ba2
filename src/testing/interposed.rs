//! One interposer for everything that wraps a backend.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{
    Backend, BackendInfo, Created, Cursor, Deleted, Extension, OwnerTag, Page, Revision, Stored,
    Subscription, Timestamp, Touched, Update, Updated,
};
use crate::error::StoreError;
use crate::id::SessionId;

/// A method of [`Backend`] that can fail, which is each except [`close`](Backend::close).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendMethod {
    /// [`Backend::load`].
    Load,
    /// [`Backend::create`].
    Create,
    /// [`Backend::update`].
    Update,
    /// [`Backend::delete`].
    Delete,
    /// [`Backend::delete_if`].
    DeleteIf,
    /// [`Backend::touch`].
    Touch,
    /// [`Backend::clear`].
    Clear,
    /// [`Backend::scan`].
    Scan,
    /// [`Backend::publish`].
    Publish,
    /// [`Backend::subscribe`].
    Subscribe,
    /// [`Backend::ping`].
    Ping,
    /// [`Backend::add_to_owner`].
    AddToOwner,
    /// [`Backend::remove_from_owner`].
    RemoveFromOwner,
    /// [`Backend::expire_in_owner`].
    ExpireInOwner,
    /// [`Backend::sessions_of_owner`].
    SessionsOfOwner,
}

/// Code that runs around each call of an [`Interposed`] backend.
pub trait Interposer: Send + Sync + 'static {
    /// Runs one call. The call begins when `call` is first polled; an interposer may delay it, drop
    /// it, replace its answer or spawn it.
    fn around<R: Send + 'static>(
        &self,
        method: BackendMethod,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> impl Future<Output = Result<R, StoreError>> + Send;

    /// Replaces a subscription that the backend has made. By default, the store gets it as it is.
    fn subscribed(&self, subscription: Subscription) -> Subscription {
        subscription
    }
}

/// A backend with an [`Interposer`] around each call.
///
/// It is for tests: each call owns a copy of its arguments, so that the interposer may spawn it. An
/// interposer never misses a method that a new version adds to [`Backend`].
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use clustered_sessions::testing::{BackendMethod, Interposed, Interposer};
/// use clustered_sessions::{MemoryBackend, Secret, SessionConfig, SessionStore, StoreError};
///
/// #[derive(Clone, Default)]
/// struct CountLoads(Arc<AtomicU32>);
///
/// impl Interposer for CountLoads {
///     async fn around<R: Send + 'static>(
///         &self,
///         method: BackendMethod,
///         call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
///     ) -> Result<R, StoreError> {
///         if method == BackendMethod::Load {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///         call.await
///     }
/// }
///
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let loads = CountLoads::default();
/// let backend = Interposed::with_interposer(MemoryBackend::new(), loads.clone());
/// let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("tests"))
///     .backend(backend)
///     .build()?;
/// let store = SessionStore::new(config);
/// let session = store.create(UserSession).await?;
/// store.find_fresh(session.id).await?;
/// assert_eq!(loads.0.load(Ordering::Relaxed), 1);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Interposed<B, I> {
    backend: Arc<B>,
    interposer: I,
}

impl<B: Backend, I: Interposer> Interposed<B, I> {
    /// Puts an interposer around each call of a backend.
    pub fn with_interposer(backend: B, interposer: I) -> Self {
        Interposed { backend: Arc::new(backend), interposer }
    }

    /// Returns the interposer.
    pub fn interposer(&self) -> &I {
        &self.interposer
    }

    /// Runs a call on a shared handle to the backend, so that the call borrows nothing.
    async fn call<R: Send + 'static, F>(
        &self,
        method: BackendMethod,
        call: impl FnOnce(Arc<B>) -> F,
    ) -> Result<R, StoreError>
    where
        F: Future<Output = Result<R, StoreError>> + Send + 'static,
    {
        let call = call(self.backend.clone());
        self.interposer.around(method, call).await
    }
}

/// The clone shares the backend.
impl<B, I: Clone> Clone for Interposed<B, I> {
    fn clone(&self) -> Self {
        Interposed { backend: self.backend.clone(), interposer: self.interposer.clone() }
    }
}

#[deny(clippy::missing_trait_methods)]
impl<B: Backend, I: Interposer> Backend for Interposed<B, I> {
    async fn load(&self, id: &SessionId) -> Result<Option<Stored>, StoreError> {
        let id = *id;
        self.call(BackendMethod::Load, |backend| async move { backend.load(&id).await }).await
    }

    async fn create(
        &self,
        id: &SessionId,
        stored: &Stored,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        let (id, stored) = (*id, stored.clone());
        let create = |backend: Arc<B>| async move { backend.create(&id, &stored, ttl).await };
        self.call(BackendMethod::Create, create).await
    }

    async fn update(&self, update: Update<'_>) -> Result<Updated, StoreError> {
        let (id, stored, announcement) =
            (*update.id, update.stored.clone(), update.announcement.to_owned());
        let Update { expected, ttl, .. } = update;
        let update = |backend: Arc<B>| async move {
            backend.update(Update::new(&id, expected, &stored, ttl, &announcement)).await
        };
        self.call(BackendMethod::Update, update).await
    }

    async fn delete(&self, id: &SessionId, announcement: &[u8]) -> Result<Deleted, StoreError> {
        let (id, announcement) = (*id, announcement.to_owned());
        let delete = |backend: Arc<B>| async move { backend.delete(&id, &announcement).await };
        self.call(BackendMethod::Delete, delete).await
    }

    async fn delete_if(
        &self,
        id: &SessionId,
        revision: Revision,
        announcement: &[u8],
    ) -> Result<Deleted, StoreError> {
        let (id, announcement) = (*id, announcement.to_owned());
        let delete =
            |backend: Arc<B>| async move { backend.delete_if(&id, revision, &announcement).await };
        self.call(BackendMethod::DeleteIf, delete).await
    }

    async fn touch(&self, id: &SessionId, extension: Extension) -> Result<Touched, StoreError> {
        let id = *id;
        let touch = |backend: Arc<B>| async move { backend.touch(&id, extension).await };
        self.call(BackendMethod::Touch, touch).await
    }

    async fn clear(&self, announcement: &[u8]) -> Result<u64, StoreError> {
        let announcement = announcement.to_owned();
        let clear = |backend: Arc<B>| async move { backend.clear(&announcement).await };
        self.call(BackendMethod::Clear, clear).await
    }

    async fn scan(&self, cursor: Option<&Cursor>) -> Result<Page, StoreError> {
        let cursor = cursor.cloned();
        let scan = |backend: Arc<B>| async move { backend.scan(cursor.as_ref()).await };
        self.call(BackendMethod::Scan, scan).await
    }

    async fn publish(&self, announcement: &[u8]) -> Result<(), StoreError> {
        let announcement = announcement.to_owned();
        let publish = |backend: Arc<B>| async move { backend.publish(&announcement).await };
        self.call(BackendMethod::Publish, publish).await
    }

    async fn subscribe(&self, heartbeat: Duration) -> Result<Subscription, StoreError> {
        let subscribe = |backend: Arc<B>| async move { backend.subscribe(heartbeat).await };
        let subscription = self.call(BackendMethod::Subscribe, subscribe).await?;
        Ok(self.interposer.subscribed(subscription))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.call(BackendMethod::Ping, |backend| async move { backend.ping().await }).await
    }

    async fn close(&self) {
        self.backend.close().await;
    }

    fn may_lose_index_entries(&self) -> bool {
        self.backend.may_lose_index_entries()
    }

    fn info(&self) -> BackendInfo {
        self.backend.info()
    }

    async fn add_to_owner(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        let (owner, id) = (*owner, *id);
        let add = |backend: Arc<B>| async move { backend.add_to_owner(&owner, &id, until).await };
        self.call(BackendMethod::AddToOwner, add).await
    }

    async fn remove_from_owner(&self, owner: &OwnerTag, id: &SessionId) -> Result<(), StoreError> {
        let (owner, id) = (*owner, *id);
        let remove = |backend: Arc<B>| async move { backend.remove_from_owner(&owner, &id).await };
        self.call(BackendMethod::RemoveFromOwner, remove).await
    }

    async fn expire_in_owner(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let (owner, id) = (*owner, *id);
        let expire =
            |backend: Arc<B>| async move { backend.expire_in_owner(&owner, &id, ttl).await };
        self.call(BackendMethod::ExpireInOwner, expire).await
    }

    async fn sessions_of_owner(
        &self,
        owner: &OwnerTag,
        cursor: Option<&Cursor>,
    ) -> Result<Page, StoreError> {
        let (owner, cursor) = (*owner, cursor.cloned());
        let page = |backend: Arc<B>| async move {
            backend.sessions_of_owner(&owner, cursor.as_ref()).await
        };
        self.call(BackendMethod::SessionsOfOwner, page).await
    }
}
