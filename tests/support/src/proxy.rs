//! A TCP proxy on this machine that fails on demand and counts what passes through it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Chunks that a direction of a connection holds.
const UNDER_WAY: usize = 64;
const SUBSCRIBE: &[u8] = b"\r\nSUBSCRIBE\r\n";

/// Ends with all its connections when it is dropped.
pub struct Proxy {
    port: u16,
    link: Arc<Link>,
    task: JoinHandle<()>,
}

struct Link {
    state: watch::Sender<State>,
    /// Chunks that have passed from clients to the server, and back.
    up: AtomicU64,
    down: AtomicU64,
    /// Connections that are open now.
    open: AtomicU64,
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
    Reset,
    Blackhole,
    Silence(Purpose),
    Delay(Purpose, Duration),
}

/// What a connection is for, as far as can be told from what the client has sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Commands,
    Announcements,
}

impl State {
    fn closes(&self) -> bool {
        matches!(self.mode, Mode::Cut | Mode::Reset)
    }

    fn passes(&self, purpose: Purpose) -> bool {
        match self.mode {
            Mode::Pass | Mode::Delay(..) => true,
            Mode::Silence(silenced) => silenced != purpose,
            Mode::Cut | Mode::Reset | Mode::Blackhole => false,
        }
    }

    fn delay(&self, purpose: Purpose) -> Duration {
        match self.mode {
            Mode::Delay(delayed, delay) if delayed == purpose => delay,
            _ => Duration::ZERO,
        }
    }
}

impl Proxy {
    /// In front of a port.
    pub async fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let link = Arc::new(Link {
            state: watch::Sender::default(),
            up: 0.into(),
            down: 0.into(),
            open: 0.into(),
        });
        let task = tokio::spawn(accept(listener, server_port, link.clone()));
        Proxy { port, link, task }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes all connections, and new ones at once.
    pub fn cut(&self) {
        self.link.state.send_modify(|state| state.mode = Mode::Cut);
    }

    /// Like a cut, but with a TCP reset, which discards what is under way.
    pub fn reset(&self) {
        self.link.state.send_modify(|state| state.mode = Mode::Reset);
    }

    /// Accepts connections and passes nothing on, in either direction. As with packets that are
    /// lost and retransmitted, what was sent meanwhile arrives when the link is healed.
    pub fn blackhole(&self) {
        self.link.state.send_modify(|state| state.mode = Mode::Blackhole);
    }

    /// A blackhole for connections of one purpose, including new ones; the others work.
    pub fn silence(&self, purpose: Purpose) {
        self.link.state.send_modify(|state| state.mode = Mode::Silence(purpose));
    }

    /// Delays everything on connections of one purpose.
    pub fn delay(&self, purpose: Purpose, delay: Duration) {
        self.link.state.send_modify(|state| state.mode = Mode::Delay(purpose, delay));
    }

    /// Existing connections pass nothing for ever and are not closed; new ones work.
    pub fn strand(&self) {
        self.link.state.send_modify(|state| state.strandings += 1);
    }

    pub fn heal(&self) {
        self.link.state.send_modify(|state| state.mode = Mode::Pass);
    }

    /// Chunks that have passed to the server and from it so far. A command that has the link to
    /// itself is one chunk each way.
    pub fn chunks(&self) -> (u64, u64) {
        (self.link.up.load(Ordering::SeqCst), self.link.down.load(Ordering::SeqCst))
    }

    /// Connections of clients that are open now.
    pub fn connections(&self) -> u64 {
        self.link.open.load(Ordering::SeqCst)
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
        if !link.state.borrow().closes() {
            connections.spawn(connect(client, server_port, link.clone()));
        }
    }
}

async fn connect(client: TcpStream, server_port: u16, link: Arc<Link>) {
    link.open.fetch_add(1, Ordering::SeqCst);
    relay(client, server_port, &link).await;
    link.open.fetch_sub(1, Ordering::SeqCst);
}

async fn relay(client: TcpStream, server_port: u16, link: &Link) {
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let listens = AtomicBool::new(false);
    let mut state = link.state.subscribe();
    tokio::select! {
        () = pump(&mut from_client, &mut to_server, link, &link.up, &listens) => {}
        () = pump(&mut from_server, &mut to_client, link, &link.down, &listens) => {}
        _ = state.wait_for(State::closes) => {}
    }
    if link.state.borrow().mode == Mode::Reset {
        to_client.as_ref().set_zero_linger().unwrap();
    }
}

/// Passes chunks on until either side closes.
async fn pump(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    link: &Link,
    passed: &AtomicU64,
    listens: &AtomicBool,
) {
    let mut state = link.state.subscribe();
    let born = state.borrow().strandings;
    let purpose =
        || if listens.load(Ordering::SeqCst) { Purpose::Announcements } else { Purpose::Commands };
    let (chunks, mut under_way) = mpsc::channel(UNDER_WAY);
    let take = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let chunk = buffer[..length].to_vec();
            // The command's name comes first and is not split.
            if chunk.windows(SUBSCRIBE.len()).any(|bytes| bytes == SUBSCRIBE) {
                listens.store(true, Ordering::SeqCst);
            }
            let due = Instant::now() + link.state.borrow().delay(purpose());
            if chunks.send((due, chunk)).await.is_err() {
                return;
            }
        }
    };
    let deliver = async {
        while let Some((due, chunk)) = under_way.recv().await {
            tokio::time::sleep_until(due).await;
            let passes = state
                .wait_for(|state| state.passes(purpose()) && state.strandings == born)
                .await
                .is_ok();
            passed.fetch_add(u64::from(passes), Ordering::SeqCst);
            if !passes || to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    // What was taken is delivered though the sender has closed; what cannot be delivered need not be taken.
    tokio::select! {
        () = deliver => {}
        () = async { take.await; std::future::pending().await } => {}
    }
}
