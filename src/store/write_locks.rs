//! Write locks: one writer per session at a time on this node.
//!
//! They do not lock the session against other nodes, and prevent no lost updates: the comparison of
//! revisions does. They only keep a node's own requests from conflicting with each other.

use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use crate::id::{SessionId, SessionMap};

type Lock = Arc<tokio::sync::Mutex<()>>;

/// The locks of the sessions that are being written.
#[derive(Debug, Default)]
pub(crate) struct WriteLocks {
    locks: Mutex<SessionMap<Lock>>,
}

/// A held lock, or one that was not acquired in time.
pub(crate) struct WriteGuard<'a> {
    locks: &'a WriteLocks,
    id: SessionId,
    guard: Option<OwnedMutexGuard<()>>,
}

impl WriteLocks {
    /// Acquires the lock of a session. After `timeout`, returns without it, so that a writer does
    /// not wait for all others while the backend is slow.
    pub(crate) async fn lock(
        &self,
        id: SessionId,
        timeout: impl FnOnce() -> Duration,
    ) -> WriteGuard<'_> {
        let lock = self.locks().entry(id).or_default().clone();
        // A lock that is free, as nearly all are, needs neither the time nor a timer.
        let free = lock.clone().try_lock_owned().ok();
        let mut guard = WriteGuard { locks: self, id, guard: free };
        if guard.guard.is_none() {
            guard.guard = tokio::time::timeout(timeout(), lock.lock_owned()).await.ok();
        }
        guard
    }

    fn locks(&self) -> MutexGuard<'_, SessionMap<Lock>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last writer of a session removes its lock, whether it has acquired the lock or given up.
impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        self.guard = None;
        let mut locks = self.locks.locks();
        // The locks are cloned only under the map's lock, so a count of one means that no writer
        // waits.
        if let Entry::Occupied(lock) = locks.entry(self.id)
            && Arc::strong_count(lock.get()) == 1
        {
            lock.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(250);
    const SOON: fn() -> Duration = || TIMEOUT;
    const ID: fn() -> SessionId = || SessionId::from_bytes([1; 16]);

    #[tokio::test(start_paused = true)]
    async fn writers_take_turns_and_leave_nothing_behind() {
        let locks = Arc::new(WriteLocks::default());
        let first = locks.lock(ID(), || unreachable!("the lock is free")).await;
        let second = tokio::spawn({
            let locks = locks.clone();
            async move { locks.lock(ID(), SOON).await.guard.is_some() }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        assert!(second.await.unwrap());
        assert!(locks.locks().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_waits_for_one_that_has_waited_itself() {
        let locks = WriteLocks::default();
        let first = locks.lock(ID(), SOON).await;
        let mut second = pin!(locks.lock(ID(), SOON));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        let second = second.await;
        assert!(second.guard.is_some());
        assert!(locks.lock(ID(), SOON).now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_has_waited_for_the_timeout_proceeds_without_the_lock() {
        let locks = WriteLocks::default();
        let first = locks.lock(ID(), SOON).await;
        let second = locks.lock(ID(), SOON).await;
        assert!(second.guard.is_none());
        drop((first, second));
        assert!(locks.locks().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_gives_up_leaves_nothing_behind() {
        let locks = WriteLocks::default();
        let first = locks.lock(ID(), SOON).await;
        let impatient = tokio::time::timeout(TIMEOUT / 2, locks.lock(ID(), SOON)).await;
        assert!(impatient.is_err());
        drop(first);
        assert!(locks.locks().is_empty());
    }
}
