//! The locks and atomics of the cache, the fence, the lease and shared loads. The model checker puts its own in their place: see
//! `cluster/model.rs`.

#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic::AtomicU64};
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic::AtomicU64};
