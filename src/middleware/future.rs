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
use crate::record::SessionData;
use crate::session::{
    CommitError, CommitHandle, HeadChanges, LayerState, RequestSession, SessionError,
};

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
    /// Creates the future of a request. There is no `session` if an outer layer commits it.
    pub(super) fn new(
        inner: F,
        session: Option<Arc<RequestSession<T>>>,
        on_commit_error: E,
    ) -> Self {
        ResponseFuture {
            stage: Stage::Inner { inner },
            request: AbortOnDrop(session),
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
                    let mut response = ready!(inner.poll(cx))?;
                    let Some(commit) = this.request.send_head_or_commit(&mut response) else {
                        return Poll::Ready(Ok(response));
                    };
                    this.stage.set(Stage::Commit { commit, response: Some(response) });
                }
                StageProjection::Commit { commit, response } => {
                    let committed = ready!(Pin::new(commit).poll(cx));
                    let Some(response) = response.take() else { polled_after_completion() };
                    let mut response = match committed {
                        Ok(()) => response,
                        Err(CommitError { error, .. }) => {
                            this.request.discard_failed(&error);
                            let mut instead = error_response(error, this.on_commit_error);
                            headers::keep_cookies(response, &mut instead);
                            instead
                        }
                    };
                    this.request.send_head(&mut response);
                    return Poll::Ready(Ok(response));
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
    /// Logs a failed commit, and discards its changes: the client gets an error, so they must not
    /// be made later. A logout is tried again.
    fn discard_failed(&self, error: &SessionError) {
        if let Some(session) = &self.0 {
            session.discard_failed(error);
            session.layer().failed_commits.log(error);
        }
    }

    /// Adds the session to the response head, or begins the commit that the head must wait for.
    fn send_head_or_commit<B>(&mut self, response: &mut Response<B>) -> Option<CommitHandle> {
        let session = self.0.as_mut()?;
        match session.send_head_unless_busy() {
            Some(changes) => {
                apply(response, &changes, session.layer());
                self.0 = None;
                None
            }
            None => Some(session.commit(None)),
        }
    }

    fn send_head<B>(&mut self, response: &mut Response<B>) {
        if let Some(session) = self.0.take() {
            apply(response, &session.send_head(), session.layer());
        }
    }
}

fn apply<T, B>(response: &mut Response<B>, changes: &HeadChanges, layer: &LayerState<T>) {
    if changes.ambiguous {
        layer.refused.ambiguous();
    }
    headers::apply(response, changes, &layer.signer);
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

impl<F, B, T, E> fmt::Debug for ResponseFuture<F, B, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
