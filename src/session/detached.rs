//! A session without a request, for tests of handlers.

use std::sync::Arc;

use super::{LayerState, RequestSession, Session};
use crate::backend::MemoryBackend;
use crate::cluster::ClusterConfig;
use crate::config::SessionConfig;
use crate::record::SessionData;
use crate::secret::Secret;

impl<T: SessionData> Session<T> {
    /// Creates a session without a request, in a store and a memory backend of its own, so that a
    /// test can call a handler as a function.
    ///
    /// ```
    /// # use clustered_sessions::Session;
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// # struct UserSession { name: Option<String> }
    /// async fn greet(session: Session<UserSession>) -> String {
    ///     session.read(|s| format!("Hello {}", s.name.as_deref().unwrap_or("stranger")))
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let ada = UserSession { name: Some("Ada".into()) };
    /// assert_eq!(greet(Session::detached(ada)).await, "Hello Ada");
    /// # }
    /// ```
    #[expect(clippy::expect_used, reason = "the development preset is a valid configuration")]
    pub fn detached(data: T) -> Self {
        let memory = MemoryBackend::new();
        let config = SessionConfig::development(Secret::insecure_dev("detached"))
            .cluster(ClusterConfig::new().enabled(false))
            .backend(memory.clone())
            .build()
            .expect("the development preset is valid");
        let layer = LayerState::new(config);
        let record = layer.store.create_in_memory(&memory, data);
        Session { request: Arc::new(RequestSession::with_record(Arc::new(layer), record)) }
    }
}
