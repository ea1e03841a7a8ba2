//! A WebSocket that is told of changes of its session, and is closed when the session ends.
//!
//! ```sh
//! cargo run --example websocket    # then open http://localhost:3000 in two tabs
//! ```
//!
//! Points of interest: [`talk`], which waits for the session and for the client at the same time,
//! and [`is_same_origin`], without which any website could open a socket with a visitor's cookie.
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
use axum::extract::Query;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{Html, Response};
use axum::routing::{get, post};
use clustered_sessions::{
    ClusterConfig, Ended, RedisConfig, Secret, Session, SessionConfig, SessionLayer, SessionWatch,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::time::timeout;

/// The data of a session.
#[derive(Clone, Default, Serialize, Deserialize)]
struct User {
    name: String,
}

/// A client that has not read a message for this long is given up: while it holds back a message,
/// the end of its session could not be told.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Applications may use the codes from 4000 on.
const LOGGED_OUT: CloseFrame =
    CloseFrame { code: 4001, reason: Utf8Bytes::from_static("please log in") };
const UNKNOWN: CloseFrame =
    CloseFrame { code: 4002, reason: Utf8Bytes::from_static("please connect again") };

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut cluster = ClusterConfig::new().enabled(true);
    if let Some(time) = millis("MAX_STALENESS_MS")? {
        cluster = cluster.max_staleness(time);
    }
    if let Some(time) = millis("WATCH_GRACE_MS")? {
        cluster = cluster.watch_grace(time);
    }
    let mut config =
        SessionConfig::<User>::development(Secret::insecure_dev("ws")).cluster(cluster);
    if env::var_os("REDIS_URL").is_some() {
        config = config.redis(RedisConfig::from_env("REDIS_URL")?);
    }
    let app = Router::new()
        .route("/", get(async || Html(PAGE)))
        .route("/login", post(login))
        .route("/rename", post(rename))
        .route("/logout", post(logout))
        .route("/socket", get(socket))
        .layer(SessionLayer::new(config.build()?));
    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

fn millis(variable: &str) -> Result<Option<Duration>, Box<dyn Error>> {
    let Ok(text) = env::var(variable) else { return Ok(None) };
    Ok(Some(Duration::from_millis(text.parse()?)))
}

/// Starts a session. An application would check a password first: see the example `login`.
async fn login(session: Session<User>, Query(user): Query<User>) {
    session.replace(user);
}

async fn rename(session: Session<User>, Query(user): Query<User>) {
    session.update(move |known| known.name.clone_from(&user.name));
}

async fn logout(session: Session<User>) {
    session.destroy();
}

/// Opens a socket for a visitor who is logged in.
async fn socket(
    session: Session<User>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, StatusCode> {
    if !is_same_origin(&headers) {
        return Err(StatusCode::FORBIDDEN);
    }
    let watch = session.watch().ok_or(StatusCode::UNAUTHORIZED)?;
    Ok(upgrade.on_upgrade(|socket| talk(socket, watch)))
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
/// has ended.
async fn talk(mut socket: WebSocket, mut watch: SessionWatch<User>) {
    let farewell = loop {
        let text = tokio::select! {
            // The session first: after its end, no message is answered.
            biased;
            changed = watch.changed() => match changed {
                Ok(session) => format!("you are {}", session.data().name),
                Err(Ended::Unknown) => break UNKNOWN,
                Err(_) => break LOGGED_OUT,
            },
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => {
                    // A message counts as a use, so the session does not become idle. If that
                    // fails, the watch ends as soon as it must.
                    let _ = watch.visit().await;
                    format!("you said {text}")
                }
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
