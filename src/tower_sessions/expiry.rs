//! Expiry times, which tower-sessions counts on the clock of the node, and a store on that of its
//! server. Pure.

use std::time::SystemTime;

use crate::clock::Timestamp;

/// The present on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Present {
    pub(super) node: Timestamp,
    pub(super) store: Timestamp,
}

impl Present {
    /// Converts an expiry date, which was counted from the time of the node.
    pub(super) fn to_deadline(self, expiry: SystemTime) -> Timestamp {
        translate(expiry.into(), self.node, self.store)
    }

    /// Converts a deadline to the expiry date that the node counts with.
    pub(super) fn to_expiry(self, deadline: Timestamp) -> SystemTime {
        // Their type of dates holds no later one, and panics.
        translate(deadline, self.store, self.node).min(Timestamp::END_OF_9999).into()
    }
}

/// Returns the time that is as far from `to` as `time` is from `from`.
fn translate(time: Timestamp, from: Timestamp, to: Timestamp) -> Timestamp {
    let before = from.saturating_duration_since(time);
    to.saturating_sub(before).saturating_add(time.saturating_duration_since(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn an_expiry_is_as_far_away_on_the_clock_of_the_store() {
        for (node, store) in [(1_000_000, 1_000_000), (1_000_000, 1_600_000), (1_600_000, 1_000)] {
            let present = Present { node: at(node), store: at(store) };
            for (until, deadline) in [(node + 500, store + 500), (node - 500, store - 500)] {
                assert_eq!(present.to_deadline(at(until).into()), at(deadline));
                assert_eq!(present.to_expiry(at(deadline)), SystemTime::from(at(until)));
            }
        }
    }

    #[test]
    fn a_date_at_the_end_of_the_range_is_converted_without_a_panic() {
        let present = Present { node: at(2_000), store: at(1_000) };
        for deadline in [Timestamp::END_OF_9999, at(u64::MAX)] {
            assert_eq!(present.to_expiry(deadline), SystemTime::from(Timestamp::END_OF_9999));
        }
        assert_eq!(present.to_deadline(SystemTime::UNIX_EPOCH), at(0));
    }
}
