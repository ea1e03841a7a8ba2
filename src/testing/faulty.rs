//! A backend that fails as networks and servers do, for testing what is built on one.

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::backend::{
    Backend, Created, Cursor, Deleted, Event, OwnerTag, Page, Subscription, SubscriptionSender,
    Touched, Updated,
};
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::record::{Revision, Stored};

/// A backend that delays, fails and forgets to answer, as its [`Faults`] say.
///
/// It keeps the promises of [`Backend`]: what it yields is late or cut off, but never out of order, and a write that it reports
/// as failed was not carried out, unless it says that the outcome is unknown.
///
/// ```
/// # use clustered_sessions::{MemoryBackend, Secret, SessionConfig, SessionStore, StoreErrorKind};
/// # use clustered_sessions::testing::FaultyBackend;
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (backend, faults) = FaultyBackend::new(MemoryBackend::new(), 42);
/// let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("tests")).backend(backend).build()?;
/// let store = SessionStore::new(config);
///
/// faults.fail_calls(1.0);
/// assert_eq!(store.create(UserSession).await.unwrap_err().kind(), StoreErrorKind::Unavailable);
/// faults.heal();
/// assert!(store.create(UserSession).await.is_ok());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct FaultyBackend<B> {
    inner: B,
    faults: Faults,
}

/// What is wrong with a [`FaultyBackend`]. Nothing, at first.
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

/// How the subscriptions fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    /// Subscriptions made under an earlier number have ended.
    number: u64,
    /// How often they have lost what was announced for a while, and subscribed anew by themselves.
    blinks: u64,
    stalled: bool,
    refused: bool,
}

impl<B: Backend> FaultyBackend<B> {
    /// The backend and the handle to its faults. What happens by chance follows from the seed.
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
        (FaultyBackend { inner, faults: faults.clone() }, faults)
    }

    /// One call with what may go wrong before and after it.
    async fn call<R>(
        &self,
        effect: CallEffect,
        call: impl Future<Output = Result<R, StoreError>> + Send,
    ) -> Result<R, StoreError> {
        self.faults.pause(|state| &state.calls).await;
        if self.faults.chance(|state| state.fail) {
            return Err(StoreErrorKind::Unavailable.into());
        }
        let answer = call.await;
        self.faults.pause(|state| &state.calls).await;
        if self.faults.chance(|state| state.lose_answer) {
            return Err(effect.unanswered().into());
        }
        answer
    }
}

#[derive(Clone, Copy)]
enum CallEffect {
    Idempotent,
    Mutating,
}

impl CallEffect {
    fn unanswered(self) -> StoreErrorKind {
        match self {
            CallEffect::Idempotent => StoreErrorKind::Timeout,
            CallEffect::Mutating => StoreErrorKind::OutcomeUnknown,
        }
    }
}

impl Faults {
    /// Each call takes a time from this range, half of it before it reaches the backend; each event of a subscription is late by
    /// half a time from it, too.
    pub fn delay_by(&self, range: Range<Duration>) {
        let mut state = self.lock();
        (state.calls, state.events) = (range.clone(), range);
    }

    /// As [`delay_by`](Faults::delay_by), but events come at once.
    pub fn delay_calls_by(&self, range: Range<Duration>) {
        self.lock().calls = range;
    }

    /// The share of calls that fail before they reach the backend.
    pub fn fail_calls(&self, share: f64) {
        self.lock().fail = share;
    }

    /// The share of calls that reach the backend but whose answer does not come back.
    pub fn lose_answers(&self, share: f64) {
        self.lock().lose_answer = share;
    }

    /// The share of events that subscriptions yield twice.
    pub fn repeat_events(&self, share: f64) {
        self.lock().repeat = share;
    }

    /// Ends all subscriptions. New ones can be made.
    pub fn cut_subscriptions(&self) {
        self.link.send_modify(|link| link.number += 1);
    }

    /// Subscriptions lose what is announced in the next tenth of a second, and are confirmed anew after it.
    pub fn drop_announcements_briefly(&self) {
        self.link.send_modify(|link| link.blinks += 1);
    }

    /// Subscriptions yield nothing any more, and do not end either.
    pub fn stall_subscriptions(&self) {
        self.link.send_modify(|link| link.stalled = true);
    }

    /// No new subscriptions can be made.
    pub fn refuse_subscriptions(&self) {
        self.link.send_modify(|link| link.refused = true);
    }

    /// Nothing is wrong any more. Subscriptions that were stalled yield what they held back.
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

