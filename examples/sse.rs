//! Server-Sent Events: a stream that ends when its session is revoked.
//!
//! ```sh
//! cargo run --example sse
//! curl -c jar -X POST localhost:3000/login
//! curl -b jar -N localhost:3000/events            # one event a second, until the logout below
//! curl -b jar -X POST localhost:3000/visit        # in another terminal; appears in the stream
//! curl -b jar -X POST localhost:3000/logout       # ends the stream
//! ```
//!
//! Points of interest: [`tick`]. A stream continues after the response head has been sent. From
//! then on, the layer commits nothing for the request, so the stream calls `reload` to see the
//! changes made by other requests, and `modify`, which commits immediately.

#![allow(clippy::print_stdout, reason = "the example prints its address")]

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

/// The data of a session.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Viewer {
    /// Requests to `/visit`.
    visits: u64,
    /// Events sent, by all streams of the session.
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
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

/// Starts a session. An application would check a password first: see the example `login`.
async fn login(session: Session<Viewer>) {
    session.replace(Viewer::default());
}

async fn visit(session: Session<Viewer>) {
    session.update(|viewer| viewer.visits += 1);
}

async fn logout(session: Session<Viewer>) {
    session.destroy();
}

/// Requires a session. A stream cannot create one: the cookie must be sent with the response head.
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

/// Returns the next event, or `None` if the session has been revoked.
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
        // The session was revoked after the reload.
        Err(SessionError::Gone) => Ok(None),
        Err(error) => Err(error),
    }
}
