//! The stream of announcements from a backend to the listener.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::error::StoreError;

/// Maximum number of events that wait for the listener. The subscription of a listener that falls
/// further behind ends, and the listener subscribes again: it has lost events and cannot tell
/// which.
const CAPACITY: usize = 4096;

/// An event of a subscription. All events travel in one queue, so that [`Alive`](Event::Alive)
/// cannot overtake a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The subscription is confirmed. From now on, no announcement is missed until the stream ends
    /// or yields this event again. A backend that resubscribes by itself must yield it each time,
    /// since announcements made in between may be lost.
    Connected,
    /// An announcement, byte for byte.
    Message(Bytes),
    /// A proof that announcements arrive: each one made before this instant has been yielded.
    ///
    /// The backend must take the instant before it requests the proof, from
    /// `tokio::time::Instant::now().into_std()`. If it gets no more proofs, it must end the stream:
    /// until then, the node waits for the next one without using its cache, and does not subscribe
    /// again.
    Alive(Instant),
}

/// A bounded stream of [`Event`]s. Its end means that announcements may have been missed.
#[derive(Debug)]
pub struct Subscription {
    events: mpsc::Receiver<Event>,
    cause: Arc<OnceLock<StoreError>>,
}

impl Subscription {
    /// Creates a subscription and the sender that feeds it.
    pub fn channel() -> (SubscriptionSender, Subscription) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let cause = Arc::new(OnceLock::new());
        let subscription = Subscription { events: receiver, cause: cause.clone() };
        (SubscriptionSender { events: Some(sender), cause }, subscription)
    }

    /// Waits for the next event. Returns `None` when the subscription has ended.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Returns the cause that the backend has given for the end of the subscription.
    pub fn cause(&self) -> Option<&StoreError> {
        self.cause.get()
    }
}

/// Feeds a [`Subscription`]. Dropping it ends the subscription.
#[derive(Debug)]
pub struct SubscriptionSender {
    events: Option<mpsc::Sender<Event>>,
    cause: Arc<OnceLock<StoreError>>,
}

impl SubscriptionSender {
    /// Sends an event without waiting. Returns `false` if the subscription has ended, because the
    /// listener has dropped it or has fallen too far behind.
    pub fn send(&mut self, event: Event) -> bool {
        let sent = self.events.as_ref().is_some_and(|sender| sender.try_send(event).is_ok());
        if !sent {
            self.events = None;
        }
        sent
    }

    /// Returns `true` unless the subscription has ended.
    #[cfg(feature = "redis")]
    pub(crate) fn is_open(&self) -> bool {
        self.events.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Ends the subscription, and says why. The cause is logged. Of several causes, the first one
    /// counts.
    pub fn end(&mut self, cause: StoreError) {
        let _ = self.cause.set(cause);
        self.events = None;
    }

    /// Returns a future that ends when the listener drops the subscription. The future keeps the
    /// subscription open.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let sender = self.events.clone();
        async move {
            if let Some(sender) = sender {
                sender.closed().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_subscription_of_a_listener_that_falls_behind_ends() {
        let (mut sender, mut subscription) = Subscription::channel();
        for _ in 0..CAPACITY {
            assert!(sender.send(Event::Connected));
        }
        assert!(!sender.send(Event::Connected), "the queue is full");
        for _ in 0..CAPACITY {
            assert_eq!(subscription.next().await, Some(Event::Connected));
        }
        assert!(
            !sender.send(Event::Connected),
            "the subscription has ended, although the queue has room again"
        );
        assert_eq!(subscription.next().await, None);
    }
}
