//! Makes connections to the server.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::future::select_ok;
use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ProtocolVersion, RedisConnectionInfo, RedisResult, cmd,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::config::RedisConfig;
use super::error::{refuses_the_command, unreachable};
use super::findings::{Answers, Findings};
use crate::clock::{self, ServerTime, Timestamp};
use crate::error::{StoreError, StoreErrorKind};

/// Maximum number of commands that wait to be written. The client's default of 50 makes bursts
/// wait.
const QUEUE: usize = 1024;

/// Difference between the clocks of this node and the server above which the node warns. Smaller
/// ones may be a slow round trip.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(5);

/// The beginning of the identity of a server that does not tell its run id, which is hexadecimal.
const UNKNOWN: &str = "unknown-";

/// The address of the server, and what a connection to it needs.
pub(super) struct Endpoint {
    addr: ConnectionAddr,
    settings: RedisConnectionInfo,
    connect_timeout: Duration,
    #[cfg(feature = "_guards")]
    dial: Option<super::config::Dial>,
    /// `true` if the server evicts keys when its memory is full.
    evicts_keys: AtomicBool,
    /// `true` once the node has warned that its clock and the server's differ.
    clock_differs: AtomicBool,
    server_time: Arc<ServerTime>,
    findings: Arc<Findings>,
}

/// A connection that runs many commands at once.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) commands: MultiplexedConnection,
    pub(super) server: ServerId,
    pub(super) received: ReadCounter,
    driver: Arc<AbortOnDrop>,
}

/// The identity of a server process.
///
/// It is the server's run id. A process that does not tell has an identity that equals no other,
/// so two connections to it are never taken for connections to the same server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerId(Arc<str>);

impl Endpoint {
    pub(super) fn new(
        config: &RedisConfig,
        server_time: Arc<ServerTime>,
        findings: Arc<Findings>,
    ) -> Self {
        let (addr, settings) = config.address();
        let connect_timeout = config.connect_timeout;
        let evicts_keys = AtomicBool::new(false);
        let clock_differs = AtomicBool::new(false);
        Endpoint {
            addr,
            settings,
            connect_timeout,
            #[cfg(feature = "_guards")]
            dial: config.dial.clone(),
            evicts_keys,
            clock_differs,
            server_time,
            findings,
        }
    }

    /// Returns the findings about the server, which each new connection adds to.
    pub(super) fn findings(&self) -> &Arc<Findings> {
        &self.findings
    }

    /// Returns the server's time, which each new connection observes.
    pub(super) fn server_time(&self) -> &Arc<ServerTime> {
        &self.server_time
    }

    /// Returns `true` if the server evicts keys when its memory is full, as far as it has said when
    /// a connection was made.
    pub(super) fn evicts_keys(&self) -> bool {
        self.evicts_keys.load(Ordering::Relaxed)
    }

    /// Makes a connection for commands.
    pub(super) async fn connect(&self) -> Result<Link, StoreError> {
        self.in_time(self.link(self.settings.clone(), AsyncConnectionConfig::new())).await
    }

    /// Makes a connection for commands that also passes each message from a channel to `messages`.
    /// Such a connection speaks RESP3.
    pub(super) async fn connect_with_messages(
        &self,
        messages: impl AsyncPushSender,
    ) -> Result<Link, StoreError> {
        let settings = self.settings.clone().set_protocol(ProtocolVersion::RESP3);
        let config = AsyncConnectionConfig::new().set_push_sender(messages);
        self.in_time(self.link(settings, config)).await
    }

