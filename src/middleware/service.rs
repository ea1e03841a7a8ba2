//! The request's side: attaches a session to the request. The cookie is verified, and the session
//! loaded, when a handler extracts it. So there is no IO here, and no allocation but those of the
//! session and the extension.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::error_response::{EmptyErrorResponse, ErrorResponse};
use super::future::ResponseFuture;
use crate::record::SessionData;
use crate::session::{Attachments, LayerState, RequestSession, SessionError};

/// The middleware of a [`SessionLayer`](crate::SessionLayer): attaches a session to each request.
pub struct SessionService<S, T, E = EmptyErrorResponse> {
    pub(super) inner: S,
    pub(super) state: Arc<LayerState<T>>,
    pub(super) on_commit_error: E,
}

impl<S, T, E, ReqBody, ResBody> Service<Request<ReqBody>> for SessionService<S, T, E>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    T: SessionData,
    E: ErrorResponse<ResBody> + Clone,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, ResBody, T, E>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let on_commit_error = self.on_commit_error.clone();
        match self.attach(&mut request) {
            Ok(session) => ResponseFuture::new(self.inner.call(request), session, on_commit_error),
            Err(error) => ResponseFuture::refused(error, on_commit_error),
        }
    }
}

impl<S, T: SessionData, E> SessionService<S, T, E> {
    /// Attaches a session to a request. Returns `None` if an outer layer with the same store has
    /// attached its own.
    ///
    /// # Errors
    ///
    /// Fails with [`SessionError::ClashingLayers`] if an outer layer with another store uses the
    /// same cookie name.
    fn attach<B>(
        &self,
        request: &mut Request<B>,
    ) -> Result<Option<Arc<RequestSession<T>>>, SessionError> {
        if let Some(outer) = request.extensions().get::<Attachments>() {
            if outer.of_store(self.state.store.address()) {
                return Ok(None);
            }
            let name = self.state.signer.name();
            if outer.of_cookie(name) {
                let error = SessionError::ClashingLayers;
                tracing::error!(
                    cookie = &**name,
                    error = &error as &dyn std::error::Error,
                    "a request cannot have a session"
                );
                return Err(error);
            }
        }
        let session = Arc::new(RequestSession::new(self.state.clone(), request.headers()));
        Attachments::add(request.extensions_mut(), session.clone());
        Ok(Some(session))
    }
}

impl<S: Clone, T, E: Clone> Clone for SessionService<S, T, E> {
    fn clone(&self) -> Self {
        SessionService {
            inner: self.inner.clone(),
            state: self.state.clone(),
            on_commit_error: self.on_commit_error.clone(),
        }
    }
}

impl<S: fmt::Debug, T, E> fmt::Debug for SessionService<S, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionService").field("inner", &self.inner).finish_non_exhaustive()
    }
}
