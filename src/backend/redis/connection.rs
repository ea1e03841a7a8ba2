//! One long-lived, multiplexed connection that all commands share, and that is replaced when it
//! fails.
//!
//! A command that is not answered in time gives its connection up only if nothing at all has
//! arrived over it meanwhile. Under load a reply may be late because it waits behind others. To
//! give up a connection for that would throw away all replies under way, and send the same commands
//! again over the next one.
//!
//! A new connection to the same server process continues where the old one ended: subscriptions and
//! scans go on. A connection to another process ends them.

mod connect;
mod load;
mod script;

use std::borrow::Borrow;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisResult, Value};
use tokio::sync::watch;
use tokio::time::Instant;

use self::connect::Failure;
use super::commands::run_together;
use super::dialer::before;
use super::endpoint::{Endpoint, Link, ServerId};
use super::error::{Effect, breaks_the_connection, is_wrong_server};
use super::loads::Loads;
use super::request::{Request, Work};
use crate::error::StoreError;
use crate::timeout::timeout_at;

/// Minimum age of a connection that is replaced because the server refuses to act as a master, and
/// minimum pause after an attempt to connect that has failed.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);

/// Minimum age of a connection that is replaced because its address leads to another server by now.
/// A name that leads to two servers in turn would otherwise send commands to both.
const LEAVE_AFTER: Duration = Duration::from_secs(5);

/// The connection that all commands share, and the means to replace it.
pub(super) struct SharedConnection {
    endpoint: Endpoint,
    response_timeout: Duration,
    loads: Loads,
    state: Mutex<ConnectionState>,
    /// Makes sure that one connection is made at a time. All callers that wait for it share the
    /// result.
    connecting: tokio::sync::Mutex<()>,
    /// Number of times that a subscription had to end, because commands are sent to another server,
    /// the server has said that it is no writable master, or the sentinels name another one.
    moves: watch::Sender<u64>,
}

#[derive(Default)]
struct ConnectionState {
    current: Option<Connected>,
    /// Number of attempts to connect that have ended.
    attempts: u64,
    /// The last attempt, if it failed.
    failure: Option<Failure>,
    /// The server that the last connection led to.
    server: Option<ServerId>,
    closed: bool,
}

/// A connection and its generation, which tells it from its predecessors.
#[derive(Clone)]
pub(super) struct Connected {
    /// Shared, because each command clones it.
    link: Arc<Link>,
    generation: u64,
    since: Instant,
    /// The number of moves when it was made.
    moves: u64,
    /// `true` if another server has sent the request on to this one, for now.
    asking: bool,
}

impl Connected {
    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// Returns the identity of the server at the other end.
    pub(super) fn server(&self) -> &ServerId {
        &self.link.server
    }

    /// Returns what runs commands over the connection.
    pub(super) fn commands(&self) -> MultiplexedConnection {
        self.link.wire.commands.clone()
    }

    /// Returns the number of moves when the connection was made: see
    /// [`moves_on_from`](SharedConnection::moves_on_from).
    pub(super) fn moves(&self) -> u64 {
        self.moves
    }

    /// Returns the connection for a request that another server has answered with `ASK`: the server
    /// at the other end is importing the slot.
    pub(super) fn asking(self) -> Self {
        Connected { asking: true, ..self }
    }

    /// Returns what sends commands over the connection, without keeping it alive.
    fn sender(&self) -> Sender {
        Sender { commands: self.commands(), asking: self.asking }
    }
}

/// Sends a command over a connection, which may end meanwhile.
struct Sender {
    commands: MultiplexedConnection,
    asking: bool,
}

impl Sender {
    /// Sends a command, given or lent, and returns the server's reply.
    ///
    /// The future is boxed, because it is large, and a request contains the futures of all that it
    /// may send. An async function's would hold its arguments twice.
    fn send(
        mut self,
        command: impl Borrow<Cmd> + Send,
    ) -> Pin<Box<impl Future<Output = RedisResult<Value>> + Send>> {
        Box::pin(async move {
            let command = command.borrow();
            if self.asking {
                // Boxed, because it is rare and larger than the other.
                return Box::pin(self.ask(command)).await;
            }
            self.commands.send_packed_command(command).await
        })
    }

