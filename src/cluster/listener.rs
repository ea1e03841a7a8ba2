//! The listener: receives announcements and applies them to the cache, in the order of arrival.
//!
//! A subscription yields three kinds of events in one queue. `Connected` begins an epoch. `Message`
//! is an announcement, which evicts. `Alive` is a heartbeat that came back; since the queue is in
//! order, every announcement made before the heartbeat was sent has been applied by then, so it
//! extends the lease. If the queue ends, the epoch ends, and the listener subscribes again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::cache::LocalCache;
use super::reception::Reception;
use crate::backend::{Event, Subscription};
use crate::clock::{Clock, Timestamp};
use crate::error::{StoreError, StoreErrorKind};
use crate::guards::{self, Guard};
use crate::observe::{self, Counter, Gauge, LogLimit, Metrics};
use crate::resilience::Client;

/// Pause before the first attempt to subscribe again. It doubles with each failed attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Upper bound of that pause, so that a node notices within a second that the backend is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The state of the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenerState {
    /// No listener is running.
    Stopped,
    /// Not proven to receive announcements, so the cache is not used.
    Connecting,
    /// Proven to receive announcements.
    Listening,
}

/// State and counters of the listener, shared with the rest of the store.
#[derive(Debug)]
pub(crate) struct ListenerStatus {
    pub(crate) state: watch::Sender<ListenerState>,
    pub(crate) received: Counter,
    pub(crate) unreadable: Counter,
    unreadable_log: Mutex<LogLimit>,
    /// Why the node does not listen, as far as it is known.
    cause: Mutex<Option<StoreError>>,
    /// Counts transitions from `Listening` to `Connecting`.
    pub(crate) losses: Counter,
    /// Counts confirmed subscriptions. Each begins an epoch.
    subscriptions: Counter,
    /// `None` on a node that is configured not to listen: its gauges would look like a lost
    /// connection.
    gauges: Option<ListenerGauges>,
}

/// Gauges of a node that is configured to listen.
#[derive(Debug)]
struct ListenerGauges {
    listening: Gauge,
    /// Unix time at which the last heartbeat that came back was sent.
    last_heartbeat: Gauge,
    /// Commands that the backend's servers refuse and that it does without.
    refused_commands: Gauge,
}

impl ListenerStatus {
    pub(crate) fn new(metrics: &Metrics, listens: bool) -> Self {
        ListenerStatus {
            state: watch::Sender::new(ListenerState::Stopped),
            received: Counter::new(metrics, observe::ANNOUNCEMENTS_RECEIVED),
            unreadable: Counter::new(metrics, observe::ANNOUNCEMENTS_UNREADABLE),
            unreadable_log: Mutex::default(),
            cause: Mutex::default(),
            losses: Counter::new(metrics, observe::SUBSCRIPTION_LOSSES),
            subscriptions: Counter::new(metrics, observe::SUBSCRIPTIONS),
            gauges: listens.then(|| ListenerGauges {
                listening: metrics.gauge(observe::LISTENING),
                last_heartbeat: metrics.gauge(observe::LAST_HEARTBEAT),
                refused_commands: metrics.gauge(observe::BACKEND_REFUSED_COMMANDS),
            }),
        }
    }

    /// Enters a state and returns the previous one.
    pub(crate) fn enter(&self, state: ListenerState) -> ListenerState {
        self.report(state == ListenerState::Listening);
        self.state.send_replace(state)
    }

    /// Reports that the lease is held, or that it is not: heartbeats may stay away although the
    /// subscription lives.
    fn report(&self, is_held: bool) {
        if let Some(gauges) = &self.gauges {
            gauges.listening.set(|| f64::from(u8::from(is_held)));
        }
    }

    /// Returns why the node does not listen, as far as it is known.
    pub(crate) fn cause(&self) -> Option<StoreError> {
        self.lock_cause().clone()
    }

    /// Replaces the cause, and returns `true` if there was none before.
    fn set_cause(&self, cause: Option<StoreError>) -> bool {
        std::mem::replace(&mut *self.lock_cause(), cause).is_none()
    }

    fn lock_cause(&self) -> MutexGuard<'_, Option<StoreError>> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a heartbeat that came back. `wall` returns the time at which it was sent, by the
    /// clock of this machine: an alert compares it with the clock of the one that collects metrics.
    fn proven(&self, backend: &Client, wall: impl FnOnce() -> Timestamp) {
        if let Some(gauges) = &self.gauges {
            gauges.last_heartbeat.set(|| wall().as_millis() as f64 / 1000.0);
            gauges.refused_commands.set(|| backend.info().refused_commands() as f64);
        }
    }
}

