//! Watches in a history: each session is watched on each node, from its beginning to its end.
//!
//! Whatever was acknowledged before the bound has been told by a watch, or the watch has ended.
//! That is checked all the time, and not only when the watch tells something: a watch that nobody
//! calls would never be wrong.

use std::pin::pin;
use std::time::Duration;

use clustered_sessions::{Ended, SessionId, SessionStore, SessionWatch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::checker::Histories;
use crate::promise::promise;
use crate::{Counter, WATCH_GRACE};

/// Time between two checks of a watch that has told nothing.
const CHECK: Duration = Duration::from_millis(50);

/// Returns how late a watch may be, by the staleness bound of a read: it is called a quarter of
/// that later, and tries to read the session for the grace.
pub(crate) fn bound(max_staleness: Duration) -> Duration {
    max_staleness + max_staleness / 4 + WATCH_GRACE
}

/// The watches of a history. Their tasks end with them.
pub(crate) struct Watchers(Vec<JoinHandle<()>>);

impl Watchers {
    pub(crate) fn none() -> Self {
        Watchers(Vec::new())
    }

    /// Watches a session on a node.
    pub(crate) fn add(
        &mut self,
        node: usize,
        store: SessionStore<Counter>,
        id: SessionId,
        histories: Histories,
    ) {
        self.0.push(tokio::task::spawn_local(async move {
            while watch(node, store.watch(id), id, &histories).await == Ended::Unknown {}
        }));
    }

    /// Fails if one of the watches was wrong or late.
    pub(crate) async fn check(self) {
        for watcher in self.0 {
            watcher.abort();
            if let Err(error) = watcher.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

/// Follows one watch to its end.
async fn watch(
    node: usize,
    mut watch: SessionWatch<Counter>,
    id: SessionId,
    histories: &Histories,
) -> Ended {
    let begun = Instant::now();
    let mut told = 0;
    loop {
        let mut changed = pin!(watch.changed());
        let answer = loop {
            if let Ok(answer) = timeout(CHECK, &mut changed).await {
                break answer;
            }
            let due = histories.due(id);
            promise!(
                LateWatch,
                told >= due || begun.elapsed() < histories.watching,
                "a watch on node {node} has told {told} by {:?}, but {due} is due",
                Instant::now()
            );
        };
        match answer {
            Ok(record) => told = record.data().count,
            Err(Ended::Unknown) => return Ended::Unknown,
            Err(ended) => {
                histories.has_ended(node, id);
                return ended;
            }
        }
    }
}
