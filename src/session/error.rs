//! What can go wrong for a handler.

use std::error::Error;
use std::fmt;

use http::{HeaderValue, Response, StatusCode, header};

use crate::error::{StoreError, StoreErrorKind};
use crate::observe::Outcome;

/// Why a session could not be read or changed.
///
/// With the feature `axum` it is a response, that of [`response`](SessionError::response). The middleware
/// puts it into the extensions of a response that it had to replace, where a layer outside can log it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SessionError {
    /// The route is not below a [`SessionLayer`](crate::SessionLayer) for this type of data.
    MissingLayer {
        /// The type of data asked for.
        data: &'static str,
    },
    /// Two layers with different stores use the same cookie name.
    ClashingLayers,
    /// Others changed the session each time the change was tried. Nothing was written.
    Conflict {
        /// How often it was tried.
        attempts: u32,
    },
    /// The session was there when the request began and is gone: logged out elsewhere, or expired. Nothing was written.
    Gone,
    /// The response's head has left, so no cookie can be sent any more. Nothing was written.
    HeadSent,
    /// The session could not be loaded, with this error, and the [outage policy](crate::OutagePolicy) has made it read-only. Nothing
    /// was written. After a [`reload`](crate::Session::reload) that succeeds, it can be changed.
    ReadOnly(StoreError),
    /// The data cannot be written as JSON, or is too large. Nothing was written.
    Encode(StoreError),
    /// The store failed.
    Store(StoreError),
}

impl SessionError {
    /// The status that tells the client no more than it needs: 503 for what may work when tried again, 500 for a mistake in the
    /// application or a record that cannot be read.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::MissingLayer { .. } | Self::ClashingLayers | Self::HeadSent | Self::Encode(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Store(error)
                if matches!(
                    error.kind(),
                    StoreErrorKind::Corrupt | StoreErrorKind::NotConfigured
                ) =>
            {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Conflict { .. } | Self::Gone | Self::ReadOnly(_) | Self::Store(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Conflict { .. } => Outcome::Conflict,
            Self::Gone => Outcome::Gone,
            Self::HeadSent => Outcome::HeadSent,
            Self::ReadOnly(_) => Outcome::ReadOnly,
            Self::Encode(error) | Self::Store(error) => error.kind().into(),
            Self::MissingLayer { .. } | Self::ClashingLayers => Outcome::Other,
        }
    }

    /// An empty response with this status, `Retry-After` where trying again may help, and the error in its extensions.
    pub fn response<B: Default>(self) -> Response<B> {
        let mut response = Response::new(B::default());
        *response.status_mut() = self.status();
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for SessionError {
    fn from(error: StoreError) -> Self {
        match error.kind() {
            StoreErrorKind::Conflict => {
                SessionError::Conflict { attempts: error.attempts().unwrap_or(1) }
            }
            StoreErrorKind::Gone => SessionError::Gone,
            StoreErrorKind::Encode | StoreErrorKind::TooLarge => SessionError::Encode(error),
            _ => SessionError::Store(error),
        }
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingLayer { data } => {
                write!(f, "no SessionLayer for `{data}` above this handler: add .layer(SessionLayer) after the routes")
            }
            Self::ClashingLayers => f.write_str(
                "two SessionLayers with different stores use one cookie name: give each its own, or share one layer",
            ),
            Self::Conflict { attempts } => {
                write!(f, "the session was changed by others during each of {attempts} attempts")
            }
            Self::Gone => f.write_str("the session has gone during the request"),
            Self::HeadSent => {
                f.write_str("the response has begun: a session can no longer be created or given a new token")
            }
            Self::ReadOnly(error) => write!(f, "the session is read-only, since it could not be loaded: {error}"),
            Self::Encode(error) | Self::Store(error) => error.fmt(f),
        }
    }
}

impl Error for SessionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::ReadOnly(error) | Self::Encode(error) | Self::Store(error) => error.source(),
            _ => None,
        }
    }
}

#[cfg(feature = "axum")]
impl axum_core::response::IntoResponse for SessionError {
    fn into_response(self) -> axum_core::response::Response {
        self.response()
    }
}

/// As the [`SessionError`] that it becomes.
#[cfg(feature = "axum")]
impl axum_core::response::IntoResponse for StoreError {
    fn into_response(self) -> axum_core::response::Response {
        SessionError::from(self).response()
    }
}
