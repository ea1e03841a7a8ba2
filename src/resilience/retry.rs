//! Rules for retries. Pure: time comes from outside.
//!
//! They decide which failure is worth another attempt and after what pause, and how to read an
//! answer if the reply to an earlier attempt was lost.

use std::time::Duration;

use crate::backend::{Deleted, Updated};
use crate::error::{StoreError, StoreErrorKind};
use crate::resilience::RetryConfig;

/// The result of a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// The backend's answer.
    Answered(Deleted),
    /// There is no record, and an attempt whose reply was lost may have deleted it.
    Presumed,
}

impl Removal {
    /// Returns the answer. A record that may have been deleted counts as deleted: most likely it
    /// was.
    pub(crate) fn presumed(self) -> Deleted {
        match self {
            Removal::Answered(answer) => answer,
            Removal::Presumed => Deleted::Deleted,
        }
    }
}

/// The attempts at one call so far.
#[derive(Debug)]
pub(crate) struct Attempts {
    policy: RetryConfig,
    made: u32,
    /// `true` if one of the failed attempts may have been carried out.
    in_doubt: bool,
}

impl Attempts {
    pub(crate) fn new(policy: RetryConfig) -> Self {
        Attempts { policy, made: 0, in_doubt: false }
    }

    /// Records a failed attempt and returns the longest pause before the next one. `left` is the
    /// time left for the operation.
    ///
    /// # Errors
    ///
    /// The error to report if there must not be another attempt: see
    /// [`ended_by`](Attempts::ended_by).
    pub(crate) fn failed(
        &mut self,
        error: StoreError,
        left: Duration,
    ) -> Result<Duration, StoreError> {
        self.made = self.made.saturating_add(1);
        self.in_doubt |= error.kind() == StoreErrorKind::OutcomeUnknown;
        let pause = self.policy.pause_after(self.made);
        if self.made < self.policy.max_attempts && error.is_transient() && pause < left {
            return Ok(pause);
        }
        Err(self.ended_by(error))
    }

    /// Returns the error to report if the call ends with `error`: `OutcomeUnknown` if one of the
    /// attempts may have been carried out.
    pub(crate) fn ended_by(&self, error: StoreError) -> StoreError {
        if self.in_doubt && error.kind() != StoreErrorKind::OutcomeUnknown {
            return StoreError::outcome_unknown(error);
        }
        error
    }

    /// Interprets the answer to an update.
    ///
    /// A conflict after an attempt in doubt is an error: that attempt may have been saved and then
    /// overwritten, so applying the change again could apply it twice. `Gone` stays: the session
    /// has ended, so it no longer matters whether the attempt was saved.
    pub(super) fn updated(&self, answer: Updated) -> Result<Updated, StoreError> {
        match answer {
            Updated::Conflict(_) if self.in_doubt => {
                Err(StoreError::from(StoreErrorKind::OutcomeUnknown)
                    .with_source("an earlier attempt may have been saved and then overwritten"))
            }
            answer => Ok(answer),
        }
    }

    /// Interprets the answer to a deletion.
    ///
    /// `Gone` after an attempt in doubt becomes `Presumed`: that attempt may have deleted the
    /// record. Another revision or a tombstone is certain: a deleted record does not come back, so
    /// no attempt deleted this one.
    pub(super) fn deleted(&self, answer: Deleted) -> Removal {
        match answer {
            Deleted::Gone if self.in_doubt => Removal::Presumed,
            answer => Removal::Answered(answer),
        }
    }
}

