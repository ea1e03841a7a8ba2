//! The errors of a handler's session, and their responses.

use std::error::Error;
use std::fmt;

use http::{HeaderValue, Response, StatusCode, header};

use crate::error::{StoreError, StoreErrorKind};
use crate::observe::Outcome;

/// The reason why a session could not be read or changed.
///
/// With the feature `axum` it implements `IntoResponse`, as
/// [`to_response`](SessionError::to_response); in a debug build, the body says what to correct
/// after a mistake in the layers or the configuration. When the middleware replaces a
/// response, it puts the error into the extensions of the new one, where an outer layer can read
/// and log it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SessionError {
    /// The route is not below a [`SessionLayer`](crate::SessionLayer) for this type of data.
    #[non_exhaustive]
    MissingLayer {
        /// The name of the requested type of data.
        data: &'static str,
    },
    /// Two layers with different stores use the same cookie name.
    ClashingLayers,
    /// Other requests changed the session during every attempt. Nothing was written.
    #[non_exhaustive]
    Conflict {
        /// The number of attempts.
        attempts: u32,
    },
    /// The session has ended during the request: it was deleted elsewhere or has expired. Or the
    /// request came with the cookie of a session that was regenerated or replaced a moment ago, or
    /// a logout over an old handle did not find the session. Nothing was written.
    Gone,
    /// The response head has been sent, so it cannot carry the cookie of a new token. Nothing was
    /// written.
    HeadSent,
    /// An earlier step of the request has dropped changes that this commit would have made. Either
    /// the request was cancelled or has failed before its response, or a closure has panicked.
    /// Nothing was written.
    ChangesLost,
    /// Loading the session failed with this error, and the [outage policy](crate::OutagePolicy) has
    /// made it read-only. Nothing was written. After a successful
    /// [`reload`](crate::Session::reload) it can be changed.
    ReadOnly(StoreError),
    /// The owner has as many sessions as
    /// [`max_sessions_of_owner`](crate::SessionConfigBuilder::max_sessions_of_owner) allows, so the
    /// login was refused. The visitor's session is as it was before, unless another login of the
    /// owner took the last place at the same moment: then it may have ended.
    LimitReached,
    /// The data cannot be serialized, or is too large. Nothing was written.
    Encode(StoreError),
    /// The store failed.
    Store(StoreError),
}

impl SessionError {
    /// Returns the status of the response, which tells the client nothing else:
    ///
    /// - 503 if the backend has failed or refused the call, or if other requests were faster. A
    ///   request that is sent again may succeed.
    /// - 409 if the session has ended meanwhile, and for a login that was refused because of the
    ///   limit of sessions. The server is well, and the same request would fail again.
    /// - 404 for a session that the handler has asked a store for and that does not exist.
    /// - 500 for a mistake in the application, or a record that cannot be decoded.
    ///
    /// [`guide::resilience`](crate::guide::resilience#errors) has a table of all errors, and of
    /// what to do about each.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::MissingLayer { .. }
            | Self::ClashingLayers
            | Self::HeadSent
            | Self::ChangesLost
            | Self::Encode(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Store(error)
                if matches!(
                    error.kind(),
                    StoreErrorKind::Corrupt
                        | StoreErrorKind::NotConfigured
                        | StoreErrorKind::AlreadyExists
                ) =>
            {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Gone | Self::LimitReached => StatusCode::CONFLICT,
            Self::Store(error) if error.kind() == StoreErrorKind::NotFound => StatusCode::NOT_FOUND,
            Self::Conflict { .. } | Self::ReadOnly(_) | Self::Store(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// Returns what the developer has to correct if the routes, the layers and the configuration do
    /// not fit together.
    #[cfg(feature = "axum")]
    fn mistake(&self) -> Option<String> {
        match self {
            Self::MissingLayer { .. } | Self::ClashingLayers => Some(self.to_string()),
            Self::Store(error) if error.kind() == StoreErrorKind::NotConfigured => {
                error.source().map(ToString::to_string)
            }
            _ => None,
        }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Conflict { .. } => Outcome::Conflict,
            Self::Gone => Outcome::Gone,
            Self::HeadSent => Outcome::HeadSent,
            Self::ReadOnly(_) => Outcome::ReadOnly,
            Self::LimitReached => Outcome::LimitReached,
            Self::Encode(error) | Self::Store(error) => error.kind().into(),
            Self::MissingLayer { .. } | Self::ClashingLayers | Self::ChangesLost => Outcome::Other,
        }
    }

    /// Returns `true` if the change may have been made although it is reported as failed, so that
    /// it must not be repeated without a look at the session.
    ///
    /// ```
    /// # use clustered_sessions::{SessionError, StoreError, StoreErrorKind};
    /// let error = |kind| SessionError::from(StoreError::new(kind));
    /// assert!(error(StoreErrorKind::OutcomeUnknown).is_outcome_unknown());
    /// assert!(!error(StoreErrorKind::Timeout).is_outcome_unknown());
    /// ```
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Store(error) if error.kind() == StoreErrorKind::OutcomeUnknown)
    }

