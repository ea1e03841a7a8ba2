//! A Redis server, run as a process.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use redis::aio::PubSubStream;
use redis::{FromRedisValue, IntoConnectionInfo as _, RedisResult};

use crate::process::signal;
use crate::program;
use crate::wait::{DEADLINE, eventually};

/// Number of calls of each command, by its name.
pub type Calls = BTreeMap<String, u64>;

/// A server process on a free port. It is killed on drop.
pub struct RedisServer {
    port: u16,
    dir: PathBuf,
    args: Vec<String>,
    process: Child,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::with_args(&[])
    }

    /// Starts a server with additional command line arguments, such as `["--maxmemory", "1mb"]`.
    pub fn with_args(args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self::with_new_args(|| args.clone())
    }

    /// Starts a server with arguments that are made again for each attempt, since they name further
    /// ports.
    pub(crate) fn with_new_args(mut args: impl FnMut() -> Vec<String>) -> Self {
        // Another process may take a free port before the server does.
        for _ in 0..10 {
            let (port, args) = (free_port(), args());
            let dir = std::env::temp_dir()
                .join(format!("clustered-sessions-redis-{}-{port}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            let process = spawn(port, &dir, &args);
            let mut server = RedisServer { port, dir, args, process };
            if server.is_ready() {
                return server;
            }
            eprintln!("the server did not start on port {port}: {}", server.log());
        }
        panic!("the server did not start");
    }

    /// Starts a server in cluster mode that has all slots.
    pub async fn in_cluster_mode() -> Self {
        let server = Self::with_args(&["--cluster-enabled", "yes"]);
        let () = server.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
        let has_all_slots =
            async || server.command::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
        eventually(has_all_slots, "the server has all slots").await;
        server
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills the server, as a crash would. Has no effect if it has exited already.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Kills the server and starts it again on the same port. Its data is lost, unless its
    /// arguments enable persistence.
    pub fn restart(&mut self) {
        self.kill();
        let begun = Instant::now();
        loop {
            self.process = spawn(self.port, &self.dir, &self.args);
            if self.is_ready() {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "the server did not start again: {}", self.log());
        }
    }

    /// Stops the process with `SIGSTOP`: its connections stay open, and it does not reply.
    pub fn freeze(&self) {
        signal(&self.process, "STOP");
    }

    /// Resumes the process.
    pub fn thaw(&self) {
        signal(&self.process, "CONT");
    }

    /// Makes the server unable to save its data, after which it refuses writes (`MISCONF`).
    pub async fn fail_to_save(&self) {
        std::fs::remove_dir_all(&self.dir).unwrap();
        let () = self.command(&["CONFIG", "SET", "save", "3600 1000000"]);
        let failed = async || {
            // Refused while a replica is being synchronised.
            let _ = self.try_command::<String>(&["BGSAVE"]);
            self.info("persistence").contains("rdb_last_bgsave_status:err")
        };
        eventually(failed, "the server cannot save its data").await;
    }

    /// Ends [`fail_to_save`](Self::fail_to_save).
    pub fn need_not_save(&self) {
        let () = self.command(&["CONFIG", "SET", "save", ""]);
    }

    /// Returns a section of what the server says about itself, also if its arguments rename `INFO`.
    pub fn info(&self, section: &str) -> String {
        self.try_info(section).unwrap()
    }

    fn try_info(&self, section: &str) -> RedisResult<String> {
        let renamed = self.args.windows(3).find(|args| args[..2] == ["--rename-command", "INFO"]);
        self.try_command(&[renamed.map_or("INFO", |args| &args[2]), section])
    }

    /// Returns the number of connections that the server has accepted so far.
    pub fn connections_accepted(&self) -> u64 {
        let stats = self.info("stats");
        let name = "total_connections_received:";
        let count = stats.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        count.unwrap()
    }

    /// Runs a command over a new connection. Panics if the command fails.
    pub fn command<R: FromRedisValue>(&self, command: &[&str]) -> R {
        self.try_command(command).unwrap()
    }

    pub fn try_command<R: FromRedisValue>(&self, command: &[&str]) -> RedisResult<R> {
        loop {
            // A signal, such as `SIGCHLD`, can interrupt a system call of the blocking client. That
            // is no error of the server.
            match self.call(command) {
                Err(error) if is_interruption(&error) => {}
                answer => return answer,
            }
        }
    }

    fn call<R: FromRedisValue>(&self, command: &[&str]) -> RedisResult<R> {
        let mut connection = self.client()?.get_connection_with_timeout(Duration::from_secs(1))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        let (name, args) = command.split_first().expect("a command has a name");
        redis::cmd(name).arg(args).query(&mut connection)
    }

    pub(crate) fn client(&self) -> RedisResult<redis::Client> {
        let info = self.url().into_connection_info()?;
        // Like a node, the test does not name its library, so `calls` is the same on all servers.
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        redis::Client::open(info.set_redis_settings(settings))
    }

    /// Returns the number of calls of each command so far, by clients and in scripts.
    pub fn calls(&self) -> Calls {
        let stats = self.info("commandstats");
        let count = |line: &str| {
            let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), figures.split(',').next()?.parse().ok()?))
        };
        stats.lines().filter_map(count).collect()
    }

    /// Runs an action and returns the calls that it caused. There must be no other clients.
    pub async fn calls_of<R>(&self, action: impl Future<Output = R>) -> (R, Calls) {
        let before = self.calls();
        let result = action.await;
        let mut calls = self.calls();
        for (name, count) in before {
            calls.entry(name).and_modify(|total| *total -= count);
        }
        // Called by `calls` itself.
        calls.remove("info");
        calls.retain(|_, count| *count > 0);
        (result, calls)
    }

    /// Subscribes to a channel without the crate under test.
    pub async fn listen(&self, channel: &str) -> Channel {
        let mut connection =
            redis::Client::open(self.url()).unwrap().get_async_pubsub().await.unwrap();
        connection.subscribe(channel).await.unwrap();
        Channel(connection.into_on_message())
    }

    /// Returns the number of open client connections, without the one of this query.
    pub fn connections(&self) -> usize {
        let list: String = self.command(&["CLIENT", "LIST"]);
        list.lines().filter(|line| !line.contains("cmd=client|list")).count()
    }

    /// Waits until this process replies. Returns `false` if it exits, or does not reply within
    /// [`DEADLINE`]. A reply of another process on the port does not count.
    fn is_ready(&mut self) -> bool {
        let begun = Instant::now();
        let own_id = format!("process_id:{}\r\n", self.process.id());
        while self.process.try_wait().unwrap().is_none() {
            if self.try_info("server").is_ok_and(|info| info.contains(&own_id)) {
                return true;
            }
            if begun.elapsed() > DEADLINE {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    fn log(&self) -> String {
        std::fs::read_to_string(log_file(&self.dir)).unwrap_or_default()
    }
}

/// A subscription to a Pub/Sub channel.
pub struct Channel(PubSubStream);

impl Channel {
    /// Waits for the next message.
    pub async fn next(&mut self) -> Bytes {
        let message =
            tokio::time::timeout(DEADLINE, self.0.next()).await.expect("a message arrives");
        Bytes::copy_from_slice(message.expect("the connection is open").get_payload_bytes())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // A test that panics must not panic again here.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn spawn(port: u16, dir: &Path, args: &[String]) -> Child {
    let log = File::create(log_file(dir)).unwrap();
    let program = program::server();
    Command::new(&program)
        .args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            // By default, a master waits for more replicas before it sends its data to the first.
            "--repl-diskless-sync-delay",
            "0",
            "--port",
            &port.to_string(),
        ])
        .arg("--dir")
        .arg(dir)
        .args(args)
        .stdin(Stdio::null())
        .stderr(log.try_clone().unwrap())
        .stdout(log)
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{} cannot be run ({error}): apt-get install redis-server", program.display())
        })
}

fn log_file(dir: &Path) -> PathBuf {
    dir.join("log")
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Returns `true` if a signal interrupted the call.
fn is_interruption(error: &redis::RedisError) -> bool {
    error.to_string().contains("Interrupted system call")
}
