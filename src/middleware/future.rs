//! The way out: commit, then let the response go.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use super::headers;
use super::state::LayerState;
use crate::error::StoreErrorKind;
use crate::record::SessionData;
use crate::session::{Commit, RequestSession, SessionError, finished};

pin_project! {
    /// The response of a [`SessionService`](crate::SessionService).
    pub struct ResponseFuture<F, B, T: SessionData> {
        #[pin]
        stage: Stage<F, B>,
        // After `stage`, so that what the request owns is dropped before the request counts as over.
        request: AbortOnDrop<T>,
    }
}

pin_project! {
    #[project = StageProjection]
    enum Stage<F, B> {
        /// The application is at work.
        Inner { #[pin] inner: F },
        /// Its response waits for the commit.
        Commit { commit: Commit, response: Option<Response<B>> },
        /// There is nothing to wait for.
        Refused { error: Option<SessionError> },
    }
}

/// The request, as long as its head has not left. Dropped before that, it carries out a logout and forgets the rest.
struct AbortOnDrop<T: SessionData>(Option<(Arc<RequestSession<T>>, Arc<LayerState<T>>)>);

impl<F, B, T: SessionData> ResponseFuture<F, B, T> {
    pub(super) fn new(
        inner: F,
        session: Arc<RequestSession<T>>,
        state: Arc<LayerState<T>>,
    ) -> Self {
        ResponseFuture {
            stage: Stage::Inner { inner },
            request: AbortOnDrop(Some((session, state))),
        }
    }

    /// For a request that another layer looks after.
    pub(super) fn bare(inner: F) -> Self {
        ResponseFuture { stage: Stage::Inner { inner }, request: AbortOnDrop(None) }
    }

    pub(super) fn refused(error: SessionError) -> Self {
        ResponseFuture { stage: Stage::Refused { error: Some(error) }, request: AbortOnDrop(None) }
    }
}

impl<F, B, E, T> Future for ResponseFuture<F, B, T>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Default,
    T: SessionData,
{
    type Output = Result<Response<B>, E>;

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
                    let committed = finished(ready!(Pin::new(commit).poll(cx)));
                    let response = match (committed, response.take()) {
                        (Ok(()), Some(response)) => response,
                        (Ok(()), None) => panic!("polled after completion"),
                        (Err(error), _) => {
                            this.request.give_up();
                            replace(error)
                        }
                    };
                    return Poll::Ready(Ok(this.request.send_head(response)));
                }
                StageProjection::Refused { error } => {
                    return Poll::Ready(Ok(error
                        .take()
                        .map_or_else(Response::default, SessionError::response)));
                }
            }
        }
    }
}

impl<T: SessionData> AbortOnDrop<T> {
    fn session(&self) -> Option<&Arc<RequestSession<T>>> {
        self.0.as_ref().map(|(session, _)| session)
    }

    /// The client is told that its changes were not made, so they must not be made later. A logout is tried again.
    fn give_up(&self) {
        if let Some(session) = self.session() {
            session.discard();
        }
    }

    fn send_head<B>(&mut self, mut response: Response<B>) -> Response<B> {
        if let Some((session, state)) = self.0.take() {
            headers::apply(response.headers_mut(), &session.send_head(), &state.signer);
        }
        response
    }
}

impl<T: SessionData> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        if let Some((session, _)) = self.0.take() {
            session.abort();
        }
    }
}

/// An empty response in place of one whose session could not be committed: the client must not be told of a login that did
/// not happen.
fn replace<B: Default>(error: SessionError) -> Response<B> {
    let cause = &error as &dyn std::error::Error;
    let expected = match &error {
        // The one is ordinary: a logout came first. Of the other there may be one for each request of an outage, whose beginning
        // and end the listener and the circuit log.
        SessionError::Gone | SessionError::ReadOnly(_) => true,
        SessionError::Store(error) => error.kind() == StoreErrorKind::CircuitOpen,
        _ => false,
    };
    if expected {
        tracing::debug!(error = cause, "a session could not be committed");
    } else {
        tracing::error!(error = cause, "a session could not be committed");
    }
    error.response()
}

impl<F, B, T: SessionData> fmt::Debug for ResponseFuture<F, B, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
