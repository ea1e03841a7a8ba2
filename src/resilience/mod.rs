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

mod breaker;
mod circuit;
mod deadline;
mod retry;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::timeout_at;

pub use self::breaker::CircuitState;
pub use self::circuit::Circuit;
pub(crate) use self::deadline::{Deadline, end_of_step};
pub(crate) use self::retry::Attempts;
use crate::backend::{
    Answer, Backend, Created, Cursor, Deleted, DynBackend, OwnerTag, Page, Revision, Stored, Subscription, Touched,
    Updated,
};
use crate::clock::Clock;
use crate::config::Resilience;
use crate::id::SessionId;
use crate::store::{StoreError, StoreErrorKind};

/// A backend, bounded in time, asked again where that may help, and left alone while it does not.
///
/// It wraps what is behind a pointer already, so that an attempt costs one box and no more.
#[derive(Debug)]
pub(crate) struct Resilient {
    inner: Arc<dyn DynBackend>,
    policy: Resilience,
    circuit: Circuit,
    clock: Clock,
}

/// Whether a call that was cut off may have changed something.
#[derive(Clone, Copy)]
enum Effect {
    Reads,
    Writes,
}

impl Effect {
    fn unanswered(self, elapsed: Elapsed) -> StoreError {
        let kind = match self {
            Effect::Reads => StoreErrorKind::Timeout,
            Effect::Writes => StoreErrorKind::OutcomeUnknown,
        };
        StoreError::from(kind).caused_by(elapsed)
    }
}

impl Resilient {
    pub(crate) fn new(inner: Arc<dyn DynBackend>, policy: Resilience, clock: Clock) -> Self {
        Resilient { inner, policy, circuit: Circuit::new(policy.breaker), clock }
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
    pub(crate) async fn pause_after(&self, attempts: &mut Attempts, error: StoreError) -> Result<(), StoreError> {
        let pause = attempts.failed(error, self.deadline().left())?;
        tokio::time::sleep(self.clock.jitter(pause)).await;
        Ok(())
    }

    /// Makes a call, again if need be.
    async fn call<'a, R>(
        &self,
        effect: Effect,
        call: impl Fn() -> Answer<'a, R> + Send + Sync,
    ) -> Result<(R, Attempts), StoreError>
    where
        R: Send,
    {
        let repeating = async {
            let mut attempts = self.attempts();
            loop {
                match self.attempt(effect, &call).await {
                    Ok(answer) => return Ok((answer, attempts)),
                    Err(error) => self.pause_after(&mut attempts, error).await?,
                }
            }
        };
        self.deadline().within(repeating).await
    }

    /// Makes a call once, if there is time for it and it is not refused.
    async fn attempt<'a, R>(
        &self,
        effect: Effect,
        call: impl FnOnce() -> Answer<'a, R> + Send,
    ) -> Result<R, StoreError> {
        let deadline = self.deadline();
        if deadline.left().is_zero() {
            return Err(StoreError::from(StoreErrorKind::Timeout).caused_by("no time was left for it"));
        }
        let admission = self.circuit.admit()?;
        let answer = timeout_at(deadline.of_step(self.policy.attempt_timeout), call()).await;
        let answer = answer.unwrap_or_else(|elapsed| Err(effect.unanswered(elapsed)));
        admission.settle(&answer);
        answer
    }
}

impl Backend for Resilient {
    async fn load(&self, id: &SessionId) -> Result<Option<Stored>, StoreError> {
        Ok(self.call(Effect::Reads, || self.inner.load(id)).await?.0)
    }

    async fn create(&self, id: &SessionId, stored: &Stored, ttl: Duration) -> Result<Created, StoreError> {
        self.attempt(Effect::Writes, || self.inner.create(id, stored, ttl)).await
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
        let (answer, attempts) = self.call(Effect::Writes, update).await?;
        attempts.updated(answer).map_err(|error| error.about(id))
    }

    async fn delete(&self, id: &SessionId, announcement: &[u8]) -> Result<Deleted, StoreError> {
        let (answer, attempts) = self.call(Effect::Writes, || self.inner.delete(id, announcement)).await?;
        Ok(attempts.deleted(answer))
    }

    async fn delete_if(&self, id: &SessionId, revision: Revision, announcement: &[u8]) -> Result<Deleted, StoreError> {
        let delete = || self.inner.delete_if(id, revision, announcement);
        let (answer, attempts) = self.call(Effect::Writes, delete).await?;
        Ok(attempts.deleted(answer))
    }

    async fn touch(&self, id: &SessionId, deadline: u64, ttl: Duration) -> Result<Touched, StoreError> {
        Ok(self.call(Effect::Writes, || self.inner.touch(id, deadline, ttl)).await?.0)
    }

    /// Takes as long as there are sessions, in steps that the backend bounds.
    async fn clear(&self, announcement: &[u8]) -> Result<u64, StoreError> {
        let admission = self.circuit.admit()?;
        let answer = self.inner.clear(announcement).await;
        admission.settle(&answer);
        answer
    }

    async fn scan(&self, cursor: Option<&Cursor>) -> Result<Page, StoreError> {
        Ok(self.call(Effect::Reads, || self.inner.scan(cursor)).await?.0)
    }

    async fn index(&self, owner: &OwnerTag, id: &SessionId, until: u64) -> Result<(), StoreError> {
        let ((), _) = self.call(Effect::Reads, || self.inner.index(owner, id, until)).await?;
        Ok(())
    }

    async fn unindex(&self, owner: &OwnerTag, id: &SessionId) -> Result<(), StoreError> {
        let ((), _) = self.call(Effect::Reads, || self.inner.unindex(owner, id)).await?;
        Ok(())
    }

    async fn indexed(&self, owner: &OwnerTag, cursor: Option<&Cursor>) -> Result<Page, StoreError> {
        Ok(self.call(Effect::Reads, || self.inner.indexed(owner, cursor)).await?.0)
    }

    async fn publish(&self, announcement: &[u8]) -> Result<(), StoreError> {
        let ((), _) = self.call(Effect::Reads, || self.inner.publish(announcement)).await?;
        Ok(())
    }

    async fn subscribe(&self, heartbeat: Duration) -> Result<Subscription, StoreError> {
        let subscription = self.inner.subscribe(heartbeat).await?;
        self.circuit.heard();
        Ok(subscription)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let end = self.deadline().of_step(self.policy.attempt_timeout);
        timeout_at(end, self.inner.ping()).await.unwrap_or_else(|elapsed| Err(Effect::Reads.unanswered(elapsed)))?;
        self.circuit.heard();
        Ok(())
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
