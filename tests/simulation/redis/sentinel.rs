//! Two servers and three sentinels, each of which hears of a failover at another time.

use std::future::ready;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clustered_sessions::{RedisAddress, RedisConfig, RedisSentinels, SessionLayer};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::layer;
use super::network::{Client, Network, Outbox, Process};
use super::resp::{array, bulk, push};
use super::server::{Info, Server};
use crate::{Counter, Dice, MAX_STALENESS, World};

/// A node leaves a master that no sentinel confirms within a second, since its `max_staleness` is
/// shorter.
pub(crate) const DOUBT: Duration = Duration::from_secs(1);
const SERVICE: &str = "sessions";
/// The ports of the servers and of the sentinels.
const SERVERS: [u16; 2] = [6379, 6380];
const SENTINELS: [u16; 3] = [26379, 26380, 26381];

const MINUTE: Duration = Duration::from_secs(60);
/// The numbers of a node's links.
const SERVERS_LINK: usize = 0;
const SENTINELS_LINK: usize = 1;

/// Nodes over servers that sentinels watch.
pub(crate) struct SentinelWorld {
    service: Arc<Service>,
    network: Arc<Network>,
    layers: Vec<SessionLayer<Counter>>,
}

struct Service {
    servers: [Arc<Mutex<Server>>; 2],
    sentinels: [Arc<Mutex<Sentinel>>; 3],
    processes: AtomicU64,
    /// `true` while a failover is under way.
    fails_over: AtomicBool,
}

/// A sentinel, and what it believes.
struct Sentinel {
    run: watch::Sender<u64>,
    frozen: watch::Sender<bool>,
    /// The port of the master.
    master: u16,
    epoch: u64,
    subscribers: Vec<(u64, Outbox)>,
}

impl SentinelWorld {
    pub(crate) fn new(nodes: usize, seed: u64) -> Self {
        let server = |(number, is_master)| {
            Arc::new(Mutex::new(Server::new(number, is_master, Info::Everywhere)))
        };
        let servers = [(1, true), (2, false)].map(server);
        // The replica has all that the master acknowledges, so nothing is forgotten.
        let keys = servers[0].lock().unwrap().data.clone();
        servers[1].lock().unwrap().data = keys;
        let sentinel = || {
            Arc::new(Mutex::new(Sentinel {
                run: watch::Sender::new(0),
                frozen: watch::Sender::new(false),
                master: SERVERS[0],
                epoch: 1,
                subscribers: Vec::new(),
            }))
        };
        let service = Arc::new(Service {
            servers,
            sentinels: [(); 3].map(|()| sentinel()),
            processes: AtomicU64::new(3),
            fails_over: AtomicBool::new(false),
        });
        // All servers share a link, and so do all sentinels.
        let network = Network::new(nodes, 2, seed);
        let node = |number: usize| {
            let (service, network) = (service.clone(), network.clone());
            let connect = move |address| {
                let RedisAddress::Tcp { port, .. } = address else { panic!("no TCP port") };
                let position = |ports: &[u16]| ports.iter().position(|other| *other == port);
                ready(match (position(&SERVERS), position(&SENTINELS)) {
                    (Some(it), _) => {
                        network.dial(number, SERVERS_LINK, service.servers[it].clone())
                    }
                    (_, Some(it)) => {
                        network.dial(number, SENTINELS_LINK, service.sentinels[it].clone())
                    }
                    _ => panic!("nothing listens on port {port}"),
                })
            };
            let sentinels = RedisSentinels::new(SERVICE, SENTINELS.map(|port| ("simulated", port)));
            layer(number, RedisConfig::sentinel(sentinels).connector(connect), MAX_STALENESS, seed)
        };
        SentinelWorld { layers: (0..nodes).map(node).collect(), service, network }
    }
}

impl SentinelWorld {
    /// Cuts a node off from the sentinels, which then agree on another master. The old one goes on
    /// for a minute.
    pub(crate) async fn replace_master_behind_the_back_of(&self, node: usize) {
        self.network.leave_one(node, SERVERS_LINK);
        let failover = self.service.clone().fail_over(0, [Duration::ZERO; 3], MINUTE);
        drop(spawn_local(failover));
        sleep(Duration::from_millis(1)).await;
    }
}

impl World for SentinelWorld {
    fn layers(&self) -> Vec<SessionLayer<Counter>> {
        self.layers.clone()
    }

    fn max_doubt(&self) -> Duration {
        DOUBT
    }

