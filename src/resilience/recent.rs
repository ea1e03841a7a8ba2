//! The results of recent calls. Pure: time comes from outside.
//!
//! A backend that is overloaded still answers some calls, so failures in a row do not show it. A
//! share of all calls does not show it either: one broken connection fails all calls in flight, and
//! few others may have been made. So this counts time: the tenths of a second in which at least
//! half of the calls that ended have failed.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Length of a slot.
const SLOT: Duration = Duration::from_millis(100);
/// Number of slots that are remembered: five seconds.
const SLOTS: u64 = 50;
/// Minimum number of failed slots: two seconds.
const MIN_FAILED: usize = 20;

/// The results of recent calls, by slots of time.
#[derive(Debug)]
pub(super) struct RecentCalls {
    start: Instant,
    /// The slots in which calls ended, oldest first.
    slots: VecDeque<Slot>,
}

#[derive(Debug)]
struct Slot {
    number: u64,
    answered: u32,
    failed: u32,
}

impl RecentCalls {
    pub(super) fn new(now: Instant) -> Self {
        RecentCalls { start: now, slots: VecDeque::new() }
    }

    /// Records the end of a call.
    pub(super) fn record(&mut self, failed: bool, now: Instant) {
        let since = now.saturating_duration_since(self.start);
        let number = (since.as_millis() / SLOT.as_millis()) as u64;
        self.slots.retain(|slot| slot.number + SLOTS > number);
        if self.slots.back().is_none_or(|slot| slot.number < number) {
            self.slots.push_back(Slot { number, answered: 0, failed: 0 });
        }
        if let Some(slot) = self.slots.back_mut() {
            let count = if failed { &mut slot.failed } else { &mut slot.answered };
            *count = count.saturating_add(1);
        }
    }

    /// Returns `true` if calls have failed during at least two of the last five seconds, and during
    /// at least half of the time in which calls were made.
    pub(super) fn mostly_failed(&self) -> bool {
        let failed = self.slots.iter().filter(|slot| slot.failed >= slot.answered).count();
        failed >= MIN_FAILED && failed * 2 >= self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records this many answered and failed calls in each of some slots, and returns the next one.
    fn slots(recent: &mut RecentCalls, first: u32, count: u32, answered: u32, failed: u32) -> u32 {
        for slot in first..first + count {
            let now = recent.start + SLOT * slot;
            (0..answered).for_each(|_| recent.record(false, now));
            (0..failed).for_each(|_| recent.record(true, now));
        }
        first + count
    }

    #[test]
    fn failures_among_answers_are_noticed_after_two_seconds() {
        let mut recent = RecentCalls::new(Instant::now());
        let next = slots(&mut recent, 0, 19, 50, 50);
        assert!(!recent.mostly_failed());
        slots(&mut recent, next, 1, 50, 50);
        assert!(recent.mostly_failed());
    }

    #[test]
    fn a_minority_of_failures_is_tolerated() {
        let mut recent = RecentCalls::new(Instant::now());
        slots(&mut recent, 0, 200, 51, 49);
        assert!(!recent.mostly_failed());
    }

    #[test]
    fn many_failures_at_once_are_one_slot() {
        let mut recent = RecentCalls::new(Instant::now());
        let next = slots(&mut recent, 0, 1, 0, 10_000);
        slots(&mut recent, next, 30, 1, 0);
        assert!(!recent.mostly_failed());
    }

    #[test]
    fn a_stall_among_good_seconds_is_tolerated() {
        let mut recent = RecentCalls::new(Instant::now());
        let next = slots(&mut recent, 0, 30, 100, 0);
        slots(&mut recent, next, 20, 0, 100);
        assert!(!recent.mostly_failed(), "20 of 50 slots");
        slots(&mut recent, next + 20, 5, 0, 100);
        assert!(recent.mostly_failed(), "25 of 50 slots");
    }

    #[test]
    fn failures_are_forgotten_after_five_seconds() {
        let mut recent = RecentCalls::new(Instant::now());
        let next = slots(&mut recent, 0, 30, 0, 1);
        assert!(recent.mostly_failed());
        slots(&mut recent, next + 25, 1, 1, 0);
        assert!(recent.mostly_failed(), "25 failed slots are left");
        slots(&mut recent, next + 31, 1, 1, 0);
        assert!(!recent.mostly_failed(), "19 failed slots are left");
    }
}
