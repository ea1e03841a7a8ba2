//! Nodes with the real Redis backend, over a simulated network and two simulated servers. So the
//! code that makes connections, keeps the subscription and limits loads takes part in the
//! histories.

mod server;

use std::collections::HashMap;
use std::future::ready;
use std::io::{Error, ErrorKind};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use clustered_sessions::backend::RedisBackend;
use clustered_sessions::{
    Clock, ClusterConfig, OutagePolicy, RedisConfig, Secret, SessionConfig, SessionLayer,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

pub(crate) use self::server::Info;
use self::server::{Entry, Server, take_command};
use crate::{Counter, Dice, MAX_AGE, MAX_STALENESS, World, resilience, with_timeouts};

const CHANNEL: &str = "session:invalidate";
/// The timeouts of a node. A heartbeat is sent four times per `MAX_STALENESS`.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(150);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// Two servers, one of which is the master, and the links of the nodes to them.
pub(crate) struct Network {
    servers: [Mutex<Server>; 2],
    /// The server to which new connections lead.
    named: AtomicUsize,
    links: Vec<watch::Sender<Link>>,
    random: Mutex<u64>,
    connections: AtomicU64,
    processes: AtomicU64,
    /// The time from which heartbeats alone show a fail-over, because there was one since the last.
    may_fail_over: Mutex<Instant>,
    info: Info,
}

/// The network between one node and the servers.
#[derive(Clone, Copy, Default)]
struct Link {
    /// Connections from before the last cut are closed.
    cuts: u64,
    refused: bool,
    /// `true` if nothing passes.
    silent: bool,
    /// The longest delay of a command or a reply, in milliseconds.
    delay: u64,
}

/// Nodes over a network.
pub(crate) struct RedisWorld {
    network: Arc<Network>,
    layers: Vec<SessionLayer<Counter>>,
}

impl RedisWorld {
    pub(crate) fn new(nodes: usize, seed: u64, info: Info) -> Self {
        let network = Arc::new(Network {
            servers: [
                Mutex::new(Server::new(1, true, info)),
                Mutex::new(Server::new(2, false, info)),
            ],
            named: AtomicUsize::new(0),
            links: (0..nodes).map(|_| watch::Sender::default()).collect(),
            random: Mutex::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            connections: AtomicU64::new(0),
            processes: AtomicU64::new(3),
            may_fail_over: Mutex::new(Instant::now()),
            info,
        });
        let layer = |number: usize| {
            let connect = {
                let network = network.clone();
                move |_| ready(network.clone().dial(number))
            };
            let redis = RedisConfig::new("simulated", 6379)
                .response_timeout(RESPONSE_TIMEOUT)
                .connect_timeout(CONNECT_TIMEOUT)
                .connector(connect);
            let cluster =
                ClusterConfig::new().node_id(format!("node-{number}")).max_staleness(MAX_STALENESS);
            let config = SessionConfig::development(Secret::insecure_dev("simulation"))
                .clock(Clock::tokio())
                .backend(RedisBackend::new(&redis, CHANNEL).unwrap())
                .cluster(cluster)
                .on_outage(OutagePolicy::ServeCached { max_age: MAX_AGE });
            SessionLayer::new(resilience(with_timeouts(config, seed), seed).build().unwrap())
        };
        RedisWorld { layers: (0..nodes).map(layer).collect(), network }
    }
}

/// How the servers come to have earlier data again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rollback {
    /// The master restarts from an old file.
    Restart,
    /// A replica becomes the master that has not received the latest writes. The old master goes on
    /// as its replica, and connections to it stay open.
    FailOver,
    /// The same, and back: the nodes keep their connections.
    FlipAndBack,
}

impl RedisWorld {
    /// Returns a copy of the master's data.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot(self.network.master().data.clone())
    }

    /// Brings the servers back to a snapshot.
    pub(crate) fn roll_back(&self, snapshot: Snapshot, how: Rollback) {
        let network = &self.network;
        network.master().data = snapshot.0;
        match how {
            Rollback::Restart => network.restart_master(),
            Rollback::FailOver => network.fail_over(),
            Rollback::FlipAndBack => {
                network.fail_over();
                network.fail_over();
            }
        }
    }

    /// Delays everything on the way between the nodes and the servers.
    pub(crate) fn delay_by(&self, longest: Duration) {
        for link in &self.network.links {
            link.send_modify(|link| link.delay = longest.as_millis() as u64);
        }
    }
}

/// A copy of a server's data.
pub(crate) struct Snapshot(HashMap<Vec<u8>, Entry>);

impl World for RedisWorld {
    fn layers(&self) -> Vec<SessionLayer<Counter>> {
        self.layers.clone()
    }

    fn trouble(&self, dice: &Dice) {
        let network = &self.network;
        let node = dice.roll(network.links.len() as u64) as usize;
        let link = &network.links[node];
        match dice.roll(16) {
            0 => link.send_modify(|link| link.delay = dice.roll(100)),
            1 => link.send_modify(|link| link.cuts += 1),
            2 => link.send_modify(|link| link.silent = true),
            3 => link.send_modify(|link| (link.cuts, link.refused) = (link.cuts + 1, true)),
            4 => drop(network.master().frozen.send_replace(true)),
            5 if network.notices_fail_over() => network.fail_over(),
            6 => network.master().can_save = false,
            7 => network.restart_master(),
            // Without the replication id, a flip between two heartbeats is not noticed.
            8 | 9 if network.info == Info::Everywhere => drop(tokio::spawn(
                network.clone().flip(Duration::from_millis(20) + dice.millis(80)),
            )),
            11 | 12 => drop(tokio::spawn(network.clone().slow_down_to_silence(node))),
            // The name leads to the replica.
            10 => network.named.store(1 - network.master_index(), Ordering::SeqCst),
            _ => self.heal(),
        }
    }

