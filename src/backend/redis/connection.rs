//! The connection: one long-lived multiplexed connection over which all commands run.
//!
//! deadpool checks a connection with two commands at each checkout, which would double the round trips of every operation. So
//! the pool makes and replaces connections, and the lane keeps one checked out: each operation clones it, and it is swapped when it
//! fails.

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

/// Commands waiting to be written. The client's default of 50 makes bursts wait for each other.
const QUEUE: usize = 1024;

/// Reads a key as `GET` does. To the server it is a write, since with options it would set the time to live: so a replica refuses
/// it, and one that was the master a moment ago does not answer with what was true then.
pub(super) fn get_from_master(key: &str) -> Cmd {
    let mut command = cmd("GETEX");
    command.arg(key);
    command
}

pub(super) struct SharedConnection {
    pool: Pool,
    connect_timeout: Duration,
    response_timeout: Duration,
    /// A command that changes nothing, and that only a writable master carries out.
    probe: Cmd,
    state: Mutex<ConnectionState>,
    /// One connection is made at a time, and those who wait for it share how that ends.
    connecting: tokio::sync::Mutex<()>,
    /// The generation of the connection in use; a subscription that was proven over another one is worth nothing.
    in_use: watch::Sender<u64>,
}

#[derive(Default)]
struct ConnectionState {
    current: Option<Connected>,
    /// How many attempts to connect have ended.
    attempts: u64,
    /// How the last one failed.
    failure: Option<StoreError>,
    closed: bool,
}

#[derive(Clone)]
pub(super) struct Connected {
    connection: MultiplexedConnection,
    pub(super) generation: u64,
}

impl SharedConnection {
    pub(super) fn new(config: &RedisConfig) -> Result<Self, ConfigError> {
        // Timeouts are the lane's own, over everything that a call does.
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

    /// Runs a command, in one round trip.
    ///
    /// A server may close a connection that has been idle, which is found out by the next command. If that one changes nothing,
    /// it is run again over a new connection.
    pub(super) async fn run<R: FromRedisValue>(
        &self,
        command: &Cmd,
        effect: Effect,
    ) -> Result<R, StoreError> {
        let connected = self.connected().await?;
        let mut value = self.ask(&connected, command, effect).await?;
        if effect == Effect::Idempotent && value.as_ref().is_err_and(breaks_the_connection) {
            let connected = self.connected().await?;
            value = self.ask(&connected, command, effect).await?;
        }
        let value = value.map_err(|error| effect.failed(error))?;
        from_redis_value(value).map_err(|error| effect.failed(error.into()))
    }

    /// Runs a script: one round trip, but two when the server sees it for the first time.
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
        let mut answer = self.ask(connected, &by_digest, effect).await?;
        if answer
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript))
        {
            let mut by_code = cmd("EVAL");
            by_code.arg(script.code);
            add_arguments(&mut by_code);
            answer = self.ask(connected, &by_code, effect).await?;
        }
        let value = answer.map_err(|error| effect.failed(error))?;
        from_redis_value(value).map_err(|error| effect.failed(error.into()))
    }

    /// The server's answer, be it an error, within the response timeout. Gives the connection up if it is of no more use.
    async fn ask(
        &self,
        connected: &Connected,
        command: &Cmd,
        effect: Effect,
    ) -> Result<RedisResult<Value>, StoreError> {
        let mut connection = connected.connection.clone();
        match tokio::time::timeout(self.response_timeout, connection.send_packed_command(command))
            .await
        {
            Ok(answer) => {
                let answer = answer.and_then(Value::extract_error);
                if answer.as_ref().is_err_and(breaks_the_connection) {
                    self.give_up(connected.generation);
                }
                Ok(answer)
            }
            Err(elapsed) => {
                // A link that swallows packets stays open for minutes: only a new one can tell.
                self.give_up(connected.generation);
                Err(effect.unanswered(elapsed, true))
            }
        }
    }

    /// The connection in use, or a new one.
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
            // While we waited, somebody's attempt has failed. One after the other, the waiting ones would wait for ever.
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
                // Under the lock: whoever sees the connection must see its generation, too.
                self.in_use.send_replace(connected.generation);
                Ok(connected)
            }
            Err(error) => {
                state.failure = Some(error.clone());
                Err(error)
            }
        }
    }

    /// The connection in use, or a new one if that has broken since it was last used.
    pub(super) async fn checked(&self) -> Result<Connected, StoreError> {
        let connected = self.connected().await?;
        match self.ask(&connected, &self.probe, Effect::Idempotent).await {
            Ok(Ok(_)) => Ok(connected),
            Ok(Err(_)) | Err(_) => self.connected().await,
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, StoreError> {
        let object = self.in_time(self.pool.get()).await?.map_err(|error| match error {
            PoolError::Backend(error) => unreachable(error),
            error => StoreError::from(StoreErrorKind::Unavailable).with_source(error),
        })?;
        // Taken out of the pool, whose one place is free again for its successor.
        Ok(deadpool_redis::Connection::take(object))
    }

    /// Whether a writable master answers.
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        self.run(&self.probe, Effect::Idempotent).await
    }

    /// Within the time that making a connection may take.
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

    /// Gives a connection up, unless that has been done.
    pub(super) fn give_up(&self, generation: u64) {
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
