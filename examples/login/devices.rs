//! The page "where you are logged in", on which any of the account's sessions can be ended.

use std::time::{Duration, SystemTime};

use axum::Form;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use clustered_sessions::{Session, SessionError, SessionId};
use serde::Deserialize;

use super::accounts::Accounts;
use super::{Failure, UserSession, name, pages};

/// Longest description of a device, in characters. The header comes from the client, and is kept in
/// each session.
const MAX_DEVICE: usize = 80;

/// A line of the page.
pub(crate) struct Device {
    /// The id under which the session was first created. It stays when the session is regenerated.
    pub(crate) origin: SessionId,
    pub(crate) name: String,
    pub(crate) login: String,
    pub(crate) last_use: String,
    pub(crate) is_this: bool,
}

/// Returns a description of the visitor's device, to be kept in the session.
pub(crate) fn describe(headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    agent.unwrap_or("an unknown device").chars().take(MAX_DEVICE).collect()
}

pub(crate) async fn show(session: Session<UserSession>) -> Result<Html<String>, Failure> {
    page(&session, "").await
}

#[derive(Deserialize)]
pub(crate) struct End {
    origin: SessionId,
    password: String,
}

/// Ends one session of the account. It asks for the password (OWASP ASVS 5.0, 7.5.2), so that
/// somebody who has taken over a session cannot lock the owner out.
pub(crate) async fn end(
    session: Session<UserSession>,
    State(accounts): State<Accounts>,
    Form(form): Form<End>,
) -> Result<Response, Failure> {
    let name = name(&session);
    if accounts.verify(&name, form.password).await?.is_none() {
        let page = page(&session, "The password is wrong.").await?;
        return Ok((StatusCode::FORBIDDEN, page).into_response());
    }
    // The owner's sessions alone are looked at, so the form cannot name anybody else's.
    let ended = session.store().bulk_delete_of(&name, |it| it.origin() == form.origin).await;
    let note = match ended.map_err(SessionError::from)?.deleted {
        0 => "That session had ended already.",
        _ => "That device is logged out.",
    };
    Ok(page(&session, note).await?.into_response())
}

async fn page(session: &Session<UserSession>, note: &str) -> Result<Html<String>, Failure> {
    let sessions = session.store().sessions_of(&name(session)).await.map_err(SessionError::from)?;
    let this = session.record().map(|record| record.origin());
    let devices = sessions.iter().map(|record| Device {
        origin: record.origin(),
        name: record.data().device.clone(),
        login: ago(record.logged_in_at()),
        last_use: ago(record.last_used_at()),
        is_this: this == Some(record.origin()),
    });
    Ok(pages::devices(note, devices))
}

/// Says how long ago a moment was.
fn ago(moment: SystemTime) -> String {
    let minutes = moment.elapsed().unwrap_or(Duration::ZERO).as_secs() / 60;
    match (minutes / 60 / 24, minutes / 60, minutes) {
        (0, 0, 0) => "just now".to_owned(),
        (0, 0, minutes) => format!("{minutes} min ago"),
        (0, hours, _) => format!("{hours} h ago"),
        (days, ..) => format!("{days} days ago"),
    }
}
