//! Server-Sent Events: a stream that lives as long as the session behind it.
//!
//! ```sh
//! cargo run --example sse
//! curl -c jar -X POST localhost:3000/login
//! curl -b jar -N localhost:3000/events            # ticks, until the logout below ends it
//! curl -b jar -X POST localhost:3000/visit        # in another terminal; seen in the stream
//! curl -b jar -X POST localhost:3000/logout
//! ```
//!
//! A stream goes on after the head of its response has left. Its session can still be read and changed then, but nothing is
//! committed for it any more: `reload` learns what other requests have done, `modify` commits at once.

#![allow(clippy::print_stdout, reason = "it says where it listens")]

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Sse;
use axum::response::sse::Event;
use axum::routing::{get, post};
use clustered_sessions::{Secret, Session, SessionConfig, SessionError, SessionLayer};
use futures_core::Stream;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::time::interval;

#[derive(Clone, Default, Serialize, Deserialize)]
struct Viewer {
    visits: u64,
    ticks: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let config = SessionConfig::<Viewer>::development(Secret::insecure_dev("sse")).build()?;
    let app = Router::new()
        .route("/login", post(login))
        .route("/visit", post(visit))
        .route("/logout", post(logout))
        .route("/events", get(events))
        .layer(SessionLayer::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 3000)).await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

async fn login(session: Session<Viewer>) {
    session.regenerate();
    session.overwrite(Viewer::default());
}

async fn visit(session: Session<Viewer>) {
    session.update(|viewer| viewer.visits += 1);
}

async fn logout(session: Session<Viewer>) {
    session.destroy();
}

/// Only for those who have a session: a stream cannot begin one, since its cookie would come too late.
async fn events(
    session: Option<Session<Viewer>>,
) -> Result<Sse<impl Stream<Item = Result<Event, SessionError>>>, StatusCode> {
    let session = session.ok_or(StatusCode::UNAUTHORIZED)?;
    let every = interval(Duration::from_secs(1));
    Ok(Sse::new(stream::try_unfold((session, every), async |(session, mut every)| {
        every.tick().await;
        let event = tick(&session).await?;
        Ok(event.map(|event| (event, (session, every))))
    })))
}

/// One event, or `None` when the session was revoked.
async fn tick(session: &Session<Viewer>) -> Result<Option<Event>, SessionError> {
    session.reload().await?;
    if session.id().is_none() {
        return Ok(None);
    }
    let counted = session.modify(|viewer| {
        viewer.ticks += 1;
        viewer.clone()
    });
    match counted.await {
        Ok(Viewer { visits, ticks }) => {
            Ok(Some(Event::default().data(format!("visits {visits}, ticks {ticks}"))))
        }
        // Revoked since the reload.
        Err(SessionError::Gone) => Ok(None),
        Err(error) => Err(error),
    }
}
