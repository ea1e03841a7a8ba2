//! A service that is watched by three sentinels: a master and two replicas.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::FromRedisValue;

use crate::files::Files;
use crate::process::signal;
use crate::program;
use crate::proxy::Proxy;
use crate::redis::{RedisServer, free_port};
use crate::tls::{Authority, Identity};
use crate::wait::eventually;

/// The name of the service.
pub const SERVICE: &str = "shop";
/// The password of the servers' user `app`, in a service with passwords.
pub const PASSWORD: &str = "password-of-the-servers";
/// The password of the sentinels, in a service with passwords.
pub const SENTINEL_PASSWORD: &str = "password-of-the-sentinels";
/// The sentinels take a server for down after this time, in milliseconds.
const DOWN_AFTER: &str = "1000";

/// A master, two replicas and three sentinels.
pub struct Service {
    pub servers: Vec<RedisServer>,
    /// The link to the first master of everybody who uses the address that the sentinels name.
    pub to_master: Option<Proxy>,
    /// The ports of the servers that the sentinels name.
    ports: Vec<u16>,
    pub sentinels: Vec<Sentinel>,
    _files: Files,
}

/// What servers and sentinels ask of their clients.
pub enum Protection<'a> {
    Nothing,
    Passwords,
    /// TLS, with certificates of this authority for `127.0.0.1`.
    Tls(&'a Authority),
}

impl Service {
    pub async fn start() -> Self {
        Self::with(Protection::Nothing).await
    }

    pub async fn with(protection: Protection<'_>) -> Self {
        Self::with_link(protection, false).await
    }

    /// Starts a service whose sentinels and replicas reach the first master through a proxy.
    pub async fn behind_proxy() -> Self {
        Self::with_link(Protection::Nothing, true).await
    }

    /// Starts a service and waits until the sentinels know all servers and each other.
    async fn with_link(protection: Protection<'_>, behind_proxy: bool) -> Self {
        let files = Files::new();
        let identity = match &protection {
            Protection::Tls(authority) => {
                Some(write(&files, authority, &authority.issue("127.0.0.1")))
            }
            _ => None,
        };
        let (mut servers, mut ports) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let tls_port = free_port();
            let args: Vec<String> =
                identity.iter().flat_map(|lines| encrypted(tls_port, lines)).collect();
            let args: Vec<String> = args
                .iter()
                .flat_map(|line| {
                    let (name, value) = line.split_once(' ').expect("a directive has a value");
                    [format!("--{name}"), value.to_owned()]
                })
                .collect();
            let server =
                RedisServer::with_args(&args.iter().map(String::as_str).collect::<Vec<_>>());
            ports.push(if identity.is_some() { tls_port } else { server.port() });
            servers.push(server);
        }
        let mut to_master = None;
        if behind_proxy {
            let proxy = Proxy::start(ports[0]).await;
            ports[0] = proxy.port();
            to_master = Some(proxy);
        }
        for replica in &servers[1..] {
            replica.replicate(ports[0]);
            replica.has_caught_up_with(&servers[0]).await;
        }
        if matches!(protection, Protection::Passwords) {
            let password = format!(">{PASSWORD}");
            for server in &servers {
                let () = server
                    .command(&["ACL", "SETUSER", "app", "on", &password, "~*", "&*", "+@all"]);
            }
        }
        let sentinel = |_| Sentinel::start(ports[0], &protection, identity.as_deref());
        let sentinels: Vec<_> = (0..3).map(sentinel).collect();
        for sentinel in &sentinels {
            eventually(async || sentinel.knows_everybody(), "the sentinels know each other").await;
        }
        Service { servers, to_master, ports, sentinels, _files: files }
    }

    /// Returns the part of a URL after the scheme and the credentials, with these parameters.
    pub fn address(&self, parameters: &str) -> String {
        let [one, two, three] = &self.sentinels[..] else { unreachable!() };
        format!(
            "127.0.0.1:{}?node=127.0.0.1:{}&node=127.0.0.1:{}&sentinelServiceName={SERVICE}{parameters}",
            one.service_port, two.service_port, three.service_port
        )
    }

    /// Returns a URL without passwords or TLS.
    pub fn url(&self) -> String {
        format!("redis-sentinel://{}", self.address(""))
    }

    /// Waits until most sentinels name another master than the first server, and returns it.
    pub async fn has_switched(&self) -> &RedisServer {
        let switched = async || {
            let others = self.sentinels.iter().filter_map(Sentinel::master);
            let mut others = others.filter(|port| *port != self.ports[0]);
            let first = others.next()?;
            (others.next() == Some(first)).then_some(first)
        };
        let port = eventually(switched, "the sentinels switch to another master").await;
        let position = self.ports.iter().position(|known| *known == port);
        &self.servers[position.expect("the port of a server")]
    }

    /// Orders a failover.
    pub fn fail_over(&self) {
        self.order(&["SENTINEL", "FAILOVER", SERVICE]);
    }

    /// Returns `true` if the sentinels can coordinate a failover with the servers.
    pub fn can_coordinate(&self) -> bool {
        let help: Option<Vec<String>> = self.sentinels[0].try_command(&["SENTINEL", "HELP"]);
        help.is_some_and(|lines| lines.iter().any(|line| line.contains("[COORDINATED]")))
    }

    /// Orders a failover in which the old master pauses writes until the new one has them all.
    pub fn fail_over_coordinated(&self) {
        self.order(&["SENTINEL", "FAILOVER", SERVICE, "COORDINATED"]);
    }

    fn order(&self, command: &[&str]) {
        assert_eq!(self.sentinels[0].try_command::<String>(command).as_deref(), Some("OK"));
    }
}

