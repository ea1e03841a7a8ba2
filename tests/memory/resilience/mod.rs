//! Retries, deadlines and the circuit breaker. A failed call is retried if that is safe and within
//! the operation's deadline. No call is made while the circuit is open.

mod attempts;
mod circuit;
mod deadlines;

use std::fmt::Debug;
use std::time::Duration;

use clustered_sessions::testing::{Faults, FaultyBackend};
use clustered_sessions::{
    MemoryBackend, SessionConfigBuilder, SessionId, SessionLayer, SessionStore, StoreError,
    StoreErrorKind,
};
use futures_util::future::join;
use tokio::time::sleep;

use crate::web::{self, Data, HasBackend as _, Spy, ada, start};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A node over a spy, whose answers can be lost, and a healthy node over the same memory.
struct Nodes {
    spy: Spy,
    faults: Faults,
    layer: SessionLayer<Data>,
    /// The healthy node.
    healthy: SessionLayer<Data>,
}

impl Nodes {
    async fn start() -> Self {
        Self::with(|config| config).await
    }

    async fn with(
        change: impl FnOnce(SessionConfigBuilder<Data>) -> SessionConfigBuilder<Data>,
    ) -> Self {
        let memory = MemoryBackend::new();
        let spy = Spy::over(&memory);
        let (faulty, faults) = FaultyBackend::new(spy.backend(), 1);
        let config = web::config(&memory);
        let layer = start(change(config.enable_retry(true)).backend(faulty)).await;
        Nodes { spy, faults, layer, healthy: web::node(&memory).await }
    }

    fn store(&self) -> &SessionStore<Data> {
        self.layer.store()
    }

    async fn session(&self) -> SessionId {
        let id = self.healthy.store().create(ada()).await.unwrap().id;
        self.store().get(id).await.unwrap();
        self.spy.take_calls();
        id
    }

    async fn visits(&self, id: SessionId) -> u64 {
        self.healthy.store().find_fresh(id).await.unwrap().unwrap().data().visits
    }

    /// Runs an operation whose first attempt takes effect and loses its answer. `meanwhile` runs
    /// before the next attempt.
    async fn first_answer_lost<R>(
        &self,
        operation: impl Future<Output = R>,
        meanwhile: impl Future<Output = ()>,
    ) -> R {
        self.faults.lose_answers(1.0);
        let meanwhile = async {
            sleep(MILLI).await;
            meanwhile.await;
            self.faults.heal();
        };
        join(operation, meanwhile).await.0
    }
}

fn visit(data: &mut Data) {
    data.visits += 1;
}

#[track_caller]
fn kind<R: Debug>(result: Result<R, StoreError>) -> StoreErrorKind {
    result.unwrap_err().kind()
}