    async fn ask(&mut self, command: &Cmd) -> RedisResult<Value> {
        let mut both = redis::pipe();
        both.cmd("ASKING").add_command(command.clone());
        let mut replies = run_together(&mut self.commands, &both, 2).await?;
        Ok(replies.pop().unwrap_or(Value::Nil))
    }
}

impl SharedConnection {
    /// Creates a connection that has up to `max_loads` loads in flight, and that is replaced when
    /// `moves` is incremented. Does no IO.
    pub(super) fn new(
        endpoint: Endpoint,
        response_timeout: Duration,
        max_loads: u32,
        moves: watch::Sender<u64>,
    ) -> Self {
        SharedConnection {
            endpoint,
            response_timeout,
            loads: Loads::new(max_loads, response_timeout),
            state: Mutex::default(),
            connecting: tokio::sync::Mutex::new(()),
            moves,
        }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Runs a command in one round trip over this connection.
    pub(super) async fn run_on<R: FromRedisValue>(
        &self,
        connected: &Connected,
        command: &Cmd,
        effect: Effect,
    ) -> Result<R, StoreError> {
        effect.interpret(self.send(connected, command, effect).await?)
    }

    /// Carries a request out over this connection, in one round trip, or two if the server does not
    /// know a script yet. Returns the server's reply, which may be an error.
    pub(super) async fn carry_out(
        &self,
        connected: &Connected,
        request: &Request<'_>,
    ) -> Result<RedisResult<Value>, StoreError> {
        match request.work {
            Work::Command(command) => self.send(connected, command, request.effect).await,
            Work::Script(script, arguments) => {
                self.send_script(connected, request, script, arguments).await
            }
            Work::Load(_, without_writing) => {
                self.send_load(connected, request.key, without_writing).await
            }
        }
    }

    /// Runs a command that a replica would carry out, too, but only on a writable master, in one
    /// round trip.
    pub(super) async fn run_on_master<R: FromRedisValue>(
        &self,
        connected: &Connected,
        command: &Cmd,
        effect: Effect,
    ) -> Result<R, StoreError> {
        // The probe is sent first: a server that was a master then still has all data of one.
        let probe = self.run_on::<Value>(connected, self.endpoint.probe(), effect);
        let (probed, reply) = join(probe, self.run_on(connected, command, effect)).await;
        probed?;
        reply
    }

    /// Sends a command and returns the server's reply, which may be an error. Discards a connection
    /// that can no longer be used.
    async fn send(
        &self,
        connected: &Connected,
        command: &Cmd,
        effect: Effect,
    ) -> Result<RedisResult<Value>, StoreError> {
        let received_before = connected.link.wire.received.get();
        let reply = connected.sender().send(command);
        match timeout_at(Instant::now() + self.response_timeout, reply).await {
            Ok(reply) => Ok(self.replied(connected, reply)),
            Err(elapsed) => {
                self.has_not_replied(connected, received_before);
                Err(effect.unanswered(elapsed, true))
            }
        }
    }

    fn replied(&self, connected: &Connected, reply: RedisResult<Value>) -> RedisResult<Value> {
        let reply = reply.and_then(Value::extract_error);
        if reply.as_ref().is_err_and(is_wrong_server) {
            // Another connection may lead to the present master. While there is none, each attempt
            // would only cost the server another connection.
            self.leave_after(RECONNECT_AFTER, connected);
        } else if reply.as_ref().is_err_and(breaks_the_connection) {
            self.discard(connected);
        }
        reply
    }

    /// Stops using a connection whose address leads to another server by now, unless it is recent.
    pub(super) fn leave(&self, connected: &Connected) {
        self.leave_after(LEAVE_AFTER, connected);
    }

    fn leave_after(&self, age: Duration, connected: &Connected) {
        if connected.since.elapsed() >= age && self.discard(connected) {
            self.moves.send_modify(|moves| *moves += 1);
        }
    }

    /// Discards a connection over which nothing at all has arrived while a command timed out.
    ///
    /// A link that drops packets stays open for minutes. Only a new connection can show that the
    /// server is there. A link that still delivers replies is only slow.
    fn has_not_replied(&self, connected: &Connected, received_before: u64) {
        if connected.link.wire.received.get() == received_before {
            self.discard(connected);
        }
    }

    /// Returns the connection in use after a check, or a new one if it has broken since its last
    /// use.
    pub(super) async fn checked(self: &Arc<Self>) -> Result<Connected, StoreError> {
        let connected = self.connected().await?;
        match self.send(&connected, self.endpoint.probe(), Effect::Idempotent).await {
            Ok(Ok(_)) => Ok(connected),
            Ok(Err(_)) | Err(_) => self.connected().await,
        }
    }

    /// Waits until nothing counts any more that the server proved to which commands were sent when
    /// this was the number of moves: they have been sent to another server since, the server has
    /// said that it is no writable master, or the backend is closed.
    pub(super) async fn moves_on_from(&self, before: u64) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.moves.subscribe().wait_for(|moves| *moves != before).await;
    }

