//! One long-lived, multiplexed connection that all commands share.
//!
//! deadpool checks a connection with two commands at each checkout, which would double the round
//! trips of every operation. So the pool only makes connections. [`SharedConnection`] takes one out
//! of it; each operation clones that one, and a failed connection is replaced.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, RedisResult, Value, cmd, from_redis_value,
};
use deadpool_redis::{Manager, Pool, PoolError, Runtime, Timeouts};
use tokio::sync::watch;

use super::config::RedisConfig;
use super::error::{Effect, breaks_the_connection, unreachable};
use super::scripts::Script;
use crate::error::{ConfigError, StoreError, StoreErrorKind};

/// Maximum number of commands that wait to be written. The client's default of 50 makes bursts
/// wait.
const QUEUE: usize = 1024;

/// Returns a command that reads a key like `GET` but counts as a write, because it could also set
/// the time to live. So a replica refuses it, and a demoted master cannot answer from outdated
/// data.
pub(super) fn get_from_master(key: &str) -> Cmd {
    let mut command = cmd("GETEX");
    command.arg(key);
    command
}

/// The connection that all commands share, and the means to replace it.
pub(super) struct SharedConnection {
    pool: Pool,
    connect_timeout: Duration,
    response_timeout: Duration,
    /// A command that changes nothing and that only a writable master carries out.
    probe: Cmd,
    state: Mutex<ConnectionState>,
    /// Makes sure that one connection is made at a time. All callers that wait for it share the
    /// result.
    connecting: tokio::sync::Mutex<()>,
    /// The generation of the connection in use, or 0. A subscription that was proven over another
    /// connection must end.
    in_use: watch::Sender<u64>,
}

#[derive(Default)]
struct ConnectionState {
    current: Option<Connected>,
    /// Number of attempts to connect that have ended.
    attempts: u64,
    /// The error of the last attempt, if it failed.
    failure: Option<StoreError>,
    closed: bool,
}

/// A connection and its generation, which tells it from its predecessors.
#[derive(Clone)]
pub(super) struct Connected {
    connection: MultiplexedConnection,
    pub(super) generation: u64,
}

