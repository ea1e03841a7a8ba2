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
pub(crate) struct Turns {
    locks: Mutex<HashMap<SessionId, Lock>>,
}

/// A turn, or a place in the queue for one.
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    id: SessionId,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the turn, but no longer than this, and then goes ahead: while the backend is slow, nobody shall wait for all the
    /// others.
    pub(crate) async fn take(&self, id: SessionId, patience: Duration) -> Turn<'_> {
        let lock = self.locks().entry(id).or_default().clone();
        let mut turn = Turn { turns: self, id, guard: None };
        turn.guard = tokio::time::timeout(patience, lock.lock_owned()).await.ok();
        turn
    }

    fn locks(&self) -> MutexGuard<'_, HashMap<SessionId, Lock>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever leaves last, having written or given up, takes the lock away.
impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.guard = None;
        let mut locks = self.turns.locks();
        // Clones are made under the map's lock alone, so a count of one means that nobody waits.
        if locks.get(&self.id).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(250);
    const ID: fn() -> SessionId = || SessionId::from_bytes([1; 16]);

    #[tokio::test(start_paused = true)]
    async fn writers_take_turns_and_leave_nothing_behind() {
        let turns = Arc::new(Turns::default());
        let first = turns.take(ID(), PATIENCE).await;
        let second = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take(ID(), PATIENCE).await.guard.is_some() }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        assert!(second.await.unwrap());
        assert!(turns.locks().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_has_waited_long_enough_goes_ahead() {
        let turns = Turns::default();
        let first = turns.take(ID(), PATIENCE).await;
        let second = turns.take(ID(), PATIENCE).await;
        assert!(second.guard.is_none());
        drop((first, second));
        assert!(turns.locks().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_gives_up_leaves_nothing_behind() {
        let turns = Turns::default();
        let first = turns.take(ID(), PATIENCE).await;
        let impatient = tokio::time::timeout(PATIENCE / 2, turns.take(ID(), PATIENCE)).await;
        assert!(impatient.is_err());
        drop(first);
        assert!(turns.locks().is_empty());
    }
}
