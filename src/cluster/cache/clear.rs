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
                if !self.is_freeing.swap(true, Ordering::AcqRel) {
                    let cache = self.clone();
                    drop(runtime.spawn_blocking(move || cache.free_until_done()));
                }
            }
            _ => self.free_hidden(),
        }
    }

    /// Frees what was cached before the last clear, also if that comes meanwhile.
    fn free_until_done(&self) {
        loop {
            let clears = self.clears.load(Ordering::Acquire);
            self.free_hidden();
            self.is_freeing.store(false, Ordering::Release);
            let is_done = self.clears.load(Ordering::Acquire) == clears;
            if is_done || self.is_freeing.swap(true, Ordering::AcqRel) {
                return;
            }
        }
    }
}
