//! Watching the session of a request, for responses that outlive it.

use std::future::Future;

use futures_core::Stream;
use futures_util::StreamExt as _;

use super::Session;
use crate::record::{Ended, SessionData};
use crate::store::SessionWatch;

impl<T: SessionData> Session<T> {
    /// Watches the session, from the version that this request has loaded or committed last.
    /// Returns `None` if the visitor has no session, or this request has ended it.
    ///
    /// A session that this request begins can be watched once it is there: after
    /// [`save`](Session::save).
    ///
    /// ```
    /// # use clustered_sessions::{Session, SessionError};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// # struct Basket { items: u64 }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), SessionError> {
    /// # let session = Session::detached(Basket::default());
    /// let mut watch = session.watch().expect("the visitor has a session");
    /// session.modify(|s| s.items += 1).await?;
    /// while let Ok(basket) = watch.changed().await {
    ///     println!("{} items", basket.data().items);
    /// #   break;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn watch(&self) -> Option<SessionWatch<T>> {
        Some(self.request.store().watch_from(&self.request.version()?))
    }

    /// Waits until the session has ended, and returns the reason. Returns
    /// [`Deleted`](crate::Ended::Deleted) at once if the visitor has no session, or if it has ended
    /// before this call: call it before a stream begins, not after it has ended. A regeneration is
    /// no end: see the risk of [`regenerate`](Session::regenerate). [`SessionWatch::changed`] says
    /// how soon an end is noticed.
    ///
    /// The future does not borrow the session, and costs nothing while nothing happens.
    ///
    /// ```
    /// # use clustered_sessions::{Ended, Session, SessionError};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// # struct UserSession;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), SessionError> {
    /// # let session = Session::detached(UserSession);
    /// # let (socket, sender) = tokio::io::duplex(64);
    /// # let mut socket = tokio::io::BufReader::new(socket);
    /// # let mut line = String::new();
    /// # use tokio::io::AsyncBufReadExt as _;
    /// let ended = session.ended();
    /// # session.destroy();
    /// # session.save().await?;
    /// tokio::select! {
    ///     reason = ended => assert_eq!(reason, Ended::LoggedOut),
    ///     line = socket.read_line(&mut line) => { /* answer it */ }
    /// }
    /// # drop(sender);
    /// # Ok(()) }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub fn ended(&self) -> impl Future<Output = Ended> + Send + use<T> {
        let watch = self.watch();
        async move {
            match watch {
                Some(watch) => watch.ended().await,
                None => Ended::Deleted,
            }
        }
    }

    /// Ends a stream when the session ends: the events of Server-Sent Events, the messages for a
    /// WebSocket, or the chunks of a body.
    ///
    /// The stream is empty if the visitor has no session yet: after [`replace`](Session::replace),
    /// call [`save`](Session::save) first.
    ///
    /// ```
    /// # use clustered_sessions::{Session, SessionError};
    /// # use futures_util::{StreamExt as _, stream};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// # struct UserSession;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), SessionError> {
    /// # let session = Session::detached(UserSession);
    /// let events = session.until_ended(stream::pending::<u64>());
    /// # session.destroy();
    /// # session.save().await?;
    /// assert_eq!(events.count().await, 0); // it has ended without an event
    /// # Ok(()) }
    /// ```
    pub fn until_ended<S: Stream>(&self, stream: S) -> impl Stream<Item = S::Item> + use<S, T> {
        stream.take_until(self.ended())
    }
}
