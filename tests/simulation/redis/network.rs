//! The network between nodes and servers: it delays, goes silent, refuses and cuts connections.

use std::io::{Error, ErrorKind};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::resp::take_command;
use crate::{Dice, MAX_STALENESS};

/// A process that serves connections.
pub(super) trait Process: Send + 'static {
    /// Returns the number of the process. When it changes, its connections are closed.
    fn run(&self) -> watch::Receiver<u64>;

    /// Returns `true` while the process is stopped.
    fn frozen(&self) -> watch::Receiver<bool>;

    /// Returns `false` if the process has ended.
    fn is_up(&self) -> bool {
        true
    }

    /// Carries out a command and sends the reply.
    fn execute(&mut self, client: &mut Client, command: &[Vec<u8>]);

    /// Records that a connection has ended.
    fn disconnected(&mut self, connection: u64);
}

/// The bytes that a process sends over one connection.
pub(super) type Outbox = mpsc::UnboundedSender<Vec<u8>>;

/// A connection, as the process sees it.
pub(super) struct Client {
    pub(super) connection: u64,
    pub(super) outbox: Outbox,
    /// `true` if the next command may be about a slot that is being imported.
    pub(super) is_asking: bool,
}

/// The links from each node to each place.
pub(super) struct Network {
    links: Vec<Vec<watch::Sender<Link>>>,
    random: Mutex<u64>,
    connections: AtomicU64,
}

/// The state of a link.
#[derive(Clone, Copy, Default)]
pub(super) struct Link {
    /// Connections from before the last cut are closed.
    pub(super) cuts: u64,
    pub(super) refused: bool,
    /// `true` if nothing passes.
    pub(super) silent: bool,
    /// The longest delay of a command or a reply, in milliseconds.
    pub(super) delay: u64,
}

impl Network {
    pub(super) fn new(nodes: usize, places: usize, seed: u64) -> Arc<Self> {
        let links = || (0..places).map(|_| watch::Sender::default()).collect();
        Arc::new(Network {
            links: (0..nodes).map(|_| links()).collect(),
            random: Mutex::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            connections: AtomicU64::new(0),
        })
    }

    pub(super) fn links(&self) -> impl Iterator<Item = &watch::Sender<Link>> {
        self.links.iter().flatten()
    }

    /// Injects a random fault into one link, or all of a node.
    pub(super) fn trouble(self: &Arc<Self>, dice: &Dice) {
        let node = dice.roll(self.links.len() as u64) as usize;
        let places = &self.links[node];
        let place = dice.roll(places.len() as u64 + 1) as usize;
        let chosen = places.get(place).map_or(&places[..], std::slice::from_ref);
        let change = |change: &dyn Fn(&mut Link)| {
            chosen.iter().for_each(|link| link.send_modify(change));
        };
        match dice.roll(6) {
            0 => {
                let delay = dice.roll(100);
                change(&|link| link.delay = delay);
            }
            1 => change(&|link| link.cuts += 1),
            2 => change(&|link| link.silent = true),
            3 => change(&|link| (link.cuts, link.refused) = (link.cuts + 1, true)),
            _ => {
                let place = if place < places.len() { place } else { 0 };
                drop(tokio::spawn(self.clone().slow_down_to_silence(node, place)));
            }
        }
    }

    /// Lets nothing pass between a node and a place.
    pub(super) fn silence(&self, node: usize, place: usize) {
        self.links[node][place].send_modify(|link| link.silent = true);
    }

    /// Cuts a node off from all places but one.
    pub(super) fn leave_one(&self, node: usize, left: usize) {
        for (_, link) in self.links[node].iter().enumerate().filter(|(place, _)| *place != left) {
            link.send_modify(|link| (link.cuts, link.refused) = (link.cuts + 1, true));
        }
    }

    /// Delays what passes a link, and then nothing passes, as when a queue in the network fills up.
    /// The last heartbeat that arrives was sent long before.
    async fn slow_down_to_silence(self: Arc<Self>, node: usize, place: usize) {
        let link = &self.links[node][place];
        link.send_modify(|link| link.delay = 400);
        sleep(Duration::from_millis(200 + self.random(400))).await;
        link.send_modify(|link| link.silent = true);
        sleep(MAX_STALENESS * 2).await;
        link.send_modify(|link| (link.delay, link.silent) = (0, false));
    }

    /// Ends all faults.
    pub(super) fn heal(&self) {
        for link in self.links() {
            link.send_modify(|link| *link = Link { cuts: link.cuts, ..Link::default() });
        }
    }

    pub(super) fn random(&self, below: u64) -> u64 {
        let mut state = self.random.lock().unwrap();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state % below
    }

    /// Connects a node to a process.
    pub(super) fn dial(
        self: &Arc<Self>,
        node: usize,
        place: usize,
        process: Arc<Mutex<impl Process>>,
    ) -> std::io::Result<DuplexStream> {
        if self.links[node][place].borrow().refused || !process.lock().unwrap().is_up() {
            return Err(Error::from(ErrorKind::ConnectionRefused));
        }
        let (near, far) = duplex(1 << 20);
        let network = self.clone();
        tokio::spawn(async move { network.serve(node, place, &process, far).await });
        Ok(near)
    }

    /// Serves one connection until it is closed from either side.
    async fn serve(
        &self,
        node: usize,
        place: usize,
        process: &Mutex<impl Process>,
        stream: DuplexStream,
    ) {
        let link = &self.links[node][place];
        let connection = self.connections.fetch_add(1, Ordering::SeqCst);
        let (mut run, mut frozen) = {
            let process = process.lock().unwrap();
            (process.run(), process.frozen())
        };
        let (cuts, number) = (link.borrow().cuts, *run.borrow());
        let (mut passing, mut returning) = (link.subscribe(), link.subscribe());
        let (outbox, mut replies) = mpsc::unbounded_channel::<Vec<u8>>();
        let (mut commands, mut answers) = tokio::io::split(stream);
        let forth = async {
            let mut client = Client { connection, outbox, is_asking: false };
            let mut buffer = Vec::new();
            loop {
                while let Some(command) = take_command(&mut buffer) {
                    self.delay(link).await;
                    let _ = passing.wait_for(|link| !link.silent).await;
                    let _ = frozen.wait_for(|frozen| !frozen).await;
                    process.lock().unwrap().execute(&mut client, &command);
                }
                if commands.read_buf(&mut buffer).await.is_ok_and(|length| length == 0) {
                    return;
                }
            }
        };
        let back = async {
            while let Some(bytes) = replies.recv().await {
                self.delay(link).await;
                let _ = returning.wait_for(|link| !link.silent).await;
                if answers.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        };
        let mut cut = link.subscribe();
        let closed = async {
            tokio::select! {
                biased;
                _ = cut.wait_for(|link| link.cuts != cuts) => {}
                _ = run.wait_for(|run| *run != number) => {}
            }
        };
        let (mut forth, mut back, mut closed) = (pin!(forth), pin!(back), pin!(closed));
        tokio::select! {
            biased;
            () = &mut closed => {}
            () = &mut forth => {}
            () = &mut back => {}
        }
        process.lock().unwrap().disconnected(connection);
    }

    async fn delay(&self, link: &watch::Sender<Link>) {
        let longest = link.borrow().delay;
        if longest > 0 {
            sleep(Duration::from_millis(self.random(longest))).await;
        }
    }
}
