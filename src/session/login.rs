//! How a handler begins and ends the visitor's session, and renews its token.

use super::Session;
use crate::record::SessionData;

impl<T: SessionData> Session<T> {
    /// Begins a new session with this data, whatever the visitor's cookie led to. With the
    /// response, the visitor gets a new token, and the session that the cookie led to is deleted on
    /// every node, which ends the streams that [watch](Session::watch) it.
    ///
    /// Call it at login, and after a change of the password. It works for a visitor without a
    /// session, with one that has ended or was regenerated meanwhile, and with one whose record
    /// cannot be read (that record is left alone). The token is new, so an attacker who planted or
    /// learned the old cookie gains nothing (OWASP Session Management Cheat Sheet, "Renew the
    /// Session ID After Any Privilege Level Change"). Nothing of the old session is kept but what
    /// `data` holds. To keep the session at a change of privilege, call
    /// [`regenerate`](Session::regenerate).
    ///
    /// Earlier uncommitted changes are dropped; later ones are made to the new session. Like a
    /// change, it is not made if the handler panics or the request is cancelled.
    ///
    /// ```
    /// # use clustered_sessions::{Session, SessionError};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// # struct UserSession { user_id: Option<i64>, cart: Vec<u64> }
    /// fn login(session: &Session<UserSession>, user_id: i64) {
    ///     let cart = session.read(|s| s.cart.clone());
    ///     session.replace(UserSession { user_id: Some(user_id), cart });
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), SessionError> {
    /// let session = Session::detached(UserSession { user_id: None, cart: vec![7] });
    /// let before = session.id();
    /// login(&session, 42);
    /// session.save().await?;
    /// assert_eq!((session.data().user_id, session.data().cart.len()), (Some(42), 1));
    /// assert_ne!(session.id(), before);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The commit fails with [`SessionError::HeadSent`](crate::SessionError::HeadSent) after the
    /// response head has been sent: the cookie could not be set any more.
    pub fn replace(&self, data: T) {
        self.request.replace(data);
    }

    /// Sets whether the session that this request begins is remembered. Browsers keep the cookie of
    /// a remembered session when they are closed, and the timeouts of
    /// [`SessionConfigBuilder::remember_me`](crate::SessionConfigBuilder::remember_me) apply to it.
    ///
    /// Call it together with [`replace`](Session::replace), at login. It applies to the session
    /// that this request creates, replaces or [regenerates](Session::regenerate). Otherwise a new
    /// session is not remembered, and one that is regenerated stays as it is. It has no effect on a
    /// session that this request only changes, unless the change gives it another
    /// [owner](crate::SessionConfigBuilder::owner) and so a new token.
    ///
    /// # Errors
    ///
    /// The commit fails with [`NotConfigured`](crate::StoreErrorKind::NotConfigured) if the
    /// timeouts are not configured.
    pub fn remember_me(&self, remember: bool) {
        self.request.lock().remember_me(remember);
    }

    /// Replaces the session's token and id when the response is committed. The old ones stop
    /// working.
    ///
    /// Call it at a change of privilege: an attacker who planted or learned the old cookie cannot
    /// use it any more (OWASP Session Management Cheat Sheet, "Renew the Session ID After Any
    /// Privilege Level Change"). At login, call [`replace`](Session::replace).
    ///
    /// # Risk
    ///
    /// It is the same session under another token, so open streams that [watch](Session::watch) it
    /// go on, among them one that an attacker has opened with the old cookie. If somebody else may
    /// know the old cookie, as at a login or a change of the password, call
    /// [`replace`](Session::replace) instead.
    ///
    /// It restarts the absolute timeout
    /// ([`absolute_timeout`](crate::SessionConfigBuilder::absolute_timeout)). If that is to bound
    /// the time between logins, call it only where the user authenticates: otherwise a session that
    /// is regenerated again and again lasts without a login.
    pub fn regenerate(&self) {
        self.request.regenerate();
    }

    /// Logs out: deletes the session on every node and removes the cookie, with the response.
    ///
    /// The session is deleted even if the request is cancelled, panics or fails. Later changes go
    /// to a new session. If the response head has already been sent, the session is deleted by the
    /// next [`save`](Session::save), or when the last clone is dropped.
    ///
    /// # Errors
    ///
    /// A session that was loaded more than half a minute ago, for example by a socket, may have
    /// been [regenerated](Session::regenerate) so long ago that its id no longer leads to it. It is
    /// then looked for among the sessions of its [owner](crate::SessionConfigBuilder::owner). If it
    /// is not found, the commit fails with [`SessionError::Gone`](crate::SessionError::Gone), since
    /// it may live on under its new token, or with
    /// [`OutcomeUnknown`](crate::StoreErrorKind::OutcomeUnknown) if a reply was lost.
    pub fn destroy(&self) {
        self.request.destroy();
    }
}
