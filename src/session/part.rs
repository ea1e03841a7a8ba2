//! A part of the session's data, for libraries that do not know the whole.

use std::fmt;
use std::marker::PhantomData;

use super::{Session, SessionError};
use crate::record::SessionData;

/// A part of the session: what a library keeps in it, such as messages or a token, whatever else
/// the application has there.
///
/// The library defines the type of the part. The application puts it into its session data and says
/// where, by `AsRef` and `AsMut`. A handler extracts `Part<UserSession, Messages>` beside or
/// instead of `Session<UserSession>`: both are the same session of the request, and changes of
/// either are committed together.
///
/// ```
/// use clustered_sessions::{Part, Session, SessionData, SessionError};
/// use serde::{Deserialize, Serialize};
///
/// // In the library:
/// #[derive(Clone, Default, Serialize, Deserialize)]
/// pub struct Messages(Vec<String>);
///
/// pub async fn take<T>(part: Part<T, Messages>) -> Result<Vec<String>, SessionError>
/// where
///     T: SessionData + AsRef<Messages> + AsMut<Messages>,
/// {
///     part.modify(|messages| std::mem::take(&mut messages.0)).await
/// }
///
/// // In the application:
/// #[derive(Clone, Default, Serialize, Deserialize)]
/// struct UserSession { name: Option<String>, messages: Messages }
///
/// impl AsRef<Messages> for UserSession {
///     fn as_ref(&self) -> &Messages { &self.messages }
/// }
///
/// impl AsMut<Messages> for UserSession {
///     fn as_mut(&mut self) -> &mut Messages { &mut self.messages }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), SessionError> {
/// # let session = Session::detached(UserSession::default());
/// let part = Part::<UserSession, Messages>::of(session);
/// part.update_with("Saved.".to_owned(), |messages, text| messages.0.push(text));
/// assert_eq!(take(part).await?, ["Saved."]);
/// # Ok(()) }
/// ```
///
/// [`Session::replace`], as at a login, replaces all parts by those of the new data.
///
/// The example `form` has two such libraries of some twenty lines each: messages for the next page,
/// and tokens against cross-site request forgery.
pub struct Part<T, P> {
    session: Session<T>,
    part: PhantomData<fn() -> P>,
}

impl<T, P> Part<T, P>
where
    T: SessionData + AsRef<P> + AsMut<P>,
    P: 'static,
{
    /// Returns the part of a session.
    pub fn of(session: Session<T>) -> Self {
        Part { session, part: PhantomData }
    }

    /// Returns the whole session.
    pub fn session(&self) -> &Session<T> {
        &self.session
    }

    /// Calls `f` with the part as it is now: see [`Session::read`].
    pub fn read<R>(&self, f: impl FnOnce(&P) -> R) -> R {
        self.session.read(|data| f(data.as_ref()))
    }

    /// Changes the part with the response: see [`Session::update`].
    ///
    /// # Panics
    ///
    /// As [`Session::update`].
    pub fn update(&self, change: impl Fn(&mut P) + Send + Sync + 'static) {
        self.session.update(move |data| change(data.as_mut()));
    }

    /// Like [`update`](Part::update), with a value that the closure takes: see
    /// [`Session::update_with`].
    ///
    /// # Panics
    ///
    /// As [`Session::update`].
    pub fn update_with<V>(&self, value: V, change: impl Fn(&mut P, V) + Send + Sync + 'static)
    where
        V: Clone + Send + Sync + 'static,
    {
        self.session.update_with(value, move |data, value| change(data.as_mut(), value));
    }

    /// Changes the part now, and returns the closure's result: see [`Session::modify`].
    ///
    /// # Errors
    ///
    /// As [`Session::modify`].
    ///
    /// # Panics
    ///
    /// As [`Session::modify`].
    pub async fn modify<R: Send + 'static>(
        &self,
        change: impl Fn(&mut P) -> R + Send + Sync + 'static,
    ) -> Result<R, SessionError> {
        self.session.modify(move |data| change(data.as_mut())).await
    }

    /// Like [`modify`](Part::modify), with a closure that may decline: see [`Session::modify_if`].
    ///
    /// # Errors
    ///
    /// As [`Session::modify`].
    ///
    /// # Panics
    ///
    /// As [`Session::modify`].
    pub async fn modify_if<R: Send + 'static>(
        &self,
        change: impl Fn(&mut P) -> Option<R> + Send + Sync + 'static,
    ) -> Result<Option<R>, SessionError> {
        self.session.modify_if(move |data| change(data.as_mut())).await
    }
}

impl<T, P> Clone for Part<T, P> {
    fn clone(&self) -> Self {
        Part { session: self.session.clone(), part: PhantomData }
    }
}

impl<T, P> fmt::Debug for Part<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Part").field(&self.session).finish()
    }
}

#[cfg(feature = "axum")]
mod axum {
    use axum_core::extract::FromRequestParts;
    use http::request::Parts;

    use super::{Part, Session, SessionData, SessionError};

    impl<T, P, S> FromRequestParts<S> for Part<T, P>
    where
        T: SessionData + AsRef<P> + AsMut<P>,
        P: 'static,
        S: Sync,
    {
        type Rejection = SessionError;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, SessionError> {
            Session::from_extensions(&parts.extensions).await.map(Part::of)
        }
    }
}
