//! Two servers, one of which is the master. A name leads to it.

use std::collections::HashMap;
use std::future::ready;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use clustered_sessions::{RedisConfig, SessionLayer};
use tokio::time::{Instant, sleep};

use super::layer;
use super::network::Network;
use super::server::{Entry, Info, Server};
use crate::{Counter, Dice, MAX_STALENESS, World};

/// Nodes over two servers.
pub(crate) struct PairWorld {
    pair: Arc<Pair>,
    network: Arc<Network>,
    layers: Vec<SessionLayer<Counter>>,
}

struct Pair {
    servers: [Arc<Mutex<Server>>; 2],
    /// The server to which new connections lead.
    named: AtomicUsize,
    processes: AtomicU64,
    /// The time from which heartbeats alone show a fail-over, because there was one since the last.
    may_fail_over: Mutex<Instant>,
    info: Info,
}

impl PairWorld {
    pub(crate) fn new(nodes: usize, seed: u64, info: Info) -> Self {
        let pair = Arc::new(Pair {
            servers: [(1, true), (2, false)].map(|(number, is_master)| {
                Arc::new(Mutex::new(Server::new(number, is_master, info)))
            }),
            named: AtomicUsize::new(0),
            processes: AtomicU64::new(3),
            may_fail_over: Mutex::new(Instant::now()),
            info,
        });
        // A link leads to whichever server the name does.
        let network = Network::new(nodes, 1, seed);
        let node = |number: usize| {
            let (pair, network) = (pair.clone(), network.clone());
            let connect = move |_| {
                let server = &pair.servers[pair.named.load(Ordering::SeqCst)];
                ready(network.dial(number, 0, server.clone()))
            };
            let redis = RedisConfig::new("simulated", 6379).connector(connect);
            layer(number, redis, MAX_STALENESS, seed)
        };
        PairWorld { layers: (0..nodes).map(node).collect(), pair, network }
    }

    /// Returns a copy of the master's data.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot(self.pair.master().keys().clone())
    }

    /// Brings the servers back to a snapshot.
    pub(crate) fn roll_back(&self, snapshot: Snapshot, how: Rollback) {
        let pair = &self.pair;
        *pair.master().keys() = snapshot.0;
        match how {
            Rollback::Restart => pair.restart_master(),
            Rollback::FailOver => pair.fail_over(),
            Rollback::FlipAndBack => {
                pair.fail_over();
                pair.fail_over();
            }
        }
    }

    /// Delays everything on the way between the nodes and the servers.
    pub(crate) fn delay_by(&self, longest: Duration) {
        for link in self.network.links() {
            link.send_modify(|link| link.delay = longest.as_millis() as u64);
        }
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

/// A copy of a server's data.
pub(crate) struct Snapshot(HashMap<Vec<u8>, Entry>);

impl World for PairWorld {
    fn layers(&self) -> Vec<SessionLayer<Counter>> {
        self.layers.clone()
    }

    fn trouble(&self, dice: &Dice) {
        let pair = &self.pair;
        match dice.roll(16) {
            0..6 => self.network.trouble(dice),
            6 => drop(pair.master().frozen.send_replace(true)),
            7 if pair.notices_fail_over() => pair.fail_over(),
            8 => pair.master().can_save = false,
            9 => pair.restart_master(),
            // Without the replication id, a flip between two heartbeats is not noticed.
            10 | 11 if pair.info == Info::Everywhere => {
                let moment = Duration::from_millis(20) + dice.millis(80);
                drop(tokio::spawn(pair.clone().flip(moment)));
            }
            // The name leads to the replica.
            12 => pair.named.store(1 - pair.master_index(), Ordering::SeqCst),
            _ => self.heal(),
        }
    }

    fn heal(&self) {
        self.network.heal();
        for server in &self.pair.servers {
            let mut server = server.lock().unwrap();
            server.can_save = true;
            server.frozen.send_replace(false);
        }
        self.pair.named.store(self.pair.master_index(), Ordering::SeqCst);
    }

    fn restart_empty(&self) {
        let number = self.pair.next_process();
        let mut master = self.pair.master();
        master.keys().clear();
        master.restart(number);
    }
}

impl Pair {
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
            old.keys().clone()
        };
        let mut new = self.servers[1 - old].lock().unwrap();
        (new.is_master, new.history) = (true, history);
        *new.keys() = data;
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

    fn restart_master(&self) {
        let number = self.next_process();
        self.master().restart(number);
    }
}
