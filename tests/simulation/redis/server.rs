//! A Redis server in the test's process: as much of it as sessions without owners need.
//!
//! Its scripts are in `scripts.rs`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::cluster::{Member, Packet};
use super::network::{Client, Outbox, Process};
use super::resp::{array, bulk, number, push};
use super::scripts::Script;

pub(super) const READONLY: &str = "-READONLY You can't write against a read only replica.\r\n";
pub(super) const NOPERM: &str = "-NOPERM User default has no permissions to run this command\r\n";
pub(super) const NOREPLICAS: &str = "-NOREPLICAS Not enough good replicas to write.\r\n";
const MISCONF: &str = "-MISCONF Redis is configured to save RDB snapshots.\r\n";

/// Where a server carries out `INFO`. Managed services restrict it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Info {
    Everywhere,
    OutsideScripts,
    Nowhere,
}

/// All keys of a server. Servers that replicate each other without delay share them.
pub(super) type Keyspace = Arc<Mutex<HashMap<Vec<u8>, Entry>>>;

/// A server process and its data.
pub(super) struct Server {
    /// Identifies the process. A restart changes it, and closes all connections.
    run: watch::Sender<u64>,
    pub(super) is_up: bool,
    /// The replication id.
    pub(super) history: u64,
    pub(super) is_master: bool,
    pub(super) info: Info,
    /// `false` if it refuses writes because it cannot save its data.
    pub(super) can_save: bool,
    /// `true` while what it would acknowledge might be forgotten, because of a failover that not
    /// all have heard of. That is allowed, but would confuse the checker, so it acknowledges
    /// nothing.
    pub(super) refuses_changes: bool,
    /// `true` if its process is stopped.
    pub(super) frozen: watch::Sender<bool>,
    pub(super) data: Keyspace,
    /// The server's part in a cluster, and where its packets for the others go.
    pub(super) cluster: Option<(Member, mpsc::UnboundedSender<Packet>)>,
    subscribers: Vec<Subscriber>,
    pub(super) scripts: HashMap<String, Script>,
}

/// A value, and when it expires.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(super) value: Vec<u8>,
    pub(super) expires: Instant,
}

impl Entry {
    pub(super) fn is_live(&self) -> bool {
        Instant::now() < self.expires
    }
}

struct Subscriber {
    connection: u64,
    channel: Vec<u8>,
    outbox: Outbox,
}

impl Process for Server {
    fn run(&self) -> watch::Receiver<u64> {
        self.run.subscribe()
    }

    fn frozen(&self) -> watch::Receiver<bool> {
        self.frozen.subscribe()
    }

    fn is_up(&self) -> bool {
        self.is_up
    }

    fn disconnected(&mut self, connection: u64) {
        self.subscribers.retain(|subscriber| subscriber.connection != connection);
    }

    fn execute(&mut self, client: &mut Client, command: &[Vec<u8>]) {
        let name = String::from_utf8(command[0].to_ascii_uppercase()).unwrap();
        let args = &command[1..];
        let is_asking = std::mem::replace(&mut client.is_asking, name == "ASKING");
        let reply = match self.redirect(&name, args, is_asking) {
            Some(redirect) => redirect,
            None => self.reply(client, &name, args),
        };
        // Fails if the connection has ended.
        let _ = client.outbox.send(reply);
    }
}

impl Server {
    pub(super) fn new(number: u64, is_master: bool, info: Info) -> Self {
        Server {
            run: watch::Sender::new(number),
            is_up: true,
            history: number,
            is_master,
            info,
            can_save: true,
            refuses_changes: false,
            frozen: watch::Sender::new(false),
            data: Keyspace::default(),
            cluster: None,
            subscribers: Vec::new(),
            scripts: HashMap::new(),
        }
    }

    /// Starts another process, with the same data.
    pub(super) fn restart(&mut self, number: u64) {
        self.history = number;
        self.subscribers.clear();
        self.scripts.clear();
        self.run.send_replace(number);
    }

