//! The stream of announcements that a backend yields.

use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;

/// How many events may wait for the listener. A listener that falls behind by more is cut off and starts anew: what it has
/// missed by then it could not say.
const CAPACITY: usize = 4096;

/// What a subscription yields. All of it travels in one queue, so that the proof of hearing cannot overtake a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The subscription is confirmed: from now on no announcement is missed unless the stream ends, or this comes again. A
    /// backend that subscribes anew by itself says so with another one; what was announced in between may be lost.
    Connected,
    /// An announcement, byte for byte.
    Message(Bytes),
    /// Proof of hearing: every announcement that was made before this instant has been yielded.
    ///
    /// The instant must be taken before the proof is asked for, on `tokio::time::Instant`'s clock (`into_std`).
    Alive(Instant),
}

/// A bounded stream of [`Event`]s. Its end means that announcements may have been missed.
#[derive(Debug)]
pub struct Subscription(mpsc::Receiver<Event>);

impl Subscription {
    /// A subscription and the end that feeds it.
    pub fn channel() -> (SubscriptionSender, Subscription) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        (SubscriptionSender(Some(sender)), Subscription(receiver))
    }

    /// The next event; `None` when the subscription is lost.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

/// Feeds a [`Subscription`]. Dropping it ends the subscription.
#[derive(Debug)]
pub struct SubscriptionSender(Option<mpsc::Sender<Event>>);

impl SubscriptionSender {
    /// Yields an event. `false` if the subscription is over: dropped by the listener, or cut off because it fell behind.
    pub fn send(&mut self, event: Event) -> bool {
        let sent = self.0.as_ref().is_some_and(|sender| sender.try_send(event).is_ok());
        if !sent {
            self.0 = None;
        }
        sent
    }

    /// Waits until the listener drops the subscription.
    pub async fn closed(&self) {
        if let Some(sender) = &self.0 {
            sender.closed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_that_falls_behind_is_cut_off() {
        let (mut sender, mut subscription) = Subscription::channel();
        for _ in 0..CAPACITY {
            assert!(sender.send(Event::Connected));
        }
        assert!(!sender.send(Event::Connected), "the queue is full");
        for _ in 0..CAPACITY {
            assert_eq!(subscription.next().await, Some(Event::Connected));
        }
        assert!(!sender.send(Event::Connected), "cut off for good, though there is room again");
        assert_eq!(subscription.next().await, None);
    }
}
