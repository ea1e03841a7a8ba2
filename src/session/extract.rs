//! Extraction of the session from the request's extensions, and axum's extractors on top of it.

use std::any::type_name;

use http::Extensions;

use super::{Attachments, Session, SessionError};
use crate::record::SessionData;

impl<T: SessionData> Session<T> {
    /// Extracts the session from the extensions of its request, as the axum extractors do. Use it
    /// with other frameworks.
    ///
    /// The first call in a request loads the session; a visitor without one gets `T::default()`.
    ///
    /// # Errors
    ///
    /// - [`SessionError::MissingLayer`] if the request has not passed a
    ///   [`SessionLayer`](crate::SessionLayer) for `T`.
    /// - [`SessionError::Store`] if the session cannot be loaded and the
    ///   [outage policy](crate::OutagePolicy) does not replace it.
    pub async fn from_extensions(extensions: &Extensions) -> Result<Self, SessionError> {
        let session = Self::attached(extensions)?;
        session.request.load().await?;
        Ok(session)
    }

    fn attached(extensions: &Extensions) -> Result<Self, SessionError> {
        match extensions.get::<Attachments>().and_then(Attachments::get) {
            Some(request) => Ok(Session { request }),
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

/// An extractor that reads the session past the cache, as the backend has it when the handler is
/// called.
///
/// Use it where a session must not be used that was revoked or changed a moment ago on another
/// node, such as for a payment or a change of password. It costs a round trip. If the request has
/// extracted its session before, that session is reloaded, and its uncommitted changes are applied
/// again.
///
/// ```
/// # #[cfg(feature = "axum")] {
/// use clustered_sessions::{Fresh, Session};
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
/// # struct UserSession { name: Option<String> }
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
    /// Extracts the session as [`Session::from_extensions`] does, but reads it past the cache.
    ///
    /// # Errors
    ///
    /// - [`SessionError::MissingLayer`] if the request has not passed a
    ///   [`SessionLayer`](crate::SessionLayer) for `T`.
    /// - [`SessionError::Store`] if the session cannot be loaded, under any
    ///   [outage policy](crate::OutagePolicy).
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

    /// Extracts `None` for a visitor without a session. A failing store or a missing layer is a
    /// rejection, never `None`. The exception: under
    /// [`OutagePolicy::Anonymous`](crate::OutagePolicy::Anonymous), every visitor whose session
    /// cannot be loaded is treated as one without a session.
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
