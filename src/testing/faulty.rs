//! A backend with the faults of networks and servers, for tests of code that uses one.

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::interposed::{BackendMethod, Interposed, Interposer};
use crate::backend::{Backend, Event, Subscription, SubscriptionSender};
use crate::error::{StoreError, StoreErrorKind};

/// A backend that delays calls, fails them and loses answers, as its [`Faults`] say.
///
/// It keeps the contract of [`Backend`]: events may be late or end early, but never come out of
/// order, and a write that fails was not carried out unless the error is
/// [`OutcomeUnknown`](StoreErrorKind::OutcomeUnknown).
///
/// ```
/// # use clustered_sessions::{MemoryBackend, Secret, SessionConfig, SessionStore, StoreErrorKind};
/// # use clustered_sessions::testing::FaultyBackend;
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (backend, faults) = FaultyBackend::new(MemoryBackend::new(), 42);
/// let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("tests"))
///     .backend(backend)
///     .build()?;
/// let store = SessionStore::new(config);
///
/// faults.fail_calls(1.0);
/// assert_eq!(store.create(UserSession).await.unwrap_err().kind(), StoreErrorKind::Unavailable);
/// faults.heal();
/// assert!(store.create(UserSession).await.is_ok());
/// # Ok(()) }
/// ```
pub type FaultyBackend<B> = Interposed<B, Faults>;

/// The faults of a [`FaultyBackend`], which has none at first. All clones control the same backend.
#[derive(Clone, Debug)]
pub struct Faults {
    state: Arc<Mutex<FaultState>>,
    link: watch::Sender<Link>,
}

#[derive(Debug)]
struct FaultState {
    random: Random,
    calls: Range<Duration>,
    events: Range<Duration>,
    fail: f64,
    lose_answer: f64,
    repeat: f64,
}

/// The state of all subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    /// Subscriptions made under an earlier number have ended.
    number: u64,
    /// Number of times that the subscriptions lost announcements for a while and were then
    /// confirmed again.
    blinks: u64,
    stalled: bool,
    refused: bool,
}

impl<B: Backend> Interposed<B, Faults> {
    /// Creates a backend and the handle to its faults. The seed determines all random choices.
    pub fn new(inner: B, seed: u64) -> (Self, Faults) {
        let random = Random(seed);
        let at_once = Duration::ZERO..Duration::ZERO;
        let state = FaultState {
            random,
            calls: at_once.clone(),
            events: at_once,
            fail: 0.0,
            lose_answer: 0.0,
            repeat: 0.0,
        };
        let link =
            watch::Sender::new(Link { number: 0, blinks: 0, stalled: false, refused: false });
        let faults = Faults { state: Arc::new(Mutex::new(state)), link };
        (Interposed::with_interposer(inner, faults.clone()), faults)
    }
}

impl Faults {
    /// Delays each call by a time from this range, half of it before the call reaches the backend,
    /// and each event of a subscription by half of a time from this range.
    pub fn delay_by(&self, range: Range<Duration>) {
        let mut state = self.lock();
        (state.calls, state.events) = (range.clone(), range);
    }

    /// Delays calls like [`delay_by`](Faults::delay_by), but no events.
    pub fn delay_calls_by(&self, range: Range<Duration>) {
        self.lock().calls = range;
    }

    /// Sets the share of calls, 0 to 1, that fail before they reach the backend.
    pub fn fail_calls(&self, share: f64) {
        self.lock().fail = share;
    }

    /// Sets the share of calls, 0 to 1, that reach the backend but whose answer is lost.
    pub fn lose_answers(&self, share: f64) {
        self.lock().lose_answer = share;
    }

    /// Sets the share of events, 0 to 1, that subscriptions yield twice.
    pub fn repeat_events(&self, share: f64) {
        self.lock().repeat = share;
    }

    /// Ends all subscriptions. New ones can be made at once.
    pub fn cut_subscriptions(&self) {
        self.link.send_modify(|link| link.number += 1);
    }

    /// Drops all announcements of the next 100 ms; then the subscriptions yield
    /// [`Event::Connected`] again.
    pub fn drop_announcements_briefly(&self) {
        self.link.send_modify(|link| link.blinks += 1);
    }

    /// Stops all events without ending the subscriptions.
    pub fn stall_subscriptions(&self) {
        self.link.send_modify(|link| link.stalled = true);
    }

    /// Makes all new subscriptions fail.
    pub fn refuse_subscriptions(&self) {
        self.link.send_modify(|link| link.refused = true);
    }

    /// Ends all faults. Stalled subscriptions yield the events that they held back.
    pub fn heal(&self) {
        let mut state = self.lock();
        (state.fail, state.lose_answer, state.repeat) = (0.0, 0.0, 0.0);
        drop(state);
        self.delay_by(Duration::ZERO..Duration::ZERO);
        self.link.send_modify(|link| (link.stalled, link.refused) = (false, false));
    }

    fn chance(&self, share: impl FnOnce(&FaultState) -> f64) -> bool {
        let mut state = self.lock();
        let share = share(&state);
        state.random.chance(share)
    }

    /// Returns the moment after half of a time from a range, or `None` if that is no time.
    fn due(&self, range: impl FnOnce(&FaultState) -> &Range<Duration>) -> Option<Instant> {
        let mut state = self.lock();
        let range = range(&state).clone();
        let pause = range.start / 2
            + (range.end.saturating_sub(range.start) / 2).mul_f64(state.random.share());
        (!pause.is_zero()).then(|| Instant::now() + pause)
    }