    /// Stops using a connection. Returns `false` if it has been replaced already.
    pub(super) fn discard(&self, connected: &Connected) -> bool {
        let mut state = self.lock();
        let is_current =
            state.current.as_ref().is_some_and(|it| it.generation == connected.generation);
        if is_current {
            state.current = None;
        }
        is_current
    }

    pub(super) fn response_timeout(&self) -> Duration {
        self.response_timeout
    }

    /// Limits what takes one round trip in time.
    pub(super) async fn within_timeout<R>(
        &self,
        work: impl Future<Output = Result<R, StoreError>>,
    ) -> Result<R, StoreError> {
        before(Instant::now() + self.response_timeout, work).await
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.current = None;
        self.endpoint.close();
        self.moves.send_modify(|moves| *moves += 1);
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use tokio::time::sleep;

    use super::super::config::{RedisAddress, RedisConfig};
    use super::super::endpoint::Target;
    use super::super::scripted::{bulk, scripted};
    use super::*;
    use crate::error::StoreErrorKind;

    pub(super) fn connection(config: &RedisConfig, target: Target) -> Arc<SharedConnection> {
        let dialer = config.dialer().unwrap();
        let endpoint = Endpoint::new(config, target, dialer, Arc::default(), Arc::default());
        let moves = watch::Sender::new(0);
        Arc::new(SharedConnection::new(endpoint, Duration::from_millis(500), 1, moves))
    }

    pub(super) fn fixed() -> Target {
        Target::Fixed(RedisAddress::tcp("localhost", 6379))
    }

    /// Returns the number of connections that are made for ten commands to which the server replies
    /// with this error.
    async fn connections(error: &'static str) -> usize {
        let config = RedisConfig::new("localhost", 6379);
        let (config, made) = scripted(config, move |_, words| match &*words[0] {
            "INFO" => bulk("server_time_usec:1\r\n"),
            _ => Some(format!("-{error}\r\n")),
        });
        let connection = connection(&config, fixed());
        for _ in 0..10 {
            let connected = connection.connected().await.unwrap();
            sleep(RECONNECT_AFTER).await;
            let probe = connection.endpoint().probe();
            let reply = connection.run_on::<Value>(&connected, probe, Effect::Idempotent).await;
            assert_eq!(reply.unwrap_err().kind(), StoreErrorKind::Unavailable, "{error}");
        }
        made.load(Ordering::Relaxed)
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_of_a_cluster_that_is_down_keeps_its_connection() {
        assert_eq!(connections("CLUSTERDOWN The cluster is down").await, 1);
        assert_eq!(connections("READONLY You can't write against a read only replica.").await, 10);
    }
}
