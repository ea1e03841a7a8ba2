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
//! - [`change_password`] ends all other sessions of the account. A concurrent login or password
//!   change that verified the old password fails. If the other sessions cannot be deleted because
//!   the backend is unreachable, the response is 503 and the user must try again.
//! - An account has five sessions at most: a sixth login ends the oldest.
//! - `devices.rs` lists an account's sessions, with their devices and times, and ends any of them.
//! - [`router`] rejects forms posted by other sites with `CsrfLayer`, in addition to
//!   `SameSite=Lax`.
//! - `pages.rs` has the HTML, and escapes what it inserts.
//!
//! Not included: a database (a map stands in for it), rate limits on login attempts, confirmation
//! by e-mail, a second factor.
#![allow(clippy::print_stdout, reason = "the example prints its address")]

mod accounts;
mod devices;
mod pages;

use std::error::Error;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use clustered_sessions::{
    Fresh, LimitPolicy, Secret, Session, SessionConfig, SessionError, SessionLayer,
};
use serde::{Deserialize, Serialize};
use tower_http::csrf::CsrfLayer;

use crate::accounts::{Accounts, HashError};

/// The data of a session: the account's name, and the device. Everything else about the account is
/// looked up by name, so nothing here can become stale.
#[derive(Clone, Default, Serialize, Deserialize)]
struct UserSession {
    name: Option<String>,
    device: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let config = SessionConfig::development(Secret::insecure_dev("login"))
        .owner(|session: &UserSession| session.name.clone())
        .max_sessions_of_owner(5, LimitPolicy::EndOldest)
        // The audit log: who has logged in and out, and why.
        .on_event(async |event| tracing::info!(?event, "session event"))
        .build()?;
    let accounts = Accounts::new().await?;
    accounts.register("ada", "correct horse battery staple").await?;
    let port = std::env::var("PORT").map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, router(SessionLayer::new(config), accounts)).await?;
    Ok(())
}

fn router(sessions: SessionLayer<UserSession>, accounts: Accounts) -> Router {
    let members = Router::new()
        .route("/", get(home))
        .route("/password", post(change_password))
        .route("/devices", get(devices::show).post(devices::end))
        .route("/logout", post(logout))
        .route("/logout-everywhere", post(logout_everywhere))
        .route_layer(from_fn(require_login));
    Router::new()
        .route("/login", get(login_page).post(login))
        .merge(members)
        .with_state(accounts)
        .layer(sessions)
        .layer(DefaultBodyLimit::max(4096))
        .layer(CsrfLayer::new())
}

/// Redirects visitors who are not logged in to the login page.
async fn require_login(session: Session<UserSession>, request: Request, next: Next) -> Response {
    match session.read(|data| data.name.is_some()) {
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
    let unauthorized = |note| (StatusCode::UNAUTHORIZED, pages::login(note)).into_response();
    let Some(version) = accounts.verify(&form.name, form.password).await? else {
        return Ok(unauthorized("The name or the password is wrong."));
    };
    let device = devices::describe(&headers);
    session.replace(UserSession { name: Some(form.name.clone()), device });
    session.save().await?;
    // A password change between `verify` and `save` has ended all sessions except this one, which
    // did not exist yet.
    if accounts.version(&form.name) != Some(version) {
        session.destroy();
        return Ok(unauthorized("The password has just been changed. Log in with the new one."));
    }
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
    // The order matters: first the password, then a new session for this visitor, then the other
    // sessions. A login with the old password fails from the first step on.
    if !accounts.replace_password(&name, version, form.new).await? {
        return Ok(refused(StatusCode::CONFLICT, "The password has just been changed elsewhere."));
    }
    session.replace(session.read(UserSession::clone));
    let saved = session.save().await;
    let others = match session.id().filter(|_| saved.is_ok()) {
        Some(this) => session.store().delete_all_of_except(&name, this).await,
        // Without a new one, this session must end as well: an attacker may know its token.
        None => session.store().delete_all_of(&name).await,
    };
    let _ = others.map_err(SessionError::from)?;
    saved?;
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
