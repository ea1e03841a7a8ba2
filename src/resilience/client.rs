//! The client through which the store, the coordinator and the listener call the backend.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::error::Elapsed;
use tracing::Instrument as _;

use super::answer::{HasOutcome, outcome};
use super::circuit::{Circuit, Permit};
use super::config::ResiliencePolicy;
use super::deadline::Deadline;
use super::failures::Failures;
use super::retry::{Attempts, Removal};
use crate::backend::{
    Answer, BackendInfo, Created, Cursor, Deleted, DynBackend, Extension, OwnerTag, Page,
    Subscription, Timestamp, Touched, Update, Updated,
};
use crate::clock::Clock;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::observe::{self, Calls, Counter, Metrics, Operation};
use crate::record::{Revision, Stored};
use crate::timeout::timeout_at;

/// Longest pause of a load that waits until fewer loads are in flight.
const OVERLOAD_PAUSE: Duration = Duration::from_millis(50);

/// The backend with deadlines, retries and the circuit breaker around each call.
///
/// It is not a [`Backend`](crate::backend::Backend) itself: a backend has no deadline, no attempts
/// and no circuit, and a client that implemented the trait would be boxed a second time for each
/// call. An attempt costs one box, that of [`DynBackend`].
#[derive(Debug)]
pub(crate) struct Client {
    inner: Arc<dyn DynBackend>,
    policy: ResiliencePolicy,
    circuit: Circuit,
    clock: Clock,
    calls: Calls,
    retries: Counter,
    failures: Failures,
}

/// The error of a call that was cut off. Its kind depends on whether the call may have changed
/// something.
fn unanswered(operation: Operation, elapsed: Elapsed) -> StoreError {
    let kind = match operation {
        // The calls that change the owner index are idempotent, so their outcome is never in doubt.
        Operation::Load
        | Operation::Scan
        | Operation::Index
        | Operation::ExpireEntry
        | Operation::Unindex
        | Operation::Indexed
        | Operation::Publish
        | Operation::Ping => StoreErrorKind::Timeout,
        Operation::Create
        | Operation::Update
        | Operation::Delete
        | Operation::Touch
        | Operation::Clear => StoreErrorKind::OutcomeUnknown,
    };
    StoreError::from(kind).with_source(elapsed)
}

impl Client {
    pub(crate) fn new(
        inner: Arc<dyn DynBackend>,
        policy: ResiliencePolicy,
        clock: Clock,
        metrics: &Metrics,
    ) -> Self {
        Client {
            inner,
            policy,
            circuit: Circuit::new(policy.breaker, metrics),
            clock,
            calls: Calls::new(metrics),
            failures: Failures::new(),
            retries: Counter::new(metrics, observe::BACKEND_RETRIES),
        }
    }

    pub(crate) fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    /// Returns the deadline of the operation under way or, if there is none, of one that begins
    /// now.
    pub(crate) fn deadline(&self) -> Deadline {
        self.deadline_after(Instant::now())
    }

    /// Like [`deadline`](Self::deadline), for a caller that has just read the clock.
    fn deadline_after(&self, now: Instant) -> Deadline {
        Deadline::current_or_after(now, self.policy.operation_timeout)
    }

    /// Returns the deadline of an operation that begins now, whatever other operation begins it.
    pub(crate) fn separate_deadline(&self) -> Deadline {
        Deadline::after(self.policy.operation_timeout)
    }

    /// Starts to count attempts for a caller that retries by itself, because it changes the call
    /// each time.
    pub(crate) fn attempts(&self) -> Attempts {
        Attempts::new(self.policy.retry)
    }

    /// Waits between a failed attempt and the next one.
    ///
    /// # Errors
    ///
    /// The error to report if there must not be another attempt.
    pub(crate) async fn pause_after(
        &self,
        attempts: &mut Attempts,
        error: StoreError,
    ) -> Result<(), StoreError> {
        self.pause_within(self.deadline(), attempts, error).await
    }

