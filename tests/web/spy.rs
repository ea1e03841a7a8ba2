//! A backend that is watched, held up, deaf or made to fail.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clustered_sessions::backend::{
    Backend, Created, Cursor, Deleted, Event, OwnerTag, Page, Revision, Stored, Subscription,
    Touched, Updated,
};
use clustered_sessions::{MemoryBackend, SessionId, StoreError, StoreErrorKind};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::yield_now;

/// What a backend was asked for. Listening and pinging are not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Load,
    Create,
    Update,
    Delete,
    DeleteIf,
    Touch,
    Clear,
    Scan,
    Index,
    Unindex,
    Indexed,
    Publish,
}

/// Delegates to memory. Each call yields before and after, so that a request can be cancelled there.
#[derive(Clone, Debug)]
pub(crate) struct Spy {
    memory: MemoryBackend,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    calls: Mutex<Vec<Call>>,
    faults: Mutex<VecDeque<StoreErrorKind>>,
    gate: Arc<RwLock<()>>,
    deaf: AtomicBool,
}

impl Spy {
    pub(crate) fn new() -> Self {
        Self::over(&MemoryBackend::new())
    }

    pub(crate) fn over(memory: &MemoryBackend) -> Self {
        Spy { memory: memory.clone(), shared: Arc::default() }
    }

    /// The calls since this was last asked.
    pub(crate) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.shared.calls.lock().unwrap())
    }

    /// The next calls fail, and do nothing.
    pub(crate) fn fail_next(&self, calls: usize, kind: StoreErrorKind) {
        self.shared.faults.lock().unwrap().extend(vec![kind; calls]);
    }

    /// Calls wait as long as this is held.
    pub(crate) async fn hold(&self) -> OwnedRwLockWriteGuard<()> {
        self.shared.gate.clone().write_owned().await
    }

    /// From now on announcements are not heard through this, though the connection seems alive.
    pub(crate) fn drop_messages(&self) {
        self.shared.deaf.store(true, Ordering::SeqCst);
    }

    async fn call<R>(
        &self,
        call: Call,
        answer: impl Future<Output = Result<R, StoreError>>,
    ) -> Result<R, StoreError> {
        self.shared.calls.lock().unwrap().push(call);
        yield_now().await;
        let _open = self.shared.gate.read().await;
        let fault = self.shared.faults.lock().unwrap().pop_front();
        if let Some(kind) = fault {
            return Err(kind.into());
        }
        let answer = answer.await;
        yield_now().await;
        answer
    }
}

impl Backend for Spy {
    async fn load(&self, id: &SessionId) -> Result<Option<Stored>, StoreError> {
        self.call(Call::Load, self.memory.load(id)).await
    }

    async fn create(
        &self,
        id: &SessionId,
        stored: &Stored,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        self.call(Call::Create, self.memory.create(id, stored, ttl)).await
    }

    async fn update(
        &self,
        id: &SessionId,
        expected: Revision,
        stored: &Stored,
        ttl: Duration,
        announcement: &[u8],
    ) -> Result<Updated, StoreError> {
        self.call(Call::Update, self.memory.update(id, expected, stored, ttl, announcement)).await
    }

    async fn delete(&self, id: &SessionId, announcement: &[u8]) -> Result<Deleted, StoreError> {
        self.call(Call::Delete, self.memory.delete(id, announcement)).await
    }

    async fn delete_if(
        &self,
        id: &SessionId,
        revision: Revision,
        announcement: &[u8],
    ) -> Result<Deleted, StoreError> {
        self.call(Call::DeleteIf, self.memory.delete_if(id, revision, announcement)).await
    }

    async fn touch(
        &self,
        id: &SessionId,
        deadline: u64,
        ttl: Duration,
    ) -> Result<Touched, StoreError> {
        self.call(Call::Touch, self.memory.touch(id, deadline, ttl)).await
    }

    async fn clear(&self, announcement: &[u8]) -> Result<u64, StoreError> {
        self.call(Call::Clear, self.memory.clear(announcement)).await
    }

    async fn scan(&self, cursor: Option<&Cursor>) -> Result<Page, StoreError> {
        self.call(Call::Scan, self.memory.scan(cursor)).await
    }

    async fn index(&self, owner: &OwnerTag, id: &SessionId, until: u64) -> Result<(), StoreError> {
        self.call(Call::Index, self.memory.index(owner, id, until)).await
    }

    async fn unindex(&self, owner: &OwnerTag, id: &SessionId) -> Result<(), StoreError> {
        self.call(Call::Unindex, self.memory.unindex(owner, id)).await
    }

    async fn indexed(&self, owner: &OwnerTag, cursor: Option<&Cursor>) -> Result<Page, StoreError> {
        self.call(Call::Indexed, self.memory.indexed(owner, cursor)).await
    }

    async fn publish(&self, announcement: &[u8]) -> Result<(), StoreError> {
        self.call(Call::Publish, self.memory.publish(announcement)).await
    }

    async fn subscribe(&self, heartbeat: Duration) -> Result<Subscription, StoreError> {
        let mut heard = self.memory.subscribe(heartbeat).await?;
        let (mut ear, subscription) = Subscription::channel();
        let shared = self.shared.clone();
        tokio::spawn(async move {
            while let Some(event) = heard.next().await {
                let swallowed =
                    matches!(event, Event::Message(_)) && shared.deaf.load(Ordering::SeqCst);
                if !swallowed && !ear.send(event) {
                    break;
                }
            }
        });
        Ok(subscription)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.memory.ping().await
    }

    async fn close(&self) {
        self.memory.close().await;
    }
}