    /// Returns the error of the store, or `None` if the variant says everything.
    ///
    /// ```
    /// # use clustered_sessions::{SessionError, StoreError, StoreErrorKind};
    /// let error = SessionError::ReadOnly(StoreError::new(StoreErrorKind::Timeout));
    /// assert_eq!(error.store_error().map(StoreError::kind), Some(StoreErrorKind::Timeout));
    /// assert!(SessionError::Gone.store_error().is_none());
    /// ```
    #[must_use]
    pub fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::ReadOnly(error) | Self::Encode(error) | Self::Store(error) => Some(error),
            _ => None,
        }
    }

    /// Returns an empty response with this [`status`](Self::status), and with the error in its
    /// extensions.
    ///
    /// A 503 has `Retry-After: 1`, unless the outcome of a change is unknown: a client that sends
    /// the request again by itself could make the change twice.
    ///
    /// ```
    /// # use clustered_sessions::{SessionError, StoreError, StoreErrorKind};
    /// let error = SessionError::from(StoreError::new(StoreErrorKind::Timeout));
    /// let response: http::Response<String> = error.to_response();
    /// assert_eq!(response.status(), 503);
    /// assert!(response.extensions().get::<SessionError>().is_some());
    /// ```
    #[doc(alias = "response")]
    pub fn to_response<B: Default>(&self) -> Response<B> {
        let mut response = Response::new(B::default());
        *response.status_mut() = self.status();
        if self.status() == StatusCode::SERVICE_UNAVAILABLE && !self.is_outcome_unknown() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response.extensions_mut().insert(self.clone());
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
            StoreErrorKind::LimitReached => SessionError::LimitReached,
            StoreErrorKind::Encode | StoreErrorKind::TooLarge => SessionError::Encode(error),
            _ => SessionError::Store(error),
        }
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingLayer { data } => {
                write!(
                    f,
                    "no SessionLayer for `{data}` around this handler or middleware: add one for this \
                     type, with .layer(…) after the routes and the middleware that use it"
                )
            }
            Self::ClashingLayers => f.write_str(
                "two SessionLayers with different stores use the same cookie name: give each its \
                 own name, or share one layer",
            ),
            Self::Conflict { attempts } => {
                write!(f, "other requests changed the session during each of {attempts} attempts")
            }
            Self::Gone => f.write_str("the session has ended during the request"),
            Self::HeadSent => f.write_str(
                "the response head has been sent: a session can no longer be created or \
                 regenerated",
            ),
            Self::ChangesLost => f.write_str(
                "an earlier step of the request has dropped changes to the session: it was \
                 cancelled or has failed, or a closure has panicked",
            ),
            Self::ReadOnly(error) => {
                write!(f, "the session is read-only because it could not be loaded: {error}")
            }
            Self::LimitReached => f.write_str("the owner has as many sessions as are allowed"),
            Self::Encode(error) | Self::Store(error) => error.fmt(f),
        }
    }
}

impl Error for SessionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.store_error()?.source()
    }
}

/// With debug assertions, a mistake in the application is answered with its text, as no visitor
/// will see it. Otherwise the body is empty.
#[cfg(feature = "axum")]
impl axum_core::response::IntoResponse for SessionError {
    fn into_response(self) -> axum_core::response::Response {
        let mut response: axum_core::response::Response = self.to_response();
        if cfg!(debug_assertions)
            && let Some(text) = self.mistake()
        {
            *response.body_mut() = text.into();
        }
        response
    }
}

/// The response of the [`SessionError`] that it converts to.
#[cfg(feature = "axum")]
impl axum_core::response::IntoResponse for StoreError {
    fn into_response(self) -> axum_core::response::Response {
        SessionError::from(self).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_status_and_only_a_safe_retry_is_suggested() {
        use StoreErrorKind as Kind;

        let store = |kind| SessionError::from(StoreError::new(kind));
        let statuses = |errors: Vec<SessionError>| {
            errors.into_iter().map(|error| {
                let response = error.to_response::<()>();
                assert!(response.extensions().get::<SessionError>().is_some());
                let retry = response.headers().get(header::RETRY_AFTER).cloned();
                (response.status().as_u16(), retry.map(|after| after.to_str().unwrap().to_owned()))
            })
        };
        let after_a_second = Some("1".to_owned());
        let retry = [
            Kind::Unavailable,
            Kind::Timeout,
            Kind::CircuitOpen,
            Kind::Overloaded,
            Kind::Refused,
            Kind::Conflict,
            Kind::Closed,
        ];
        let mut retry = retry.map(store).to_vec();
        retry.push(SessionError::ReadOnly(StoreError::new(Kind::Timeout)));
        assert!(statuses(retry).all(|response| response == (503, after_a_second.clone())));
        assert!(
            statuses(vec![store(Kind::OutcomeUnknown)]).all(|response| response == (503, None))
        );
        let conflicts = [Kind::Gone, Kind::LimitReached].map(store).to_vec();
        assert!(statuses(conflicts).all(|response| response == (409, None)));
        assert!(statuses(vec![store(Kind::NotFound)]).all(|response| response == (404, None)));

        let mistakes =
            [Kind::Corrupt, Kind::NotConfigured, Kind::AlreadyExists, Kind::Encode, Kind::TooLarge];
        let mut mistakes = mistakes.map(store).to_vec();
        mistakes.extend([
            SessionError::HeadSent,
            SessionError::ChangesLost,
            SessionError::ClashingLayers,
            SessionError::MissingLayer { data: "UserSession" },
        ]);
        assert!(statuses(mistakes).all(|response| response == (500, None)));
    }

    #[test]
    fn an_error_gives_the_error_of_the_store_that_caused_it() {
        let cause = || StoreError::new(StoreErrorKind::Timeout).with_source("a cause");
        for error in [SessionError::ReadOnly, SessionError::Encode, SessionError::Store] {
            let error = error(cause());
            assert_eq!(error.store_error().unwrap().kind(), StoreErrorKind::Timeout);
            assert_eq!(error.source().unwrap().to_string(), "a cause");
        }
        for error in [SessionError::Gone, SessionError::Conflict { attempts: 1 }] {
            assert!(error.store_error().is_none() && error.source().is_none());
        }
    }
}