impl RetryConfig {
    /// Returns the longest pause after `made` attempts: exponential, and capped.
    fn pause_after(&self, made: u32) -> Duration {
        let exponent = i32::try_from(made.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.base_delay.as_secs_f64() * self.multiplier.powi(exponent);
        // A pause too long for a `Duration` is above the cap.
        Duration::try_from_secs_f64(seconds)
            .map_or(self.max_delay, |pause| pause.min(self.max_delay))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Timestamp;
    use crate::id::SessionId;
    use crate::record::{Content, Meta, Revision, Stored};

    const HOUR: Duration = Duration::from_secs(3600);

    fn policy() -> RetryConfig {
        RetryConfig::new()
            .max_attempts(5)
            .base_delay(Duration::from_millis(10))
            .multiplier(3.0)
            .max_delay(Duration::from_millis(50))
    }

    fn failed(attempts: &mut Attempts, kind: StoreErrorKind) -> Result<Duration, StoreErrorKind> {
        attempts.failed(kind.into(), HOUR).map_err(|error| error.kind())
    }

    #[test]
    fn pauses_grow_up_to_the_cap_and_attempts_are_limited() {
        let mut attempts = Attempts::new(policy());
        for millis in [10, 30, 50, 50] {
            assert_eq!(
                failed(&mut attempts, StoreErrorKind::Unavailable),
                Ok(Duration::from_millis(millis))
            );
        }
        assert_eq!(failed(&mut attempts, StoreErrorKind::Timeout), Err(StoreErrorKind::Timeout));
    }

    #[test]
    fn only_transient_failures_are_retried() {
        for kind in [
            StoreErrorKind::Unavailable,
            StoreErrorKind::Timeout,
            StoreErrorKind::OutcomeUnknown,
            StoreErrorKind::Overloaded,
        ] {
            assert!(failed(&mut Attempts::new(policy()), kind).is_ok(), "{kind:?}");
        }
        for kind in [
            StoreErrorKind::NotFound,
            StoreErrorKind::Gone,
            StoreErrorKind::Conflict,
            StoreErrorKind::Refused,
            StoreErrorKind::CircuitOpen,
            StoreErrorKind::Corrupt,
            StoreErrorKind::Encode,
            StoreErrorKind::TooLarge,
            StoreErrorKind::Closed,
        ] {
            assert_eq!(failed(&mut Attempts::new(policy()), kind), Err(kind));
        }
    }

    #[test]
    fn an_unknown_outcome_stays_unknown_whatever_fails_later() {
        for last in [StoreErrorKind::CircuitOpen, StoreErrorKind::Refused, StoreErrorKind::Closed] {
            let mut attempts = Attempts::new(policy());
            assert!(failed(&mut attempts, StoreErrorKind::OutcomeUnknown).is_ok());
            assert!(failed(&mut attempts, StoreErrorKind::Unavailable).is_ok());
            assert_eq!(failed(&mut attempts, last), Err(StoreErrorKind::OutcomeUnknown));
        }
    }

    #[test]
    fn no_retry_is_made_if_its_pause_leaves_no_time() {
        let left = Duration::from_millis(10);
        let error = || StoreError::from(StoreErrorKind::Unavailable);
        assert!(Attempts::new(policy()).failed(error(), left).is_err());
        assert!(Attempts::new(policy()).failed(error(), left + Duration::from_nanos(1)).is_ok());
    }

    #[test]
    fn replies_after_a_lost_reply_are_interpreted_by_what_they_prove() {
        let start = Timestamp::from_millis(0);
        let meta = Meta::new(Revision::first(), start, start, SessionId::from_bytes([1; 16]));
        let other = Stored { meta, content: Content::Payload(Bytes::new()) };
        let id = SessionId::from_bytes([1; 16]);
        let sure = Attempts::new(policy());
        let mut in_doubt = Attempts::new(policy());
        assert!(failed(&mut in_doubt, StoreErrorKind::OutcomeUnknown).is_ok());

        for answer in [Updated::Saved, Updated::Gone] {
            assert_eq!(in_doubt.updated(answer.clone()).unwrap(), answer);
        }
        let conflict = Updated::Conflict(other.clone());
        assert_eq!(sure.updated(conflict.clone()).unwrap(), conflict);
        assert_eq!(in_doubt.updated(conflict).unwrap_err().kind(), StoreErrorKind::OutcomeUnknown);

        assert_eq!(sure.deleted(Deleted::Gone), Removal::Answered(Deleted::Gone));
        assert_eq!(in_doubt.deleted(Deleted::Gone), Removal::Presumed);
        for answer in [Deleted::Deleted, Deleted::MovedTo(id), Deleted::Conflict(other)] {
            assert_eq!(in_doubt.deleted(answer.clone()), Removal::Answered(answer));
        }
    }

    proptest! {
        #[test]
        fn pauses_stay_within_the_cap_and_the_time_left(
            max_attempts in 1u32..1000,
            base in 1u64..10_000,
            cap in 0u64..100_000,
            multiplier in 1.0f64..1000.0,
            budget in 0u64..1_000_000,
        ) {
            let base = Duration::from_millis(base);
            let policy = RetryConfig::new()
                .max_attempts(max_attempts)
                .base_delay(base)
                .multiplier(multiplier)
                .max_delay(base + Duration::from_millis(cap));
            let (mut attempts, mut made, mut left) = (Attempts::new(policy), 1, Duration::from_millis(budget));
            let mut last = Duration::ZERO;
            while let Ok(pause) = attempts.failed(StoreErrorKind::Unavailable.into(), left) {
                prop_assert!((base..=policy.max_delay).contains(&pause));
                prop_assert!(pause >= last, "a pause is shorter than the previous one");
                prop_assert!(pause < left, "no time is left for the next attempt");
                (last, left, made) = (pause, left - pause, made + 1);
            }
            prop_assert!(made <= max_attempts);
        }
    }
}
