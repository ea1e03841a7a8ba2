//! A Redis server in the test's process: as much of it as sessions without owners need.
//!
//! The scripts are told apart by their text and carried out in Rust. That they do on a real server
//! what they do here is shown by the tests on real servers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::cluster::{Member, Packet};
use super::network::{Client, Outbox, Process};
use super::resp::{array, bulk, integer, number, push};

const READONLY: &str = "-READONLY You can't write against a read only replica.\r\n";
const NOPERM: &str = "-NOPERM User default has no permissions to run this command\r\n";
const NOREPLICAS: &str = "-NOREPLICAS Not enough good replicas to write.\r\n";
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
    info: Info,
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
    scripts: HashMap<String, Script>,
}

/// A value, and when it expires.
#[derive(Clone)]
pub(crate) struct Entry {
    value: Vec<u8>,
    expires: Instant,
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Script {
    Update,
    Delete,
    DeleteIf,
    Touch,
    Clear,
    Publish,
    Heartbeat,
    HeartbeatWithoutWriting,
    LoadWithoutWriting,
}

impl Script {
    fn of(code: &str) -> Self {
        let is_write = code.starts_with("#!lua");
        let has = |part: &str| code.contains(part);
        match () {
            () if !is_write && has("PUBLISH") => Script::HeartbeatWithoutWriting,
            () if !is_write => Script::LoadWithoutWriting,
            () if has("'INFO'") => Script::Heartbeat,
            () if has("SETRANGE") => Script::Touch,
            () if has("UNLINK") => Script::Clear,
            () if has("'SET'") => Script::Update,
            () if has("revision ~= ''") => Script::DeleteIf,
            () if has("'DEL'") => Script::Delete,
            () if has("'PUBLISH', ARGV[1], ARGV[2]") => Script::Publish,
            () => panic!("the simulated server does not know this script: {code}"),
        }
    }

    fn writes(self) -> bool {
        !matches!(self, Script::HeartbeatWithoutWriting | Script::LoadWithoutWriting)
    }
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
        let run = *self.run.borrow();
        format!("run_id:{run:040x}\r\nserver_time_usec:1\r\nmaxmemory:0\r\nrole:{role}\r\n")
    }

    /// Returns the reply to a write if there must not be one.
    fn refusal(&self) -> Option<&'static str> {
        match () {
            () if !self.is_master => Some(READONLY),
            () if !self.can_save => Some(MISCONF),
            () => None,
        }
    }

    fn live(&self, key: &[u8]) -> Option<Entry> {
        self.keys().get(key).filter(|entry| entry.is_live()).cloned()
    }

    fn get(&self, key: &[u8]) -> Vec<u8> {
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

    fn put(&mut self, key: &[u8], value: &[u8], ttl: &[u8]) {
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
    fn publish(&self, channel: &[u8], message: &[u8]) {
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

    fn run_script(&mut self, name: &str, args: &[Vec<u8>]) -> Vec<u8> {
        let text = String::from_utf8_lossy(&args[0]).into_owned();
        let script = if name == "EVAL" {
            let script = Script::of(&text);
            self.scripts.insert(redis::Script::new(&text).get_hash().to_owned(), script);
            script
        } else {
            match self.scripts.get(&text) {
                Some(script) => *script,
                None => return "-NOSCRIPT No matching script.\r\n".into(),
            }
        };
        if script.writes() {
            if let Some(refusal) = self.refusal() {
                return refusal.into();
            }
            if self.refuses_changes && script != Script::Heartbeat {
                return NOREPLICAS.into();
            }
        } else if self.info != Info::Everywhere {
            return NOPERM.into();
        } else if !self.is_master {
            return READONLY.into();
        }
        let (keys, args) = args[2..].split_at(number(&args[1]) as usize);
        match script {
            Script::Heartbeat | Script::HeartbeatWithoutWriting => {
                self.heartbeat(script, keys.first(), args)
            }
            _ => self.change(script, keys, args),
        }
    }

    fn heartbeat(&mut self, script: Script, key: Option<&Vec<u8>>, args: &[Vec<u8>]) -> Vec<u8> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let number = text(&args[2]);
        let kept = key.and_then(|key| self.live(key)).map_or("0".into(), |it| text(&it.value));
        let state = match key {
            Some(key) if script == Script::Heartbeat => {
                self.put(key, number.as_bytes(), &args[0]);
                format!("{kept} {number}")
            }
            _ => format!("{kept} {kept}"),
        };
        let message = match self.info {
            Info::Everywhere => format!("{number} {:040x} 1 {state}", self.history),
            Info::OutsideScripts => format!("{number} - 1 {state}"),
            Info::Nowhere => format!("{number} -  {state}"),
        };
        match &*args[3] {
            b"SPUBLISH" => self.publish_here(&args[1], message.as_bytes()),
            _ => self.publish(&args[1], message.as_bytes()),
        }
        "+OK\r\n".into()
    }

    fn change(&mut self, script: Script, keys: &[Vec<u8>], args: &[Vec<u8>]) -> Vec<u8> {
        let key = &keys[0];
        let current = self.live(key).map(|entry| entry.value);
        let revision = current.as_ref().and_then(|value| Some(value.get(2..18)?.to_vec()));
        match script {
            Script::Update => {
                let Some(revision) = revision else { return integer(0) };
                if revision == args[1] {
                    return integer(1);
                }
                if revision != args[0] {
                    return bulk(&current.unwrap());
                }
                self.publish(&args[4], &args[5]);
                self.put(key, &args[2], &args[3]);
                integer(1)
            }
            Script::Delete => {
                self.publish(&args[0], &args[1]);
                match current {
                    Some(tombstone) if tombstone[1] == 1 => bulk(&tombstone[67..]),
                    current => {
                        self.keys().remove(key);
                        integer(current.is_some().into())
                    }
                }
            }
            Script::DeleteIf => {
                if revision.is_some_and(|revision| revision != args[0]) {
                    return bulk(&current.unwrap());
                }
                self.publish(&args[1], &args[2]);
                integer(self.keys().remove(key).is_some().into())
            }
            Script::Touch => {
                let Some(mut value) = current.filter(|value| value[1] == 0) else {
                    return integer(0);
                };
                let mut expires = Instant::now() + Duration::from_millis(number(&args[2]));
                let mut keys = self.keys();
                if expires > keys[key].expires {
                    value[26..34].copy_from_slice(&args[0]);
                } else {
                    expires = keys[key].expires;
                }
                value[34..42].copy_from_slice(&args[1]);
                keys.insert(key.to_vec(), Entry { value, expires });
                integer(1)
            }
            Script::Clear => {
                self.publish(&args[0], &args[1]);
                let mut data = self.keys();
                let removed = keys.iter().filter_map(|key| data.remove(key));
                let (tombstones, sessions): (Vec<_>, Vec<_>) =
                    removed.filter(Entry::is_live).partition(|entry| entry.value[1] == 1);
                let moved = tombstones.iter().map(|entry| bulk(&entry.value[67..]));
                array([integer(sessions.len() as u64), array(moved)])
            }
            Script::Publish => {
                self.publish(&args[0], &args[1]);
                "+OK\r\n".into()
            }
            Script::LoadWithoutWriting => self.get(key),
            Script::Heartbeat | Script::HeartbeatWithoutWriting => unreachable!("it is no change"),
        }
    }
}