/// A sentinel process on a free port. It is killed on drop.
pub struct Sentinel {
    /// The port over which the test asks it.
    port: u16,
    /// The port for clients.
    service_port: u16,
    password: Option<&'static str>,
    process: Child,
    _files: Files,
}

impl Sentinel {
    fn start(master: u16, protection: &Protection<'_>, identity: Option<&[String]>) -> Self {
        // Another process may take a free port before the sentinel does.
        for _ in 0..10 {
            let (port, files) = (free_port(), Files::new());
            let mut service_port = port;
            let mut lines = vec![
                format!("port {port}"),
                "bind 127.0.0.1".to_owned(),
                format!("sentinel monitor {SERVICE} 127.0.0.1 {master} 2"),
                format!("sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}"),
                // An election that nobody wins is repeated after twice this time.
                format!("sentinel failover-timeout {SERVICE} 3000"),
            ];
            let mut password = None;
            if matches!(protection, Protection::Passwords) {
                lines.push(format!("sentinel auth-user {SERVICE} app"));
                lines.push(format!("sentinel auth-pass {SERVICE} {PASSWORD}"));
                lines.push(format!("requirepass {SENTINEL_PASSWORD}"));
                lines.push(format!("sentinel sentinel-pass {SENTINEL_PASSWORD}"));
                password = Some(SENTINEL_PASSWORD);
            }
            if let Some(identity) = identity {
                service_port = free_port();
                lines.extend(encrypted(service_port, identity));
            }
            let config = files.write("sentinel.conf", &(lines.join("\n") + "\n"));
            let log = File::create(files.path("log")).unwrap();
            let process = Command::new(program::sentinel())
                .args([&config, "--sentinel"])
                .stdin(Stdio::null())
                .stderr(log.try_clone().unwrap())
                .stdout(log)
                .spawn()
                .unwrap();
            let mut sentinel = Sentinel { port, service_port, password, process, _files: files };
            if sentinel.is_ready() {
                return sentinel;
            }
        }
        panic!(
            "{} did not start as a sentinel; REDIS_SENTINEL names another program for sentinels",
            program::sentinel().display()
        );
    }

    fn is_ready(&mut self) -> bool {
        while self.process.try_wait().unwrap().is_none() {
            if self.try_command::<String>(&["PING"]).is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Returns the port for clients.
    pub fn service_port(&self) -> u16 {
        self.service_port
    }

    /// Returns the port of the master that this sentinel names.
    pub fn master(&self) -> Option<u16> {
        let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE];
        self.try_command::<Vec<String>>(&question)?.get(1)?.parse().ok()
    }

    fn knows_everybody(&self) -> bool {
        let info: Option<String> = self.try_command(&["INFO", "sentinel"]);
        info.is_some_and(|info| info.contains("status=ok") && info.contains("slaves=2,sentinels=3"))
    }

    /// Runs a command over a new connection. Returns `None` if it fails.
    pub fn try_command<R: FromRedisValue>(&self, command: &[&str]) -> Option<R> {
        let address = redis::ConnectionAddr::Tcp("127.0.0.1".to_owned(), self.port);
        let client = redis::Client::open(address).ok()?;
        let timeout = Duration::from_millis(500);
        let mut connection = client.get_connection_with_timeout(timeout).ok()?;
        connection.set_read_timeout(Some(timeout)).ok()?;
        if let Some(password) = self.password {
            redis::cmd("AUTH").arg(password).exec(&mut connection).ok()?;
        }
        let (name, args) = command.split_first()?;
        redis::cmd(name).arg(args).query(&mut connection).ok()
    }

    pub fn freeze(&self) {
        signal(&self.process, "STOP");
    }

    pub fn thaw(&self) {
        signal(&self.process, "CONT");
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        // A test that panics must not panic again here.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Writes the files of an identity, and returns the directives that name them.
fn write(files: &Files, authority: &Authority, identity: &Identity) -> Vec<String> {
    vec![
        format!("tls-cert-file {}", files.write("cert.pem", &identity.certificate)),
        format!("tls-key-file {}", files.write("key.pem", &identity.key)),
        format!("tls-ca-cert-file {}", files.write("ca.pem", authority.root())),
    ]
}

/// Returns the directives of a server or sentinel that uses TLS among its like, too.
fn encrypted(port: u16, identity: &[String]) -> Vec<String> {
    let own = [format!("tls-port {port}"), "tls-replication yes".to_owned()];
    let clients = "tls-auth-clients no".to_owned();
    own.into_iter().chain(identity.iter().cloned()).chain([clients]).collect()
}
