//! Logging in with a password, as small as it can be and still right.
//!
//! ```text
//! cargo run --example login
//! ```
//!
//! What makes it right:
//!
//! - Passwords are hashed with Argon2id (RFC 9106), on threads that may block, a few at a time: each takes 19 MiB.
//! - An unknown name takes as long as a wrong password, and is answered alike.
//! - The token changes at login, so one that somebody has planted is worth nothing.
//! - A new password ends all other sessions of the account, and a login or a change that was under way with the old one comes to
//!   nothing. If the sessions cannot be ended, since the backend is out of reach, that is answered with 503: it must be tried again.
//! - Other sites cannot post the forms: `CsrfLayer`, beside `SameSite=Lax`.
//!
//! What is left out: a database (here, a map), limits on attempts, confirmation by mail, a second factor.
#![allow(clippy::print_stdout, reason = "it says where it listens")]

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use clustered_sessions::{Secret, Session, SessionConfig, SessionError, SessionLayer};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tower_http::csrf::CsrfLayer;

/// What a session holds: who it is, and nothing that would have to be kept up to date.
#[derive(Clone, Default, Serialize, Deserialize)]
struct UserSession {
    name: Option<String>,
}

#[derive(Clone)]
struct Account {
    hash: String,
    /// Goes up with each new password.
    version: u64,
}

/// Stands in for a database.
#[derive(Clone)]
struct Accounts {
    accounts: Arc<Mutex<HashMap<String, Account>>>,
    /// What a password is compared with if there is no account.
    nobody: Arc<Account>,
    hashing: Arc<Semaphore>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let config = SessionConfig::development(Secret::insecure_dev("login"))
        .owner(|session: &UserSession| session.name.clone())
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

/// In front of everything that is for members alone.
async fn require_login(session: Session<UserSession>, request: Request, next: Next) -> Response {
    match session.read(|data| data.name.is_some()) {
        // Not to be seen with the Back button after a logout.
        true => ([(header::CACHE_CONTROL, "no-store")], next.run(request).await).into_response(),
        false => Redirect::to("/login").into_response(),
    }
}

/// The member's name, for the handlers behind [`require_login`].
fn name(session: &Session<UserSession>) -> String {
    session.read(|data| data.name.clone()).unwrap_or_default()
}

#[derive(Deserialize)]
struct Login {
    name: String,
    password: String,
}

async fn login(
    session: Session<UserSession>,
    State(accounts): State<Accounts>,
    Form(form): Form<Login>,
) -> Result<Response, Failure> {
    let Some(version) = accounts.verify(&form.name, form.password).await? else {
        return Ok(
            (StatusCode::UNAUTHORIZED, page(LOGIN, "Name or password are wrong.")).into_response()
        );
    };
    let name = form.name.clone();
    session.update(move |data| data.name = Some(name.clone()));
    session.regenerate();
    session.save().await?;
    // The password may have been changed since it was compared, and all sessions ended but this one, which was not there yet.
    if accounts.version(&form.name) != Some(version) {
        session.destroy();
        return Ok((StatusCode::UNAUTHORIZED, page(LOGIN, "The password has just been changed."))
            .into_response());
    }
    Ok(Redirect::to("/").into_response())
}

#[derive(Deserialize)]
struct ChangePassword {
    old: String,
    new: String,
}

async fn change_password(
    session: Session<UserSession>,
    State(accounts): State<Accounts>,
    Form(form): Form<ChangePassword>,
) -> Result<Response, Failure> {
    let name = name(&session);
    let Some(version) = accounts.verify(&name, form.old).await? else {
        return Ok(
            (StatusCode::FORBIDDEN, page(HOME, "The old password is wrong.")).into_response()
        );
    };
    if !(12..=128).contains(&form.new.chars().count()) {
        return Ok(
            (StatusCode::BAD_REQUEST, page(HOME, "Take 12 to 128 characters.")).into_response()
        );
    }
    // In this order: the password, this session's new token, and then the others.
    if !accounts.replace_password(&name, version, form.new).await? {
        return Ok((StatusCode::CONFLICT, page(HOME, "The password has just been changed."))
            .into_response());
    }
    session.regenerate();
    let saved = session.save().await;
    let others = match session.id().filter(|_| saved.is_ok()) {
        Some(this) => session.store().delete_all_of_except(&name, this).await,
        // This one, too: better than none.
        None => session.store().delete_all_of(&name).await,
    };
    let _ = others.map_err(SessionError::from)?;
    saved?;
    Ok(page(HOME, "The password is changed, and you are logged out everywhere else.")
        .into_response())
}

async fn logout(session: Session<UserSession>) -> Redirect {
    session.destroy();
    Redirect::to("/login")
}

async fn logout_everywhere(session: Session<UserSession>) -> Result<Redirect, Failure> {
    let _ = session.store().delete_all_of(&name(&session)).await.map_err(SessionError::from)?;
    // This one is among them; so the cookie goes, too.
    session.destroy();
    Ok(Redirect::to("/login"))
}

impl Accounts {
    async fn new() -> Result<Self, Failure> {
        let hashing = Arc::new(Semaphore::new(4));
        let nobody = Account {
            hash: hash("nobody has this password".to_owned(), &hashing).await?,
            version: 0,
        };
        Ok(Accounts { accounts: Arc::default(), nobody: Arc::new(nobody), hashing })
    }

