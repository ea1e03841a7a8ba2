//! The deadlines of sessions. Pure: time comes from outside.

use std::time::Duration;

use crate::clock::{Timestamp, millis};
use crate::record::{Lifespan, Meta};

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
    fn deadline(&self, created_at: Timestamp, now: Timestamp) -> Timestamp {
        let idle_until = now.saturating_add(self.idle);
        self.absolute_deadline(created_at).map_or(idle_until, |end| end.min(idle_until))
    }

    /// Returns the time at which a session ends even if it is used, or `None` without an absolute
    /// timeout.
    pub(crate) fn absolute_deadline(&self, created_at: Timestamp) -> Option<Timestamp> {
        self.absolute.map(|absolute| created_at.saturating_add(absolute))
    }

    /// Returns `true` if using a session now moves its deadline, or its time of the last use, by
    /// enough to be written to the backend. Up to its absolute deadline it is extended for any
    /// gain, since that happens once.
    fn should_touch(
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

/// How long a new session is to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Term {
    Ordinary,
    Remembered,
    /// Until this time, whether it is used or not.
    #[cfg_attr(not(feature = "_tower-sessions"), allow(dead_code, reason = "for adapters"))]
    Until(Timestamp),
}

impl Term {
    pub(crate) fn remembered(remember: bool) -> Self {
        if remember { Term::Remembered } else { Term::Ordinary }
    }

    pub(super) fn lifespan(self) -> Lifespan {
        match self {
            Term::Ordinary => Lifespan::Ordinary,
            Term::Remembered => Lifespan::Remembered,
            Term::Until(_) => Lifespan::Fixed,
        }
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

    /// Returns the deadline of a session that is created now.
    pub(super) fn first_deadline(&self, term: Term, now: Timestamp) -> Timestamp {
        let lifetime = self.of(term.lifespan());
        match (term, lifetime.absolute_deadline(now)) {
            (Term::Until(end), Some(latest)) => end.min(latest),
            (Term::Until(end), None) => end,
            _ => lifetime.deadline(now, now),
        }
    }

    /// Returns the deadline of a session that is changed or used now.
    pub(super) fn deadline(&self, meta: &Meta, now: Timestamp) -> Timestamp {
        match (meta.lifespan, self.absolute_deadline(meta)) {
            (Lifespan::Fixed, Some(end)) => meta.deadline.min(end),
            (Lifespan::Fixed, None) => meta.deadline,
            (lifespan, _) => self.of(lifespan).deadline(meta.created_at, now),
        }
    }

    /// Returns the time at which a session ends even if it is used, or `None` without an absolute
    /// timeout.
    pub(super) fn absolute_deadline(&self, meta: &Meta) -> Option<Timestamp> {
        self.of(meta.lifespan).absolute_deadline(meta.created_at)
    }

    /// Returns `true` if the absolute deadline of a session has passed.
    pub(super) fn has_expired(&self, meta: &Meta, now: Timestamp) -> bool {
        self.absolute_deadline(meta).is_some_and(|end| end <= now)
    }

    /// Returns `true` if a session that is used now should be extended. One with a deadline of its
    /// own never is: an extension that is late could undo that its deadline was brought forward.
    pub(super) fn should_touch(&self, meta: &Meta, now: Timestamp) -> bool {
        let Meta { created_at, deadline, used_at, lifespan, .. } = *meta;
        lifespan != Lifespan::Fixed
            && self.of(lifespan).should_touch(created_at, deadline, used_at, now)
    }

    /// Returns `true` if a session whose data stays as it is should be written to move its deadline
    /// to `until`: to extend it once a part of that time has passed, as for any other session, or
    /// to bring its end forward.
    #[cfg(feature = "_tower-sessions")]
    pub(super) fn should_move(&self, meta: &Meta, until: Timestamp, now: Timestamp) -> bool {
        /// Requests at the same time, each of which asks for an end so long after its own time,
        /// must not take turns to write it.
        const TOLERANCE: Duration = Duration::from_secs(1);

        let until = self.absolute_deadline(meta).map_or(until, |end| end.min(until));
        let Lifetime { idle, min_gain, .. } = self.of(meta.lifespan);
        let min_gain = time_to_live(until, now).mul_f64(min_gain.div_duration_f64(*idle));
        meta.lifespan != Lifespan::Fixed
            || until.saturating_duration_since(meta.deadline) > min_gain
            || meta.deadline.saturating_duration_since(until) > TOLERANCE
    }

    /// Returns the timeouts of a session. On a node without "remember me", a session that another
    /// node remembers has the ordinary ones.
    fn of(&self, lifespan: Lifespan) -> &Lifetime {
        let remembered = lifespan == Lifespan::Remembered;
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
    use crate::id::SessionId;
    use crate::record::Revision;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn meta(lifespan: Lifespan, deadline: u64) -> Meta {
        let origin = SessionId::from_bytes([0; 16]);
        Meta { lifespan, ..Meta::new(Revision::first(), at(0), at(deadline), origin) }
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
        let lifetimes = Lifetimes::new(lifetime, None);
        let meta = meta(Lifespan::Ordinary, 10_000);
        assert!(!lifetimes.has_expired(&meta, at(24_999)));
        assert!(lifetimes.has_expired(&meta, at(25_000)));
        let unbounded = Lifetimes::new(self::lifetime(10, None), None);
        assert!(!unbounded.has_expired(&meta, at(u64::MAX)));
    }

    #[test]
    fn use_does_not_move_a_deadline_of_its_own_which_the_absolute_timeout_bounds() {
        let lifetimes = Lifetimes::new(lifetime(10, Some(25)), None);
        let meta = meta(Lifespan::Fixed, 20_000);
        assert_eq!(lifetimes.deadline(&meta, at(15_000)), at(20_000));
        assert!(!lifetimes.should_touch(&meta, at(15_000)));
        assert_eq!(lifetimes.deadline(&self::meta(Lifespan::Fixed, 90_000), at(0)), at(25_000));
        assert_eq!(lifetimes.first_deadline(Term::Until(at(20_000)), at(1_000)), at(20_000));
        assert_eq!(lifetimes.first_deadline(Term::Until(at(90_000)), at(1_000)), at(26_000));
        assert!(lifetimes.has_expired(&meta, at(25_000)));
    }

    #[cfg(feature = "_tower-sessions")]
    #[test]
    fn a_deadline_of_its_own_is_moved_if_enough_is_gained_or_it_is_brought_forward() {
        let lifetimes = Lifetimes::new(lifetime(10, Some(100)), None);
        let should_move = |lifespan, deadline, until| {
            lifetimes.should_move(&meta(lifespan, deadline), at(until), at(20_000))
        };
        assert!(should_move(Lifespan::Ordinary, 60_000, 60_000), "it gets a deadline of its own");
        assert!(!should_move(Lifespan::Fixed, 50_000, 60_000));
        assert!(should_move(Lifespan::Fixed, 49_999, 60_000));
        assert!(!should_move(Lifespan::Fixed, 60_000, 59_000));
        assert!(should_move(Lifespan::Fixed, 60_000, 58_999));
        assert!(!should_move(Lifespan::Fixed, 100_000, 900_000), "the absolute timeout bounds it");
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
