//! A network between a client and a server on this machine, which fails on demand and counts what passes.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clustered_sessions::RedisConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Ends with all its connections when it is dropped.
pub(crate) struct Proxy {
    port: u16,
    link: Arc<Link>,
    task: JoinHandle<()>,
}

struct Link {
    state: watch::Sender<State>,
    /// Chunks that have passed from clients to the server, and back.
    up: AtomicU64,
    down: AtomicU64,
}

#[derive(Default)]
struct State {
    mode: Mode,
    /// How often connections were stranded. One that is older than the last time passes nothing.
    strandings: u64,
}

#[derive(Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Pass,
    Cut,
    Blackhole,
}

impl Proxy {
    /// In front of a port.
    pub(crate) async fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let link = Arc::new(Link { state: watch::Sender::default(), up: 0.into(), down: 0.into() });
        let task = tokio::spawn(accept(listener, server_port, link.clone()));
        Proxy { port, link, task }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn config(&self) -> RedisConfig {
        RedisConfig::new("127.0.0.1", self.port)
    }

    /// Closes all connections, and new ones at once.
    pub(crate) fn cut(&self) {
        self.link.state.send_modify(|state| state.mode = Mode::Cut);
    }

    /// Accepts connections and passes nothing on, in either direction. As with packets that are lost on the way and sent again,
    /// what was sent meanwhile comes through when the link is healed.
    pub(crate) fn blackhole(&self) {
        self.link.state.send_modify(|state| state.mode = Mode::Blackhole);
    }

    /// The connections of now pass nothing for ever, and nobody closes them; new ones are well.
    pub(crate) fn strand(&self) {
        self.link.state.send_modify(|state| state.strandings += 1);
    }

    pub(crate) fn heal(&self) {
        self.link.state.send_modify(|state| state.mode = Mode::Pass);
    }

    /// Chunks that have passed to the server and from it, so far. A command that has the link to itself is one chunk each way.
    pub(crate) fn chunks(&self) -> (u64, u64) {
        (self.link.up.load(Ordering::SeqCst), self.link.down.load(Ordering::SeqCst))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, server_port: u16, link: Arc<Link>) {
    // Dropped with this task, it ends its own.
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        if link.state.borrow().mode != Mode::Cut {
            connections.spawn(connect(client, server_port, link.clone()));
        }
    }
}

async fn connect(client: TcpStream, server_port: u16, link: Arc<Link>) {
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut state = link.state.subscribe();
    tokio::select! {
        () = pump(from_client, to_server, link.state.subscribe(), &link.up) => {}
        () = pump(from_server, to_client, link.state.subscribe(), &link.down) => {}
        _ = state.wait_for(|state| state.mode == Mode::Cut) => {}
    }
}

/// Passes chunks on until either side closes.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>, passed: &AtomicU64) {
    let born = state.borrow().strandings;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        if state.wait_for(|state| state.mode == Mode::Pass && state.strandings == born).await.is_err() {
            return;
        }
        passed.fetch_add(1, Ordering::SeqCst);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
