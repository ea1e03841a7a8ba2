//! How long sessions live. Pure: time comes from outside.

use std::time::Duration;

use crate::clock::{Timestamp, millis};

/// A session ends when nobody has used it for a time, or, if so configured, a time after its creation however much it is used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    idle: Duration,
    absolute: Option<Duration>,
    /// A session is extended for more than this.
    least_gain: Duration,
}

impl Lifetime {
    /// `touch_after` is the share of the idle timeout that must have passed before a session is extended.
    pub(crate) fn new(idle: Duration, absolute: Option<Duration>, touch_after: f64) -> Self {
        let least_gain = Duration::from_millis((millis(idle) as f64 * touch_after) as u64);
        Lifetime { idle, absolute, least_gain }
    }

    /// Until when a session lives that is used now, and never again.
    pub(super) fn deadline(&self, created_at: Timestamp, now: Timestamp) -> Timestamp {
        let idle_until = now.saturating_add(self.idle);
        self.end(created_at).map_or(idle_until, |end| end.min(idle_until))
    }

    /// When a session ends however much it is used.
    pub(crate) fn end(&self, created_at: Timestamp) -> Option<Timestamp> {
        self.absolute.map(|absolute| created_at.saturating_add(absolute))
    }

    /// Whether that moment has come.
    pub(super) fn has_expired(&self, created_at: Timestamp, now: Timestamp) -> bool {
        self.end(created_at).is_some_and(|end| end <= now)
    }

    /// Whether using a session now makes it live longer by enough to say so to the backend. To its end it is extended for any
    /// gain: that happens once.
    pub(super) fn should_touch(
        &self,
        created_at: Timestamp,
        deadline: Timestamp,
        now: Timestamp,
    ) -> bool {
        let extended = self.deadline(created_at, now);
        let least_gain =
            if Some(extended) == self.end(created_at) { Duration::ZERO } else { self.least_gain };
        extended.saturating_duration_since(deadline) > least_gain
    }
}

/// What is left until a deadline.
pub(super) fn time_to_live(deadline: Timestamp, now: Timestamp) -> Duration {
    deadline.saturating_duration_since(now)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn lifetime(idle: u64, absolute: Option<u64>) -> Lifetime {
        Lifetime::new(Duration::from_secs(idle), absolute.map(Duration::from_secs), 0.25)
    }

    #[test]
    fn use_extends_a_session_up_to_its_end_and_no_further() {
        let lifetime = lifetime(10, Some(25));
        assert_eq!(lifetime.deadline(at(0), at(0)), at(10_000));
        assert_eq!(lifetime.deadline(at(0), at(14_000)), at(24_000));
        assert_eq!(lifetime.deadline(at(0), at(16_000)), at(25_000));
        assert!(!lifetime.has_expired(at(0), at(24_999)));
        assert!(lifetime.has_expired(at(0), at(25_000)));
        assert!(!self::lifetime(10, None).has_expired(at(0), at(u64::MAX)));
    }

    #[test]
    fn a_session_is_extended_when_a_share_of_its_idle_time_is_to_be_gained() {
        let idle = lifetime(10, None);
        assert!(!idle.should_touch(at(0), at(10_000), at(2_500)));
        assert!(idle.should_touch(at(0), at(10_000), at(2_501)));
        let bounded = lifetime(10, Some(25));
        assert!(!bounded.should_touch(at(0), at(24_000), at(14_999)));
        assert!(bounded.should_touch(at(0), at(24_999), at(15_000)), "it can be had until its end");
        assert!(
            !bounded.should_touch(at(0), at(25_000), at(24_999)),
            "beyond which there is nothing to be gained"
        );
    }

    proptest! {
        #[test]
        fn no_deadline_is_beyond_the_end(idle in 1u64..1000, absolute in 1u64..1000, created_at: u64, now: u64) {
            let lifetime = lifetime(idle, Some(absolute));
            let (created_at, now) = (at(created_at), at(now));
            prop_assert!(lifetime.deadline(created_at, now) <= lifetime.end(created_at).unwrap());
            prop_assert!(lifetime.deadline(created_at, now) <= now.saturating_add(Duration::from_secs(idle)));
        }
    }
}