    /// Like [`pause_after`](Self::pause_after), for a caller that has read the deadline already.
    async fn pause_within(
        &self,
        deadline: Deadline,
        attempts: &mut Attempts,
        error: StoreError,
    ) -> Result<(), StoreError> {
        let failure = error.clone();
        let pause = self.clock.jitter(attempts.failed(error, deadline.left())?);
        tracing::debug!(
            error = &failure as &dyn std::error::Error,
            ?pause,
            "retrying a call to the session backend"
        );
        tokio::time::sleep(pause).await;
        self.retries.add_one();
        Ok(())
    }

    /// Makes a call, and retries it while that may help and the operation has time left. A call
    /// outside of any operation gets a deadline of its own.
    async fn call<'a, R>(
        &self,
        operation: Operation,
        call: impl Fn() -> Answer<'a, R> + Send + Sync,
    ) -> Result<(R, Attempts), StoreError>
    where
        R: HasOutcome + Send,
    {
        // Read once for all that begins here: a reading costs as much as a look-up in the cache.
        let mut now = Instant::now();
        let deadline = self.deadline_after(now);
        let mut attempts = self.attempts();
        loop {
            match self.attempt(operation, deadline, now, &call).await {
                Ok(answer) => return Ok((answer, attempts)),
                Err(error) => self.pause_within(deadline, &mut attempts, error).await?,
            }
            now = Instant::now();
        }
    }

    /// Makes a call once, beginning at `now`, unless no time is left or the circuit is open.
    async fn attempt<'a, R: HasOutcome>(
        &self,
        operation: Operation,
        deadline: Deadline,
        now: Instant,
        call: impl FnOnce() -> Answer<'a, R> + Send,
    ) -> Result<R, StoreError> {
        let end = deadline.of_step(now, self.policy.attempt_timeout);
        if end <= now {
            return Err(StoreError::from(StoreErrorKind::Timeout)
                .with_source("the operation had no time left for this call"));
        }
        let permit = self.admit(operation, now)?;
        let watched = self.calls.begin(operation, now);
        let call = call().instrument(watched.span());
        let answer = timeout_at(end, call).await;
        let answer = answer.unwrap_or_else(|elapsed| Err(unanswered(operation, elapsed)));
        watched.end(outcome(&answer));
        self.failures.note(operation, &answer, &self.clock);
        permit.settle(&answer);
        answer
    }

    fn admit(&self, operation: Operation, now: Instant) -> Result<Permit<'_>, StoreError> {
        self.circuit.admit(now).inspect_err(|_| self.calls.refused(operation))
    }

    pub(crate) async fn load(&self, id: &SessionId) -> Result<Option<Stored>, StoreError> {
        Ok(self.call(Operation::Load, || self.inner.load(id)).await?.0)
    }

    /// Like [`load`](Self::load), but waits while too many loads are in flight: for operations on
    /// many sessions, which must not fail because users load theirs.
    pub(crate) async fn load_with_patience(
        &self,
        id: &SessionId,
    ) -> Result<Option<Stored>, StoreError> {
        loop {
            match self.load(id).await {
                Err(error)
                    if error.kind() == StoreErrorKind::Overloaded
                        && self.deadline().left() > OVERLOAD_PAUSE =>
                {
                    tokio::time::sleep(self.clock.jitter(OVERLOAD_PAUSE)).await;
                }
                answer => return answer,
            }
        }
    }

    pub(crate) async fn create(
        &self,
        id: &SessionId,
        stored: &Stored,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        let create = || self.inner.create(id, stored, ttl);
        let now = Instant::now();
        let deadline = self.deadline_after(now);
        self.attempt(Operation::Create, deadline, now, create).await
    }

    pub(crate) async fn update(&self, update: Update<'_>) -> Result<Updated, StoreError> {
        let call = || self.inner.update(update);
        let (answer, attempts) = self.call(Operation::Update, call).await?;
        attempts.updated(answer).map_err(|error| error.with_session_id(update.id))
    }

    pub(crate) async fn delete(
        &self,
        id: &SessionId,
        announcement: &[u8],
    ) -> Result<Removal, StoreError> {
        let (answer, attempts) =
            self.call(Operation::Delete, || self.inner.delete(id, announcement)).await?;
        Ok(attempts.deleted(answer))
    }

    pub(crate) async fn delete_if(
        &self,
        id: &SessionId,
        revision: Revision,
        announcement: &[u8],
    ) -> Result<Deleted, StoreError> {
        let delete = || self.inner.delete_if(id, revision, announcement);
        let (answer, attempts) = self.call(Operation::Delete, delete).await?;
        Ok(attempts.deleted(answer).presumed())
    }

    pub(crate) async fn touch(
        &self,
        id: &SessionId,
        extension: Extension,
    ) -> Result<Touched, StoreError> {
        Ok(self.call(Operation::Touch, || self.inner.touch(id, extension)).await?.0)
    }

    /// Runs without a time limit: it takes time in proportion to the number of sessions, in steps
    /// that the backend bounds.
    pub(crate) async fn clear(&self, announcement: &[u8]) -> Result<u64, StoreError> {
        // The permit is returned at once: as a probe, a long `clear` would keep the circuit
        // half-open.
        let now = Instant::now();
        drop(self.admit(Operation::Clear, now)?);
        let watched = self.calls.begin(Operation::Clear, now);
        let answer = self.inner.clear(announcement).instrument(watched.span()).await;
        watched.end(outcome(&answer));
        self.failures.note(Operation::Clear, &answer, &self.clock);
        answer
    }

    pub(crate) async fn scan(&self, cursor: Option<&Cursor>) -> Result<Page, StoreError> {
        Ok(self.call(Operation::Scan, || self.inner.scan(cursor)).await?.0)
    }

    pub(crate) async fn add_to_owner(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        let ((), _) =
            self.call(Operation::Index, || self.inner.add_to_owner(owner, id, until)).await?;
        Ok(())
    }

    pub(crate) async fn remove_from_owner(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
    ) -> Result<(), StoreError> {
        let ((), _) =
            self.call(Operation::Unindex, || self.inner.remove_from_owner(owner, id)).await?;
        Ok(())
    }

    pub(crate) async fn expire_in_owner(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let expire = || self.inner.expire_in_owner(owner, id, ttl);
        let ((), _) = self.call(Operation::ExpireEntry, expire).await?;
        Ok(())
    }

    pub(crate) async fn sessions_of_owner(
        &self,
        owner: &OwnerTag,
        cursor: Option<&Cursor>,
    ) -> Result<Page, StoreError> {
        Ok(self.call(Operation::Indexed, || self.inner.sessions_of_owner(owner, cursor)).await?.0)
    }

    pub(crate) async fn publish(&self, announcement: &[u8]) -> Result<(), StoreError> {
        let ((), _) = self.call(Operation::Publish, || self.inner.publish(announcement)).await?;
        Ok(())
    }

    pub(crate) async fn subscribe(&self, heartbeat: Duration) -> Result<Subscription, StoreError> {
        let subscription = self.inner.subscribe(heartbeat).await?;
        self.circuit.seen_alive();
        Ok(subscription)
    }

    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        let now = Instant::now();
        let deadline = self.deadline_after(now);
        let end = deadline.of_step(now, self.policy.attempt_timeout);
        let watched = self.calls.begin(Operation::Ping, now);
        let answer = timeout_at(end, self.inner.ping().instrument(watched.span())).await;
        let answer = answer.unwrap_or_else(|elapsed| Err(unanswered(Operation::Ping, elapsed)));
        watched.end(outcome(&answer));
        self.failures.note(Operation::Ping, &answer, &self.clock);
        answer?;
        self.circuit.seen_alive();
        Ok(())
    }

    pub(crate) async fn close(&self) {
        self.inner.close().await;
    }

    pub(crate) fn may_lose_index_entries(&self) -> bool {
        self.inner.may_lose_index_entries()
    }

    pub(crate) fn info(&self) -> BackendInfo {
        self.inner.info()
    }
}