    fn heal(&self) {
        let network = &self.network;
        for link in &network.links {
            link.send_modify(|link| *link = Link { cuts: link.cuts, ..Link::default() });
        }
        for server in &network.servers {
            let mut server = server.lock().unwrap();
            server.can_save = true;
            server.frozen.send_replace(false);
        }
        network.named.store(network.master_index(), Ordering::SeqCst);
    }

    fn restart_empty(&self) {
        let number = self.network.next_process();
        let mut master = self.network.master();
        master.data.clear();
        master.restart(number);
    }
}

impl Network {
    fn master_index(&self) -> usize {
        usize::from(!self.servers[0].lock().unwrap().is_master)
    }

    fn master(&self) -> MutexGuard<'_, Server> {
        self.servers[self.master_index()].lock().unwrap()
    }

    /// Returns `true` if the nodes notice a fail-over now, even without the replication id: each
    /// subscription has had a heartbeat since the last one, or has ended.
    fn notices_fail_over(&self) -> bool {
        let mut from = self.may_fail_over.lock().unwrap();
        let notices = self.info == Info::Everywhere || Instant::now() >= *from;
        if notices {
            *from = Instant::now() + MAX_STALENESS * 2;
        }
        notices
    }

    fn next_process(&self) -> u64 {
        self.processes.fetch_add(1, Ordering::SeqCst)
    }

    /// Makes the other server the master. It has everything that was acknowledged, and begins a new
    /// history. Connections to the old master stay open, and it still answers.
    fn fail_over(&self) {
        let old = self.master_index();
        let history = self.next_process();
        let data = {
            let mut old = self.servers[old].lock().unwrap();
            old.is_master = false;
            old.data.clone()
        };
        let mut new = self.servers[1 - old].lock().unwrap();
        (new.is_master, new.data, new.history) = (true, data, history);
        drop(new);
        self.named.store(1 - old, Ordering::SeqCst);
    }

    /// Makes the master a replica for a moment. Afterwards it has the data of the server that was
    /// the master meanwhile, and its connections have survived.
    async fn flip(self: Arc<Self>, moment: Duration) {
        self.fail_over();
        sleep(moment).await;
        self.fail_over();
    }

    /// Delays what passes a link, and then nothing passes, as when a queue in the network fills up.
    /// The last heartbeat that arrives was sent long before.
    async fn slow_down_to_silence(self: Arc<Self>, node: usize) {
        let link = &self.links[node];
        link.send_modify(|link| link.delay = 400);
        sleep(Duration::from_millis(200 + self.random(400))).await;
        link.send_modify(|link| link.silent = true);
        sleep(MAX_STALENESS * 2).await;
        link.send_modify(|link| (link.delay, link.silent) = (0, false));
    }

    fn restart_master(&self) {
        let number = self.next_process();
        self.master().restart(number);
    }

    fn random(&self, below: u64) -> u64 {
        let mut state = self.random.lock().unwrap();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state % below
    }

    /// Connects a node to the server that the name leads to.
    fn dial(self: Arc<Self>, node: usize) -> std::io::Result<DuplexStream> {
        if self.links[node].borrow().refused {
            return Err(Error::from(ErrorKind::ConnectionRefused));
        }
        let (near, far) = duplex(1 << 20);
        let server = self.named.load(Ordering::SeqCst);
        tokio::spawn(async move { self.serve(node, server, far).await });
        Ok(near)
    }

    /// Serves one connection until it is closed from either side.
    async fn serve(&self, node: usize, server: usize, stream: DuplexStream) {
        let connection = self.connections.fetch_add(1, Ordering::SeqCst);
        let (mut link, mut run, mut frozen) = {
            let server = self.servers[server].lock().unwrap();
            (self.links[node].subscribe(), server.run.subscribe(), server.frozen.subscribe())
        };
        let (cuts, process) = (link.borrow().cuts, *run.borrow());
        let mut passing = self.links[node].subscribe();
        let mut returning = self.links[node].subscribe();
        let (outbox, mut replies) = mpsc::unbounded_channel::<Vec<u8>>();
        let (mut commands, mut answers) = tokio::io::split(stream);
        let forth = async {
            let mut buffer = Vec::new();
            loop {
                while let Some(command) = take_command(&mut buffer) {
                    self.delay(node).await;
                    let _ = passing.wait_for(|link| !link.silent).await;
                    let _ = frozen.wait_for(|frozen| !frozen).await;
                    let mut server = self.servers[server].lock().unwrap();
                    server.execute(connection, &command, &outbox);
                }
                if commands.read_buf(&mut buffer).await.is_ok_and(|length| length == 0) {
                    return;
                }
            }
        };
        let back = async {
            while let Some(bytes) = replies.recv().await {
                self.delay(node).await;
                let _ = returning.wait_for(|link| !link.silent).await;
                if answers.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        };
        let closed = async {
            tokio::select! {
                biased;
                _ = link.wait_for(|link| link.cuts != cuts) => {}
                _ = run.wait_for(|run| *run != process) => {}
            }
        };
        let (mut forth, mut back, mut closed) = (pin!(forth), pin!(back), pin!(closed));
        tokio::select! {
            biased;
            () = &mut closed => {}
            () = &mut forth => {}
            () = &mut back => {}
        }
        self.servers[server].lock().unwrap().disconnected(connection);
    }

    async fn delay(&self, node: usize) {
        let longest = self.links[node].borrow().delay;
        if longest > 0 {
            sleep(Duration::from_millis(self.random(longest))).await;
        }
    }
}
