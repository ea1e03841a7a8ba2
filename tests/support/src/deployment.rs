//! The servers and sentinels of `deploy/sentinel/`, and the servers of `deploy/cluster/`, started
//! from their files.
//!
//! Addresses, ports and paths are replaced. There is a port without TLS, and a user with all
//! permissions, by which tests look at the processes.

pub mod cluster;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{FromRedisValue, RedisResult};

use crate::files::Files;
use crate::redis::free_port;
use crate::wait::{DEADLINE, eventually};

/// The name of the service.
pub const SERVICE: &str = "sessions";
/// This machine, by a name for each server: a certificate and a resolver ignore the case.
const HOSTS: [&str; 3] = ["localhost", "Localhost", "LOCALHOST"];
/// A kind of process, and its files.
struct Kind {
    /// The folder in `deploy/` that has the files.
    folder: &'static str,
    files: &'static [&'static str],
    /// The name of the start script and of the configuration.
    script: &'static str,
    /// The file that gets the user of the tests, too.
    users: &'static str,
    /// The name of the certificate.
    identity: &'static str,
    /// The port for clients.
    port: u16,
    /// Servers of a cluster also listen to a port that is 10,000 higher.
    has_bus: bool,
}

const SERVER: Kind = Kind {
    folder: "sentinel",
    files: &["../redis.conf", "../users.acl", "server.conf", "server.sh", "servers.acl"],
    script: "server",
    users: "servers.acl",
    identity: "redis",
    port: 6379,
    has_bus: false,
};
const SENTINEL: Kind = Kind {
    folder: "sentinel",
    files: &["sentinel.conf", "sentinel.sh", "sentinels.acl"],
    script: "sentinel",
    users: "sentinels.acl",
    identity: "sentinel",
    port: 26379,
    has_bus: false,
};
/// A replacement in a file.
type Edit = (&'static str, String, String);
/// The user by which tests look at the processes.
const TEST_USER: &str = "user test on nopass ~* &* +@all\n";

/// Three servers, of which the first is the master at first, and three sentinels.
pub struct Deployment {
    pub servers: Vec<Deployed>,
    pub sentinels: Vec<Deployed>,
    files: Files,
}

impl Deployment {
    /// Starts all processes, and waits until the sentinels know the servers and each other.
    pub async fn start() -> Self {
        let files = certificates(&["redis", "sentinel"]);
        let mut servers: Vec<Deployed> = Vec::new();
        for host in HOSTS {
            let master = servers.first().map(|master| master.port);
            servers.push(start_watched(&SERVER, host, master, &files));
        }
        let master = servers[0].port;
        let sentinel = |_| start_watched(&SENTINEL, HOSTS[0], Some(master), &files);
        let sentinels: Vec<_> = (0..3).map(sentinel).collect();
        let complete = async || {
            let replication = servers[0].info("replication");
            let sentinels = sentinels.iter().map(|sentinel| sentinel.info("sentinel"));
            // Shown only if the server needs replicas for writes.
            let lacks = |good| replication.contains(&format!("min_slaves_good_slaves:{good}\r"));
            replication.matches("state=online").count() == 2
                && !lacks(0)
                && !lacks(1)
                && sentinels.clone().all(|info| info.contains("status=ok"))
                && sentinels.clone().all(|info| info.contains("slaves=2,sentinels=3"))
        };
        eventually(complete, "the servers and sentinels know each other").await;
        Deployment { servers, sentinels, files }
    }

    /// Returns the path of the certificate of the authority.
    pub fn authority(&self) -> String {
        self.files.path("ca.pem")
    }

    /// Returns the URL in the Compose file, with the addresses of these sentinels.
    pub fn url(&self) -> String {
        let compose = fs::read_to_string(file("sentinel/compose.yaml")).unwrap();
        let url = compose.lines().find_map(|line| line.trim().strip_prefix("REDIS_URL: ")).unwrap();
        let named = (1..).zip(&self.sentinels);
        named.fold(url.to_owned(), |url, (number, sentinel)| {
            let own = format!("localhost:{}", sentinel.port);
            replaced(&url, &format!("sentinel-{number}:26379"), &own)
        })
    }

    /// Makes the sentinels take a server for down sooner, so that tests take less time.
    pub fn notice_failures_soon(&self) {
        for sentinel in &self.sentinels {
            let setting = ["SENTINEL", "SET", SERVICE, "down-after-milliseconds", "1000"];
            let () = sentinel.command(&setting).unwrap();
        }
    }

    /// Waits until most sentinels name another master than the first server, and returns it.
    pub async fn has_switched(&self) -> &Deployed {
        let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE];
        let switched = async || {
            let answers = self.sentinels.iter();
            let answers =
                answers.filter_map(|sentinel| sentinel.command::<(String, u16)>(&question).ok());
            let named: Vec<u16> = answers.map(|(_, port)| port).collect();
            let agreed =
                |server: &&Deployed| named.iter().filter(|port| **port == server.port).count() >= 2;
            self.servers[1..].iter().find(agreed)
        };
        eventually(switched, "the sentinels switch to another master").await
    }

    /// Returns what these processes have denied to a user: commands and channels.
    pub fn denied(processes: &[Deployed], user: &str) -> BTreeSet<String> {
        let logs = processes.iter().filter_map(|process| {
            process.command::<Vec<HashMap<String, String>>>(&["ACL", "LOG"]).ok()
        });
        let entries = logs.flatten().filter(|entry| entry["username"] == user);
        entries.map(|entry| entry["object"].clone()).collect()
    }
}

