//! The response's side: commits the session, then adds its headers to the response.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use super::error_response::{EmptyErrorResponse, ErrorResponse};
use super::headers;
use crate::error::StoreErrorKind;
use crate::record::SessionData;
use crate::session::{CommitHandle, LayerState, RequestSession, SessionError};

pin_project! {
    /// The response future of a [`SessionService`](crate::SessionService).
    pub struct ResponseFuture<F, B, T, E = EmptyErrorResponse> {
        #[pin]
        stage: Stage<F, B>,
        // After `stage`: the handler is dropped first, and what its drops do to the session still
        // counts.
        request: AbortOnDrop<T>,
        on_commit_error: E,
    }
}

pin_project! {
    #[project = StageProjection]
    enum Stage<F, B> {
        /// The inner service has not responded yet.
        Inner { #[pin] inner: F },
        /// Its response waits for the commit.
        Commit { commit: CommitHandle, response: Option<Response<B>> },
        /// The inner service was not called.
        Refused { error: Option<SessionError> },
    }
}

/// The request's session until the response head is sent. If it is dropped before that, the session
/// is aborted: a logout is carried out, and all other changes are discarded.
struct AbortOnDrop<T>(Option<Arc<RequestSession<T>>>);

impl<F, B, T, E> ResponseFuture<F, B, T, E> {
    pub(super) fn new(inner: F, session: Arc<RequestSession<T>>, on_commit_error: E) -> Self {
        ResponseFuture {
            stage: Stage::Inner { inner },
            request: AbortOnDrop(Some(session)),
            on_commit_error,
        }
    }

    /// Creates the future of a request whose session an outer layer commits.
    pub(super) fn bare(inner: F, on_commit_error: E) -> Self {
        ResponseFuture {
            stage: Stage::Inner { inner },
            request: AbortOnDrop(None),
            on_commit_error,
        }
    }

    pub(super) fn refused(error: SessionError, on_commit_error: E) -> Self {
        ResponseFuture {
            stage: Stage::Refused { error: Some(error) },
            request: AbortOnDrop(None),
            on_commit_error,
        }
    }
}

impl<F, B, T, E, Error> Future for ResponseFuture<F, B, T, E>
where
    F: Future<Output = Result<Response<B>, Error>>,
    E: ErrorResponse<B>,
    T: SessionData,
{
    type Output = Result<Response<B>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.stage.as_mut().project() {
                StageProjection::Inner { inner } => {
                    let response = ready!(inner.poll(cx))?;
                    let Some(session) =
                        this.request.session().filter(|session| session.needs_commit())
                    else {
                        return Poll::Ready(Ok(this.request.send_head(response)));
                    };
                    let commit = session.commit(None);
                    this.stage.set(Stage::Commit { commit, response: Some(response) });
                }
                StageProjection::Commit { commit, response } => {
                    let committed = ready!(Pin::new(commit).poll(cx));
                    let Some(response) = response.take() else { polled_after_completion() };
                    let response = match committed {
                        Ok(()) => response,
                        Err(error) => {
                            this.request.discard();
                            log_failed_commit(&error);
                            error_response(error, this.on_commit_error)
                        }
                    };
                    return Poll::Ready(Ok(this.request.send_head(response)));
                }
                StageProjection::Refused { error } => {
                    let Some(error) = error.take() else { polled_after_completion() };
                    return Poll::Ready(Ok(error_response(error, this.on_commit_error)));
                }
            }
        }
    }
}

impl<T: SessionData> AbortOnDrop<T> {
    fn session(&self) -> Option<&Arc<RequestSession<T>>> {
        self.0.as_ref()
    }

    /// Discards the changes of a failed commit: the client gets an error, so they must not be made
    /// later. A logout is tried again.
    fn discard(&self) {
        if let Some(session) = self.session() {
            session.discard_failed();
        }
    }

    fn send_head<B>(&mut self, mut response: Response<B>) -> Response<B> {
        if let Some(session) = self.0.take() {
            let changes = session.send_head();
            let LayerState { signer, refused, .. } = session.layer();
            if changes.ambiguous {
                refused.ambiguous();
            }
            headers::apply(response.headers_mut(), &changes, signer);
        }
        response
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        if let Some(session) = self.0.take() {
            session.abort();
        }
    }
}

#[cold]
fn polled_after_completion() -> ! {
    panic!("`ResponseFuture` polled after completion")
}

/// Returns the response that replaces the handler's, with the error in its extensions.
fn error_response<B>(error: SessionError, on_commit_error: &impl ErrorResponse<B>) -> Response<B> {
    let mut response = on_commit_error.response_for(&error);
    response.extensions_mut().insert(error);
    response
}

fn log_failed_commit(error: &SessionError) {
    let cause = error as &dyn std::error::Error;
    let expected = match error {
        // `Gone` is ordinary: a logout came first. So is `LimitReached`, which is counted. During
        // an outage, every request may fail as `ReadOnly` or with an open circuit. The listener and
        // the circuit log its start and end. Under overload, a line per request would only add to
        // it.
        SessionError::Gone | SessionError::LimitReached | SessionError::ReadOnly(_) => true,
        SessionError::Store(error) => {
            matches!(error.kind(), StoreErrorKind::CircuitOpen | StoreErrorKind::Overloaded)
        }
        _ => false,
    };
    if expected {
        tracing::debug!(error = cause, "a session could not be committed");
    } else {
        tracing::error!(error = cause, "a session could not be committed");
    }
}

impl<F, B, T, E> fmt::Debug for ResponseFuture<F, B, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