    fn find(&self, name: &str) -> Option<Account> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn version(&self, name: &str) -> Option<u64> {
        self.find(name).map(|account| account.version)
    }

    /// The version of the password, if it is the right one.
    async fn verify(&self, name: &str, password: String) -> Result<Option<u64>, Failure> {
        let found = self.find(name);
        let account = found.clone().unwrap_or_else(|| (*self.nobody).clone());
        let permit = self.hashing.clone().acquire_owned().await.map_err(Failure::internal)?;
        let verified = tokio::task::spawn_blocking(move || {
            // Until the work is done, whether or not somebody still waits for it.
            let _permit = permit;
            let hash = PasswordHash::new(&account.hash)?;
            Argon2::default().verify_password(password.as_bytes(), &hash)
        });
        let is_right = verified.await.map_err(Failure::internal)?.is_ok();
        Ok(found.filter(|_| is_right).map(|account| account.version))
    }

    async fn register(&self, name: &str, password: &str) -> Result<(), Failure> {
        let account = Account { hash: hash(password.to_owned(), &self.hashing).await?, version: 1 };
        self.accounts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), account);
        Ok(())
    }

    /// Only if the password is still the one that was verified: of two changes at once, one wins, and the other is told.
    async fn replace_password(
        &self,
        name: &str,
        version: u64,
        password: String,
    ) -> Result<bool, Failure> {
        let hash = hash(password, &self.hashing).await?;
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        match accounts.get_mut(name) {
            Some(account) if account.version == version => {
                *account = Account { hash, version: version + 1 };
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// Argon2id with the parameters that OWASP's Password Storage Cheat Sheet recommends: 19 MiB, two passes, and a random salt.
async fn hash(password: String, hashing: &Arc<Semaphore>) -> Result<String, Failure> {
    let permit = hashing.clone().acquire_owned().await.map_err(Failure::internal)?;
    let hashed = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        Argon2::default().hash_password(password.as_bytes())
    });
    let hash = hashed.await.map_err(Failure::internal)?.map_err(Failure::internal)?;
    Ok(hash.to_string())
}

/// What a visitor sees as an empty page, and an operator in the log.
#[derive(Debug)]
enum Failure {
    Session(SessionError),
    Internal(String),
}

impl Failure {
    fn internal(error: impl std::fmt::Display) -> Self {
        Failure::Internal(error.to_string())
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Failure::Session(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Session(error) => error.fmt(f),
            Failure::Internal(error) => f.write_str(error),
        }
    }
}

impl Error for Failure {}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        tracing::error!(error = %self, "a request has failed");
        match self {
            Failure::Session(error) => error.into_response(),
            Failure::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

async fn login_page() -> Html<String> {
    page(LOGIN, "")
}

async fn home(session: Session<UserSession>) -> Html<String> {
    page(HOME, &format!("Hello {}.", name(&session)))
}

/// Nothing that visitors have typed goes into it but their own name, which is one of an account's.
fn page(content: &str, note: &str) -> Html<String> {
    let note = note.replace('&', "&amp;").replace('<', "&lt;");
    Html(format!("{HEAD}<p role=status>{note}</p>{content}"))
}

const HEAD: &str = r#"<!doctype html><html lang="en"><meta charset="utf-8"><title>Login</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark }
  body { font: 1rem/1.5 system-ui, sans-serif; max-width: 24rem; margin: 3rem auto; padding: 0 1rem }
  form { display: grid; gap: .5rem; margin: 1.5rem 0 }
  input, button { font: inherit; padding: .5rem .75rem; width: 100%; box-sizing: border-box }
</style>"#;

const LOGIN: &str = r#"<h1>Log in</h1><form method="post" action="/login">
<label>Name <input name="name" autocomplete="username" required maxlength="64"></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required maxlength="128"></label>
<button>Log in</button></form>"#;

const HOME: &str = r#"<h1>Your account</h1><form method="post" action="/password">
<label>Old password <input name="old" type="password" autocomplete="current-password" required maxlength="128"></label>
<label>New password <input name="new" type="password" autocomplete="new-password" required minlength="12" maxlength="128"></label>
<button>Change password</button></form>
<form method="post" action="/logout"><button>Log out</button></form>
<form method="post" action="/logout-everywhere"><button>Log out everywhere</button></form>"#;
