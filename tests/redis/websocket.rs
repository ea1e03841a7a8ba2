//! A thousand WebSockets on three processes of the example `websocket`, while sessions are revoked
//! and one process is cut off from Redis.
//!
//! Prints `sockets that ended | on how many nodes | last one after the last logout`.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _, stream};
use http::{StatusCode, header};
use support::client::Client;
use support::node::Node;
use support::proxy::Proxy;
use support::redis::RedisServer;
use support::wait::eventually;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const SESSIONS: usize = 334;
const REVOKED: usize = 100;
const MAX_STALENESS: Duration = Duration::from_millis(500);
const GRACE: Duration = Duration::from_secs(6);

/// The codes with which the example closes a socket.
const LOGGED_OUT: u16 = 4001;
const UNKNOWN: u16 = 4002;
const SHUTDOWN: u16 = 1001;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens a socket, over which the node answers.
async fn connect(node: &Node, visitor: &Client) -> Socket {
    let url = node.url("/socket").replace("http://", "ws://");
    let mut request = url.into_client_request().unwrap();
    let cookie = visitor.cookie.as_deref().unwrap().parse().unwrap();
    request.headers_mut().insert(header::COOKIE, cookie);
    let mut socket = connect_async(request).await.unwrap().0;
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("you said hello"));
    socket
}

/// A process of the example, with one open socket of each session.
struct Server {
    node: Node,
    sockets: Vec<JoinHandle<u16>>,
}

/// Starts a process of the example, over the Redis at this port.
fn start(port: u16) -> Node {
    let (redis, millis) =
        (format!("redis://127.0.0.1:{port}"), |time: Duration| time.as_millis().to_string());
    Node::start_example(
        "websocket",
        &[
            ("REDIS_URL", &redis),
            ("MAX_STALENESS_MS", &millis(MAX_STALENESS)),
            ("WATCH_GRACE_MS", &millis(GRACE)),
        ],
    )
}

impl Server {
    fn start(port: u16) -> Self {
        Server { node: start(port), sockets: Vec::new() }
    }

    /// Opens a socket for each visitor, and keeps it until the server closes it.
    async fn open(&mut self, visitors: &[Client]) {
        for visitor in visitors {
            let mut socket = connect(&self.node, visitor).await;
            self.sockets.push(tokio::spawn(async move {
                match socket.next().await {
                    Some(Ok(Message::Close(Some(frame)))) => frame.code.into(),
                    other => panic!("{other:?}"),
                }
            }));
        }
    }

    async fn log_out(&self, visitors: &[Client]) -> Instant {
        for visitor in visitors {
            let answer = visitor.clone().post(&self.node.url("/logout")).await;
            assert_eq!(answer.status, StatusCode::OK);
        }
        Instant::now()
    }

    fn closed(&self) -> usize {
        self.sockets.iter().filter(|socket| socket.is_finished()).count()
    }

    async fn has_closed(&self, sockets: usize) {
        eventually(async || self.closed() >= sockets, "the sockets of the revoked are closed")
            .await;
        assert_eq!(self.closed(), sockets, "no other socket is closed");
    }

    /// Returns the codes with which the first sockets were closed.
    async fn codes(&mut self, first: usize) -> Vec<u16> {
        stream::iter(self.sockets.drain(..first))
            .then(async |code| code.await.unwrap())
            .collect()
            .await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.sockets.iter().for_each(JoinHandle::abort);
    }
}

fn report(sockets: usize, nodes: usize, since: Instant) {
    println!("{sockets} | {nodes} | {} ms", since.elapsed().as_millis());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sockets_on_three_nodes_are_closed_with_their_sessions_also_through_a_partition()
{
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.port()).await;
    let mut near = Server::start(redis.port());
    let mut other = Server::start(redis.port());
    let mut far = Server::start(proxy.port());
    let mut visitors = vec![Client::new(); SESSIONS];
    for visitor in &mut visitors {
        let answer = visitor.post(&near.node.url("/login?name=ada")).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    for server in [&mut near, &mut other, &mut far] {
        server.open(&visitors).await;
    }
    let (first, rest) = visitors.split_at(REVOKED);
    let (second, kept) = rest.split_at(REVOKED);

    let done = other.log_out(first).await;
    for server in [&near, &other, &far] {
        server.has_closed(REVOKED).await;
    }
    report(3 * REVOKED, 3, done);

    // Shorter than the grace.
    proxy.blackhole();
    let done = other.log_out(second).await;
    for server in [&near, &other] {
        server.has_closed(2 * REVOKED).await;
    }
    report(2 * REVOKED, 2, done);
    tokio::time::sleep(MAX_STALENESS).await;
    assert_eq!(far.closed(), REVOKED, "the node that is cut off cannot know");
    proxy.heal();
    far.has_closed(2 * REVOKED).await;
    report(REVOKED, 1, done);
    for server in [&mut near, &mut other, &mut far] {
        assert_eq!(server.codes(2 * REVOKED).await, [LOGGED_OUT; 2 * REVOKED]);
    }

    // Longer than the grace.
    proxy.blackhole();
    let cut = Instant::now();
    far.has_closed(kept.len()).await;
    report(kept.len(), 1, cut);
    assert_eq!(far.codes(kept.len()).await, vec![UNKNOWN; kept.len()]);
    assert_eq!((near.closed(), other.closed()), (0, 0));
    // The visitors come back to another node.
    connect(&near.node, &kept[0]).await;
}

#[tokio::test]
async fn a_socket_is_refused_to_another_website_and_to_a_visitor_who_is_not_logged_in() {
    let redis = RedisServer::start();
    let server = Server::start(redis.port());
    let mut visitor = Client::new();
    visitor.post(&server.node.url("/login?name=ada")).await;
    let url = server.node.url("/socket").replace("http://", "ws://");
    let status = async |origin: Option<&str>, cookie: Option<&str>| {
        let mut request = url.as_str().into_client_request().unwrap();
        for (name, value) in [(header::ORIGIN, origin), (header::COOKIE, cookie)] {
            if let Some(value) = value {
                request.headers_mut().insert(name, value.parse().unwrap());
            }
        }
        match connect_async(request).await {
            Ok((_, response)) => response.status(),
            Err(Error::Http(response)) => response.status(),
            Err(error) => panic!("{error}"),
        }
    };
    let cookie = visitor.cookie.as_deref();
    let own = server.node.url("");
    assert_eq!(status(None, cookie).await, StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(status(Some(&own), cookie).await, StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(status(Some("https://evil.example"), cookie).await, StatusCode::FORBIDDEN);
    assert_eq!(status(Some("null"), cookie).await, StatusCode::FORBIDDEN);
    assert_eq!(status(Some(&own), None).await, StatusCode::UNAUTHORIZED);
    let mut stranger = Client::new();
    let renamed = stranger.post(&server.node.url("/rename?name=eve")).await;
    assert_eq!(renamed.status, StatusCode::UNAUTHORIZED);
    assert_eq!(stranger.cookie, None);
}

#[tokio::test]
async fn a_shutdown_closes_the_sockets_with_a_code_and_then_ends_the_process() {
    let redis = RedisServer::start();
    let node = start(redis.port());
    let mut visitor = Client::new();
    visitor.post(&node.url("/login?name=ada")).await;
    let mut socket = connect(&node, &visitor).await;
    let (exit, last) = tokio::join!(node.terminate(), socket.next());
    match last {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), SHUTDOWN),
        other => panic!("{other:?}"),
    }
    assert!(exit.success());
}
