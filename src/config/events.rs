//! The setter of the event hook.

use std::future::Future;
use std::sync::Arc;

use super::SessionConfigBuilder;
use crate::events::SessionEvent;

impl<T> SessionConfigBuilder<T> {
    /// Sets an async hook that receives a [`SessionEvent`] for each change that this node makes.
    ///
    /// For audit logs, alerts and messages to other systems. By default there is none.
    ///
    /// It is called once for each change, on the node that has made the change, after the change
    /// was acknowledged, in a task of its own. The events of a node come one after the other, and
    /// no request waits for them: 1,024 events may wait for the function, and more are dropped and
    /// counted ([`SessionStore::dropped_events`](crate::SessionStore::dropped_events)).
    ///
    /// ```
    /// use clustered_sessions::{Secret, SessionConfig, SessionEvent, SessionStore};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { user: String }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (sender, mut log) = tokio::sync::mpsc::unbounded_channel();
    /// let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev"))
    ///     .owner(|session: &UserSession| Some(session.user.clone()))
    ///     .on_event(move |event| {
    ///         let log = sender.clone();
    ///         async move {
    ///             if let SessionEvent::Ended { owner, reason, .. } = event {
    ///                 let _ = log.send(format!("{owner:?}: {reason:?}"));
    ///             }
    ///         }
    ///     })
    ///     .build()?;
    /// let store = SessionStore::new(config);
    /// let session = store.create(UserSession { user: "ada".into() }).await?;
    /// store.delete(session.id).await?;
    /// assert_eq!(log.recv().await.unwrap(), "Some(\"ada\"): Revoked");
    /// # Ok(()) }
    /// ```
    ///
    /// # Risk
    ///
    /// An event is delivered at most once. It is lost if the process or the runtime ends before the
    /// function has been called, if the change was made although its reply was lost
    /// ([`OutcomeUnknown`](crate::StoreErrorKind::OutcomeUnknown)), and if the function panics.
    /// Expiry is reported when it is noticed, by each node that had the session in its cache; if
    /// nobody asks for the session again, it is not.
    pub fn on_event<F, R>(mut self, hook: F) -> Self
    where
        F: Fn(SessionEvent) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.on_event = Some(Arc::new(move |event| Box::pin(hook(event))));
        self
    }
}
