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

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join;
use redis::{Cmd, FromRedisValue, RedisResult, Value, cmd};
use tokio::sync::watch;
use tokio::time::Instant;

use super::config::RedisConfig;
use super::endpoint::{Endpoint, Link, ServerId};
use super::error::{Effect, breaks_the_connection, cannot_save, is_wrong_server};
use super::findings::Findings;
use super::loads::Loads;
use super::scripts::{Script, is_unknown_script};
use crate::clock::ServerTime;
use crate::error::{StoreError, StoreErrorKind};

/// Minimum age of a connection that is replaced because the server refuses to act as a master.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);

/// Returns a command that reads a key like `GET` but counts as a write, because it could also set
/// the time to live. So a replica refuses it, and a demoted master cannot answer from outdated
/// data.
pub(super) fn get_from_master(key: &str) -> Cmd {
    let mut command = cmd("GETEX");
    command.arg(key);
    command
}

/// Returns a key with the prefix that is never written, for what needs a key and uses none.
pub(super) fn idle_key(prefix: &str) -> String {
    format!("{prefix}beat")
}

/// A value to be read.
pub(super) struct Load<'a> {
    pub(super) key: &'a str,
    /// The script for a server that refuses writes.
    pub(super) without_writing: &'a Script,
}

/// The connection that all commands share, and the means to replace it.
pub(super) struct SharedConnection {
    endpoint: Endpoint,
    response_timeout: Duration,
    loads: Loads,
    /// A command that changes nothing and that only a writable master carries out.
    probe: Cmd,
    state: Mutex<ConnectionState>,
    /// Makes sure that one connection is made at a time. All callers that wait for it share the
    /// result.
    connecting: tokio::sync::Mutex<()>,
    /// Number of times that a subscription had to end, because commands are sent to another server,
    /// or the server has said that it is no writable master.
    moves: watch::Sender<u64>,
}

#[derive(Default)]
struct ConnectionState {
    current: Option<Connected>,
    /// Number of attempts to connect that have ended.
    attempts: u64,
    /// The error of the last attempt, if it failed.
    failure: Option<StoreError>,
    /// The server that the last connection led to.
    server: Option<ServerId>,
    closed: bool,
}

/// A connection and its generation, which tells it from its predecessors.
#[derive(Clone)]
pub(super) struct Connected {
    link: Link,
    generation: u64,
    since: Instant,
    /// The number of moves when it was made.
    moves: u64,
}

impl ConnectionState {
    /// Returns the connection in use, unless the server has closed it.
    fn usable(&self) -> Option<Connected> {
        self.current.clone().filter(|connected| !connected.link.is_closed())
    }
}

impl Connected {
    /// Returns the identity of the server at the other end.
    pub(super) fn server(&self) -> &ServerId {
        &self.link.server
    }

    /// Returns the number of moves when the connection was made: see
    /// [`moves_on_from`](SharedConnection::moves_on_from).
    pub(super) fn moves(&self) -> u64 {
        self.moves
    }
}

