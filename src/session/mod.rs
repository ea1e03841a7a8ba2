//! The session as a handler sees it.

mod attachments;
mod batch;
mod change;
mod closures;
mod commit;
mod detached;
#[cfg(feature = "_tower-sessions")]
mod digests;
mod error;
mod extract;
mod failed_commits;
mod head;
mod inspect;
mod key_values;
mod layer_state;
mod loaded;
mod login;
mod logout;
mod losses;
mod part;
mod refusals;
mod request;
mod state;
mod view;
mod watch;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use self::attachments::Attachments;
use self::batch::Change;
pub(crate) use self::commit::{CommitError, CommitHandle};
#[cfg(feature = "_tower-sessions")]
pub(crate) use self::digests::{digest, digests};
pub use self::error::SessionError;
pub use self::extract::Fresh;
pub(crate) use self::head::{CookieChange, HeadChanges};
pub use self::key_values::{KeyValues, ValueError};
pub(crate) use self::layer_state::LayerState;
pub use self::part::Part;
pub(crate) use self::request::RequestSession;
use crate::record::{SessionData, Snapshot};
use crate::store::unless_declined;

/// The session of a request. Cloning is cheap: all clones, and all extractions in one request,
/// refer to the same session.
///
/// A visitor whose session no handler changes gets no record and no cookie.
///
/// # Closures
///
/// Changes are closures. If another request has changed the session in the meantime, the closures
/// are applied again on top of that, so no update is lost.
///
/// Two compile errors are common:
///
/// - *cannot move out of `name`, a captured variable in an `Fn` closure*: clone inside the closure,
///   as in `s.name = name.clone()`, or call [`update_with`](Session::update_with).
/// - *closure may outlive the current function, but it borrows `name`*: the closure is applied
///   after the handler has returned, so write `move |s| …`.
///
/// A closure runs on a copy of the data, while no lock is held, and possibly several times. Side
/// effects in it, such as counting or sending, happen as many times. A closure that changes the
/// session which it is called for panics: it would be called again without end.
///
/// A closure that changes nothing writes nothing: no other node is told, and a visitor without a
/// session gets none. An existing session is read from the backend once more, since it may have
/// been changed elsewhere, and the request counts as a use of it.
///
/// ```
/// # use clustered_sessions::{Session, SessionError};
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
/// # struct UserSession { name: Option<String>, visits: u64 }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), SessionError> {
/// # let session = Session::detached(UserSession::default());
/// let name = String::from("Ada");
/// session.update(move |s| s.name = Some(name.clone())); // committed with the response
/// let visits = session
///     .modify(|s| {
///         s.visits += 1;
///         s.visits
///     })
///     .await?; // committed now
/// assert_eq!(visits, 1);
/// # Ok(()) }
/// ```
pub struct Session<T> {
    request: Arc<RequestSession<T>>,
}

impl<T: SessionData> Session<T> {
    /// Returns a snapshot of the data, with this request's changes. Later changes do not appear in
    /// it.
    ///
    /// A visitor without a session has `T::default()`.
    #[must_use]
    pub fn data(&self) -> Snapshot<T> {
        self.request.data()
    }

