//! What is done about a backend that fails: attempts are bounded in time and repeated, within the deadline of the operation that
//! they are for, and a backend that goes on failing is left alone for a while.
//!
//! | call | repeated | because |
//! |---|---|---|
//! | `load`, `scan`, `indexed` | yes | they change nothing |
//! | `update` | yes, with the same bytes and revision | who finds its own revision there has been saved |
//! | `delete`, `delete_if` | yes | nothing comes back that was deleted |
//! | `touch` | yes | it moves forward only |
//! | `index`, `unindex` | yes | what they do twice is done |
//! | `publish` | yes | an announcement that is made twice costs a cache miss |
//! | `create` | not here | carried out late, an attempt could bring back what was deleted since; the store repeats it under another id |
//! | `clear` | no | it says how many sessions there were, and a repetition would see only the rest |
//! | `ping` | no | who asks whether the backend answers wants to know about now |
//! | `subscribe` | not here | the listener goes on for ever |
//!
//! The breaker is asked before each attempt. It lets `ping` and `subscribe` through, which are how it is known that a backend is
//! well again, and is told when they succeed.

mod answer;
mod breaker;
mod circuit;
mod config;
mod deadline;
mod retry;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::timeout_at;
use tracing::Instrument as _;

use self::answer::{HasOutcome, outcome};
pub use self::breaker::CircuitState;
pub use self::circuit::Circuit;
use self::circuit::Permit;
pub use self::config::{CircuitBreakerConfig, RetryConfig};
pub(crate) use self::config::{ResilienceOptions, ResiliencePolicy};
pub(crate) use self::deadline::{Deadline, end_of_step};
pub(crate) use self::retry::Attempts;
use crate::backend::{
    Answer, Backend, Created, Cursor, Deleted, DynBackend, OwnerTag, Page, Subscription, Touched,
    Updated,
};
use crate::clock::Clock;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::observe::{self, Calls, Counter, Metrics, Operation};
use crate::record::{Revision, Stored};

/// A backend, bounded in time, asked again where that may help, and left alone while it does not.
///
/// It wraps what is behind a pointer already, so that an attempt costs one box and no more.
#[derive(Debug)]
pub(crate) struct Client {
    inner: Arc<dyn DynBackend>,
    policy: ResiliencePolicy,
    circuit: Circuit,
    clock: Clock,
    calls: Calls,
    retries: Counter,
}

/// What it means that a call was cut off: whether it may have changed something.
fn unanswered(operation: Operation, elapsed: Elapsed) -> StoreError {
    let kind = match operation {
        // An entry that is written twice is written once.
        Operation::Load
        | Operation::Scan
        | Operation::Index
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
            retries: Counter::new(metrics, observe::BACKEND_RETRIES),
        }
    }

    pub(crate) fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    /// When the operation under way must have ended, or one that begins now.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::current_or(self.policy.operation_timeout)
    }

    /// For a call that its caller repeats, in another form each time.
    pub(crate) fn attempts(&self) -> Attempts {
        Attempts::new(self.policy.retry)
    }

    /// An attempt has failed. Comes back when it is time for the next one; fails if there is to be none.
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
            "the session backend is asked again"
        );
        tokio::time::sleep(pause).await;
        self.retries.add_one();
        Ok(())
    }

    /// Makes a call, and retries it while that may help and the operation has time left. A call
    /// outside of any operation gets the deadline of one of its own.
    async fn call<'a, R>(
        &self,
        operation: Operation,
        call: impl Fn() -> Answer<'a, R> + Send + Sync,
    ) -> Result<(R, Attempts), StoreError>
    where
        R: HasOutcome + Send,
    {
        let deadline = self.deadline();
        let mut attempts = self.attempts();
        loop {
            match self.attempt(operation, deadline, &call).await {
                Ok(answer) => return Ok((answer, attempts)),
                Err(error) => self.pause_within(deadline, &mut attempts, error).await?,
            }
        }
    }

    /// Makes a call once, if there is time for it and it is not refused.
    async fn attempt<'a, R: HasOutcome>(
        &self,
        operation: Operation,
        deadline: Deadline,
        call: impl FnOnce() -> Answer<'a, R> + Send,
    ) -> Result<R, StoreError> {
        if deadline.left().is_zero() {
            return Err(
                StoreError::from(StoreErrorKind::Timeout).with_source("no time was left for it")
            );
        }
        let permit = self.admit(operation)?;
        let watched = self.calls.begin(operation);
        let call = call().instrument(watched.span());
        let answer = timeout_at(deadline.of_step(self.policy.attempt_timeout), call).await;
        let answer = answer.unwrap_or_else(|elapsed| Err(unanswered(operation, elapsed)));
        watched.end(outcome(&answer));
        permit.settle(&answer);
        answer
    }

    fn admit(&self, operation: Operation) -> Result<Permit<'_>, StoreError> {
        self.circuit.admit().inspect_err(|_| self.calls.refused(operation))
    }
}

