//! Password login, as small as it can be while still being secure.
//!
//! ```text
//! cargo run --example login
//! ```
//!
//! Open <http://127.0.0.1:3000> and log in as `ada` with `correct horse battery staple`. Log in
//! again in a private window, then change the password or choose "Log out everywhere": the other
//! window is logged out at its next request. "Where you are logged in" ends one of them. `PORT`
//! sets another port; 0 picks a free one.
//!
//! Points of interest:
//!
//! - `accounts.rs` hashes passwords with Argon2id (RFC 9106). Each hash takes 19 MiB, so a
//!   semaphore limits how many are computed at a time, on threads that may block.
//! - An unknown name takes as long as a wrong password and gets the same response, so that neither
//!   reveals which accounts exist.
//! - [`login`] gives the session a new token, so a token planted by an attacker is worthless
//!   (session fixation).
//! - A session keeps the version of the password that was verified, and [`require_login`] compares
//!   it with the account's. So [`change_password`] ends all other sessions of the account, even if
//!   they cannot be deleted because the backend is unreachable, and also that of a concurrent login
//!   that has verified the old password.
//! - An account has five sessions at most: a sixth login ends the oldest.
//! - `devices.rs` lists an account's sessions, with their devices and times, and ends any of them.
//! - [`router`] rejects forms posted by other sites with `CsrfLayer`, in addition to
//!   `SameSite=Lax`.
//! - `pages.rs` has the HTML, and escapes what it inserts.
//!
//! Not included: a database (a map stands in for it), rate limits on login attempts, confirmation
//! by e-mail, a second factor.
#![allow(clippy::print_stdout, reason = "the example prints its address")]

pub(crate) mod accounts;
mod devices;
mod pages;

use std::error::Error;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use clustered_sessions::{
    Fresh, LimitPolicy, Secret, Session, SessionConfig, SessionError, SessionLayer,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tower_http::csrf::CsrfLayer;

use self::accounts::{Accounts, HashError};

/// Maximum number of passwords hashed at a time. Each takes 19 MiB and a core.
const MAX_CONCURRENT_HASHES: usize = 4;

/// The data of a session. Everything else about the account is looked up by name, so that it cannot
/// become stale.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct UserSession {
    pub(crate) name: Option<String>,
    /// The version of the password with which the visitor has logged in.
    version: u64,
    device: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    // For plain HTTP on one machine: cookies are not `Secure`, records are not encrypted, and the
    // node does not listen to others. The example `production` has what a deployment needs.
    let config = SessionConfig::development(Secret::insecure_dev("login"))
        .owner(|session: &UserSession| session.name.clone())
        .max_sessions_of_owner(5, LimitPolicy::EndOldest)
        // The audit log: who has logged in and out, and why.
        .on_event(async |event| tracing::info!(?event, "session event"))
        .build()?;
    let accounts = Accounts::new(Arc::new(Semaphore::new(MAX_CONCURRENT_HASHES))).await?;
    accounts.register("ada", "correct horse battery staple").await?;
    let port = std::env::var("PORT").map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, router(SessionLayer::new(config), accounts)).await?;
    Ok(())
}

pub(crate) fn router(sessions: SessionLayer<UserSession>, accounts: Accounts) -> Router {
    let members = Router::new()
        .route("/", get(home))
        .route("/password", post(change_password))
        .route("/devices", get(devices::show).post(devices::end))
        .route("/logout", post(logout))
        .route("/logout-everywhere", post(logout_everywhere))
        .route_layer(from_fn_with_state(accounts.clone(), require_login));
    Router::new()
        .route("/login", get(login_page).post(login))
        .merge(members)
        .with_state(accounts)
        .layer(sessions)
        .layer(DefaultBodyLimit::max(4096))
        .layer(CsrfLayer::new())
}

