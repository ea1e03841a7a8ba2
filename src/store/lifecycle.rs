//! A store from its first answer to its end, and what every operation has around it.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::SessionStore;
use crate::error::{StoreError, StoreErrorKind};
use crate::record::SessionData;

impl<T: SessionData> SessionStore<T> {
    /// Whether the backend answers, within one attempt. It is asked though the circuit is open; if it answers then, the circuit is
    /// half-open.
    pub async fn healthy(&self) -> bool {
        self.check_open().is_ok() && self.inner.backend.ping().await.is_ok()
    }

    /// Waits until the backend answers and this node hears the others: for failing at start rather than at the first request.
    ///
    /// # Errors
    ///
    /// The last error of the backend, or [`Timeout`](StoreErrorKind::Timeout), when `patience` has run out.
    pub async fn ready(&self, patience: Duration) -> Result<(), StoreError> {
        let mut last = StoreError::new(StoreErrorKind::Timeout);
        let attempts = async {
            loop {
                self.begin()?;
                match self.inner.backend.ping().await {
                    Ok(()) => break,
                    Err(error) => last = error,
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            last = StoreError::from(StoreErrorKind::Timeout)
                .with_source("no session announcements are heard");
            self.inner.coordinator.wait_until_listening().await;
            Ok(())
        };
        match tokio::time::timeout(patience, attempts).await {
            Ok(done) => done,
            Err(_) => Err(last),
        }
    }

    /// Ends the store: stops the listener, waits for writes under way, and lets go of the connections. Later operations answer
    /// [`Closed`](StoreErrorKind::Closed).
    ///
    /// Call it after the server has finished its last request: a response whose session cannot be committed any more is
    /// replaced by a 503.
    ///
    /// ```
    /// # use clustered_sessions::{Secret, SessionConfig, SessionStore, StoreErrorKind};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev")).build()?;
    /// let store = SessionStore::new(config);
    /// store.shutdown().await;
    /// assert_eq!(store.create(UserSession).await.unwrap_err().kind(), StoreErrorKind::Closed);
    /// # Ok(()) }
    /// ```
    pub async fn shutdown(&self) {
        self.inner.closed.store(true, Ordering::Release);
        self.inner.coordinator.stop().await;
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.backend.close().await;
    }

    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        if self.inner.closed.load(Ordering::Acquire) {
            Err(StoreErrorKind::Closed.into())
        } else {
            Ok(())
        }
    }

    /// What every operation but a cached read begins with.
    pub(crate) fn begin(&self) -> Result<(), StoreError> {
        self.check_open()?;
        self.inner.coordinator.ensure_running();
        Ok(())
    }

    /// Runs an operation of several steps, which have the time of one operation together.
    pub(crate) async fn in_time<F: Future>(&self, operation: F) -> F::Output {
        self.inner.backend.deadline().within(operation).await
    }

    /// Runs something to its end whatever becomes of the request that asked for it; [`shutdown`](Self::shutdown) waits for it.
    pub(crate) fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.inner.tasks.spawn(task)
    }
}
