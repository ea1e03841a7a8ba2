//! How a handler gets the session: out of the request's extensions, and through axum's extractors on top of that.

use std::any::type_name;
use std::sync::Arc;

use http::Extensions;

use super::{RequestSession, Session, SessionError};
use crate::record::SessionData;

impl<T: SessionData> Session<T> {
    /// The session of the request that these extensions belong to. What the axum extractors do, for other frameworks.
    ///
    /// The first call in a request loads the session; a visitor without one gets `T::default()`.
    ///
    /// # Errors
    ///
    /// [`SessionError::MissingLayer`]; [`SessionError::Store`] if the session cannot be loaded, unless the
    /// [outage policy](crate::OutagePolicy) has something to put in its place.
    pub async fn from_extensions(extensions: &Extensions) -> Result<Self, SessionError> {
        let session = Self::attached(extensions)?;
        session.request.find().await?;
        Ok(session)
    }

    fn attached(extensions: &Extensions) -> Result<Self, SessionError> {
        match extensions.get::<Arc<RequestSession<T>>>() {
            Some(request) => Ok(Session { request: request.clone() }),
            None => {
                let error = SessionError::MissingLayer { data: type_name::<T>() };
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a request cannot have a session"
                );
                Err(error)
            }
        }
    }
}

/// A session read past the cache: as the backend has it when the handler is called.
///
/// For what must not rest on a session that was revoked or changed a moment ago on another node: a payment, a change of password.
/// It costs a round trip. In a request that has extracted its session before, that one is reloaded, and the changes not committed
/// yet are made again on top.
///
/// ```
/// # #[cfg(feature = "axum")] {
/// use clustered_sessions::{Fresh, Session};
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { name: Option<String> }
///
/// async fn pay(Fresh(session): Fresh<Session<UserSession>>) -> String {
///     session.read(|s| format!("paid by {:?}", s.name))
/// }
/// # let _: axum::Router = axum::Router::new().route("/pay", axum::routing::post(pay));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Fresh<S>(pub S);

impl<T: SessionData> Fresh<Session<T>> {
    /// As [`Session::from_extensions`], past the cache.
    ///
    /// # Errors
    ///
    /// [`SessionError::MissingLayer`]; [`SessionError::Store`] if the session cannot be loaded, whatever the
    /// [outage policy](crate::OutagePolicy).
    pub async fn from_extensions(extensions: &Extensions) -> Result<Self, SessionError> {
        let session = Session::attached(extensions)?;
        session.reload().await?;
        Ok(Fresh(session))
    }
}

#[cfg(feature = "axum")]
mod axum {
    use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
    use http::request::Parts;

    use super::{Fresh, Session, SessionData, SessionError};

    impl<T: SessionData, S: Sync> FromRequestParts<S> for Session<T> {
        type Rejection = SessionError;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, SessionError> {
            Session::from_extensions(&parts.extensions).await
        }
    }

    /// `None` for a visitor without a session. A store that fails, or a missing layer, is a rejection and never `None`. Only under
    /// [`OutagePolicy::Anonymous`](crate::OutagePolicy::Anonymous) a visitor who is made a stranger is `None`, as strangers are.
    impl<T: SessionData, S: Sync> OptionalFromRequestParts<S> for Session<T> {
        type Rejection = SessionError;

        async fn from_request_parts(
            parts: &mut Parts,
            _: &S,
        ) -> Result<Option<Self>, SessionError> {
            let session = Session::from_extensions(&parts.extensions).await?;
            Ok((!session.is_new()).then_some(session))
        }
    }

    impl<T: SessionData, S: Sync> FromRequestParts<S> for Fresh<Session<T>> {
        type Rejection = SessionError;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, SessionError> {
            Fresh::from_extensions(&parts.extensions).await
        }
    }
}
