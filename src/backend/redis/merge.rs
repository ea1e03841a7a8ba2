//! Merges what several servers send into one subscription.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;

use crate::backend::{Event, SubscriptionSender};
use crate::error::StoreError;
use crate::guards::{self, Guard};

/// The subscription that the servers feed, and the progress of each.
///
/// What one server sends stays in order. A proof of one server counts once all others have given
/// one, too: the subscription is only as good as that of the server whose last proof is the oldest.
pub(super) struct Merge(Mutex<State>);

struct State {
    events: SubscriptionSender,
    servers: Vec<Progress>,
    /// The last proof that was sent on.
    proven: Option<Instant>,
}

/// The progress of the subscription to one server.
#[derive(Clone, Copy, Default)]
struct Progress {
    is_subscribed: bool,
    /// When the last heartbeat that came back was sent.
    proven: Option<Instant>,
}

impl Merge {
    /// Creates the merged stream of this number of servers.
    pub(super) fn new(events: SubscriptionSender, servers: usize) -> Self {
        let servers = vec![Progress::default(); servers];
        Merge(Mutex::new(State { events, servers, proven: None }))
    }

    /// Records that a server has confirmed its subscription. Returns `false` if the merged one has
    /// ended.
    pub(super) fn subscribed(&self, server: usize) -> bool {
        let mut state = self.state();
        state.servers[server].is_subscribed = true;
        !state.servers.iter().all(|it| it.is_subscribed) || state.events.send(Event::Connected)
    }

    /// Sends an announcement on. Returns `false` if the subscription has ended.
    pub(super) fn announced(&self, message: Bytes) -> bool {
        self.state().events.send(Event::Message(message))
    }

    /// Records that the announcements that a server made before this moment have been sent on.
    /// Returns `false` if the subscription has ended.
    pub(super) fn proven(&self, server: usize, sent_at: Instant) -> bool {
        let mut state = self.state();
        state.servers[server].proven = Some(sent_at);
        // `None` is less than any moment.
        let oldest = if guards::enabled(Guard::EveryMaster) {
            state.servers.iter().map(|it| it.proven).min().flatten()
        } else {
            Some(sent_at)
        };
        if oldest <= state.proven {
            return state.events.is_open();
        }
        state.proven = oldest;
        oldest.is_none_or(|oldest| state.events.send(Event::Alive(oldest)))
    }

    /// Ends the subscription for this cause, unless it has ended already.
    pub(super) fn end(&self, cause: StoreError) {
        self.state().events.end(cause);
    }

    /// Returns a future that ends when the listener drops the subscription.
    pub(super) fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        self.state().events.closed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::Subscription;
    use crate::error::StoreErrorKind;

    fn merge(servers: usize) -> (Merge, Subscription) {
        let (events, subscription) = Subscription::channel();
        (Merge::new(events, servers), subscription)
    }

    async fn events(merge: Merge, mut subscription: Subscription) -> Vec<Event> {
        drop(merge);
        let mut events = Vec::new();
        while let Some(event) = subscription.next().await {
            events.push(event);
        }
        events
    }

    #[tokio::test]
    async fn the_subscription_begins_when_all_servers_have_confirmed_it() {
        let (merge, subscription) = merge(2);
        assert!(merge.subscribed(1));
        assert!(merge.announced("one".into()));
        assert!(merge.subscribed(0));
        assert_eq!(
            events(merge, subscription).await,
            [Event::Message("one".into()), Event::Connected]
        );
    }

    #[tokio::test]
    async fn the_oldest_of_the_last_proofs_counts() {
        let (merge, subscription) = merge(2);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for (server, seconds) in [(0, 1), (0, 2), (1, 3), (1, 4), (0, 5), (1, 6), (0, 5)] {
            assert!(merge.proven(server, at(seconds)));
        }
        assert_eq!(
            events(merge, subscription).await,
            [2, 4, 5].map(|seconds| Event::Alive(at(seconds)))
        );
    }

    #[tokio::test]
    async fn nothing_is_sent_on_after_the_end() {
        let (merge, subscription) = merge(1);
        merge.end(StoreErrorKind::Closed.into());
        assert!(!merge.subscribed(0));
        assert!(!merge.announced("one".into()));
        assert!(!merge.proven(0, Instant::now()));
        assert_eq!(events(merge, subscription).await, []);
    }
}
