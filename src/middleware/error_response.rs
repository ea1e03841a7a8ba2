//! The response that replaces a handler's when its session cannot be committed.

use http::Response;

use crate::session::SessionError;

/// Makes the response that a client gets instead of the handler's, if the session cannot be
/// committed: the client must not see the response of a login that did not happen.
///
/// Implemented for closures; see
/// [`SessionLayer::on_commit_error`](crate::SessionLayer::on_commit_error).
#[diagnostic::on_unimplemented(
    message = "`{Self}` makes no response with the body `{B}`",
    label = "not the body of the handlers' responses",
    note = "put layers that change the body, such as `TraceLayer`, outside of the `SessionLayer`",
    note = "or call `SessionLayer::on_commit_error` with a closure that returns this body"
)]
pub trait ErrorResponse<B> {
    /// Makes the response for this error.
    fn response_for(&self, error: &SessionError) -> Response<B>;
}

impl<B, F: Fn(&SessionError) -> Response<B>> ErrorResponse<B> for F {
    fn response_for(&self, error: &SessionError) -> Response<B> {
        self(error)
    }
}

/// Makes a response without a body, with the [status](SessionError::status) of the error. The
/// default of a [`SessionLayer`](crate::SessionLayer).
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptyErrorResponse;

impl<B: Default> ErrorResponse<B> for EmptyErrorResponse {
    fn response_for(&self, error: &SessionError) -> Response<B> {
        error.to_response()
    }
}
