//! The lease: a node's proof that it has heard every announcement up to a moment ago. Pure, and one atomic word.

use std::sync::atomic::Ordering;

use crate::clock::Millis;
use crate::guards::{Guard, stands};
use crate::sync::AtomicU64;

/// The expiry takes the low 40 bits, which last for 34 years of milliseconds; the epoch has the 24 above.
const EXPIRY_BITS: u32 = 40;
const EXPIRY_MASK: u64 = (1 << EXPIRY_BITS) - 1;
const EPOCH_MASK: u64 = (1 << (64 - EXPIRY_BITS)) - 1;

/// A stretch of unbroken hearing. Bumped at every loss and at every new subscription; what was cached in another epoch is
/// invisible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

/// Epoch and expiry in one word, so that no reader sees the one without the other.
#[derive(Debug)]
pub(crate) struct Lease(AtomicU64);

impl Lease {
    /// No lease is held until it is extended.
    pub(crate) fn new() -> Self {
        Lease(AtomicU64::new(pack(Epoch(1), 0)))
    }

    /// A lease that never ends, for a node that does not listen at all.
    pub(crate) fn permanent() -> Self {
        Lease(AtomicU64::new(pack(Epoch(1), EXPIRY_MASK)))
    }

    /// The epoch in which the lease is held, and the moment at which that was so.
    ///
    /// The clock is read after the word: were it read before, a thread that is held up between the two would take a lease that
    /// was extended meanwhile for one that covers a moment long gone.
    pub(crate) fn held(&self, clock: impl FnOnce() -> Millis) -> Option<(Epoch, Millis)> {
        let (epoch, expiry) = unpack(self.0.load(Ordering::Acquire));
        let now = clock();
        (now.0 < expiry || !stands(Guard::Lease)).then_some((epoch, now))
    }

    /// Extends the lease, if its epoch is still this one; never shortens it. `false` if another epoch has begun.
    pub(crate) fn extend(&self, epoch: Epoch, until: Millis) -> bool {
        let until = until.0.min(EXPIRY_MASK);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                let (current, expiry) = unpack(word);
                (current == epoch).then(|| pack(current, expiry.max(until)))
            })
            .is_ok()
    }

    /// Begins an epoch, unless a test has taken this guard away.
    pub(crate) fn bump_if(&self, guard: Guard) -> Epoch {
        if stands(guard) { self.bump() } else { unpack(self.0.load(Ordering::Acquire)).0 }
    }

    /// Begins an epoch, without a lease.
    pub(crate) fn bump(&self) -> Epoch {
        let next = |word| Epoch((unpack(word).0.0 + 1) & EPOCH_MASK);
        match self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| Some(pack(next(word), 0))) {
            Ok(before) | Err(before) => next(before),
        }
    }
}

fn pack(epoch: Epoch, expiry: u64) -> u64 {
    epoch.0 << EXPIRY_BITS | expiry
}

fn unpack(word: u64) -> (Epoch, u64) {
    (Epoch(word >> EXPIRY_BITS), word & EXPIRY_MASK)
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
        let lease = Lease(AtomicU64::new(pack(Epoch(EPOCH_MASK), 100)));
        assert_eq!(held_at(&lease, 0), Some(Epoch(EPOCH_MASK)));
        assert_eq!(lease.bump(), Epoch(0));
        assert_eq!(held_at(&lease, 0), None);
    }

    #[test]
    fn the_permanent_lease_outlives_us() {
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