impl SharedConnection {
    pub(super) fn new(config: &RedisConfig) -> Result<Self, ConfigError> {
        // `send` has its own timeouts, which cover all that a command does.
        let connection = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        let manager = Manager::new_with_config(config.connection_info(), connection)
            .map_err(|_| ConfigError::RedisUrl)?;
        let pool = Pool::builder(manager)
            .max_size(1)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts::default())
            .build()
            .map_err(|_| ConfigError::RedisUrl)?;
        Ok(SharedConnection {
            pool,
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
            probe: get_from_master(&format!("{}beat", config.key_prefix)),
            state: Mutex::default(),
            connecting: tokio::sync::Mutex::new(()),
            in_use: watch::Sender::new(0),
        })
    }

    /// Runs a command in one round trip.
    ///
    /// A server may close an idle connection, which the next command discovers. If that command
    /// changes nothing, it is run again over a new connection.
    pub(super) async fn run<R: FromRedisValue>(
        &self,
        command: &Cmd,
        effect: Effect,
    ) -> Result<R, StoreError> {
        let connected = self.connected().await?;
        let mut value = self.send(&connected, command, effect).await?;
        if effect == Effect::Idempotent && value.as_ref().is_err_and(breaks_the_connection) {
            let connected = self.connected().await?;
            value = self.send(&connected, command, effect).await?;
        }
        let value = value.map_err(|error| effect.failed(error))?;
        from_redis_value(value).map_err(|error| effect.failed(error.into()))
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
        use deadpool_redis::redis::{ErrorKind, ServerErrorKind};
        let mut by_digest = cmd("EVALSHA");
        by_digest.arg(&script.sha);
        add_arguments(&mut by_digest);
        let mut reply = self.send(connected, &by_digest, effect).await?;
        if reply
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript))
        {
            let mut by_code = cmd("EVAL");
            by_code.arg(script.code);
            add_arguments(&mut by_code);
            reply = self.send(connected, &by_code, effect).await?;
        }
        let value = reply.map_err(|error| effect.failed(error))?;
        from_redis_value(value).map_err(|error| effect.failed(error.into()))
    }

    /// Sends a command and returns the server's reply, which may be an error. Discards a connection
    /// that can no longer be used.
    async fn send(
        &self,
        connected: &Connected,
        command: &Cmd,
        effect: Effect,
    ) -> Result<RedisResult<Value>, StoreError> {
        let mut connection = connected.connection.clone();
        match tokio::time::timeout(self.response_timeout, connection.send_packed_command(command))
            .await
        {
            Ok(reply) => {
                let reply = reply.and_then(Value::extract_error);
                if reply.as_ref().is_err_and(breaks_the_connection) {
                    self.discard(connected.generation);
                }
                Ok(reply)
            }
            Err(elapsed) => {
                // A link that drops packets stays open for minutes. Only a new connection can show
                // that the server is there.
                self.discard(connected.generation);
                Err(effect.unanswered(elapsed, true))
            }
        }
    }

    /// Returns the connection in use, or makes a new one.
    pub(super) async fn connected(&self) -> Result<Connected, StoreError> {
        let attempts_before = {
            let state = self.lock();
            if state.closed {
                return Err(StoreErrorKind::Closed.into());
            }
            if let Some(connected) = &state.current {
                return Ok(connected.clone());
            }
            state.attempts
        };
        let _connecting = self.connecting.lock().await;
        {
            let state = self.lock();
            if let Some(connected) = &state.current {
                return Ok(connected.clone());
            }
            // Another caller's attempt failed while this one waited. If each waiting caller tried
            // in turn, the last would wait too long.
            if let Some(failure) =
                state.failure.as_ref().filter(|_| state.attempts != attempts_before)
            {
                return Err(failure.clone());
            }
        }
        let attempt = self.connect().await;
        let mut state = self.lock();
        state.attempts += 1;
        match attempt {
            Ok(connection) => {
                let connected = Connected { connection, generation: state.attempts };
                state.failure = None;
                if state.closed {
                    return Err(StoreErrorKind::Closed.into());
                }
                state.current = Some(connected.clone());
                // Under the lock, because a caller that sees the connection must see its
                // generation, too.
                self.in_use.send_replace(connected.generation);
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

    async fn connect(&self) -> Result<MultiplexedConnection, StoreError> {
        let object = self.in_time(self.pool.get()).await?.map_err(|error| match error {
            PoolError::Backend(error) => unreachable(error),
            error => StoreError::from(StoreErrorKind::Unavailable).with_source(error),
        })?;
        // Taken out of the pool, so that its only slot is free for a successor.
        Ok(deadpool_redis::Connection::take(object))
    }

    /// Succeeds if a writable master answers.
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        self.run(&self.probe, Effect::Idempotent).await
    }

    /// Applies the time limit for making a connection.
    pub(super) async fn in_time<F: Future>(&self, connecting: F) -> Result<F::Output, StoreError> {
        tokio::time::timeout(self.connect_timeout, connecting)
            .await
            .map_err(|elapsed| StoreError::from(StoreErrorKind::Unavailable).with_source(elapsed))
    }

    /// Waits until this connection is no longer the one in use.
    pub(super) async fn replaced(&self, generation: u64) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.in_use.subscribe().wait_for(|in_use| *in_use != generation).await;
    }

    /// Stops using a connection, unless it has been replaced already.
    pub(super) fn discard(&self, generation: u64) {
        let mut state = self.lock();
        if state.current.as_ref().is_some_and(|connected| connected.generation == generation) {
            state.current = None;
            self.in_use.send_replace(0);
        }
    }

    pub(super) fn response_timeout(&self) -> Duration {
        self.response_timeout
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.current = None;
        self.in_use.send_replace(0);
        self.pool.close();
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
