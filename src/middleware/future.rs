//! The way out: commit, then let the response go.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use super::headers;
use super::shared::Shared;
use crate::error::StoreErrorKind;
use crate::record::SessionData;
use crate::session::{Commit, Handle, SessionError, finished};

pin_project! {
    /// The response of a [`SessionService`](crate::SessionService).
    pub struct ResponseFuture<F, B, T: SessionData> {
        #[pin]
        stage: Stage<F, B>,
        // After `stage`, so that what the request owns is dropped before the request counts as over.
        request: OpenRequest<T>,
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
struct OpenRequest<T: SessionData>(Option<Parties<T>>);

type Parties<T> = (Arc<Handle<T>>, Arc<Shared<T>>);

impl<F, B, T: SessionData> ResponseFuture<F, B, T> {
    pub(super) fn new(inner: F, handle: Arc<Handle<T>>, shared: Arc<Shared<T>>) -> Self {
        ResponseFuture { stage: Stage::Inner { inner }, request: OpenRequest(Some((handle, shared))) }
    }

    /// For a request that another layer looks after.
    pub(super) fn bare(inner: F) -> Self {
        ResponseFuture { stage: Stage::Inner { inner }, request: OpenRequest(None) }
    }

    pub(super) fn refused(error: SessionError) -> Self {
        ResponseFuture { stage: Stage::Refused { error: Some(error) }, request: OpenRequest(None) }
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
                    let Some(handle) = this.request.handle().filter(|handle| handle.needs_commit()) else {
                        return Poll::Ready(Ok(this.request.send_head(response)));
                    };
                    let commit = handle.commit(None);
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
                    return Poll::Ready(Ok(error.take().map_or_else(Response::default, SessionError::response)));
                }
            }
        }
    }
}

impl<T: SessionData> OpenRequest<T> {
    fn handle(&self) -> Option<&Arc<Handle<T>>> {
        self.0.as_ref().map(|(handle, _)| handle)
    }

    /// The client is told that its changes were not made, so they must not be made later. A logout is tried again.
    fn give_up(&self) {
        if let Some(handle) = self.handle() {
            handle.discard();
        }
    }

    fn send_head<B>(&mut self, mut response: Response<B>) -> Response<B> {
        if let Some((handle, shared)) = self.0.take() {
            headers::apply(response.headers_mut(), &handle.send_head(), &shared.jar);
        }
        response
    }
}

impl<T: SessionData> Drop for OpenRequest<T> {
    fn drop(&mut self) {
        if let Some((handle, _)) = self.0.take() {
            handle.abort();
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