    /// Calls `f` with the current data and returns its result. No lock is held meanwhile.
    pub fn read<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        self.request.read(f)
    }

    /// Changes the data. This request sees the change at once; it is committed with the response,
    /// whatever its status.
    ///
    /// If another request changes the session first, the closure is called again on top of that. If
    /// the commit fails, an error response replaces the handler's. See [`Session`] on closures.
    ///
    /// After the response has begun, as in a socket or a stream, nothing commits a change: call
    /// [`save`](Session::save), or use [`modify`](Session::modify).
    ///
    /// # Risk
    ///
    /// At login, call [`replace`](Session::replace): `update` keeps the token of a session, so an
    /// attacker who planted it in the visitor's browser would be logged in, too. The session gets a
    /// new token only if the change gives it another
    /// [owner](crate::SessionConfigBuilder::owner).
    ///
    /// # Panics
    ///
    /// Panics if it is called within a closure that changes this session.
    pub fn update(&self, change: impl Fn(&mut T) + Send + Sync + 'static) {
        let change: Change<T> = Arc::new(change);
        self.request.apply(&change);
    }

    /// Like [`update`](Session::update), with a value that the closure takes. Each time that the
    /// closure is called, it is given a clone of it.
    ///
    /// ```
    /// # use clustered_sessions::Session;
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// # struct UserSession { name: Option<String> }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let session = Session::detached(UserSession::default());
    /// let name = String::from("Ada");
    /// session.update_with(name, |s, name| s.name = Some(name));
    /// # assert_eq!(session.data().name.as_deref(), Some("Ada"));
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// As [`update`](Session::update).
    pub fn update_with<V>(&self, value: V, change: impl Fn(&mut T, V) + Send + Sync + 'static)
    where
        V: Clone + Send + Sync + 'static,
    {
        self.update(move |data| change(data, value.clone()));
    }

    /// Changes the data, commits it now, and returns the closure's result from the application that
    /// was committed: of concurrent requests that count something, each gets a different number.
    ///
    /// Changes made before by [`update`](Session::update) are committed with it. If the request is
    /// cancelled, the commit continues, with one exception: if it must set a cookie, as one that
    /// creates a session does, and has not begun to write yet, the change is not made.
    ///
    /// # Errors
    ///
    /// A [`SessionError`], and the change was not made. After
    /// [`OutcomeUnknown`](crate::StoreErrorKind::OutcomeUnknown) it may have been made.
    ///
    /// # Panics
    ///
    /// Panics if the closure does.
    pub async fn modify<R: Send + 'static>(
        &self,
        change: impl Fn(&mut T) -> R + Send + Sync + 'static,
    ) -> Result<R, SessionError> {
        let result = Arc::new(Mutex::new(None));
        let slot = result.clone();
        let change: Change<T> = Arc::new(move |data| {
            let answer = change(data);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        });
        self.request.commit_for_handler(Some(change)).await?;
        // Each application overwrites the result; the last one is the committed one.
        let result = result.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.ok_or(SessionError::Gone)
    }

    /// Like [`modify`](Session::modify), with a value that the closure takes. Each time that the
    /// closure is called, it is given a clone of it.
    ///
    /// # Errors
    ///
    /// As [`modify`](Session::modify).
    ///
    /// # Panics
    ///
    /// As [`modify`](Session::modify).
    pub async fn modify_with<V, R>(
        &self,
        value: V,
        change: impl Fn(&mut T, V) -> R + Send + Sync + 'static,
    ) -> Result<R, SessionError>
    where
        V: Clone + Send + Sync + 'static,
        R: Send + 'static,
    {
        self.modify(move |data| change(data, value.clone())).await
    }

    /// Like [`modify`](Session::modify), with a closure that may decline: if it returns `None`,
    /// what it has done to the data is dropped.
    ///
    /// It declines on data that is not older than this call, even if a cached session was older.
    ///
    /// ```
    /// # use clustered_sessions::{Session, SessionError};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// # struct UserSession { credits: u64 }
    /// async fn buy(session: &Session<UserSession>, price: u64) -> Result<bool, SessionError> {
    ///     let paid = session.modify_if(move |s| {
    ///         s.credits = s.credits.checked_sub(price)?;
    ///         Some(())
    ///     });
    ///     Ok(paid.await?.is_some())
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), SessionError> {
    /// let session = Session::detached(UserSession { credits: 5 });
    /// assert!(buy(&session, 3).await?);
    /// assert!(!buy(&session, 3).await?);
    /// assert_eq!(session.data().credits, 2);
    /// # Ok(()) }
    /// ```
    ///
    /// A value that must be used once, such as the state of an OAuth login or a flash message, is
    /// taken with `session.modify(|s| s.flash.take())`. If there is none, nothing is written.
    ///
    /// # Errors
    ///
    /// As [`modify`](Session::modify).
    ///
    /// # Panics
    ///
    /// Panics if the closure does.
    pub async fn modify_if<R: Send + 'static>(
        &self,
        change: impl Fn(&mut T) -> Option<R> + Send + Sync + 'static,
    ) -> Result<Option<R>, SessionError> {
        self.modify(move |data| unless_declined(data, &change)).await
    }

    /// Replaces the data of the visitor's session when the response is committed. Concurrent
    /// changes by other requests are **lost**; [`update`](Session::update) keeps them. It begins no
    /// new session, as a login must: see [`replace`](Session::replace).
    pub fn overwrite(&self, value: T) {
        self.update(move |data| *data = value.clone());
    }

    /// Discards uncommitted changes. A pending [`destroy`](Session::destroy) is not undone.
    pub fn discard(&self) {
        self.request.discard();
    }

    /// Makes this request one that does not count as a use of the session: it does not extend the
    /// idle timeout.
    ///
    /// For pages that poll, such as one that shows new messages: without it, a page that is left
    /// open keeps its session alive (OWASP Session Management Cheat Sheet, "Automatic Session
    /// Expiration"). A change extends the session nevertheless.
    ///
    /// ```
    /// # use clustered_sessions::Session;
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// # struct UserSession { unread: u64 }
    /// async fn poll(session: Session<UserSession>) -> String {
    ///     session.do_not_extend();
    ///     session.read(|s| s.unread.to_string())
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # assert_eq!(poll(Session::detached(UserSession { unread: 3 })).await, "3");
    /// # }
    /// ```
    pub fn do_not_extend(&self) {
        self.request.lock().do_not_extend();
    }

    /// Commits now what would be committed with the response.
    ///
    /// # Errors
    ///
    /// A [`SessionError`], and the changes were not committed. After
    /// [`OutcomeUnknown`](crate::StoreErrorKind::OutcomeUnknown) they may have been committed. A
    /// login by [`replace`](Session::replace) may have ended the session before.
    ///
    /// Changes that were not committed stay pending, and are tried again with the response or by
    /// the next call. A handler that has reported the failure calls [`discard`](Session::discard).
    /// After `OutcomeUnknown` and [`Gone`](SessionError::Gone), only a logout and a login by
    /// [`replace`](Session::replace) are tried again, and after
    /// [`LimitReached`](SessionError::LimitReached), only a logout.
    ///
    /// If another call was to commit the changes and has lost them, this one reports its error, or
    /// [`ChangesLost`](SessionError::ChangesLost) if the request was cut off.
    ///
    /// # Panics
    ///
    /// Panics if a closure given to [`update`](Session::update) does.
    pub async fn save(&self) -> Result<(), SessionError> {
        self.request.commit_for_handler(None).await
    }

    /// Loads the session again, past the cache, and applies uncommitted changes on top of it.
    ///
    /// After a revocation or an expiry, [`id`](Session::id) is `None`, and also after a
    /// regeneration by another request. A long-lived stream or socket that is to go on after a
    /// regeneration uses [`watch`](Session::watch) instead.
    ///
    /// # Errors
    ///
    /// A [`SessionError::Store`] if the backend cannot be queried. The session is unchanged.
    pub async fn reload(&self) -> Result<(), SessionError> {
        self.request.reload().await
    }
}

impl<T> Clone for Session<T> {
    fn clone(&self) -> Self {
        Session { request: self.request.clone() }
    }
}

/// Omits the data: it belongs to the application and may be private.
impl<T> fmt::Debug for Session<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.request.id()).finish_non_exhaustive()
    }
}
