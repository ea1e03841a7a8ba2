//! The session as a handler sees it.

mod change;
mod commit;
mod error;
mod extract;
mod request;

use std::fmt;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use self::commit::Commit;
pub use self::error::SessionError;
pub use self::extract::Fresh;
use self::request::Change;
pub(crate) use self::request::{CookieChange, Head, RequestSession};
use crate::backend::MemoryBackend;
use crate::cluster::ClusterConfig;
use crate::config::SessionConfig;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::record::SessionData;
use crate::secret::Secret;
use crate::store::SessionStore;

/// The session of a request. A cheap clone; all clones, and all extractions in one request, are one session.
///
/// Nothing is written, and no cookie is sent, for a visitor whose session nobody changed.
///
/// # Closures
///
/// Changes are closures, so that they can be made again on top of what another request has written in the meantime: no update is
/// lost. They run on a copy, outside every lock, perhaps several times; what is counted or sent inside one is counted or sent as
/// often. A closure must not change the session that it is changing: it would be made again for ever.
///
/// Two compile errors come up:
///
/// *cannot move out of `name`, a captured variable in an `Fn` closure*: clone inside, `s.name = name.clone()`.
///
/// *closure may outlive the current function, but it borrows `name`*: the change is made again after the handler has
/// returned, so write `move |s| …`.
///
/// ```
/// # use clustered_sessions::Session;
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { name: Option<String>, visits: u64 }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), clustered_sessions::SessionError> {
/// # let session = Session::detached(UserSession::default());
/// let name = String::from("Ada");
/// session.update(move |s| s.name = Some(name.clone()));           // committed with the response
/// let visits = session.modify(|s| { s.visits += 1; s.visits }).await?; // committed now
/// assert_eq!(visits, 1);
/// # Ok(()) }
/// ```
pub struct Session<T: SessionData> {
    request: Arc<RequestSession<T>>,
}

impl<T: SessionData> Session<T> {
    /// A snapshot of the data, with this request's changes. It does not follow later ones.
    ///
    /// A visitor without a session has `T::default()`.
    #[must_use]
    pub fn data(&self) -> Arc<T> {
        self.request.lock().data.clone()
    }

    /// What the closure makes of the data. It runs outside every lock.
    pub fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.data())
    }

    /// Changes the data: what this request sees now, and the session itself when the response is ready, whatever its status.
    ///
    /// If another request changes the session in between, the closure is called again on top of that. A commit that fails
    /// replaces the response. See [`Session`] on closures.
    pub fn update(&self, change: impl Fn(&mut T) + Send + Sync + 'static) {
        let change: Change<T> = Arc::new(change);
        self.request.apply(&change);
    }

    /// Changes the session now, and returns what the closure returned when the change was committed: of concurrent requests that
    /// count something, each gets a number of its own.
    ///
    /// What was changed before by [`update`](Session::update) is committed with it. The commit goes on if the request is
    /// cancelled.
    ///
    /// # Errors
    ///
    /// The change was not made: [`SessionError`] says why. After [`OutcomeUnknown`](StoreErrorKind::OutcomeUnknown) it may have
    /// been.
    ///
    /// # Panics
    ///
    /// If the closure does.
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
        self.commit(Some(change)).await?;
        let result = result.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Each application leaves one; the last one is the committed one.
        result.ok_or(SessionError::Gone)
    }

    /// Replaces the data. What other requests change at the same time is **lost**; [`update`](Session::update) keeps it.
    pub fn overwrite(&self, value: T) {
        self.update(move |data| *data = value.clone());
    }

    /// Takes back what is not committed yet, but never a [`destroy`](Session::destroy): a logout stands.
    pub fn discard(&self) {
        self.request.discard();
    }

    /// Gives the session a new token and id, with the response. The old ones are dead then.
    ///
    /// Do it at login and at every change of privilege: an attacker who planted or learned the old cookie is left with nothing
    /// (OWASP Session Management Cheat Sheet, "Renew the Session ID After Any Privilege Level Change").
    pub fn regenerate(&self) {
        self.request.regenerate();
    }

    /// Logs out: deletes the session on every node and removes the cookie, with the response.
    ///
    /// It is carried out even if the request is cancelled, panics or fails. What is changed afterwards belongs to a new session.
    /// After the response has begun, [`save`](Session::save) carries it out, or else the end of the last clone of this.
    pub fn destroy(&self) {
        self.request.destroy();
    }

    /// Commits now what would be committed with the response.
    ///
    /// # Errors
    ///
    /// The changes were not committed: [`SessionError`] says why. After [`OutcomeUnknown`](StoreErrorKind::OutcomeUnknown) they
    /// may have been.
    ///
    /// # Panics
    ///
    /// If a closure given to [`update`](Session::update) does.
    pub async fn save(&self) -> Result<(), SessionError> {
        self.commit(None).await
    }

    /// Reads the session past the cache. Changes not committed yet are made again on top of it.
    ///
    /// A stream or a socket that lives long learns in this way that its session was changed, or revoked: then
    /// [`id`](Session::id) is `None`.
    ///
    /// # Errors
    ///
    /// If the backend cannot be asked. The session is as before.
    pub async fn reload(&self) -> Result<(), SessionError> {
        self.request.reload().await
    }

    /// The session's id, which may be logged; `None` for a visitor without a session, and after [`destroy`](Session::destroy).
    #[must_use]
    pub fn id(&self) -> Option<SessionId> {
        self.request.id()
    }

    /// Whether there is no session behind this yet; under [`OutagePolicy::Anonymous`](crate::OutagePolicy::Anonymous) also if it
    /// cannot be known: see [`outage`](Session::outage).
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.id().is_none()
    }

    /// The error with which this request's session could not be loaded, if the [outage policy](crate::OutagePolicy) has put
    /// something in its place: a stranger's session, or what this node knew last. It is read-only then.
    ///
    /// Always `None` under [`OutagePolicy::Reject`](crate::OutagePolicy::Reject), where such a request has no session at all; and
    /// after a [`reload`](Session::reload) that succeeds.
    ///
    /// ```
    /// # use clustered_sessions::Session;
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { name: Option<String> }
    /// async fn home(session: Session<UserSession>) -> String {
    ///     if session.outage().is_some() {
    ///         return "Some things do not work at the moment. You are still logged in.".into();
    ///     }
    ///     session.read(|s| format!("Hello {}", s.name.as_deref().unwrap_or("stranger")))
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # assert_eq!(home(Session::detached(UserSession::default())).await, "Hello stranger");
    /// # }
    /// ```
    #[must_use]
    pub fn outage(&self) -> Option<StoreError> {
        self.request.outage()
    }

    /// The store that this session lives in.
    pub fn store(&self) -> &SessionStore<T> {
        &self.request.store
    }

    /// A session without a request, for testing a handler as a function. It lives in memory of its own.
    ///
    /// ```
    /// # use clustered_sessions::Session;
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { name: Option<String> }
    /// async fn greet(session: Session<UserSession>) -> String {
    ///     session.read(|s| format!("Hello {}", s.name.as_deref().unwrap_or("stranger")))
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
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
        let store = SessionStore::new(config);
        let record = store.create_in_memory(&memory, data);
        Session { request: Arc::new(RequestSession::found(store, record)) }
    }

    async fn commit(&self, extra: Option<Change<T>>) -> Result<(), SessionError> {
        finished(self.request.commit(extra).await)
    }
}

/// A panic of the application's goes on where the application waits for it.
pub(crate) fn finished(
    result: Result<Result<(), SessionError>, tokio::task::JoinError>,
) -> Result<(), SessionError> {
    match result.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(result) => result,
        Err(Ok(panic)) => resume_unwind(panic),
        // Only the end of the runtime cancels a commit.
        Err(Err(_)) => {
            let error = StoreError::from(StoreErrorKind::OutcomeUnknown)
                .with_source("the runtime is shutting down");
            Err(error.into())
        }
    }
}

impl<T: SessionData> Clone for Session<T> {
    fn clone(&self) -> Self {
        Session { request: self.request.clone() }
    }
}

/// Without the data: it is the application's, and may be private.
impl<T: SessionData> fmt::Debug for Session<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id()).finish_non_exhaustive()
    }
}
