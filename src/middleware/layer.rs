//! The tower layer, and the cookies that it makes outside of a request.

use std::fmt;
use std::sync::Arc;

use http::{HeaderValue, Response};
use tower_layer::Layer;

use super::error_response::EmptyErrorResponse;
use super::service::SessionService;
use crate::config::SessionConfig;
use crate::error::StoreError;
use crate::record::{NewSession, SessionData};
use crate::session::{LayerState, SessionError};
use crate::store::SessionStore;

/// A tower layer that gives the handlers below it a [`Session<T>`](crate::Session).
///
/// Create one and clone it: all clones share one store, one cache and one listener. Creating it
/// does no IO and cannot fail. To fail at startup if the backend is unreachable, call
/// [`SessionStore::wait_until_ready`].
///
/// `E` makes the response that replaces a handler's if its session cannot be committed: see
/// [`on_commit_error`](SessionLayer::on_commit_error).
///
/// # Order
///
/// - Layers for different types of data can be combined, each under its own cookie name and, in
///   Redis, its own [`key_prefix`](crate::RedisConfig::key_prefix). Of two layers for the same
///   type, handlers see the inner one.
/// - `CatchPanicLayer` belongs outside: a panic then ends the request as an error does.
/// - `TimeoutLayer` may be outside or inside. Outside, a request that it cuts off in the handler
///   commits nothing but a logout. A commit that writes already is finished, but the client does
///   not get the cookie of a login. One that must set a cookie and has not begun to write is not
///   made. Let the timeout be longer than that of two operations
///   ([`operation_timeout`](crate::SessionConfigBuilder::operation_timeout)). Inside, its response
///   is committed like any other, with the changes made so far.
/// - `TraceLayer` belongs outside, since its body type has no default. Inside, map its body to
///   axum's first.
///
/// ```
/// # #[cfg(feature = "axum")] {
/// use axum::{Router, routing::get};
/// use clustered_sessions::{ConfigError, Secret, Session, SessionConfig, SessionLayer};
///
/// #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
/// struct UserSession {
///     visits: u64,
/// }
///
/// async fn visits(session: Session<UserSession>) -> String {
///     session.update(|s| s.visits += 1);
///     session.read(|s| format!("{} visits", s.visits))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), ConfigError> {
/// let secret = Secret::new("at least thirty-two bytes of secret")?;
/// let config = SessionConfig::<UserSession>::builder(secret).build()?;
/// let app: Router = Router::new().route("/", get(visits)).layer(SessionLayer::new(config));
/// # let _ = app; Ok(()) }
/// # }
/// ```
pub struct SessionLayer<T, E = EmptyErrorResponse> {
    pub(super) state: Arc<LayerState<T>>,
    on_commit_error: E,
}

impl<T: SessionData> SessionLayer<T> {
    /// Creates a layer with a new store and spawns the store's listener. Outside a runtime, the
    /// first request spawns it.
    pub fn new(config: SessionConfig<T>) -> Self {
        SessionLayer {
            state: Arc::new(LayerState::new(config)),
            on_commit_error: EmptyErrorResponse,
        }
    }
}

impl<T: SessionData, E> SessionLayer<T, E> {
    /// Sets the response that a client gets instead of the handler's, if the session cannot be
    /// committed. Defaults to an empty one with the [status](crate::SessionError::status) of the
    /// error.
    ///
    /// With it, the response body needs no `Default`.
    ///
    /// # Risk
    ///
    /// The error may name hosts of your network. Do not show it to clients.
    ///
    /// ```
    /// # #[cfg(feature = "axum")] {
    /// use axum::{http::header::RETRY_AFTER, response::{Html, IntoResponse}};
    /// use clustered_sessions::SessionLayer;
    /// # use clustered_sessions::{Secret, SessionConfig};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev")).build()?;
    /// let sessions = SessionLayer::new(config).on_commit_error(|error| {
    ///     let (parts, ()) = error.to_response().into_parts();
    ///     let advice = match parts.headers.contains_key(RETRY_AFTER) {
    ///         true => "Please try again in a minute.",
    ///         // To send the request again is of no use, or makes the change twice.
    ///         false => "Please load the page again, and look whether your change was made.",
    ///     };
    ///     (parts, Html(advice)).into_response() // with the status, and `Retry-After`
    /// });
    /// let app: axum::Router = axum::Router::new().layer(sessions);
    /// # let _ = app; Ok(()) }
    /// # }
    /// ```
    pub fn on_commit_error<F, B>(self, response: F) -> SessionLayer<T, F>
    where
        // Not `ErrorResponse<B>`: only from `Fn` does the compiler infer a closure's argument.
        F: Fn(&SessionError) -> Response<B> + Clone,
    {
        SessionLayer { state: self.state, on_commit_error: response }
    }

