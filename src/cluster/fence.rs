//! The fence: keeps a value out of the cache that is older than a change of which the node knows.
//!
//! Between the beginning of a backend call and the moment at which its result is to be cached, the
//! session may be changed or deleted. The announcement of that change may already have been
//! applied, without effect, because nothing was cached yet. So each call takes a ticket, each
//! change of its session marks the ticket, and the result of a marked ticket is not cached.
//!
//! Tickets are kept per session rather than compared with a global counter, so that traffic on
//! other sessions never costs a fill.

use std::collections::hash_map::Entry;
use std::iter::once;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crate::guards::{self, Guard};
use crate::id::{SessionId, SessionMap};
use crate::record::Revision;
use crate::sync::{AtomicU64, Mutex, MutexGuard};

/// Number of locks, so that sessions rarely wait for each other. Closures of the caller run under
/// one of them and must not wait.
///
/// Models have only one session, and few locks leave fewer interleavings to try.
const SHARDS: usize = if cfg!(all(test, shuttle)) { 2 } else { 64 };

/// The tickets of all backend calls in flight.
#[derive(Debug)]
pub(crate) struct Fence {
    shards: Box<[Mutex<Shard>]>,
    /// The serial number of the next ticket.
    serial: AtomicU64,
}

/// The tickets of the sessions in one shard. A session without a call in flight has no entry.
type Shard = SessionMap<Tickets>;

/// The tickets of one session. There is hardly ever more than one, for which nothing is allocated.
#[derive(Debug)]
struct Tickets {
    first: Ticket,
    others: Vec<Ticket>,
}

/// A backend call in flight, and what has been announced about its session since it began.
#[derive(Debug)]
struct Ticket {
    serial: u64,
    /// The revision that a write replaces. A late announcement of it does not disturb the write.
    base: Option<Revision>,
    seen: Seen,
}

/// The changes announced since the call began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// None.
    Nothing,
    /// One revision. A load that returns this very revision is current, and so is the write that
    /// makes it.
    Revision(Revision),
    /// Anything else: a deletion, a clear, or several revisions. Only a new call can return a
    /// current value.
    Changed,
}

impl Ticket {
    /// Notes a change. `announced` is the revision that it led to, if that is known.
    fn mark(&mut self, announced: Option<Revision>) {
        if announced.is_some() && announced == self.base {
            return;
        }
        self.seen = match (self.seen, announced) {
            (Seen::Nothing, Some(revision)) => Seen::Revision(revision),
            (Seen::Revision(before), Some(revision)) if before == revision => {
                Seen::Revision(revision)
            }
            _ => Seen::Changed,
        };
    }

    /// Returns `true` if a record of this revision may be cached (`None`: the absence of a record).
    fn admits(&self, revision: Option<Revision>) -> bool {
        if !guards::enabled(Guard::Fence) {
            return true;
        }
        match self.seen {
            Seen::Nothing => true,
            Seen::Revision(seen) => revision == Some(seen) && guards::enabled(Guard::OwnRevision),
            Seen::Changed => false,
        }
    }
}

impl Tickets {
    fn iter(&self) -> impl Iterator<Item = &Ticket> {
        once(&self.first).chain(&self.others)
    }

    fn mark_all(&mut self, announced: Option<Revision>) {
        for ticket in once(&mut self.first).chain(&mut self.others) {
            ticket.mark(announced);
        }
    }
}