    async fn pause(&self) {
        if let Some(due) = self.due(|state| &state.calls) {
            tokio::time::sleep_until(due).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, FaultState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Receives events and decides when each is due, so that they do not delay each other.
    async fn receive(self, mut from: Subscription, to: mpsc::UnboundedSender<Delayed>) {
        loop {
            let event = tokio::select! {
                biased;
                () = to.closed() => return,
                event = from.next() => event,
            };
            let Some(event) = event else { return };
            let due = self.due(|state| &state.events);
            if to.send(Delayed { event, due }).is_err() {
                return;
            }
        }
    }

    /// Forwards events when they are due until the subscriptions are cut.
    async fn relay(self, mut from: mpsc::UnboundedReceiver<Delayed>, mut to: SubscriptionSender) {
        let mut link = self.link.subscribe();
        let Link { number, mut blinks, .. } = *link.borrow_and_update();
        loop {
            let next = tokio::select! {
                biased;
                _ = link.wait_for(|link| link.number != number || link.blinks != blinks) => None,
                () = to.closed() => return,
                next = from.recv() => next,
            };
            let Delayed { event, due } = match next {
                Some(delayed) => delayed,
                None if link.borrow().number == number && link.borrow().blinks != blinks => {
                    blinks = link.borrow().blinks;
                    discard(&mut from).await;
                    let due = self.due(|state| &state.events);
                    Delayed { event: Event::Connected, due }
                }
                None => return,
            };
            if let Some(due) = due.filter(|due| *due > Instant::now()) {
                tokio::time::sleep_until(due).await;
            }
            let open = link.wait_for(|link| !link.stalled || link.number != number).await;
            if open.is_ok_and(|link| link.number != number) {
                return;
            }
            if self.chance(|state| state.repeat) && !to.send(event.clone()) || !to.send(event) {
                return;
            }
        }
    }
}

/// An event and the moment at which it is due, or `None` if it is not delayed.
struct Delayed {
    event: Event,
    due: Option<Instant>,
}

/// Discards all events of the next 100 ms.
async fn discard(from: &mut mpsc::UnboundedReceiver<Delayed>) {
    let end = Instant::now() + Duration::from_millis(100);
    while let Ok(Some(_)) = tokio::time::timeout_at(end, from.recv()).await {}
}

impl Interposer for Faults {
    async fn around<R: Send + 'static>(
        &self,
        method: BackendMethod,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        if method == BackendMethod::Subscribe && self.link.borrow().refused {
            return Err(StoreErrorKind::Unavailable.into());
        }
        self.pause().await;
        if self.chance(|state| state.fail) {
            return Err(StoreErrorKind::Unavailable.into());
        }
        let answer = call.await;
        self.pause().await;
        if self.chance(|state| state.lose_answer) {
            return Err(unanswered(method).into());
        }
        answer
    }

    fn subscribed(&self, subscription: Subscription) -> Subscription {
        let (sender, relayed) = Subscription::channel();
        let (delay, delayed) = mpsc::unbounded_channel();
        tokio::spawn(self.clone().receive(subscription, delay));
        tokio::spawn(self.clone().relay(delayed, sender));
        relayed
    }
}

/// Returns the error of a call whose answer is lost: only a call that changes a record is in doubt.
fn unanswered(method: BackendMethod) -> StoreErrorKind {
    match method {
        BackendMethod::Create
        | BackendMethod::Update
        | BackendMethod::Delete
        | BackendMethod::DeleteIf
        | BackendMethod::Touch
        | BackendMethod::Clear => StoreErrorKind::OutcomeUnknown,
        BackendMethod::Load
        | BackendMethod::Scan
        | BackendMethod::Publish
        | BackendMethod::Subscribe
        | BackendMethod::Ping
        | BackendMethod::AddToOwner
        | BackendMethod::ExpireInOwner
        | BackendMethod::RemoveFromOwner
        | BackendMethod::SessionsOfOwner => StoreErrorKind::Timeout,
    }
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), which is small and good enough for faults.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number from 0 to 1, uniformly distributed.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.share() < share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;

    const HEARTBEAT: Duration = Duration::from_millis(20);

    #[tokio::test(start_paused = true)]
    async fn each_event_is_delayed_by_itself_and_not_by_those_before_it() {
        let (backend, faults) = FaultyBackend::new(MemoryBackend::new(), 1);
        let mut subscription = backend.subscribe(HEARTBEAT).await.unwrap();
        for _ in ["`Connected`", "the first proof"] {
            assert!(subscription.next().await.is_some());
        }
        let delay = HEARTBEAT * 5;
        faults.delay_by(delay * 2..delay * 2);
        for _ in 0..100 {
            let event = subscription.next().await;
            let Some(Event::Alive(sent_at)) = event else { panic!("{event:?}") };
            let age = Instant::now().into_std() - sent_at;
            assert!(delay <= age && age < delay + HEARTBEAT, "{age:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn events_with_different_delays_keep_their_order() {
        let (backend, faults) = FaultyBackend::new(MemoryBackend::new(), 1);
        faults.delay_by(Duration::ZERO..HEARTBEAT * 10);
        let mut subscription = backend.subscribe(HEARTBEAT).await.unwrap();
        let mut last = None;
        for _ in 0..100 {
            if let Some(Event::Alive(sent_at)) = subscription.next().await {
                assert!(last < Some(sent_at));
                last = Some(sent_at);
            }
        }
        assert!(last.is_some());
    }
}