impl SharedConnection {
    /// Creates a connection that has up to `max_loads` loads in flight. Does no IO.
    pub(super) fn new(
        config: &RedisConfig,
        max_loads: u32,
        time: Arc<ServerTime>,
        findings: Arc<Findings>,
    ) -> Self {
        SharedConnection {
            endpoint: Endpoint::new(config, time, findings),
            response_timeout: config.response_timeout,
            loads: Loads::new(max_loads),
            probe: get_from_master(&idle_key(&config.key_prefix)),
            state: Mutex::default(),
            connecting: tokio::sync::Mutex::new(()),
            moves: watch::Sender::new(0),
        }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Runs a command in one round trip. If the connection breaks, the command is run again over a
    /// new one, so it must be idempotent.
    pub(super) async fn run_idempotent<R: FromRedisValue>(
        &self,
        command: &Cmd,
    ) -> Result<R, StoreError> {
        let effect = Effect::Idempotent;
        let connected = self.connected().await?;
        let mut reply = self.send(&connected, command, effect).await?;
        if reply.as_ref().is_err_and(breaks_the_connection) {
            let connected = self.connected().await?;
            reply = self.send(&connected, command, effect).await?;
        }
        effect.interpret(reply)
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

    /// Reads a value in one round trip, unless too many other loads are in flight.
    ///
    /// If the connection breaks, the value is read over a new one.
    pub(super) async fn load(&self, load: &Load<'_>) -> Result<Option<Bytes>, StoreError> {
        let connected = self.connected().await?;
        let mut reply = self.send_load(&connected, load).await?;
        if reply.as_ref().is_err_and(breaks_the_connection) {
            let connected = self.connected().await?;
            reply = self.send_load(&connected, load).await?;
        }
        Effect::Idempotent.interpret(reply)
    }

    /// Reads a value over this connection, unless too many other loads are in flight.
    pub(super) async fn load_on(
        &self,
        connected: &Connected,
        load: &Load<'_>,
    ) -> Result<Option<Bytes>, StoreError> {
        Effect::Idempotent.interpret(self.send_load(connected, load).await?)
    }

    /// Runs a script in one round trip, or two if the server does not know the script yet.
    pub(super) async fn run_script<R: FromRedisValue>(
        &self,
        script: &Script,
        effect: Effect,
        add_arguments: impl Fn(&mut Cmd),
    ) -> Result<R, StoreError> {
        let connected = self.connected().await?;
        self.run_script_on(&connected, script, effect, add_arguments).await
    }

    pub(super) async fn run_script_on<R: FromRedisValue>(
        &self,
        connected: &Connected,
        script: &Script,
        effect: Effect,
        add_arguments: impl Fn(&mut Cmd),
    ) -> Result<R, StoreError> {
        effect.interpret(self.send_script(connected, script, effect, add_arguments).await?)
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
        let probe = self.run_on::<Value>(connected, &self.probe, effect);
        let (probed, reply) = join(probe, self.run_on(connected, command, effect)).await;
        probed?;
        reply
    }

    /// Runs a script and returns the server's reply, which may be an error.
    pub(super) async fn send_script(
        &self,
        connected: &Connected,
        script: &Script,
        effect: Effect,
        add_arguments: impl Fn(&mut Cmd),
    ) -> Result<RedisResult<Value>, StoreError> {
        let mut reply = self.send(connected, &script.by_digest(&add_arguments), effect).await?;
        if reply.as_ref().is_err_and(is_unknown_script) {
            reply = self.send(connected, &script.by_code(&add_arguments), effect).await?;
        }
        Ok(reply.map_err(|error| script.name_the_command(error)))
    }

    /// Sends a command and returns the server's reply, which may be an error. Discards a connection
    /// that can no longer be used.
    async fn send(
        &self,
        connected: &Connected,
        command: &Cmd,
        effect: Effect,
    ) -> Result<RedisResult<Value>, StoreError> {
        let received_before = connected.link.received.get();
        let mut commands = connected.link.commands.clone();
        let reply = commands.send_packed_command(command);
        match tokio::time::timeout(self.response_timeout, reply).await {
            Ok(reply) => Ok(self.replied(connected, reply)),
            Err(elapsed) => {
                self.has_not_replied(connected, received_before);
                Err(effect.unanswered(elapsed, true))
            }
        }
    }

    /// Reads a value, by a script if the server refuses writes and takes the usual command for one.
    async fn send_load(
        &self,
        connected: &Connected,
        load: &Load<'_>,
    ) -> Result<RedisResult<Value>, StoreError> {
        let mut reply = self.send_limited(connected, get_from_master(load.key)).await?;
        if reply.as_ref().is_err_and(cannot_save) {
            let key = |command: &mut Cmd| {
                command.arg(1).arg(load.key);
            };
            let script = load.without_writing;
            reply = self.send_limited(connected, script.by_digest(key)).await?;
            if reply.as_ref().is_err_and(is_unknown_script) {
                reply = self.send_limited(connected, script.by_code(key)).await?;
            }
        }
        Ok(reply)
    }

    /// Sends a command like [`send`](Self::send), unless too many loads are in flight.
    async fn send_limited(
        &self,
        connected: &Connected,
        command: Cmd,
    ) -> Result<RedisResult<Value>, StoreError> {
        let load = self.loads.begin()?;
        let received_before = connected.link.received.get();
        let mut commands = connected.link.commands.clone();
        let mut reply = Box::pin(async move { commands.send_packed_command(&command).await });
        match tokio::time::timeout(self.response_timeout, &mut reply).await {
            Ok(reply) => {
                load.ended_with(&reply);
                Ok(self.replied(connected, reply))
            }
            Err(elapsed) => {
                load.is_late();
                // The load is in flight until its reply arrives or the connection ends.
                tokio::spawn(async move {
                    let _ = reply.await;
                    drop(load);
                });
                self.has_not_replied(connected, received_before);
                Err(Effect::Idempotent.unanswered(elapsed, true))
            }
        }
    }

    fn replied(&self, connected: &Connected, reply: RedisResult<Value>) -> RedisResult<Value> {
        let reply = reply.and_then(Value::extract_error);
        if reply.as_ref().is_err_and(is_wrong_server) {
            // Another connection may lead to the present master. While there is none, each attempt
            // would only cost the server another connection.
            if connected.since.elapsed() >= RECONNECT_AFTER && self.discard(connected) {
                self.moves.send_modify(|moves| *moves += 1);
            }
        } else if reply.as_ref().is_err_and(breaks_the_connection) {
            self.discard(connected);
        }
        reply
    }

    /// Discards a connection over which nothing at all has arrived while a command timed out.
    ///
    /// A link that drops packets stays open for minutes. Only a new connection can show that the
    /// server is there. A link that still delivers replies is only slow.
    fn has_not_replied(&self, connected: &Connected, received_before: u64) {
        if connected.link.received.get() == received_before {
            self.discard(connected);
        }
    }

    /// Returns the connection in use, or makes a new one.
    pub(super) async fn connected(&self) -> Result<Connected, StoreError> {
        let attempts_before = {
            let state = self.lock();
            if state.closed {
                return Err(StoreErrorKind::Closed.into());
            }
            if let Some(connected) = state.usable() {
                return Ok(connected);
            }
            state.attempts
        };
        let _connecting = self.connecting.lock().await;
        {
            let state = self.lock();
            if let Some(connected) = state.usable() {
                return Ok(connected);
            }
            // Another caller's attempt failed while this one waited. If each waiting caller tried
            // in turn, the last would wait too long.
            if let Some(failure) =
                state.failure.as_ref().filter(|_| state.attempts != attempts_before)
            {
                return Err(failure.clone());
            }
        }
        let attempt = self.endpoint.connect().await;
        let mut state = self.lock();
        state.attempts += 1;
        match attempt {
            Ok(link) => {
                state.failure = None;
                if state.closed {
                    return Err(StoreErrorKind::Closed.into());
                }
                // Before any command is sent to it. The subscription to another server ends a
                // moment later, and at the latest with its lease.
                if state.server.as_ref() != Some(&link.server) {
                    state.server = Some(link.server.clone());
                    self.moves.send_modify(|moves| *moves += 1);
                }
                let moves = *self.moves.borrow();
                let connected =
                    Connected { link, generation: state.attempts, since: Instant::now(), moves };
                state.current = Some(connected.clone());
                Ok(connected)
            }
            Err(error) => {
                state.failure = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Returns the connection in use after a check, or a new one if it has broken since its last
    /// use.
    pub(super) async fn checked(&self) -> Result<Connected, StoreError> {
        let connected = self.connected().await?;
        match self.send(&connected, &self.probe, Effect::Idempotent).await {
            Ok(Ok(_)) => Ok(connected),
            Ok(Err(_)) | Err(_) => self.connected().await,
        }
    }

    /// Succeeds if a writable master answers.
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        self.run_idempotent(&self.probe).await
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

    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.current = None;
        self.moves.send_modify(|moves| *moves += 1);
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
