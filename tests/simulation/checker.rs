//! What was acknowledged of each session, and the judgement of what nodes return.
//!
//! Each session holds a counter that only increases, so a lower count is an older version. A read
//! that begins at time t must not return a count below any that was acknowledged before t minus the
//! staleness bound. The bound is zero on the node that wrote, and on a node without a lease. A
//! deleted session counts as higher than any number. A session that is served in an outage must not
//! be below any count that was acknowledged before t minus the policy's maximum age, nor below any
//! that the same node wrote.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use clustered_sessions::{SessionId, SessionStore};
use tokio::time::Instant;

use crate::promise::promise;
use crate::{Counter, MAX_AGE, MAX_STALENESS, World, watching};

/// The count of a session that was deleted.
pub(crate) const DELETED: u64 = u64::MAX;
/// Used in place of a node for a change that was not made through any node.
pub(crate) const NO_NODE: usize = usize::MAX;
/// Used in place of a node that has made no change.
const BYSTANDER: usize = usize::MAX - 1;

/// The checker's knowledge of one session.
#[derive(Default)]
pub(crate) struct History {
    /// Acknowledged counts: the time, the node and the count.
    pub(crate) acknowledged: Vec<(Instant, usize, u64)>,
    pub(crate) increments: u64,
    /// Increments of unknown outcome.
    pub(crate) unknown: u64,
    /// `true` once a deletion has been attempted, so the session may be gone.
    pub(crate) may_be_deleted: bool,
    /// Number of times that the data was replaced. Concurrent increments may then be lost.
    pub(crate) puts: u64,
    /// `true` while the data is being replaced: of two at a time, the last one would win.
    pub(crate) is_put: bool,
}

impl History {
    /// Returns the lowest count that a read may return that begins now on this node and may be
    /// stale by `staleness`.
    pub(crate) fn floor(&self, node: usize, staleness: Duration) -> u64 {
        let now = Instant::now();
        let visible =
            |(at, writer, _): &&(Instant, usize, u64)| *writer == node || *at + staleness <= now;
        self.acknowledged.iter().filter(visible).map(|(.., count)| *count).max().unwrap_or(0)
    }

    pub(crate) fn acknowledge(&mut self, node: usize, count: u64) {
        self.acknowledged.push((Instant::now(), node, count));
    }

    /// Checks that a read may have returned this.
    pub(crate) fn judge(&mut self, node: usize, found: Option<u64>, floor: u64) {
        match found {
            Some(count) => promise!(
                Stale,
                count >= floor,
                "node {node} read {count} at {:?}, but {floor} was acknowledged before: {:?}",
                Instant::now(),
                self.acknowledged
            ),
            None => {
                promise!(
                    Lost,
                    self.may_be_deleted,
                    "node {node} reports a session as gone that was not deleted"
                );
                // From now on, the deletion counts as acknowledged.
                self.acknowledge(node, DELETED);
            }
        }
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.acknowledged.iter().any(|(.., count)| *count == DELETED)
    }
}

pub(crate) type Histories = Rc<Checker>;

/// The histories of all sessions, and what they are judged by.
pub(crate) struct Checker {
    histories: RefCell<HashMap<SessionId, History>>,
    /// The bound for a read on a node that has a lease, and did not write what it reads.
    pub(crate) max_staleness: Duration,
    /// The bound for a session that is served in an outage.
    pub(crate) max_age: Duration,
    /// The bound for a watch.
    pub(crate) watching: Duration,
}

impl Checker {
    pub(crate) fn new(world: &impl World) -> Self {
        let doubt = world.max_doubt();
        let max_staleness = MAX_STALENESS.max(doubt);
        Checker {
            histories: RefCell::default(),
            max_staleness,
            max_age: MAX_AGE + doubt,
            watching: watching::bound(max_staleness),
        }
    }

    /// Returns the staleness bound of a read that begins now: zero without a lease, because the
    /// node must not use its cache then.
    pub(crate) fn staleness(&self, store: &SessionStore<Counter>, fresh: bool) -> Duration {
        if fresh || !store.coordinator().is_listening() {
            Duration::ZERO
        } else {
            self.max_staleness
        }
    }

    pub(crate) fn floor(&self, id: SessionId, node: usize, staleness: Duration) -> u64 {
        self.borrow()[&id].floor(node, staleness)
    }

    /// Returns the lowest count that a watch must have told by now.
    pub(crate) fn due(&self, id: SessionId) -> u64 {
        self.floor(id, BYSTANDER, self.watching)
    }

    /// Notes that a watch on a node has told the end of a session.
    pub(crate) fn has_ended(&self, node: usize, id: SessionId) {
        self.borrow_mut().entry(id).or_default().judge(node, None, 0);
    }

    pub(crate) fn borrow(&self) -> Ref<'_, HashMap<SessionId, History>> {
        self.histories.borrow()
    }

    pub(crate) fn borrow_mut(&self) -> RefMut<'_, HashMap<SessionId, History>> {
        self.histories.borrow_mut()
    }
}
