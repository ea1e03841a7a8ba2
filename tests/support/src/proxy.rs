//! A TCP proxy on this machine that fails on demand and counts what passes through it.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Maximum number of chunks in flight in one direction of a connection.
const MAX_IN_FLIGHT: usize = 256;
const SUBSCRIBE: &[u8] = b"\r\nSUBSCRIBE\r\n";

/// A TCP proxy in front of a server. Dropping it closes all its connections.
pub struct Proxy {
    port: u16,
    link: Arc<Link>,
    task: JoinHandle<()>,
}

struct Link {
    state: watch::Sender<State>,
    /// Chunks that have passed from clients to the server, and from the server to clients.
    up: AtomicU64,
    down: AtomicU64,
    /// Client connections that are open now.
    open: AtomicU64,
    /// The time at which the last chunk from the server will have passed, if the link is throttled.
    /// All connections share the link.
    busy_until: Mutex<Instant>,
}

#[derive(Default)]
struct State {
    mode: Mode,
    /// Number of calls of `strand`. A connection from before the last call passes nothing.
    strandings: u64,
    /// The port to which new connections lead, instead of the first server's.
    redirection: Option<u16>,
    /// The port to which connections after the next one lead.
    later_redirection: Option<u16>,
    /// Maximum number of bytes per second from the server.
    bandwidth: Option<u64>,
}

#[derive(Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Pass,
    Cut,
    Reset,
    Blackhole,
    Silence(Purpose),
    WithholdReplies,
    Delay(Purpose, Duration),
}

/// The purpose of a connection, derived from the commands that the client has sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Commands,
    Announcements,
}

impl Link {
    /// Returns the time at which the next chunk from the server has passed.
    fn passed_at(&self, length: usize) -> Instant {
        let now = Instant::now();
        let Some(bandwidth) = self.state.borrow().bandwidth else { return now };
        let mut busy_until = self.busy_until.lock().unwrap();
        let takes = Duration::from_secs_f64(length as f64 / bandwidth as f64);
        *busy_until = (*busy_until).max(now) + takes;
        *busy_until
    }
}

/// To the server, or from it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl State {
    fn closes(&self) -> bool {
        matches!(self.mode, Mode::Cut | Mode::Reset)
    }

    fn passes(&self, purpose: Purpose, direction: Direction) -> bool {
        match self.mode {
            Mode::Pass | Mode::Delay(..) => true,
            Mode::Silence(silenced) => silenced != purpose,
            Mode::WithholdReplies => direction == Direction::Up,
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
    /// Starts a proxy in front of a port of this machine.
    pub async fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let link = Arc::new(Link {
            state: watch::Sender::default(),
            up: 0.into(),
            down: 0.into(),
            open: 0.into(),
            busy_until: Mutex::new(Instant::now()),
        });
        let task = tokio::spawn(accept(listener, server_port, link.clone()));
        Proxy { port, link, task }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes all connections, and new ones as soon as they are accepted.
    pub fn cut(&self) {
        self.link.state.send_modify(|state| state.mode = Mode::Cut);
    }

    /// Closes all connections like `cut`, but with a TCP reset, which discards data in flight.
    pub fn reset(&self) {
        self.link.state.send_modify(|state| state.mode = Mode::Reset);
    }

    /// Accepts connections and passes nothing on, in either direction. As with packets that are
    /// lost and retransmitted, data sent meanwhile arrives once the link is healed.
    pub fn blackhole(&self) {
        self.link.state.send_modify(|state| state.mode = Mode::Blackhole);
    }

    /// Passes nothing on over connections of one purpose, including new ones. The others work.
    pub fn silence(&self, purpose: Purpose) {
        self.link.state.send_modify(|state| state.mode = Mode::Silence(purpose));
    }

    /// Delays everything that the server sends over connections of one purpose.
    pub fn delay(&self, purpose: Purpose, delay: Duration) {
        self.link.state.send_modify(|state| state.mode = Mode::Delay(purpose, delay));
    }

    /// Leaves existing connections open, but passes nothing on over them any more. New ones work.
    pub fn strand(&self) {
        self.link.state.send_modify(|state| state.strandings += 1);
    }

    /// Passes commands to the server and withholds what it sends.
    pub fn withhold_replies(&self) {
        self.link.state.send_modify(|state| state.mode = Mode::WithholdReplies);
    }

    /// Ends the current fault.
    pub fn heal(&self) {
        self.link.state.send_modify(|state| state.mode = Mode::Pass);
    }

    /// Makes new connections lead to another server. Existing ones stay.
    pub fn redirect(&self, server_port: u16) {
        self.link.state.send_modify(|state| state.redirection = Some(server_port));
    }

    /// Makes connections after the next one lead to another server.
    pub fn redirect_after_next(&self, server_port: u16) {
        self.link.state.send_modify(|state| state.later_redirection = Some(server_port));
    }

    /// Limits the number of bytes per second from the server, for all connections together.
    pub fn throttle(&self, bandwidth: u64) {
        self.link.state.send_modify(|state| state.bandwidth = Some(bandwidth));
    }

    /// Returns the numbers of chunks that have passed to the server and from it so far. A command
    /// without concurrent ones is one chunk each way.
    pub fn chunks(&self) -> (u64, u64) {
        (self.link.up.load(Ordering::SeqCst), self.link.down.load(Ordering::SeqCst))
    }

    /// Returns the number of client connections that are open now.
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
    // Dropping the set with this task aborts the tasks of the connections.
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
    let mut server_port = server_port;
    link.state.send_modify(|state| {
        server_port = state.redirection.unwrap_or(server_port);
        state.redirection = state.later_redirection.take().or(state.redirection);
    });
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let listens = AtomicBool::new(false);
    let mut state = link.state.subscribe();
    tokio::select! {
        () = pump(&mut from_client, &mut to_server, link, Direction::Up, &listens) => {}
        () = pump(&mut from_server, &mut to_client, link, Direction::Down, &listens) => {}
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
    direction: Direction,
    listens: &AtomicBool,
) {
    let passed = match direction {
        Direction::Up => &link.up,
        Direction::Down => &link.down,
    };
    let mut state = link.state.subscribe();
    let born = state.borrow().strandings;
    let purpose =
        || if listens.load(Ordering::SeqCst) { Purpose::Announcements } else { Purpose::Commands };
    let (chunks, mut in_flight) = mpsc::channel(MAX_IN_FLIGHT);
    let take = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let chunk = buffer[..length].to_vec();
            // The command's name comes first and is not split.
            if chunk.windows(SUBSCRIBE.len()).any(|bytes| bytes == SUBSCRIBE) {
                listens.store(true, Ordering::SeqCst);
            }
            let delay = match direction {
                Direction::Up => Duration::ZERO,
                Direction::Down => link.state.borrow().delay(purpose()),
            };
            let due = Instant::now() + delay;
            if chunks.send((due, chunk)).await.is_err() {
                return;
            }
        }
    };
    let deliver = async {
        while let Some((due, chunk)) = in_flight.recv().await {
            tokio::time::sleep_until(due).await;
            if direction == Direction::Down {
                tokio::time::sleep_until(link.passed_at(chunk.len())).await;
            }
            let passes = state
                .wait_for(|state| state.passes(purpose(), direction) && state.strandings == born)
                .await
                .is_ok();
            passed.fetch_add(u64::from(passes), Ordering::SeqCst);
            if !passes || to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    // After the sender has closed, chunks in flight are still delivered. After the receiver has
    // closed, reading stops.
    tokio::select! {
        () = deliver => {}
        () = async { take.await; std::future::pending().await } => {}
    }
}
