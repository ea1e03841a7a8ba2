//! The lease: a node's time-limited proof that it has received every announcement up to a moment
//! ago.
//!
//! It is pure state without IO: one atomic word for the current lease, and a second one that
//! remembers the last lease that was lost.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::Millis;
use crate::guards::{self, Guard};
use crate::sync::AtomicU64;

/// The expiry takes the low 40 bits, enough for 34 years of milliseconds. The epoch has the 24 bits
/// above.
const EXPIRY_BITS: u32 = 40;
const EXPIRY_MASK: u64 = (1 << EXPIRY_BITS) - 1;
const EPOCH_MASK: u32 = (1 << (64 - EXPIRY_BITS)) - 1;

/// The period of one unbroken subscription.
///
/// A new epoch begins at every loss and at every new subscription. Entries that were cached in
/// another epoch are invisible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(u32);

/// The current epoch and the expiry of its lease, in one word, so that no reader sees one without
/// the other.
#[derive(Debug)]
pub(crate) struct Lease {
    /// An expiry of 0 means that the lease has not been held in this epoch yet.
    present: AtomicU64,
    /// The word of the last epoch that ended after its lease had been held; 0 before that.
    lost: AtomicU64,
}

/// The last epoch in which the lease was held. It may still be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastHeld {
    pub(crate) epoch: Epoch,
    /// The expiry of the lease, which may have passed, or may have been cut short by the end of the
    /// epoch.
    pub(crate) until: Millis,
    /// The moment of the reading.
    pub(crate) now: Millis,
}

impl Lease {
    /// Creates a lease that is not held until it is extended.
    pub(crate) fn new() -> Self {
        Lease::at(pack(Epoch(1), 0))
    }

    /// Creates a lease that never expires, for a node that does not listen at all.
    pub(crate) fn permanent() -> Self {
        Lease::at(pack(Epoch(1), EXPIRY_MASK))
    }

    /// Returns `true` if the lease never expires.
    pub(crate) fn is_permanent(&self) -> bool {
        unpack(self.present.load(Ordering::Relaxed)).1 == EXPIRY_MASK
    }

    fn at(word: u64) -> Self {
        Lease { present: AtomicU64::new(word), lost: AtomicU64::new(0) }
    }

    /// Returns the current epoch and the present moment if the lease is held.
    ///
    /// The clock is read after the word. If it were read before, a thread that is preempted between
    /// the two could see an extension that was made meanwhile, and take it for proof of a moment
    /// long past.
    pub(crate) fn held(&self, clock: impl FnOnce() -> Millis) -> Option<(Epoch, Millis)> {
        let (epoch, expiry) = unpack(self.present.load(Ordering::Acquire));
        let now = clock();
        (now.0 < expiry || !guards::enabled(Guard::Lease)).then_some((epoch, now))
    }

    /// Returns the time for which the lease is held from this moment on, unless it is extended.
    pub(crate) fn left(&self, now: Millis) -> Duration {
        let (_, expiry) = unpack(self.present.load(Ordering::Acquire));
        Duration::from_millis(expiry.saturating_sub(now.0))
    }

    /// Extends the lease if `epoch` is still the current one, and returns whether it is. Never
    /// shortens the lease.
    pub(crate) fn extend(&self, epoch: Epoch, until: Millis) -> bool {
        let until = until.0.min(EXPIRY_MASK);
        self.present
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                let (current, expiry) = unpack(word);
                (current == epoch).then(|| pack(current, expiry.max(until)))
            })
            .is_ok()
    }

    /// Returns the current epoch, whether or not the lease is held in it.
    pub(crate) fn epoch(&self) -> Epoch {
        unpack(self.present.load(Ordering::Acquire)).0
    }

    /// Begins an epoch, in which the lease is not held yet.
    pub(crate) fn bump(&self) -> Epoch {
        let mut word = self.present.load(Ordering::Acquire);
        loop {
            let (epoch, expiry) = unpack(word);
            if expiry > 0 {
                // Written before the new epoch, so that a thread that sees the new epoch finds the
                // old one here. And only ever raised: a thread that was preempted before this line
                // must not bring back an epoch that a later one has replaced.
                self.lost.fetch_max(word, Ordering::AcqRel);
            }
            let next = Epoch((epoch.0 + 1) & EPOCH_MASK);
            match self.present.compare_exchange(
                word,
                pack(next, 0),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return next,
                Err(current) => word = current,
            }
        }
    }

    /// Returns the last epoch in which the lease was held, if there was one. The clock is read
    /// last, as in [`held`](Lease::held).
    ///
    /// There is only one such epoch at a time. As soon as the lease is held in a new epoch, entries
    /// of all earlier ones can never be returned again.
    pub(crate) fn last_held(&self, clock: impl FnOnce() -> Millis) -> Option<LastHeld> {
        let mut word = self.present.load(Ordering::Acquire);
        if unpack(word).1 == 0 {
            word = self.lost.load(Ordering::Acquire);
        }
        let (epoch, until) = unpack(word);
        (until > 0).then(|| LastHeld { epoch, until: Millis(until), now: clock() })
    }
}

