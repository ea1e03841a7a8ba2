//! A backend that records its calls. Tests can delay its calls, make them fail, and drop its
//! announcements.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use clustered_sessions::backend::{Backend, Event, Subscription};
pub(crate) use clustered_sessions::testing::BackendMethod as Call;
use clustered_sessions::testing::{Interposed, Interposer};
use clustered_sessions::{MemoryBackend, StoreError, StoreErrorKind};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::yield_now;

/// Records and controls the calls of the backends that it creates, all over one `MemoryBackend`.
#[derive(Clone, Debug)]
pub(crate) struct Spy {
    memory: MemoryBackend,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    calls: Mutex<Vec<Call>>,
    /// Those of the next calls. `None` for a call that reaches the memory.
    faults: Mutex<VecDeque<Option<StoreErrorKind>>>,
    gate: Arc<RwLock<()>>,
    drops_messages: AtomicBool,
    loses_next_answer: AtomicBool,
}

/// A source of backends for the nodes of a test.
pub(crate) trait HasBackend {
    fn backend(&self) -> impl Backend;
}

impl HasBackend for MemoryBackend {
    fn backend(&self) -> impl Backend {
        self.clone()
    }
}

impl HasBackend for Spy {
    fn backend(&self) -> impl Backend {
        Interposed::with_interposer(self.memory.clone(), self.clone())
    }
}

impl Spy {
    pub(crate) fn new() -> Self {
        Self::over(&MemoryBackend::new())
    }

    pub(crate) fn over(memory: &MemoryBackend) -> Self {
        Spy { memory: memory.clone(), shared: Arc::default() }
    }

    /// Returns the calls since the last `take_calls`, without subscriptions and pings.
    pub(crate) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.shared.calls.lock().unwrap())
    }

    /// Makes the next calls fail before they reach the memory.
    pub(crate) fn fail_next(&self, calls: usize, kind: StoreErrorKind) {
        self.shared.faults.lock().unwrap().extend(vec![Some(kind); calls]);
    }

    /// Lets as many calls reach the memory before the next one that is made to fail.
    pub(crate) fn pass_next(&self, calls: usize) {
        self.shared.faults.lock().unwrap().extend(vec![None; calls]);
    }

    /// Makes the next call take effect and report an unknown outcome.
    pub(crate) fn lose_next_answer(&self) {
        self.shared.loses_next_answer.store(true, Ordering::SeqCst);
    }

    /// Blocks all calls until the guard is dropped.
    pub(crate) async fn hold(&self) -> OwnedRwLockWriteGuard<()> {
        self.shared.gate.clone().write_owned().await
    }

    /// Drops all announcements from now on, while the subscription stays open.
    pub(crate) fn drop_messages(&self) {
        self.shared.drops_messages.store(true, Ordering::SeqCst);
    }
}

impl Interposer for Spy {
    /// Yields before and after each call, so that a test can cancel a request at these points.
    async fn around<R: Send + 'static>(
        &self,
        method: Call,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        if matches!(method, Call::Subscribe | Call::Ping) {
            return call.await;
        }
        self.shared.calls.lock().unwrap().push(method);
        yield_now().await;
        let _open = self.shared.gate.read().await;
        let fault = self.shared.faults.lock().unwrap().pop_front();
        if let Some(Some(kind)) = fault {
            return Err(kind.into());
        }
        let answer = call.await;
        yield_now().await;
        if self.shared.loses_next_answer.swap(false, Ordering::SeqCst) {
            return Err(StoreErrorKind::OutcomeUnknown.into());
        }
        answer
    }

    fn subscribed(&self, mut subscription: Subscription) -> Subscription {
        let (mut sender, forwarded) = Subscription::channel();
        let shared = self.shared.clone();
        tokio::spawn(async move {
            while let Some(event) = subscription.next().await {
                let dropped = matches!(event, Event::Message(_))
                    && shared.drops_messages.load(Ordering::SeqCst);
                if !dropped && !sender.send(event) {
                    break;
                }
            }
        });
        forwarded
    }
}
