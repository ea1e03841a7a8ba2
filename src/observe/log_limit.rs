//! Limits the rate of a log line that others can cause. Pure: time comes from outside.

use crate::clock::Millis;

/// Minimum time between two lines, in milliseconds.
const INTERVAL: u64 = 10_000;

/// The limit of one log line: one in ten seconds.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    last: Option<Millis>,
    suppressed: u64,
}

impl LogLimit {
    /// Returns `Some` if the line may be logged, with the number of lines suppressed since the last
    /// one.
    pub(crate) fn admit(&mut self, now: Millis) -> Option<u64> {
        if self.last.is_some_and(|last| now < last.plus(INTERVAL)) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_ten_seconds_says_how_many_were_suppressed() {
        let mut limit = LogLimit::default();
        assert_eq!(limit.admit(Millis(5)), Some(0));
        for at in [5, 6, 10_004] {
            assert_eq!(limit.admit(Millis(at)), None);
        }
        assert_eq!(limit.admit(Millis(10_005)), Some(3));
        assert_eq!(limit.admit(Millis(20_004)), None);
        assert_eq!(limit.admit(Millis(20_005)), Some(1));
    }
}
