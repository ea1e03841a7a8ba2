//! Startup, health and shutdown, and the scope of an operation.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::SessionStore;
use crate::error::{StoreError, StoreErrorKind};
use crate::record::SessionData;
use crate::resilience::Deadline;

/// Pause between two pings of [`wait_until_ready`](SessionStore::wait_until_ready).
const PING_INTERVAL: Duration = Duration::from_millis(100);

impl<T: SessionData> SessionStore<T> {
    /// Pings the backend and returns `true` if it answers within one attempt. See
    /// [`ping`](SessionStore::ping) for the cause if it does not.
    pub async fn healthy(&self) -> bool {
        self.ping().await.is_ok()
    }

    /// Pings the backend, and waits for its answer no longer than one attempt takes.
    ///
    /// The ping is sent even while the circuit is open. If the backend answers it then, the circuit
    /// becomes half-open.
    ///
    /// # Errors
    ///
    /// Fails with the backend's error, and with [`Closed`](StoreErrorKind::Closed) after
    /// [`shutdown`](SessionStore::shutdown).
    ///
    /// ```
    /// # use clustered_sessions::{Secret, SessionConfig, SessionStore};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
    /// async fn is_ready(store: &SessionStore<UserSession>) -> bool {
    ///     let pinged = store.ping().await.inspect_err(|error| eprintln!("not ready: {error}"));
    ///     pinged.is_ok()
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev")).build()?;
    /// # let store = SessionStore::new(config);
    /// # assert!(is_ready(&store).await);
    /// # store.shutdown().await;
    /// # assert!(!is_ready(&store).await);
    /// # Ok(()) }
    /// ```
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.check_open()?;
        self.inner.backend.ping().await
    }

    /// Waits until the backend answers and this node receives announcements.
    ///
    /// Call it at startup, to fail there rather than at the first request.
    ///
    /// # Errors
    ///
    /// Fails after `timeout` with the last error of the backend. If the backend answers, but no
    /// announcements arrive, with [`Timeout`](StoreErrorKind::Timeout), whose source is the cause,
    /// such as a missing permission.
    #[doc(alias = "ready")]
    pub async fn wait_until_ready(&self, timeout: Duration) -> Result<(), StoreError> {
        let timed_out = || StoreError::from(StoreErrorKind::Timeout);
        let mut failure = Some(timed_out().with_source("the session backend has not answered"));
        let attempts = async {
            loop {
                self.begin()?;
                match self.inner.backend.ping().await {
                    Ok(()) => break,
                    Err(error) => failure = Some(error),
                }
                tokio::time::sleep(PING_INTERVAL).await;
            }
            failure = None;
            self.inner.coordinator.wait_until_listening().await;
            Ok(())
        };
        match tokio::time::timeout(timeout, attempts).await {
            Ok(result) => result,
            Err(_) => {
                Err(failure.unwrap_or_else(|| match self.inner.coordinator.listening_cause() {
                    Some(cause) => timed_out().with_source(cause),
                    None => {
                        timed_out().with_source("this node does not receive session announcements")
                    }
                }))
            }
        }
    }

    /// Shuts the store down: stops the listener, waits for pending writes and closes the
    /// connections. Later operations fail with [`Closed`](StoreErrorKind::Closed).
    ///
    /// Call it after the server has finished its last request. A response whose session can no
    /// longer be committed is replaced by a 503.
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
        self.inner.events.close().await;
        self.inner.backend.close().await;
    }

    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        if self.inner.closed.load(Ordering::Acquire) {
            Err(StoreErrorKind::Closed.into())
        } else {
            Ok(())
        }
    }

    /// Checks that the store is open and starts the listener if it is not running. Every operation
    /// except a cached read begins with this.
    pub(crate) fn begin(&self) -> Result<(), StoreError> {
        self.check_open()?;
        self.inner.coordinator.ensure_running();
        Ok(())
    }

    /// Runs an operation, all of whose steps share one deadline.
    ///
    /// This, [`separate_operation`](Self::separate_operation) and
    /// [`operation_within`](Self::operation_within) alone open a deadline scope. Public methods of
    /// several steps, the commit of a request and background tasks call it once. Their steps, such
    /// as backend calls, pauses and waits for a lock, read the deadline, and can neither extend nor
    /// restart it.
    ///
    /// The time runs from this call on, before the future is polled.
    pub(crate) fn operation<F: Future>(
        &self,
        steps: F,
    ) -> impl Future<Output = F::Output> + use<F, T> {
        self.deadline().within(steps)
    }

    /// Like [`operation`](Self::operation), for one that others wait for, too: its deadline does
    /// not depend on that of the operation that begins it.
    pub(super) fn separate_operation<F: Future>(
        &self,
        steps: F,
    ) -> impl Future<Output = F::Output> + use<F, T> {
        self.inner.backend.separate_deadline().within(steps)
    }

    /// Like [`operation`](Self::operation), for one that takes longer the more sessions there are,
    /// and therefore has a timeout of its own. Each of its calls has no more time than an
    /// operation.
    pub(super) fn operation_within<F: Future>(
        &self,
        timeout: Duration,
        steps: F,
    ) -> impl Future<Output = F::Output> + use<F, T> {
        Deadline::current_or(timeout).within(steps)
    }

    /// Returns the deadline of the operation under way, or of one that begins now.
    pub(crate) fn deadline(&self) -> Deadline {
        self.inner.backend.deadline()
    }

    /// Spawns a task that runs to its end even if the request that needed it is cancelled.
    /// [`shutdown`](Self::shutdown) waits for it.
    pub(crate) fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.inner.tasks.spawn(task)
    }
}