    pub(super) fn keys(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Entry>> {
        self.data.lock().unwrap()
    }

    /// Returns what a server of a cluster believes about it.
    pub(super) fn member(&self) -> &Member {
        &self.cluster.as_ref().expect("a server of a cluster").0
    }

    pub(super) fn member_mut(&mut self) -> &mut Member {
        &mut self.cluster.as_mut().expect("a server of a cluster").0
    }

    /// Returns where a server of a cluster sends a command on, or why it refuses it.
    fn redirect(&self, name: &str, args: &[Vec<u8>], is_asking: bool) -> Option<Vec<u8>> {
        let (member, _) = self.cluster.as_ref()?;
        let key = match name {
            "GET" | "GETEX" | "SET" => &args[0],
            "EVAL" | "EVALSHA" if args[1] != b"0" => &args[2],
            _ => return None,
        };
        member.redirect(key, self.live(key).is_some(), is_asking).map(Into::into)
    }

    fn reply(&mut self, client: &Client, name: &str, args: &[Vec<u8>]) -> Vec<u8> {
        match name {
            "HELLO" => "%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n".into(),
            "ASKING" => "+OK\r\n".into(),
            "CLUSTER" => self.about_the_cluster(&args[0]),
            "INFO" | "TIME" if self.info == Info::Nowhere => NOPERM.into(),
            "INFO" => bulk(self.about().as_bytes()),
            "SUBSCRIBE" => self.subscribe("subscribe", client, &args[0]),
            "SSUBSCRIBE" => self.subscribe("ssubscribe", client, &args[0]),
            // Not used, because a replica would carry it out.
            "GET" => self.get(&args[0]),
            "GETEX" | "SET" => match self.refusal() {
                Some(refusal) => refusal.into(),
                None if name == "GETEX" => self.get(&args[0]),
                None if self.refuses_changes => NOREPLICAS.into(),
                None => self.set(args),
            },
            "SCAN" => self.scan(),
            "EVALSHA" | "EVAL" => self.run_script(name, args),
            _ => panic!("the simulated server does not know the command {name}"),
        }
    }

    fn about_the_cluster(&self, topic: &[u8]) -> Vec<u8> {
        let member = self.member();
        match topic {
            b"NODES" => bulk(member.nodes().as_bytes()),
            b"INFO" => bulk(member.info().as_bytes()),
            b"SLOTS" => array(member.slots()),
            _ => panic!("the simulated server does not know this about clusters"),
        }
    }

    fn subscribe(&mut self, kind: &str, client: &Client, channel: &[u8]) -> Vec<u8> {
        let Client { connection, ref outbox, .. } = *client;
        let (channel, outbox) = (channel.to_vec(), outbox.clone());
        let confirmation = push(&[kind.as_bytes(), &channel, b""]);
        self.subscribers.push(Subscriber { connection, channel, outbox });
        confirmation
    }

    fn about(&self) -> String {
        let role = if self.is_master { "master" } else { "slave" };
        let run = *self.run.borrow() + 1;
        format!("run_id:{run:040x}\r\nserver_time_usec:1\r\nmaxmemory:0\r\nrole:{role}\r\n")
    }

    /// Returns the reply to a write if there must not be one.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        match () {
            () if !self.is_master => Some(READONLY),
            () if !self.can_save => Some(MISCONF),
            () => None,
        }
    }

    pub(super) fn live(&self, key: &[u8]) -> Option<Entry> {
        self.keys().get(key).filter(|entry| entry.is_live()).cloned()
    }

    pub(super) fn get(&self, key: &[u8]) -> Vec<u8> {
        self.live(key).map_or("$-1\r\n".into(), |entry| bulk(&entry.value))
    }

    /// Returns all keys as one page.
    fn scan(&self) -> Vec<u8> {
        let data = self.keys();
        let mut keys: Vec<_> =
            data.iter().filter(|(_, entry)| entry.is_live()).map(|(key, _)| key).collect();
        // A seed must give the same history each time.
        keys.sort();
        array([bulk(b"0"), array(keys.into_iter().map(|key| bulk(key)))])
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8], ttl: &[u8]) {
        let expires = Instant::now() + Duration::from_millis(number(ttl));
        self.keys().insert(key.to_vec(), Entry { value: value.to_vec(), expires });
    }

    /// Carries out `SET key value PX ttl`, also with `NX` before `PX`.
    fn set(&mut self, args: &[Vec<u8>]) -> Vec<u8> {
        if args[2] == b"NX" && self.live(&args[0]).is_some() {
            return "$-1\r\n".into();
        }
        self.put(&args[0], &args[1], args.last().unwrap());
        "+OK\r\n".into()
    }

    /// Publishes to the subscribers of all servers.
    pub(super) fn publish(&self, channel: &[u8], message: &[u8]) {
        self.publish_here(channel, message);
        if let Some((_, bus)) = &self.cluster {
            let _ = bus.send(Packet::Publish(channel.to_vec(), message.to_vec()));
        }
    }

    /// Publishes to the subscribers of this server.
    pub(super) fn publish_here(&self, channel: &[u8], message: &[u8]) {
        for subscriber in self.subscribers.iter().filter(|it| it.channel == channel) {
            let _ = subscriber.outbox.send(push(&[b"message", channel, message]));
        }
    }
}