    async fn link(
        &self,
        settings: RedisConnectionInfo,
        config: AsyncConnectionConfig,
    ) -> Result<Link, StoreError> {
        let received = ReadCounter::default();
        let stream = Counted { stream: self.open().await?, received: received.clone() };
        // The callers have their own timeouts, which cover all that a command does.
        let config = config
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        let (mut commands, driver) =
            MultiplexedConnection::new_with_config(&settings, stream, config)
                .await
                .map_err(unreachable)?;
        let driver = Arc::new(AbortOnDrop(tokio::spawn(driver).abort_handle()));
        let asked = Instant::now();
        let (answers, time) = ask(&mut commands).await.map_err(unreachable)?;
        self.findings.connected(&answers);
        if let Some(time) = time {
            self.note_clock(time);
            self.server_time.observe(asked.into_std(), Instant::now().into_std(), time);
        }
        let info = answers.info.unwrap_or_default();
        self.note_eviction(&info);
        let server = ServerId::parse(&info);
        Ok(Link { commands, server, received, driver })
    }

    /// Warns once if this node's clock differs from the server's. Sessions follow the server's, but
    /// logs, and applications that compare times, do not.
    fn note_clock(&self, server: Timestamp) {
        let node = Timestamp::from(SystemTime::now());
        let difference =
            node.saturating_duration_since(server).max(server.saturating_duration_since(node));
        if difference > MAX_CLOCK_DIFFERENCE && !self.clock_differs.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                seconds = difference.as_secs(),
                "the clocks of this node and of the Redis server differ"
            );
        }
    }

    fn note_eviction(&self, info: &str) {
        let Some(policy) = evicting_policy(info) else {
            self.evicts_keys.store(false, Ordering::Relaxed);
            return;
        };
        if !self.evicts_keys.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                maxmemory_policy = policy,
                "Redis evicts keys when its memory is full, which logs users out: use `noeviction`"
            );
        }
    }

    async fn open(&self) -> Result<Box<dyn ByteStream>, StoreError> {
        #[cfg(feature = "_guards")]
        if let Some(dial) = &self.dial {
            return Ok(Box::new(dial().map_err(not_connected)?));
        }
        match &self.addr {
            ConnectionAddr::Tcp(host, port) => {
                let stream = connect_to_any(host, *port).await.map_err(not_connected)?;
                // Small packets are sent at once.
                stream.set_nodelay(true).map_err(not_connected)?;
                Ok(Box::new(stream))
            }
            #[cfg(unix)]
            ConnectionAddr::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await.map_err(not_connected)?;
                Ok(Box::new(stream))
            }
            // The configuration accepts no other address.
            _ => Err(StoreErrorKind::Unavailable.into()),
        }
    }

    /// Applies the time limit for making a connection.
    async fn in_time<R>(
        &self,
        connecting: impl Future<Output = Result<R, StoreError>>,
    ) -> Result<R, StoreError> {
        tokio::time::timeout(self.connect_timeout, connecting)
            .await
            .unwrap_or_else(|elapsed| Err(not_connected(elapsed)))
    }
}

/// Connects to all addresses of a host at once, and returns the first connection.
async fn connect_to_any(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let attempts: Vec<_> =
        lookup_host((host, port)).await?.map(|addr| Box::pin(TcpStream::connect(addr))).collect();
    if attempts.is_empty() {
        return Err(std::io::Error::other("the host has no address"));
    }
    Ok(select_ok(attempts).await?.0)
}

/// Asks the server about itself, and for its time.
async fn ask(commands: &mut MultiplexedConnection) -> RedisResult<(Answers, Option<Timestamp>)> {
    let mut info_command = cmd("INFO");
    info_command.arg(&["server", "memory"]);
    let info: Option<String> = unless_refused(info_command.query_async(commands).await)?;
    if let Some(time) = info.as_deref().and_then(clock::parse_info) {
        return Ok((Answers { info, refuses_time: false }, Some(time)));
    }
    let time: Option<(u64, u64)> = unless_refused(cmd("TIME").query_async(commands).await)?;
    let answers = Answers { info, refuses_time: time.is_none() };
    Ok((
        answers,
        time.map(|(seconds, micros)| Timestamp::from_millis(seconds * 1000 + micros / 1000)),
    ))
}

