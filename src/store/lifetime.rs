//! The deadlines of sessions. Pure; all times are in milliseconds since the Unix epoch.

use std::time::Duration;

use crate::clock::millis;

/// The timeouts of sessions. A session ends when it has been idle for the idle timeout, or, if one
/// is configured, when the absolute timeout after its creation has passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    idle: u64,
    absolute: Option<u64>,
    /// A session is extended only if that moves its deadline by more than this.
    min_gain: u64,
}

impl Lifetime {
    /// `touch_after` is the share of the idle timeout that must have passed before a session is
    /// extended.
    pub(crate) fn new(idle: Duration, absolute: Option<Duration>, touch_after: f64) -> Self {
        let idle = millis(idle);
        Lifetime {
            idle,
            absolute: absolute.map(millis),
            min_gain: (idle as f64 * touch_after) as u64,
        }
    }

    /// Returns the deadline of a session that is used now: the end of the idle timeout, but not
    /// beyond the absolute deadline.
    pub(super) fn deadline(&self, created_at: u64, now: u64) -> u64 {
        let idle_until = now.saturating_add(self.idle);
        self.absolute_deadline(created_at).map_or(idle_until, |end| end.min(idle_until))
    }

    /// Returns the time at which a session ends even if it is used, or `None` without an absolute
    /// timeout.
    pub(crate) fn absolute_deadline(&self, created_at: u64) -> Option<u64> {
        self.absolute.map(|absolute| created_at.saturating_add(absolute))
    }

    /// Returns `true` if the absolute deadline has passed.
    pub(super) fn has_expired(&self, created_at: u64, now: u64) -> bool {
        self.absolute_deadline(created_at).is_some_and(|end| end <= now)
    }

    /// Returns `true` if using a session now moves its deadline by enough to be written to the
    /// backend. Up to its absolute deadline it is extended for any gain, since that happens once.
    pub(super) fn should_touch(&self, created_at: u64, deadline: u64, now: u64) -> bool {
        let extended = self.deadline(created_at, now);
        let min_gain =
            if Some(extended) == self.absolute_deadline(created_at) { 0 } else { self.min_gain };
        extended.saturating_sub(deadline) > min_gain
    }
}

/// Returns the time left until a deadline.
pub(super) fn time_to_live(deadline: u64, now: u64) -> Duration {
    Duration::from_millis(deadline.saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lifetime(idle: u64, absolute: Option<u64>) -> Lifetime {
        Lifetime::new(Duration::from_secs(idle), absolute.map(Duration::from_secs), 0.25)
    }

    #[test]
    fn use_extends_a_session_up_to_its_absolute_deadline() {
        let lifetime = lifetime(10, Some(25));
        assert_eq!(lifetime.deadline(0, 0), 10_000);
        assert_eq!(lifetime.deadline(0, 14_000), 24_000);
        assert_eq!(lifetime.deadline(0, 16_000), 25_000);
        assert!(!lifetime.has_expired(0, 24_999));
        assert!(lifetime.has_expired(0, 25_000));
        assert!(!self::lifetime(10, None).has_expired(0, u64::MAX));
    }

    #[test]
    fn a_session_is_extended_if_a_share_of_the_idle_timeout_is_gained() {
        let idle = lifetime(10, None);
        assert!(!idle.should_touch(0, 10_000, 2_500));
        assert!(idle.should_touch(0, 10_000, 2_501));
        let bounded = lifetime(10, Some(25));
        assert!(!bounded.should_touch(0, 24_000, 14_999));
        assert!(
            bounded.should_touch(0, 24_999, 15_000),
            "any gain counts up to the absolute deadline"
        );
        assert!(!bounded.should_touch(0, 25_000, 24_999), "nothing is gained beyond it");
    }

    proptest! {
        #[test]
        fn no_deadline_is_beyond_the_absolute_deadline(idle in 1u64..1000, absolute in 1u64..1000, created_at: u64, now: u64) {
            let lifetime = lifetime(idle, Some(absolute));
            prop_assert!(lifetime.deadline(created_at, now) <= lifetime.absolute_deadline(created_at).unwrap());
            prop_assert!(lifetime.deadline(created_at, now) <= now.saturating_add(idle * 1000));
        }
    }
}
