//! A Redis server in the test's process: as much of it as sessions without owners need.
//!
//! The scripts are told apart by their text and carried out in Rust. That they do on a real server
//! what they do here is shown by the tests on real servers.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// The bytes that a server sends over one connection.
pub(crate) type Outbox = mpsc::UnboundedSender<Vec<u8>>;

const READONLY: &str = "-READONLY You can't write against a read only replica.\r\n";
const NOPERM: &str = "-NOPERM User default has no permissions to run this command\r\n";
const MISCONF: &str = "-MISCONF Redis is configured to save RDB snapshots.\r\n";

/// Where a server carries out `INFO`. Managed services restrict it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Info {
    Everywhere,
    OutsideScripts,
    Nowhere,
}

/// A server process and its data.
pub(crate) struct Server {
    /// Identifies the process. A restart changes it, and closes all connections.
    pub(crate) run: watch::Sender<u64>,
    /// The replication id.
    pub(crate) history: u64,
    pub(crate) is_master: bool,
    info: Info,
    /// `false` if it refuses writes because it cannot save its data.
    pub(crate) can_save: bool,
    /// `true` if its process is stopped.
    pub(crate) frozen: watch::Sender<bool>,
    pub(crate) data: HashMap<Vec<u8>, Entry>,
    subscribers: Vec<Subscriber>,
    scripts: HashMap<String, Script>,
}

/// A value, and when it expires.
#[derive(Clone)]
pub(crate) struct Entry {
    value: Vec<u8>,
    expires: Instant,
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

impl Server {
    pub(crate) fn new(number: u64, is_master: bool, info: Info) -> Self {
        Server {
            run: watch::Sender::new(number),
            history: number,
            is_master,
            info,
            can_save: true,
            frozen: watch::Sender::new(false),
            data: HashMap::new(),
            subscribers: Vec::new(),
            scripts: HashMap::new(),
        }
    }

    /// Starts another process, with the same data.
    pub(crate) fn restart(&mut self, number: u64) {
        self.history = number;
        self.subscribers.clear();
        self.scripts.clear();
        self.run.send_replace(number);
    }

    pub(crate) fn disconnected(&mut self, connection: u64) {
        self.subscribers.retain(|subscriber| subscriber.connection != connection);
    }

    /// Carries out a command and sends the reply.
    pub(crate) fn execute(&mut self, connection: u64, command: &[Vec<u8>], outbox: &Outbox) {
        let name = String::from_utf8(command[0].to_ascii_uppercase()).unwrap();
        let args = &command[1..];
        let reply = match name.as_str() {
            "HELLO" => "%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n".into(),
            "INFO" | "TIME" if self.info == Info::Nowhere => NOPERM.into(),
            "INFO" => bulk(self.about().as_bytes()),
            "SUBSCRIBE" => {
                let channel = args[0].clone();
                let confirmation = push(&[b"subscribe", &channel, b""]);
                self.subscribers.push(Subscriber { connection, channel, outbox: outbox.clone() });
                confirmation
            }
            // Not used, because a replica would carry it out.
            "GET" => self.get(&args[0]),
            "GETEX" | "SET" => match self.refusal() {
                Some(refusal) => refusal.into(),
                None if name == "GETEX" => self.get(&args[0]),
                None => self.set(args),
            },
            "SCAN" => self.scan(),
            "EVALSHA" | "EVAL" => self.run_script(&name, args),
            _ => panic!("the simulated server does not know the command {name}"),
        };
        // Fails if the connection has ended.
        let _ = outbox.send(reply);
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

    fn live(&self, key: &[u8]) -> Option<&Entry> {
        self.data.get(key).filter(|entry| Instant::now() < entry.expires)
    }

    fn get(&self, key: &[u8]) -> Vec<u8> {
        self.live(key).map_or("$-1\r\n".into(), |entry| bulk(&entry.value))
    }

    /// Returns all keys as one page.
    fn scan(&self) -> Vec<u8> {
        let mut keys: Vec<_> = self.data.keys().filter(|key| self.live(key).is_some()).collect();
        // A seed must give the same history each time.
        keys.sort();
        let head = format!("*2\r\n$1\r\n0\r\n*{}\r\n", keys.len()).into_bytes();
        keys.into_iter().fold(head, |bytes, key| [bytes, bulk(key)].concat())
    }

    fn put(&mut self, key: &[u8], value: &[u8], ttl: &[u8]) {
        let expires = Instant::now() + Duration::from_millis(number(ttl));
        self.data.insert(key.to_vec(), Entry { value: value.to_vec(), expires });
    }

    /// Carries out `SET key value PX ttl`, also with `NX` before `PX`.
    fn set(&mut self, args: &[Vec<u8>]) -> Vec<u8> {
        if args[2] == b"NX" && self.live(&args[0]).is_some() {
            return "$-1\r\n".into();
        }
        self.put(&args[0], &args[1], args.last().unwrap());
        "+OK\r\n".into()
    }

    fn publish(&self, channel: &[u8], message: &[u8]) {
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
        } else if self.info != Info::Everywhere {
            return NOPERM.into();
        } else if !self.is_master {
            return READONLY.into();
        }
        let (keys, args) = args[2..].split_at(number(&args[1]) as usize);
        assert!(!keys.is_empty(), "each script has a key");
        self.carry_out(script, keys, args)
    }

