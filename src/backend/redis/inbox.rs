//! What arrives over the connection of a subscription, in the order in which the server sent it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::{Msg, PushInfo, PushKind, Value};
use tokio::sync::watch;

use super::findings::Findings;
use super::heartbeat::{HeartbeatTracker, Reply};
use super::merge::Merge;
use crate::clock::ServerTime;
use crate::error::{StoreError, StoreErrorKind};

/// Turns the messages of two channels into the events of a subscription: the channel of
/// announcements, and the private channel of this subscription's heartbeats.
///
/// The connection's task calls [`receive`](Self::receive) for each message, so a heartbeat cannot
/// overtake an announcement.
pub(super) struct Inbox {
    channels: Channels,
    time: Arc<ServerTime>,
    findings: Arc<Findings>,
    merge: Arc<Merge>,
    /// The number of the server in the merged subscription.
    server: usize,
    heartbeats: Mutex<HeartbeatTracker>,
    phase: watch::Sender<Phase>,
}

/// The channels of a subscription.
pub(super) struct Channels {
    /// The channel of announcements.
    pub(super) all: String,
    /// The channel to which no other subscription listens.
    pub(super) private: String,
    /// `true` if the private channel belongs to a slot of a cluster.
    pub(super) is_sharded: bool,
}

/// Returns the error of a subscription that has ended.
pub(super) fn ended(cause: &'static str) -> StoreError {
    StoreError::from(StoreErrorKind::Unavailable).with_source(cause)
}

/// The progress of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// No heartbeat has come back yet.
    Unproven,
    Proven,
    /// Messages may be missed from now on.
    Ended,
}

impl Inbox {
    pub(super) fn new(
        channels: Channels,
        time: Arc<ServerTime>,
        findings: Arc<Findings>,
        merge: Arc<Merge>,
        server: usize,
    ) -> Self {
        Inbox {
            channels,
            time,
            findings,
            merge,
            server,
            heartbeats: Mutex::default(),
            phase: watch::Sender::new(Phase::Unproven),
        }
    }

    pub(super) fn channels(&self) -> &Channels {
        &self.channels
    }

    /// Waits until the subscription has reached this phase, and returns the one that it is in.
    pub(super) async fn reaches(&self, phase: Phase) -> Phase {
        let reached =
            self.phase.subscribe().wait_for(|current| *current >= phase).await.map(|it| *it);
        // The sender lives as long as `self`, so the wait cannot fail.
        reached.unwrap_or(Phase::Ended)
    }

    /// Returns a future that ends when the listener drops the subscription.
    pub(super) fn dropped_by_listener(&self) -> impl Future<Output = ()> + Send + use<> {
        self.merge.closed()
    }

    /// Makes the first heartbeat prove that the subscription's server has what was written under
    /// the subscription's key over another connection.
    pub(super) fn expect(&self, nonce: u64) {
        self.heartbeats().expect(nonce);
    }

    /// Records that a heartbeat is sent now, and returns its number.
    pub(super) fn heartbeat_sent(&self, now: Instant) -> u64 {
        self.heartbeats().send(now)
    }

    /// Forgets a heartbeat that is not sent after all.
    pub(super) fn withdraw(&self, number: u64) {
        self.heartbeats().withdraw(number);
    }

    /// Returns `true` if a heartbeat has been pending for longer than `patience`, or too many are.
    pub(super) fn is_overdue(&self, now: Instant, patience: Duration) -> bool {
        self.heartbeats().is_overdue(now, patience)
    }

    /// Takes what the server has sent over the connection.
    pub(super) fn receive(&self, push: PushInfo) {
        let mut heartbeats = self.heartbeats();
        let phase = *self.phase.borrow();
        if phase == Phase::Ended {
            return;
        }
        let next = self.phase_after(push, &mut heartbeats, phase);
        if next != phase {
            self.phase.send_replace(next);
        }
    }

    fn phase_after(
        &self,
        push: PushInfo,
        heartbeats: &mut HeartbeatTracker,
        phase: Phase,
    ) -> Phase {
        let sent = match push.kind {
            PushKind::Disconnection => {
                self.merge.end(ended("the connection of the subscription was closed"));
                return Phase::Ended;
            }
            // It is the second of the two subscriptions, so both are confirmed.
            PushKind::Subscribe if is_text(push.data.first(), &self.channels.all) => {
                self.merge.subscribed(self.server)
            }
            _ => {
                let Some(message) = Msg::from_push_info(push) else { return phase };
                if message.get_channel_name() == self.channels.private {
                    return self.phase_after_heartbeat(&message, heartbeats, phase);
                }
                self.merge.announced(message.get_payload_bytes().to_vec().into())
            }
        };
        if sent { phase } else { Phase::Ended }
    }

