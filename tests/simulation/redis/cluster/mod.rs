//! A cluster: three masters, a replica of the first, and a server that joins and leaves. Servers
//! hear of changes over a bus that delays and loses packets, so their views differ.
//!
//! Servers that replicate each other share their data: what replication forgets is not the matter
//! here, but whether nodes hear of what another server has acknowledged.

mod bus;
mod changes;
mod member;

use std::future::ready;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use clustered_sessions::{RedisAddress, RedisCluster, RedisConfig, SessionLayer};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::sleep;

use self::bus::Bus;
pub(super) use self::bus::Packet;
use self::member::FIRST_PORT;
pub(super) use self::member::Member;
use super::layer;
use super::network::Network;
use super::server::{Info, Server};
use crate::{Counter, Dice, MAX_STALENESS, World};

/// The first three are masters in the beginning.
const SERVERS: usize = 5;
/// The replica of the first.
const REPLICA: usize = 3;
/// The server that joins and leaves.
const JOINER: usize = 4;
/// The time after which a master that has lost the others stops.
const NODE_TIMEOUT: Duration = Duration::from_secs(1);
/// The time between two packets to each other server.
const GOSSIP: Duration = Duration::from_millis(100);

/// Nodes over a cluster.
pub(crate) struct ClusterWorld {
    cluster: Arc<Servers>,
    network: Arc<Network>,
    layers: Vec<SessionLayer<Counter>>,
}

struct Servers {
    all: Vec<Arc<Mutex<Server>>>,
    bus: Bus,
    processes: AtomicU64,
    /// `true` while the cluster is being changed.
    changes: AtomicBool,
    /// Where the operator has moved the sessions.
    home: AtomicUsize,
}

impl ClusterWorld {
    pub(crate) fn new(nodes: usize, seed: u64) -> Self {
        let cluster = Servers::start();
        let network = Network::new(nodes, SERVERS, seed);
        let node = |number: usize| {
            let (cluster, network) = (cluster.clone(), network.clone());
            let connect = move |address| {
                let RedisAddress::Tcp { port, .. } = address else { panic!("no TCP port") };
                let server = usize::from(port - FIRST_PORT);
                ready(network.dial(number, server, cluster.all[server].clone()))
            };
            let first = (FIRST_PORT..).take(JOINER).map(|port| ("simulated", port));
            let servers = RedisCluster::new(first);
            let redis = RedisConfig::cluster(servers.node_timeout(NODE_TIMEOUT));
            layer(number, redis.connector(connect), MAX_STALENESS, seed)
        };
        ClusterWorld { layers: (0..nodes).map(node).collect(), cluster, network }
    }
}

impl ClusterWorld {
    /// Lets a replica win an election of which no other server hears for some time. One node
    /// reaches only the winner, and all others reach all servers.
    pub(crate) async fn elect_unheard(&self, node: usize) {
        self.cluster.fail_over_unheard(Duration::from_secs(2)).await;
        self.network.leave_one(node, REPLICA);
    }

    /// Lets a replica win an election of which all servers hear but the old master, which goes on.
    /// After that they hear nothing more from the winner.
    pub(crate) async fn elect_behind_the_old_master(&self) {
        self.cluster.fail_over_unheard(Duration::ZERO).await;
        sleep(GOSSIP * 2).await;
        self.cluster.bus.isolate(REPLICA, true);
    }

    /// Cuts the master that has the sessions off from the other servers, and a node off from it.
    pub(crate) fn isolate_owner_from(&self, node: usize) {
        let owner = self.cluster.isolate_owner();
        self.network.silence(node, owner);
    }
}

impl World for ClusterWorld {
    fn layers(&self) -> Vec<SessionLayer<Counter>> {
        self.layers.clone()
    }

    fn trouble(&self, dice: &Dice) {
        match dice.roll(18) {
            0..3 => self.network.trouble(dice),
            3..6 => self.cluster.bus.trouble(dice),
            // It may find a new master before the other masters have heard of it.
            6 | 7 => {
                let node = dice.roll(self.layers.len() as u64) as usize;
                self.network.leave_one(node, *dice.pick(&[0, REPLICA]));
            }
            8..16 => drop(spawn_local(self.cluster.clone().change(dice.clone()))),
            _ => self.heal(),
        }
    }

    fn heal(&self) {
        self.network.heal();
        self.cluster.bus.heal();
    }