impl Fence {
    pub(crate) fn new() -> Self {
        Fence { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), serial: AtomicU64::new(0) }
    }

    /// Takes a ticket for a call about a session. The serial number must be given back to
    /// [`end`](Fence::end) or [`end_write`](Fence::end_write).
    pub(crate) fn begin(&self, id: &SessionId, base: Option<Revision>) -> u64 {
        // Only uniqueness is required, so no ordering is.
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let ticket = Ticket { serial, base, seen: Seen::Nothing };
        match self.shard(id).entry(*id) {
            Entry::Occupied(mut tickets) => tickets.get_mut().others.push(ticket),
            Entry::Vacant(vacant) => {
                vacant.insert(Tickets { first: ticket, others: Vec::new() });
            }
        }
        serial
    }

    /// Gives back the ticket of a read. `then` receives `true` if a record of this revision
    /// (`None`: the absence of a record) may be cached.
    ///
    /// It runs under the lock of the session, so that what it does to the cache comes before any
    /// further change of the session. What it returns is handed to the caller, who can drop it once
    /// the lock is free.
    pub(crate) fn end<R>(
        &self,
        id: &SessionId,
        serial: u64,
        revision: Option<Revision>,
        then: impl FnOnce(bool) -> R,
    ) -> R {
        let mut shard = self.shard(id);
        let ticket = take(&mut shard, id, serial);
        then(ticket.is_some_and(|ticket| ticket.admits(revision)))
    }

    /// Gives back the ticket of a write, which marks the tickets of all other calls about the
    /// session. `revision` is the one written, if it is known. `then` is as in [`end`](Fence::end).
    pub(crate) fn end_write<R>(
        &self,
        id: &SessionId,
        serial: u64,
        revision: Option<Revision>,
        then: impl FnOnce(bool) -> R,
    ) -> R {
        let mut shard = self.shard(id);
        let ticket = take(&mut shard, id, serial);
        mark_all(&mut shard, id, revision);
        then(ticket.is_some_and(|ticket| ticket.admits(revision)))
    }

    /// Marks the tickets of all calls about a session. `then` evicts the session, under the lock,
    /// before any further call about it ends. What it returns is handed on as by
    /// [`end`](Fence::end).
    pub(crate) fn invalidate<R>(
        &self,
        id: &SessionId,
        announced: Option<Revision>,
        then: impl FnOnce() -> R,
    ) -> R {
        let mut shard = self.shard(id);
        mark_all(&mut shard, id, announced);
        then()
    }

    /// Marks all tickets. The caller evicts all sessions afterwards.
    pub(crate) fn invalidate_all(&self) {
        for shard in &self.shards {
            lock(shard).values_mut().for_each(|tickets| tickets.mark_all(None));
        }
    }

    /// Returns `true` if no change of the session has been announced since the call began.
    pub(crate) fn is_clear(&self, id: &SessionId, serial: u64) -> bool {
        let shard = self.shard(id);
        let mut tickets = shard.get(id).into_iter().flat_map(Tickets::iter);
        tickets.any(|ticket| ticket.serial == serial && ticket.seen == Seen::Nothing)
    }

    fn shard(&self, id: &SessionId) -> MutexGuard<'_, Shard> {
        // An id is a digest, so each of its bytes is as good as a hash.
        lock(&self.shards[usize::from(id.as_bytes()[0]) % SHARDS])
    }

    /// Number of tickets that have not been given back.
    #[cfg(test)]
    pub(crate) fn calls_in_flight(&self) -> usize {
        let in_shard = |shard| lock(shard).values().flat_map(Tickets::iter).count();
        self.shards.iter().map(in_shard).sum()
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // A mark is a single assignment, so a panic in a closure leaves no inconsistent state.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn mark_all(shard: &mut Shard, id: &SessionId, announced: Option<Revision>) {
    if let Some(tickets) = shard.get_mut(id) {
        tickets.mark_all(announced);
    }
}

