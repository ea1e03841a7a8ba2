//! The wall-clock time of the backend's server.
//!
//! Times that nodes must agree on are those of one clock, the server's. So a node whose own clock
//! is wrong neither lengthens nor shortens a session's life. Between two observations, time passes
//! as on the monotonic clock of the node.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Clock, Millis, Timestamp};

/// Longest round trip that an observation may take if there is a recent one. The server's time was
/// read at an unknown moment of it.
const MAX_ROUND_TRIP: Duration = Duration::from_millis(250);
/// Time for which an observation is recent. A network that is always slow must not keep the time of
/// a server whose clock has been set, or of one that is no longer there.
const RECENT: u64 = 60_000;

/// The time of the backend's server, as last observed. Shared by a store's clock and its backend.
#[derive(Debug, Default)]
pub(crate) struct ServerTime {
    /// The server's time in milliseconds since the Unix epoch at the origin of the monotonic clock,
    /// or 0 if it was never observed.
    at_origin: AtomicU64,
    /// The moment of the last observation, on the monotonic clock.
    observed_at: AtomicU64,
}

impl ServerTime {
    /// Records that the server has read this time between the two moments.
    pub(crate) fn observe(&self, asked: Instant, answered: Instant, time: Timestamp) {
        let round_trip = answered.saturating_duration_since(asked);
        let read_at = Clock::system().at(asked + round_trip / 2);
        let is_known = self.at_origin.load(Ordering::Relaxed) != 0;
        let is_recent = read_at < Millis(self.observed_at.load(Ordering::Relaxed)).plus(RECENT);
        if round_trip > MAX_ROUND_TRIP && is_known && is_recent {
            return;
        }
        self.observed_at.store(read_at.0, Ordering::Relaxed);
        self.at_origin.store(time.as_millis().saturating_sub(read_at.0), Ordering::Relaxed);
    }

    /// Returns the server's time at a moment of the system's monotonic clock, or `None` if it was
    /// never observed.
    pub(super) fn at(&self, moment: Millis) -> Option<Timestamp> {
        match self.at_origin.load(Ordering::Relaxed) {
            0 => None,
            at_origin => Some(Timestamp::from_millis(at_origin.saturating_add(moment.0))),
        }
    }
}

/// Parses the server's time in the reply to `INFO server`.
pub(crate) fn parse_info(info: &str) -> Option<Timestamp> {
    let micros = info.lines().find_map(|line| line.strip_prefix("server_time_usec:"))?;
    Some(Timestamp::from_millis(micros.trim().parse::<u64>().ok()? / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns the present moment, which is not before the origin of the clock.
    fn now() -> Instant {
        Clock::system().now();
        Instant::now()
    }

    /// Returns a time that is so much later than another.
    fn time(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + millis)
    }

    #[test]
    fn the_time_was_read_in_the_middle_of_the_round_trip_and_passes_since() {
        let (server, asked) = (ServerTime::default(), now());
        let now = Clock::system().at(asked);
        assert_eq!(server.at(now), None);
        server.observe(asked, asked + SECOND * 2, time(1_000_000));
        assert_eq!(server.at(now.plus(1000)), Some(time(1_000_000)));
        assert_eq!(server.at(now.plus(4000)), Some(time(1_003_000)));
    }

    #[test]
    fn a_slow_observation_does_not_replace_another() {
        let (server, asked) = (ServerTime::default(), now());
        server.observe(asked, asked, time(1_000_000));
        server.observe(asked, asked + SECOND, time(9_000_000));
        assert_eq!(server.at(Clock::system().at(asked)), Some(time(1_000_000)));
        server.observe(asked, asked + SECOND / 5, time(2_000_100));
        assert_eq!(server.at(Clock::system().at(asked)), Some(time(2_000_000)));
    }

    #[test]
    fn on_a_slow_network_the_time_is_observed_once_a_minute() {
        let (server, first) = (ServerTime::default(), now());
        let start = Clock::system().at(first);
        server.observe(first, first + SECOND, time(1_000_500));
        let second = first + SECOND * 59;
        server.observe(second, second + SECOND, time(9_000_000));
        assert_eq!(server.at(start), Some(time(1_000_000)));
        let third = first + SECOND * 61;
        server.observe(third, third + SECOND, time(5_061_500));
        assert_eq!(server.at(start), Some(time(5_000_000)));
    }

    #[test]
    fn the_time_is_read_from_info() {
        let info = "# Server\r\nrun_id:abc\r\nserver_time_usec:1764105600123456\r\n";
        assert_eq!(parse_info(info), Some(Timestamp::from_millis(1_764_105_600_123)));
        assert_eq!(parse_info("# Server\r\n"), None);
        assert_eq!(parse_info("server_time_usec:now"), None);
    }
}
