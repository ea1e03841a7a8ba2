//! The heartbeats that were sent and have not come back. Pure: time comes from outside.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::backend::HistoryProof;
use crate::clock::Timestamp;
use crate::guards::{self, Guard};

/// Maximum number of pending heartbeats. With more, the shared connection or the subscription is
/// too slow to be trusted.
const MAX_PENDING: usize = 16;

/// Stands for the replication id where the server does not tell it to scripts. A change from an id
/// to this or back is a change of history, since one of the two is another server's, or a server's
/// of another configuration.
const UNKNOWN_HISTORY: &str = "-";

/// The heartbeats of one subscription.
///
/// Two things show that the data still has the history that the node has followed. The *chain*:
/// each heartbeat finds what the last one has left. It breaks when the data is flushed, or replaced
/// by data that does not have this link. And the server's *replication id*, if it can be had, which
/// is another one after each promotion.
///
/// The chain alone misses a flip to another history and back between two heartbeats: a server that
/// becomes a replica of one that has the last link, takes over changes whose announcements it does
/// not publish, and is a master again before the next heartbeat.
#[derive(Debug, Default)]
pub(super) struct HeartbeatTracker {
    /// Heartbeats that were sent and have not come back, oldest first: number and time of sending.
    pending: VecDeque<(u64, Instant)>,
    /// Number of the last heartbeat sent.
    last: u64,
    /// The replication id in the first heartbeat that came back, or [`UNKNOWN_HISTORY`].
    history: Option<String>,
    /// What the subscription's key must hold, because the last heartbeat that came back has left it
    /// there, or the node itself has before the first; 0 for nothing.
    kept: u64,
}

/// The meaning of a message on the subscription's private channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// A heartbeat that was sent at this moment. Everything announced before it has been received.
    Heartbeat {
        sent_at: Instant,
        /// The server's time when it carried the heartbeat out.
        time: Option<Timestamp>,
    },
    /// The server's data has another history than at the first heartbeat. Either the server was
    /// demoted meanwhile, and announcements made on the server that it followed were not received.
    /// Or its data was flushed, or replaced by earlier data.
    OtherHistory,
    /// Not a pending heartbeat.
    Nothing,
}

impl HeartbeatTracker {
    /// Makes the first heartbeat prove that the subscription's server has what the node has written
    /// under the subscription's key over another connection.
    pub(super) fn expect(&mut self, nonce: u64) {
        self.kept = nonce;
    }

    /// Returns the proof of history that the heartbeats have given so far.
    pub(super) fn proof(&self) -> HistoryProof {
        match self.history.as_deref() {
            None => HistoryProof::NoneYet,
            Some(UNKNOWN_HISTORY) => HistoryProof::HeartbeatsAlone,
            Some(_) => HistoryProof::ReplicationIdAndHeartbeats,
        }
    }

    /// Records that a heartbeat is sent now, and returns its number.
    pub(super) fn send(&mut self, now: Instant) -> u64 {
        self.last += 1;
        self.pending.push_back((self.last, now));
        self.last
    }

    /// Forgets a heartbeat that is not sent after all.
    pub(super) fn withdraw(&mut self, number: u64) {
        self.pending.retain(|(sent, _)| *sent != number);
    }

    /// Interprets what the script has published: the number of the heartbeat, the server's
    /// replication id and its time as far as they can be had, and what the subscription's key held
    /// before and holds now.
    pub(super) fn receive(&mut self, message: &[u8]) -> Reply {
        let Some(Message { number, history, time, before, after }) = parse(message) else {
            return Reply::Nothing;
        };
        let Some(position) = self.pending.iter().position(|(sent, _)| *sent == number) else {
            return Reply::Nothing;
        };
        let known = self.history.get_or_insert_with(|| history.to_owned());
        if (known != history || before != self.kept) && guards::enabled(Guard::History) {
            return Reply::OtherHistory;
        }
        self.kept = after;
        let sent_at = self.pending[position].1;
        // This one also proves what earlier ones would have, so those are no longer needed.
        self.pending.drain(..=position);
        Reply::Heartbeat { sent_at, time }
    }

    /// Returns `true` if a heartbeat has been pending for longer than `patience`, or too many are.
    pub(super) fn is_overdue(&self, now: Instant, patience: Duration) -> bool {
        let overdue = |(_, sent): &(u64, Instant)| now.saturating_duration_since(*sent) > patience;
        self.pending.front().is_some_and(overdue) || self.pending.len() >= MAX_PENDING
    }
}

/// What a heartbeat's script has published.
struct Message<'a> {
    number: u64,
    history: &'a str,
    time: Option<Timestamp>,
    before: u64,
    after: u64,
}