/// Returns a reply, or `None` if the server refuses the command.
fn unless_refused<R>(reply: RedisResult<R>) -> RedisResult<Option<R>> {
    match reply {
        Err(error) if refuses_the_command(&error) => Ok(None),
        reply => reply.map(Some),
    }
}

/// Returns the policy by which the server evicts keys, or `None` if it evicts none.
fn evicting_policy(info: &str) -> Option<&str> {
    let field =
        |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let is_limited = field("maxmemory").is_some_and(|limit| limit.trim() != "0");
    field("maxmemory_policy").map(str::trim).filter(|policy| is_limited && *policy != "noeviction")
}

fn not_connected(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::from(StoreErrorKind::Unavailable).with_source(cause)
}

impl Link {
    /// Returns `true` if the connection has ended, for example because the server closed it while
    /// it was idle.
    pub(super) fn is_closed(&self) -> bool {
        self.driver.0.is_finished()
    }
}

impl ServerId {
    /// Returns `true` if the server has told it.
    pub(super) fn is_reported(&self) -> bool {
        !self.0.starts_with(UNKNOWN)
    }

    /// Returns `true` if this is its text.
    pub(super) fn is(&self, text: &str) -> bool {
        *self.0 == *text
    }

    fn parse(info: &str) -> Self {
        let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:"));
        match run_id {
            Some(run_id) => ServerId(run_id.trim().into()),
            None => {
                let random: u128 = u128::from_ne_bytes(crate::random::random_bytes());
                ServerId(format!("{UNKNOWN}{random:032x}").into())
            }
        }
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Counts the reads in which a connection has received something.
///
/// A connection on which a command is late may still be good: the reply may wait behind others. It
/// is dead if the server has sent nothing at all in the meantime.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadCounter(Arc<AtomicU64>);

impl ReadCounter {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// A stream that counts what it receives.
struct Counted {
    stream: Box<dyn ByteStream>,
    received: ReadCounter,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.received.0.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Ends the task that reads and writes, so that a connection to a server that no longer answers is
/// closed with its last user.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_run_id() {
        let info = "# Server\r\nredis_version:7.0.15\r\nrun_id:0123abcd\r\ntcp_port:6379\r\n";
        assert_eq!(ServerId::parse(info), ServerId("0123abcd".into()));
        assert_eq!(ServerId::parse(info).to_string(), "0123abcd");
    }

    #[test]
    fn only_a_policy_that_takes_effect_evicts() {
        for (limit, policy, evicting) in [
            ("0", "allkeys-lru", None),
            ("1000", "noeviction", None),
            ("1000", "allkeys-lru", Some("allkeys-lru")),
            ("1000", "volatile-ttl", Some("volatile-ttl")),
        ] {
            let info = format!("maxmemory:{limit}\r\nmaxmemory_policy:{policy}\r\n");
            assert_eq!(evicting_policy(&info), evicting, "{info}");
        }
        assert_eq!(evicting_policy(""), None);
    }

    #[test]
    fn a_server_that_does_not_tell_is_never_the_same() {
        assert_ne!(ServerId::parse(""), ServerId::parse(""));
        assert_ne!(ServerId::parse("# Server\r\n"), ServerId::parse("# Server\r\n"));
    }

    #[tokio::test]
    async fn only_bytes_that_arrive_are_counted() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (near, mut far) = tokio::io::duplex(64);
        let received = ReadCounter::default();
        let mut counted = Counted { stream: Box::new(near), received: received.clone() };
        counted.write_all(b"ping").await.unwrap();
        assert_eq!(received.get(), 0, "a write is no sign of life");
        far.write_all(b"pong").await.unwrap();
        counted.read_exact(&mut [0; 4]).await.unwrap();
        assert_eq!(received.get(), 1);
        drop(far);
        assert_eq!(counted.read(&mut [0; 4]).await.unwrap(), 0);
        assert_eq!(received.get(), 1, "the end of the stream is no sign of life");
    }
}
