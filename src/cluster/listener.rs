//! Hears the announcements and applies them to the cache, in the order in which they come.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::cache::LocalCache;
use super::message::{Action, interpret};
use crate::backend::{DynBackend, Event, Subscription};
use crate::clock::{Clock, millis};
use crate::error::StoreError;
use crate::guards::{self, Guard};
use crate::observe::{self, Counter, Gauge, Metrics};

/// The pause before a lost subscription is made anew, doubled at each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What the listener is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenerState {
    /// No listener is running.
    Stopped,
    /// It is not sure to hear: the cache is not used.
    Connecting,
    /// It hears.
    Listening,
}

/// What the listener tells the rest of the store.
#[derive(Debug)]
pub(crate) struct ListenerStatus {
    pub(crate) state: watch::Sender<ListenerState>,
    pub(crate) received: Counter,
    pub(crate) unreadable: Counter,
    pub(crate) losses: Counter,
    subscriptions: Counter,
    gauges: Option<ListenerGauges>,
}

/// What is told of a node that is to listen. One that is not would look like one that has lost its connection.
#[derive(Debug)]
struct ListenerGauges {
    listening: Gauge,
    last_proof: Gauge,
}

impl ListenerStatus {
    pub(crate) fn new(metrics: &Metrics, listens: bool) -> Self {
        ListenerStatus {
            state: watch::Sender::new(ListenerState::Stopped),
            received: Counter::new(metrics, observe::ANNOUNCEMENTS_RECEIVED),
            unreadable: Counter::new(metrics, observe::ANNOUNCEMENTS_UNREADABLE),
            losses: Counter::new(metrics, observe::SUBSCRIPTION_LOSSES),
            subscriptions: Counter::new(metrics, observe::SUBSCRIPTIONS),
            gauges: listens.then(|| ListenerGauges {
                listening: metrics.gauge(observe::LISTENING),
                last_proof: metrics.gauge(observe::LAST_PROOF),
            }),
        }
    }

    /// Returns the state before.
    pub(crate) fn enter(&self, state: ListenerState) -> ListenerState {
        if let Some(gauges) = &self.gauges {
            gauges.listening.set(|| f64::from(u8::from(state == ListenerState::Listening)));
        }
        self.state.send_replace(state)
    }

    /// `wall` is in milliseconds since the Unix epoch.
    fn proven(&self, wall: impl FnOnce() -> u64) {
        if let Some(gauges) = &self.gauges {
            gauges.last_proof.set(|| wall() as f64 / 1000.0);
        }
    }
}

/// One listener. Its end, whether it is stopped, panics or its runtime goes, is the end of the lease.
pub(crate) struct Listener<T> {
    pub(crate) backend: Arc<dyn DynBackend>,
    pub(crate) cache: Arc<LocalCache<T>>,
    pub(crate) status: Arc<ListenerStatus>,
    pub(crate) heartbeat: Duration,
    pub(crate) max_staleness: Duration,
    pub(crate) node_id: Arc<str>,
    pub(crate) clock: Clock,
}

impl<T> Listener<T> {
    /// Listens until it is dropped.
    pub(crate) async fn run(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.backend.subscribe(self.heartbeat).await {
                Ok(subscription) => {
                    if self.receive(subscription).await {
                        pause = FIRST_PAUSE;
                    }
                    None
                }
                Err(error) => Some(error),
            };
            self.lost(error.as_ref());
            tokio::time::sleep(self.clock.jitter(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Hears one subscription to its end. Whether it was ever proven to work.
    async fn receive(&self, mut subscription: Subscription) -> bool {
        let mut epoch = None;
        let mut proven = false;
        while let Some(event) = subscription.next().await {
            match event {
                Event::Connected => {
                    let lease = self.cache.lease();
                    epoch = Some(if guards::enabled(Guard::EpochAtSubscription) {
                        lease.bump()
                    } else {
                        lease.epoch()
                    });
                    self.status.subscriptions.add_one();
                }
                Event::Message(message) => self.apply(&message),
                Event::Alive(sent_at) => {
                    let Some(epoch) = epoch else { continue };
                    let sent_at = self.clock.at(sent_at);
                    self.cache.lease().extend(epoch, sent_at.plus(millis(self.max_staleness)));
                    self.status.proven(|| self.clock.wall_at(sent_at));
                    self.cache.flush();
                    if !proven {
                        proven = true;
                        self.status.enter(ListenerState::Listening);
                        tracing::info!(node_id = %self.node_id, "listening to session announcements");
                    }
                }
            }
        }
        proven
    }

    fn apply(&self, message: &[u8]) {
        self.status.received.add_one();
        match interpret(message) {
            Action::Evict(id, revision) if guards::enabled(Guard::Eviction) => {
                self.cache.evict(&id, revision);
            }
            Action::Evict(..) => {}
            Action::Clear => self.cache.clear(),
            Action::Unreadable => {
                self.status.unreadable.add_one();
                tracing::warn!(
                    node_id = %self.node_id,
                    length = message.len(),
                    "an announcement cannot be read: the whole session cache is cleared"
                );
                self.cache.clear();
            }
        }
    }

    /// One log line for each change, not for each attempt.
    fn lost(&self, error: Option<&StoreError>) {
        if guards::enabled(Guard::EpochAtLoss) {
            self.cache.lease().bump();
        }
        if self.status.enter(ListenerState::Connecting) == ListenerState::Connecting {
            if let Some(error) = error {
                tracing::debug!(node_id = %self.node_id, error = error as &dyn std::error::Error, "still not listening");
            }
            return;
        }
        self.status.losses.add_one();
        tracing::warn!(
            node_id = %self.node_id,
            error = error.map(|error| error as &dyn std::error::Error),
            "no longer listening to session announcements: sessions are read from the backend until it is mended"
        );
    }
}

impl<T> Drop for Listener<T> {
    fn drop(&mut self) {
        self.cache.lease().bump();
        self.status.enter(ListenerState::Stopped);
    }
}