    /// Returns the store, for tasks beyond the session of one request: administration, health
    /// checks, shutdown.
    pub fn store(&self) -> &SessionStore<T> {
        &self.state.store
    }

    /// Returns the `Set-Cookie` value that gives a client a session made by
    /// [`SessionStore::create`]. Its attributes are those of a cookie sent by the middleware,
    /// including `Max-Age`.
    ///
    /// Use it where a login does not change the [`Session`](crate::Session) of its own request: a
    /// login by link, by another service, or by a mobile client. A handler that also changes its
    /// `Session` would send two cookies. The client's previous session, if there is one, is not
    /// deleted.
    ///
    /// # Risk
    ///
    /// The value contains the token: anyone who has it has the session. Send it to the client that
    /// has logged in, over TLS only, and do not log it; it is marked as sensitive. Unlike the
    /// middleware, this method does not set `Cache-Control`. Set it to `no-store` or `private`, or
    /// a shared cache may give the session to other clients.
    ///
    /// ```
    /// # #[cfg(feature = "axum")] {
    /// # use axum::{Router, body::Body, http::{Request, header}, routing::get};
    /// use axum::{extract::State, response::{IntoResponse, Redirect}};
    /// use clustered_sessions::{Session, SessionLayer, StoreError};
    /// # use clustered_sessions::{Secret, SessionConfig};
    /// # use tower::ServiceExt as _;
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// # struct UserSession { name: Option<String> }
    /// # fn redeem_link() -> String { "Ada".into() }
    ///
    /// async fn login_by_link(
    ///     State(sessions): State<SessionLayer<UserSession>>,
    /// ) -> Result<impl IntoResponse, StoreError> {
    ///     let name = redeem_link();
    ///     let session = sessions.store().create(UserSession { name: Some(name) }).await?;
    ///     let no_store = header::HeaderValue::from_static("no-store");
    ///     let headers = [
    ///         (header::SET_COOKIE, sessions.set_cookie(&session)),
    ///         (header::CACHE_CONTROL, no_store),
    ///     ];
    ///     Ok((headers, Redirect::to("/")))
    /// }
    /// # async fn me(session: Session<UserSession>) -> String {
    /// #     session.read(|s| s.name.clone().unwrap_or_default())
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let secret = Secret::insecure_dev("dev");
    /// # let config = SessionConfig::<UserSession>::development(secret).build()?;
    /// # let sessions = SessionLayer::new(config);
    /// # let app: Router = Router::new()
    /// #     .route("/", get(me))
    /// #     .layer(sessions.clone())
    /// #     .route("/login", get(login_by_link))
    /// #     .with_state(sessions);
    /// # let login = Request::get("/login").body(Body::empty())?;
    /// # let response = app.clone().oneshot(login).await?;
    /// # let cookie = response.headers()[header::SET_COOKIE].to_str()?;
    /// # let cookie = cookie.split(';').next().unwrap_or_default();
    /// # let home = Request::get("/").header(header::COOKIE, cookie).body(Body::empty())?;
    /// # let body = app.oneshot(home).await?.into_body();
    /// # assert_eq!(axum::body::to_bytes(body, 100).await?, "Ada");
    /// # Ok(()) }
    /// # }
    /// ```
    #[must_use = "it returns the header and sends nothing"]
    pub fn set_cookie(&self, session: &NewSession<T>) -> HeaderValue {
        let lifetime = self.state.store.remaining_lifetime(&session.record);
        self.state.signer.set(&session.token, lifetime, session.record.is_remembered())
    }

    /// Creates a session with this data and returns the `Cookie` header of a browser that has it.
    /// For tests; see [`set_cookie`](Self::set_cookie) for logins.
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
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// # struct UserSession { name: Option<String> }
    /// # async fn me(session: Session<UserSession>) -> Result<String, StatusCode> {
    /// #     session.read(|s| s.name.clone()).ok_or(StatusCode::UNAUTHORIZED)
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let secret = Secret::insecure_dev("dev");
    /// # let config = SessionConfig::<UserSession>::development(secret).build()?;
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

impl<S, T: SessionData, E: Clone> Layer<S> for SessionLayer<T, E> {
    type Service = SessionService<S, T, E>;

    fn layer(&self, inner: S) -> Self::Service {
        let on_commit_error = self.on_commit_error.clone();
        SessionService { inner, state: self.state.clone(), on_commit_error }
    }
}

impl<T, E: Clone> Clone for SessionLayer<T, E> {
    fn clone(&self) -> Self {
        SessionLayer { state: self.state.clone(), on_commit_error: self.on_commit_error.clone() }
    }
}

impl<T, E> fmt::Debug for SessionLayer<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionLayer")
            .field("store", &self.state.store)
            .field("signer", &self.state.signer)
            .finish()
    }
}
