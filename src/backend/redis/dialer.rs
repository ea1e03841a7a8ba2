//! Makes authenticated connections to an address.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::{fmt, io};

use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::{AsyncConnectionConfig, ProtocolVersion, RedisConnectionInfo, RedisResult, cmd};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::commands::run;
use super::config::{CredentialsSource, RedisAddress, RedisCredentials};
use super::connector::BoxStream;
use super::credentials::{self, not_authenticated};
use super::error::{not_connected, unreachable};
use super::gather::Gathered;
use super::transport::Transport;
use crate::error::{StoreError, StoreErrorKind};

/// Maximum number of commands that wait to be written. The client's default of 50 makes bursts
/// wait.
const QUEUE: usize = 1024;

/// What a connection needs beside an address.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) transport: Transport,
    pub(super) credentials: CredentialsSource,
    pub(super) database: u16,
}

/// The protocol and the receiver of messages of a connection.
pub(super) struct Mode {
    protocol: ProtocolVersion,
    config: AsyncConnectionConfig,
}

/// A connection that runs many commands at once.
#[derive(Clone)]
pub(super) struct Wire {
    pub(super) commands: MultiplexedConnection,
    pub(super) received: ReadCounter,
    /// Reads and writes, and owns the task that authenticates again before the credentials expire.
    /// Ends with the last user of the connection, so that one to a server that no longer answers is
    /// closed.
    task: Arc<AbortOnDropHandle<()>>,
}

impl Mode {
    /// A connection for commands alone.
    pub(super) fn commands() -> Self {
        Mode { protocol: ProtocolVersion::RESP2, config: AsyncConnectionConfig::new() }
    }

    /// A connection for commands that also passes each message from a channel to `messages`. It
    /// speaks RESP3.
    pub(super) fn with_messages(messages: impl AsyncPushSender) -> Self {
        let config = AsyncConnectionConfig::new().set_push_sender(messages);
        Mode { protocol: ProtocolVersion::RESP3, config }
    }
}

impl Dialer {
    /// Makes a connection. The stream is opened before the deadline; the caller limits the rest.
    pub(super) async fn dial(
        &self,
        address: &RedisAddress,
        mode: Mode,
        deadline: Instant,
    ) -> Result<Wire, StoreError> {
        let credentials = self.credentials.get().await.map_err(not_authenticated)?;
        let settings = settings(mode.protocol, &credentials);
        let received = ReadCounter::default();
        let stream =
            self.transport.open(address, deadline).await.map_err(|source| {
                not_connected(NoConnection { address: address.clone(), source })
            })?;
        let stream = Counted { stream, received: received.clone() };
        let stream = Gathered::new(stream);
        // The callers have their own timeouts, which cover all that a command does.
        let config = mode
            .config
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        let (mut commands, driver) =
            MultiplexedConnection::new_with_config(&settings, stream, config)
                .await
                .map_err(unreachable)?;
        let renewal = credentials.validity().map(|validity| {
            let source = self.credentials.clone();
            let renewal = credentials::renew(source, validity, commands.clone());
            AbortOnDropHandle::new(tokio::spawn(renewal))
        });
        let task = tokio::spawn(async move {
            driver.await;
            // The provider must not be asked for the credentials of a closed connection.
            drop(renewal);
        });
        let task = Arc::new(AbortOnDropHandle::new(task));
        self.log_in(&mut commands, mode.protocol, &credentials).await.map_err(unreachable)?;
        Ok(Wire { commands, received, task })
    }

    /// Authenticates, unless `HELLO` has done so, and selects the database.
    ///
    /// The client could do both, but its errors hide those of the server: one that takes no more
    /// clients for a moment would seem to refuse the password.
    async fn log_in(
        &self,
        commands: &mut MultiplexedConnection,
        protocol: ProtocolVersion,
        credentials: &RedisCredentials,
    ) -> RedisResult<()> {
        if protocol == ProtocolVersion::RESP2 && !credentials.is_empty() {
            run(commands, &credentials::auth(credentials)).await?;
        }
        if self.database != 0 {
            run(commands, cmd("SELECT").arg(self.database)).await?;
        }
        Ok(())
    }
}

/// Returns what the client does at the beginning of a connection. It must authenticate with
/// `HELLO`, which is refused otherwise.
fn settings(protocol: ProtocolVersion, credentials: &RedisCredentials) -> RedisConnectionInfo {
    let mut settings =
        RedisConnectionInfo::default().set_protocol(protocol).set_skip_set_lib_name();
    if protocol == ProtocolVersion::RESP2 {
        return settings;
    }
    if let Some(user) = credentials.user() {
        // Without a password, the client would not name the user either, and would be `default`.
        settings = settings.set_username(user).set_password("");
    }
    if let Some(password) = credentials.password() {
        settings = settings.set_password(password);
    }
    settings
}

/// An attempt to connect that has failed, with the server's address, which the cause lacks.
#[derive(Debug)]
struct NoConnection {
    address: RedisAddress,
    source: io::Error,
}

impl fmt::Display for NoConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no connection to {}", self.address)
    }
}

impl Error for NoConnection {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// Limits what is done over a connection in time.
pub(super) async fn before<R>(
    deadline: Instant,
    work: impl Future<Output = Result<R, StoreError>>,
) -> Result<R, StoreError> {
    timeout_at(deadline, work).await.unwrap_or_else(|elapsed| {
        Err(StoreError::from(StoreErrorKind::Unavailable).with_source(elapsed))
    })
}

impl Wire {
    /// Returns `true` if the connection has ended, for example because the server closed it while
    /// it was idle.
    pub(super) fn is_closed(&self) -> bool {
        self.task.is_finished()
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

/// A stream that counts what it receives.
struct Counted {
    stream: BoxStream,
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

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::sleep;

    use super::super::config::RedisConfig;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn credentials_of_a_closed_connection_are_not_renewed() {
        let (near, mut far) = duplex(1024);
        let near = Mutex::new(Some(near));
        let asked = Arc::new(AtomicUsize::new(0));
        let provider = {
            let asked = asked.clone();
            move || {
                asked.fetch_add(1, Ordering::SeqCst);
                let token = RedisCredentials::new("app", "a token");
                ready(Ok::<_, StoreError>(token.valid_for(Duration::from_secs(40))))
            }
        };
        let redis = RedisConfig::new("localhost", 6379)
            .connector(move |_| ready(Ok(near.lock().unwrap().take().unwrap())))
            .credentials_provider(provider);
        let address = RedisAddress::tcp("localhost", 6379);
        tokio::spawn(async move {
            for _ in 0..2 {
                assert!(far.read(&mut [0; 1024]).await.unwrap() > 0);
                far.write_all(b"+OK\r\n").await.unwrap();
            }
            sleep(Duration::from_secs(10)).await;
        });
        let deadline = Instant::now() + Duration::from_secs(1);
        let dialer = redis.dialer().unwrap();
        let wire = dialer.dial(&address, Mode::commands(), deadline).await.unwrap();
        sleep(Duration::from_secs(35)).await;
        assert_eq!(asked.load(Ordering::SeqCst), 2, "they are renewed while it is open");
        assert!(!wire.is_closed());
        sleep(Duration::from_secs(1000)).await;
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        assert!(wire.is_closed());
    }

    #[tokio::test]
    async fn only_bytes_that_arrive_are_counted() {
        let (near, mut far) = duplex(64);
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