/// Removes a ticket, and the session's entry with the last one.
fn take(shard: &mut Shard, id: &SessionId, serial: u64) -> Option<Ticket> {
    let Entry::Occupied(mut entry) = shard.entry(*id) else { return None };
    let Tickets { first, others } = entry.get_mut();
    if first.serial != serial {
        let position = others.iter().position(|ticket| ticket.serial == serial)?;
        return Some(others.swap_remove(position));
    }
    Some(match others.pop() {
        Some(other) => std::mem::replace(first, other),
        None => entry.remove().first,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SessionId {
        SessionId::from_bytes([7; 16])
    }

    fn admitted(fence: &Fence, serial: u64, revision: Option<Revision>) -> bool {
        let mut answer = None;
        fence.end(&id(), serial, revision, |admitted| answer = Some(admitted));
        answer.unwrap()
    }

    #[test]
    fn a_load_that_nothing_disturbed_is_admitted() {
        let fence = Fence::new();
        let serial = fence.begin(&id(), None);
        fence.invalidate(&SessionId::from_bytes([8; 16]), None, || ());
        assert!(fence.is_clear(&id(), serial));
        assert!(admitted(&fence, serial, Some(Revision::first())));
        assert_eq!(fence.calls_in_flight(), 0);
    }

    #[test]
    fn a_load_overtaken_by_a_change_is_refused_unless_it_brings_that_change() {
        let (old, new) = (Revision::first(), Revision::first());
        for (brought, expected) in [(Some(old), false), (Some(new), true), (None, false)] {
            let fence = Fence::new();
            let serial = fence.begin(&id(), None);
            fence.invalidate(&id(), Some(new), || ());
            assert!(!fence.is_clear(&id(), serial));
            assert_eq!(admitted(&fence, serial, brought), expected);
        }
    }

    #[test]
    fn a_load_overtaken_by_two_changes_is_refused() {
        let (one, two) = (Revision::first(), Revision::first());
        let fence = Fence::new();
        let serial = fence.begin(&id(), None);
        fence.invalidate(&id(), Some(one), || ());
        fence.invalidate(&id(), Some(two), || ());
        assert!(!admitted(&fence, serial, Some(two)));
    }

    #[test]
    fn a_deletion_or_a_clear_refuses_everything() {
        let revision = Revision::first();
        let fence = Fence::new();
        let serial = fence.begin(&id(), None);
        fence.invalidate(&id(), None, || ());
        assert!(!admitted(&fence, serial, Some(revision)));

        let serial = fence.begin(&id(), Some(revision));
        fence.invalidate_all();
        assert!(!admitted(&fence, serial, Some(revision)));
    }

    #[test]
    fn a_write_is_not_disturbed_by_its_own_announcement_nor_by_that_of_its_base() {
        let base = Revision::first();
        let new = base.next();
        let fence = Fence::new();
        let serial = fence.begin(&id(), Some(base));
        fence.invalidate(&id(), Some(base), || ());
        fence.invalidate(&id(), Some(new), || ());
        assert!(admitted(&fence, serial, Some(new)));

        let serial = fence.begin(&id(), Some(base));
        fence.invalidate(&id(), Some(Revision::first()), || ());
        assert!(!admitted(&fence, serial, Some(new)));
    }

    #[test]
    fn each_of_several_calls_has_a_ticket_of_its_own() {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let fence = Fence::new();
            let bases = [(); 3].map(|()| Revision::first());
            let serials = bases.map(|base| fence.begin(&id(), Some(base)));
            // It disturbs all but the call that replaces this very revision.
            fence.invalidate(&id(), Some(bases[1]), || ());
            for call in order {
                assert_eq!(fence.is_clear(&id(), serials[call]), call == 1);
                assert_eq!(admitted(&fence, serials[call], None), call == 1);
            }
            assert_eq!(fence.calls_in_flight(), 0);
        }
    }

    #[test]
    fn a_write_that_ends_marks_the_loads_in_flight() {
        let base = Revision::first();
        let new = base.next();
        let fence = Fence::new();
        let load = fence.begin(&id(), None);
        let write = fence.begin(&id(), Some(base));
        fence.end_write(&id(), write, Some(new), |admitted| assert!(admitted));
        assert!(!fence.is_clear(&id(), load));
        assert!(!admitted(&fence, load, Some(base)));

        let load = fence.begin(&id(), None);
        let write = fence.begin(&id(), Some(base));
        fence.end_write(&id(), write, None, |_| ());
        assert!(
            !admitted(&fence, load, Some(new)),
            "after an unknown outcome no load in flight is admitted"
        );
    }
}
