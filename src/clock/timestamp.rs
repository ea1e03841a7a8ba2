//! Wall-clock time as records and backends use it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::millis;

/// A moment on the wall clock, in whole milliseconds since the Unix epoch.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use clustered_sessions::backend::Timestamp;
///
/// let created_at = Timestamp::from_millis(1_700_000_000_000);
/// let deadline = created_at.saturating_add(Duration::from_secs(600));
/// assert_eq!(deadline.as_millis(), 1_700_000_600_000);
/// assert_eq!(deadline.saturating_duration_since(created_at), Duration::from_secs(600));
/// assert!(SystemTime::from(deadline) < SystemTime::now());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The end of the year 9999.
    pub(crate) const END_OF_9999: Timestamp = Timestamp(253_402_300_799_999);

    /// Creates a timestamp from milliseconds since the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Timestamp(millis)
    }

    /// Returns the milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Returns the moment that is `duration` later, rounded down, or the last one that a timestamp
    /// can hold.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Timestamp(self.0.saturating_add(millis(duration)))
    }

    /// Returns the moment that is `duration` earlier, rounded to milliseconds, or the Unix epoch.
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Timestamp(self.0.saturating_sub(millis(duration)))
    }

    /// Returns the time since `earlier`, or zero if `earlier` is later.
    #[must_use]
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Rounds down to milliseconds. A time before the Unix epoch becomes the Unix epoch.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Timestamp(time.duration_since(UNIX_EPOCH).map_or(0, millis))
    }
}

/// A timestamp that the platform's `SystemTime` cannot represent becomes the end of the year 9999.
impl From<Timestamp> for SystemTime {
    fn from(timestamp: Timestamp) -> Self {
        let after_epoch = |it: Timestamp| UNIX_EPOCH.checked_add(Duration::from_millis(it.0));
        let end = Duration::from_millis(Timestamp::END_OF_9999.0);
        after_epoch(timestamp).unwrap_or_else(|| UNIX_EPOCH + end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_stays_within_the_range() {
        let (first, last) = (Timestamp::from_millis(0), Timestamp::from_millis(u64::MAX));
        let second = Duration::from_secs(1);
        assert_eq!(last.saturating_add(second), last);
        assert_eq!(first.saturating_add(Duration::MAX), last);
        assert_eq!(first.saturating_sub(second), first);
        assert_eq!(first.saturating_add(second).saturating_sub(second), first);
        assert_eq!(first.saturating_duration_since(last), Duration::ZERO);
    }

    #[test]
    fn system_times_are_converted_without_a_panic() {
        let moment = UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_999);
        assert_eq!(Timestamp::from(moment), Timestamp::from_millis(1_700_000_000_000));
        assert_eq!(Timestamp::from(UNIX_EPOCH - Duration::from_secs(1)), Timestamp::from_millis(0));
        let moment = Timestamp::from_millis(1_700_000_000_000);
        assert_eq!(Timestamp::from(SystemTime::from(moment)), moment);
        assert!(SystemTime::from(Timestamp::from_millis(u64::MAX)) > SystemTime::now());
    }
}
