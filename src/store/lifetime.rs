//! The deadlines of sessions. Pure: time comes from outside.

use std::time::Duration;

use crate::clock::{Timestamp, millis};

/// The timeouts of sessions. A session ends when it has been idle for the idle timeout, or, if one
/// is configured, when the absolute timeout after its creation has passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    idle: Duration,
    absolute: Option<Duration>,
    /// A session is extended only if that moves its deadline or its time of the last use by more
    /// than this.
    min_gain: Duration,
}

impl Lifetime {
    /// `touch_after` is the share of the idle timeout that must have passed before a session is
    /// extended.
    pub(crate) fn new(idle: Duration, absolute: Option<Duration>, touch_after: f64) -> Self {
        let min_gain = Duration::from_millis((millis(idle) as f64 * touch_after) as u64);
        Lifetime { idle, absolute, min_gain }
    }

    /// Returns the deadline of a session that is used now: the end of the idle timeout, but not
    /// beyond the absolute deadline.
    pub(super) fn deadline(&self, created_at: Timestamp, now: Timestamp) -> Timestamp {
        let idle_until = now.saturating_add(self.idle);
        self.absolute_deadline(created_at).map_or(idle_until, |end| end.min(idle_until))
    }

    /// Returns the time at which a session ends even if it is used, or `None` without an absolute
    /// timeout.
    pub(crate) fn absolute_deadline(&self, created_at: Timestamp) -> Option<Timestamp> {
        self.absolute.map(|absolute| created_at.saturating_add(absolute))
    }

    /// Returns `true` if the absolute deadline has passed.
    pub(super) fn has_expired(&self, created_at: Timestamp, now: Timestamp) -> bool {
        self.absolute_deadline(created_at).is_some_and(|end| end <= now)
    }

    /// Returns `true` if using a session now moves its deadline, or its time of the last use, by
    /// enough to be written to the backend. Up to its absolute deadline it is extended for any
    /// gain, since that happens once.
    pub(super) fn should_touch(
        &self,
        created_at: Timestamp,
        deadline: Timestamp,
        used_at: Timestamp,
        now: Timestamp,
    ) -> bool {
        let extended = self.deadline(created_at, now);
        let is_last = Some(extended) == self.absolute_deadline(created_at);
        let gain = extended.saturating_duration_since(deadline);
        let unused = now.saturating_duration_since(used_at);
        gain.max(unused) > self.min_gain || (is_last && gain > Duration::ZERO)
    }
}

/// The timeouts of a store's sessions: the ordinary ones, and those of "remember me".
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetimes {
    ordinary: Lifetime,
    remembered: Option<Lifetime>,
}

impl Lifetimes {
    pub(crate) fn new(ordinary: Lifetime, remembered: Option<Lifetime>) -> Self {
        Lifetimes { ordinary, remembered }
    }

    pub(super) fn can_remember(&self) -> bool {
        self.remembered.is_some()
    }

    /// Returns the timeouts of a session. On a node without "remember me", a session that another
    /// node remembers has the ordinary ones.
    pub(super) fn of(&self, remembered: bool) -> &Lifetime {
        self.remembered.as_ref().filter(|_| remembered).unwrap_or(&self.ordinary)
    }
}

/// Returns the time left until a deadline.
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
    fn use_extends_a_session_up_to_its_absolute_deadline() {
        let lifetime = lifetime(10, Some(25));
        assert_eq!(lifetime.deadline(at(0), at(0)), at(10_000));
        assert_eq!(lifetime.deadline(at(0), at(14_000)), at(24_000));
        assert_eq!(lifetime.deadline(at(0), at(16_000)), at(25_000));
        assert!(!lifetime.has_expired(at(0), at(24_999)));
        assert!(lifetime.has_expired(at(0), at(25_000)));
        assert!(!self::lifetime(10, None).has_expired(at(0), at(u64::MAX)));
    }

    #[test]
    fn a_session_is_extended_if_a_share_of_the_idle_timeout_is_gained() {
        let should_touch = |lifetime: Lifetime, used_at, now| {
            let deadline = lifetime.deadline(at(0), at(used_at));
            lifetime.should_touch(at(0), deadline, at(used_at), at(now))
        };
        let idle = lifetime(10, None);
        assert!(!should_touch(idle, 0, 2_500));
        assert!(should_touch(idle, 0, 2_501));
        let bounded = lifetime(10, Some(25));
        assert!(!should_touch(bounded, 14_000, 14_999));
        assert!(
            should_touch(bounded, 14_999, 15_000),
            "any gain counts up to the absolute deadline"
        );
        assert!(!should_touch(bounded, 15_001, 17_501), "past it there is nothing to gain");
        assert!(should_touch(bounded, 15_001, 17_502), "the time of the last use is recorded");
    }

    #[test]
    fn a_session_is_extended_at_once_after_the_idle_timeout_was_raised() {
        assert!(lifetime(20, None).should_touch(at(0), at(10_000), at(0), at(0)));
    }

    proptest! {
        #[test]
        fn no_deadline_is_beyond_the_absolute_deadline(idle in 1u64..1000, absolute in 1u64..1000, created_at: u64, now: u64) {
            let lifetime = lifetime(idle, Some(absolute));
            let (created_at, now) = (at(created_at), at(now));
            prop_assert!(lifetime.deadline(created_at, now) <= lifetime.absolute_deadline(created_at).unwrap());
            prop_assert!(lifetime.deadline(created_at, now) <= now.saturating_add(Duration::from_secs(idle)));
        }
    }
}
