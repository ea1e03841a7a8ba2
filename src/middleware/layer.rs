//! What is put around an application.

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use tower_layer::Layer;

use super::service::SessionService;
use super::state::LayerState;
use crate::config::SessionConfig;
use crate::cookie::CookieSigner;
use crate::error::StoreError;
use crate::record::SessionData;
use crate::store::SessionStore;

/// Gives the handlers below it a [`Session<T>`](crate::Session).
///
/// Make it once and clone it: all clones share one store, one cache and one listener. Making it does no IO and cannot fail;
/// [`SessionStore::wait_until_ready`] is there for failing at start.
///
/// # Order
///
/// - Layers for different types of data can be combined, each under a cookie name of its own. Of two for the same type, handlers
///   see the inner one.
/// - `CatchPanicLayer` belongs outside: a panic then ends the request as an error would.
/// - `TimeoutLayer` may be outside or inside. Outside, a request that it cuts off commits nothing but a logout. Inside, its answer
///   is a response like any other, with which is committed what was changed until then.
/// - `TraceLayer` belongs outside, since its body type has no default; inside, map the body to axum's first.
///
/// ```
/// # #[cfg(feature = "axum")] {
/// use axum::{Router, routing::get};
/// use clustered_sessions::{Secret, Session, SessionConfig, SessionLayer};
///
/// #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
/// struct UserSession { visits: u64 }
///
/// async fn visits(session: Session<UserSession>) -> String {
///     session.update(|s| s.visits += 1);
///     session.read(|s| format!("{} visits", s.visits))
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), clustered_sessions::ConfigError> {
/// let config = SessionConfig::<UserSession>::builder(Secret::new("at least thirty-two bytes of secret")?).build()?;
/// let app: Router = Router::new().route("/", get(visits)).layer(SessionLayer::new(config));
/// # let _ = app; Ok(()) }
/// # }
/// ```
pub struct SessionLayer<T> {
    pub(super) state: Arc<LayerState<T>>,
}

impl<T: SessionData> SessionLayer<T> {
    /// Builds the store and spawns its listener; outside a runtime, the first request does.
    pub fn new(config: SessionConfig<T>) -> Self {
        let signer = CookieSigner::new(config.cookie.clone(), &config.keys);
        SessionLayer { state: Arc::new(LayerState { store: SessionStore::new(config), signer }) }
    }

    /// The store, for what is not about the session of a request: administration, health, shutdown.
    pub fn store(&self) -> &SessionStore<T> {
        &self.state.store
    }

    /// Creates a session with this data and returns the `Cookie` header of a browser that has it, for tests.
    ///
    /// # Errors
    ///
    /// Those of [`SessionStore::create`].
    ///
    /// ```
    /// # #[cfg(feature = "axum")] {
    /// # use axum::{Router, body::Body, http::{Request, StatusCode, header}, routing::get};
    /// # use clustered_sessions::{Secret, Session, SessionConfig, SessionLayer};
    /// # use tower::ServiceExt as _;
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { name: Option<String> }
    /// # async fn me(session: Session<UserSession>) -> Result<String, StatusCode> {
    /// #     session.read(|s| s.name.clone()).ok_or(StatusCode::UNAUTHORIZED)
    /// # }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev")).build()?;
    /// let sessions = SessionLayer::new(config);
    /// let cookie = sessions.cookie_for(UserSession { name: Some("Ada".into()) }).await?;
    /// let app: Router = Router::new().route("/me", get(me)).layer(sessions);
    ///
    /// let request = Request::get("/me").header(header::COOKIE, cookie).body(Body::empty())?;
    /// assert_eq!(app.oneshot(request).await?.status(), StatusCode::OK);
    /// # Ok(()) }
    /// # }
    /// ```
    pub async fn cookie_for(&self, data: T) -> Result<HeaderValue, StoreError> {
        let session = self.state.store.create(data).await?;
        Ok(self.state.signer.pair(&session.token))
    }
}

impl<S, T: SessionData> Layer<S> for SessionLayer<T> {
    type Service = SessionService<S, T>;

    fn layer(&self, inner: S) -> Self::Service {
        SessionService { inner, state: self.state.clone() }
    }
}

impl<T> Clone for SessionLayer<T> {
    fn clone(&self) -> Self {
        SessionLayer { state: self.state.clone() }
    }
}

impl<T> fmt::Debug for SessionLayer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionLayer")
            .field("store", &self.state.store)
            .field("signer", &self.state.signer)
            .finish()
    }
}
