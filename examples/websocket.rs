//! A WebSocket that is told of changes of its session, and is closed when the session ends.
//!
//! ```sh
//! cargo run --example websocket    # then open http://localhost:3000 in two tabs
//! ```
//!
//! Points of interest: [`talk`], which waits for the session and for the client at the same time,
//! [`is_same_origin`], without which any website could open a socket with a visitor's cookie, and
//! [`Sockets`], which a graceful shutdown does not wait for by itself.
//!
//! | variable | meaning |
//! |---|---|
//! | `PORT` | port to listen on; defaults to 3000; 0 picks a free one |
//! | `REDIS_URL` | the Redis that stores the sessions; unset: in memory |
//! | `MAX_STALENESS_MS` | longest time that a missed announcement can go unnoticed; unset: the crate's default |
//! | `WATCH_GRACE_MS` | how long a socket outlives the loss of its Redis; unset: the crate's default |

#![allow(clippy::print_stdout, reason = "the example prints its address")]

use std::env;
use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{Html, Response};
use axum::routing::{get, post};
use clustered_sessions::{
    ClusterConfig, Ended, RedisConfig, Secret, Session, SessionConfig, SessionLayer, SessionWatch,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The data of a session.
#[derive(Clone, Default, Serialize, Deserialize)]
struct UserSession {
    /// Set by a login alone. A visitor who is not logged in may have a session as well.
    user: Option<String>,
}

/// The sockets that are open. After the upgrade, they are not among the requests that axum's
/// graceful shutdown waits for.
#[derive(Clone, Default)]
struct Sockets {
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// A client that has not read a message for this long is given up: while it holds back a message,
/// the end of its session could not be told.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Applications may use the codes from 4000 on.
const LOGGED_OUT: CloseFrame =
    CloseFrame { code: 4001, reason: Utf8Bytes::from_static("please log in") };
const UNKNOWN: CloseFrame =
    CloseFrame { code: 4002, reason: Utf8Bytes::from_static("please connect again") };
/// "Going away" (RFC 6455, section 7.4.1).
const SHUTDOWN: CloseFrame =
    CloseFrame { code: 1001, reason: Utf8Bytes::from_static("please connect again") };

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut cluster = ClusterConfig::new().enabled(true);
    if let Some(time) = millis("MAX_STALENESS_MS")? {
        cluster = cluster.max_staleness(time);
    }
    if let Some(time) = millis("WATCH_GRACE_MS")? {
        cluster = cluster.watch_grace(time);
    }
    // For plain HTTP on one machine: cookies are not `Secure`, and records are not encrypted.
    let mut config =
        SessionConfig::<UserSession>::development(Secret::insecure_dev("ws")).cluster(cluster);
    if env::var_os("REDIS_URL").is_some() {
        config = config.redis(RedisConfig::from_env("REDIS_URL")?);
    }
    let sessions = SessionLayer::new(config.build()?);
    let store = sessions.store().clone();
    let sockets = Sockets::default();
    let app = Router::new()
        .route("/", get(async || Html(PAGE)))
        .route("/login", post(login))
        .route("/rename", post(rename))
        .route("/logout", post(logout))
        .route("/socket", get(socket))
        .with_state(sockets.clone())
        .layer(sessions);
    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            terminate.recv().await;
        })
        .await?;
    // Before the store: what is done over a socket may still have to be committed.
    sockets.shutdown.cancel();
    sockets.tasks.close();
    sockets.tasks.wait().await;
    store.shutdown().await;
    Ok(())
}

fn millis(variable: &str) -> Result<Option<Duration>, Box<dyn Error>> {
    let Ok(text) = env::var(variable) else { return Ok(None) };
    Ok(Some(Duration::from_millis(text.parse()?)))
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

/// Starts a session. An application would check a password first: see the example `login`.
async fn login(session: Session<UserSession>, Query(Name { name }): Query<Name>) {
    session.replace(UserSession { user: Some(name) });
}

async fn rename(
    session: Session<UserSession>,
    Query(Name { name }): Query<Name>,
) -> Result<(), StatusCode> {
    require_login(&session)?;
    session.update(move |data| data.user = Some(name.clone()));
    Ok(())
}

async fn logout(session: Session<UserSession>) {
    session.destroy();
}

fn require_login(session: &Session<UserSession>) -> Result<(), StatusCode> {
    session.read(|data| data.user.is_some()).then_some(()).ok_or(StatusCode::UNAUTHORIZED)
}

/// Opens a socket for a visitor who is logged in.
async fn socket(
    session: Session<UserSession>,
    State(sockets): State<Sockets>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, StatusCode> {
    if !is_same_origin(&headers) {
        return Err(StatusCode::FORBIDDEN);
    }
    require_login(&session)?;
    let watch = session.watch().ok_or(StatusCode::UNAUTHORIZED)?;
    let Sockets { tasks, shutdown } = sockets;
    Ok(upgrade.on_upgrade(move |socket| tasks.track_future(talk(socket, watch, shutdown))))
}

/// Returns `true` unless another website has asked for the socket. Browsers name the website, and
/// do not ask before they send cookies with the request. Other clients need not be asked: an
/// attacker has no cookie of a visitor there.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.is_some() && origin.as_ref().and_then(Uri::authority).map(|from| from.as_str()) == host
}

/// Answers the client, tells it of changes of its session, and closes the socket when the session
/// has ended, or the server shuts down.
async fn talk(
    mut socket: WebSocket,
    mut watch: SessionWatch<UserSession>,
    shutdown: CancellationToken,
) {
    let farewell = loop {
        let text = tokio::select! {
            // The session first: after its end, no message is answered.
            biased;
            changed = watch.changed() => match changed {
                Ok(session) => format!("you are {}", session.data().user.as_deref().unwrap_or("?")),
                Err(Ended::Unknown) => break UNKNOWN,
                Err(_) => break LOGGED_OUT,
            },
            () = shutdown.cancelled() => break SHUTDOWN,
            message = socket.recv() => match message {
                // A message counts as a use, so the session does not become idle.
                Some(Ok(Message::Text(text))) => match watch.visit().await {
                    Ok(true) => format!("you said {text}"),
                    Ok(false) => break LOGGED_OUT,
                    // The session may have ended. If it stays unknown, the watch ends.
                    Err(_) => continue,
                },
                Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
        };
        let Ok(Ok(())) = timeout(SEND_TIMEOUT, socket.send(Message::text(text))).await else {
            return;
        };
    };
    let _ = timeout(SEND_TIMEOUT, socket.send(Message::Close(Some(farewell)))).await;
}

const PAGE: &str = r#"<!doctype html>
<title>A socket that ends with its session</title>
<p>
  <input id="user" value="Ada">
  <button onclick="send('login').then(connect)">log in</button>
  <button onclick="send('rename')">rename</button>
  <button onclick="send('logout')">log out</button>
</p>
<p><input id="line" value="Hello"> <button onclick="socket.send(line.value)">say</button></p>
<pre id="log"></pre>
<script>
  let socket;
  const note = line => log.textContent += line + "\n";
  const send = path => fetch(`/${path}?name=${encodeURIComponent(user.value)}`, { method: "POST" });
  function connect() {
    socket = new WebSocket(`ws://${location.host}/socket`);
    socket.onmessage = event => note(event.data);
    socket.onclose = event => note(`closed: ${event.code} ${event.reason}`);
  }
  connect();
</script>
"#;