/// A server or a sentinel. It is killed on drop.
pub struct Deployed {
    /// The port for clients, with TLS.
    pub port: u16,
    /// The port by which tests look at the process.
    test_port: u16,
    kind: &'static Kind,
    host: &'static str,
    /// The environment of the start script, beside the name of the process.
    variables: Vec<(&'static str, String)>,
    process: Child,
    files: Files,
}

impl Deployed {
    /// Starts a process by its script. The edits to its files may depend on its port.
    fn start(
        kind: &'static Kind,
        host: &'static str,
        variables: &[(&'static str, String)],
        edits: impl Fn(u16) -> Vec<Edit>,
        certificates: &Files,
    ) -> Self {
        // Another process may take a free port before this one does.
        for _ in 0..10 {
            let port = if kind.has_bus { free_port_with_bus() } else { free_port() };
            let (test_port, files) = (free_port(), Files::new());
            prepare(&files, kind, [port, test_port], &edits(port), certificates);
            let variables = variables.to_vec();
            let process = spawn(&files, kind, host, &variables);
            let mut started = Deployed { port, test_port, kind, host, variables, process, files };
            if started.is_ready() {
                return started;
            }
            eprintln!("{}.sh failed: {}", kind.script, started.file("log"));
        }
        panic!("{}.sh did not start", kind.script);
    }

    /// Returns the name by which others know the process.
    pub fn host(&self) -> &'static str {
        self.host
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Kills the process and starts it again, with what it has kept.
    pub fn restart(&mut self) {
        self.kill();
        self.process = spawn(&self.files, self.kind, self.host, &self.variables);
        assert!(self.is_ready(), "{}.sh failed: {}", self.kind.script, self.file("log"));
    }

    /// Runs a command over a new connection.
    pub fn command<R: FromRedisValue>(&self, command: &[&str]) -> RedisResult<R> {
        let url = format!("redis://test:any@127.0.0.1:{}", self.test_port);
        let timeout = Duration::from_secs(1);
        let mut connection = redis::Client::open(url)?.get_connection_with_timeout(timeout)?;
        connection.set_read_timeout(Some(timeout))?;
        let (name, args) = command.split_first().expect("a command has a name");
        redis::cmd(name).arg(args).query(&mut connection)
    }

    /// Returns a section of what the process says about itself, or nothing.
    pub fn info(&self, section: &str) -> String {
        self.command(&["INFO", section]).unwrap_or_default()
    }

    /// Waits until a crash of the process would lose nothing. While the system writes the
    /// append-only file to the disk, the server keeps the latest changes.
    pub async fn has_saved(&self) {
        let has_saved = async || self.info("persistence").contains("aof_buffer_length:0\r");
        eventually(has_saved, "the server has written all changes").await;
    }

    /// Gives a user the permissions in a file of its folder in `deploy/`, without some of them.
    pub fn set_user(&self, acl: &str, user: &str, missing: &[&str]) {
        let rule = rule_in(self.kind.folder, acl, user);
        let permissions = rule.split(' ').filter(|permission| !missing.contains(permission));
        let command = ["ACL", "SETUSER", user, "reset"].into_iter().chain(permissions);
        let () = self.command(&command.collect::<Vec<_>>()).unwrap();
    }

    /// Returns the text of a file of this process, or nothing.
    pub fn file(&self, name: &str) -> String {
        fs::read_to_string(self.files.path(name)).unwrap_or_default()
    }

    /// Waits until this process replies. Returns `false` if it exits, or does not reply within
    /// [`DEADLINE`].
    fn is_ready(&mut self) -> bool {
        let begun = Instant::now();
        let own_id = format!("process_id:{}\r\n", self.process.id());
        while self.process.try_wait().unwrap().is_none() && begun.elapsed() < DEADLINE {
            if self.info("server").contains(&own_id) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Deployed {
    fn drop(&mut self) {
        // A test that panics must not panic again here.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a process of a deployment with sentinels. Without the port of a master, it is the master.
fn start_watched(
    kind: &'static Kind,
    host: &'static str,
    master: Option<u16>,
    certificates: &Files,
) -> Deployed {
    let script = if kind.script == "server" { "server.sh" } else { "sentinel.sh" };
    let edits = |port| {
        let to = format!(" {}", master.unwrap_or(port));
        vec![(script, " 6379".to_owned(), to)]
    };
    Deployed::start(kind, host, &[("MASTER", HOSTS[0].to_owned())], edits, certificates)
}

/// Makes an authority, and certificates with these names for this machine.
fn certificates(names: &[&str]) -> Files {
    let files = Files::new();
    for name in names.iter().copied() {
        let made = Command::new("sh")
            .arg(file("sentinel/certificates.sh"))
            .args([&files.path(""), name, "localhost"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    files
}

/// Returns the rule of a user in a file of `deploy/sentinel/`.
pub fn rule(acl: &str, user: &str) -> String {
    rule_in("sentinel", acl, user)
}

fn rule_in(folder: &str, acl: &str, user: &str) -> String {
    let users = fs::read_to_string(file(folder).join(acl)).unwrap();
    let prefix = format!("user {user} ");
    users.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().to_owned()
}

/// Returns the path of a file in `deploy/`.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().join("deploy").join(name)
}

/// Writes the files that a container of the Compose file has in `/etc/redis`.
fn prepare(
    files: &Files,
    kind: &Kind,
    [port, test_port]: [u16; 2],
    edits: &[Edit],
    certificates: &Files,
) {
    let (etc, data) = (files.path("etc"), files.path("data"));
    fs::create_dir(&etc).unwrap();
    fs::create_dir(&data).unwrap();
    for name in kind.files {
        let text = fs::read_to_string(file(kind.folder).join(name)).unwrap();
        let mut text = text.replace("/data", &data).replace("/etc/redis", &etc);
        for (_, from, to) in edits.iter().filter(|(edited, ..)| edited == name) {
            text = replaced(&text, from, to);
        }
        if *name == kind.users {
            text += TEST_USER;
        } else if name.strip_suffix(".conf") == Some(kind.script) {
            text = replaced(&text, "\nport 0\n", &format!("\nport {test_port}\n"));
            let original = format!("tls-port {}", kind.port);
            text = replaced(&text, &original, &format!("tls-port {port}"));
            text += "bind 127.0.0.1 -::1\n";
        }
        files.write(&format!("etc/{}", name.trim_start_matches("../")), &text);
    }
    for (from, to) in [
        ("ca.pem".to_owned(), "ca.pem"),
        (format!("{}.pem", kind.identity), "cert.pem"),
        (format!("{}-key.pem", kind.identity), "key.pem"),
    ] {
        fs::copy(certificates.path(&from), files.path(&format!("etc/{to}"))).unwrap();
    }
}

/// Returns a free port such that the one that is 10,000 higher is free as well.
fn free_port_with_bus() -> u16 {
    let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let ports = std::iter::repeat_with(free_port);
    let has_bus = |port: &u16| port.checked_add(10_000).is_some_and(is_free);
    ports.take(1000).find(has_bus).expect("a port has a free one for the bus")
}

/// Replaces a text that must be there.
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from:?} is not in {text}");
    text.replace(from, to)
}

fn spawn(files: &Files, kind: &Kind, host: &str, variables: &[(&str, String)]) -> Child {
    let log = File::create(files.path("log")).unwrap();
    Command::new("sh")
        .arg(files.path(&format!("etc/{}.sh", kind.script)))
        .env("NAME", host)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stderr(log.try_clone().unwrap())
        .stdout(log)
        .spawn()
        .unwrap()
}