/// The listener's task. When it ends (stopped, panicked, or with its runtime), the lease ends with
/// it.
pub(crate) struct Listener<T> {
    pub(crate) backend: Arc<Client>,
    pub(crate) cache: Arc<LocalCache<T>>,
    pub(crate) status: Arc<ListenerStatus>,
    /// Interval between heartbeats.
    pub(crate) heartbeat: Duration,
    /// The term of the lease, counted from the moment at which the last heartbeat that came back
    /// was sent.
    pub(crate) max_staleness: Duration,
    pub(crate) node_id: Arc<str>,
    pub(crate) clock: Clock,
}

impl<T: Send + Sync + 'static> Listener<T> {
    /// Subscribes, receives, and subscribes again whenever the subscription is lost. Runs until the
    /// task is dropped.
    pub(crate) async fn run(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.backend.subscribe(self.heartbeat).await {
                Ok(mut subscription) => {
                    if self.receive(&mut subscription).await {
                        pause = FIRST_PAUSE;
                    }
                    subscription.cause().cloned().unwrap_or_else(without_cause)
                }
                Err(error) => error,
            };
            self.lost(&error);
            tokio::time::sleep(self.clock.jitter(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Receives from one subscription until it ends. Returns `true` if a heartbeat came back at
    /// least once.
    async fn receive(&self, subscription: &mut Subscription) -> bool {
        let mut reception = Reception::default();
        let mut proven = false;
        // The end of the lease, while it is held.
        let mut held_until = None;
        loop {
            let next = subscription.next();
            let event = match held_until {
                Some(end) => timeout_at(end, next).await,
                None => Ok(next.await),
            };
            let event = match event {
                Ok(Some(event)) => event,
                Ok(None) => return proven,
                Err(_) => {
                    held_until = None;
                    self.status.report(false);
                    continue;
                }
            };
            match event {
                Event::Connected => {
                    reception.connected(self.cache.lease());
                    self.cache.watches().call_all();
                    self.status.subscriptions.add_one();
                }
                Event::Message(message) => {
                    self.status.received.add_one();
                    if reception.announced(&self.cache, &message).is_err() {
                        self.status.unreadable.add_one();
                        self.log_unreadable(&message);
                    }
                }
                Event::Alive(sent_at) => {
                    let sent_at = self.clock.at(sent_at);
                    if !reception.alive(self.cache.lease(), sent_at, self.max_staleness) {
                        continue;
                    }
                    self.status.proven(&self.backend, || self.clock.own_wall_at(sent_at));
                    self.status.report(true);
                    held_until = Some(Instant::now() + self.cache.lease().left(self.clock.now()));
                    self.cache.flush();
                    if !proven {
                        proven = true;
                        self.status.set_cause(None);
                        self.status.enter(ListenerState::Listening);
                        tracing::info!(node_id = %self.node_id, "listening to session announcements");
                    }
                }
            }
        }
    }

    /// Logs an announcement that cannot be read, unless one was logged a moment ago: anyone who may
    /// publish on the channel could fill the log.
    fn log_unreadable(&self, message: &[u8]) {
        let log = &self.status.unreadable_log;
        let mut limit = log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(suppressed) = limit.admit(self.clock.now()) {
            tracing::warn!(
                node_id = %self.node_id,
                length = message.len(),
                suppressed,
                "an announcement cannot be read: the session cache of this node is cleared"
            );
        }
    }

    /// Ends the epoch, and logs a warning once per loss, and once if the node cannot listen from
    /// the start. Further failed attempts are logged at `debug`.
    fn lost(&self, error: &StoreError) {
        if guards::enabled(Guard::EpochAtLoss) {
            self.cache.lease().bump();
        }
        self.cache.watches().call_all();
        let before = self.status.enter(ListenerState::Connecting);
        let is_first = self.status.set_cause(Some(error.clone()));
        let error = error as &dyn std::error::Error;
        if before == ListenerState::Listening {
            self.status.losses.add_one();
            tracing::warn!(
                node_id = %self.node_id,
                error,
                "no longer listening to session announcements: sessions are read from the backend until the subscription is restored"
            );
        } else if is_first {
            tracing::warn!(
                node_id = %self.node_id,
                error,
                "cannot listen to session announcements: sessions are read from the backend until the subscription succeeds"
            );
        } else {
            tracing::debug!(node_id = %self.node_id, error, "still not listening to session announcements");
        }
    }
}

/// Returns the error of a subscription whose backend has given no cause for its end.
fn without_cause() -> StoreError {
    StoreError::from(StoreErrorKind::Unavailable).with_source("the subscription has ended")
}

/// Ends the lease however the task ends, so that no cached session is served without a listener.
impl<T> Drop for Listener<T> {
    fn drop(&mut self) {
        self.cache.lease().bump();
        self.cache.watches().call_all();
        self.status.enter(ListenerState::Stopped);
    }
}
