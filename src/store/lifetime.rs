//! How long sessions live. Pure; all moments are milliseconds since the Unix epoch.

use std::time::Duration;

use crate::clock::millis;

/// A session ends when nobody has used it for a time, or, if so configured, a time after its creation however much it is used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    idle: u64,
    absolute: Option<u64>,
    /// A session is extended for more than this.
    least_gain: u64,
}

impl Lifetime {
    /// `touch_after` is the share of the idle timeout that must have passed before a session is extended.
    pub(crate) fn new(idle: Duration, absolute: Option<Duration>, touch_after: f64) -> Self {
        let idle = millis(idle);
        Lifetime {
            idle,
            absolute: absolute.map(millis),
            least_gain: (idle as f64 * touch_after) as u64,
        }
    }

    /// Until when a session lives that is used now, and never again.
    pub(super) fn deadline(&self, created_at: u64, now: u64) -> u64 {
        let idle_until = now.saturating_add(self.idle);
        self.end(created_at).map_or(idle_until, |end| end.min(idle_until))
    }

    /// When a session ends however much it is used.
    pub(crate) fn end(&self, created_at: u64) -> Option<u64> {
        self.absolute.map(|absolute| created_at.saturating_add(absolute))
    }

    /// Whether that moment has come.
    pub(super) fn has_expired(&self, created_at: u64, now: u64) -> bool {
        self.end(created_at).is_some_and(|end| end <= now)
    }

    /// Whether using a session now makes it live longer by enough to say so to the backend. To its end it is extended for any
    /// gain: that happens once.
    pub(super) fn should_touch(&self, created_at: u64, deadline: u64, now: u64) -> bool {
        let extended = self.deadline(created_at, now);
        let least_gain = if Some(extended) == self.end(created_at) { 0 } else { self.least_gain };
        extended.saturating_sub(deadline) > least_gain
    }
}

/// What is left until a deadline.
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
    fn use_extends_a_session_up_to_its_end_and_no_further() {
        let lifetime = lifetime(10, Some(25));
        assert_eq!(lifetime.deadline(0, 0), 10_000);
        assert_eq!(lifetime.deadline(0, 14_000), 24_000);
        assert_eq!(lifetime.deadline(0, 16_000), 25_000);
        assert!(!lifetime.has_expired(0, 24_999));
        assert!(lifetime.has_expired(0, 25_000));
        assert!(!self::lifetime(10, None).has_expired(0, u64::MAX));
    }

    #[test]
    fn a_session_is_extended_when_a_share_of_its_idle_time_is_to_be_gained() {
        let idle = lifetime(10, None);
        assert!(!idle.should_touch(0, 10_000, 2_500));
        assert!(idle.should_touch(0, 10_000, 2_501));
        let bounded = lifetime(10, Some(25));
        assert!(!bounded.should_touch(0, 24_000, 14_999));
        assert!(bounded.should_touch(0, 24_999, 15_000), "it can be had until its end");
        assert!(
            !bounded.should_touch(0, 25_000, 24_999),
            "beyond which there is nothing to be gained"
        );
    }

    proptest! {
        #[test]
        fn no_deadline_is_beyond_the_end(idle in 1u64..1000, absolute in 1u64..1000, created_at: u64, now: u64) {
            let lifetime = lifetime(idle, Some(absolute));
            prop_assert!(lifetime.deadline(created_at, now) <= lifetime.end(created_at).unwrap());
            prop_assert!(lifetime.deadline(created_at, now) <= now.saturating_add(idle * 1000));
        }
    }
}