    /// A change of master takes some time. And a node's failed writes evict what it has cached, so
    /// there must be sessions that it does not try to write.
    fn size(&self) -> (usize, usize) {
        (12, 150)
    }

    fn is_calm(&self) -> bool {
        !self.cluster.changes.load(Ordering::SeqCst)
    }

    fn describe(&self) -> String {
        let view = |number| {
            let server = self.cluster.server(number);
            let member = server.member();
            format!("server {number}:\n{}{}", member.info(), member.nodes())
        };
        (0..SERVERS).map(view).collect()
    }

    fn restart_empty(&self) {
        for number in 0..SERVERS {
            self.cluster.server(number).keys().clear();
            self.cluster.restart(number);
        }
    }
}

impl Servers {
    fn start() -> Arc<Self> {
        let servers = Arc::new_cyclic(|servers: &Weak<Servers>| {
            let all = (0..SERVERS).map(|number| start(number, servers.clone())).collect::<Vec<_>>();
            // The replica has all that its master acknowledges.
            let keys = all[0].lock().unwrap().data.clone();
            all[REPLICA].lock().unwrap().data = keys;
            let receivers = servers.clone();
            let deliver = move |from, to, packet| {
                if let Some(servers) = receivers.upgrade() {
                    servers.deliver(from, to, &packet);
                }
            };
            Servers {
                all,
                bus: Bus::new(SERVERS, deliver),
                processes: AtomicU64::new(100),
                changes: AtomicBool::new(false),
                home: AtomicUsize::new(0),
            }
        });
        let gossiping = Arc::downgrade(&servers);
        tokio::spawn(async move {
            while let Some(servers) = gossiping.upgrade() {
                (0..SERVERS).for_each(|number| servers.gossip(number));
                servers.repair();
                drop(servers);
                sleep(GOSSIP).await;
            }
        });
        servers
    }

    fn server(&self, number: usize) -> MutexGuard<'_, Server> {
        self.all[number].lock().unwrap()
    }

    /// Lets a server tell the others about itself.
    fn gossip(&self, number: usize) {
        let claim = {
            let server = self.server(number);
            server.is_up.then(|| server.member().claim())
        };
        if let Some(claim) = claim {
            self.bus.broadcast(number, &Packet::Claim(claim));
        }
    }

    fn deliver(&self, from: usize, to: usize, packet: &Packet) {
        let mut server = self.server(to);
        if !server.is_up {
            return;
        }
        let outdated = match packet {
            Packet::Publish(channel, message) => {
                server.publish_here(channel, message);
                return;
            }
            Packet::Claim(claim) => server.member_mut().hear(claim),
            Packet::Update(claim) => {
                server.member_mut().hear(claim);
                Vec::new()
            }
        };
        server.is_master = server.member().is_master();
        drop(server);
        for claim in outdated {
            self.bus.send(to, from, Packet::Update(claim));
        }
    }

    fn restart(&self, number: usize) {
        let process = self.processes.fetch_add(1, Ordering::SeqCst);
        self.server(number).restart(process);
    }

    /// Changes the cluster, unless it is being changed, or the servers have not heard of the last
    /// change.
    async fn change(self: Arc<Self>, dice: Dice) {
        if self.changes.swap(true, Ordering::SeqCst) {
            return;
        }
        if self.agree() {
            self.change_somehow(&dice).await;
        }
        self.changes.store(false, Ordering::SeqCst);
    }

    /// Returns `true` if all servers see the cluster alike.
    fn agree(&self) -> bool {
        let view = |number| {
            let server = self.server(number);
            let member = server.member();
            (member.nodes().replace("myself,", ""), server.is_up && !member.is_cut_off)
        };
        let first = view(0);
        first.1 && (1..JOINER).all(|number| view(number) == first)
    }
}

fn start(number: usize, servers: Weak<Servers>) -> Arc<Mutex<Server>> {
    let member = if number == JOINER { Member::stranger(number) } else { Member::new(number) };
    let mut server = Server::new(number as u64 + 1, member.is_master(), Info::Everywhere);
    let (bus, mut packets) = mpsc::unbounded_channel();
    server.cluster = Some((member, bus));
    tokio::spawn(async move {
        while let Some(packet) = packets.recv().await {
            let Some(servers) = servers.upgrade() else { return };
            servers.bus.broadcast(number, &packet);
        }
    });
    Arc::new(Mutex::new(server))
}
