//! The way in: verify the cookie and leave a handle in the request. No IO, and nothing is boxed but what the extensions box.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Extensions, Request, Response};
use tower_service::Service;

use super::future::ResponseFuture;
use super::shared::Shared;
use crate::record::SessionData;
use crate::session::{Handle, Seat, SessionError};

/// The middleware of a [`SessionLayer`](crate::SessionLayer).
pub struct SessionService<S, T> {
    pub(super) inner: S,
    pub(super) shared: Arc<Shared<T>>,
}

impl<S, T, ReqBody, ResBody> Service<Request<ReqBody>> for SessionService<S, T>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    T: SessionData,
    ResBody: Default,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, ResBody, T>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        match self.admit(&mut request) {
            Admission::New(handle) => ResponseFuture::new(self.inner.call(request), handle, self.shared.clone()),
            Admission::Known => ResponseFuture::bare(self.inner.call(request)),
            Admission::Clash => {
                let error = SessionError::ClashingLayers;
                tracing::error!(
                    cookie = &**self.shared.jar.name(),
                    error = &error as &dyn std::error::Error,
                    "a request cannot have a session"
                );
                ResponseFuture::refused(error)
            }
        }
    }
}

enum Admission<T: SessionData> {
    New(Arc<Handle<T>>),
    /// The same layer is around the request already.
    Known,
    /// Another store's layer has taken our cookie's name.
    Clash,
}

impl<S, T: SessionData> SessionService<S, T> {
    fn admit<B>(&self, request: &mut Request<B>) -> Admission<T> {
        let store = self.shared.store.address();
        if let Some(layers) = request.extensions().get::<Layers>() {
            for layer in layers.iter() {
                if layer.store == store {
                    return Admission::Known;
                }
                if layer.cookie == *self.shared.jar.name() {
                    return Admission::Clash;
                }
            }
        }
        let presented = self.shared.jar.verify(request.headers());
        let handle = Arc::new(Handle::new(self.shared.store.clone(), presented));
        request.extensions_mut().insert(Seat(handle.clone()));
        Layers::add(request.extensions_mut(), Layer { store, cookie: self.shared.jar.name().clone() });
        Admission::New(handle)
    }
}

/// The session layers around a request, the outermost first.
#[derive(Clone)]
struct Layers {
    first: Layer,
    others: Vec<Layer>,
}

#[derive(Clone)]
struct Layer {
    store: usize,
    cookie: Arc<str>,
}

impl Layers {
    fn add(extensions: &mut Extensions, layer: Layer) {
        match extensions.get_mut::<Layers>() {
            Some(layers) => layers.others.push(layer),
            None => drop(extensions.insert(Layers { first: layer, others: Vec::new() })),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl<S: Clone, T> Clone for SessionService<S, T> {
    fn clone(&self) -> Self {
        SessionService { inner: self.inner.clone(), shared: self.shared.clone() }
    }
}

impl<S: fmt::Debug, T> fmt::Debug for SessionService<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionService").field("inner", &self.inner).finish_non_exhaustive()
    }
}