impl Backend for Client {
    async fn load(&self, id: &SessionId) -> Result<Option<Stored>, StoreError> {
        Ok(self.call(Operation::Load, || self.inner.load(id)).await?.0)
    }

    async fn create(
        &self,
        id: &SessionId,
        stored: &Stored,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        let create = || self.inner.create(id, stored, ttl);
        self.attempt(Operation::Create, self.deadline(), create).await
    }

    async fn update(
        &self,
        id: &SessionId,
        expected: Revision,
        stored: &Stored,
        ttl: Duration,
        announcement: &[u8],
    ) -> Result<Updated, StoreError> {
        let update = || self.inner.update(id, expected, stored, ttl, announcement);
        let (answer, attempts) = self.call(Operation::Update, update).await?;
        attempts.updated(answer).map_err(|error| error.with_session_id(id))
    }

    async fn delete(&self, id: &SessionId, announcement: &[u8]) -> Result<Deleted, StoreError> {
        let (answer, attempts) =
            self.call(Operation::Delete, || self.inner.delete(id, announcement)).await?;
        Ok(attempts.deleted(answer))
    }

    async fn delete_if(
        &self,
        id: &SessionId,
        revision: Revision,
        announcement: &[u8],
    ) -> Result<Deleted, StoreError> {
        let delete = || self.inner.delete_if(id, revision, announcement);
        let (answer, attempts) = self.call(Operation::Delete, delete).await?;
        Ok(attempts.deleted(answer))
    }

    async fn touch(
        &self,
        id: &SessionId,
        deadline: u64,
        ttl: Duration,
    ) -> Result<Touched, StoreError> {
        Ok(self.call(Operation::Touch, || self.inner.touch(id, deadline, ttl)).await?.0)
    }

    /// Takes as long as there are sessions, in steps that the backend bounds.
    async fn clear(&self, announcement: &[u8]) -> Result<u64, StoreError> {
        // Given back at once: as a probe, it would keep the circuit half-open for as long as it takes.
        drop(self.admit(Operation::Clear)?);
        let watched = self.calls.begin(Operation::Clear);
        let answer = self.inner.clear(announcement).instrument(watched.span()).await;
        watched.end(outcome(&answer));
        answer
    }

    async fn scan(&self, cursor: Option<&Cursor>) -> Result<Page, StoreError> {
        Ok(self.call(Operation::Scan, || self.inner.scan(cursor)).await?.0)
    }

    async fn index(&self, owner: &OwnerTag, id: &SessionId, until: u64) -> Result<(), StoreError> {
        let ((), _) = self.call(Operation::Index, || self.inner.index(owner, id, until)).await?;
        Ok(())
    }

    async fn unindex(&self, owner: &OwnerTag, id: &SessionId) -> Result<(), StoreError> {
        let ((), _) = self.call(Operation::Unindex, || self.inner.unindex(owner, id)).await?;
        Ok(())
    }

    async fn indexed(&self, owner: &OwnerTag, cursor: Option<&Cursor>) -> Result<Page, StoreError> {
        Ok(self.call(Operation::Indexed, || self.inner.indexed(owner, cursor)).await?.0)
    }

    async fn publish(&self, announcement: &[u8]) -> Result<(), StoreError> {
        let ((), _) = self.call(Operation::Publish, || self.inner.publish(announcement)).await?;
        Ok(())
    }

    async fn subscribe(&self, heartbeat: Duration) -> Result<Subscription, StoreError> {
        let subscription = self.inner.subscribe(heartbeat).await?;
        self.circuit.heard();
        Ok(subscription)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let end = self.deadline().of_step(self.policy.attempt_timeout);
        let watched = self.calls.begin(Operation::Ping);
        let answer = timeout_at(end, self.inner.ping().instrument(watched.span())).await;
        let answer = answer.unwrap_or_else(|elapsed| Err(unanswered(Operation::Ping, elapsed)));
        watched.end(outcome(&answer));
        answer?;
        self.circuit.heard();
        Ok(())
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
