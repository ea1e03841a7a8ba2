//! What a handler can learn about its session, apart from the data.

use super::Session;
use crate::error::StoreError;
use crate::id::SessionId;
use crate::record::{Record, SessionData};
use crate::store::SessionStore;

impl<T: SessionData> Session<T> {
    /// Returns the session's id, or `None` for a visitor without a session, after
    /// [`destroy`](Session::destroy), and after [`replace`](Session::replace) until that is
    /// committed. The id is not a credential and may be logged.
    #[must_use]
    pub fn id(&self) -> Option<SessionId> {
        self.request.id()
    }

    /// Returns the session's data with its id and times, as they were loaded or last committed, or
    /// `None` where [`id`](Session::id) is.
    ///
    /// The times tell, for example, if the login is so long ago that the visitor should be asked
    /// for the password again (OWASP ASVS 5.0, 7.5.1):
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use clustered_sessions::Session;
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// # struct UserSession { user_id: Option<i64> }
    /// fn needs_password(session: &Session<UserSession>) -> bool {
    ///     let Some(record) = session.record() else { return true };
    ///     !record.logged_in_at().elapsed().is_ok_and(|age| age < Duration::from_secs(15 * 60))
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # assert!(!needs_password(&Session::detached(UserSession { user_id: Some(42) })));
    /// # }
    /// ```
    #[must_use]
    pub fn record(&self) -> Option<Record<T>> {
        self.request.record()
    }

    /// Returns `true` if the visitor has no session, and wherever else [`id`](Session::id) is
    /// `None`, as after a [`replace`](Session::replace) that is not committed yet. Under
    /// [`OutagePolicy::Anonymous`](crate::OutagePolicy::Anonymous), also `true` while the backend
    /// is unreachable: see [`outage`](Session::outage).
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.id().is_none()
    }

    /// Returns the error with which loading this request's session failed, if the
    /// [outage policy](crate::OutagePolicy) has replaced the session by default data or by the last
    /// record that this node knew. Such a session is read-only.
    ///
    /// Always `None` under [`OutagePolicy::Reject`](crate::OutagePolicy::Reject), which rejects
    /// such a request, and after a successful [`reload`](Session::reload).
    ///
    /// ```
    /// # use clustered_sessions::Session;
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// # struct UserSession { name: Option<String> }
    /// async fn home(session: Session<UserSession>) -> String {
    ///     if session.outage().is_some() {
    ///         return "Some functions are unavailable. You are still logged in.".into();
    ///     }
    ///     session.read(|s| format!("Hello {}", s.name.as_deref().unwrap_or("stranger")))
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # assert_eq!(home(Session::detached(UserSession::default())).await, "Hello stranger");
    /// # }
    /// ```
    #[must_use]
    pub fn outage(&self) -> Option<StoreError> {
        self.request.outage()
    }

    /// Returns the error with which the record of this request's session could not be decoded or
    /// decrypted. `None` if there is no such record.
    ///
    /// The visitor is treated as one without a session, but a change is refused with
    /// [`Corrupt`](crate::StoreErrorKind::Corrupt): the record is left to the build or the node
    /// that can read it. If there is none, let the visitor start over with
    /// [`replace`](Session::replace), or [`destroy`](Session::destroy) the record. Otherwise,
    /// nothing that the visitor does is kept until the record expires.
    ///
    /// ```
    /// # use clustered_sessions::Session;
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// # struct Shopper { items: u64 }
    /// async fn add_to_cart(session: Session<Shopper>) {
    ///     if session.unreadable().is_some() {
    ///         session.replace(Shopper::default());
    ///     }
    ///     session.update(|shopper| shopper.items += 1);
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let session = Session::detached(Shopper::default());
    /// # add_to_cart(session.clone()).await;
    /// # assert_eq!(session.read(|shopper| shopper.items), 1);
    /// # }
    /// ```
    #[must_use]
    pub fn unreadable(&self) -> Option<StoreError> {
        self.request.unreadable()
    }

    /// Returns the store that this session lives in.
    pub fn store(&self) -> &SessionStore<T> {
        self.request.store()
    }
}