    fn phase_after_heartbeat(
        &self,
        message: &Msg,
        heartbeats: &mut HeartbeatTracker,
        phase: Phase,
    ) -> Phase {
        match heartbeats.receive(message.get_payload_bytes()) {
            Reply::Heartbeat { sent_at, time } => {
                if let Some(time) = time {
                    self.time.observe(sent_at, now(), time);
                }
                self.findings.proven_by(heartbeats.proof());
                if self.merge.proven(self.server, sent_at) { Phase::Proven } else { Phase::Ended }
            }
            Reply::OtherHistory => {
                self.merge.end(ended(if phase == Phase::Unproven {
                    "commands and subscription lead to servers with different data"
                } else {
                    "the server was demoted between two heartbeats, or has other data now"
                }));
                Phase::Ended
            }
            Reply::Nothing => phase,
        }
    }

    fn heartbeats(&self) -> MutexGuard<'_, HeartbeatTracker> {
        self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn is_text(value: Option<&Value>, text: &str) -> bool {
    match value {
        Some(Value::BulkString(bytes)) => bytes == text.as_bytes(),
        Some(Value::SimpleString(string)) => string == text,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Event, Subscription};

    fn inbox() -> (Inbox, Subscription) {
        let (events, subscription) = Subscription::channel();
        let channels =
            Channels { all: "all".to_owned(), private: "mine".to_owned(), is_sharded: false };
        let merge = Arc::new(Merge::new(events, 1));
        (Inbox::new(channels, Arc::default(), Arc::default(), merge, 0), subscription)
    }

    fn push(kind: PushKind, data: &[&str]) -> PushInfo {
        let data = data.iter().map(|text| Value::BulkString(text.as_bytes().to_vec())).collect();
        PushInfo { kind, data }
    }

    async fn events(mut subscription: Subscription, inbox: Inbox) -> Vec<Event> {
        drop(inbox);
        let mut events = Vec::new();
        while let Some(event) = subscription.next().await {
            events.push(event);
        }
        events
    }

    #[tokio::test]
    async fn events_come_in_the_order_of_the_connection() {
        let (inbox, subscription) = inbox();
        inbox.receive(push(PushKind::Subscribe, &["mine"]));
        inbox.receive(push(PushKind::Subscribe, &["all"]));
        let sent_at = Instant::now();
        assert_eq!(inbox.heartbeat_sent(sent_at), 1);
        inbox.receive(push(PushKind::Message, &["all", "one"]));
        assert_eq!(inbox.reaches(Phase::Unproven).await, Phase::Unproven);
        inbox.receive(push(PushKind::Message, &["mine", "1 abc 7000 0 1"]));
        assert_eq!(inbox.reaches(Phase::Proven).await, Phase::Proven);
        inbox.receive(push(PushKind::Message, &["all", "two"]));
        assert_eq!(
            events(subscription, inbox).await,
            [
                Event::Connected,
                Event::Message("one".into()),
                Event::Alive(sent_at),
                Event::Message("two".into()),
            ]
        );
    }

    #[tokio::test]
    async fn nothing_is_proven_after_the_end() {
        let other_history = push(PushKind::Message, &["mine", "2 def 7000 1 2"]);
        for last in [push(PushKind::Disconnection, &[]), other_history] {
            let (inbox, subscription) = inbox();
            for _ in 0..3 {
                inbox.heartbeat_sent(Instant::now());
            }
            inbox.receive(push(PushKind::Message, &["mine", "1 abc 7000 0 1"]));
            inbox.receive(last);
            assert_eq!(inbox.reaches(Phase::Ended).await, Phase::Ended);
            inbox.receive(push(PushKind::Message, &["mine", "3 abc 7000 1 3"]));
            inbox.receive(push(PushKind::Message, &["all", "one"]));
            let events = events(subscription, inbox).await;
            assert!(matches!(events[..], [Event::Alive(_)]), "{events:?}");
        }
    }

    #[tokio::test]
    async fn a_message_that_does_not_fit_into_the_queue_is_the_end() {
        let (inbox, _subscription) = inbox();
        while *inbox.phase.borrow() != Phase::Ended {
            inbox.receive(push(PushKind::Message, &["all", "one"]));
        }
    }
}