/// Packs an epoch and an expiry into one word.
fn pack(epoch: Epoch, expiry: u64) -> u64 {
    u64::from(epoch.0) << EXPIRY_BITS | expiry
}

/// The inverse of [`pack`].
fn unpack(word: u64) -> (Epoch, u64) {
    // The shift leaves the 24 bits of the epoch.
    (Epoch((word >> EXPIRY_BITS) as u32), word & EXPIRY_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_at(lease: &Lease, now: u64) -> Option<Epoch> {
        lease.held(|| Millis(now)).map(|(epoch, _)| epoch)
    }

    #[test]
    fn a_lease_is_held_until_just_before_its_end() {
        let lease = Lease::new();
        assert_eq!(held_at(&lease, 0), None);
        let epoch = lease.bump();
        assert!(lease.extend(epoch, Millis(100)));
        assert_eq!(held_at(&lease, 99), Some(epoch));
        assert_eq!(held_at(&lease, 100), None);
    }

    #[test]
    fn a_proof_from_an_earlier_epoch_extends_nothing() {
        let lease = Lease::new();
        let old = lease.bump();
        let new = lease.bump();
        assert!(!lease.extend(old, Millis(100)));
        assert_eq!(held_at(&lease, 0), None);
        assert!(lease.extend(new, Millis(100)));
        assert_eq!(held_at(&lease, 0), Some(new));
    }

    #[test]
    fn a_late_proof_does_not_shorten_the_lease() {
        let lease = Lease::new();
        let epoch = lease.bump();
        assert!(lease.extend(epoch, Millis(200)));
        assert!(lease.extend(epoch, Millis(100)));
        assert_eq!(held_at(&lease, 150), Some(epoch));
    }

    #[test]
    fn a_bump_ends_the_lease_and_the_count_wraps() {
        let lease = Lease::at(pack(Epoch(EPOCH_MASK), 100));
        assert_eq!(held_at(&lease, 0), Some(Epoch(EPOCH_MASK)));
        assert_eq!(lease.bump(), Epoch(0));
        assert_eq!(held_at(&lease, 0), None);
    }

    #[test]
    fn the_last_epoch_that_was_held_is_remembered_through_bumps_until_the_lease_is_held_again() {
        let lease = Lease::new();
        let last =
            || lease.last_held(|| Millis(7)).map(|last| (last.epoch, last.until.0, last.now.0));
        assert_eq!(last(), None, "the lease was never held");
        let first = lease.bump();
        assert_eq!(last(), None);
        lease.extend(first, Millis(100));
        assert_eq!(last(), Some((first, 100, 7)));
        lease.extend(first, Millis(200));
        let second = lease.bump();
        assert_eq!(last(), Some((first, 200, 7)), "the second epoch never held the lease");
        let third = lease.bump();
        assert_eq!(last(), Some((first, 200, 7)), "the third epoch does not hold it yet");
        assert!(!lease.extend(second, Millis(300)));
        assert_eq!(last(), Some((first, 200, 7)), "a late proof proves nothing");
        lease.extend(third, Millis(300));
        assert_eq!(last(), Some((third, 300, 7)), "the third epoch replaces the first");
        lease.bump();
        assert_eq!(last(), Some((third, 300, 7)));
    }

    #[test]
    fn the_permanent_lease_lasts_for_decades() {
        assert!(held_at(&Lease::permanent(), 30 * 365 * 86_400_000).is_some());
    }

    #[test]
    fn a_lease_far_in_the_future_does_not_spill_into_the_epoch() {
        let lease = Lease::new();
        let epoch = lease.bump();
        assert!(lease.extend(epoch, Millis(u64::MAX)));
        assert_eq!(held_at(&lease, 0), Some(epoch));
    }
}
