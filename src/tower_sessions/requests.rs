//! What the adapter remembers of the requests of its node.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::id::SessionId;
use crate::random::random_bytes;

/// The number of ended sessions that are remembered. Between the end of a session by `cycle_id` and
/// the creation of the one that replaces it, the node must not end more.
const MAX_ENDED: usize = 4096;

#[derive(Debug)]
pub(super) struct Requests {
    next: AtomicU64,
    /// The sessions that this node has ended and that were alive until then, the last one at the
    /// end.
    ended: Mutex<VecDeque<SessionId>>,
}

impl Default for Requests {
    /// Numbers begin at random, so that no two nodes use the same.
    fn default() -> Self {
        let next = AtomicU64::new(u64::from_ne_bytes(random_bytes()));
        Requests { next, ended: Mutex::default() }
    }
}

impl Requests {
    /// Returns the number of a request that has loaded or created a session.
    pub(super) fn begin(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes that a request has ended a session, which was alive until then or was not.
    pub(super) fn note_end(&self, session: SessionId, was_alive: bool) {
        // Another request of this node may have ended it meanwhile.
        self.take_ended(session);
        if !was_alive {
            return;
        }
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.len() == MAX_ENDED {
            ended.pop_front();
        }
        ended.push_back(session);
    }

    /// Returns `true` if the last request of this node that ended the session found it alive, and
    /// forgets that.
    pub(super) fn take_ended(&self, session: SessionId) -> bool {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let at = ended.iter().rposition(|it| *it == session);
        at.and_then(|at| ended.remove(at)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> SessionId {
        SessionId::from_bytes((number as u128).to_be_bytes())
    }

    #[test]
    fn the_end_of_a_session_is_remembered_until_it_is_asked_for_or_others_follow() {
        let requests = Requests::default();
        requests.note_end(id(0), true);
        assert!(requests.take_ended(id(0)));
        assert!(!requests.take_ended(id(0)));
        (0..=MAX_ENDED).for_each(|number| requests.note_end(id(number), true));
        assert!(!requests.take_ended(id(0)));
        assert!(requests.take_ended(id(1)) && requests.take_ended(id(MAX_ENDED)));
    }

    #[test]
    fn a_session_that_two_requests_end_counts_as_alive_for_neither() {
        let requests = Requests::default();
        requests.note_end(id(0), true);
        requests.note_end(id(0), false);
        assert!(!requests.take_ended(id(0)));
    }

    #[test]
    fn requests_and_nodes_have_different_numbers() {
        let (one, other) = (Requests::default(), Requests::default());
        let first = one.begin();
        assert_eq!(one.begin(), first.wrapping_add(1));
        assert!(other.begin().abs_diff(first) > 1);
    }
}
