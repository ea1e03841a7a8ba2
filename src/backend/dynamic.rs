//! An object-safe twin of [`Backend`], so that `T` is the only type parameter that users see.
//!
//! It costs a box per call. Only cache misses and writes make calls; a cached read makes none.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::{
    Backend, BackendInfo, Created, Cursor, Deleted, Extension, OwnerTag, Page, Revision,
    StoreError, Stored, Subscription, Timestamp, Touched, Update, Updated,
};
use crate::id::SessionId;

/// The future of a call through [`DynBackend`].
pub(crate) type Answer<'a, R> = Pin<Box<dyn Future<Output = Result<R, StoreError>> + Send + 'a>>;

/// Declares the object-safe twin of each method of [`Backend`].
macro_rules! dyn_backend {
    ($(fn $name:ident(&self $(, $arg:ident: $ty:ty)*) -> $answer:ty;)*) => {
        /// The twin of [`Backend`]. It has no default bodies, so the compiler rejects an `impl`
        /// that misses a method.
        pub(crate) trait DynBackend: Send + Sync + 'static {
            $(fn $name<'a>(&'a self $(, $arg: $ty)*) -> Answer<'a, $answer>;)*
            fn close<'a>(&'a self) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
            fn may_lose_index_entries(&self) -> bool;
            fn info(&self) -> BackendInfo;
        }

        impl<B: Backend> DynBackend for B {
            $(fn $name<'a>(&'a self $(, $arg: $ty)*) -> Answer<'a, $answer> {
                Box::pin(Backend::$name(self $(, $arg)*))
            })*

            fn close<'a>(&'a self) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
                Box::pin(Backend::close(self))
            }

            fn may_lose_index_entries(&self) -> bool {
                Backend::may_lose_index_entries(self)
            }

            fn info(&self) -> BackendInfo {
                Backend::info(self)
            }
        }
    };
}

dyn_backend! {
    fn load(&self, id: &'a SessionId) -> Option<Stored>;
    fn create(&self, id: &'a SessionId, stored: &'a Stored, ttl: Duration) -> Created;
    fn update(&self, update: Update<'a>) -> Updated;
    fn delete(&self, id: &'a SessionId, announcement: &'a [u8]) -> Deleted;
    fn delete_if(&self, id: &'a SessionId, revision: Revision, announcement: &'a [u8]) -> Deleted;
    fn touch(&self, id: &'a SessionId, extension: Extension) -> Touched;
    fn clear(&self, announcement: &'a [u8]) -> u64;
    fn scan(&self, cursor: Option<&'a Cursor>) -> Page;
    fn add_to_owner(&self, owner: &'a OwnerTag, id: &'a SessionId, until: Timestamp) -> ();
    fn remove_from_owner(&self, owner: &'a OwnerTag, id: &'a SessionId) -> ();
    fn expire_in_owner(&self, owner: &'a OwnerTag, id: &'a SessionId, ttl: Duration) -> ();
    fn sessions_of_owner(&self, owner: &'a OwnerTag, cursor: Option<&'a Cursor>) -> Page;
    fn publish(&self, announcement: &'a [u8]) -> ();
    fn subscribe(&self, heartbeat: Duration) -> Subscription;
    fn ping(&self) -> ();
}

impl fmt::Debug for dyn DynBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}
