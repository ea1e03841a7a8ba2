//! The beats that were sent, and what it means to hear one. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Heartbeats under way at most. With more, the lane or the subscription is so late that a new one is called for.
const MAX_PENDING: usize = 16;

/// The beats of one subscription.
#[derive(Debug, Default)]
pub(super) struct HeartbeatTracker {
    /// Those that were sent and not heard yet, oldest first.
    pending: VecDeque<(u64, Instant)>,
    last: u64,
    /// The replication id that the first one brought.
    history: Option<String>,
}

/// What comes out of the channel that only this subscription listens to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// A beat that was sent at this moment: everything announced before it has come out, too.
    Heartbeat(Instant),
    /// The server's data has another history than at the first beat. It was demoted meanwhile, and what was announced on the server
    /// that it followed was not heard here.
    OtherHistory,
    /// Nothing that is waited for.
    Nothing,
}

impl HeartbeatTracker {
    /// A beat is to be sent, now. Its number.
    pub(super) fn send(&mut self, now: Instant) -> u64 {
        self.last += 1;
        self.pending.push_back((self.last, now));
        self.last
    }

    /// Takes what the script has published: the number of the beat and the server's replication id.
    pub(super) fn receive(&mut self, message: &[u8]) -> Reply {
        let Some((number, history)) = parse(message) else { return Reply::Nothing };
        let Some(position) = self.pending.iter().position(|(sent, _)| *sent == number) else {
            return Reply::Nothing;
        };
        if self.history.get_or_insert_with(|| history.to_owned()) != history {
            return Reply::OtherHistory;
        }
        let sent_at = self.pending[position].1;
        // Those before it were lost, and what they would have proven is proven now.
        self.pending.drain(..=position);
        Reply::Heartbeat(sent_at)
    }

    /// Whether all have been heard.
    pub(super) fn all_received(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether one should have been heard long ago.
    pub(super) fn is_overdue(&self, now: Instant, patience: Duration) -> bool {
        let overdue = |(_, sent): &(u64, Instant)| now.saturating_duration_since(*sent) > patience;
        self.pending.front().is_some_and(overdue) || self.pending.len() >= MAX_PENDING
    }
}

fn parse(message: &[u8]) -> Option<(u64, &str)> {
    let (number, history) = std::str::from_utf8(message).ok()?.split_once(' ')?;
    Some((number.parse().ok()?, history))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_beat_that_is_heard_proves_the_moment_at_which_it_was_sent() {
        let (mut beats, start) = (HeartbeatTracker::default(), Instant::now());
        assert_eq!(
            (beats.send(start), beats.send(start + SECOND), beats.send(start + 2 * SECOND)),
            (1, 2, 3)
        );
        assert_eq!(beats.receive(b"2 abc"), Reply::Heartbeat(start + SECOND));
        assert!(!beats.all_received());
        assert_eq!(beats.receive(b"1 abc"), Reply::Nothing, "overtaken");
        assert_eq!(beats.receive(b"3 abc"), Reply::Heartbeat(start + 2 * SECOND));
        assert!(beats.all_received());
    }

    #[test]
    fn another_history_is_never_a_proof() {
        let (mut beats, start) = (HeartbeatTracker::default(), Instant::now());
        for _ in 0..3 {
            beats.send(start);
        }
        assert_eq!(beats.receive(b"1 abc"), Reply::Heartbeat(start));
        assert_eq!(beats.receive(b"2 abd"), Reply::OtherHistory);
        assert_eq!(beats.receive(b"3 abd"), Reply::OtherHistory, "however often it is told");
    }

    #[test]
    fn what_was_not_sent_proves_nothing() {
        let mut beats = HeartbeatTracker::default();
        beats.send(Instant::now());
        for message in [&b""[..], b"1", b"abc 1", b"2 abc", b"-1 abc", b"\xff 1"] {
            assert_eq!(beats.receive(message), Reply::Nothing, "{message:?}");
        }
        assert_eq!(beats.history, None, "nor does it settle the history");
    }

    #[test]
    fn beats_are_overdue_when_one_is_late_or_too_many_are_under_way() {
        let (mut beats, start) = (HeartbeatTracker::default(), Instant::now());
        assert!(!beats.is_overdue(start + 9 * SECOND, SECOND), "none is under way");
        beats.send(start);
        assert!(!beats.is_overdue(start + SECOND, SECOND));
        assert!(beats.is_overdue(start + SECOND * 2, SECOND));
        for _ in 1..MAX_PENDING {
            beats.send(start);
        }
        assert!(beats.is_overdue(start, SECOND));
    }
}
