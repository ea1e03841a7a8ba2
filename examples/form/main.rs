//! A form, with two small libraries that keep a part of the session each.
//!
//! ```text
//! cargo run --example form
//! ```
//!
//! Open <http://127.0.0.1:3000> and leave a note. `PORT` sets another port; 0 picks a free one.
//!
//! Points of interest:
//!
//! - `flash.rs` has messages for the next page, and `csrf.rs` tokens that only this site's forms
//!   know. Neither knows [`Visitor`]: they ask for their [`Part`] of it.
//! - [`Visitor`] has both parts, and says where they are by `AsRef` and `AsMut`.
//! - A handler extracts the parts beside the whole session. All are the same session, and what they
//!   change is committed together.
#![allow(clippy::print_stdout, reason = "the example prints its address")]
#![allow(clippy::expect_used, reason = "without random numbers there is nothing to do")]

mod csrf;
mod flash;

use std::error::Error;

use axum::http::StatusCode;
use axum::response::{Html, Redirect};
use axum::routing::get;
use axum::{Form, Router};
use clustered_sessions::{Part, Secret, Session, SessionConfig, SessionError, SessionLayer};
use serde::{Deserialize, Serialize};

use crate::csrf::Csrf;
use crate::flash::Flash;

#[derive(Clone, Default, Serialize, Deserialize)]
struct Visitor {
    notes: u32,
    flash: Flash,
    csrf: Csrf,
}

impl AsRef<Flash> for Visitor {
    fn as_ref(&self) -> &Flash {
        &self.flash
    }
}

impl AsMut<Flash> for Visitor {
    fn as_mut(&mut self) -> &mut Flash {
        &mut self.flash
    }
}

impl AsRef<Csrf> for Visitor {
    fn as_ref(&self) -> &Csrf {
        &self.csrf
    }
}

impl AsMut<Csrf> for Visitor {
    fn as_mut(&mut self) -> &mut Csrf {
        &mut self.csrf
    }
}

/// Shows the messages, and the form with its token.
async fn page(
    session: Session<Visitor>,
    flash: Part<Visitor, Flash>,
    csrf: Part<Visitor, Csrf>,
) -> Result<Html<String>, SessionError> {
    let messages = escape(&flash::take(&flash).await?.join(" "));
    let token = csrf::token(&csrf).await?;
    let notes = session.read(|visitor| visitor.notes);
    Ok(Html(format!(
        "<!doctype html><title>Notes</title><p>{messages}<p>You have left {notes} notes.\
         <form method=post><input name=note><input type=hidden name=token value=\"{token}\">\
         <button>Leave a note</button></form>"
    )))
}

/// Makes text safe between tags. A message may have something that a visitor has written.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[derive(Deserialize)]
struct Note {
    note: String,
    token: String,
}

/// Takes a note, if it comes from a form of this site.
async fn leave(
    session: Session<Visitor>,
    flash: Part<Visitor, Flash>,
    csrf: Part<Visitor, Csrf>,
    Form(form): Form<Note>,
) -> Result<Redirect, StatusCode> {
    if !csrf::verify(&csrf, &form.token) {
        return Err(StatusCode::FORBIDDEN);
    }
    if form.note.is_empty() {
        flash::add(&flash, "A note has some text.");
    } else {
        session.update(|visitor| visitor.notes += 1);
        // Limited, because it is kept in the session.
        let beginning: String = form.note.chars().take(40).collect();
        flash::add(&flash, format!("Thank you for \"{beginning}\"."));
    }
    Ok(Redirect::to("/"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // For plain HTTP on one machine: cookies are not `Secure`, records are not encrypted, and the
    // node does not listen to others. The example `production` has what a deployment needs.
    let config = SessionConfig::<Visitor>::development(Secret::insecure_dev("form")).build()?;
    let app = Router::new().route("/", get(page).post(leave)).layer(SessionLayer::new(config));
    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