    fn trouble(&self, dice: &Dice) {
        let service = &self.service;
        match dice.roll(16) {
            0..5 => self.network.trouble(dice),
            5..9 => {
                let (lags, survives) = ([(); 3].map(|()| dice.millis(300)), dice.millis(4000));
                drop(spawn_local(service.clone().fail_over(dice.roll(3) as usize, lags, survives)));
            }
            // The node still reaches the servers.
            9 | 10 => {
                let node = dice.roll(self.layers.len() as u64) as usize;
                self.network.leave_one(node, SERVERS_LINK);
            }
            11 => drop(dice.pick(&service.sentinels).lock().unwrap().frozen.send_replace(true)),
            12 => service.restart_master(),
            _ => self.heal(),
        }
    }

    fn heal(&self) {
        self.network.heal();
        for sentinel in &self.service.sentinels {
            sentinel.lock().unwrap().frozen.send_replace(false);
        }
    }

    /// A change of master takes some time. And a node's failed writes evict what it has cached, so
    /// there must be sessions that it does not try to write.
    fn size(&self) -> (usize, usize) {
        (12, 150)
    }

    fn is_calm(&self) -> bool {
        !self.service.fails_over.load(Ordering::SeqCst)
    }

    fn restart_empty(&self) {
        self.service.servers[0].lock().unwrap().keys().clear();
        self.service.restart_master();
    }
}

impl Service {
    /// Promotes the replica. Sentinels hear of it one after the other, `lags` apart. The old
    /// master, which may be cut off from them, goes on for some time after that.
    async fn fail_over(self: Arc<Self>, first: usize, lags: [Duration; 3], survives: Duration) {
        if self.fails_over.swap(true, Ordering::SeqCst) {
            return;
        }
        let old = usize::from(!self.servers[0].lock().unwrap().is_master);
        let [old, new] = [old, 1 - old].map(|it| (SERVERS[it], &self.servers[it]));
        old.1.lock().unwrap().refuses_changes = true;
        {
            let mut new = new.1.lock().unwrap();
            new.history = self.next_process();
            // The promise counts from the moment at which the sentinels agree.
            (new.is_master, new.refuses_changes) = (true, true);
        }
        for (it, lag) in lags.into_iter().enumerate() {
            self.sentinels[(first + it) % 3].lock().unwrap().follow(new.0);
            sleep(lag).await;
        }
        new.1.lock().unwrap().refuses_changes = false;
        sleep(survives).await;
        {
            let mut old = old.1.lock().unwrap();
            (old.is_master, old.refuses_changes) = (false, false);
        }
        self.fails_over.store(false, Ordering::SeqCst);
    }

    fn restart_master(&self) {
        if self.fails_over.load(Ordering::SeqCst) {
            return;
        }
        let number = self.next_process();
        for server in &self.servers {
            let mut server = server.lock().unwrap();
            if server.is_master {
                server.restart(number);
            }
        }
    }

    fn next_process(&self) -> u64 {
        self.processes.fetch_add(1, Ordering::SeqCst)
    }
}

impl Sentinel {
    /// Names another master from now on, and announces it.
    fn follow(&mut self, master: u16) {
        self.master = master;
        self.epoch += 1;
        let message = push(&[b"message", b"+switch-master", SERVICE.as_bytes()]);
        for (_, outbox) in &self.subscribers {
            // Fails if the connection has ended.
            let _ = outbox.send(message.clone());
        }
    }
}

impl Process for Sentinel {
    fn run(&self) -> watch::Receiver<u64> {
        self.run.subscribe()
    }

    fn frozen(&self) -> watch::Receiver<bool> {
        self.frozen.subscribe()
    }

    fn execute(&mut self, client: &mut Client, command: &[Vec<u8>]) {
        let texts = |texts: &[&str]| array(texts.iter().map(|text| bulk(text.as_bytes())));
        let words: Vec<_> =
            command.iter().map(|word| String::from_utf8_lossy(word).to_ascii_uppercase()).collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let reply = match &words[..] {
            ["HELLO", ..] => "%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n".into(),
            ["SUBSCRIBE", ..] => {
                self.subscribers.push((client.connection, client.outbox.clone()));
                let confirm = |channel: &Vec<u8>| push(&[b"subscribe", channel, b""]);
                command[1..].iter().map(confirm).collect::<Vec<_>>().concat()
            }
            ["SENTINEL", "MASTER", _] => texts(&["config-epoch", &self.epoch.to_string()]),
            ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", _] => {
                texts(&["simulated", &self.master.to_string()])
            }
            _ => panic!("the simulated sentinel does not know the command {words:?}"),
        };
        // Fails if the connection has ended.
        let _ = client.outbox.send(reply);
    }

    fn disconnected(&mut self, connection: u64) {
        self.subscribers.retain(|(other, _)| *other != connection);
    }
}
