//! One writer per session at a time on this node.
//!
//! This is no lock on the session: other nodes write when they like, and what keeps updates from being lost is the comparison of
//! revisions. It only spares a node's own requests from running into each other's conflicts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use crate::id::SessionId;

type Lock = Arc<tokio::sync::Mutex<()>>;

#[derive(Debug, Default)]
pub(crate) struct WriteLocks {
    locks: Mutex<HashMap<SessionId, Lock>>,
}

/// A turn, or a place in the queue for one.
pub(crate) struct WriteGuard<'a> {
    locks: &'a WriteLocks,
    id: SessionId,
    guard: Option<OwnedMutexGuard<()>>,
}

impl WriteLocks {
    /// Waits for the turn, but no longer than this, and then goes ahead: while the backend is slow, nobody shall wait for all the
    /// others.
    pub(crate) async fn take(&self, id: SessionId, timeout: Duration) -> WriteGuard<'_> {
        let lock = self.locks().entry(id).or_default().clone();
        let mut turn = WriteGuard { locks: self, id, guard: None };
        turn.guard = tokio::time::timeout(timeout, lock.lock_owned()).await.ok();
        turn
    }

    fn locks(&self) -> MutexGuard<'_, HashMap<SessionId, Lock>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever leaves last, having written or given up, takes the lock away.
impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        self.guard = None;
        let mut locks = self.locks.locks();
        // Clones are made under the map's lock alone, so a count of one means that nobody waits.
        if locks.get(&self.id).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(250);
    const ID: fn() -> SessionId = || SessionId::from_bytes([1; 16]);

    #[tokio::test(start_paused = true)]
    async fn writers_take_turns_and_leave_nothing_behind() {
        let locks = Arc::new(WriteLocks::default());
        let first = locks.take(ID(), TIMEOUT).await;
        let second = tokio::spawn({
            let locks = locks.clone();
            async move { locks.take(ID(), TIMEOUT).await.guard.is_some() }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        assert!(second.await.unwrap());
        assert!(locks.locks().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_has_waited_long_enough_goes_ahead() {
        let locks = WriteLocks::default();
        let first = locks.take(ID(), TIMEOUT).await;
        let second = locks.take(ID(), TIMEOUT).await;
        assert!(second.guard.is_none());
        drop((first, second));
        assert!(locks.locks().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_gives_up_leaves_nothing_behind() {
        let locks = WriteLocks::default();
        let first = locks.take(ID(), TIMEOUT).await;
        let impatient = tokio::time::timeout(TIMEOUT / 2, locks.take(ID(), TIMEOUT)).await;
        assert!(impatient.is_err());
        drop(first);
        assert!(locks.locks().is_empty());
    }
}