/// Redirects visitors to the login page who are not logged in, or whose password has been changed
/// since.
async fn require_login(
    session: Session<UserSession>,
    State(accounts): State<Accounts>,
    request: Request,
    next: Next,
) -> Response {
    let data = session.data();
    let current = data.name.as_ref().and_then(|name| accounts.version(name));
    match current == Some(data.version) {
        // Keeps the Back button from showing the page after a logout.
        true => ([(header::CACHE_CONTROL, "no-store")], next.run(request).await).into_response(),
        false => Redirect::to("/login").into_response(),
    }
}

/// Returns the account's name, in handlers behind [`require_login`].
fn name(session: &Session<UserSession>) -> String {
    session.read(|data| data.name.clone()).unwrap_or_default()
}

async fn login_page() -> Html<String> {
    pages::login("")
}

async fn home(session: Session<UserSession>) -> Html<String> {
    pages::home(&format!("Hello {}.", name(&session)))
}

#[derive(Deserialize)]
struct Login {
    name: String,
    password: String,
}

async fn login(
    session: Session<UserSession>,
    State(accounts): State<Accounts>,
    headers: HeaderMap,
    Form(form): Form<Login>,
) -> Result<Response, Failure> {
    let Some(version) = accounts.verify(&form.name, form.password).await? else {
        let page = pages::login("The name or the password is wrong.");
        return Ok((StatusCode::UNAUTHORIZED, page).into_response());
    };
    let device = devices::describe(&headers);
    // If the password has been changed since it was verified, the session has a former version.
    session.replace(UserSession { name: Some(form.name), version, device });
    Ok(Redirect::to("/").into_response())
}

#[derive(Deserialize)]
struct ChangePassword {
    old: String,
    new: String,
}

async fn change_password(
    Fresh(session): Fresh<Session<UserSession>>,
    State(accounts): State<Accounts>,
    Form(form): Form<ChangePassword>,
) -> Result<Response, Failure> {
    let refused = |status, note| (status, pages::home(note)).into_response();
    let name = name(&session);
    let Some(version) = accounts.verify(&name, form.old).await? else {
        return Ok(refused(StatusCode::FORBIDDEN, "The old password is wrong."));
    };
    if !(12..=128).contains(&form.new.chars().count()) {
        return Ok(refused(StatusCode::BAD_REQUEST, "Choose a password of 12 to 128 characters."));
    }
    // From here on, the sessions so far are those of a former version: nobody is logged in by them,
    // even if they cannot be deleted.
    let Some(version) = accounts.replace_password(&name, version, form.new).await? else {
        return Ok(refused(StatusCode::CONFLICT, "The password has just been changed elsewhere."));
    };
    session.replace(UserSession { version, ..session.read(UserSession::clone) });
    if let Err(error) = session.save().await {
        tracing::error!(%error, "no session with the new password");
        // Otherwise the response would commit what it says has failed.
        session.discard();
        let page = pages::login("Your password is changed. Log in with the new one.");
        return Ok((error.status(), page).into_response());
    }
    if let Some(this) = session.id()
        && let Err(error) = session.store().delete_all_of_except(&name, this).await
    {
        tracing::warn!(%error, "the other sessions of the account could not be deleted");
    }
    Ok(pages::home("Your password is changed. All other sessions are logged out.").into_response())
}

async fn logout(session: Session<UserSession>) -> Redirect {
    session.destroy();
    Redirect::to("/login")
}

async fn logout_everywhere(session: Session<UserSession>) -> Result<Redirect, Failure> {
    let _ = session.store().delete_all_of(&name(&session)).await.map_err(SessionError::from)?;
    // The record is deleted already; this removes the cookie.
    session.destroy();
    Ok(Redirect::to("/login"))
}

/// A request that failed on the server's side. The visitor gets the status code alone; the details
/// are logged.
#[derive(Debug)]
enum Failure {
    Session(SessionError),
    Hash(HashError),
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Failure::Session(error)
    }
}

impl From<HashError> for Failure {
    fn from(error: HashError) -> Self {
        Failure::Hash(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Failure::Session(error) => {
                tracing::error!(%error, "request failed: session error");
                error.into_response()
            }
            Failure::Hash(error) => {
                tracing::error!(%error, "request failed: password could not be hashed");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}