    async fn pause(&self, range: impl FnOnce(&FaultState) -> &Range<Duration>) {
        let pause = {
            let mut state = self.lock();
            let range = range(&state).clone();
            range.start / 2
                + (range.end.saturating_sub(range.start) / 2).mul_f64(state.random.share())
        };
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, FaultState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes events on, late, until the link is cut.
    async fn relay(self, mut from: Subscription, mut to: SubscriptionSender) {
        let mut link = self.link.subscribe();
        let Link { number, mut blinks, .. } = *link.borrow_and_update();
        loop {
            let event = tokio::select! {
                biased;
                _ = link.wait_for(|link| link.number != number || link.blinks != blinks) => None,
                () = to.closed() => return,
                event = from.next() => event,
            };
            let event = match event {
                Some(event) => event,
                None if link.borrow().number == number && link.borrow().blinks != blinks => {
                    blinks = link.borrow().blinks;
                    deaf(&mut from).await;
                    Event::Connected
                }
                None => return,
            };
            self.pause(|state| &state.events).await;
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

/// Hears nothing for a while.
async fn deaf(from: &mut Subscription) {
    let end = tokio::time::Instant::now() + Duration::from_millis(100);
    while let Ok(Some(_)) = tokio::time::timeout_at(end, from.next()).await {}
}

impl<B: Backend> Backend for FaultyBackend<B> {
    async fn load(&self, id: &SessionId) -> Result<Option<Stored>, StoreError> {
        self.call(CallEffect::Idempotent, self.inner.load(id)).await
    }

    async fn create(
        &self,
        id: &SessionId,
        stored: &Stored,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        self.call(CallEffect::Mutating, self.inner.create(id, stored, ttl)).await
    }

    async fn update(
        &self,
        id: &SessionId,
        expected: Revision,
        stored: &Stored,
        ttl: Duration,
        announcement: &[u8],
    ) -> Result<Updated, StoreError> {
        self.call(CallEffect::Mutating, self.inner.update(id, expected, stored, ttl, announcement))
            .await
    }

    async fn delete(&self, id: &SessionId, announcement: &[u8]) -> Result<Deleted, StoreError> {
        self.call(CallEffect::Mutating, self.inner.delete(id, announcement)).await
    }

    async fn delete_if(
        &self,
        id: &SessionId,
        revision: Revision,
        announcement: &[u8],
    ) -> Result<Deleted, StoreError> {
        self.call(CallEffect::Mutating, self.inner.delete_if(id, revision, announcement)).await
    }

    async fn touch(
        &self,
        id: &SessionId,
        deadline: u64,
        ttl: Duration,
    ) -> Result<Touched, StoreError> {
        self.call(CallEffect::Mutating, self.inner.touch(id, deadline, ttl)).await
    }

    async fn clear(&self, announcement: &[u8]) -> Result<u64, StoreError> {
        self.call(CallEffect::Mutating, self.inner.clear(announcement)).await
    }

    async fn scan(&self, cursor: Option<&Cursor>) -> Result<Page, StoreError> {
        self.call(CallEffect::Idempotent, self.inner.scan(cursor)).await
    }

    async fn index(&self, owner: &OwnerTag, id: &SessionId, until: u64) -> Result<(), StoreError> {
        self.call(CallEffect::Idempotent, self.inner.index(owner, id, until)).await
    }

    async fn unindex(&self, owner: &OwnerTag, id: &SessionId) -> Result<(), StoreError> {
        self.call(CallEffect::Idempotent, self.inner.unindex(owner, id)).await
    }

    async fn indexed(&self, owner: &OwnerTag, cursor: Option<&Cursor>) -> Result<Page, StoreError> {
        self.call(CallEffect::Idempotent, self.inner.indexed(owner, cursor)).await
    }

    async fn publish(&self, announcement: &[u8]) -> Result<(), StoreError> {
        self.call(CallEffect::Idempotent, self.inner.publish(announcement)).await
    }

    async fn subscribe(&self, heartbeat: Duration) -> Result<Subscription, StoreError> {
        if self.faults.link.borrow().refused {
            return Err(StoreErrorKind::Unavailable.into());
        }
        let inner = self.call(CallEffect::Idempotent, self.inner.subscribe(heartbeat)).await?;
        let (sender, subscription) = Subscription::channel();
        tokio::spawn(self.faults.clone().relay(inner, sender));
        Ok(subscription)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.call(CallEffect::Idempotent, self.inner.ping()).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): small, and good enough for faults.
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

    /// 0 to 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.share() < share
    }
}
