//! Server-Sent Events: a stream of the changes of a session that ends with the session.
//!
//! ```sh
//! cargo run --example sse
//! curl -c jar -X POST localhost:3000/login?user=ada
//! curl -b jar -N localhost:3000/events            # in one terminal; stays open
//! curl -b jar -X POST localhost:3000/visit        # in another; appears in the stream
//! curl -b jar -X POST localhost:3000/logout       # ends the stream
//! ```
//!
//! Points of interest: [`events`]. The stream asks the store for nothing while nothing happens. It
//! is told of each change and of the end of the session on whatever node that was. `until_ended`
//! does the same for a stream that has another source, such as a clock or a message queue. `PORT`
//! sets another port; 0 picks a free one.

#![allow(clippy::print_stdout, reason = "the example prints its address")]

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::Sse;
use axum::response::sse::Event;
use axum::routing::{get, post};
use clustered_sessions::{Secret, Session, SessionConfig, SessionLayer};
use futures_core::Stream;
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::time::interval;

/// The data of a session.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Viewer {
    /// Set by a login alone. A visitor who is not logged in may have a session as well.
    user: Option<String>,
    visits: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // For plain HTTP on one machine: cookies are not `Secure`, records are not encrypted, and the
    // node does not listen to others. The example `production` has what a deployment needs.
    let config = SessionConfig::<Viewer>::development(Secret::insecure_dev("sse")).build()?;
    let app = Router::new()
        .route("/login", post(login))
        .route("/visit", post(visit))
        .route("/logout", post(logout))
        .route("/events", get(events))
        .route("/clock", get(clock))
        .layer(SessionLayer::new(config));
    let port = std::env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

#[derive(Deserialize)]
struct Login {
    user: String,
}

/// Starts a session. An application would check a password first: see the example `login`.
async fn login(session: Session<Viewer>, Query(Login { user }): Query<Login>) {
    session.replace(Viewer { user: Some(user), visits: 0 });
}

async fn visit(session: Session<Viewer>) {
    session.update(|viewer| viewer.visits += 1);
}

async fn logout(session: Session<Viewer>) {
    session.destroy();
}

type Events<S> = Result<Sse<S>, StatusCode>;

fn require_login(session: &Session<Viewer>) -> Result<(), StatusCode> {
    session.read(|viewer| viewer.user.is_some()).then_some(()).ok_or(StatusCode::UNAUTHORIZED)
}

/// Sends the number of visits whenever it changes, to a visitor who is logged in. A stream cannot
/// begin a session, since the cookie must be sent with the response head.
async fn events(session: Session<Viewer>) -> Events<impl Stream<Item = Result<Event, Infallible>>> {
    require_login(&session)?;
    let watch = session.watch().ok_or(StatusCode::UNAUTHORIZED)?;
    let changes = stream::unfold(watch, async |mut watch| {
        let session = watch.changed().await.ok()?;
        let event = Event::default().data(format!("visits {}", session.data().visits));
        Some((Ok(event), watch))
    });
    Ok(Sse::new(changes))
}

/// Sends an event a second, as long as the session lasts.
async fn clock(session: Session<Viewer>) -> Events<impl Stream<Item = Result<Event, Infallible>>> {
    require_login(&session)?;
    let seconds = stream::unfold(interval(Duration::from_secs(1)), async |mut interval| {
        interval.tick().await;
        Some((Event::default().data("tick"), interval))
    });
    Ok(Sse::new(session.until_ended(seconds).map(Ok)))
}