fn parse(message: &[u8]) -> Option<Message<'_>> {
    let mut words = std::str::from_utf8(message).ok()?.split(' ');
    let mut next = || words.next();
    let (number, history, micros) = (next()?.parse().ok()?, next()?, next()?);
    let (before, after) = (next()?.parse().ok()?, next()?.parse().ok()?);
    let time = micros.parse::<u64>().ok().map(|micros| Timestamp::from_millis(micros / 1000));
    Some(Message { number, history, time, before, after })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn heartbeat(sent_at: Instant) -> Reply {
        Reply::Heartbeat { sent_at, time: Some(Timestamp::from_millis(7)) }
    }

    #[test]
    fn a_heartbeat_that_comes_back_proves_the_moment_at_which_it_was_sent() {
        let (mut tracker, start) = (HeartbeatTracker::default(), Instant::now());
        assert_eq!(
            (tracker.send(start), tracker.send(start + SECOND), tracker.send(start + 2 * SECOND)),
            (1, 2, 3)
        );
        assert_eq!(tracker.receive(b"2 abc 7000 0 2"), heartbeat(start + SECOND));
        assert_eq!(
            tracker.receive(b"1 abc 7000 2 1"),
            Reply::Nothing,
            "a later heartbeat has been received"
        );
        assert_eq!(tracker.receive(b"3 abc 7000 2 3"), heartbeat(start + 2 * SECOND));
        assert!(tracker.pending.is_empty());
    }

    #[test]
    fn a_heartbeat_with_another_replication_id_proves_nothing() {
        let (mut tracker, start) = (HeartbeatTracker::default(), Instant::now());
        for _ in 0..3 {
            tracker.send(start);
        }
        assert_eq!(tracker.receive(b"1 abc 7000 0 1"), heartbeat(start));
        assert_eq!(tracker.receive(b"2 def 7000 1 2"), Reply::OtherHistory);
        assert_eq!(
            tracker.receive(b"3 def 7000 1 3"),
            Reply::OtherHistory,
            "the replication id stays refused"
        );
    }

    #[test]
    fn a_heartbeat_that_does_not_find_what_the_last_one_left_proves_nothing() {
        for found in [0, 1] {
            let (mut tracker, start) = (HeartbeatTracker::default(), Instant::now());
            for _ in 0..3 {
                tracker.send(start);
            }
            assert_eq!(tracker.receive(b"1 abc 7000 0 1"), heartbeat(start));
            // A server that cannot save its data writes nothing.
            assert_eq!(tracker.receive(b"2 abc 7000 1 1"), heartbeat(start));
            let flushed = tracker.receive(format!("3 abc 7000 {found} 3").as_bytes());
            let expected = if found == 1 { heartbeat(start) } else { Reply::OtherHistory };
            assert_eq!(flushed, expected);
        }
    }

    #[test]
    fn without_a_replication_id_the_chain_of_heartbeats_is_the_proof() {
        let (mut tracker, start) = (HeartbeatTracker::default(), Instant::now());
        for _ in 0..3 {
            tracker.send(start);
        }
        assert_eq!(tracker.proof(), HistoryProof::NoneYet);
        assert_eq!(tracker.receive(b"1 - 7000 0 1"), heartbeat(start));
        assert_eq!(tracker.proof(), HistoryProof::HeartbeatsAlone);
        let without_time = Reply::Heartbeat { sent_at: start, time: None };
        assert_eq!(tracker.receive(b"2 -  1 2"), without_time);
        assert_eq!(tracker.receive(b"3 - 7000 0 3"), Reply::OtherHistory);
    }

    #[test]
    fn a_replication_id_that_comes_or_goes_is_another_history() {
        for (before, after) in [("abc", "-"), ("-", "abc")] {
            let (mut tracker, start) = (HeartbeatTracker::default(), Instant::now());
            for _ in 0..2 {
                tracker.send(start);
            }
            let first = format!("1 {before} 7000 0 1");
            assert_eq!(tracker.receive(first.as_bytes()), heartbeat(start));
            let second = format!("2 {after} 7000 1 2");
            assert_eq!(tracker.receive(second.as_bytes()), Reply::OtherHistory);
        }
    }

    #[test]
    fn a_first_heartbeat_that_does_not_find_what_the_node_has_written_proves_nothing() {
        for found in [0, 8, 9] {
            let (mut tracker, start) = (HeartbeatTracker::default(), Instant::now());
            tracker.expect(9);
            tracker.send(start);
            let reply = tracker.receive(format!("1 - 7000 {found} 1").as_bytes());
            let expected = if found == 9 { heartbeat(start) } else { Reply::OtherHistory };
            assert_eq!(reply, expected);
        }
    }

    #[test]
    fn a_message_that_was_not_sent_proves_nothing() {
        let mut tracker = HeartbeatTracker::default();
        tracker.send(Instant::now());
        for message in [
            &b""[..],
            b"1",
            b"abc 1",
            b"1 abc 7000",
            b"1 abc 7000 0",
            b"2 abc 7000 0 2",
            b"-1 abc 7000 0 1",
            b"\xff 1",
        ] {
            assert_eq!(tracker.receive(message), Reply::Nothing, "{message:?}");
        }
        assert_eq!(tracker.history, None, "the replication id is not taken from it");
    }

    #[test]
    fn heartbeats_are_overdue_when_one_is_late_or_too_many_are_pending() {
        let (mut tracker, start) = (HeartbeatTracker::default(), Instant::now());
        assert!(!tracker.is_overdue(start + 9 * SECOND, SECOND), "no heartbeat is pending");
        tracker.send(start);
        assert!(!tracker.is_overdue(start + SECOND, SECOND));
        assert!(tracker.is_overdue(start + SECOND * 2, SECOND));
        for _ in 1..MAX_PENDING {
            tracker.send(start);
        }
        assert!(tracker.is_overdue(start, SECOND));
        tracker.withdraw(1);
        assert!(!tracker.is_overdue(start, SECOND));
    }
}
