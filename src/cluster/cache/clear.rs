//! Clearing the whole cache.
//!
//! A walk over a million sessions takes half a second, and the listener must not wait that long. So
//! a clear is a step of a counter, after which all that was cached before is invisible. The memory
//! is freed afterwards, session by session, so that no reader waits for it either.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::runtime::Handle;

use super::LocalCache;

/// Maximum number of sessions whose memory is freed at once: it takes less than a millisecond.
const FREED_AT_ONCE: usize = 1000;

impl<T> LocalCache<T> {
    /// Evicts all sessions from this node's cache. Other nodes keep theirs, and nothing is deleted.
    pub fn clear(&self) {
        self.hide_all();
        self.free_hidden();
    }

    /// Makes all that is cached invisible. A fill that comes in between is either refused by the
    /// fence, or began after the clear was known.
    pub(super) fn hide_all(&self) {
        self.fence.invalidate_all();
        self.clears.fetch_add(1, Ordering::AcqRel);
        self.absent.clear();
        self.watches.call_all();
    }

    /// Frees what was cached before the last clear.
    pub(super) fn free_hidden(&self) {
        for (id, _) in self.sessions.iter() {
            let present = self.clears.load(Ordering::Acquire);
            if self.sessions.remove_if(&id, |cached| cached.validity.clears != present).is_some() {
                self.counters.invalidations.add_one();
            }
        }
        self.flush();
    }
}

impl<T: Send + Sync + 'static> LocalCache<T> {
    /// Evicts all sessions from this node's cache. If they are many, their memory is freed in the
    /// background.
    pub(crate) fn clear_soon(self: &Arc<Self>) {
        self.hide_all();
        match Handle::try_current() {
            Ok(runtime) if self.sessions.len() > FREED_AT_ONCE => {
                // A clear of all sessions is announced once for each page of them. If each message
                // had a thread, the application's own blocking tasks would wait for all of them.
                if let Some(freeing) = Freeing::begin(self) {
                    drop(runtime.spawn_blocking(move || freeing.until_done()));
                }
            }
            _ => self.free_hidden(),
        }
    }
}

/// The one that frees what is hidden. If it is dropped before it is done, by a runtime that shuts
/// down or by a panic in the `Drop` of the application's data, the next clear has another.
pub(super) struct Freeing<T> {
    cache: Arc<LocalCache<T>>,
    is_done: bool,
}

impl<T> Freeing<T> {
    /// Returns `None` if another one frees already, and will notice the last clear.
    pub(super) fn begin(cache: &Arc<LocalCache<T>>) -> Option<Self> {
        let is_free = !cache.is_freeing.swap(true, Ordering::AcqRel);
        is_free.then(|| Freeing { cache: cache.clone(), is_done: false })
    }

    /// Frees what was cached before the last clear, also if that comes meanwhile.
    pub(super) fn until_done(mut self) {
        let LocalCache { clears, is_freeing, .. } = &*self.cache;
        loop {
            let seen = clears.load(Ordering::Acquire);
            self.cache.free_hidden();
            // A swap, so that it sees the clear of whoever has found the flag set.
            is_freeing.swap(false, Ordering::AcqRel);
            let is_done = clears.load(Ordering::Acquire) == seen;
            if is_done || is_freeing.swap(true, Ordering::AcqRel) {
                break;
            }
        }
        self.is_done = true;
    }
}

impl<T> Drop for Freeing<T> {
    fn drop(&mut self) {
        if !self.is_done {
            self.cache.is_freeing.store(false, Ordering::Release);
        }
    }
}