    fn carry_out(&mut self, script: Script, keys: &[Vec<u8>], args: &[Vec<u8>]) -> Vec<u8> {
        let key = &keys[0];
        let current = self.live(key).map(|entry| entry.value.clone());
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
                    Some(tombstone) if tombstone[1] == 1 => bulk(&tombstone[51..]),
                    current => {
                        self.data.remove(key);
                        integer(current.is_some().into())
                    }
                }
            }
            Script::DeleteIf => {
                if revision.is_some_and(|revision| revision != args[0]) {
                    return bulk(&current.unwrap());
                }
                self.publish(&args[1], &args[2]);
                integer(self.data.remove(key).is_some().into())
            }
            Script::Touch => {
                let Some(mut value) = current.filter(|value| value[1] == 0) else {
                    return integer(0);
                };
                let expires = Instant::now() + Duration::from_millis(number(&args[1]));
                if expires > self.data[key].expires {
                    value[26..34].copy_from_slice(&args[0]);
                    self.data.insert(key.to_vec(), Entry { value, expires });
                }
                integer(1)
            }
            Script::Clear => {
                self.publish(&args[0], &args[1]);
                let is_session = |entry: &Entry| entry.value[1] != 1;
                let removed = keys.iter().filter_map(|key| self.data.remove(key));
                integer(removed.filter(is_session).count() as u64)
            }
            Script::Publish => {
                self.publish(&args[0], &args[1]);
                "+OK\r\n".into()
            }
            Script::Heartbeat | Script::HeartbeatWithoutWriting => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let (number, mut kept) =
                    (text(&args[2]), current.map_or("0".into(), |it| text(&it)));
                let mut state = format!("{kept} {kept}");
                if script == Script::Heartbeat {
                    state = format!("{kept} {number}");
                    kept.clone_from(&number);
                    self.put(key, number.as_bytes(), &args[0]);
                }
                let message = match self.info {
                    Info::Everywhere => format!("{number} {:040x} 1 {state}", self.history),
                    Info::OutsideScripts => format!("{number} - 1 {state}"),
                    Info::Nowhere => format!("{number} -  {state}"),
                };
                self.publish(&args[1], message.as_bytes());
                "+OK\r\n".into()
            }
            Script::LoadWithoutWriting => self.get(key),
        }
    }
}

fn number(text: &[u8]) -> u64 {
    std::str::from_utf8(text).unwrap().parse().unwrap()
}

fn integer(number: u64) -> Vec<u8> {
    format!(":{number}\r\n").into()
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

fn push(parts: &[&[u8]]) -> Vec<u8> {
    let head = format!(">{}\r\n", parts.len()).into_bytes();
    parts.iter().fold(head, |bytes, part| [bytes, bulk(part)].concat())
}

/// Takes a whole command from the front of what has arrived, if there is one.
pub(crate) fn take_command(buffer: &mut Vec<u8>) -> Option<Vec<Vec<u8>>> {
    let mut rest = buffer.as_slice();
    let count = take_length(&mut rest, b'*')?;
    let mut parts = Vec::new();
    for _ in 0..count {
        let length = take_length(&mut rest, b'$')?;
        parts.push(rest.get(..length)?.to_vec());
        rest = rest.get(length + 2..)?;
    }
    let taken = buffer.len() - rest.len();
    buffer.drain(..taken);
    Some(parts)
}

/// Takes a line with a length.
fn take_length(rest: &mut &[u8], prefix: u8) -> Option<usize> {
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    assert_eq!(rest[0], prefix, "commands are arrays of strings");
    let length = number(&rest[1..end]) as usize;
    *rest = &rest[end + 2..];
    Some(length)
}
